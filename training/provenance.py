"""What a bundle was made with: libraries, source revision, runtime."""

import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import onnxruntime as ort

from service.bundle.manifest import CalibratedOn
from service.inspection.runtime.openvino import openvino_version

# Libraries that affect the numbers in a bundle.
_LIBRARIES = (
    *("plumbline", "torch", "torchvision", "onnx", "onnxscript", "onnxruntime-gpu", "onnxruntime"),
    *("numpy", "opencv-python-headless", "pillow", "simplejpeg"),
)


def installed_libraries() -> dict[str, str]:
    """Return the versions of the libraries that affect the numbers in a bundle."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def calibrated_on(provider: str) -> CalibratedOn:
    """Return what runs graphs in this environment, for the manifest.

    Args:
        provider: The execution provider that ran the graph.
    """
    runtime = f"openvino {openvino_version()}" if provider == "openvino" else f"onnxruntime {ort.__version__}"
    return CalibratedOn(runtime=runtime, provider=provider)


def git_revision() -> str | None:
    """Return the revision of this source tree, with "-dirty" where files were changed; None outside a repository."""
    here = Path(__file__).resolve().parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        tracked = subprocess.run(
            ["git", "-C", str(here), "ls-files", "--error-unmatch", __file__],
            capture_output=True,
            check=False,
        )
        # An installed package may lie inside another repository, whose revision does not describe it.
        if tracked.returncode != 0:
            return None
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() or None
    except (OSError, subprocess.CalledProcessError):
        return None
