"""Start the inferencers: each with the interpreter that has its packages, or a reason why it is left out."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.inferencers.contestant import Contestant
from benchmarks.inferencers.table import CALLERS
from benchmarks.peers.environment import ROOT, ready_python
from benchmarks.peers.results import Result, network_path, result_path

PLUMBLINE, PLUMBLINE_HTTP = "Plumbline, in process", "Plumbline, HTTP"
ANOMALIB_TORCH, ANOMALIB_OPENVINO = "anomalib TorchInferencer", "anomalib OpenVINOInferencer"
ROBOFLOW = "Roboflow inference"
NAMES = (PLUMBLINE, PLUMBLINE_HTTP, ANOMALIB_TORCH, ANOMALIB_OPENVINO, ROBOFLOW)

_MODULES = "benchmarks.inferencers"


@dataclass(frozen=True)
class Setup:
    """Where the models and packages of the inferencers are.

    Attributes:
        data: Folder that contains folders in the MVTec layout.
        models: Model repository of Plumbline, with `{category}` for the category, which names the product as well.
        peers: Folder of `benchmarks.peers` with a PatchCore of each category.
        exported: Folder for anomalib's exported files.
        environment: Environment of `benchmarks.peers`.
        roboflow: Interpreter of an environment with `inference-cpu`; None leaves it out.
        threads: Threads of each inferencer.
    """

    data: Path
    models: str
    peers: Path
    exported: Path
    environment: Path
    roboflow: Path | None
    threads: int

    @property
    def variables(self) -> Mapping[str, str]:
        """The environment of the inferencers' processes."""
        return {**os.environ, "OMP_NUM_THREADS": str(self.threads)}


class Missing(Exception):
    """An inferencer cannot take part; the message says why and what to do."""


def export_anomalib(setup: Setup, category: str) -> tuple[Path, Path, Result]:
    """Export a category's PatchCore if that is not done yet.

    Returns:
        The interpreter of anomalib's environment, the folder of the exported files, and the result of the training.

    Raises:
        Missing: There is no trained PatchCore, or anomalib cannot be installed.
        subprocess.CalledProcessError: The export failed; its output has the reason.
    """
    trained = network_path(setup.peers, category, "patchcore")
    if not trained.is_file():
        raise Missing(f"{trained} does not exist: run python -m benchmarks.peers --peer patchcore first")
    try:
        python = ready_python(setup.environment)
    except subprocess.CalledProcessError as error:
        raise Missing(f"anomalib cannot be installed into {setup.environment}: {error}") from error
    folder = setup.exported / category
    done = folder / "complete"
    if not done.is_file():
        command: list[str | Path] = [python, "-W", "ignore", "-m", f"{_MODULES}.anomalib_side", "export"]
        command += ["--peers", setup.peers, "--data", setup.data, "--category", category, "--out", folder]
        subprocess.run(command, check=True, cwd=ROOT, env=dict(setup.variables))
        done.touch()
    return python, folder, Result.read(result_path(setup.peers, category, "patchcore"))


@contextmanager
def started(setup: Setup, name: str, category: str) -> Iterator[Contestant]:
    """Run an inferencer until the end of the block; it may still be loading its model at the start.

    Raises:
        Missing: It cannot take part.
    """
    with ExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory()))
        command, callers = _command(setup, name, category, folder)
        # anomalib writes its cache to the working directory, and the modules must be found from there.
        variables = {**setup.variables, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "client")])}
        yield running.enter_context(Contestant(name, command, folder, variables, callers))


def _command(setup: Setup, name: str, category: str, folder: Path) -> tuple[list[str | Path], tuple[int, ...]]:
    """Return the command of an inferencer, and how many callers it supports at the same time."""
    if name in {PLUMBLINE, PLUMBLINE_HTTP}:
        models = Path(setup.models.format(category=category)).absolute()
        if not (models / category).is_dir():
            raise Missing(f"{models} has no product {category}: run plumbline-train compare first")
        command: list[str | Path] = [sys.executable, "-m", f"{_MODULES}.plumbline_side"]
        command += ["--models", models, "--product", category]
        return [*command, *(["--over-http"] if name == PLUMBLINE_HTTP else [])], CALLERS
    if name == ROBOFLOW:
        if setup.roboflow is None:
            raise Missing("pass the interpreter of an environment with inference-cpu as --roboflow-python")
        if subprocess.run([setup.roboflow, "-c", "import inference_models"], capture_output=True).returncode:
            raise Missing(f"{setup.roboflow} cannot import inference_models: install inference-cpu there")
        command = [setup.roboflow, "-W", "ignore", "-m", f"{_MODULES}.roboflow_side", "--package", folder]
        size, entries = _bank(setup, category)
        command += ["--input-size", str(size), "--entries", str(entries), "--threads", str(setup.threads)]
        return command, CALLERS
    python, exported, result = export_anomalib(setup, category)
    runtime = "torch" if name == ANOMALIB_TORCH else "openvino"
    command = [python, "-W", "ignore", "-m", f"{_MODULES}.anomalib_side", "run", runtime, "--exported", exported]
    command += ["--input-size", str(result.settings["input_size"]), "--threads", str(setup.threads)]
    # OpenVINOInferencer has one request, which refuses a second caller.
    return command, CALLERS if name == ANOMALIB_TORCH else (1,)


def _bank(setup: Setup, category: str) -> tuple[int, int]:
    """Return the input size and the number of patches of anomalib's PatchCore, for a memory bank of the same size."""
    path = result_path(setup.peers, category, "patchcore")
    if not path.is_file():
        raise Missing(f"{path} does not exist: run python -m benchmarks.peers --peer patchcore first")
    result = Result.read(path)
    return result.settings["input_size"], result.details["entries"]
