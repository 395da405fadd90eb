"""What is abnormal: found, kept with its beginning, shown to those who may see it, and no false alarms."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from scipy import stats

from service.access.principal import LOCAL
from service.deployment.failures import BrokenBundle
from service.serving import alarms
from service.serving.alarm_texts import TEXTS, values_of
from service.serving.alarms import Alarm, AlarmService, DriftState
from service.serving.fail_rate import FailRate, FailRateJump, binomial_p_value, fisher_p_value
from service.serving.readiness import ReadinessReport
from service.store.errors import StoreUnavailable
from tests.access import bearer, make_key
from tests.running_service import BAD, GOOD, RunningService, Serve
from tests.service.api.test_events import add
from tests.service.api.test_shadow import wait_for


def rate_of(decisions: str, permitted: float | None = 0.01) -> FailRateJump | None:
    """Return the jump after parts that are given as letters: p, r, f, i."""
    names = {"p": "pass", "r": "review", "f": "fail", "i": "invalid"}
    found = FailRate()
    for letter in decisions:
        found.add(names[letter])
    return found.jump(permitted)


@pytest.mark.parametrize("decisions", ["", "fff", "ffff", "p" * 500 + "ffff", "i" * 100, "p" * 19 + "f", "pf" * 600])
def test_few_parts_and_a_usual_rate_are_no_alarm(decisions: str) -> None:
    assert rate_of(decisions) is None


def test_jump_of_the_fail_rate_is_found_soon() -> None:
    before = ("f" + "p" * 99) * 10
    assert rate_of(before + "f" * 12) == FailRateJump(12, 20, 10 / 992)
    assert rate_of("p" * 8 + "f" * 12) == FailRateJump(12, 20, 0.01)  # compared with the recipe
    assert rate_of("p" * 8 + "f" * 12, 0.9) is None
    jump = rate_of(before + "pppf" * 25)
    assert jump is not None
    assert jump.parts == 100
    assert rate_of(before + "ppiif" * 40) is not None  # invalid images are not parts


def test_stationary_lines_raise_no_alarm() -> None:
    draw = random.Random(3)
    for share in (0.002, 0.02, 0.2):
        rate = FailRate()
        for number in range(20_000):
            rate.add("fail" if draw.random() < share else "pass")
            if number % 10 == 0:
                assert rate.jump(share) is None, (share, number)


def test_probabilities_are_those_of_scipy() -> None:
    for failed, parts, before, parts_before in (
        (5, 20, 10, 1000),
        (20, 20, 3, 200),
        (7, 100, 60, 2000),
        (0, 20, 0, 300),
    ):
        table = [[failed, parts - failed], [before, parts_before - before]]
        expected = stats.fisher_exact(table, alternative="greater").pvalue
        assert fisher_p_value(failed, parts, before, parts_before) == pytest.approx(expected, rel=1e-6)
        assert binomial_p_value(failed, parts, 0.03) == pytest.approx(stats.binom.sf(failed - 1, parts, 0.03), rel=1e-6)


def kinds(service: RunningService, **query: Any) -> list[tuple[str, str | None, str | None]]:
    items = service.client.get("/v1/alarms", params=query).json()["items"]
    return [(item["kind"], item["product"], item["station"]) for item in items]


def examine(service: RunningService, **sources: Any) -> AlarmService:
    """Examine again with other sources, including what is examined slowly."""
    found = service.services.alarms
    found._sources = replace(found._sources, **sources)
    found._slow_due = 0
    found.refresh()
    return found


def test_healthy_service_has_no_alarm(service: RunningService) -> None:
    examine(service)
    assert kinds(service) == []


def test_fail_rate_and_invalid_images(serve: Serve) -> None:
    with serve() as service:
        for _ in range(20):
            add(service, BAD, station="A")
        wait_for(lambda: kinds(service) == [("fail-rate", "widget", None)])
        [alarm] = service.client.get("/v1/alarms").json()["items"]
        assert (alarm["severity"], alarm["values"]["failed"]) == ("critical", 20)
        assert alarm["text"] == "20 of the last 20 parts fail; usually 1.0% do."
        body = {"author": "a", "reason": "b", "quality": {"min_brightness": 200}}
        assert service.client.put("/v1/products/widget/recipe", json=body).status_code == 200
        for _ in range(alarms.INVALID_STREAK):
            add(service, GOOD, station="B")
        wait_for(lambda: ("invalid-images", "widget", "B") in kinds(service))
        assert ("invalid-images", "widget", "B") not in kinds(service, station="A")
        assert kinds(service, product="gadget") == []
        text = next(one["text"] for one in service.client.get("/v1/alarms").json()["items"] if one["station"] == "B")
        assert text.endswith("images cannot be used: under-exposed.")
    with serve() as service:  # the newest inspections are examined at the start
        wait_for(lambda: ("invalid-images", "widget", "B") in kinds(service))


def test_sources_become_alarms_and_keep_their_beginning(serve: Serve, tmp_path: Any) -> None:
    with serve() as service:
        moment = datetime.now(UTC) - timedelta(hours=3)
        drift = [
            DriftState("widget", "A", "brightness", moment, is_suspended=True),
            DriftState("gadget", None, "p_value", moment, is_suspended=False),
        ]
        found = examine(
            service,
            drift_states=lambda: drift,
            is_insecure=lambda: True,
            certificate_expiry=lambda: datetime.now(UTC) + timedelta(days=3),
            dead_letters=lambda: {"mes": 4, "quiet": 0},
            folders={"data": tmp_path / "missing"},
        )
        service.admission.draining.set()
        found.refresh()
        first = found.current(LOCAL)
        assert {(alarm.kind, alarm.severity) for alarm in first} == {
            ("not-ready", "critical"),
            ("guarantee-suspended", "critical"),
            ("drift", "warning"),
            ("insecure", "warning"),
            ("certificate", "warning"),
            ("dead-letters", "warning"),
            ("disk", "critical"),
        }
        assert [alarm.severity for alarm in first] == sorted(alarm.severity for alarm in first)
        assert next(alarm.since for alarm in first if alarm.kind == "drift") == moment
        found.refresh()
        assert {alarm.key: alarm.since for alarm in found.current(LOCAL)} == {a.key: a.since for a in first}
        restricted = replace(LOCAL, kind="key", products=frozenset({"gadget"}))
        assert {alarm.kind for alarm in found.current(restricted)} == {"not-ready", "disk", "drift"}
        at_station = replace(LOCAL, kind="key", stations=frozenset({"B"}))
        assert "guarantee-suspended" not in {alarm.kind for alarm in found.current(at_station)}
        drift.clear()
        found.refresh()
        assert "drift" not in {alarm.kind for alarm in found.current(LOCAL)}


def test_restricted_principal_reads_nothing_about_other_products(serve: Serve) -> None:
    broken = (
        BrokenBundle("gadget", "v1", "bundle-invalid", "gadget: the graph is damaged."),
        BrokenBundle("secret", "v2", "bundle-invalid", "secret: the graph is damaged."),
    )
    restricted = replace(LOCAL, kind="key", products=frozenset({"gadget"}))
    with serve() as service:
        reasons = tuple(one.reason for one in broken)
        degraded = ReadinessReport("degraded", reasons, ["widget"], broken)
        found = examine(service, readiness=lambda: degraded)
        every = [("degraded", one.product, one.reason) for one in broken]
        assert [(alarm.kind, alarm.product, alarm.values["reason"]) for alarm in found.current(LOCAL)][::-1] == every
        shown = found.current(restricted)
        assert [(alarm.kind, alarm.product, alarm.values["reason"]) for alarm in shown] == every[:1]
        not_ready = ReadinessReport("not-ready", reasons, [], broken)
        found = examine(service, readiness=lambda: not_ready)
        assert [alarm.values["reason"] for alarm in found.current(LOCAL)] == [" ".join(reasons)]
        [alarm] = found.current(restricted)
        assert alarm.kind == "not-ready"
        assert "secret" not in repr(alarm)


def test_first_reading_that_is_repeated_counts_nothing_twice(serve: Serve) -> None:
    with serve() as service:
        for _ in range(3):
            add(service, GOOD, station="A")
        found = examine(service)
        found._mark = None  # as after an error in the middle
        found.refresh()
        assert len(found._rates["widget"]._failed) == 3


def test_store_that_cannot_be_used_is_an_alarm(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve() as service:
        found = examine(service)

        def fail() -> Mapping[str, int]:
            raise StoreUnavailable("the disk is broken")

        monkeypatch.setattr(found._feed, "head", fail)
        examine(service, dead_letters=fail)
        assert [(alarm.kind, alarm.values["reason"]) for alarm in found.current(LOCAL)] == [
            ("store", "the disk is broken")
        ]
        monkeypatch.undo()
        found.refresh()
        assert not found.current(LOCAL)


def test_restricted_key_sees_its_alarms(serve: Serve) -> None:
    with serve() as service:
        key = make_key(service.store.engine, "inspect", products=["gadget"])
        wait_for(lambda: service.client.get("/v1/products").status_code == 401)
        response = service.client.get("/v1/alarms", headers=bearer(key))
        assert (response.status_code, response.json()) == (200, {"items": []})
        assert service.client.get("/v1/alarms", params={"product": "widget"}, headers=bearer(key)).status_code == 403


@pytest.mark.parametrize("kind", TEXTS)
def test_every_kind_has_a_text_for_its_values(kind: Any) -> None:
    values: dict[str, Any] = {
        "reason": "r", "name": "n", "count": 3, "failed": 1, "parts": 2, "usual_rate": 0.01, "free_bytes": 2**30,
        "expires_at": "2026-03-01T00:00:00+00:00",
    }  # fmt: skip
    text = TEXTS[kind].text % values_of(Alarm(kind, "warning", values=values))
    assert "%" not in text.replace("1.0%", "")
