"""Measure how long `plumbline bundle prune` reads the inspections to find out which bundles judged them.

    python -m benchmarks.bundle_references [--rows 1000000]

Fills databases with generated inspections (`benchmarks.query_pages`): SQLite in a temporary folder, and PostgreSQL on a
server of the installed version. Prints JSON: the size of the database, and the duration of each reading of all
inspections. The files are in the cache of the operating system, so a disk that is slower than the CPU is not measured.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.query_pages import fill
from benchmarks.record_removal import opened
from service.store.bundles.references import judged_bundles


def measure(folder: Path, rows: int, rounds: int, *, postgres: bool) -> dict[str, Any]:
    """Return the durations with one database."""
    with opened(folder, postgres=postgres) as store:
        fill(store.engine, rows)
        durations = []
        for _ in range(rounds):
            started = time.perf_counter()
            judged_bundles(store.engine)
            durations.append(round(time.perf_counter() - started, 2))
        return {"rows": rows, "durations_s": durations}


def main(
    rows: Annotated[int, typer.Option(help="Number of inspections.")] = 1_000_000,
    rounds: Annotated[int, typer.Option(help="Number of readings.")] = 3,
) -> None:
    """Measure both databases, and print the results."""
    reports = {}
    for name in ("SQLite", "PostgreSQL"):
        with tempfile.TemporaryDirectory() as folder:
            reports[name] = measure(Path(folder), rows, rounds, postgres=name == "PostgreSQL")
    typer.echo(json.dumps(reports, indent=2))


if __name__ == "__main__":
    typer.run(main)
