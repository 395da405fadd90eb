"""Delivery from the outbox: order, retries, dead letters."""

from __future__ import annotations

import time

import pytest

from service.integrations.backoff import delay_s
from service.integrations.delivery import Attempt, Event
from service.store.outbox import DeadLetterFilter
from service.store.store import Store
from tests.access import OPERATOR
from tests.service.integrations.receivers import FakeSink, wait_for
from tests.service.integrations.running import (
    REFUSED,
    REJECTED,
    UNAVAILABLE,
    config,
    deliver,
    failing_until,
    inspection_of,
)

pytestmark = pytest.mark.usefixtures("fast")


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
        sink.become_available()
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


@pytest.mark.parametrize(("failures", "bound"), [(1, 1.0), (2, 2.0), (4, 8.0), (7, 60.0), (100_000, 60.0)])
def test_delay_is_drawn_between_zero_and_a_bound_that_doubles(failures: int, bound: float) -> None:
    asked: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        asked.append((low, high))
        return high

    assert delay_s(failures, 1.0, 60.0, uniform) == bound
    assert asked == [(0.0, bound)]
    assert all(0.0 <= delay_s(failures, 1.0, 60.0) <= bound for _ in range(100))


def test_defect_of_one_message_gives_it_up_after_the_limit_and_is_shown(store: Store) -> None:
    sink = FakeSink()

    def fail(event: Event) -> Attempt:
        if b'"lot":"bad"' in event.body:
            raise UnicodeEncodeError("ascii", "ü", 0, 1, "ordinal not in range(128)")
        return Attempt("delivered")

    sink.outcome = fail
    with deliver(store, (config(max_attempts=3), sink)) as running:
        bad, good = running.write(lot="bad"), running.write(lot="good")
        wait_for(lambda: sink.delivered == [good.id])
        (letter,) = running.outbox.dead_letters(DeadLetterFilter(), before=None, limit=5)

        assert (letter.inspection_id, letter.attempts, letter.dead_reason) == (bad.id, 3, "attempts")
        assert letter.last_error == "unexpected failure; see the log"
        wait_for(lambda: running.sample("inspection_outbox_failed_attempts_total") == 3)


def test_event_that_cannot_be_made_is_given_up_after_the_limit(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Event:
        raise ValueError("a defect")

    monkeypatch.setattr("service.integrations.lanes.inspection_event", fail)
    with deliver(store, (config(max_attempts=2), FakeSink())) as running:
        record = running.write()
        wait_for(lambda: running.dead() == [record.id])
