"""Measure the removal of old records, and how long inspections wait for it.

    python -m benchmarks.record_removal [--write]

Fills databases with generated inspections of one year (`benchmarks.query_pages`) whose images were removed: SQLite in a
temporary folder, and PostgreSQL on a server of the installed version that commits to disk. Then inspections are stored
at a fixed rate, as the service stores them (`GroupWriter`), in turn alone and while the removal of the service
(`RecordRemover`) removes the oldest rows. Prints JSON: the durations of the commits, and the rate of the removal.
"""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from sqlalchemy import text, update

from benchmarks.marked_section import write_section
from benchmarks.query_pages import SAME, SPAN, START, fill
from service.monitoring.clock import Clock
from service.monitoring.metrics import Metrics
from service.serving.record_removal import SWEEP_S, RecordRemover
from service.store.ids import new_id
from service.store.models import InspectionRow
from service.store.record_removal.state import record_removals
from service.store.records import InspectionRecord
from service.store.session import transaction
from service.store.store import Store
from tests.postgres import postgres_process

DOCUMENT = Path(__file__).parents[1] / "docs" / "how-to" / "old-records.md"
CAMERAS = 16
"""Inspections that are stored at the same time at most."""


def inspection(moment: datetime) -> InspectionRecord:
    """Return an inspection to store."""
    row = {**SAME, "decision": "pass", "score": 0.3, "p_value": 0.5, "regions": [], "station": "line-1"}
    return InspectionRecord(id=str(new_id()), created_at=moment, product="washer", **row)


@dataclass
class Load:
    """Stores inspections at a fixed rate until it is stopped, and keeps the durations of the commits."""

    store: Store
    rate: float
    stopped: threading.Event = field(default_factory=threading.Event)
    durations_ms: list[float] = field(default_factory=list)

    def run(self) -> None:
        """Store inspections. One that is late does not delay the next ones: its waiting time counts as well."""
        due = time.monotonic()
        with ThreadPoolExecutor(CAMERAS) as cameras:
            while not self.stopped.wait(max(0.0, due - time.monotonic())):
                cameras.submit(self._store, due)
                due += 1 / self.rate

    def _store(self, due: float) -> None:
        self.store.writer.write(inspection(datetime.now(UTC)))
        self.durations_ms.append((time.monotonic() - due) * 1000)


def measured(durations_ms: Sequence[float]) -> dict[str, float]:
    """Return median, 99th percentile and maximum."""
    ordered = sorted(durations_ms)
    p50, p99 = (ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in (0.5, 0.99))
    return {
        "inspections": len(ordered), "p50_ms": round(p50, 1), "p99_ms": round(p99, 1), "max_ms": round(ordered[-1], 1),
    }  # fmt: skip


@contextmanager
def loaded(store: Store, rate: float) -> Iterator[Load]:
    """Store inspections until the end of the block."""
    load = Load(store, rate)
    thread = threading.Thread(target=load.run, daemon=True)
    thread.start()
    try:
        yield load
    finally:
        load.stopped.set()
        thread.join()


@contextmanager
def opened(folder: Path, *, postgres: bool) -> Iterator[Store]:
    """Open a store on an empty database."""
    if not postgres:
        store = Store.open(f"sqlite:///{folder / 'plumbline.db'}", folder)
        yield store
        store.close()
        return
    with postgres_process(is_durable=True) as server, server.database() as url:
        store = Store.open(url, folder)
        yield store
        store.close()


def measure(folder: Path, rows: int, rate: float, rounds: int, *, postgres: bool) -> dict[str, Any]:
    """Fill a database, and measure commits without and with a removal in turn, because other programs disturb both."""
    with opened(folder, postgres=postgres) as store:
        fill(store.engine, rows)
        with transaction(store.engine, "the rows cannot be changed") as connection:
            if postgres:
                connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
            connection.execute(update(InspectionRow).values(artefacts_removed_at=START + SPAN))
        if not postgres:
            with store.engine.connect() as connection:
                connection.execute(text("PRAGMA wal_checkpoint(TRUNCATE)"))
        # The generated inspections are of a fixed year, which may not have ended.
        ahead_s = max(0.0, (START + SPAN).timestamp() - time.time())
        clock = Clock(wall_s=lambda: time.time() + ahead_s)
        # Nothing is removed if no inspection is stored from before the last hours: the clock may be wrong.
        store.writer.write(inspection(clock.now() - timedelta(hours=8)))
        remover = RecordRemover(store, "1", Metrics().storage, clock, grace=timedelta(0))
        alone, beside, took_s = list[float](), list[float](), 0.0
        for _ in range(rounds):
            with loaded(store, rate) as load:
                time.sleep(SWEEP_S)
            alone += load.durations_ms
            started = time.monotonic()
            with loaded(store, rate) as load:
                is_incomplete = remover.sweep(threading.Event())
            took_s += time.monotonic() - started
            beside += load.durations_ms
            if not is_incomplete:
                raise RuntimeError("all rows were removed before the end of the measurement; use more --rows")
        removed = sum(each.removed for each in record_removals(store.engine))
    return {
        "rows": rows,
        "inspections_per_s": rate,
        "alone": measured(alone),
        "during_removal": measured(beside),
        "removed": removed,
        "removed_per_s": round(removed / took_s),
    }


def table(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """Format the reports of both databases as Markdown."""
    rows = [("", *reports), ("---", *("---:" for _ in reports))]
    first = next(iter(reports.values()))
    rate = f"{first['inspections_per_s']:g} inspections per second, {first['rows']:,} rows"
    for key, title in (("p50_ms", "median"), ("p99_ms", "99 %"), ("max_ms", "longest")):
        cells = (f"{each['alone'][key]} / {each['during_removal'][key]}" for each in reports.values())
        rows.append((f"commit of an inspection, {title}, without / with a removal, ms", *cells))
    rows.append(("records removed per second", *(f"{each['removed_per_s']:,}" for each in reports.values())))
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return f"{rate}:\n\n" + "\n".join([lines[0], lines[1].replace(" ", ""), *lines[2:]])


def main(
    rows: Annotated[int, typer.Option(min=1000, help="Number of inspections before.")] = 300_000,
    rate: Annotated[float, typer.Option(min=0.1, help="Inspections per second meanwhile.")] = 25.0,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of 10 s without and 10 s with a removal.")] = 4,
    folder: Annotated[Path | None, typer.Option(help="Folder for the temporary files.")] = None,
    *,
    write: Annotated[bool, typer.Option("--write", help="Write the table into docs/how-to/old-records.md.")] = False,
) -> None:
    """Measure SQLite and PostgreSQL."""
    reports = {}
    for name in ("SQLite", "PostgreSQL"):
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            reports[name] = measure(Path(temporary), rows, rate, rounds, postgres=name == "PostgreSQL")
    typer.echo(json.dumps(reports, indent=2))
    if write:
        write_section("record-removal", table(reports), DOCUMENT)


if __name__ == "__main__":
    typer.run(main)
