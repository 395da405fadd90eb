"""Measure pages of filtered lists of inspections, and what their indexes add to an insert.

    python -m benchmarks.query_pages --rows 1000000
    python -m benchmarks.query_pages --rows 1000000 --url postgresql+psycopg://USER:PASSWORD@HOST/EMPTY_DATABASE

Fills an empty database with generated inspections of one year: SQLite in a temporary folder, or the PostgreSQL database
of `--url`. Then it reads pages of 50 inspections through the function of the service for each combination of filters,
from the newest on and from random places, and prints the durations. Values that are rare, or that only occurred long
ago, are among them.
"""

from __future__ import annotations

import json
import math
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer
from sqlalchemy import Connection, Engine, Index, insert, text

from service.store.database import make_engine, migrate
from service.store.inspection_filter import InspectionFilter
from service.store.inspections import RARE_SCORES, list_inspections
from service.store.models import InspectionRow
from service.store.session import transaction

PAGE = 50
START = datetime(2026, 1, 1, tzinfo=UTC)
SPAN = timedelta(days=365)
LOT_SIZE = 2000
LOG_SCORE = statistics.NormalDist(-1.0, 0.3)
NEW_INDEXES = {
    f"ix_inspections_{name}"
    for name in (
        "decision_id", "product_station_decision_id", "station_decision_id", "lot_decision_id", "product_score_id",
        "clock_set",
    )
}  # fmt: skip
REGION = {"bbox": [12, 30, 20, 18], "polygon": [[12, 30], [32, 30], [32, 48]], "area_px": 280, "peak": 0.61,
          "peak_xy": [20, 40]}  # fmt: skip
TIMINGS = {"decode": 2.1, "preprocess": 0.8, "queue": 0.2, "infer": 21.0, "postprocess": 1.5, "store": 4.0}
QUALITY = {"brightness": 120.5, "dark_share": 0.01, "bright_share": 0.0, "sharpness": 310.2, "contrast": 41.0}

SAME: dict[str, Any] = {
    "fail_threshold": 0.9,
    "review_threshold": 0.8,
    "target_false_reject_rate": 0.01,
    "certified": True,
    "calibration_count": 200,
    "heatmap_low": 0.1,
    "heatmap_high": 0.9,
    "bundle_digest": "d" * 64,
    "bundle_version": "d" * 12,
    "method": "dual_teacher",
    "provider": "cpu",
    "recipe_revision": 3,
    "image_media_type": "image/png",
    "image_width": 1280,
    "image_height": 1024,
    "image_bytes": 1_400_000,
    "image_sha256": "e" * 64,
    "timings_ms": TIMINGS,
    "batch_size": 1,
    "quality": QUALITY,
}
"""The columns that are the same in all rows."""


def make_rows(count: int, rng: random.Random) -> Iterator[dict[str, Any]]:
    """Yield the columns that differ between inspections, oldest first."""
    for number in range(count):
        moment = START + SPAN * (number / count)
        # The first hundredth comes from a product and a station that exist no more.
        is_old = number < count // 100
        product = "retired" if is_old else rng.choices(("washer", "nut", "bolt", "rivet"), (60, 30, 9.9, 0.1))[0]
        decision = rng.choices(("pass", "review", "fail", "invalid"), (96.5, 2, 1.3, 0.2))[0]
        is_judged = decision != "invalid"
        yield {
            "id": str(UUID(int=int(moment.timestamp() * 1000) << 80 | 7 << 76 | 2 << 62 | number)),
            "created_at": moment,
            "product": product,
            "decision": decision,
            "score": rng.lognormvariate(LOG_SCORE.mean, LOG_SCORE.stdev) if is_judged else None,
            "p_value": 0.5 if is_judged else None,
            "regions": [REGION] if decision in {"fail", "review"} else [],
            "part_id": f"P{number:09d}",
            "station": "line-0" if is_old else f"line-{rng.randint(1, 6)}",
            "lot": f"L{number // LOT_SIZE:06d}",
        }


def fill(engine: Engine, count: int) -> None:
    """Insert rows without indexes, then make the indexes, which is faster."""
    indexes = _indexes()
    names = [column.name for column in InspectionRow.__table__.columns]
    with _without_timeout(engine) as connection:
        for index in indexes:
            index.drop(connection)
        rows = _stored(engine, names, make_rows(count, random.Random(1)))
        cursor: Any = connection.connection.cursor()
        if engine.dialect.name == "postgresql":
            with cursor.copy(f"COPY inspections ({', '.join(names)}) FROM STDIN") as copy:
                for row in rows:
                    copy.write_row(row)
        else:
            places = ", ".join("?" * len(names))
            cursor.executemany(f"INSERT INTO inspections ({', '.join(names)}) VALUES ({places})", rows)  # noqa: S608
        for index in indexes:
            index.create(connection)
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("SET statement_timeout = 0")
            connection.execute(text("VACUUM ANALYZE inspections"))


