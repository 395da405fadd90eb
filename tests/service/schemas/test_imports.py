"""Importing the schemas must be cheap: the client uses a copy of them on computers that have nothing else installed."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
HEAVY = {"sqlalchemy", "onnx", "cv2", "onnxruntime", "numpy", "fastapi", "starlette", "PIL"}
MODULES = [
    "service.schemas",
    *(f"service.schemas.{path.stem}" for path in (ROOT / "service/schemas").glob("[a-z]*.py")),
]


def test_importing_every_schema_loads_no_heavy_package() -> None:
    program = f"import sys, {', '.join(MODULES)}; print(*sys.modules, sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    loaded = set(done.stdout.split())

    assert set(MODULES) <= loaded
    assert not loaded & HEAVY
