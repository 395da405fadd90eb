"""`plumbline audit`: verify and export the audit log, on the database, whether the service is running or not."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TextIO

import typer
from rich.markup import escape

from service.cli.console import FAILURE, OUT, refuse, stop
from service.cli.options import AsJson, Data, load_settings

if TYPE_CHECKING:
    from sqlalchemy import Engine

app = typer.Typer(help="Verify and export the audit log.", no_args_is_help=True)


@app.command()
def verify(
    data: Data = None,
    expect_head: Annotated[
        str | None,
        typer.Option(help="Hash that the log must contain, from the log of the service or GET /v1/audit:head."),
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="Earlier export in JSON Lines; the log must contain its entries.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Verify that no entry of the audit log was changed, removed or inserted.

    Without --expect-head or --against, it is not noticed if the newest entries were removed.

    Exit code: 0 the log is intact, 1 it is broken, or it cannot be read.
    """
    from service.store.audit import read_audit
    from service.store.audit_chain import ExportUnreadable, read_export, verify_chain

    with _database(data) as engine, _lines(against) as lines:
        try:
            report = verify_chain(
                read_audit(engine),
                expected_head=None if expect_head is None else expect_head.strip().lower(),
                exported=read_export(lines),
            )
        except (ExportUnreadable, UnicodeDecodeError) as error:
            refuse(f"{against}: {error}")
    broken, head = report.broken, report.head
    if as_json:
        found = None if broken is None else {"id": broken.id, "reason": broken.reason}
        result = {"entries": report.entries, "head": None if head is None else head.hash, "broken": found}
        typer.echo(json.dumps(result, indent=2))
    elif broken is not None:
        OUT.print(f"[red]broken[/] entry {broken.id}: {escape(broken.reason)}", soft_wrap=True)
    else:
        OUT.print(f"[green]intact[/] {report.entries} entries", soft_wrap=True)
        if head is not None:
            OUT.print(f"head: {head.hash}", soft_wrap=True)
    if broken is not None:
        raise typer.Exit(FAILURE)


@app.command()
def export(
    data: Data = None,
    form: Annotated[Literal["jsonl", "csv"], typer.Option("--format", help="Format of the export.")] = "jsonl",
    since: Annotated[str | None, typer.Option(help="Only entries from this time on, in ISO 8601.")] = None,
    until: Annotated[str | None, typer.Option(help="Only entries before this time, in ISO 8601.")] = None,
    output: Annotated[Path | None, typer.Option(help="File to write; by default the export is printed.")] = None,
) -> None:
    """Export the audit log, oldest entry first.

    Exit code: 0 it is exported, 1 the database cannot be read or the file cannot be written.
    """
    from service.cli.offline import InvalidTime, parse_time
    from service.serving.audit_export import export_lines
    from service.store.audit import AuditFilter, read_audit

    try:
        times = [None if text is None else parse_time(text) for text in (since, until)]
    except InvalidTime as error:
        refuse(str(error))
    which = AuditFilter(since=times[0], until=times[1])
    with _database(data) as engine, _output(output) as file:
        try:
            for line in export_lines(read_audit(engine, which), form):
                file.write(line)
        except (ValueError, TypeError) as error:
            stop(f"An entry cannot be read ({error}). `plumbline audit verify` names it.", FAILURE)


@contextmanager
def _database(data: Path | None) -> Iterator[Engine]:
    """Open the database for reading. Failures end the command."""
    from service.cli.offline import open_engine_if_exists
    from service.store.errors import StoreUnavailable

    settings = load_settings(data=data)
    try:
        with open_engine_if_exists(settings) as engine:
            if engine is None:
                stop(f"There is no database in {settings.data}. `plumbline serve` creates it.", FAILURE)
            yield engine
    except StoreUnavailable as error:
        stop(error.detail, FAILURE)


@contextmanager
def _lines(path: Path | None) -> Iterator[TextIO | tuple[str, ...]]:
    if path is None:
        yield ()
        return
    try:
        file = path.open(encoding="utf-8")
    except OSError as error:
        refuse(f"{path} cannot be read: {error.strerror}.")
    with file:
        yield file


@contextmanager
def _output(path: Path | None) -> Iterator[TextIO]:
    if path is None:
        yield sys.stdout
        return
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            yield file
    except OSError as error:
        stop(f"{path} cannot be written: {error.strerror}.", FAILURE)
