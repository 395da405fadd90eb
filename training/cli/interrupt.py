"""Interruption by Ctrl-C."""

import shlex
import signal
import sys
from pathlib import Path

import typer
from rich.markup import escape

from training.cli.console import INTERRUPTED, errors
from training.interruption import Interruption


class Interrupt(Interruption):
    """Handles Ctrl-C: during training after the current step, where a checkpoint is exact, elsewhere at once.

    On exit it prints the command that continues the work, and ends the program with code 130.

    Args:
        run_dir: Folder of the checkpoint; None for a command that continues when it is started again.
    """

    def __init__(self, run_dir: Path | None) -> None:
        super().__init__(is_at_once=True)
        self._run_dir = run_dir

    def __enter__(self) -> "Interrupt":
        self._before = signal.signal(signal.SIGINT, self.on_signal)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)
        if kind is not KeyboardInterrupt:
            return
        from training.fit import CHECKPOINT_NAME

        if self._run_dir is None:
            errors.print("Interrupted. Finished runs are kept. To continue:")
            errors.print(f"  plumbline-train {escape(shlex.join(sys.argv[1:]))}", soft_wrap=True)
        elif (self._run_dir / CHECKPOINT_NAME).exists():
            arguments = [argument for argument in sys.argv[1:] if argument != "--resume"]
            errors.print("Interrupted. The checkpoint is kept. To continue:")
            errors.print(f"  plumbline-train {escape(shlex.join(arguments))} --resume", soft_wrap=True)
        else:
            errors.print("Interrupted before the first checkpoint. Nothing was written.")
        raise typer.Exit(INTERRUPTED)
