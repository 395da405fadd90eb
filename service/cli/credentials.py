"""What the commands for keys and accounts share: the database, and who runs the command."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.console import ERR, FAILURE, shown, stop
from service.cli.options import load_settings
from service.settings import PREFIX

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from service.settings import Settings
    from service.store.audit import Actor

CreateDatabase = Annotated[
    bool,
    typer.Option(
        "--create-database",
        help="Create the data folder and the database if they do not exist, before the first start of the service.",
    ),
]

FIRST = "From now on, every request to the service needs an API key or a session."


@contextmanager
def credential_database(data: Path | None, *, create: bool = False) -> Iterator[Engine]:
    """Open the database of the service, which may be running, to change it. Errors end the command with a message.

    Args:
        data: The data folder; None for the one of the settings.
        create: Create a database that does not exist.
    """
    # Imported here so that `plumbline --help` does not load SQLAlchemy.
    from service.errors import PlumblineError
    from service.store.database import sqlite_path
    from service.store.options import StoreOptions
    from service.store.store import open_beside_service

    settings = load_settings(data=data)
    path = sqlite_path(settings.database)
    if path is not None and not path.exists() and not create:
        stop(
            f"{_no_database(settings)} Before the first start of the service, `plumbline key create` and "
            "`plumbline account create` create it with --create-database.",
            FAILURE,
        )
    try:
        with open_beside_service(settings.database, settings.data, StoreOptions.of(settings)) as engine:
            yield engine
    except PlumblineError as error:
        stop(error.detail, FAILURE)


@contextmanager
def credential_database_for_reading(data: Path | None) -> Iterator[Engine]:
    """Open the database of the service to read it. Nothing is created. Errors end the command with a message."""
    from service.cli.offline import open_engine_if_exists
    from service.errors import PlumblineError

    settings = load_settings(data=data)
    try:
        with open_engine_if_exists(settings) as engine:
            if engine is None:
                stop(_no_database(settings), FAILURE)
            yield engine
    except PlumblineError as error:
        stop(error.detail, FAILURE)


def report_database(engine: Engine) -> None:
    """Print which database was changed."""
    from service.store.database import name_of

    ERR.print(f"Database: {shown(name_of(engine.url))}", soft_wrap=True)


def operator() -> Actor:
    """Return the user of the operating system who runs the command, and the host, as the author of changes."""
    from service.store.audit import MAX_ADDRESS, Actor

    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number without a name
        name = f"user {os.getuid()}" if hasattr(os, "getuid") else "unknown user"
    host = socket.gethostname()[:MAX_ADDRESS]
    return Actor("command-line", f"{name}@{host}"[:64], f"{name[:100]} (command line)", address=host)


def _no_database(settings: Settings) -> str:
    from service.store.database import sqlite_path

    path = sqlite_path(settings.database)
    return (
        f"There is no database in {settings.data if path is None else path.parent}. Give the data folder of the "
        f"service with --data or {PREFIX}DATA, or its database with {PREFIX}DATABASE_URL; `plumbline serve` creates "
        "it."
    )
