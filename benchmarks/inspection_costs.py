"""Measure what one inspection costs in processor time, files, database, write-ahead log and network.

    python -m benchmarks.inspection_costs --product washer
    python -m benchmarks.inspection_costs --product washer --width 4096 --height 3000 --noise 2 --scaled

Starts a PostgreSQL server of the installed version, whose commits wait for the disk, and a service that stores in it.
One client posts a golden sample of the bundle, without pauses. Then rows like those of inspections are inserted into an
empty database in transactions of 25, for the size of many rows with their indexes. Prints JSON, per inspection:

- `service_cpu_ms`, `postgres_cpu_ms`: processor time of the service and of the server;
- `request_bytes`, `response_bytes`: bodies and heads of HTTP;
- `image_bytes`, `map_bytes`: files of the store;
- `wal_bytes`: write-ahead log of PostgreSQL, one commit per inspection;
- `row_bytes`, `index_bytes`: table with its TOAST, and indexes, of `--rows` rows, and `row_wal_bytes` per row.

These are the costs of `benchmarks.capacity`.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import tempfile
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Annotated, Any

import typer
from sqlalchemy import Engine, insert, text

from benchmarks.derived_bundle import with_input
from benchmarks.load import good_jpeg, require_judged
from benchmarks.overload import cpu_s
from benchmarks.query_pages import SAME, make_rows
from service.bundle.bundle import Bundle, bundle_folders
from service.inspection.runtime.configure import configure
from service.store.database import make_engine, migrate
from service.store.models import InspectionRow
from service.store.session import transaction
from tests.postgres import PostgresServer, postgres_process
from tests.serving import service_process

GROUP = 25  # rows per transaction
WARM_UP = 10


def main(
    product: Annotated[str, typer.Option(help="Product to inspect.")],
    models: Annotated[Path, typer.Option(help="Model repository.")] = Path("models"),
    width: Annotated[int, typer.Option(min=32, help="Width of the image, pixels.")] = 1024,
    height: Annotated[int, typer.Option(min=32, help="Height of the image, pixels.")] = 1024,
    noise: Annotated[float, typer.Option(min=0, help="Noise of the image's pixels, gray levels.")] = 0,
    scaled: Annotated[bool, typer.Option("--scaled", help="Serve a copy of the bundle with scaled decoding.")] = False,
    count: Annotated[int, typer.Option(min=10, help="Number of inspections.")] = 200,
    rows: Annotated[int, typer.Option(min=GROUP, help="Number of rows.")] = 20_000,
) -> None:
    """Measure the costs."""
    configure()
    data = good_jpeg(models, product, (width, height), noise)
    report: dict[str, Any] = {"product": product, "image_wh": [width, height], "scaled": scaled, "count": count}
    with ExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory()))
        if scaled or (width, height) != (1024, 1024):
            bundle = Bundle.load(bundle_folders((models / product).absolute())[0])
            models = folder / "models"
            jpeg = "scaled" if scaled else bundle.manifest.input.jpeg
            with_input(bundle, models, sent_wh=(width, height), jpeg=jpeg)
        server = running.enter_context(postgres_process(is_durable=True))
        url = running.enter_context(server.database())
        report |= _inspect(models.absolute(), product, data, folder / "data", server, url, count)
        report["rows"] = rows
        report |= measure_rows(running.enter_context(server.database()), rows)
    typer.echo(json.dumps(report, indent=2))


def _inspect(
    models: Path, product: str, data: bytes, folder: Path, server: PostgresServer, url: str, count: int
) -> dict[str, float]:
    """Post images and return the costs of each."""
    path = f"/v1/products/{product}/inspections"
    sent = received = 0
    with service_process(models, folder, {"provider": "cpu", "database_url": url}) as service:
        service.wait_until(200)
        require_judged(service, product, data)
        engine = make_engine(url)
        with closing(http.client.HTTPConnection(service.url.removeprefix("http://"), timeout=60)) as client:
            before = (0.0, 0.0, 0)
            for number in range(-WARM_UP, count):
                if number == 0:
                    before = (cpu_s(service), server_cpu_s(server), wal_position(engine))
                client.request("POST", path, data, {"content-type": "image/jpeg"})
                response = client.getresponse()
                body = response.read()
                if response.status != 201:
                    raise RuntimeError(f"{response.status}: {body.decode()}")
                # The head of the request as http.client writes it, and that of the response.
                sent = len(data) + len(f"POST {path} HTTP/1.1\r\ncontent-type: image/jpeg\r\n") + 80
                received = len(body) + sum(len(name) + len(value) + 4 for name, value in response.getheaders()) + 20
            after = (cpu_s(service), server_cpu_s(server), wal_position(engine))
        engine.dispose()
        files = [file for file in (folder / "inspections").rglob("*") if file.is_file()]
    stored = WARM_UP + count + 1  # with the one of `require_judged`
    images = sum(file.stat().st_size for file in files if file.suffix in (".jpg", ".jpeg"))
    total = sum(file.stat().st_size for file in files)
    service_s, postgres_s, wal = (later - earlier for later, earlier in zip(after, before, strict=True))
    return {
        "service_cpu_ms": round(1000 * service_s / count, 2),
        "postgres_cpu_ms": round(1000 * postgres_s / count, 2),
        "request_bytes": sent,
        "response_bytes": received,
        "image_bytes": round(images / stored),
        "map_bytes": round((total - images) / stored),
        "wal_bytes": round(wal / count),
    }


def measure_rows(url: str, count: int) -> dict[str, int]:
    """Insert rows into an empty database and return the bytes that each needs."""
    engine = make_engine(url)
    migrate(engine)
    wal = wal_position(engine)
    group: list[dict[str, Any]] = []
    for number, row in enumerate(make_rows(count, random.Random(1)), 1):
        group.append({**SAME, **row})
        if len(group) == GROUP or number == count:
            with transaction(engine, "the rows cannot be stored") as connection:
                connection.execute(insert(InspectionRow), group)
            group = []
    written = wal_position(engine) - wal
    with engine.connect() as connection:
        sizes = "SELECT pg_table_size('inspections'), pg_indexes_size('inspections')"
        table, indexes = connection.execute(text(sizes)).one()
    engine.dispose()
    return {
        "row_bytes": round(table / count),
        "index_bytes": round(indexes / count),
        "row_wal_bytes": round(written / count),
    }


def wal_position(engine: Engine) -> int:
    """Return the bytes of write-ahead log since the server was made."""
    with engine.connect() as connection:
        return int(connection.execute(text("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")).scalar_one())


def server_cpu_s(server: PostgresServer) -> float:
    """Return the processor time of the server and of its processes that are alive, in seconds."""
    assert server._process is not None
    pid = server._process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    total = 0
    for each in (str(pid), *children):
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    typer.run(main)
