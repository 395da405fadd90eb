"""`make demo` with a real service process and real images, and its error messages."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain, cycle, islice
from pathlib import Path

import httpx
import psutil
import pytest

from plumbline_client.schemas.sections import DecisionName
from service.cli.demo import RARE, repeated
from service.serving.fail_rate import FailRate

SAMPLES = Path(__file__).parents[3] / "docs" / "samples"


def run_demo(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "service.cli.demo", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={"COLUMNS": "160", "PATH": "", "PLUMBLINE_LOG_FORMAT": "console"},
    )


@pytest.mark.slow
def test_the_demo_shows_a_decision_for_every_sample_and_leaves_no_process(tiny_models: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run_demo(
            "--models", tiny_models, "--product", "widget", "--samples", SAMPLES, "--out", tmp_path, "--port", port
        )

    assert done.returncode == 0, done.stdout + done.stderr
    names = {sample.stem for sample in SAMPLES.glob("*.jpg")}
    assert len(names) == 8
    assert {name for name in names if name in done.stdout} == names
    assert len(re.findall(r"\b(?:pass|review|fail)\b +│", done.stdout)) == len(names)
    bound = "good parts that fail: ≤ 1 % on average, ≤ 3 % with 95 % confidence (n = 99)"
    assert bound in " ".join(done.stdout.split())
    heatmaps = list((tmp_path / "heatmaps").glob("*.png"))
    assert {path.stem for path in heatmaps} == names
    assert all(path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" for path in heatmaps)
    (url,) = re.findall(r"running on (http://127\.0\.0\.1:\d+)", (tmp_path / "service.log").read_text())
    assert not url.endswith(f":{port}")
    with pytest.raises(httpx.TransportError):
        httpx.get(url, timeout=5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("models", "arguments", "message"),
    [
        ("tiny", ["--product", "nut"], "product 'nut' is not served: widget"),
        ("tiny", ["--product", "widget", "--samples", "/nonexistent"], "no JPEG or PNG image"),
        ("empty", ["--product", "widget"], "holds no bundle"),
    ],
)
def test_the_demo_reports_errors_without_a_traceback(
    models: str, arguments: list[str], message: str, tiny_models: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    repository = tiny_models if models == "tiny" else tmp_path / "empty"
    done = run_demo("--models", repository, "--samples", SAMPLES, "--out", tmp_path / "out", "--port", "0", *arguments)

    assert done.returncode == 1, done.stdout + done.stderr
    assert message in " ".join(done.stdout.split())
    assert "Traceback" not in done.stdout + done.stderr


DECIDED: list[tuple[Path, DecisionName]] = [
    (Path(name), "pass" if name.startswith("good") else "fail")
    for name in ("burr", "dent", "good-1", "good-2", "good-3", "missing-hole", "scratch", "stain")
]


def jumps(decisions: Iterable[str], parts: int) -> list[int]:
    """Return after which parts the fail rate shows a jump."""
    rate, found = FailRate(), []
    for number, decision in enumerate(islice(decisions, parts)):
        rate.add(decision)
        if rate.jump(0.01) is not None:
            found.append(number)
    return found


def test_repeated_samples_raise_no_alarm_about_the_fail_rate() -> None:
    first = [decision for _, decision in DECIDED]
    decisions = dict(DECIDED)
    again = (decisions[sample] for sample in repeated(DECIDED))
    assert jumps(chain(first, again), 3000) == []
    assert jumps(cycle(first), 60), "all samples in turn raise it"


def test_repeated_samples_are_those_that_passed_and_now_and_then_one_of_the_others() -> None:
    again = [sample.name for sample in islice(repeated(DECIDED), 10 * RARE)]
    rare = [name for name in again if not name.startswith("good")]
    assert rare == 2 * ["burr", "dent", "missing-hole", "scratch", "stain"]
    assert again[RARE - 1] == "burr"
    assert {name for name in again if name.startswith("good")} == {"good-1", "good-2", "good-3"}


@pytest.mark.parametrize("decision", ["pass", "fail"])
def test_samples_with_one_decision_are_repeated_in_turn(decision: DecisionName) -> None:
    again = islice(repeated([(Path("a"), decision), (Path("b"), decision)]), 2 * RARE)
    assert [sample.name for sample in again] == RARE * ["a", "b"]


@contextmanager
def kept_demo(command: list[str], folder: Path) -> Iterator[tuple[psutil.Process, list[psutil.Process]]]:
    """Start a demo that keeps its service running; yield its process and the processes below it."""
    environment = os.environ | {"COLUMNS": "160", "PYTHONUNBUFFERED": "1"}
    with (folder / "demo.txt").open("wb") as output:
        # A program that was started in the background ignores SIGINT, and so would what it starts.
        process = subprocess.Popen(
            command,
            stdout=output,
            env=environment,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    started = psutil.Process(process.pid)
    below: list[psutil.Process] = []
    try:
        deadline = time.monotonic() + 90
        while "Press Ctrl-C" not in (folder / "demo.txt").read_text(encoding="utf-8"):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        below = started.children(recursive=True)
        assert any("plumbline" in " ".join(child.cmdline()) for child in below)
        yield started, below
    finally:
        for each in [started, *below]:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        process.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals the end of a parent")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "through_shell"),
    [
        (signal.SIGKILL, False),
        (signal.SIGTERM, False),
        (signal.SIGHUP, False),
        (signal.SIGINT, False),
        (signal.SIGKILL, True),
        (signal.SIGTERM, True),
    ],
)
def test_service_ends_with_the_demo(
    how: signal.Signals, through_shell: bool, tiny_models: Path, tmp_path: Path
) -> None:
    arguments = [
        *("-m", "service.cli.demo", "--keep", "--product", "widget", "--samples", str(SAMPLES), "--port", "0"),
        *("--models", str(tiny_models), "--out", str(tmp_path / "out")),
    ]
    command = [sys.executable, *arguments]
    if through_shell:  # as make is the parent of the demo
        command = ["/bin/sh", "-c", f"{' '.join(command)}; true"]
    with kept_demo(command, tmp_path) as (started, below):
        started.send_signal(how)
        gone, alive = psutil.wait_procs(below, timeout=60)

    assert alive == []
    assert gone
