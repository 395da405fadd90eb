"""Output of the command line: consoles, colours and exit codes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from service.inspection.image_files import console_text

OUT = Console(highlight=False)
ERR = Console(stderr=True, highlight=False)

FAILURE = 1
"""Exit code of a command whose result is negative: an image fails, a check finds a problem, the service refuses."""
USAGE = 2
"""Exit code of a command whose options or arguments are not valid."""

COLOURS = {
    "pass": "green", "review": "yellow", "fail": "red", "invalid": "magenta", "error": "magenta",
    "ok": "green", "warning": "yellow", "problem": "red",
    "same": "green", "different": "red", "impossible": "yellow",
    "intact": "green", "stored": "green", "broken": "red",
}  # fmt: skip


def shown(text: object) -> str:
    """Return a path or another text as one line, escaped for the markup of the consoles."""
    return escape(console_text(str(text)))


def make_table(*headings: str, ids: frozenset[str] = frozenset()) -> Table:
    """Return a table without frame. Ids and times are never cut, so that they can be copied; other cells are folded.

    Args:
        headings: Headings of the columns.
        ids: Headings of the columns that are never cut.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold underline")
    for heading in headings:
        table.add_column(heading, no_wrap=heading in ids, overflow="ignore" if heading in ids else "fold")
    return table


def utc(moment: datetime | None) -> str:
    """Return a time for a table, to the minute; empty for None."""
    return "" if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def status_line(status: str, text: str, width: int = 0) -> None:
    """Print a status in its colour, padded to `width`, and a text."""
    OUT.print(f"[{COLOURS[status]}]{status:{width}}[/] {shown(text)}", soft_wrap=True)


def stop(message: str, exit_code: int) -> NoReturn:
    """Print an error message and end the command."""
    ERR.print(f"[red]{shown(message)}[/]", soft_wrap=True)
    raise typer.Exit(exit_code)


def refuse(message: str) -> NoReturn:
    """Print what is wrong with the options or arguments and end the command."""
    stop(message, USAGE)
