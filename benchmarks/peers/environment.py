"""Create a separate environment for anomalib, which has forty dependencies that Plumbline does not need.

The new environment shares the packages of the current one, above all torch because of its size. Both therefore use the
same releases of torch and torchvision, and the teacher computes the same features.
"""

import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ANOMALIB = "anomalib==2.7.0"
_STAMP = "peers-stamp"


def ready_python(folder: Path) -> Path:
    """Return the interpreter of the peers' environment; create the environment if it is missing or outdated.

    Raises:
        subprocess.CalledProcessError: pip failed; its output has the reason.
    """
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    stamp = folder / _STAMP
    shared = [entry for entry in sys.path if "site-packages" in Path(entry).parts]
    expected = "\n".join([ANOMALIB, sys.version, *shared])
    if stamp.is_file() and stamp.read_text() == expected:
        return python
    venv.create(folder, with_pip=True, clear=True)
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    # pip treats packages on this path as installed and does not modify them.
    (Path(site) / "plumbline.pth").write_text("\n".join(shared) + "\n")
    # The constraints prevent pip from installing other releases of shared packages.
    pip: list[str | Path] = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run([*pip, "--constraint", ROOT / "constraints.txt", ANOMALIB], check=True)
    stamp.write_text(expected)
    return python
