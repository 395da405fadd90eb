"""`plumbline recipe`: show and change the recipes of a running service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from service.cli.console import FAILURE, OUT, make_table, refuse, stop, utc
from service.cli.options import ApiKey, AsJson, CaFile, Url, client_message

if TYPE_CHECKING:
    from plumbline_client import Client

app = typer.Typer(no_args_is_help=True)

DEFAULT_URL = "http://127.0.0.1:8000"

Product = Annotated[str, typer.Argument(help="Name of the product.")]
Expected = Annotated[
    int | None, typer.Option("--expect", help="Refuse the change if the recipe in force has another revision.")
]
Author = Annotated[
    str | None,
    typer.Option(help="Who changes the recipe. With authentication, the service records the authenticated name."),
]
ConfirmRemoval = Annotated[
    int | None,
    typer.Option(help="Accept that retention removes the images and maps of this number of inspections."),
]


@dataclass(frozen=True)
class Credentials:
    """What a client needs beside the URL.

    Attributes:
        api_key: API key of the service; None without.
        ca_file: File with the CA certificate of the service; None for the CA certificates of the system.
    """

    api_key: str | None = None
    ca_file: Path | None = None


_CREDENTIALS: ContextVar[Credentials] = ContextVar("credentials")


@app.callback()
def set_credentials(api_key: ApiKey = None, ca_file: CaFile = None) -> None:
    """Show and change the recipes of a running service."""
    _CREDENTIALS.set(Credentials(api_key, ca_file))


@contextmanager
def connect(url: str) -> Iterator[Client]:
    """Open a client. Its errors end the command with a message."""
    # Imported here so that `plumbline --help` does not load httpx and the schemas.
    from plumbline_client import Client, PlumblineClientError

    try:
        credentials = _CREDENTIALS.get()
        client = Client(url, api_key=credentials.api_key, verify=credentials.ca_file or True)
    except ValueError as error:
        stop(str(error), FAILURE)
    try:
        with client:
            yield client
    except PlumblineClientError as error:
        stop(client_message(error), FAILURE)


@app.command()
def show(
    product: Product,
    revision: Annotated[int | None, typer.Argument(help="Revision; by default the one in force.")] = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Show a recipe as TOML."""
    with connect(url) as client:
        if as_json:
            record = client.recipe(product) if revision is None else client.recipe_revision(product, revision)
            typer.echo(record.model_dump_json(indent=2))
        else:
            toml = client.export_recipe(product, revision)
            shown = [line for line in toml.splitlines() if not line.startswith("#") or "parts that fail:" in line]
            typer.echo("\n".join(shown))


@app.command()
def history(product: Product, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """List the revisions of a recipe with author, time and reason, newest first."""
    with connect(url) as client:
        records = client.recipe_history(product)
    if as_json:
        typer.echo(json.dumps([record.model_dump(mode="json") for record in records], indent=2))
        return
    table = make_table("revision", "time", "author", "reason", "bundle", ids=frozenset({"revision", "time", "bundle"}))
    for record in records:
        author, reason = escape(record.author), escape(record.reason)
        table.add_row(str(record.revision), utc(record.created_at), author, reason, record.bundle_digest[:12])
    OUT.print(table)


@app.command()
def diff(
    product: Product,
    before: Annotated[int, typer.Argument(help="First revision.")],
    after: Annotated[int | None, typer.Argument(help="Second revision; by default the one in force.")] = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Show the differences between two revisions.

    Exit code: 0 no difference, 1 there are differences, or the service refused the request.
    """
    with connect(url) as client:
        found = client.compare_recipes(product, before, client.recipe(product).revision if after is None else after)
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
    else:
        for item in found.differences:
            OUT.print(
                f"[bold]{item.path}[/]: [red]{_markup(item.before)}[/] → [green]{_markup(item.after)}[/]",
                soft_wrap=True,
            )
    if found.differences:
        raise typer.Exit(FAILURE)


@app.command()
def revert(
    product: Product,
    revision: Annotated[int, typer.Argument(help="Revision whose values are put in force again.")],
    author: Author = None,
    reason: Annotated[str | None, typer.Option(help="Reason, for the history.")] = None,
    expected: Expected = None,
    confirm_removal: ConfirmRemoval = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Put the values of an old revision in force again, as a new revision."""
    with connect(url) as client:
        record = client.revert_recipe(
            product,
            revision,
            author=author,
            reason=reason,
            expected_revision=expected,
            confirm_removal=confirm_removal,
        )
    OUT.print(f"Revision {record.revision} is in force: {escape(record.reason)}", soft_wrap=True)


@app.command("export")
def export_recipe(
    product: Product,
    output: Annotated[Path | None, typer.Option(help="File to write; by default the recipe is printed.")] = None,
    revision: Annotated[int | None, typer.Option(help="Revision; by default the one in force.")] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Export a recipe as a TOML file."""
    with connect(url) as client:
        toml = client.export_recipe(product, revision)
    if output is None:
        typer.echo(toml, nl=False)
        return
    try:
        output.write_text(toml, encoding="utf-8")
    except OSError as error:
        stop(f"{output} cannot be written: {error.strerror}.", FAILURE)


@app.command("import")
def import_recipe(
    product: Product,
    file: Annotated[Path, typer.Argument(help="TOML file, as `plumbline recipe export` writes it.")],
    reason: Annotated[str, typer.Option(help="Reason, for the history.")],
    author: Annotated[
        str | None,
        typer.Option(
            help="Person who imports the recipe; by default the author in the file. With authentication, the service "
            "records the authenticated name."
        ),
    ] = None,
    expected: Expected = None,
    confirm_removal: ConfirmRemoval = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Replace the recipe by the one in a TOML file. Without a difference, no new revision is made."""
    if not reason.strip():
        refuse("The reason is empty. State with --reason why the recipe changes.")
    try:
        toml = file.read_text(encoding="utf-8")
    except OSError as error:
        stop(f"{file} cannot be read: {error.strerror}.", FAILURE)
    except UnicodeDecodeError:
        stop(f"{file} cannot be read: it is not a text file in UTF-8.", FAILURE)
    with connect(url) as client:
        before = client.recipe(product).revision
        record = client.import_recipe(
            product,
            toml,
            author=author,
            reason=reason,
            expected_revision=expected,
            confirm_removal=confirm_removal,
        )
    unchanged = "Nothing changed. " if record.revision == before else ""
    OUT.print(f"{unchanged}Revision {record.revision} is in force.", soft_wrap=True)


def _markup(value: Any) -> str:
    return escape(json.dumps(value))
