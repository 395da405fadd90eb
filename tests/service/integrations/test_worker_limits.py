"""Delivery from the outbox: limits, restarts, failures of the database, several processes."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from service.integrations.delivery import Attempt
from service.integrations.errors import SinkNotConfigured
from service.store.outbox import DeadLetterFilter, Outbox
from service.store.sink_lease import SinkLeases
from service.store.store import Store
from tests.access import OPERATOR
from tests.service.integrations.receivers import FakeSink, wait_for
from tests.service.integrations.running import (
    REFUSED,
    UNAVAILABLE,
    Running,
    config,
    deliver,
)

pytestmark = pytest.mark.usefixtures("fast")


def test_old_messages_are_given_up_and_new_ones_are_not(store: Store) -> None:
    sink = FakeSink()
    sink.outcome = lambda _event: UNAVAILABLE
    with deliver(store, (config(max_age_h=1.0), sink)) as running:
        old = running.write(created_at=datetime.now(UTC) - timedelta(hours=2))
        running.write()
        wait_for(lambda: running.dead() == [old.id])
        assert running.pending() == 1
        wait_for(lambda: running.sample("inspection_outbox_given_up_total", reason="age") == 1)


def test_jump_of_the_clock_gives_up_nothing(store: Store) -> None:
    sink = FakeSink()
    sink.outcome = lambda _event: UNAVAILABLE
    running = Running(store, (config(max_age_h=1.0), sink))
    running.clock._offset_s -= 1000.0  # as if the clock had been set forwards
    running.write(created_at=datetime.now(UTC) - timedelta(hours=2))
    running.integrations.start()
    try:
        wait_for(lambda: running.sample("inspection_outbox_oldest_age_seconds") not in {None, 0.0})
        time.sleep(0.2)
        assert running.dead() == []
    finally:
        running.integrations.close()


def test_full_outbox_gives_up_the_oldest_messages(store: Store) -> None:
    sink = FakeSink()
    sink.outcome = lambda _event: UNAVAILABLE
    with deliver(store, (config(), sink), outbox_limit=10, outbox_dead_letter_limit=10) as running:
        records = [running.write() for _ in range(40)]
        wait_for(lambda: running.pending() == 10 and len(running.dead()) == 10)

        assert running.dead() == [record.id for record in records[20:30]]
        wait_for(lambda: running.sample("inspection_outbox_given_up_total", reason="full") == 30)
        wait_for(lambda: running.sample("inspection_outbox_dead_letters_removed_total") == 20)


def test_messages_survive_a_restart(store: Store) -> None:
    sink = FakeSink()
    sink.outcome = lambda _event: UNAVAILABLE
    with deliver(store, (config(), sink)) as running:
        records = [running.write() for _ in range(5)]
        wait_for(lambda: len(sink.events) > 0)
    again = FakeSink()
    with deliver(store, (config(), again)):
        wait_for(lambda: len(again.delivered) == 5)
    assert again.delivered == [record.id for record in records]


def test_delay_before_a_restart_is_kept(store: Store) -> None:
    sink = FakeSink()
    sink.outcome = lambda _event: Attempt("unavailable", "busy", 3000.0)
    with deliver(store, (config(), sink)) as running:
        running.write()
        wait_for(lambda: running.outbox.pending("mes", "widget", 1)[0][0].next_attempt_at is not None)
    again = FakeSink()
    with deliver(store, (config(), again)):
        time.sleep(0.3)
        assert again.events == []


def test_pending_messages_are_delivered_while_the_service_stops(store: Store) -> None:
    sink = FakeSink()
    sink.delay_s = 0.01
    with deliver(store, (config(), sink)) as running:
        for _ in range(10):
            running.write()
    assert len(sink.delivered) == 10
    assert running.pending() == 0


def test_database_failure_delays_delivery_only(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from service.integrations import lanes
    from service.store.errors import StoreUnavailable

    monkeypatch.setattr(lanes, "_DATABASE_PAUSE_S", 0.05)
    is_broken = threading.Event()
    is_broken.set()
    remove = Outbox.remove

    def failing(outbox: Outbox, ids: Any) -> None:
        if is_broken.is_set():
            raise StoreUnavailable("it is locked by another process")
        remove(outbox, ids)

    monkeypatch.setattr(Outbox, "remove", failing)
    monkeypatch.setattr(lanes, "MAX_UNCONFIRMED", 3)
    sink = FakeSink()
    with deliver(store, (config(), sink)) as running:
        for _ in range(30):
            running.write()
        wait_for(lambda: len(sink.delivered) >= 3)
        time.sleep(0.2)
        assert running.pending() == 30
        assert len(sink.delivered) < 30, "delivery pauses while its result cannot be stored"
        is_broken.clear()
        wait_for(lambda: running.pending() == 0)
    assert len(sink.delivered) == 30, "nothing was sent twice"


@pytest.mark.slow
def test_processes_that_share_a_database_deliver_once_and_in_order(postgres_url: str, tmp_path: Path) -> None:
    order: list[str] = []
    sinks = [FakeSink(), FakeSink()]
    for sink in sinks:
        sink.delivered = order
    stores = [Store.open(postgres_url, tmp_path / f"data{number}") for number in range(2)]
    try:
        with deliver(stores[0], (config(), sinks[0])) as first:
            wait_for(lambda: sinks[0].opened == 1)
            with deliver(stores[1], (config(), sinks[1])) as second:
                records = [running.write() for _ in range(20) for running in (first, second)]
                wait_for(lambda: len(order) == 40)
                assert not sinks[1].events, "the first process holds the lease"
                assert [one.integrations.service.summary()[0].state.is_delivering for one in (first, second)] == [
                    True,
                    False,
                ]
                first.integrations.close()
                records += [second.write() for _ in range(5)]
                wait_for(lambda: len(order) == 45)
        assert order == [record.id for record in records]
    finally:
        for store in stores:
            store.close()


def test_without_sinks_nothing_is_stored_and_no_thread_runs(store: Store) -> None:
    with deliver(store) as running:
        running.write()

        assert store.writer.feed is None
        assert running.outbox.backlogs() == {}
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("outbox")]


def test_dead_letters_of_a_sink_without_configuration_can_only_be_discarded(store: Store) -> None:
    sink = FakeSink()
    sink.outcome = lambda _event: REFUSED
    with deliver(store, (config(), sink)) as running:
        running.write()
        wait_for(lambda: len(running.dead()) == 1)
    store.writer.feed = None
    with deliver(store, (config("other"), FakeSink())) as running:
        service = running.integrations.service
        (mes, _other) = service.summary()
        assert (mes.name, mes.kind, mes.target, mes.backlog.dead_letters) == ("mes", None, None, 1)
        with pytest.raises(SinkNotConfigured):
            service.resend_all(DeadLetterFilter("mes"), OPERATOR)
        assert service.discard_all(DeadLetterFilter("mes"), OPERATOR) == 1


def test_leases_are_released_after_a_request_for_them_that_still_runs(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, continued = threading.Event(), threading.Event()
    calls: list[str] = []

    def hold(_leases: SinkLeases, _sinks: list[str]) -> set[str]:
        entered.set()
        assert continued.wait(20)
        calls.append("hold")
        return set()

    monkeypatch.setattr(SinkLeases, "hold", hold)
    monkeypatch.setattr(SinkLeases, "release", lambda _leases: calls.append("release"))
    running = Running(store, (config(), FakeSink()))
    running.integrations.start()
    assert entered.wait(20)
    closing = threading.Thread(target=running.integrations.close)
    closing.start()
    time.sleep(0.3)
    assert calls == []
    continued.set()
    closing.join(20)
    assert calls == ["hold", "release"]


def test_request_for_leases_that_waits_delays_no_delivery(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    continued = threading.Event()
    held = [False]

    def hold(_leases: SinkLeases, sinks: list[str]) -> set[str]:
        if held[0]:
            continued.wait(20)
        held[0] = True
        return set(sinks)

    monkeypatch.setattr(SinkLeases, "hold", hold)
    sink = FakeSink()
    with deliver(store, (config(), sink)) as running:
        wait_for(lambda: sink.opened == 1)
        time.sleep(0.2)
        running.write()
        wait_for(lambda: running.pending() == 0)
        continued.set()
    assert len(sink.delivered) == 1
