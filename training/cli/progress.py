"""Progress bars of the command line."""

from collections.abc import Callable

from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Column

from training.cli.console import errors, shown

WIDE = 110  # columns of a terminal in which bars of full width fit


class ProgressBars:
    """A `training.pipeline.Reporter` with one progress bar per stage."""

    def __init__(self) -> None:
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30 if errors.width >= WIDE else 8),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            # In a narrow terminal only the note is cut, at its end.
            TextColumn("{task.fields[note]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
            console=errors,
            expand=True,
        )

    def __enter__(self) -> "ProgressBars":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def titled(self, name: str) -> "ProgressBars":
        """Remove the bars, print a title, and return this object for the next run."""
        for task in self._progress.task_ids:
            self._progress.remove_task(task)
        errors.print(f"[bold]{shown(name)}[/]")
        return self

    def note(self, text: str) -> None:
        """Print a line above the bars."""
        errors.print(shown(text), soft_wrap=True)

    def counter(self, title: str) -> Callable[[int, int], None]:
        """Return a function that is called with the items done so far and their number; its first call adds a bar."""
        advance: Callable[[int, str], None] | None = None

        def count(done: int, total: int) -> None:
            nonlocal advance
            if advance is None:
                advance = self.stage(title, total)
            advance(done, "")

        return count

    def stage(self, title: str, total: int) -> Callable[[int, str], None]:
        """Add a bar for a stage of `total` items, if there are any, and return the function that updates it."""
        if total == 0:
            return _ignore
        task = self._progress.add_task(title, total=total, note="")
        reported = 0

        def advance(done: int, note: str) -> None:
            nonlocal reported
            self._progress.update(task, completed=done, note=note)
            # Bars are drawn on terminals only. In a log file every tenth of a stage is one line.
            if not errors.is_terminal and 10 * done // total > reported:
                reported = 10 * done // total
                errors.print(f"{title} {done}/{total} {note}")

        return advance


def _ignore(done: int, note: str) -> None:
    """Stand in for the function that updates a bar."""
    del done, note
