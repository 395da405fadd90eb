"""The counters of the current shift."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from service.serving import shifts
from service.store.inspection_filter import InspectionFilter
from service.store.tallies import Tally, tally_inspections
from tests.access import problem_of
from tests.running_service import BAD, GOOD, HttpService, Serve
from tests.service.api.test_events import add

SHIFT = "/v1/inspections:shift"


@pytest.mark.usefixtures("database_url")
def test_counters_are_those_of_the_shift(serve: Serve, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shifts, "_SETTLED", timedelta(0))  # kept at once, so that adding up is tested
    monkeypatch.setattr(shifts, "_FRESH_S", 0.0)
    monkeypatch.setattr(shifts, "_PIECE", timedelta(hours=3))
    with serve(database_url=database_url, time_zone="Asia/Kathmandu", shifts="06:00,18:00") as service:
        for station, images in (("A", [GOOD, BAD]), ("B", [GOOD])):
            for image in images:
                add(service, image, station=station)
        found = {}
        for _ in range(2):
            found = service.client.get(SHIFT).json()
            assert (found["total"], found["refused"]) == (3, 0)
            assert found["counts"] == {"pass": 2, "review": 0, "fail": 1, "invalid": 0}
            times = found["processing_ms"]
            assert 0 < times["min"] <= times["mean"] <= times["max"]
        start, end = (datetime.fromisoformat(found[name]) for name in ("start", "end"))
        assert start <= datetime.now(UTC) < end
        assert (start.strftime("%H:%M %z"), end - start) in {
            ("06:00 +0545", timedelta(hours=12)),
            ("18:00 +0545", timedelta(hours=12)),
        }
        assert service.client.get(SHIFT, params={"station": "A"}).json()["total"] == 2
        assert service.client.get(SHIFT, params={"product": "gadget"}).json()["processing_ms"]["mean"] is None
        which = InspectionFilter(until=start)
        assert tally_inspections(service.store.engine, which) == Tally()
        assert tally_inspections(service.store.engine, replace(which, until=end)).counts.total() == 3


def test_refused_images_are_counted_and_begin_anew_with_a_shift(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(queue_limit=1) as service:
        assert service.client.get(SHIFT).json()["refused"] == 0
        with service.occupied():
            assert service.inspect().status_code == 503
        assert service.client.get(SHIFT).json()["refused"] == 1
        start, end = service.services.shifts.bounds()
        monkeypatch.setattr(service.services.shifts, "bounds", lambda: (end, end + (end - start)))
        assert service.client.get(SHIFT).json()["refused"] == 0


def test_wrong_query_is_refused(service: HttpService) -> None:
    assert problem_of(service.client.get(SHIFT, params={"lot": "1"})) == (422, "invalid-request")
