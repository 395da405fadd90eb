"""A short run of the overload benchmark, and its arithmetic."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.load import Group, Load, Outcome
from benchmarks.overhead import ratio_interval
from benchmarks.overload import GREEDY_ROW, Measurement, Row, criteria, make_rows, measure
from tests.running_service import GOOD
from tests.serving import service_process


def row(name: str, clients: int, latency_s: float, count: int, **others: int) -> Row:
    group = Group("polite", clients, 1, obeys=True)
    outcome = Outcome([latency_s] * count)
    outcome.others.update(others)
    load = Load({"polite": outcome}, seconds=10.0, cpu_s=0.1)
    return Row(name, (group,), [Measurement(load, [0.01], (1, 1, 1), 5.0)])


def test_rows_are_compared_with_the_limits() -> None:
    rows = [row("8 polite", 8, 0.2, 400), row("96 polite", 96, 0.5, 300, TimeoutError=1)]
    checked = criteria({one.name: one for one in rows}, deadline_s=0.1)
    assert {name for name, one in checked.items() if not one["met"]} == {
        "96 polite: failed requests",
        "96 polite: p99 of all admitted / deadline",
        "96 polite: throughput / peak",
        "96 polite: p50 / that of 8 clients",
    }
    assert rows[0].report()["processor_ms_per_admitted"] == 12.5


def test_greedy_connections_share_an_address_and_others_do_not() -> None:
    rows = {one.name: one for one in make_rows([8], share_address=False)}
    assert [group.source(7) for group in rows["8 polite"].groups] == ["127.1.0.8"]
    assert {group.source(number) for group in rows[GREEDY_ROW].groups for number in (0,)} == {"127.1.0.1", "127.2.0.1"}
    assert rows[GREEDY_ROW].groups[1].source(31) == "127.2.0.1"


def test_interval_contains_the_ratio() -> None:
    ratio, low, high = ratio_interval([(1.0 + 0.01 * (turn % 7), 1.1 + 0.01 * (turn % 5)) for turn in range(200)])
    assert low <= ratio <= high
    assert ratio == pytest.approx(1.12 / 1.03)


@pytest.mark.slow
def test_overloaded_service_refuses_and_inspects(tiny_models: Path, tmp_path: Path) -> None:
    lines = ("POST /v1/products/widget/inspections HTTP/1.1", "Host: 127.0.0.1", "Content-Type: image/png")
    head = ("\r\n".join([*lines, f"Content-Length: {len(GOOD)}"]) + "\r\n\r\n").encode()
    overload = Row("impolite", (Group("impolite", 8, 1, obeys=False),))
    with service_process(tiny_models, tmp_path / "data", {"provider": "cpu", "queue_limit": "2"}) as service:
        service.wait_until(200)
        overload.rounds.append(measure(service, overload, head, GOOD, warm_up_s=0.2, seconds=1.0))
    report = overload.report()
    assert report["admitted_per_s"] > 0
    assert report["refused_per_s"] > 0
    assert report["others"] == {}
    assert report["live_ms"]["p99"] > 0
