"""Camera streams against a real process: order, independent errors, back-pressure, shutdown."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from plumbline_client import AsyncClient, CameraBuffer, Client, ServiceProblem, StreamClosed
from service.serving.batch import IN_FLIGHT
from tests.bundles import SIZE
from tests.running_service import BAD, GOOD, INSPECT, Serve, encode
from tests.service.api.test_camera_buffers import BAD12, GOOD12
from tests.service.inspection.decoding.test_samples import pack_p
from tests.serving import ServiceProcess, service_process

CPU = {"provider": "cpu"}
PATH = "/v1/products/{}/stream"


@pytest.fixture(scope="module")
def process(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    settings = CPU | {"max_body_bytes": "200000", "max_streams": "3"}
    with service_process(tiny_models, tmp_path_factory.mktemp("data"), settings) as running:
        running.wait_until(200)
        yield running


@contextmanager
def open_stream(process: ServiceProcess, product: str = "widget") -> Iterator[ClientConnection]:
    with connect(f"ws{process.url.removeprefix('http')}{PATH.format(product)}", compression=None) as camera:
        yield camera


def say(camera: ClientConnection, **message: Any) -> None:
    camera.send(json.dumps(message))


def hear(camera: ClientConnection) -> dict[str, Any]:
    response: dict[str, Any] = json.loads(camera.recv(timeout=30))
    return response


def hear_or_code(camera: ClientConnection) -> dict[str, Any] | int | None:
    """Return the next message, or the code that the stream was closed with."""
    try:
        return hear(camera)
    except ConnectionClosed as closed:
        return closed.rcvd.code if closed.rcvd else None


def close_code(camera: ClientConnection) -> int | None:
    code = hear_or_code(camera)
    assert not isinstance(code, dict), code
    return code


def word(result: dict[str, Any]) -> str:
    if result["problem"]:
        return str(result["problem"]["type"]).rpartition("#")[2]
    return str(result["inspection"]["decision"])


@pytest.mark.slow
def test_results_are_in_order_and_errors_are_independent(process: ServiceProcess) -> None:
    with open_stream(process) as camera:
        say(camera, type="hello", part={"station": "A2", "lot": "L"})
        ready = hear(camera)
        assert (ready["type"], ready["product"], ready["in_flight"]) == ("ready", "widget", IN_FLIGHT)
        for frame in (GOOD, BAD, b"no image", GOOD[:80], GOOD):
            camera.send(frame)
        say(camera, type="end")
        results = [hear(camera) for _ in range(5)]
        assert close_code(camera) == 1000
    assert [result["index"] for result in results] == list(range(5))
    assert [word(result) for result in results] == ["pass", "fail", "not-an-image", "corrupt-image", "pass"]
    inspection = results[1]["inspection"]
    assert (inspection["station"], inspection["lot"]) == ("A2", "L")
    assert inspection["request_id"] == f"{ready['stream']}/1"
    assert httpx.get(process.url + inspection["links"]["self"]).json() == inspection
    assert results[2]["problem"]["instance"] == f"urn:plumbline:request:{ready['stream']}/2"


def test_frames_count_for_the_duration_of_inspections(process: ServiceProcess) -> None:
    def count() -> float:
        name = 'inspection_duration_seconds_count{product="widget"} '
        lines = httpx.get(f"{process.url}/metrics").text.splitlines()
        return next(float(line.removeprefix(name)) for line in lines if line.startswith(name))

    before = count()
    with open_stream(process) as camera:
        say(camera, type="hello")
        hear(camera)
        for _ in range(3):
            camera.send(GOOD)
            hear(camera)
    assert count() == before + 3, "PlumblineSlow is based on this metric"


def test_message_before_a_frame_applies_to_this_frame_only(process: ServiceProcess) -> None:
    with open_stream(process) as camera:
        say(camera, type="hello", part={"station": "A", "part_id": "0"})
        hear(camera)
        say(camera, type="frame", name="left", part={"part_id": "1"})
        camera.send(GOOD)
        camera.send(GOOD)
        results = [hear(camera) for _ in range(2)]
    assert [result["name"] for result in results] == ["left", None]
    parts = [(result["inspection"]["part_id"], result["inspection"]["station"]) for result in results]
    assert parts == [("1", "A"), ("0", "A")]


def test_camera_buffers_are_declared_in_the_hello(process: ServiceProcess) -> None:
    layout = {"pixel_format": "Mono12p", "width": SIZE, "height": SIZE}
    with open_stream(process) as camera:
        say(camera, type="hello", buffer=layout)
        hear(camera)
        camera.send(pack_p(GOOD12, 12))
        camera.send(b"short")
        camera.send(pack_p(BAD12, 12))
        say(camera, type="frame", buffer={"pixel_format": "Mono99"})
        camera.send(pack_p(BAD12, 12))
        words = [word(hear(camera)) for _ in range(4)]
    assert words == ["pass", "buffer-size-mismatch", "fail", "unknown-pixel-format"]


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([GOOD], "hello"),
        (["{}"], "type"),
        (["no json"], "JSON"),
        ([json.dumps({"type": "hello", "part": {"colour": "red"}})], "colour"),
        ([json.dumps({"type": "hello"}), json.dumps({"type": "hello"})], "hello"),
        ([json.dumps({"type": "hello"}), json.dumps({"type": "frame", "name": "x" * 9000})], "8192"),
    ],
)
def test_invalid_message_ends_the_stream_with_a_problem(
    process: ServiceProcess, messages: list[str | bytes], reason: str
) -> None:
    with open_stream(process) as camera:
        for message in messages:
            camera.send(message)
        *_, failure = [hear(camera) for _ in messages]
        assert failure["type"] == "failure"
        assert failure["problem"]["type"].endswith("#invalid-request")
        assert reason in failure["problem"]["detail"]
        assert close_code(camera) == 1008


def test_frame_beyond_the_limit_ends_the_stream(process: ServiceProcess) -> None:
    # The service cannot continue after this error, because it does not read such a message to its end.
    with open_stream(process) as camera:
        say(camera, type="hello")
        assert hear(camera)["max_frame_bytes"] == 200_000
        camera.send(bytes(200_001))
        assert close_code(camera) == 1009


def test_stream_of_an_unknown_product_is_refused_with_a_problem(process: ServiceProcess) -> None:
    with pytest.raises(InvalidStatus) as caught, open_stream(process, "gadget"):
        pass
    assert caught.value.response.status_code == 404
    assert caught.value.response.headers["content-type"] == "application/problem+json"
    assert json.loads(caught.value.response.body)["type"].endswith("#unknown-product")


def test_streams_are_limited_and_counted(process: ServiceProcess) -> None:
    with ExitStack() as cameras:
        for _ in range(3):
            cameras.enter_context(open_stream(process))
        assert "inspection_streams 3.0" in httpx.get(f"{process.url}/metrics").text
        with pytest.raises(InvalidStatus) as caught, open_stream(process):
            pass
        assert caught.value.response.status_code == 503
        problem = json.loads(caught.value.response.body)
        assert (problem["type"].rpartition("#")[2], problem["limit"]) == ("too-many-streams", 3)
    wait_for(lambda: "inspection_streams 0.0" in httpx.get(f"{process.url}/metrics").text)


def test_frames_of_a_camera_that_disconnects_are_stored(process: ServiceProcess) -> None:
    with open_stream(process) as camera:
        say(camera, type="hello", part={"part_id": "gone"})
        hear(camera)
        for _ in range(3):
            camera.send(GOOD)
        hear(camera)
        # Disconnects without a close message while two results are outstanding.
        camera.socket.shutdown(socket.SHUT_RDWR)
    address = f"{process.url}/v1/inspections?part_id=gone"
    wait_for(lambda: len(httpx.get(address).json()["items"]) >= 1)
    assert httpx.post(process.url + INSPECT, content=GOOD, headers={"content-type": "image/png"}).status_code == 201


@pytest.mark.slow
def test_service_stops_reading_while_frames_are_in_flight(serve: Serve) -> None:
    # The queue is full: four frames are in flight, and the camera has to wait.
    frame = encode(np.full((600, 1000, 3), 128, np.uint8), ".bmp")
    with serve(queue_limit=1, max_batch=1, queue_deadline_s=60) as service:
        occupied = service.occupied()
        occupied.__enter__()
        with connect(f"ws://127.0.0.1:{service.port}{PATH.format('widget')}", compression=None) as camera:
            say(camera, type="hello")
            hear(camera)
            sent: list[int] = []

            def send_all() -> None:
                for number in range(60):
                    camera.send(frame)
                    sent.append(number)
                say(camera, type="end")

            sender = threading.Thread(target=send_all)
            sender.start()
            wait_for(lambda: stands_still(sent))
            # Frames in flight, in the library's buffers and in the sockets' buffers.
            assert IN_FLIGHT <= len(sent) < 30, len(sent)
            # At most one frame is received or waits beside those in flight.
            assert service.app.state.body_memory.used < (IN_FLIGHT + 2) * (len(frame) + 2**20)
            occupied.__exit__(None, None, None)
            results = [hear(camera) for _ in range(60)]
            sender.join()
            assert close_code(camera) == 1000
        assert [result["index"] for result in results] == list(range(60))
        assert {word(result) for result in results} == {"pass"}


@pytest.mark.slow
def test_sigterm_completes_frames_in_flight_and_closes_with_going_away(tiny_models: Path, tmp_path: Path) -> None:
    with service_process(tiny_models, tmp_path / "data", CPU | {"shutdown_delay_s": "0"}) as process:
        process.wait_until(200)
        with open_stream(process) as camera, open_stream(process) as idle:
            for one in (camera, idle):
                say(one, type="hello")
                hear(one)
            camera.send(GOOD)
            hear(camera)
            for _ in range(3):
                camera.send(BAD)
            process.process.terminate()
            results: list[dict[str, Any]] = []
            while (heard := hear_or_code(camera)) != 1001:
                assert isinstance(heard, dict), f"closed with {heard}"
                results.append(heard)
            assert close_code(idle) == 1001
        assert process.process.wait(30) == 0
    assert [result["index"] for result in results] == list(range(1, len(results) + 1))
    with service_process(tiny_models, tmp_path / "data", CPU) as process:
        process.wait_until(200)
        stored = {item["id"]: item for item in httpx.get(f"{process.url}/v1/inspections").json()["items"]}
    for result in results:
        if result["inspection"]:
            assert stored[result["inspection"]["id"]] == result["inspection"]


def test_client_streams(process: ServiceProcess) -> None:
    frames = [GOOD, BAD, b"no image"] * 20
    with Client(process.url) as client:
        results = list(client.stream("widget", iter(frames), station="S"))
        assert [result.index for result in results] == list(range(60))
        assert [result.inspection.decision if result.inspection else "problem" for result in results] == [
            "pass", "fail", "problem",
        ] * 20  # fmt: skip
        buffer = CameraBuffer("Mono12p", SIZE, SIZE)
        (result,) = client.stream("widget", [pack_p(BAD12, 12)], buffer=buffer)
        assert result.inspection is not None
        assert result.inspection.decision == "fail"
        with pytest.raises(ServiceProblem, match="gadget"):
            list(client.stream("gadget", []))
        # If the service closes the connection while the frame is still being sent, the close code may be lost with it.
        with pytest.raises(StreamClosed, match=r"1009|connection was lost"):
            list(client.stream("widget", [bytes(200_001)]))

        def broken() -> Iterator[bytes]:
            yield GOOD
            raise RuntimeError("the camera came loose")

        with pytest.raises(RuntimeError, match="came loose"):
            list(client.stream("widget", broken()))


def test_async_client_streams(process: ServiceProcess) -> None:
    async def frames() -> AsyncIterator[bytes]:
        for frame in [GOOD, BAD] * 5:
            yield frame

    async def run() -> list[str]:
        async with AsyncClient(process.url) as client:
            with pytest.raises(ServiceProblem, match="gadget"):
                [result async for result in client.stream("gadget", frames())]
            return [
                result.inspection.decision
                async for result in client.stream("widget", frames(), lot="L")
                if result.inspection
            ]

    assert asyncio.run(run()) == ["pass", "fail"] * 5


def wait_for(condition: Any, timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def stands_still(sent: list[int]) -> bool:
    before = len(sent)
    time.sleep(0.5)
    return len(sent) == before > 0
