"""Refusals are as frequent as completed requests, and clients that obey `Retry-After` have theirs at once."""

from __future__ import annotations

import heapq
import math

import pytest

from service.serving.refusal_pace import RefusalPace

PLACE_S = 0.04


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def refusals(clients: list[str], *, obeys: bool, seconds: float = 60.0) -> list[float]:
    """Refuse each client again and again, and return for how many seconds each refusal after 10 s was held."""
    clock = Clock()
    pace = RefusalPace(clock)
    due = [(clock.now, number, client) for number, client in enumerate(clients)]
    end, held = clock.now + seconds, []
    while due[0][0] < end:
        clock.now, number, client = heapq.heappop(due)
        hold_s, retry_after_s = pace.refuse(client, PLACE_S)
        if clock.now > end - seconds + 10:
            held.append(hold_s)
        pause_s = hold_s + (math.ceil(retry_after_s) if obeys else 0.001)
        heapq.heappush(due, (clock.now + pause_s, number, client))
    return held


@pytest.mark.parametrize("shares_identity", [False, True])
def test_clients_that_send_again_at_once_are_refused_little_more_often_than_places_become_free(
    *, shares_identity: bool
) -> None:
    clients = ["a"] * 80 if shares_identity else [f"client {number}" for number in range(80)]
    held = refusals(clients, obeys=False)
    assert len(held) / 50 == pytest.approx(1.5 / PLACE_S, rel=0.15)


@pytest.mark.parametrize("shares_identity", [False, True])
def test_clients_that_wait_are_refused_at_once(*, shares_identity: bool) -> None:
    clients = ["a"] * 80 if shares_identity else [f"client {number}" for number in range(80)]
    held = refusals(clients, obeys=True)
    assert max(held) == 0
    assert len(held) / 50 < 1.2 / PLACE_S


def test_client_that_waits_is_not_held_for_another_that_does_not() -> None:
    clock = Clock()
    pace = RefusalPace(clock)
    for _ in range(200):
        pace.refuse("greedy", PLACE_S)
    hold_s, retry_after_s = pace.refuse("polite", PLACE_S)
    assert hold_s == 0
    assert retry_after_s < 0.2
    assert pace.refuse("greedy", PLACE_S)[0] > 1


def test_holding_is_bounded_in_time_and_number() -> None:
    clock = Clock()
    pace = RefusalPace(clock)
    assert max(pace.refuse("greedy", 1.0)[0] for _ in range(100)) == pytest.approx(5.0)
    places = [pace.holding() for _ in range(256)]
    for place in places:
        place.__enter__()
    assert pace.refuse("greedy", 1.0)[0] == 0
    places[0].__exit__(None, None, None)
    assert pace.refuse("greedy", 1.0)[0] > 0


def test_slots_in_the_past_are_forgotten() -> None:
    clock = Clock()
    pace = RefusalPace(clock)
    for number in range(3000):
        pace.refuse(str(number), 0.0)
        clock.now += 0.01
    assert len(pace._slots) < 200
