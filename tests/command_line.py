"""Running `plumbline` in tests."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner, Result

from service.cli.main import app


def run(*arguments: str | Path, typed: str | None = None) -> Result:
    """Run `plumbline` with these arguments, and this text as standard input, in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=typed)
