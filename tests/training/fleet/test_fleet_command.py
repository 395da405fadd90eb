"""`plumbline-train fleet`: bad lines are printed together, processes do the work, the exit code says how it ended."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.training.test_cli import draw
from training.cli.main import app
from training.fleet.entry import Entry
from training.fleet.job import Job
from training.interruption import Interruption

runner = CliRunner()


def test_all_bad_lines_are_printed_before_any_training(tmp_path: Path) -> None:
    draw(tmp_path / "bolt", 2)
    path = tmp_path / "products.csv"
    path.write_text("product,data\nBolt,bolt\nnut,nowhere\n")
    result = runner.invoke(app, ["fleet", "--products", str(path), "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    lines = [line.strip() for line in result.stderr.splitlines()]
    assert lines[0].startswith("error:")
    assert [line.partition(":")[0] for line in lines[1:3]] == ["line 2", "line 3"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ray", "auto", "--processes", "2"], "--processes is 2, expected not together with --ray"),
        (["--ray-gpus", "1"], "--ray-gpus is 1"),
        (["--processes", "100000"], "--processes is 100000, expected fewer"),
    ],
)
def test_options_that_contradict_are_refused(tmp_path: Path, options: list[str], message: str) -> None:
    draw(tmp_path / "bolt", 2)
    path = tmp_path / "products.csv"
    path.write_text("product,data\nbolt,bolt\n")
    result = runner.invoke(app, ["fleet", "--products", str(path), "--out", str(tmp_path / "out"), *options])
    assert result.exit_code == 2, result.output
    assert message in result.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_command_with_its_code_and_the_way_to_continue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    draw(tmp_path / "bolt", 2)
    path = tmp_path / "products.csv"
    path.write_text("product,data\nbolt,bolt\n")

    def interrupted(jobs: Sequence[Job], *_: Any, stop: Interruption, **__: Any) -> list[Entry]:
        os.kill(os.getpid(), number)
        assert stop.signal == number
        return [Entry(job, "waiting") for job in jobs]

    monkeypatch.setattr("training.fleet.run.run_fleet", interrupted)
    before = signal.getsignal(number)
    result = runner.invoke(app, ["fleet", "--products", str(path), "--out", str(tmp_path / "out")])
    assert result.exit_code == code
    assert "0 trained, 0 unchanged, 0 failed, 1 not trained yet." in result.stdout
    assert "To continue:" in result.stderr
    assert signal.getsignal(number) == before


@pytest.mark.slow
def test_products_that_fail_do_not_stop_others_and_are_counted(tmp_path: Path) -> None:
    for product in ("bolt", "nut"):
        draw(tmp_path / product, 2)
    path = tmp_path / "products.csv"
    path.write_text("product,data\nbolt,bolt\nnut,nut\n")
    command = [sys.executable, "-m", "tests.training.small_cli", "fleet", "--products", str(path), "--method", "small"]
    folders = ["--out", str(tmp_path / "out"), "--models", str(tmp_path / "models")]
    result = subprocess.run([*command, *folders], capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 1, result.stderr
    assert "0 trained, 0 unchanged, 2 failed, 0 not trained yet." in result.stdout
    page = (tmp_path / "out" / "fleet.html").read_text()
    assert page.count("at least 20 are needed") == 2
