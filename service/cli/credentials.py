"""What the commands for keys and accounts share: the database, and who runs the command."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from service.cli.console import FAILURE, stop
from service.cli.options import load_settings

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from service.store.audit import Actor

FIRST = "From now on, every request to the service needs an API key or a session."


@contextmanager
def credential_database(data: Path | None) -> Iterator[Engine]:
    """Open the database of the service, which may be running. Errors end the command with a message."""
    # Imported here so that `plumbline --help` does not load SQLAlchemy.
    from service.errors import PlumblineError
    from service.store.options import StoreOptions
    from service.store.store import open_beside_service

    settings = load_settings(data=data)
    try:
        with open_beside_service(settings.database, settings.data, StoreOptions.of(settings)) as engine:
            yield engine
    except PlumblineError as error:
        stop(error.detail, FAILURE)


def operator() -> Actor:
    """Return the user of the operating system who runs the command, and the host, as the author of changes."""
    from service.store.audit import MAX_ADDRESS, Actor

    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number without a name
        name = f"user {os.getuid()}" if hasattr(os, "getuid") else "unknown user"
    host = socket.gethostname()[:MAX_ADDRESS]
    return Actor("command-line", f"{name}@{host}"[:64], f"{name[:100]} (command line)", address=host)


def moment(value: datetime | None) -> str:
    """Return a time for a table; empty for None."""
    return "" if value is None else f"{value:%Y-%m-%d %H:%M}"