def _stored(engine: Engine, names: Sequence[str], rows: Iterator[dict[str, Any]]) -> Iterator[list[Any]]:
    """Yield rows as the database stores them. The values of most columns are the same in all rows."""
    dialect = engine.dialect
    table = InspectionRow.__table__
    processors = {column.name: column.type.dialect_impl(dialect).bind_processor(dialect) for column in table.columns}

    def stored(name: str, value: Any) -> Any:
        processor = processors[name]
        return value if processor is None or value is None else processor(value)

    template = [stored(name, SAME.get(name)) for name in names]
    places = {name: place for place, name in enumerate(names)}
    regions = {size: stored("regions", [REGION] * size) for size in (0, 1)}
    for row in rows:
        made = template.copy()
        for name, value in row.items():
            made[places[name]] = regions[len(value)] if name == "regions" else stored(name, value)
        yield made


@contextmanager
def _without_timeout(engine: Engine) -> Iterator[Connection]:
    with transaction(engine, "the rows cannot be stored") as connection:
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        yield connection


def _indexes() -> list[Index]:
    return sorted(InspectionRow.__table__.indexes, key=lambda index: str(index.name))  # type: ignore[attr-defined]


def filters(count: int) -> dict[str, InspectionFilter]:
    """Return the combinations of filters that are measured."""
    everything = InspectionFilter()
    day, month = timedelta(days=1), timedelta(days=30)
    recent = START + SPAN - month
    lot = f"L{count // LOT_SIZE // 2:06d}"
    return {
        "none": everything,
        "product": InspectionFilter(product="washer"),
        "product, rare": InspectionFilter(product="rivet"),
        "product, only long ago": InspectionFilter(product="retired"),
        "product, absent": InspectionFilter(product="none"),
        "decision": InspectionFilter(decisions=("fail",)),
        "decisions": InspectionFilter(decisions=("review", "fail", "invalid")),
        "product and decision": InspectionFilter(product="rivet", decisions=("invalid",)),
        "station": InspectionFilter(station="line-1"),
        "station, only long ago": InspectionFilter(station="line-0"),
        "station and decision": InspectionFilter(station="line-1", decisions=("invalid",)),
        "product and station": InspectionFilter(product="washer", station="line-2"),
        "product and station, never together": InspectionFilter(product="washer", station="line-0"),
        "lot": InspectionFilter(lot=lot),
        "lot and decision": InspectionFilter(lot=lot, decisions=("fail",)),
        "lot and product, rare": InspectionFilter(lot=lot, product="rivet"),
        "part": InspectionFilter(part_id=f"P{count // 2:09d}"),
        "part and station": InspectionFilter(part_id=f"P{count // 2:09d}", station="line-0"),
        "since": InspectionFilter(since=recent),
        "until, long ago": InspectionFilter(until=START + month),
        "a day": InspectionFilter(since=START + 90 * day, until=START + 91 * day),
        "a day, product and decision": InspectionFilter(
            since=START + 90 * day, until=START + 91 * day, product="rivet", decisions=("fail",)
        ),
        "a day, station": InspectionFilter(since=START + 90 * day, until=START + 91 * day, station="line-1"),
        "scores, half": InspectionFilter(product="washer", min_score=0.37),
        "scores, rare": InspectionFilter(product="washer", min_score=1.2),
        "scores, narrow": InspectionFilter(product="washer", min_score=0.8, max_score=0.81),
        "scores, rare, any product": InspectionFilter(min_score=1.2),
        "scores, rare, and station": InspectionFilter(product="washer", station="line-1", min_score=1.1),
        "scores, just few enough to sort": InspectionFilter(product="washer", min_score=_score_above(count, 0.9)),
        "scores, just too many to sort": InspectionFilter(product="washer", min_score=_score_above(count, 1.1)),
        "scores, none": InspectionFilter(product="washer", min_score=1e9),
    }


@dataclass(frozen=True)
class Durations:
    """Durations of pages in milliseconds.

    Attributes:
        p50_ms: Median.
        p95_ms: 95th percentile.
        cpu_p95_ms: 95th percentile of the CPU time, which other programs do not affect. Without the server's.
    """

    p50_ms: float
    p95_ms: float
    cpu_p95_ms: float


def _score_above(count: int, part: float) -> float:
    """Return the score that `part` x `RARE_SCORES` inspections of the largest product exceed."""
    share = min(0.5, part * RARE_SCORES / (0.6 * count))
    return math.exp(LOG_SCORE.inv_cdf(1 - share))


