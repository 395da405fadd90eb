"""Self-tests in a process of their own: limited in time and memory, and ended when the service stops."""

from __future__ import annotations

import errno
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from benchmarks.faults.hostile_bundles import large_model, slow_model, tiny_contents, write_unchecked
from service.bundle.bundle import Bundle
from service.bundle.errors import BundleInvalid, SelfTestFailed
from service.errors import ShuttingDown
from service.inspection.runtime import isolation
from service.inspection.runtime.isolation import IsolatedSelfTest, SelfTestLimits
from service.inspection.runtime.session import SessionOptions
from tests.bundles import tiny_draft, tiny_model, write_tiny_bundle

CPU = SessionOptions(provider="cpu", threads=1)
LIMITS = SelfTestLimits(timeout_s=60, memory_bytes=2**30)


def with_model(tmp_path: Path, model: bytes) -> Bundle:
    return Bundle.load(write_unchecked(tmp_path, "widget", tiny_contents(tmp_path / ".scratch", "widget", model=model)))


EARLIER: set[int] = set()
"""Children that other tests of this process left, such as a shared service whose bundle is being loaded."""


@pytest.fixture(autouse=True)
def earlier_children() -> None:
    EARLIER.clear()
    EARLIER.update(child.pid for child in psutil.Process().children())


def running_children() -> list[psutil.Process]:
    children = [child for child in psutil.Process().children() if child.pid not in EARLIER]
    return [child for child in children if "self_test_process" in " ".join(child.cmdline())]


def wait_for(condition: Callable[[], object], timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_difference_of_the_golden_samples_is_returned(tmp_path: Path, tiny_bundle: Bundle) -> None:
    self_test = IsolatedSelfTest(LIMITS)
    assert self_test.run(tiny_bundle, CPU, max_batch=4, in_background=True) < 1e-3
    wrong = write_tiny_bundle(tmp_path, offset=0.5, gain=True)
    assert self_test.run(wrong, CPU, max_batch=1) > 0.4
    assert running_children() == []


def test_graph_that_needs_too_much_memory_is_refused(tmp_path: Path) -> None:
    bundle = with_model(tmp_path, large_model("widget", gib=64))
    before = psutil.Process().memory_info().rss
    with pytest.raises(SelfTestFailed, match=r"more than 1024 MiB of memory \(PLUMBLINE_SELF_TEST_MEMORY_BYTES\)"):
        IsolatedSelfTest(LIMITS).run(bundle, CPU, max_batch=1)
    assert psutil.Process().memory_info().rss - before < 2**30, "the graph never enters this process"


@pytest.mark.slow
def test_graph_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    bundle = with_model(tmp_path, slow_model("widget"))
    since = time.monotonic()
    with pytest.raises(SelfTestFailed, match=r"within 3 s \(PLUMBLINE_SELF_TEST_TIMEOUT_S\)"):
        IsolatedSelfTest(SelfTestLimits(timeout_s=3, memory_bytes=2**30)).run(bundle, CPU, max_batch=1)
    assert time.monotonic() - since < 20
    assert running_children() == []


def test_graph_that_the_runtime_refuses_is_named(tmp_path: Path) -> None:
    model = tiny_model(tiny_draft())
    model.graph.node[-1].input.append("half")
    bundle = with_model(tmp_path, model.SerializeToString())
    with pytest.raises(BundleInvalid, match="cannot be run in the self-test"):
        IsolatedSelfTest(LIMITS).run(bundle, CPU, max_batch=1)


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import os; os.abort()", "signal 6"),
        ("import sys; sys.exit(3)", "exit code 3"),
        ("print('not JSON')", "exit code 0"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGXCPU)", "did not finish"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "signal 9"),
    ],
)
def test_process_that_ends_without_a_result_is_a_refusal(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, program: str, reason: str
) -> None:
    monkeypatch.setattr(isolation, "_COMMAND", (sys.executable, "-c", program))
    with pytest.raises(SelfTestFailed, match=reason):
        IsolatedSelfTest(LIMITS).run(tiny_bundle, CPU, max_batch=1)


def test_close_ends_running_self_tests_and_refuses_others(tmp_path: Path, tiny_bundle: Bundle) -> None:
    bundle = with_model(tmp_path, slow_model("widget"))
    self_test, raised = IsolatedSelfTest(LIMITS), []

    def run() -> None:
        try:
            self_test.run(bundle, CPU, max_batch=1)
        except ShuttingDown as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    wait_for(running_children)
    self_test.close()
    thread.join(10)
    assert len(raised) == 1
    assert running_children() == []
    with pytest.raises(ShuttingDown):
        self_test.run(tiny_bundle, CPU, max_batch=1)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can end a child with its parent")
def test_process_ends_when_the_service_is_killed(tmp_path: Path) -> None:
    with_model(tmp_path, slow_model("widget"))
    (path,) = (tmp_path / "widget").iterdir()
    program = (
        "import sys; from pathlib import Path; from service.bundle.bundle import Bundle\n"
        "from service.inspection.runtime.isolation import *; from service.inspection.runtime.session import *\n"
        "IsolatedSelfTest(SelfTestLimits()).run(Bundle.load(Path(sys.argv[1])), SessionOptions(threads=1), 1)\n"
    )
    service = psutil.Popen([sys.executable, "-c", program, str(path)], cwd=Path(__file__).parents[4])
    wait_for(lambda: service.children())
    (child,) = service.children()
    wait_for(lambda: child.num_threads() > 1 or child.memory_info().rss > 60 * 2**20)  # its limits are set
    service.kill()
    service.wait()
    wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, timeout_s=10)


def test_process_that_cannot_be_started_is_reported(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr("service.inspection.runtime.isolation.subprocess.Popen", refuse)
    with pytest.raises(SelfTestFailed, match=r"cannot be started \(Cannot allocate memory\)"):
        IsolatedSelfTest(LIMITS).run(tiny_bundle, CPU, max_batch=1)
