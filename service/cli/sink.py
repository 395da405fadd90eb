"""`plumbline sink`: test the connection to a webhook or an MQTT broker."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from service.cli.console import FAILURE, OUT, refuse, stop
from service.cli.options import load_settings
from service.settings import PREFIX

if TYPE_CHECKING:
    from service.integrations.delivery import Attempt, Sink

app = typer.Typer(no_args_is_help=True)

Sinks = Annotated[
    Path | None, typer.Option(help="TOML file that configures the sinks.", envvar=f"{PREFIX}SINKS", show_default=False)
]


@app.callback()
def main() -> None:
    """Test the sinks that inspections are sent to."""


@app.command("test")
def send_test(name: Annotated[str, typer.Argument(help="Name of the sink.")], sinks: Sinks = None) -> None:
    """Send one test message to a sink, whether the service is running or not.

    The message has the type `test` and no inspection. A running service is not disturbed.

    Exit code: 0 the receiver confirmed the message, 1 it did not, 2 the file with the sinks is not valid.
    """
    from service.integrations.config import read_sinks
    from service.integrations.errors import SinksInvalid
    from service.integrations.sinks import make_sink

    settings = load_settings(sinks=sinks)
    if settings.sinks is None:
        refuse(f"No sinks are configured. Name the file with --sinks or {PREFIX}SINKS.")
    try:
        configs = {config.name: config for config in read_sinks(settings.sinks)}
        if name not in configs:
            refuse(f"There is no sink {name!r} in {settings.sinks}. It has: {', '.join(configs) or 'none'}.")
        sink = make_sink(configs[name], is_test=True)
    except SinksInvalid as error:
        refuse(error.detail)
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        attempt = runner.run(_deliver(sink))
    if attempt.result != "delivered":
        stop(f"{name}: not delivered to {sink.target}: {attempt.detail}.", FAILURE)
    OUT.print(f"{escape(name)}: delivered to {escape(sink.target)}.", soft_wrap=True)


async def _deliver(sink: Sink) -> Attempt:
    from service.integrations.events import test_event

    await sink.open(lambda: None)
    try:
        return await sink.deliver(test_event())
    finally:
        await sink.close()
