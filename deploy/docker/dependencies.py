"""Print the dependencies in pyproject.toml, or those of the given extras, one per line.

The Dockerfile installs them in a separate layer before it copies the code, so that a change of the code does not
install ONNX Runtime again. The client is installed from client/ together with the service, so its dependencies replace
it here.
"""

import sys
import tomllib
from pathlib import Path
from typing import Any

CLIENT = "plumbline-client"


def project(file: str) -> dict[str, Any]:
    """Return the table `project` of a pyproject.toml file."""
    table: dict[str, Any] = tomllib.loads(Path(file).read_text(encoding="utf-8"))["project"]
    return table


service = project("pyproject.toml")
requirements = [line for extra in sys.argv[1:] for line in service["optional-dependencies"][extra]]
if not requirements:
    requirements = [line for line in service["dependencies"] if not line.startswith(CLIENT)]
    requirements += project("client/pyproject.toml")["dependencies"]
sys.stdout.write("\n".join(dict.fromkeys(requirements)) + "\n")
