"""`plumbline key`: create, list and revoke API keys in the database, with or without a running service."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from pydantic import TypeAdapter, ValidationError
from rich.markup import escape

from service.cli.console import ERR, FAILURE, OUT, make_table, refuse, stop, utc
from service.cli.credentials import (
    FIRST,
    CreateDatabase,
    credential_database,
    credential_database_for_reading,
    operator,
    report_database,
)
from service.cli.options import AsJson, Data, load_settings, place_of_bundles
from service.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from service.access.keys import Grant
    from service.access.principal import Scope
    from service.store.access_records import KeyRecord

app = typer.Typer(help="Create, list and revoke API keys of the service.", no_args_is_help=True)

SCOPES = ("inspect", "review", "engineer", "admin")
_READABLE_BY_GROUP = 0o640


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Name of the program or camera that uses the key.")],
    scope: Annotated[
        list[str], typer.Option(help="What the key may do: inspect, review, engineer or admin. Can be repeated.")
    ],
    product: Annotated[list[str] | None, typer.Option(help="Only this product. Can be repeated.")] = None,
    station: Annotated[list[str] | None, typer.Option(help="Only this station. Can be repeated.")] = None,
    days: Annotated[int | None, typer.Option(min=1, max=36_500, help="Days until the key expires.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Write the key to this file (mode 0640) instead of printing it."),
    ] = None,
    if_missing: Annotated[
        bool, typer.Option("--if-missing", help="Do nothing if the file of --output contains a valid key.")
    ] = False,
    create_database: CreateDatabase = False,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Create an API key and print it. It cannot be shown again.

    The service may be running; it accepts the key at once. If it is the first key, the service requires credentials of
    every request within a second.
    """
    from service.access.keys import Grant, create_key
    from service.store.access import has_credentials

    if if_missing and output is None:
        refuse("--if-missing needs --output.")
    grant = Grant(
        _valid_name(name),
        _valid_scopes(scope),
        product or None,
        station or None,
        None if days is None else datetime.now(UTC) + timedelta(days=days),
    )
    with credential_database(data, create=create_database) as engine:
        if output is not None and output.exists():
            if if_missing and _is_valid(engine, output, grant):
                ERR.print(f"{escape(str(output))} contains a valid key.", soft_wrap=True)
                return
            if not if_missing:
                stop(f"{output} exists already. Remove it, or state another file.", FAILURE)
        is_first = not has_credentials(engine)
        created = create_key(engine, grant, operator(), may_share_name=if_missing)
        report_database(engine)
    _warn_of_unknown_products(grant, load_settings(data=data))
    if output is not None:
        _write(output, created.key)
    if as_json:
        typer.echo(json.dumps(_facts(created.record) | ({} if output else {"key": created.key}), indent=2))
    elif output is None:
        typer.echo(created.key)
    ERR.print(f"Key {created.record.id} ({escape(name)}) was created. It cannot be shown again.", soft_wrap=True)
    if is_first:
        ERR.print(FIRST, soft_wrap=True)


@app.command("list")
def list_(data: Data = None, as_json: AsJson = False) -> None:
    """List all API keys without their secrets, newest first."""
    from service.access.keys import all_keys

    with credential_database_for_reading(data) as engine:
        records = all_keys(engine)
    if as_json:
        typer.echo(json.dumps([_facts(record) for record in records], indent=2))
        return
    table = make_table("id", "name", "permits", "last used", "state", ids=frozenset({"id", "last used"}))
    for record in records:
        permits = [*record.scopes]
        permits += [f"product {one}" for one in record.products or ()] + [
            f"station {one}" for one in record.stations or ()
        ]
        table.add_row(
            record.id,
            escape(record.name),
            escape(", ".join(permits)),
            utc(record.last_used_at),
            _state(record),
        )
    OUT.print(table)


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(help="Id or name of the key, see `plumbline key list`.")], data: Data = None
) -> None:
    """Revoke an API key. A running service refuses it within a second."""
    from service.access.keys import key_id_of
    from service.access.keys import revoke as revoke_key

    with credential_database(data) as engine:
        record = revoke_key(engine, key_id_of(key) or key, operator())
    OUT.print(f"Key {record.id} ({escape(record.name)}) is revoked.", soft_wrap=True)


def _valid_name(name: str) -> str:
    from service.schemas.common import Author

    try:
        return TypeAdapter[str](Author).validate_python(name)
    except ValidationError as error:
        refuse(f"The name is not valid: {error.errors(include_url=False)[0]['msg'].removeprefix('Value error, ')}.")


def _valid_scopes(given: list[str]) -> list[Scope]:
    # Also accepts a list separated by commas, as the settings do.
    scopes = [name.strip() for text in given for name in text.split(",") if name.strip()]
    if unknown := [name for name in scopes if name not in SCOPES]:
        refuse(f"There is no scope {unknown[0]!r}. State one of: {', '.join(SCOPES)}.")
    return cast("list[Scope]", scopes)


def _warn_of_unknown_products(grant: Grant, settings: Settings) -> None:
    """Warn of products that do not exist; they may be added later, so it is not an error."""
    from service.cli.offline import known_products
    from service.errors import PlumblineError

    try:
        known = known_products(settings)
    except (PlumblineError, OSError):
        return
    unknown = sorted(set(grant.products or ()) - set(known))
    if unknown and (settings.bundle_store or settings.models.is_dir()):
        names = ", ".join(repr(name) for name in unknown)
        ERR.print(
            f"[yellow]Warning:[/] {escape(place_of_bundles(settings))} has no product {escape(names)}. Check the name; "
            "if the product is added later, the key permits it then.",
            soft_wrap=True,
        )


def _is_valid(engine: Engine, file: Path, grant: Grant) -> bool:
    """Return whether a file contains a valid key that permits the same as a grant."""
    from service.access.errors import InvalidKey
    from service.access.keys import verify_key

    try:
        principal = verify_key(engine, file.read_text(encoding="utf-8").strip(), None).principal
    except (OSError, UnicodeDecodeError, InvalidKey):
        return False
    return principal.scopes >= set(grant.scopes)


def _write(file: Path, key: str) -> None:
    temporary = file.with_name(f".{file.name}.new")
    try:
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _READABLE_BY_GROUP)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(key)
        temporary.replace(file)
    except OSError as error:
        stop(f"{file} cannot be written ({error.strerror}). The key is lost; revoke it with `plumbline key`.", FAILURE)


def _state(record: KeyRecord) -> str:
    if record.revoked_at is not None:
        return f"[red]revoked[/] {utc(record.revoked_at)}"
    if record.expires_at is not None and record.expires_at <= datetime.now(UTC):
        return "[yellow]expired[/]"
    return "[green]valid[/]" if record.expires_at is None else f"[green]until[/] {utc(record.expires_at)}"


def _facts(record: KeyRecord) -> dict[str, Any]:
    """Return what may be shown of a key: everything but the hash of its secret."""
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in asdict(record).items()
        if name != "secret_hash"
    }
