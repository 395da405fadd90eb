"""anomalib in an environment of its own: it brings forty packages that Plumbline must never need.

Everything that both need is taken from the environment that runs this, foremost torch with its gigabytes. So torch
and torchvision are the very same releases, and the teacher computes the very same features.
"""

import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ANOMALIB = "anomalib==2.7.0"
_STAMP = "peers-stamp"


def ready_python(folder: Path) -> Path:
    """The interpreter of the peers' environment, which is made and filled where it is missing.

    Raises:
        subprocess.CalledProcessError: pip failed; what it said stands above.
    """
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    stamp = folder / _STAMP
    shared = [entry for entry in sys.path if "site-packages" in Path(entry).parts]
    wanted = "\n".join([ANOMALIB, sys.version, *shared])
    if stamp.is_file() and stamp.read_text() == wanted:
        return python
    venv.create(folder, with_pip=True, clear=True)
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    # pip counts what lies there as installed, and never writes there.
    (Path(site) / "plumbline.pth").write_text("\n".join(shared) + "\n")
    # The constraints keep it from bringing other releases of what is shared.
    pip: list[str | Path] = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run([*pip, "--constraint", ROOT / "constraints.txt", ANOMALIB], check=True)
    stamp.write_text(wanted)
    return python
