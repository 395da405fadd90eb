"""The commands `plumbline inspections remove` and `plumbline inspections compact`."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from service.cli.console import ERR, FAILURE, OUT, refuse, shown, stop, utc
from service.cli.credentials import credential_database, credential_database_for_reading, operator
from service.cli.options import AsJson, Data, load_settings
from service.record_days import MAX_DAYS, MIN_DAYS, KeptReason, RecordDays, parse_record_days

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rich.console import Console
    from sqlalchemy import Engine

    from service.settings import Settings
_AGE = re.compile(r"(\d{1,5})d")
_REASONS: dict[KeptReason, str] = {
    "image": "with an image or map",
    "review": "reviewed",
    "message": "with a message to a sink",
    "drift": "not yet counted by drift monitoring",
    "newest": "newest",
}
_COUNTED_AT_ONCE = 2000


@dataclass
class _Found:
    """What was found of a product: records that can be removed or were removed, and records that are kept.

    Attributes:
        product: The product.
        limit: The time before which records are removed.
        removed: Number of records.
        until: Time of the newest of them; None without one.
        kept: Number of older records that are kept, by the reason.
    """

    product: str
    limit: datetime
    removed: int = 0
    until: datetime | None = None
    kept: Counter[KeptReason] = field(default_factory=Counter)

    def values(self) -> dict[str, Any]:
        return {
            "product": self.product,
            "limit": self.limit.isoformat(),
            "removed": self.removed,
            "removed_until": None if self.until is None else self.until.isoformat(),
            "kept": {reason: self.kept[reason] for reason in _REASONS},
        }


def remove(
    older_than: Annotated[
        str | None,
        typer.Option(
            help="Age such as 365d. Longer exceptions of products in PLUMBLINE_RECORD_DAYS, here or in the service, "
            "hold.",
            show_default="PLUMBLINE_RECORD_DAYS",
        ),
    ] = None,
    product: Annotated[
        str | None, typer.Option(help="Only inspections of this product; with --older-than, despite its exception.")
    ] = None,
    data: Data = None,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what would be removed.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for a confirmation.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove old records of inspections, whether the service is running or not.

    A record is kept as long as its image or map is stored, if a person reviewed the inspection, as long as a message to
    a sink or a dead letter needs it, and until drift monitoring has counted it. What is removed cannot be restored
    without a backup. The service does the same every day if PLUMBLINE_RECORD_DAYS is set. Its value is in the audit
    log: without --older-than, nothing is removed by another one.

    Exit code: 0 done, 1 not confirmed or the database cannot be used, 2 wrong usage.
    """
    days = _record_days(load_settings(data=data), older_than, product)
    now = datetime.now(UTC)
    with credential_database_for_reading(data) as engine, ERR.status("Counting old records ..."):
        if older_than is None:
            _compare_with_service(engine, days, product, is_refused=not dry_run)
        elif product is None:
            rule = _rule_of_service(engine)
            days = days if rule is None else days.with_longer(rule.of_products)
        found = [_count(engine, name, limit) for name, limit in _limits(engine, days, product, now)]
    number = sum(one.removed for one in found)
    if dry_run or not number:
        _report(found, as_json=as_json, heading="would be removed" if dry_run else "removed")
        return
    if not yes:
        _report(found, as_json=False, heading="to remove", console=ERR if as_json else OUT)
        typer.confirm(f"Remove {number} records? They cannot be restored without a backup", abort=True, err=True)
    with credential_database(data) as engine:
        removed = _remove(engine, found, days.text)
    _report(removed, as_json=as_json, heading="removed")


def compact(data: Data = None) -> None:
    """Return the space of removed records in a SQLite database to the file system. The service must not be running.

    SQLite keeps the space of removed rows in its file and uses it for new ones, so this is only needed if the file must
    become smaller. Meanwhile, the disk of the database needs free space of twice the size of the database: for a copy,
    and for the write-ahead log. With PostgreSQL, autovacuum makes the space usable again.

    Exit code: 0 done, 1 the service is running or the database cannot be used, 2 the database is not SQLite.
    """
    from service.errors import PlumblineError
    from service.store.database import sqlite_path
    from service.store.options import StoreOptions
    from service.store.store import Store

    settings = load_settings(data=data)
    path = sqlite_path(settings.database)
    if path is None:
        refuse("The database is PostgreSQL: autovacuum makes the space usable again; VACUUM FULL makes files smaller.")
    if not path.exists():
        stop(f"There is no database {path}.", FAILURE)
    before = path.stat().st_size
    try:
        store = Store.open(settings.database, settings.data, StoreOptions.of(settings))
        try:
            if store.read_only_reason is not None:
                stop(f"The database cannot be written: {store.read_only_reason}.", FAILURE)
            assert store.database is not None
            connection = store.database.connect()
            try:
                with temporary_files_in(connection, path.parent):
                    connection.execute("VACUUM")
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            finally:
                connection.close()
        finally:
            store.close()
    except PlumblineError as error:
        stop(error.detail, FAILURE)
    except sqlite3.Error as error:
        stop(
            f"{path} cannot be made smaller: {error}. Its content is unchanged. Its disk needs free space of twice the "
            f"size of the database, {2 * before / 1e6:,.0f} MB.",
            FAILURE,
        )
    OUT.print(f"{before / 1e6:,.1f} MB before, {path.stat().st_size / 1e6:,.1f} MB now", soft_wrap=True)


