"""Measure the removal of old records, and how long inspections wait for it.

    python -m benchmarks.record_removal --rows 300000
    python -m benchmarks.record_removal --rows 300000 --postgres

Fills a database with generated inspections of one year (`benchmarks.query_pages`) whose images were removed: SQLite in
a temporary folder, or a PostgreSQL server of the installed version. Then inspections are stored at a fixed rate, as the
service stores them (`GroupWriter`), first alone and then while the removal of the service (`RecordRemover`) removes the
oldest part. Prints JSON: the durations of the commits, and the rate of the removal.
"""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from sqlalchemy import text, update

from benchmarks.query_pages import SAME, SPAN, START, fill
from service.monitoring.clock import Clock
from service.monitoring.metrics import Metrics
from service.serving.record_removal import RecordRemover
from service.store.ids import new_id
from service.store.models import InspectionRow
from service.store.record_removal.state import record_removals
from service.store.records import InspectionRecord
from service.store.session import transaction
from service.store.store import Store
from tests.postgres import postgres_process


@dataclass
class Load:
    """Stores inspections at a fixed rate until it is stopped, and keeps the durations of the commits."""

    store: Store
    rate: float
    stopped: threading.Event = field(default_factory=threading.Event)
    durations_ms: list[float] = field(default_factory=list)

    def run(self) -> None:
        """Store inspections. One that is late does not delay the next ones: their waiting time counts as well."""
        due = time.monotonic()
        while not self.stopped.wait(max(0.0, due - time.monotonic())):
            row = {**SAME, "decision": "pass", "score": 0.3, "p_value": 0.5, "regions": [], "station": "line-1"}
            record = InspectionRecord(id=str(new_id()), created_at=datetime.now(UTC), product="washer", **row)
            self.store.writer.write(record)
            self.durations_ms.append((time.monotonic() - due) * 1000)
            due += 1 / self.rate


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


def main(
    rows: Annotated[int, typer.Option(min=1000, help="Number of inspections before.")] = 300_000,
    rate: Annotated[float, typer.Option(min=0.1, help="Inspections per second meanwhile.")] = 25.0,
    seconds: Annotated[float, typer.Option(min=1, help="Duration of the measurement without a removal.")] = 30.0,
    share: Annotated[float, typer.Option(min=0.01, max=1, help="Share of the rows that is removed.")] = 0.25,
    folder: Annotated[Path | None, typer.Option(help="Folder for the temporary files.")] = None,
    *,
    postgres: Annotated[
        bool, typer.Option("--postgres", help="Use a PostgreSQL server, which commits to disk.")
    ] = False,
) -> None:
    """Fill a database, and measure commits without and with a removal."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary, opened(Path(temporary), postgres=postgres) as store:
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
        days = (clock.now() - (START + SPAN * share)) / timedelta(days=1)
        with loaded(store, rate) as alone:
            time.sleep(seconds)
        remover = RecordRemover(store, f"{days:.6f}", Metrics().storage, clock, grace=timedelta(0))
        stop, started = threading.Event(), time.monotonic()
        with loaded(store, rate) as beside:
            while remover.sweep(stop):
                pass
            took_s = time.monotonic() - started
        removed = sum(each.removed for each in record_removals(store.engine))
    report: dict[str, Any] = {
        "database": "postgresql" if postgres else "sqlite",
        "rows": rows,
        "inspections_per_s": rate,
        "alone": measured(alone.durations_ms),
        "during_removal": measured(beside.durations_ms),
        "removed": removed,
        "removal_s": round(took_s, 1),
        "removed_per_s": round(removed / took_s),
    }
    typer.echo(json.dumps(report, indent=2))


if __name__ == "__main__":
    typer.run(main)