def measure(engine: Engine, which: InspectionFilter, cursors: Sequence[UUID | None]) -> Durations:
    """Read one page from each place."""
    durations, cpu = [], []
    for before in cursors:
        started, cpu_started = time.perf_counter(), time.thread_time()
        list_inspections(engine, which, before=before, limit=PAGE + 1)
        cpu.append((time.thread_time() - cpu_started) * 1000)
        durations.append((time.perf_counter() - started) * 1000)
    last = min(len(durations) - 1, round(0.95 * len(durations)))
    return Durations(statistics.median(durations), sorted(durations)[last], sorted(cpu)[last])


def insert_cost(engine: Engine, day: int, rounds: int = 5) -> float:
    """Return the milliseconds that 1000 inserts take in transactions of 25: the smallest of several rounds.

    Args:
        engine: The database.
        day: Day after the last row; the ids of each call must be new.
        rounds: Number of rounds.
    """
    rng = random.Random(day)
    durations = []
    for hour in range(rounds):
        first = START + SPAN + timedelta(days=day, hours=hour)
        moments = [first + timedelta(seconds=number) for number in range(1000)]
        ids = [str(UUID(int=int(moment.timestamp() * 1000) << 80 | 7 << 76 | 2 << 62)) for moment in moments]
        rows = [
            {**SAME, **row, "id": name, "created_at": moment, "station": "line-1"}
            for row, name, moment in zip(make_rows(1000, rng), ids, moments, strict=True)
        ]
        started = time.perf_counter()
        for start in range(0, len(rows), 25):
            with transaction(engine, "the rows cannot be stored") as connection:
                connection.execute(insert(InspectionRow), rows[start : start + 25])
        durations.append((time.perf_counter() - started) * 1000)
    return min(durations)


def change_indexes(engine: Engine, change: Callable[[Index, Any], None]) -> None:
    """Drop or create the indexes that only serve lists."""
    with _without_timeout(engine) as connection:
        for index in _indexes():
            if index.name in NEW_INDEXES:
                change(index, connection)


def measure_inserts(engine: Engine) -> dict[str, float]:
    """Measure what the indexes of lists add to an insert."""
    insert_cost(engine, 1)  # warms up
    with_indexes = insert_cost(engine, 2)
    change_indexes(engine, lambda index, connection: index.drop(connection))
    without = insert_cost(engine, 3)
    change_indexes(engine, lambda index, connection: index.create(connection))
    again = insert_cost(engine, 4)
    inserts = {"with_ms": with_indexes, "with_again_ms": again, "without_ms": without}
    typer.echo(f"1000 inserts, with and without the indexes of lists: {inserts}")
    return inserts


def main(
    rows: Annotated[int, typer.Option(min=1000, help="Number of inspections.")] = 1_000_000,
    url: Annotated[str | None, typer.Option(help="URL of an empty PostgreSQL database.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Folder for the temporary SQLite database.")] = None,
    filled: Annotated[
        bool, typer.Option(help="The database of --url was filled before; measure its pages only.")
    ] = False,
    repeats: Annotated[int, typer.Option(min=2, help="Pages per combination.")] = 20,
    output: Annotated[Path | None, typer.Option(help="JSON file for the results.")] = None,
) -> None:
    """Fill a database and measure pages."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        engine = make_engine(url or f"sqlite:///{temporary}/plumbline.db")
        migrate(engine)
        if not filled:
            started = time.perf_counter()
            fill(engine, rows)
            typer.echo(f"{rows} rows on {engine.dialect.name} in {time.perf_counter() - started:.0f} s")
        rng = random.Random(3)
        moments = [START + SPAN * rng.random() for _ in range(repeats)]
        cursors = [UUID(int=int(moment.timestamp() * 1000) << 80 | 7 << 76 | 2 << 62) for moment in moments]
        results: dict[str, Durations] = {}
        typer.echo(f"{'milliseconds per page':<52} {'p50':>8} {'p95':>8} {'CPU p95':>8}")
        for name, which in filters(rows).items():
            for where, starts in (("first page", [None] * repeats), ("any page", cursors)):
                found = results[f"{name}, {where}"] = measure(engine, which, starts)
                numbers = f"{found.p50_ms:8.1f} {found.p95_ms:8.1f} {found.cpu_p95_ms:8.1f}"
                typer.echo(f"{name + ', ' + where:<52} {numbers}")
        inserts = {} if filled else measure_inserts(engine)
        worst = max(found.p95_ms for found in results.values())
        typer.echo(f"largest p95: {worst:.1f} ms")
        if output is not None:
            pages = {name: asdict(found) for name, found in results.items()}
            output.write_text(json.dumps({"rows": rows, "pages": pages, "inserts_1000": inserts}, indent=2))
        engine.dispose()


if __name__ == "__main__":
    typer.run(main)
