"""Reports of a worker: progress, cancellation, loss of the job, and a service that cannot be reached."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from plumbline_client import Client, ServiceProblem
from plumbline_client.schemas.training import TrainingClaim, TrainingJob, TrainingVersion
from training.fit import Progress
from training.worker.heartbeat import Heartbeat
from training.worker.stop import JobStopped, StopRequest

JOB: dict[str, Any] = {
    "id": "019a0000-0000-7000-8000-000000000000", "product": "washer", "state": "running", "author": "Ada",
    "created_at": "2026-03-01T00:00:00Z", "started_at": None, "finished_at": None, "images": 8, "image_bytes": 8,
    "duplicates": 0, "activate": True, "quick_only": True, "create_product": True, "variants": ["quick"],
    "worker": "pc-7", "stage": None, "done": 0, "total": 0, "seconds": 0.0, "cancel_requested": False, "error": None,
    "versions": [], "are_images_stored": True, "findings": None,
}  # fmt: skip
QUICK = TrainingVersion(variant="quick", version="0123456789ab", role=None)
Handler = Callable[[httpx.Request], httpx.Response]


def problem(status: int, slug: str) -> httpx.Response:
    return httpx.Response(status, json={"type": f"x#{slug}", "detail": "told"})


def client_of(handler: Handler) -> Client:
    return Client("http://service", transport=httpx.MockTransport(handler), retries=0)


def heartbeat_of(handler: Handler, stop: StopRequest) -> Heartbeat:
    claim = TrainingClaim(
        job=TrainingJob.model_validate(JOB), claim=3, lease_s=60.0, max_image_bytes=2**25, max_image_pixels=10**8
    )
    return Heartbeat(client_of(handler), claim, stop, report_s=0.01)


def test_progress_is_reported_with_the_claim() -> None:
    reports: list[dict[str, Any]] = []
    done = threading.Event()

    def handler(request: httpx.Request) -> httpx.Response:
        reports.append(json.loads(request.content))
        if reports[-1]["done"] == 3:
            done.set()
        return httpx.Response(200, json=JOB)

    with heartbeat_of(handler, StopRequest()) as heartbeat:
        heartbeat.begin("quick")
        advance = heartbeat.stage("read images", 8)
        advance(3, "")
        assert done.wait(10)
    last = reports[-1]
    assert (last["claim"], last["stage"], last["done"], last["total"]) == (3, "quick: read images", 3, 8)
    assert last["seconds"] >= 0


def test_cancellation_stops_the_pipeline_at_the_next_item() -> None:
    stop = StopRequest()
    told = threading.Event()

    def handler(_: httpx.Request) -> httpx.Response:
        told.set()
        return httpx.Response(200, json=JOB | {"cancel_requested": True})

    heartbeat = heartbeat_of(handler, stop)
    advance = heartbeat.stage("train", 10)
    with heartbeat:
        assert told.wait(10)
        stop.wait(10)
        with pytest.raises(JobStopped):
            advance(1, "")
    assert stop.reason == "cancelled"


@pytest.mark.parametrize("slug", ["training-job-not-held", "unknown-training-job"])
def test_lost_job_stops_the_pipeline_and_is_not_reported_any_more(slug: str) -> None:
    stop = StopRequest()
    with heartbeat_of(lambda _: problem(409, slug), stop) as heartbeat:
        stop.wait(10)
        assert stop.reason == "lost"
        with pytest.raises(JobStopped):
            heartbeat.stage("train", 10)
        heartbeat._thread.join(10)
        assert not heartbeat._thread.is_alive()


def test_training_continues_while_the_service_cannot_be_reached() -> None:
    stop = StopRequest()
    attempts: list[int] = []
    again = threading.Event()

    def handler(request: httpx.Request) -> httpx.Response:
        attempts.append(1)
        if len(attempts) < 3:
            raise httpx.ConnectError("refused", request=request)
        again.set()
        return httpx.Response(200, json=JOB)

    with heartbeat_of(handler, stop) as heartbeat:
        heartbeat.stage("train", 10)(1, "")
        assert again.wait(10)
    assert stop.reason is None


def test_version_is_sent_again_until_it_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.worker.heartbeat.RETRY_S", 0.01)
    versions: list[Any] = []

    def handler(request: httpx.Request) -> httpx.Response:
        versions.append(json.loads(request.content).get("version"))
        if len(versions) < 3:
            raise httpx.ConnectError("refused", request=request)
        return httpx.Response(200, json=JOB)

    heartbeat = heartbeat_of(handler, StopRequest())  # not started, so that all requests are those of the version
    heartbeat.add_version(QUICK)
    assert versions == [QUICK.model_dump()] * 3


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(502, text="<html>Bad Gateway</html>"),
        httpx.Response(503, json={"type": "x#store-unavailable", "detail": "told", "retry_after": 5.0}),
        problem(409, "bundle-change-under-way"),
    ],
    ids=["proxy", "database", "start"],
)
def test_request_is_sent_again_while_the_service_is_not_available(
    answer: httpx.Response, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.worker.heartbeat.RETRY_S", 0.01)
    answers = [answer, answer, httpx.Response(200, json=JOB)]
    stop = StopRequest()
    heartbeat_of(lambda _: answers.pop(0), stop).add_version(QUICK)
    assert (answers, stop.reason) == ([], None)


@pytest.mark.parametrize("slug", ["provider-unavailable", "unknown-training-job"])
def test_request_is_not_sent_again_if_waiting_does_not_help(slug: str) -> None:
    sent: list[httpx.Request] = []
    stop = StopRequest()

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return problem(503 if slug == "provider-unavailable" else 404, slug)

    with pytest.raises(ServiceProblem, match=slug):
        heartbeat_of(handler, stop).add_version(QUICK)
    assert (len(sent), stop.reason) == (1, None)


def test_refused_request_is_an_error_of_the_job() -> None:
    heartbeat = heartbeat_of(lambda _: problem(422, "invalid-request"), StopRequest())
    with pytest.raises(ServiceProblem, match="told"):
        heartbeat.add_version(QUICK)


def test_signal_concerns_the_worker_and_a_cancellation_the_job() -> None:
    stop = StopRequest()
    stop.request("cancelled")
    before = stop.reason
    stop.begin_job()
    assert (before, stop.reason) == ("cancelled", None)
    stop.on_signal(signal.SIGTERM, None)
    assert reasons_of(stop) == ["interrupted", "interrupted", "lost"], "a job that is lost cannot be released"
    assert stop.signal == signal.SIGTERM


def test_signal_stops_long_steps_at_once_and_others_where_they_ask() -> None:
    stop = StopRequest()
    with pytest.raises(JobStopped), stop.at_once():
        stop.on_signal(signal.SIGTERM, None)
    later = StopRequest()
    with later.at_once():
        assert not later.should_stop(Progress(1, 2, {}, 1.0, 1.0))
        later.on_signal(signal.SIGTERM, None)
        assert later.reason == "interrupted"
    with pytest.raises(JobStopped), later.at_once():
        pytest.fail("the work must not begin after a signal")


@pytest.fixture
def handlers_restored() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers_restored")
def test_cancellation_wakes_the_main_thread_from_a_long_step() -> None:
    stop = StopRequest()
    stop.handle_signals()
    asking = threading.Timer(0.1, stop.request, args=("cancelled",))
    asking.start()
    with pytest.raises(JobStopped), stop.at_once():
        time.sleep(300)
    assert (stop.reason, stop.signal) == ("cancelled", None)


@pytest.mark.usefixtures("handlers_restored")
def test_cancellation_just_before_a_long_step_is_not_lost() -> None:
    class CancelledThere(StopRequest):
        def check(self) -> None:
            super().check()
            self.request("cancelled")  # nothing was requested when it was checked

    stop = CancelledThere()
    stop.handle_signals()
    with pytest.raises(JobStopped), stop.at_once():
        pytest.fail("the long step must not begin")


def reasons_of(stop: StopRequest) -> list[str | None]:
    """Return the reason now, with the next job, and when that one is lost."""
    now = stop.reason
    stop.begin_job()
    later = stop.reason
    stop.request("lost")
    return [now, later, stop.reason]
