"""Every combination of filters finds what a plain loop finds, page by page, and reads an index in the order of ids."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, insert

from service.store import inspections
from service.store.ids import created_at
from service.store.inspection_filter import InspectionFilter
from service.store.inspections import list_inspections, page_statements, score_statement
from service.store.models import InspectionLabelRow, InspectionRow
from service.store.records import InspectionRecord
from service.store.session import reading, transaction
from service.store.summary import count_inspections
from tests.databases import migrated_engine, recorded_statements
from tests.postgres import PostgresServer
from tests.service.store.test_store import make_row

START = datetime(2026, 3, 28, 12, tzinfo=UTC)
COUNT = 400


def id_at(moment: datetime, number: int) -> UUID:
    """Return a UUIDv7 with a time."""
    milliseconds = int(moment.timestamp() * 1000)
    return UUID(int=milliseconds << 80 | 7 << 76 | 2 << 62 | number)


def make_records() -> list[InspectionRecord]:
    """Return records of all kinds; in some, the clock was set between the id and the time."""
    random_ = random.Random(7)
    records = []
    for number in range(COUNT):
        moment = START + timedelta(minutes=7 * number)
        # The clock was set back by 10 days while the ids continued, and later forward in between.
        set_by = {0: timedelta(days=-10), 1: timedelta(days=3)}.get(number % 50, timedelta())
        decision = random_.choice(["pass", "pass", "pass", "review", "fail", "invalid"])
        records.append(
            make_row(
                id=str(id_at(moment, number)),
                created_at=moment + set_by,
                product=random_.choice(["washer", "nut", "bolt"]),
                decision=decision,
                score=None if decision == "invalid" else random_.random(),
                station=random_.choice([None, "A", "B"]),
                lot=random_.choice([None, "L1", "L2", "L3"]),
                part_id=random_.choice([None, "1", "2", "3", "4"]),
            )
        )
    return records


RECORDS = make_records()
VALUES: dict[str, Sequence[Any]] = {
    "product": [None, "washer", "nail"],
    "decisions": [(), ("fail",), ("review", "pass"), ("fail", "fail")],
    "station": [None, "A"],
    "lot": [None, "L2"],
    "part_id": [None, "3"],
    "period": [
        (None, None),
        (START + timedelta(hours=5), None),
        (None, START + timedelta(hours=30)),
        (START + timedelta(hours=5), START + timedelta(hours=30)),
    ],
    "scores": [(None, None), (0.9, None), (None, 0.05), (0.4, 0.6)],
    "permitted": [(None, None), (None, None), (("nut", "washer"), None), (None, ("A", "C")), (("nut",), ("A", "B"))],
    "ids": [None, (*(UUID(record.id) for record in RECORDS[::5]), id_at(START, 99999))],
}


def all_filters() -> list[InspectionFilter]:
    """Return every combination of the values."""
    found = []
    for values in itertools.product(*VALUES.values()):
        given = dict(zip(VALUES, values, strict=True))
        since, until = given.pop("period")
        low, high = given.pop("scores")
        products, stations = given.pop("permitted")
        permitted = {"permitted_products": products, "permitted_stations": stations}
        found.append(InspectionFilter(**given, **permitted, since=since, until=until, min_score=low, max_score=high))
    return found


FILTERS = all_filters()


def matches(which: InspectionFilter, record: InspectionRecord) -> bool:
    """Return whether a record meets the conditions, by a plain comparison."""
    for name in ("product", "station", "lot", "part_id"):
        if getattr(which, name) is not None and getattr(which, name) != getattr(record, name):
            return False
    if which.min_score is not None and (record.score is None or record.score < which.min_score):
        return False
    if which.max_score is not None and (record.score is None or record.score > which.max_score):
        return False
    return (
        (not which.decisions or record.decision in which.decisions)
        and (which.since is None or record.created_at >= which.since)
        and (which.until is None or record.created_at < which.until)
        and (which.ids is None or UUID(record.id) in which.ids)
        and (which.permitted_products is None or record.product in which.permitted_products)
        and (which.permitted_stations is None or record.station in which.permitted_stations)
    )


@pytest.fixture(scope="module")
def sqlite_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    made = migrated_engine(f"sqlite:///{tmp_path_factory.mktemp('db') / 'plumbline.db'}")
    fill(made)
    yield made
    made.dispose()


@pytest.fixture(scope="module")
def postgres_engine(postgres: PostgresServer) -> Iterator[Engine]:
    with postgres.database() as url:
        made = migrated_engine(url)
        fill(made)
        yield made
        made.dispose()


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def engine(request: pytest.FixtureRequest) -> Engine:
    found: Engine = request.getfixturevalue(f"{request.param}_engine")
    return found


def fill(engine: Engine) -> None:
    with transaction(engine, "records cannot be stored") as connection:
        connection.execute(insert(InspectionRow), [record.columns() for record in RECORDS])


def expected_ids(which: InspectionFilter) -> list[str]:
    return sorted((record.id for record in RECORDS if matches(which, record)), reverse=True)


def check_pages(engine: Engine, which: InspectionFilter, size: int) -> None:
    found: list[str] = []
    before: UUID | None = None
    while page := list_inspections(engine, which, before=before, limit=size):
        found += [record.id for record in page]
        before = UUID(page[-1].id)
        if len(page) < size:
            break
    expected = expected_ids(which)
    assert found == expected, which
    middle = UUID(RECORDS[COUNT // 2].id)
    following = [one for one in reversed(expected) if one > str(middle)]
    assert [one.id for one in list_inspections(engine, which, after=middle, limit=7)] == following[:7], which


def test_the_records_contain_times_that_differ_from_those_of_their_ids() -> None:
    assert sum(abs(created_at(UUID(record.id)) - record.created_at) > timedelta(days=1) for record in RECORDS) == 16


@pytest.mark.parametrize("products", [("washer", "nut"), (*tuple(f"p{number}" for number in range(300)), "nut")])
def test_a_key_may_permit_many_products(engine: Engine, products: tuple[str, ...]) -> None:
    for which in (InspectionFilter(), InspectionFilter(station="A"), InspectionFilter(decisions=("fail", "pass"))):
        check_pages(engine, replace(which, permitted_products=products), 40)


@pytest.mark.parametrize("rare_scores", [-1, 3, 30_000])
def test_every_combination_of_filters_finds_what_a_loop_finds(
    engine: Engine, rare_scores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspections, "RARE_SCORES", rare_scores)
    for which in random.Random(rare_scores).sample(FILTERS, 90):
        check_pages(engine, which, 40)


def test_a_page_has_all_columns_of_its_records(engine: Engine) -> None:
    by_id = {record.id: record for record in RECORDS}
    for which in (InspectionFilter(product="nut"), InspectionFilter(station="A"), InspectionFilter(min_score=0.9)):
        for record in list_inspections(engine, which):
            assert record == by_id[record.id]


@pytest.mark.parametrize("key", ["hour", "minute", "station", "lot", "product"])
def test_counts_equal_those_of_a_loop(engine: Engine, key: Any) -> None:
    for which in random.Random(3).sample(FILTERS, 40):
        counted: dict[tuple[Any, str], int] = {}
        for count in count_inspections(engine, which, key):
            pair = (count.key, count.decision)
            counted[pair] = counted.get(pair, 0) + count.number
        expected: dict[tuple[Any, str], int] = {}
        for record in RECORDS:
            if matches(which, record):
                minute = record.created_at.replace(second=0, microsecond=0)
                times = {"minute": minute, "hour": minute.replace(minute=0)}
                pair = (times[key] if key in times else getattr(record, key), record.decision)
                expected[pair] = expected.get(pair, 0) + 1
        assert counted == expected, which


def test_label_is_combined_with_the_other_conditions(tmp_path: Path) -> None:
    engine = migrated_engine(f"sqlite:///{tmp_path / 'plumbline.db'}")
    fill(engine)
    labelled = {record.id for record in RECORDS[::3]}
    rows = [{"inspection_id": one.id, "product": one.product, "label": "good"} for one in RECORDS[::3]]
    with transaction(engine, "labels cannot be stored") as connection:
        connection.execute(insert(InspectionLabelRow), rows)
    for which in random.Random(11).sample(FILTERS, 60):
        expected = [name for name in expected_ids(which) if name in labelled]
        found = list_inspections(engine, replace(which, label="good"), limit=500)
        assert [record.id for record in found] == expected, which
        counts = count_inspections(engine, replace(which, label="good"), "product")
        assert sum(count.number for count in counts) == len(expected), which
        assert not list_inspections(engine, replace(which, label="defect"))
    engine.dispose()


def plans(engine: Engine, which: InspectionFilter, before: UUID | None = None) -> list[str]:
    """Return the plan of each statement of a page, as one text per statement."""
    found = []
    with reading(engine) as session:
        for statement in page_statements(session, which, before, 51):
            compiled = str(statement.compile(engine, compile_kwargs={"literal_binds": True}))
            rows = session.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {compiled}")
            found.append("; ".join(row[3] for row in rows))
    return found


@pytest.mark.parametrize("before", [None, UUID(RECORDS[200].id)])
def test_no_page_scans_the_table_or_sorts_rows(
    sqlite_engine: Engine, before: UUID | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspections, "RARE_SCORES", -1)
    for which in random.Random(5).sample(FILTERS, 300):
        for plan in plans(sqlite_engine, which, before):
            # The whole table in the order of ids, or the few rows whose clock was set.
            is_ordered = any(name in plan for name in ("sqlite_autoindex_inspections_1", "ix_inspections_clock_set"))
            assert "SCAN" not in plan or is_ordered, (which, plan)
            assert "TEMP B-TREE" not in plan, (which, plan)


@pytest.mark.parametrize(
    ("which", "index"),
    [
        (InspectionFilter(), "sqlite_autoindex_inspections_1"),
        (InspectionFilter(product="a"), "ix_inspections_product_id (product=?)"),
        (InspectionFilter(product="a", decisions=("fail",)), "product_decision_id (product=? AND decision=?)"),
        (InspectionFilter(decisions=("fail",)), "ix_inspections_decision_id (decision=?)"),
        (InspectionFilter(station="a"), "ix_inspections_station_decision_id (station=? AND decision=?)"),
        (
            InspectionFilter(product="a", station="a"),
            "ix_inspections_product_station_decision_id (product=? AND station=? AND decision=?)",
        ),
        (InspectionFilter(product="a", lot="a"), "ix_inspections_lot_decision_id (lot=? AND decision=?)"),
        (InspectionFilter(product="a", lot="a", part_id="a", station="a"), "ix_inspections_part_id_id (part_id=?)"),
    ],
)
def test_the_most_selective_index_is_read(sqlite_engine: Engine, which: InspectionFilter, index: str) -> None:
    for plan in plans(sqlite_engine, which):
        assert index in plan


def test_a_period_is_found_by_the_ids_and_by_the_index_of_set_clocks(sqlite_engine: Engine) -> None:
    which = InspectionFilter(product="nut", since=START, until=START + timedelta(days=1))
    inside, clock_set = plans(sqlite_engine, which)
    assert "ix_inspections_product_id (product=? AND id>? AND id<?)" in inside
    assert "ix_inspections_clock_set" in clock_set


def test_few_scores_are_found_by_score_and_many_by_id(sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    which = InspectionFilter(min_score=0.9)
    with recorded_statements(sqlite_engine) as statements:
        few = list_inspections(sqlite_engine, which, limit=20)
    by_score = [statement for statement in statements if "in_range" in statement]
    assert len(by_score) == 1  # counting and reading are one statement, so that the index is read once
    assert "ORDER BY inspections.id" not in "".join(statements)
    monkeypatch.setattr(inspections, "RARE_SCORES", 3)
    with recorded_statements(sqlite_engine) as statements:
        assert list_inspections(sqlite_engine, which, limit=20) == few
    assert "ORDER BY inspections.id" in statements[-1]
    assert "ix_inspections_product_id" in plans(sqlite_engine, replace(which, product="nut"))[0]


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_a_range_of_scores_is_read_once_from_its_index(dialect: str, request: pytest.FixtureRequest) -> None:
    engine: Engine = request.getfixturevalue("sqlite_engine" if dialect == "sqlite" else "large_postgres_engine")
    explain = "EXPLAIN QUERY PLAN" if dialect == "sqlite" else "EXPLAIN"
    for which in (InspectionFilter(product="p1", min_score=0.999), InspectionFilter(min_score=0.999, station="s1")):
        with reading(engine) as session:
            statement = score_statement(session, which, UUID(RECORDS[200].id), 51)
            compiled = statement.compile(engine, compile_kwargs={"literal_binds": True})
            rows = session.connection().exec_driver_sql(f"{explain} {compiled}").all()
        plan = "; ".join(str(row[-1]) for row in rows)
        assert plan.count("ix_inspections_product_score_id") == 1, plan
        assert "Seq Scan" not in plan, plan
        assert "SCAN inspections" not in plan, plan


GENERATED = "id, created_at, product, station, lot, decision, score"
SELECTED = """
SELECT lpad(to_hex(ms >> 16), 8, '0') || '-' || lpad(to_hex(ms & 65535), 4, '0') || '-7000-8000-'
       || lpad(to_hex(number), 12, '0'),
       to_timestamp(ms / 1000), 'p' || mod(number, 7), 's' || mod(number, 40), 'l' || number / 200,
       CASE WHEN mod(number, 50) = 0 THEN 'fail' ELSE 'pass' END, random()
