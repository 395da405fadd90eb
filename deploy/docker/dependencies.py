"""Prints the dependencies of pyproject.toml, those of the named extras instead where given: one a line.

The image installs them in a layer of their own, before the code, so that a changed line of code does not
install ONNX Runtime again. The client is left out: the image installs it from client/, together with the service.
"""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
extras = sys.argv[1:]
wanted = [line for extra in extras for line in project["optional-dependencies"][extra]] or project["dependencies"]
sys.stdout.write("".join(f"{line}\n" for line in wanted if not line.startswith("plumbline-client")))
