"""A fleet of real, small trainings: what is done is kept, what failed does not stop the others, changes are noticed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.training.small_product import write_plates
from tests.training.small_trained_method import SmallTrainedMethod
from training.claims import claimed
from training.errors import InvalidProductList
from training.fit import CHECKPOINT_NAME, Progress
from training.fleet import run as fleet_run
from training.fleet.entry import Entry
from training.fleet.job import LOCK, Job, run_job
from training.fleet.page import write_page
from training.fleet.plan import FleetOptions, plan_jobs
from training.fleet.results import Result, report_file
from training.fleet.run import PAGE, run_fleet
from training.interruption import Interruption
from training.methods import METHODS

SMALL = {"method": SmallTrainedMethod.name, "iterations": 3, "input_size": 64}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, SmallTrainedMethod.name, SmallTrainedMethod)


class Inline:
    """An engine in this process, which records stages and training steps."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.stop_after = stop_after
        self.stages: list[str] = []
        self.steps: list[int] = []

    def run(self, jobs: Sequence[Job], *_: Any) -> Iterator[tuple[Job, Any]]:
        for job in jobs:
            yield job, run_job(job, self, self.should_stop)

    def note(self, text: str) -> None:
        pass

    def stage(self, title: str, total: int) -> Callable[[int, str], None]:
        assert total > 0
        self.stages.append(title)

        def advance(done: int, _note: str) -> None:
            if title == "train":
                self.steps.append(done)

        return advance

    def should_stop(self, progress: Progress) -> bool:
        return progress.step == self.stop_after


def options(folder: Path, **changed: Any) -> FleetOptions:
    given = FleetOptions(out=folder / "out", models=folder / "models", threads=1, settings=SMALL, allow_weak=True)
    return replace(given, **changed)


def listed(folder: Path, lines: str) -> Path:
    path = folder / "products.csv"
    path.write_text(f"product,data,settings\n{lines}\n")
    return path


def train(engine: Inline, path: Path, folder: Path, **changed: Any) -> dict[str, Entry]:
    found = options(folder, **changed)
    entries = run_fleet(plan_jobs(path, found), engine, found.out, stop=Interruption())
    return {entry.job.product: entry for entry in entries}


@pytest.mark.slow
def test_a_fleet_continues_keeps_what_is_done_and_trains_again_what_has_changed(tmp_path: Path) -> None:
    write_plates(tmp_path / "plate", masks=False)
    (tmp_path / "few").mkdir()
    (tmp_path / "few" / "1.png").write_bytes((tmp_path / "plate/train/good/000.png").read_bytes())
    path = listed(tmp_path, "few,few,\nplate,plate,")

    stopped = Inline(stop_after=2)
    entries = train(stopped, path, tmp_path)
    assert (entries["few"].state, entries["plate"].state) == ("failed", "waiting")
    assert stopped.steps == [1, 2]

    resumed = Inline()
    entries = train(resumed, path, tmp_path)
    assert resumed.steps == [3]
    result = entries["plate"].result
    assert entries["plate"].state == "trained"
    assert result is not None
    assert {"image_auroc", "sanity_images"} <= result.figures.keys()
    assert (tmp_path / "models" / "plate" / str(result.version) / "manifest.json").is_file()
    assert not (tmp_path / "out" / "plate" / "run" / CHECKPOINT_NAME).exists()
    page = (tmp_path / "out" / PAGE).read_text()
    assert f'href="plate/report-{result.version}.html"' in page
    assert "at least 20 are needed" in page, "the reason why `few` failed"

    kept = Inline()
    entries = train(kept, path, tmp_path)
    assert entries["plate"] == Entry(entries["plate"].job, "unchanged", result)
    assert entries["few"].state == "failed", "it is tried again"
    assert "train" not in kept.stages

    report_file(tmp_path / "out" / "plate", str(result.version)).unlink()
    reported = Inline()
    assert train(reported, path, tmp_path)["plate"].state == "trained"
    assert "train" not in reported.stages, "only the report is written again"
    assert "evaluate" in reported.stages
    assert [folder.name for folder in (tmp_path / "models" / "plate").iterdir()] == [result.version]

    def waiting(**changed: Any) -> list[str]:
        jobs = plan_jobs(path, options(tmp_path, **changed))
        return [job.product for job in jobs if fleet_run._entry_before(job).state == "waiting"]

    assert waiting() == ["few"]
    assert waiting(held_out_fraction=0.3) == waiting(settings=SMALL | {"iterations": 4}) == ["few", "plate"]
    os.utime(tmp_path / "plate/train/good/000.png", (0, 0))
    assert waiting() == ["few", "plate"], "an image has changed"


