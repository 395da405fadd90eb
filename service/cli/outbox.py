"""`plumbline outbox`: show the messages to sinks, and send dead letters again."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.markup import escape

from service.cli.console import OUT, make_table, refuse, utc
from service.cli.options import ApiKey, AsJson, CaFile, Url
from service.cli.recipe import DEFAULT_URL, connect, set_credentials

app = typer.Typer(no_args_is_help=True)

Sink = Annotated[str | None, typer.Option("--sink", help="Only this sink.")]
Ids = Annotated[list[int] | None, typer.Argument(help="Ids of dead letters.")]
AllOfSink = Annotated[str | None, typer.Option("--sink", help="Instead of ids: all dead letters of this sink.")]
Product = Annotated[str | None, typer.Option(help="Only this product; together with --sink.")]


@app.callback()
def main(api_key: ApiKey = None, ca_file: CaFile = None) -> None:
    """Show the messages to sinks, and send dead letters again."""
    set_credentials(api_key, ca_file)


@app.command("list")
def list_outbox(
    sink: Sink = None,
    limit: Annotated[int, typer.Option(min=1, max=500, help="Largest number of dead letters, the newest.")] = 50,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """List the sinks with their pending messages, and the newest dead letters."""
    with connect(url) as client:
        sinks = [one for one in client.outbox().sinks if sink in {None, one.name}]
        page = client.dead_letters(sink=sink, limit=limit)
    if as_json:
        report = {
            "sinks": [one.model_dump(mode="json") for one in sinks],
            "dead_letters": [item.model_dump(mode="json") for item in page.items],
        }
        typer.echo(json.dumps(report, indent=2))
        return
    table = make_table(
        "sink", "receiver", "pending", "oldest", "dead letters", "state", ids=frozenset({"sink", "oldest"})
    )
    for one in sinks:
        state = one.error or ("delivering" if one.delivering else "another process delivers")
        table.add_row(
            escape(one.name),
            escape(one.target or "not configured"),
            str(one.pending),
            utc(one.oldest_at),
            str(one.dead_letters),
            escape(state if one.configured else "not configured"),
        )
    OUT.print(table)
    if not page.items:
        return
    letters = make_table(
        "dead letter", "sink", "product", "given up", "reason", "last error", ids=frozenset({"dead letter", "given up"})
    )
    for item in page.items:
        letters.add_row(
            str(item.id),
            escape(item.sink),
            escape(item.product),
            utc(item.dead_at),
            item.reason,
            escape(item.last_error or ""),
        )
    OUT.print(letters)
    if page.next_cursor is not None:
        OUT.print(f"Only the newest {limit} dead letters are shown.")


@app.command()
def resend(
    ids: Ids = None,
    sink: AllOfSink = None,
    product: Product = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Send dead letters again: those with the given ids, or all of a sink."""
    _require_one_way(ids, sink, product)
    with connect(url) as client:
        if sink is not None:
            count = client.resend_dead_letters(sink, product=product).count
        else:
            count = sum(client.resend_dead_letter(message_id).count for message_id in ids or [])
    OUT.print(f"{_dead_letters(count)} pending again.")


@app.command()
def discard(
    ids: Ids = None,
    sink: AllOfSink = None,
    product: Product = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Delete dead letters: those with the given ids, or all of a sink. Their inspections are kept."""
    _require_one_way(ids, sink, product)
    with connect(url) as client:
        if sink is not None:
            count = client.discard_dead_letters(sink, product=product).count
        else:
            count = sum(client.discard_dead_letter(message_id).count for message_id in ids or [])
    OUT.print(f"{_dead_letters(count, 'was', 'were')} deleted.")


def _require_one_way(ids: list[int] | None, sink: str | None, product: str | None) -> None:
    if bool(ids) == (sink is not None):
        refuse("Give either the ids of dead letters or --sink.")
    if product is not None and sink is None:
        refuse("--product needs --sink.")


def _dead_letters(count: int, singular: str = "is", plural: str = "are") -> str:
    return f"1 dead letter {singular}" if count == 1 else f"{count} dead letters {plural}"
