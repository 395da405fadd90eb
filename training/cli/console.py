"""Output and exit codes of the command line."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.markup import escape

from service.errors import PlumblineError
from service.inspection.image_files import console_text

BAD_INPUT = 2
INTERRUPTED = 130

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)


def shown(text: object) -> str:
    """Return a path or another text as one line, escaped for the markup of the consoles."""
    return escape(console_text(str(text)))


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Print errors that users can fix in one line, without a traceback, and exit with code 2."""
    try:
        yield
    except PlumblineError as error:
        reason = error.detail
    except OSError as error:  # a full disk, missing permissions
        reason = (
            f"{error.filename}: {error.strerror}" if error.filename else error.strerror or "the system reports an error"
        )
    else:
        return
    errors.print(f"[red]error:[/] {shown(reason)}", soft_wrap=True)
    raise typer.Exit(BAD_INPUT)
