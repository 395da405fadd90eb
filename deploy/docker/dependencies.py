"""Print what a container image installs, one requirement per line, from pyproject.toml and client/pyproject.toml.

`make requirements` resolves the output to requirements/*.txt with versions and hashes. The client is installed from
client/ together with the service, so its dependencies replace it here.

Usage: python deploy/docker/dependencies.py cpu|cuda|build
"""

import sys
import tomllib
from pathlib import Path
from typing import Any

CLIENT = "plumbline-client"
RUNTIME = "onnxruntime"
EXTRAS = ("postgres", "s3", "mqtt", "opcua", "otel", "parquet")
"""Extras that the images contain, because nothing can be installed in a container later."""


def document(file: str) -> dict[str, Any]:
    """Return a pyproject.toml file."""
    return tomllib.loads(Path(file).read_text(encoding="utf-8"))


def dependencies(variant: str) -> list[str]:
    """Return the requirements of an image variant, or of the build of the packages.

    Args:
        variant: `cpu` has the ONNX Runtime without CUDA; `cuda` has the one with CUDA, and CUDA's libraries; `build` is
            what builds the wheels.
    """
    service, client = document("pyproject.toml"), document("client/pyproject.toml")
    if variant == "build":
        return service["build-system"]["requires"] + client["build-system"]["requires"]
    project = service["project"]
    # The lines of pyproject.toml choose the runtime by platform; an image chooses it by its variant.
    (runtime,) = [line.split(";")[0] for line in project["dependencies"] if line.startswith(f"{RUNTIME}>")]
    if variant == "cuda":
        (runtime,) = [line.split(";")[0] for line in project["optional-dependencies"]["cuda"]]
    common = [line for line in project["dependencies"] if not line.startswith((CLIENT, RUNTIME))]
    common += [line for extra in EXTRAS for line in project["optional-dependencies"][extra]]
    return [*common, *client["project"]["dependencies"], runtime]


if __name__ == "__main__":
    sys.stdout.write("\n".join(dict.fromkeys(dependencies(sys.argv[1]))) + "\n")