def test_products_of_another_process_are_awaited_and_not_trained_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_plates(tmp_path / "plate", masks=False)
    (job,) = plan_jobs(listed(tmp_path, "plate,plate,"), options(tmp_path))
    job.folder.mkdir(parents=True)
    with claimed(job.folder / LOCK, wait=False) as ours:
        assert ours
        assert run_job(job, Inline()) == "busy"

    outcomes: list[Any] = ["busy", "busy", Result(ended_at=time.time(), error="its images are bad")]

    class Busy(Inline):
        def run(self, jobs: Sequence[Job], *_: Any) -> Iterator[tuple[Job, Any]]:
            for each in jobs:
                yield each, outcomes.pop(0)

    monkeypatch.setattr(fleet_run, "BUSY_S", 0.0)
    (entry,) = run_fleet([job], Busy(), tmp_path / "out", stop=Interruption())
    assert entry.state == "failed"
    assert outcomes == []


def test_a_failure_since_the_start_is_not_tried_again_and_an_unexpected_one_is_explained_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_plates(tmp_path / "plate", masks=False)
    (job,) = plan_jobs(listed(tmp_path, "plate,plate,"), options(tmp_path))

    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("training.fleet.job.continue_or_restart", fail)
    first = run_job(job, Inline())
    assert isinstance(first, Result)
    assert "ZeroDivisionError" in str(first.error)
    assert "Traceback" in (job.folder / "error.txt").read_text()
    assert run_job(job, Inline()) == first
    again = run_job(replace(job, started_at=time.time() + 1), Inline())
    assert isinstance(again, Result)
    assert again.ended_at > first.ended_at


def test_every_line_with_invalid_settings_is_named(tmp_path: Path) -> None:
    write_plates(tmp_path / "plate", masks=False)
    (tmp_path / "wrong.toml").write_text('method = "smal"\n')
    (tmp_path / "right.toml").write_text('method = "small"\ninput_size = 96\n')
    lines = "a,plate,wrong.toml\nb,nowhere,\nc,plate,wrong.toml\nd,plate,right.toml"
    with pytest.raises(InvalidProductList) as caught:
        plan_jobs(listed(tmp_path, lines), options(tmp_path))
    assert [reason.partition(":")[0] for reason in caught.value.reasons] == ["line 2", "line 3", "line 4"]
    assert "There is no method 'smal'" in caught.value.reasons[0]
    assert not (tmp_path / "out").exists()

    jobs = plan_jobs(listed(tmp_path, "d,plate,right.toml\ne,plate,"), options(tmp_path, common={"seed": 7}))
    assert [(job.request.config.input_size, job.request.config.seed) for job in jobs] == [(96, 7), (64, 7)]


def test_the_page_escapes_what_it_shows(tmp_path: Path) -> None:
    write_plates(tmp_path / "plate", masks=False)
    first, second = plan_jobs(listed(tmp_path, "a,plate,\nb,plate,"), options(tmp_path))
    failed = Entry(first, "failed", Result(ended_at=0.0, error="<script>\x1b", seconds=3.0))
    write_page(tmp_path / PAGE, [failed, Entry(second, "waiting")])
    page = (tmp_path / PAGE).read_text()
    assert "&lt;script&gt;\\x1b" in page
    assert "1 failed · 1 not trained yet" in page