@contextmanager
def temporary_files_in(connection: sqlite3.Connection, folder: Path) -> Iterator[None]:
    """Let SQLite write its temporary files into a folder. Its default is often a small file system in memory.

    The environment variable `SQLITE_TMPDIR` has no effect any more: SQLite reads it when its module is loaded.

    Args:
        connection: Any connection; the folder is the same for all of the process.
        folder: The folder.
    """
    quoted = str(folder.absolute()).replace("'", "''")
    connection.execute(f"PRAGMA temp_store_directory = '{quoted}'")
    try:
        yield
    finally:
        connection.execute("PRAGMA temp_store_directory = ''")


def _record_days(settings: Settings, older_than: str | None, product: str | None) -> RecordDays:
    """Return how long records are kept, by the options and the setting."""
    stated = parse_record_days(settings.record_days)
    if older_than is None:
        if not stated.removes:
            refuse(
                "Give --older-than, for example 365d: PLUMBLINE_RECORD_DAYS is not set, so records are kept for ever."
            )
        return stated
    age = _AGE.fullmatch(older_than)
    days = float(age[1]) if age else 0.0
    shortest = max(MIN_DAYS, settings.idempotency_hours / 24)
    if not shortest <= days <= MAX_DAYS:
        refuse(
            f"--older-than: {older_than!r} is not a number of days from {shortest:g} to {MAX_DAYS:g}, such as 365d. "
            f"Requests are answered again with their inspection for PLUMBLINE_IDEMPOTENCY_HOURS "
            f"({settings.idempotency_hours:g})."
        )
    return RecordDays(days).with_longer(stated.of_products) if product is None else RecordDays(None, {product: days})


def _rule_of_service(engine: Engine) -> RecordDays | None:
    """Return how long the service keeps records, as the audit log states it; None if it states nothing.

    The settings of the service are often not those of the shell in which the command runs.
    """
    from service.store.record_removal.state import newest_rule

    newest = newest_rule(engine)
    if newest is None:
        return None
    text = str(newest.after["record_days"])
    try:
        return parse_record_days(text)
    except ValueError:
        stop(
            f"The newest entry records:rule of the audit log states {text!r}, which this version cannot read. Use the "
            "command of the version that the service has.",
            FAILURE,
        )


def _compare_with_service(engine: Engine, days: RecordDays, product: str | None, *, is_refused: bool) -> None:
    """Report that the setting of the command is not that of the service, or refuse it."""
    rule = _rule_of_service(engine)
    if (
        rule is None
        or days.text == rule.text
        or (product is not None and days.days_of(product) == rule.days_of(product))
    ):
        return
    difference = (
        f"PLUMBLINE_RECORD_DAYS is {days.text!r} here, and {rule.text!r} in the service, as far as the audit log "
        "states it."
    )
    if is_refused:
        refuse(f"{difference} Run the command with the settings of the service, or give --older-than.")
    ERR.print(f"[yellow]{shown(difference)}[/]", soft_wrap=True)


def _limits(engine: Engine, days: RecordDays, product: str | None, now: datetime) -> Iterator[tuple[str, datetime]]:
    from service.store.record_removal.pieces import stored_products

    products = stored_products(engine)
    if product is not None and product not in products:
        refuse(f"--product: no inspection of {product!r} is stored. Stored are: {', '.join(products) or 'none'}.")
    for name in products if product is None else [product]:
        limit = days.limit(name, now)
        if limit is not None:
            yield name, limit
        elif product is not None:
            ERR.print(f"Records of {shown(product)} are kept for ever: PLUMBLINE_RECORD_DAYS.", soft_wrap=True)


def _count(engine: Engine, product: str, limit: datetime) -> _Found:
    from service.store.record_removal.pieces import old_records

    found = _Found(product, limit)
    for piece in old_records(engine, product, limit, _COUNTED_AT_ONCE):
        found.removed += len(piece.removable)
        found.until = piece.newest or found.until
        found.kept.update(piece.kept)
    return found


def _remove(engine: Engine, counted: Sequence[_Found], rule: str) -> list[_Found]:
    from service.store.record_removal.pieces import PAUSE_FACTOR, old_records, remove_piece
    from service.store.record_removal.state import RecordRemoval, announce_removal, state_removal

    removed: list[_Found] = []
    with _progress() as show:
        announce_removal(engine, operator(), rule, {one.product: one.limit for one in counted})
        try:
            for one in counted:
                found = _Found(one.product, one.limit)
                removed.append(found)
                for piece in old_records(engine, one.product, one.limit):
                    started = time.monotonic()
                    number = remove_piece(engine, piece, is_stated=True)
                    if number:
                        found.removed += number
                        found.until = piece.newest
                    found.kept.update(piece.kept)
                    show(sum(each.removed for each in removed))
                    # Inspections of a running service must not wait.
                    time.sleep(PAUSE_FACTOR * (time.monotonic() - started))
        finally:
            done = [RecordRemoval(one.product, one.until, one.removed) for one in removed if one.until is not None]
            state_removal(engine, operator(), rule, done)
    return removed


@contextmanager
def _progress() -> Iterator[Any]:
    with ERR.status("Removing old records ...") as status:
        yield lambda number: status.update(f"{number} records removed")


def _report(found: Iterable[_Found], *, as_json: bool, heading: str, console: Console = OUT) -> None:
    if as_json:
        typer.echo(json.dumps([one.values() for one in found], indent=2))
        return
    for one in found:
        kept = ", ".join(f"{one.kept[reason]:,} {text}" for reason, text in _REASONS.items() if one.kept[reason])
        until = f", up to {utc(one.until)}" if one.until is not None else ""
        line = f"{escape(one.product)}: {one.removed:,} {heading}{until}"
        console.print(line + (f"; kept although older than {utc(one.limit)}: {kept}" if kept else ""), soft_wrap=True)
