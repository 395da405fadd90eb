"""The state of stations, without an OPC UA server."""

from __future__ import annotations

import threading
import time

import pytest
from prometheus_client import CollectorRegistry

from service.integrations.opcua.stations import DEFAULT_STATION, Snapshot, StationBoard
from service.monitoring.opcua_metrics import OpcuaMetrics
from tests.service.integrations.opcua_server import completed


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def board(registry: CollectorRegistry) -> StationBoard:
    board = StationBoard(["A"], 2, OpcuaMetrics(registry))
    board.take_changed()
    return board


def taken(board: StationBoard, name: str = "A") -> Snapshot:
    return dict(board.take_changed())[name]


def test_the_last_inspection_and_all_counts_are_taken(board: StationBoard, registry: CollectorRegistry) -> None:
    for decision in ("pass", "pass", "fail", "invalid", "review"):
        board.publish(completed(decision=decision))
    snapshot = taken(board)
    assert snapshot.record is not None
    assert snapshot.record.decision == "review"
    assert snapshot.counts == {"pass": 2, "review": 1, "fail": 1, "invalid": 1}
    assert snapshot.sequence == 5
    assert snapshot.is_result_ready
    assert board.take_changed() == []
    assert registry.get_sample_value("inspection_opcua_updates_total") == 1
    assert registry.get_sample_value("inspection_opcua_coalesced_total") == 4


def test_changes_are_announced_once_until_they_are_taken(board: StationBoard) -> None:
    announced = []
    board.on_change = lambda: announced.append(1)
    board.publish(completed())
    board.publish(completed(station="B"))
    assert len(announced) == 1
    assert [name for name, _ in board.take_changed()] == ["A", "B"]
    board.reset("A")
    assert len(announced) == 2


def test_images_without_a_station_have_one(board: StationBoard) -> None:
    board.publish(completed(station=None))
    assert [name for name, _ in board.take_changed()] == [DEFAULT_STATION]


def test_the_number_of_stations_is_limited(board: StationBoard, registry: CollectorRegistry) -> None:
    for name in ("B", "C", "D", "B"):
        board.publish(completed(station=name))
    assert [name for name, _ in board.take_changed()] == ["B"]
    assert registry.get_sample_value("inspection_opcua_dropped_total") == 2
    assert registry.get_sample_value("inspection_opcua_stations") == 2


def test_a_trigger_is_completed_by_the_next_image(board: StationBoard) -> None:
    board.publish(completed())
    assert board.arm("A", "", "") == 1
    armed = taken(board)
    assert (armed.is_busy, armed.is_result_ready) == (True, False)
    board.publish(completed())
    result = taken(board)
    assert (result.is_busy, result.is_result_ready, result.sequence) == (False, True, 2)


def test_an_image_from_before_the_trigger_is_not_its_result(board: StationBoard) -> None:
    before = time.perf_counter()
    board.arm("A", "", "")
    board.publish(completed(submitted=before))
    board.publish(completed(arrived=before, submitted=time.perf_counter()))
    late = taken(board)
    assert (late.is_busy, late.is_result_ready, late.sequence) == (True, False, 2)


def test_an_image_of_another_product_or_part_is_not_the_result(board: StationBoard) -> None:
    board.arm("A", "P1", "widget")
    board.publish(completed(product="bolt", part_id="P1"))
    board.publish(completed(part_id="P2"))
    assert taken(board).is_busy
    board.publish(completed(part_id="P1"))
    assert taken(board).is_result_ready


def test_a_part_id_is_announced_until_the_result_is_there(board: StationBoard) -> None:
    assert board.part_id("widget", "A") is None
    board.arm("A", "P1", "widget")
    assert board.part_id("widget", "A") == "P1"
    assert board.part_id("bolt", "A") is None
    assert board.part_id("widget", "B") is None
    assert board.part_id("widget", None) is None
    board.publish(completed(part_id="P1"))
    assert board.part_id("widget", "A") is None


def test_reset_clears_counters_result_and_trigger_but_not_the_sequence(board: StationBoard) -> None:
    board.publish(completed())
    board.arm("A", "P1", "")
    board.reset("A")
    snapshot = taken(board)
    assert sum(snapshot.counts.values()) == 0
    assert (snapshot.is_busy, snapshot.is_result_ready, snapshot.sequence) == (False, False, 1)
    assert board.part_id("widget", "A") is None


def test_concurrent_inspections_are_all_counted(board: StationBoard, registry: CollectorRegistry) -> None:
    def publish() -> None:
        for _ in range(200):
            board.publish(completed())

    threads = [threading.Thread(target=publish) for _ in range(4)]
    for thread in threads:
        thread.start()
    sequences = []
    while any(thread.is_alive() for thread in threads):
        sequences += [snapshot.sequence for _, snapshot in board.take_changed()]
    sequences += [snapshot.sequence for _, snapshot in board.take_changed()]
    assert sequences == sorted(set(sequences))
    assert sequences[-1] == 800
    updates = registry.get_sample_value("inspection_opcua_updates_total")
    coalesced = registry.get_sample_value("inspection_opcua_coalesced_total")
    assert updates is not None
    assert coalesced is not None
    assert updates + coalesced == 800
