"""Jobs in local processes: failures stay with their job, limits are kept, and a signal ends all of them."""

import signal
from pathlib import Path
from typing import Any

import pytest

from tests.training.fleet.fake_jobs import FakeJob, run_fake
from training.fleet.machine import default_bound, default_processes, machine_memory, resident_memory
from training.fleet.processes import LocalProcesses
from training.fleet.results import Result
from training.interruption import Interruption

GIB = 2**30
BOUND = 300 * 2**20


def jobs(folder: Path, *products: str) -> list[Any]:
    return [FakeJob(product, folder) for product in products]


@pytest.mark.slow
def test_a_job_that_ends_its_process_or_needs_too_much_memory_fails_and_the_others_are_done(tmp_path: Path) -> None:
    engine = LocalProcesses(2, BOUND, run_fake)
    listed = jobs(tmp_path, "fine-0", "killed", "greedy", "exits", "fine-1", "fine-2")
    ended = {job.product: outcome for job, outcome in engine.run(listed, lambda *_: None, Interruption())}

    assert {name: outcome for name, outcome in ended.items() if name.startswith("fine")} == {
        f"fine-{number}": f"fine-{number} done" for number in range(3)
    }
    errors = {name: outcome.error for name, outcome in ended.items() if isinstance(outcome, Result)}
    assert "SIGKILL" in str(errors["killed"])
    assert "the code 3" in str(errors["exits"])
    assert "more than the limit of 300 MiB" in str(errors["greedy"])
    assert "--memory" in str(errors["greedy"])
    assert errors.keys() == {"killed", "exits", "greedy"}


@pytest.mark.slow
def test_a_signal_ends_the_jobs_in_progress_with_their_checkpoints_and_starts_no_other(tmp_path: Path) -> None:
    stop = Interruption()
    begun: dict[str, str] = {}

    def watch(product: str, text: str) -> None:
        begun[product] = text
        if len(begun) == 2:  # both are in progress
            stop.on_signal(signal.SIGTERM, None) if stop.signal is None else None

    engine = LocalProcesses(2, BOUND, run_fake)
    ended = list(engine.run(jobs(tmp_path, "endless-0", "endless-1", "endless-2"), watch, stop))

    assert sorted((job.product, outcome) for job, outcome in ended) == [
        ("endless-0", "interrupted"),
        ("endless-1", "interrupted"),
    ]
    assert begun == {"endless-0": "", "endless-1": ""}


def test_processes_and_memory_follow_from_the_machine(tmp_path: Path) -> None:
    limit = tmp_path / "memory.max"
    limit.write_text("1073741824\n")
    assert machine_memory((limit, tmp_path / "missing")) == GIB
    limit.write_text("max\n")
    assert machine_memory((limit,)) > GIB

    assert default_processes(cores=8, threads=1, memory=64 * GIB) == 8, "the cores are the limit"
    assert default_processes(cores=8, threads=4, memory=64 * GIB) == 2
    assert default_processes(cores=8, threads=1, memory=8 * GIB) == 2, "the memory is"
    assert default_processes(cores=8, threads=1, memory=8 * GIB, bound=GIB) == 6
    assert default_processes(cores=1, threads=2, memory=GIB) == 1, "there is always one"
    assert default_bound(2, 10 * GIB) == 4 * GIB
    assert resident_memory(2**22 + 1) is None, "above the largest process id"
