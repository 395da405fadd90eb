"""`plumbline inspections`: stored inspections, read from the database without a server."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Annotated, Literal, TypeVar

import typer

from service.cli.console import ERR, FAILURE, OUT, refuse, shown, stop, utc
from service.cli.options import Data, Models, load_settings, place_of_bundles
from service.cli.record_removal import compact, remove
from service.cli.why import why
from service.errors import PlumblineError
from service.settings import Settings

app = typer.Typer(no_args_is_help=True)
ValueT = TypeVar("ValueT")


@app.callback()
def inspections() -> None:
    """Read stored inspections, or remove old records, whether the service is running or not."""


@app.command()
def export(
    out: Annotated[Path, typer.Option(help="File to write. An existing file is replaced when the export is complete.")],
    format_name: Annotated[Literal["csv", "parquet"], typer.Option("--format", help="Format of the file.")] = "csv",
    product: Annotated[str | None, typer.Option(help="Only inspections of this product.")] = None,
    station: Annotated[str | None, typer.Option(help="Only inspections at this station.")] = None,
    lot: Annotated[str | None, typer.Option(help="Only inspections of this lot.")] = None,
    part_id: Annotated[str | None, typer.Option(help="Only inspections of this part.")] = None,
    decision: Annotated[
        str | None, typer.Option(help="Only inspections with these decisions, separated by commas.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="Only inspections from this time on, in ISO 8601; local time without a zone.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Only inspections before this time, in ISO 8601.")] = None,
    min_score: Annotated[float | None, typer.Option(help="Only inspections with at least this score.")] = None,
    max_score: Annotated[float | None, typer.Option(help="Only inspections with at most this score.")] = None,
    label: Annotated[
        Literal["good", "defect", "unsure", "disputed"] | None,
        typer.Option(help="Only inspections with this label by reviews."),
    ] = None,
    ids: Annotated[str | None, typer.Option(help="Only inspections with these ids, separated by commas.")] = None,
    models: Models = None,
    data: Data = None,
) -> None:
    """Write stored inspections to a CSV or Parquet file, newest first.

    Reads the database, whether the service is running or not, and changes nothing in it. The columns are those of
    `GET /v1/inspections:export`.

    Exit code: 0 the file is complete, 1 the database cannot be read or the file cannot be written, 2 wrong usage.
    """
    from service.cli.offline import InvalidTime, known_products, open_store, parse_time
    from service.schemas.records import split_decisions, split_ids
    from service.serving.exports import export_inspections, missing_until
    from service.store.inspection_filter import InspectionFilter
    from service.store.inspections import list_inspections

    settings = load_settings(models=models, data=data)
    try:
        which = InspectionFilter(
            product=product,
            decisions=() if decision is None else _parsed("--decision", split_decisions, decision),
            label=label,
            ids=None if ids is None else _parsed("--ids", split_ids, ids),
            part_id=part_id,
            since=None if since is None else parse_time(since),
            until=None if until is None else parse_time(until),
            station=station,
            lot=lot,
            min_score=_number("--min-score", min_score),
            max_score=_number("--max-score", max_score),
        )
    except InvalidTime as error:
        refuse(f"--since or --until: {error}")
    if not out.parent.is_dir():
        refuse(f"The folder {out.parent} of --out does not exist.")
    count = 0
    try:
        with (
            open_store(settings) as store,
            complete_file(out) as file,
            ERR.status("Exporting inspections ...") as progress,
        ):
            if product is not None and not list_inspections(store.engine, InspectionFilter(product), limit=1):
                require_product(product, known_products(settings), settings)
            for piece in export_inspections(store.engine, which, format_name):
                file.write(piece.data)
                count = piece.rows
                progress.update(f"{count} inspections")
            removed_until = missing_until(store.engine, which)  # afterwards: records may be removed meanwhile
    except PlumblineError as error:
        stop(error.detail, FAILURE)
    except OSError as error:
        stop(f"{out} cannot be written: {error.strerror}.", FAILURE)
    if removed_until is not None:
        ERR.print(
            f"[yellow]Records up to {utc(removed_until)} were removed for their age, except for those that are needed: "
            "inspections of that time may be missing in the file.[/]",
            soft_wrap=True,
        )
    OUT.print(f"{count} inspections in {shown(out)}", soft_wrap=True)


app.command()(why)
app.command()(remove)
app.command()(compact)


def _parsed(name: str, parse: Callable[[str], ValueT], text: str) -> ValueT:
    try:
        return parse(text)
    except ValueError as error:
        refuse(f"{name}: {error}.")


def require_product(product: str, known: Sequence[str], settings: Settings) -> None:
    """End the command if a product of which no inspection is stored does not exist."""
    if product in known:
        return
    offer = f" Its products: {', '.join(known)}." if known else ""
    refuse(
        f"--product: no inspection of {product!r} is stored, and {place_of_bundles(settings)} has no such product."
        f"{offer} Check the name."
    )


def _number(name: str, value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        refuse(f"{name}: {value} is not a number.")
    return value


@contextmanager
def complete_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that gets its name when it is complete; it is removed if the block fails."""
    with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        temporary = Path(file.name)
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _umask() -> int:
    """Return the permissions that new files of this process do not have."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
