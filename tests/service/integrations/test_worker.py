"""Delivery from the outbox: order, retries, dead letters, limits, restarts."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from service.api.mapping import to_inspection
from service.integrations import worker as worker_module
from service.integrations.backoff import delay_s
from service.integrations.config import SinkConfig, WebhookConfig
from service.integrations.delivery import Attempt, Event, Sink
from service.integrations.errors import SinkNotConfigured
from service.integrations.events import Render
from service.integrations.start import Integrations
from service.monitoring.clock import Clock
from service.monitoring.metrics import Metrics
from service.settings import Settings
from service.store.outbox import DeadLetterFilter, Outbox
from service.store.records import InspectionRecord
from service.store.store import Store
from tests.access import OPERATOR
from tests.service.integrations.receivers import FakeSink, wait_for
from tests.service.store.test_store import make_row

UNAVAILABLE = Attempt("unavailable", "the connection failed")
REJECTED = Attempt("rejected", "the receiver returned status 500")
REFUSED = Attempt("refused", "the receiver returned status 400")


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("POLL_S", 0.05), ("MAINTENANCE_S", 0.05), ("CONFIRM_S", 0.02), ("GRACE_S", 0.5)):
        monkeypatch.setattr(worker_module, name, value)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(f"sqlite:///{tmp_path / 'plumbline.db'}", tmp_path / "data")
    yield opened
    opened.close()


def config(name: str = "mes", **changes: Any) -> WebhookConfig:
    values = {"kind": "webhook", "url": "http://127.0.0.1:9/", "backoff_base_s": 0.02, "backoff_max_s": 0.05}
    return WebhookConfig.model_validate({"name": name} | values | changes)


class Running:
    """A worker with fake sinks."""

    def __init__(self, store: Store, *sinks: tuple[SinkConfig, Sink], **settings: Any) -> None:
        self.store = store
        self.metrics = Metrics()
        self.outbox = Outbox(store.engine)
        chosen = Settings(data=store.data, **settings)
        self.clock = Clock()
        self.integrations = Integrations(chosen, store, sinks, Render(to_inspection), self.metrics.outbox, self.clock)

    def write(self, **changes: Any) -> InspectionRecord:
        record = make_row(**changes)
        self.store.writer.write(record)
        return record

    def pending(self, sink: str = "mes") -> int:
        backlog = self.outbox.backlogs().get(sink)
        return 0 if backlog is None else backlog.pending

    def dead(self, sink: str = "mes") -> list[str]:
        found = self.outbox.dead_letters(DeadLetterFilter(sink), before=None, limit=100)
        return [letter.inspection_id for letter in reversed(found)]

    def sample(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, {"sink": "mes"} | labels)


@contextmanager
def deliver(store: Store, *sinks: tuple[SinkConfig, Sink], **settings: Any) -> Iterator[Running]:
    running = Running(store, *sinks, **settings)
    running.integrations.start()
    try:
        yield running
    finally:
        running.integrations.close()


def inspection_of(event: Event) -> str:
    identifier: str = json.loads(event.body)["inspection"]["id"]
    return identifier


def failing_until(condition: Callable[[], bool], attempt: Attempt) -> Callable[[Event], Attempt]:
    return lambda _event: Attempt("delivered") if condition() else attempt


def test_messages_are_delivered_in_order_and_deleted(store: Store) -> None:
    sink = FakeSink()
    with deliver(store, (config(), sink)) as running:
        records = [running.write(product=f"p{number % 3}") for number in range(90)]
        wait_for(lambda: running.pending() == 0)
        assert len(sink.delivered) == 90, "nothing was sent twice"

        for product in ("p0", "p1", "p2"):
            expected = [record.id for record in records if record.product == product]
            assert [one for one in sink.delivered if one in expected] == expected
        wait_for(lambda: running.sample("inspection_outbox_delivered_total") == 90)
        wait_for(lambda: running.sample("inspection_outbox_pending") == 0)
    assert (sink.opened, sink.closed) == (1, 1)


def test_message_that_waits_blocks_its_product_and_sink_only(store: Store) -> None:
    mes, other = FakeSink(), FakeSink()
    mes.outcome = lambda event: UNAVAILABLE if event.product == "stuck" else Attempt("delivered")
    with deliver(store, (config(), mes), (config("other"), other)) as running:
        stuck = [running.write(product="stuck") for _ in range(3)]
        free = [running.write(product="free") for _ in range(3)]
        wait_for(lambda: len(mes.delivered) == 3 and len(other.delivered) == 6)
        wait_for(lambda: len(mes.events) > 8)

        assert mes.delivered == [record.id for record in free]
        assert {inspection_of(event) for event in mes.events if event.product == "stuck"} == {stuck[0].id}
        assert running.pending() == 3
        mes.outcome = lambda _event: Attempt("delivered")
        wait_for(lambda: len(mes.delivered) == 6)
        assert mes.delivered[3:] == [record.id for record in stuck]


def test_commit_does_not_wait_for_a_slow_receiver(store: Store) -> None:
    sink = FakeSink()
    sink.delay_s = 30.0
    with deliver(store, (config(), sink)) as running:
        started = time.perf_counter()
        for _ in range(20):
            running.write()
        assert time.perf_counter() - started < 5.0
        closing = time.perf_counter()
    assert time.perf_counter() - closing < 3.0
    assert running.pending() == 20


def test_refused_message_becomes_a_dead_letter_at_once_and_the_next_ones_follow(store: Store) -> None:
    sink = FakeSink()
    sink.outcome = lambda event: REFUSED if b'"lot":"bad"' in event.body else Attempt("delivered")
    with deliver(store, (config(), sink)) as running:
        first, bad, last = (running.write(lot=lot) for lot in ("good", "bad", "good"))
        wait_for(lambda: running.pending() == 0)

        assert len(sink.events) == 3
        assert sink.delivered == [first.id, last.id]
        assert running.dead() == [bad.id]
        wait_for(lambda: running.sample("inspection_outbox_given_up_total", reason="refused") == 1)


def test_rejected_message_is_given_up_after_the_limit_of_attempts(store: Store) -> None:
    sink = FakeSink()
    sink.outcome = lambda event: REJECTED if event.product == "bad" else Attempt("delivered")
    with deliver(store, (config(max_attempts=3), sink)) as running:
        first = running.write(product="bad")
        wait_for(lambda: running.dead() == [first.id])

        assert len(sink.events) == 3
        wait_for(lambda: running.sample("inspection_outbox_failed_attempts_total") == 3)
        wait_for(lambda: running.sample("inspection_outbox_given_up_total", reason="attempts") == 1)
        (letter,) = running.outbox.dead_letters(DeadLetterFilter(), before=None, limit=5)
        assert (letter.attempts, letter.last_error) == (3, REJECTED.detail)
        wait_for(lambda: running.sample("inspection_outbox_dead_letters") == 1)


def test_attempts_that_do_not_reach_the_receiver_do_not_count_towards_the_limit(store: Store) -> None:
    sink = FakeSink()
    sink.outcome = failing_until(lambda: len(sink.events) > 8, UNAVAILABLE)
    with deliver(store, (config(max_attempts=2), sink)) as running:
        record = running.write()
        wait_for(lambda: running.pending() == 0)
        assert running.dead() == []
    assert sink.delivered == [record.id]


def test_receiver_that_is_available_again_receives_every_product_at_once(store: Store) -> None:
    sink = FakeSink()
    sink.outcome = lambda _event: UNAVAILABLE
    slow = config(backoff_base_s=60.0, backoff_max_s=3600.0)
    with deliver(store, (slow, sink)) as running:
        for number in range(4):
            running.write(product=f"p{number}")
        wait_for(lambda: len(sink.events) >= 4)
        sink.outcome = lambda _event: Attempt("delivered")
        running.integrations._worker._loop.call_soon_threadsafe(sink.on_available)  # type: ignore[union-attr]
        wait_for(lambda: len(sink.delivered) == 4, 5)


def test_time_that_the_receiver_names_is_obeyed(store: Store) -> None:
    sink = FakeSink()
    sink.outcome = failing_until(lambda: len(sink.events) > 1, Attempt("unavailable", "busy", 0.6))
    with deliver(store, (config(), sink)) as running:
        started = time.monotonic()
        running.write()
        wait_for(lambda: len(sink.delivered) == 1)
        assert time.monotonic() - started >= 0.6


def test_message_of_a_removed_inspection_is_a_dead_letter(store: Store) -> None:
    sink = FakeSink()
    sink.outcome = lambda _event: UNAVAILABLE
    with deliver(store, (config(), sink)) as running:
        record = running.write()
        with store.engine.begin() as connection:
            connection.exec_driver_sql("DELETE FROM inspections")
        wait_for(lambda: running.dead() == [record.id])
        wait_for(lambda: running.sample("inspection_outbox_given_up_total", reason="missing") == 1)


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


def test_dead_letter_is_sent_again_on_request_without_waiting(store: Store) -> None:
    sink = FakeSink()
    sink.outcome = lambda _event: REFUSED
    slow = config(backoff_base_s=60.0, backoff_max_s=3600.0)
    with deliver(store, (slow, sink)) as running:
        record = running.write()
        wait_for(lambda: running.dead() == [record.id])
        sink.outcome = lambda _event: Attempt("unavailable", "busy", 3000.0)
        waiting = running.write()
        wait_for(lambda: running.integrations.service.summary()[0].state.error == "busy")
        sink.outcome = lambda _event: Attempt("delivered")
        service = running.integrations.service
        (letter,) = service.dead_letters(DeadLetterFilter(), None, 10).items
        service.resend(letter.id, OPERATOR)
        wait_for(lambda: len(sink.delivered) == 2, 5)

        assert sink.delivered == [record.id, waiting.id]
        (summary,) = service.summary()
        assert summary.state.error is None
        assert summary.state.is_delivering
        assert summary.state.delivered_at is not None


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


@pytest.mark.parametrize(("failures", "bound"), [(1, 1.0), (2, 2.0), (4, 8.0), (7, 60.0), (100_000, 60.0)])
def test_delay_is_drawn_between_zero_and_a_bound_that_doubles(failures: int, bound: float) -> None:
    asked: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        asked.append((low, high))
        return high

    assert delay_s(failures, 1.0, 60.0, uniform) == bound
    assert asked == [(0.0, bound)]
    assert all(0.0 <= delay_s(failures, 1.0, 60.0) <= bound for _ in range(100))
