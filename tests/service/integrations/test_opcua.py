"""The OPC UA server with a real client."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asyncua import Client, ua

from service.errors import CannotStart
from service.integrations.opcua import server as server_module
from service.integrations.opcua.state import ServiceState
from service.version import VERSION
from tests.running_service import BAD, Serve
from tests.service.integrations.opcua_server import (
    RunningOpcua,
    call,
    completed,
    run_opcua,
    status,
    until,
    value,
    variable,
    with_client,
)
from tests.serving import service_process

LOADING = ServiceState(False, False, frozenset())
DRAINING = ServiceState(False, True, frozenset({"widget"}))


@pytest.fixture(scope="module")
def running() -> Iterator[RunningOpcua]:
    with run_opcua() as running:
        yield running


@pytest.fixture(autouse=True)
def fresh(running: RunningOpcua) -> None:
    running.opcua.board.reset("A")


class Recorder:
    """Records the values that a subscription delivers."""

    def __init__(self) -> None:
        self.values: list[tuple[str, Any, Any]] = []

    def datachange_notification(self, node: Any, val: Any, data: Any) -> None:
        name = node.nodeid.Identifier.rpartition(".")[2]
        self.values.append((name, val, data.monitored_item.Value.SourceTimestamp))

    def of(self, name: str) -> list[Any]:
        return [value for variable, value, _ in self.values if variable == name]


def test_server_variables(running: RunningOpcua) -> None:
    async def work(client: Client) -> None:
        assert (await client.get_namespace_array())[2] == "urn:plumbline"
        assert await client.get_node("ns=2;s=Plumbline.Ready").read_value() is True
        assert await client.get_node("ns=2;s=Plumbline.Version").read_value() == VERSION
        assert await client.get_node("ns=2;s=Plumbline.ProductCount").read_value() == 1
        path = ["0:Objects", "2:Plumbline", "2:Stations", "2:A", "2:DecisionCode"]
        code = await client.nodes.root.get_child(path)
        (names,) = await code.get_properties()
        assert [text.Text for text in await names.read_value()] == ["none", "pass", "review", "fail", "invalid"]

    with_client(running.url, work)


def test_an_inspection_sets_all_variables_of_its_station_with_one_timestamp(running: RunningOpcua) -> None:
    async def work(client: Client) -> None:
        done = completed(part_id="P1", decision="fail", score=2.5)
        running.opcua.board.publish(done)
        names = ["LastInspectionId", "Product", "PartId", "Decision", "DecisionCode", "Score", "PValue"]
        names += ("ReviewThreshold", "FailThreshold", "Timestamp", "Inspected", "Fail", "Pass", "ResultReady", "Busy")

        async def is_there() -> bool:
            return bool(await value(client, "ResultReady"))

        await until(is_there)
        nodes = [variable(client, name) for name in names]
        read = [await node.read_data_value() for node in nodes]
        values = [data.Value.Value for data in read if data.Value is not None]
        expected = (done.record.id, "widget", "P1", "fail", 3, 2.5, 0.25, 1.0, 2.0, done.record.created_at)
        assert values == [*expected, 1, 1, 0, True, False]
        assert len({data.SourceTimestamp for data in read}) == 1

    with_client(running.url, work)


def test_an_invalid_image_has_no_score(running: RunningOpcua) -> None:
    async def work(client: Client) -> None:
        running.opcua.board.publish(completed(decision="invalid", score=None, p_value=None))

        async def is_there() -> bool:
            return await status(client, "Score") == "BadNoData"

        await until(is_there)
        assert await value(client, "DecisionCode") == 4
        assert await status(client, "PValue") == "BadNoData"

    with_client(running.url, work)


def test_a_subscription_receives_changes_in_order_and_the_last_one(running: RunningOpcua) -> None:
    async def work(client: Client) -> None:
        recorder = Recorder()
        subscription = await client.create_subscription(20, recorder)
        nodes = [variable(client, name) for name in ("Score", "Sequence", "Inspected")]
        await subscription.subscribe_data_change(nodes, queuesize=1000)
        for score in range(100):
            running.opcua.board.publish(completed(score=float(score)))
            await asyncio.sleep(0.002)

        async def is_there() -> bool:
            return (
                bool(recorder.of("Score")) and recorder.of("Score")[-1] == 99.0 and recorder.of("Inspected")[-1] == 100
            )

        await until(is_there)
        for name in ("Score", "Sequence", "Inspected"):
            received = [number for number in recorder.of(name)[1:] if number is not None]
            assert received == sorted(received)
        timestamps: dict[Any, set[Any]] = {at: set() for _, _, at in recorder.values}
        for name, number, at in recorder.values:
            timestamps[at].add((name, number))
        last = timestamps[recorder.values[-1][2]]
        assert {name for name, _ in last} == {"Score", "Sequence", "Inspected"}
        await subscription.delete()

    with_client(running.url, work)


def test_trigger_handshake(running: RunningOpcua) -> None:
    async def work(client: Client) -> None:
        board = running.opcua.board
        sequence = await call(client, "Trigger", "P7", "widget")

        async def is_busy() -> bool:
            return bool(await value(client, "Busy"))

        async def is_ready() -> bool:
            return bool(await value(client, "ResultReady"))

        await until(is_busy)
        assert not await is_ready()
        part_id = board.part_id("widget", "A")
        assert part_id == "P7"
        board.publish(completed(part_id=part_id))
        await until(is_ready)
        assert not await is_busy()
        assert await value(client, "Sequence") == sequence + 1
        assert await value(client, "PartId") == "P7"
        # Some clients send null instead of an empty string, or leave the arguments out.
        assert await call(client, "Trigger", ua.Variant(None), ua.Variant(None)) == sequence + 1
        assert await call(client, "Trigger") == sequence + 1

    with_client(running.url, work)


def test_no_decision_is_shown_while_a_trigger_waits_and_after_a_reset(running: RunningOpcua) -> None:
    async def work(client: Client) -> None:
        board = running.opcua.board

        async def shows(*expected: Any) -> None:
            names = ("PartId", "ResultReady", "DecisionCode", "Decision")

            async def is_there() -> bool:
                return tuple([await value(client, name) for name in names]) == expected

            await until(is_there)

        board.publish(completed(part_id="P1", decision="pass"))
        await shows("P1", True, 1, "pass")
        await call(client, "Trigger", "P2", "widget")
        await shows("P1", False, 0, "")
        board.publish(completed(part_id="P3", decision="pass"))
        await shows("P3", False, 0, "")
        board.publish(completed(part_id="P2", decision="fail"))
        await shows("P2", True, 3, "fail")
        await call(client, "Reset")
        await shows("P2", False, 0, "")

    with_client(running.url, work)


def test_trigger_refuses_wrong_arguments(running: RunningOpcua) -> None:
    async def work(client: Client) -> None:
        with pytest.raises(ua.uaerrors.BadNotFound):
            await call(client, "Trigger", "", "unknown")
        for arguments in (("x" * 129, ""), ("a\nb", ""), (1, "")):
            with pytest.raises(ua.uaerrors.BadInvalidArgument):
                await call(client, "Trigger", *arguments)
        with pytest.raises(ua.uaerrors.BadTooManyArguments):
            await call(client, "Trigger", "", "", "")
        assert not await value(client, "Busy")

    with_client(running.url, work)


def test_reset(running: RunningOpcua) -> None:
    async def work(client: Client) -> None:
        running.opcua.board.publish(completed())

        async def is_counted() -> bool:
            return bool(await value(client, "Inspected") == 1)

        async def is_cleared() -> bool:
            return await value(client, "Inspected") == 0 and not await value(client, "ResultReady")

        await until(is_counted)
        await call(client, "Reset")
        await until(is_cleared)
        assert await value(client, "Sequence") > 0

    with_client(running.url, work)


def test_variables_cannot_be_written(running: RunningOpcua) -> None:
    async def work(client: Client) -> None:
        for node in (variable(client, "Decision"), client.get_node("ns=2;s=Plumbline.Version")):
            with pytest.raises((ua.uaerrors.BadUserAccessDenied, ua.uaerrors.BadNotWritable)):
                await node.write_value("pass")
        with pytest.raises(ua.UaError):
            await client.nodes.objects.add_folder("ns=2;s=new", "2:new")

    with_client(running.url, work)


def test_values_are_bad_while_the_service_is_not_ready(running: RunningOpcua) -> None:
    async def work(client: Client) -> None:
        running.opcua.board.publish(completed(decision="review"))

        async def is_good() -> bool:
            return await status(client, "Decision") == "Good" and await value(client, "Decision") == "review"

        async def is_bad() -> bool:
            return await status(client, "Decision") == "BadOutOfService"

        await until(is_good)
        running.states.append(LOADING)
        await until(is_bad)
        assert await status(client, "ResultReady") == "BadOutOfService"
        assert await client.get_node("ns=2;s=Plumbline.Ready").read_value() is False
        with pytest.raises(ua.uaerrors.BadInvalidState):
            await call(client, "Trigger", "", "")
        # While the service stops, accepted images are completed and their results are valid.
        running.states.append(DRAINING)
        await until(is_good)
        assert await client.get_node("ns=2;s=Plumbline.Ready").read_value() is False
        running.states.append(running.states[0])

    with_client(running.url, work)


def test_a_station_appears_with_its_first_inspection(running: RunningOpcua) -> None:
    async def work(client: Client) -> None:
        running.opcua.board.publish(completed(station="line 1/cam"))

        async def is_there() -> bool:
            children = await client.get_node("ns=2;s=Plumbline.Stations").get_children()
            return "Plumbline.Stations.line 1/cam" in {node.nodeid.Identifier for node in children}

        await until(is_there)
        assert await value(client, "Decision", "line 1/cam") == "pass"
        assert await call(client, "Trigger", "", "", station="line 1/cam") == 1

    with_client(running.url, work)


@pytest.mark.slow
def test_a_client_connects_again_after_a_restart() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = probe.getsockname()
    endpoint = f"opc.tcp://127.0.0.1:{address[1]}"
    for count in (3, 1):
        with run_opcua(opcua_endpoint=endpoint, opcua_max_clients=2) as running:
            for _ in range(count):
                running.opcua.board.publish(completed())

            async def work(client: Client, expected: int = count) -> None:
                async def is_there() -> bool:
                    return bool(await value(client, "Sequence") == expected)

                await until(is_there)

            with_client(endpoint, work)
            with pytest.raises(CannotStart, match="cannot be opened"), run_opcua(opcua_endpoint=endpoint):
                pass
            check_limit_and_end(running, address)


def check_limit_and_end(running: RunningOpcua, address: tuple[str, int]) -> None:
    """Check that the number of clients is limited, and that clients that do nothing do not delay the end."""
    with socket.create_connection(address), socket.create_connection(address):
        with socket.create_connection(address, timeout=5) as refused:
            assert refused.recv(1) == b""
        assert running.sample("clients") == 2
        started = time.monotonic()
        running.opcua.close()
        assert time.monotonic() - started < 5


def test_a_client_that_does_not_read_is_closed_and_delays_nothing(
    running: RunningOpcua, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "MAX_UNSENT_BYTES", 64 * 1024)

    async def work(client: Client) -> None:
        protocol = client.uaclient.protocol
        assert protocol is not None
        assert protocol.transport is not None
        protocol.transport.pause_reading()
        nodes = [ua.NodeId(ua.Int32(ua.ObjectIds.Server_ServerStatus))] * 500
        params = ua.ReadParameters(
            NodesToRead=[ua.ReadValueId(NodeId=node, AttributeId=ua.AttributeIds.Value) for node in nodes]
        )
        requests = [asyncio.ensure_future(client.uaclient.read(params)) for _ in range(150)]
        slowest = 0.0

        async def is_closed() -> bool:
            nonlocal slowest
            started = time.perf_counter()
            running.opcua.board.publish(completed())
            slowest = max(slowest, time.perf_counter() - started)
            return running.sample("closed_total") == 1

        await until(is_closed, 60)
        assert slowest < 0.5
        protocol.transport.resume_reading()
        for request in requests:
            request.cancel()
        await asyncio.gather(*requests, return_exceptions=True)

    with_client(running.url, work)


@pytest.mark.slow
def test_an_inspection_completes_the_trigger_of_its_station(serve: Serve) -> None:
    with serve(opcua_endpoint="opc.tcp://127.0.0.1:0", opcua_stations="A") as service:
        opcua = service.runtime.interfaces.opcua
        assert opcua is not None
        assert opcua.server is not None

        async def work(client: Client) -> None:
            async def is_ready() -> bool:
                return bool(await client.get_node("ns=2;s=Plumbline.Ready").read_value())

            await until(is_ready)
            sequence = await call(client, "Trigger", "4711", "widget")
            response = await asyncio.to_thread(service.inspect, BAD, params={"station": "A"})
            body = response.json()
            assert body["part_id"] == "4711"

            async def is_done() -> bool:
                return bool(await value(client, "ResultReady"))

            await until(is_done)
            assert await value(client, "Sequence") == sequence + 1
            assert await value(client, "LastInspectionId") == body["id"]
            assert await value(client, "Decision") == "fail"
            assert await value(client, "PartId") == "4711"
            # An image with a part id of its own keeps it.
            await call(client, "Trigger", "4712", "")
            response = await asyncio.to_thread(service.inspect, params={"station": "A", "part_id": "4700"})
            assert response.json()["part_id"] == "4700"

            async def is_counted() -> bool:
                return bool(await value(client, "Inspected") == 2)

            await until(is_counted)
            assert not await value(client, "ResultReady")

        with_client(f"opc.tcp://127.0.0.1:{opcua.server.port}", work)


@pytest.mark.slow
def test_a_service_whose_endpoint_is_in_use_ends_with_the_reason(tiny_models: Path, tmp_path: Path) -> None:
    with socket.socket() as used:
        used.bind(("127.0.0.1", 0))
        used.listen()
        endpoint = f"opc.tcp://127.0.0.1:{used.getsockname()[1]}"
        settings = {"opcua_endpoint": endpoint, "provider": "cpu"}
        with (
            pytest.raises(RuntimeError, match="did not start") as failed,
            service_process(tiny_models, tmp_path / "data", settings),
        ):
            pass
    assert "cannot start" in str(failed.value)
    assert f"{endpoint} cannot be opened" in str(failed.value)
    assert "Traceback" not in str(failed.value)
