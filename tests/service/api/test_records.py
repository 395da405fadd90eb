"""Filtered lists and summaries of stored inspections over HTTP."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import insert

from plumbline_client import Client
from service.store.models import InspectionRow
from service.store.session import transaction
from tests.problems import assert_problem
from tests.running_service import RunningService, Serve
from tests.service.store.test_query_inspections import RECORDS, START, id_at
from tests.service.store.test_store import make_row

LIST, SUMMARY, EXPORT = "/v1/inspections", "/v1/inspections:summary", "/v1/inspections:export"


def test_list_is_filtered_by_everything(records: RunningService) -> None:
    since, until = START + timedelta(hours=2), START + timedelta(hours=40)
    expected = {
        record.id
        for record in RECORDS
        if record.station == "A"
        and record.product == "nut"
        and record.decision in {"pass", "review"}
        and since <= record.created_at < until
        and record.score is not None
        and 0.1 <= record.score <= 0.9
    }
    found = records.fetch(
        LIST, station="A", product="nut", decision="review,pass", since=since.isoformat(),
        until=until.isoformat(), min_score="0.1", max_score="0.9", limit=500,
    )  # fmt: skip
    assert expected
    assert {item["id"] for item in found["items"]} == expected


def test_200_ids_fit_into_one_request_and_unknown_ones_are_ignored(records: RunningService) -> None:
    ids = [record.id for record in RECORDS[:199]]
    found = records.fetch(LIST, ids=",".join([*ids, str(id_at(START, 99999))]), limit=500)
    assert [item["id"] for item in found["items"]] == sorted(ids, reverse=True)


def test_client_follows_pages_of_a_filtered_list(records: RunningService) -> None:
    with Client(f"http://127.0.0.1:{records.port}") as plumbline:
        found = list(plumbline.inspections(decision=["fail", "review"], station="B", lot="L1", page_size=3))
        one = list(plumbline.inspections(ids=[found[0].id], since=START - timedelta(days=30), min_score=0))
    assert len(found) == sum(
        record.decision in {"fail", "review"} and record.station == "B" and record.lot == "L1" for record in RECORDS
    )
    assert [item.id for item in one] == [found[0].id]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("decision=pass,maybe", "expected 'pass', 'review', 'fail' or 'invalid'"),
        ("decision=pass,", "expected 'pass'"),
        ("decision=pass&decision=fail", "decision: given 2 times"),
        ("station=", "station"),
        ("since=yesterday", "since"),
        ("since=2026-03-01T00:00:00", "since"),
        ("since=2026-03-02T00:00:00Z&until=2026-03-01T00:00:00Z", "since must be before until"),
        ("min_score=nan", "min_score"),
        ("min_score=2&max_score=1", "min_score must not be greater"),
        ("ids=1", "expected ids of inspections"),
        (f"ids={','.join(str(id_at(START, number)) for number in range(201))}", "at most 200"),
        ("stations=A", "did you mean `station`"),
    ],
)
@pytest.mark.parametrize("path", [LIST, SUMMARY, EXPORT])
def test_conditions_that_are_not_valid_are_refused(
    records: RunningService, path: str, query: str, message: str
) -> None:
    problem = assert_problem(records.client.get(f"{path}?{query}"), 422, "invalid-request")
    assert message in str(problem)


def test_summary_counts_decisions_and_yields_per_station(records: RunningService) -> None:
    found = records.fetch(SUMMARY, by="station", since="2026-03-01T00:00:00Z", until="2026-05-01T00:00:00Z")
    assert [group["name"] for group in found["groups"]] == ["A", "B", None]
    for group in found["groups"]:
        counts = Counter(record.decision for record in RECORDS if record.station == group["name"])
        good = counts["pass"]
        assert group["counts"] == dict(counts)
        assert group["total"] == counts.total()
        assert group["yield_of_judged"] == good / (counts.total() - counts["invalid"])
        assert group["yield_of_decided"] == good / (good + counts["fail"])
        assert group["yield_of_all"] == good / counts.total()
        assert group["start"] is None
    assert found["total"]["total"] == len(RECORDS)


@pytest.mark.parametrize("by", ["lot", "product"])
def test_summary_by_name_uses_the_filters(records: RunningService, by: str) -> None:
    query = {"since": "2026-03-01T00:00:00Z", "until": "2026-05-01T00:00:00Z", "station": "B", "decision": "fail"}
    found = records.fetch(SUMMARY, by=by, **query)
    expected = Counter(getattr(one, by) for one in RECORDS if one.station == "B" and one.decision == "fail")
    assert {group["name"]: group["total"] for group in found["groups"]} == dict(expected)


@pytest.fixture
def nightly(serve: Serve) -> Iterator[RunningService]:
    """A service with one inspection every 10 minutes around both changes of daylight saving time of 2026 in Berlin."""
    moments = [
        datetime(2026, month, day, 12, tzinfo=UTC) + timedelta(minutes=10 * number)
        for month, day in ((3, 28), (10, 24))
        for number in range(6 * 48)
    ]
    rows = [
        make_row(id=str(id_at(moment, number)), created_at=moment, decision="pass").columns()
        for number, moment in enumerate(moments)
    ]
    with serve() as service:
        with transaction(service.store.engine, "rows cannot be stored") as connection:
            connection.execute(insert(InspectionRow), rows)
        yield service


BERLIN = {"time_zone": "Europe/Berlin"}
SPRING = {"since": "2026-03-28T23:00:00+01:00", "until": "2026-03-30T06:00:00+02:00"}
AUTUMN = {"since": "2026-10-24T23:00:00+02:00", "until": "2026-10-26T06:00:00+01:00"}


def test_hours_follow_daylight_saving_time(nightly: RunningService) -> None:
    spring = [group["start"] for group in nightly.fetch(SUMMARY, by="hour", **SPRING, **BERLIN)["groups"]]
    assert "2026-03-29T01:00:00+01:00" in spring
    assert spring[spring.index("2026-03-29T01:00:00+01:00") + 1] == "2026-03-29T03:00:00+02:00", "no hour 2"
    groups = nightly.fetch(SUMMARY, by="hour", **AUTUMN, **BERLIN)["groups"]
    autumn = [group["start"] for group in groups]
    twice = autumn.index("2026-10-25T02:00:00+02:00")
    assert autumn[twice + 1] == "2026-10-25T02:00:00+01:00", "the hour 2 occurs twice"
    assert {group["total"] for group in groups} == {6}, "every hour has 60 minutes"


def test_days_have_23_and_25_hours(nightly: RunningService) -> None:
    spring = nightly.fetch(SUMMARY, by="day", **SPRING, **BERLIN)["groups"]
    autumn = nightly.fetch(SUMMARY, by="day", **AUTUMN, **BERLIN)["groups"]
    assert [group["total"] for group in spring] == [6, 6 * 23, 36]
    assert [group["total"] for group in autumn] == [6, 6 * 25, 36]
    assert autumn[1]["start"] == "2026-10-25T00:00:00+02:00"
    assert autumn[1]["end"] == "2026-10-26T00:00:00+01:00"


def test_the_night_shift_is_an_hour_shorter_or_longer(nightly: RunningService) -> None:
    query = {"by": "shift", "shifts": "06:00,14:00,22:00", **BERLIN}
    spring = nightly.fetch(SUMMARY, **query, since="2026-03-28T22:00:00+01:00", until=SPRING["until"])["groups"]
    autumn = nightly.fetch(SUMMARY, **query, since="2026-10-24T22:00:00+02:00", until=AUTUMN["until"])["groups"]
    assert [group["total"] for group in spring] == [42, 48, 48, 48], "22:00 to 06:00 has 7 hours"
    assert [group["total"] for group in autumn] == [54, 48, 48, 48], "22:00 to 06:00 has 9 hours"
    assert [group["start"][11:16] for group in spring] == ["22:00", "06:00", "14:00", "22:00"]


@pytest.mark.parametrize("shifts", ["02:30,14:00", "06:10,18:35", "06:00"])
@pytest.mark.parametrize("span", [SPRING, AUTUMN])
def test_no_inspection_is_lost_or_counted_twice_in_shifts(
    nightly: RunningService, shifts: str, span: dict[str, str]
) -> None:
    found = nightly.fetch(SUMMARY, by="shift", shifts=shifts, **span, **BERLIN)
    hours = (datetime.fromisoformat(span["until"]) - datetime.fromisoformat(span["since"])) / timedelta(hours=1)
    assert found["total"]["total"] == sum(group["total"] for group in found["groups"]) == hours * 6
    for before, after in zip(found["groups"], found["groups"][1:], strict=False):
        assert before["end"] == after["start"]


def test_zones_with_half_hours_and_other_changes(nightly: RunningService) -> None:
    for zone in ("Asia/Kathmandu", "Australia/Lord_Howe", "America/Santiago", "America/Havana"):
        for by in ("hour", "day", "shift"):
            found = nightly.fetch(SUMMARY, by=by, time_zone=zone, **AUTUMN)
            assert found["total"]["total"] == 6 * 32, (zone, by)
            if by == "hour":
                # The first group begins with the period.
                assert {group["start"][14:16] for group in found["groups"][1:]} <= {"00", "30"}, zone


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"time_zone": "Berlin"}, "'Berlin' is not a time zone"),
        ({"time_zone": "Europe"}, "'Europe' is not a time zone"),
        ({"time_zone": "../../etc/passwd"}, "is not a time zone"),
        ({"by": "shift", "shifts": "6,14"}, "shifts: '6,14'"),
        ({"by": "shift", "shifts": "14:00,06:00"}, "ascending"),
        ({"by": "shift", "shifts": "06:00,06:00"}, "ascending"),
        ({"by": "week"}, "by"),
        ({"since": "2024-01-01T00:00:00Z", "until": "2026-01-01T00:00:00Z"}, "more than 400 days"),
        ({"since": "2026-01-01T00:00:00Z", "until": "2026-06-01T00:00:00Z", "by": "hour"}, "more than 1000 groups"),
        ({"since": "2199-01-01T00:00:00Z"}, "is empty"),
        ({"until": "0001-01-02T00:00:00Z"}, "year 1"),
        ({"since": "0001-01-01T00:00:00Z", "until": "0001-01-02T00:00:00Z", "time_zone": "America/Lima"}, "zone"),
    ],
)
def test_summaries_that_are_not_possible_are_refused(
    records: RunningService, query: dict[str, str], message: str
) -> None:
    problem = assert_problem(records.client.get(SUMMARY, params=query), 422, "invalid-request")
    assert message in str(problem)


def test_summary_with_too_many_names_is_refused(serve: Serve) -> None:
    rows = [make_row(lot=f"L{number}").columns() for number in range(1001)]
    with serve() as service:
        with transaction(service.store.engine, "rows cannot be stored") as connection:
            connection.execute(insert(InspectionRow), rows)
        problem = assert_problem(service.client.get(SUMMARY, params={"by": "lot"}), 422, "invalid-request")
        assert "by=lot results in more than 1000 groups" in problem["detail"]
        assert service.fetch(SUMMARY)["total"]["total"] == 1001, "the last 7 days by default"


def test_client_summarises(records: RunningService) -> None:
    with Client(f"http://127.0.0.1:{records.port}") as plumbline:
        found = plumbline.summary("shift", since=START, until=START + timedelta(days=2), shifts=["06:00", "18:00"])
    assert found.by == "shift"
    assert len(found.groups) == 5
