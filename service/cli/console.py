"""Output of the command line: consoles, colours and exit codes."""

from __future__ import annotations

from typing import NoReturn

import typer
from rich.console import Console
from rich.markup import escape

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
    "intact": "green", "broken": "red",
}  # fmt: skip


def shown(text: object) -> str:
    """Return a path or another text as one line, escaped for the markup of the consoles."""
    return escape(console_text(str(text)))


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
