"""`plumbline recipe`: look at and change the recipes of a running service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from service.settings import PREFIX

if TYPE_CHECKING:
    from plumbline_client import Client

app = typer.Typer(help="Look at and change recipes of a running service.", no_args_is_help=True)

OUT = Console(highlight=False)
ERR = Console(stderr=True, highlight=False)
FAILED = 1

Product = Annotated[str, typer.Argument(help="The product.")]
Url = Annotated[str, typer.Option(help="Where the service listens.", envvar=f"{PREFIX}URL")]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON.")]
Expected = Annotated[
    int | None, typer.Option("--expect", help="Refuse the change if the recipe is at another revision.")
]
LOCAL = "http://127.0.0.1:8000"


@contextmanager
def talking_to(url: str) -> Iterator[Client]:
    """A client whose failures are told in a sentence."""
    # Imported here so that `plumbline --help` does not wait for all that the client's answers are made of.
    from plumbline_client import Client, ServiceProblem

    try:
        with Client(url) as client:
            yield client
    except ServiceProblem as error:
        ERR.print(f"[red]{escape(error.detail)}[/]", soft_wrap=True)
        raise typer.Exit(FAILED) from error
    except (httpx.TransportError, httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        ERR.print(
            f"[red]{escape(url)} does not answer ({escape(str(error))}). Is the service running?[/]", soft_wrap=True
        )
        raise typer.Exit(FAILED) from error


@app.command()
def show(
    product: Product,
    revision: Annotated[int | None, typer.Argument(help="Revision; the one in force by default.")] = None,
    url: Url = LOCAL,
    as_json: AsJson = False,
) -> None:
    """Show a recipe."""
    with talking_to(url) as client:
        if as_json:
            record = client.recipe(product) if revision is None else client.recipe_revision(product, revision)
            typer.echo(record.model_dump_json(indent=2))
        else:
            toml = client.export_recipe(product, revision)
            typer.echo("\n".join(line for line in toml.splitlines() if not line.startswith("#")))


@app.command()
def history(product: Product, url: Url = LOCAL, as_json: AsJson = False) -> None:
    """List who changed the recipe, when and why; newest first."""
    with talking_to(url) as client:
        records = client.recipe_history(product)
    if as_json:
        typer.echo(json.dumps([record.model_dump(mode="json") for record in records], indent=2))
        return
    table = Table("revision", "when", "who", "why", "bundle")
    for record in records:
        when = f"{record.created_at:%Y-%m-%d %H:%M:%S}"
        who, why = escape(record.author), escape(record.reason)
        table.add_row(str(record.revision), when, who, why, record.bundle_digest[:12])
    OUT.print(table)


@app.command()
def diff(
    product: Product,
    before: Annotated[int, typer.Argument(help="The older revision.")],
    after: Annotated[int | None, typer.Argument(help="The newer one; the one in force by default.")] = None,
    url: Url = LOCAL,
    as_json: AsJson = False,
) -> None:
    """Show what changed from one revision to another.

    Exit code: 0 nothing is different, 1 something is, or the service refused.
    """
    with talking_to(url) as client:
        found = client.compare_recipes(product, before, client.recipe(product).revision if after is None else after)
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
    else:
        for item in found.differences:
            OUT.print(
                f"[bold]{item.path}[/]: [red]{_text(item.before)}[/] → [green]{_text(item.after)}[/]", soft_wrap=True
            )
    if found.differences:
        raise typer.Exit(FAILED)


@app.command()
def revert(
    product: Product,
    revision: Annotated[int, typer.Argument(help="The revision to return to.")],
    author: Annotated[str, typer.Option(help="Who.")],
    reason: Annotated[str | None, typer.Option(help="Why.")] = None,
    expected: Expected = None,
    url: Url = LOCAL,
) -> None:
    """Put the values of an old revision in force again, as a new revision."""
    with talking_to(url) as client:
        record = client.revert_recipe(product, revision, author=author, reason=reason, expected_revision=expected)
    OUT.print(f"Revision {record.revision} is in force: {escape(record.reason)}", soft_wrap=True)


@app.command("export")
def export_recipe(
    product: Product,
    output: Annotated[Path | None, typer.Option(help="The file to write; to the terminal by default.")] = None,
    revision: Annotated[int | None, typer.Option(help="The one in force by default.")] = None,
    url: Url = LOCAL,
) -> None:
    """Write a recipe as a TOML file."""
    with talking_to(url) as client:
        toml = client.export_recipe(product, revision)
    if output is None:
        typer.echo(toml, nl=False)
        return
    try:
        output.write_text(toml, encoding="utf-8")
    except OSError as error:
        ERR.print(f"[red]{escape(str(output))} cannot be written ({error.strerror}).[/]", soft_wrap=True)
        raise typer.Exit(FAILED) from error


@app.command("import")
def import_recipe(
    product: Product,
    file: Annotated[Path, typer.Argument(help="A TOML file as `export` writes it.")],
    author: Annotated[str | None, typer.Option(help="Who; by default whom the file names.")] = None,
    reason: Annotated[str | None, typer.Option(help="Why; by default what the file says.")] = None,
    expected: Expected = None,
    url: Url = LOCAL,
) -> None:
    """Put the recipe of a TOML file in force, as a whole."""
    try:
        toml = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        ERR.print(f"[red]{escape(str(file))} cannot be read ({escape(str(error))}).[/]", soft_wrap=True)
        raise typer.Exit(FAILED) from error
    with talking_to(url) as client:
        record = client.import_recipe(product, toml, author=author, reason=reason, expected_revision=expected)
    OUT.print(f"Revision {record.revision} is in force.", soft_wrap=True)


def _text(value: Any) -> str:
    return escape(json.dumps(value))