"""
FROM = """
FROM inspections,
     (SELECT number, 1774699200000 + number * 60000 AS ms FROM generate_series(1::bigint, 30000) number) AS made
"""


@pytest.fixture(scope="module")
def large_postgres_engine(postgres: PostgresServer) -> Iterator[Engine]:
    """A database in which PostgreSQL has reason to use indexes."""
    with postgres.database() as url:
        made = migrated_engine(url)
        names = [column.name for column in InspectionRow.__table__.columns]
        others = ", ".join(name for name in names if name not in GENERATED.split(", "))
        with transaction(made, "rows cannot be stored") as connection:
            connection.execute(insert(InspectionRow), [RECORDS[0].columns()])
            connection.exec_driver_sql(f"INSERT INTO inspections ({GENERATED}, {others}) {SELECTED}, {others} {FROM}")
            connection.exec_driver_sql("ANALYZE inspections")
        yield made
        made.dispose()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("which", "indexes"),
    [
        (InspectionFilter(product="p1", decisions=("fail",)), ["product_decision_id"]),
        (InspectionFilter(decisions=("fail",)), ["decision_id"]),
        (InspectionFilter(station="s1", decisions=("fail",)), ["station_decision_id"]),
        (InspectionFilter(product="p1", station="s1", decisions=("pass",)), ["product_station_decision_id"]),
        (InspectionFilter(product="p1", lot="l9", decisions=("pass",)), ["lot_decision_id"]),
        (InspectionFilter(product="p1", until=START + timedelta(days=1)), ["product_id", "clock_set"]),
    ],
)
def test_postgresql_reads_an_index(large_postgres_engine: Engine, which: InspectionFilter, indexes: list[str]) -> None:
    with reading(large_postgres_engine) as session:
        for statement, index in zip(page_statements(session, which, None, 51), indexes, strict=True):
            compiled = statement.compile(large_postgres_engine, compile_kwargs={"literal_binds": True})
            plan = "; ".join(row[0] for row in session.connection().exec_driver_sql(f"EXPLAIN {compiled}"))
            # The primary key where the planner expects that few rows have to be skipped.
            assert f"ix_inspections_{index} " in plan or "using pk_inspections " in plan, plan
            assert "Seq Scan" not in plan, plan
