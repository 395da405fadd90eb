"""`plumbline inspections why`: why a spot of a stored inspection is unusual."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.console import FAILURE, OUT, make_table, refuse, shown, stop
from service.cli.options import AsJson, Data, Models, load_settings, require_models
from service.errors import PlumblineError

if TYPE_CHECKING:
    from service.schemas.explanation import NearestNormal, WhyRecord


def why(
    inspection_id: Annotated[str, typer.Argument(help="Id of the inspection.")],
    x: Annotated[int | None, typer.Option(min=0, help="Column of a pixel of the image; needs --y as well.")] = None,
    y: Annotated[int | None, typer.Option(min=0, help="Row of the pixel.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the patches of the spot and of the nearest normal spots, as JPEG.")
    ] = None,
    models: Models = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Show why a spot of a stored inspection is unusual, and the nearest normal spots that its bundle knows.

    The spot is the highest value of the judged area, or the pixel --x, --y. Reads the data folder and the model
    repository, whether the service is running or not, and changes nothing in them. It prints what
    `GET /v1/inspections/ID/why` returns.

    Exit code: 0 explained, 1 it cannot be explained, 2 wrong usage.
    """
    from service.api.explanation_mapping import to_why
    from service.cli.offline import open_bundles, open_store
    from service.deployment.configuration import bundle_loader
    from service.deployment.explanations import Explanations
    from service.inspection.runtime.configure import configure
    from service.store.ids import parse_id
    from service.store.inspections import get_inspection

    configure()
    if (x is None) != (y is None):
        refuse("Give both --x and --y, or neither for the highest value of the map.")
    if out is not None and not out.is_dir():
        refuse(f"The folder {out} of --out does not exist.")
    settings = load_settings(models=models, data=data)
    require_models(settings)
    try:
        with (
            open_store(settings) as store,
            open_bundles(settings) as source,
            Explanations(source, store, bundle_loader(settings)) as explanations,
        ):
            record = get_inspection(store.engine, parse_id(inspection_id))
            found = to_why(explanations.explain(record, None if x is None or y is None else (x, y)))
    except PlumblineError as error:
        stop(error.detail, FAILURE)
    if out is not None:
        _write_patches(out, found)
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
    else:
        _print(found)


def _print(found: WhyRecord) -> None:
    left, top, width, height = found.cell.box
    peak = ", the highest value" if found.cell.is_peak else ""
    OUT.print(
        f"x {left + width / 2:.0f}, y {top + height / 2:.0f}: value {found.cell.value:.4g}{peak}; "
        f"fail threshold {found.fail_threshold:.4g}"
    )
    table = make_table("source", "share", "value")
    for one in found.contributions:
        table.add_row(one.source, f"{one.share:.0%}", f"{one.value:.4g}")
    OUT.print(table)
    for nearest in found.nearest:
        OUT.print(f"{nearest.bank}: {_origin(nearest)}", soft_wrap=True)
    if found.missing is not None:
        OUT.print(shown(found.missing), soft_wrap=True)


def _origin(nearest: NearestNormal) -> str:
    distance = f"distance {nearest.distance:.4g}"
    if nearest.image is None:
        return f"{distance} to the nearest normal spot"
    left, top, width, height = nearest.image.cell
    day = {None: "date unknown", "file": f"taken on {nearest.image.captured_on}"}.get(
        nearest.image.dated_by, f"taken on {nearest.image.captured_on} according to its name"
    )
    place = f"x {left + width / 2:.0f}, y {top + height / 2:.0f}"
    return f"{distance} to the normal spot at {place} of {shown(nearest.image.name)}, {day}"


def _write_patches(folder: Path, found: WhyRecord) -> None:
    patches = {"spot": found.spot}
    patches |= {f"normal-{one.bank}": one.patch for one in found.nearest if one.patch is not None}
    for name, patch in patches.items():
        path = folder / f"{found.inspection_id}-{name}.jpg"
        try:
            path.write_bytes(base64.b64decode(patch.image.data))
        except OSError as error:
            stop(f"{path} cannot be written: {error.strerror}.", FAILURE)
