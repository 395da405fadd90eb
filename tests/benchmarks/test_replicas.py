"""What `benchmarks.replicas` and `benchmarks.faults.fleet_faults` compute from their measurements."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import httpx
import numpy as np
import pytest

from benchmarks.faults import fleet_faults
from benchmarks.faults.fleet_faults import Load
from benchmarks.replicas import added_interval


def test_added_time_is_taken_within_turns() -> None:
    generator = np.random.default_rng(1)
    other_load = generator.exponential(0.05, (200, 1))
    latencies = other_load + np.array([0.010, 0.012]) + generator.normal(0, 0.0001, (200, 2))
    median, low, high = added_interval(latencies, 1, 0)
    assert low <= median <= high
    assert median == pytest.approx(0.002, abs=0.0002)
    assert high - low < 0.0005, "other load cancels out"


def test_load_notices_what_a_fleet_must_not_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first key gets two inspections, the second one an old recipe, after a 503 and a closed connection."""
    monkeypatch.setattr(fleet_faults, "RETRY_S", 0.0)
    answers: Iterator[httpx.Response | Exception] = iter(
        [
            httpx.Response(201, json={"id": "a", "recipe_revision": 4}),
            httpx.Response(200, json={"id": "b", "recipe_revision": 4}),
            httpx.Response(503, json={"type": "about:blank"}),
            httpx.RemoteProtocolError("closed"),
            httpx.Response(201, json={"id": "c", "recipe_revision": 3}),
            httpx.Response(502, json={"type": "about:blank"}),
        ]
    )

    def respond(_request: httpx.Request) -> httpx.Response:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    load = Load("http://replicas", ["product"], revisions={"product": 4})
    with httpx.Client(base_url=load.url, transport=httpx.MockTransport(respond)) as client:
        load._inspect_one(client, "product", "one", is_repeated=True)
        load._inspect_one(client, "product", "two", is_repeated=False)
        load._inspect_one(client, "product", "three", is_repeated=False)
    assert load.twice == ["one"]
    assert [one.revision < one.newest for one in load.answers.values()] == [False, True]
    assert load.statuses == Counter({201: 2, 200: 1, 503: 1, 502: 1})
    assert load.closed == 1
