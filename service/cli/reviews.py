"""`plumbline reviews`: label inspections of a running service, evaluate the labels and export the images."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape
from rich.table import Table

from service.cli.console import FAILURE, OUT, make_table, refuse, stop
from service.cli.options import ApiKey, AsJson, CaFile, Url
from service.cli.recipe import DEFAULT_URL, connect, set_credentials

if TYPE_CHECKING:
    from plumbline_client import Client
    from plumbline_client.schemas.review import PairAgreement, RateEstimate

app = typer.Typer(no_args_is_help=True)

_IDS_AT_ONCE = 50
_FEWEST_FOR_INTERVAL = 10
"""Inspections of two reviewers below which the large-sample interval of kappa means nothing."""

Product = Annotated[str, typer.Option(help="Name of the product.")]
Reviewer = Annotated[str | None, typer.Option(help="Name of the reviewer, for a service without keys and accounts.")]
Since = Annotated[
    datetime | None,
    typer.Option(help="Start of the period, inclusive; local time.", formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]),
]
Until = Annotated[
    datetime | None,
    typer.Option(help="End of the period, exclusive; local time.", formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]),
]
PassSample = Annotated[int | None, typer.Option(help="Passed parts to sample per bundle.")]
FailSample = Annotated[int | None, typer.Option(help="Failed parts to sample per bundle.")]


@app.callback()
def credentials(api_key: ApiKey = None, ca_file: CaFile = None) -> None:
    """Label inspections of a running service, evaluate the labels and export the images."""
    set_credentials(api_key, ca_file)


@app.command()
def add(
    inspection_id: Annotated[str, typer.Argument(help="Id of the inspection.")],
    label: Annotated[Literal["good", "defect", "unsure"], typer.Argument(help="The label.")],
    kind: Annotated[str | None, typer.Option(help="Kind of defect, such as scratch.")] = None,
    note: Annotated[str | None, typer.Option(help="A remark.")] = None,
    reviewer: Reviewer = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Label an inspection as good, defect or unsure."""
    with connect(url) as client:
        review = client.review(inspection_id, label, kind=kind, note=note, reviewer=reviewer)
    OUT.print(f"Review {review.id} by {escape(review.reviewer)}: {review.label}", soft_wrap=True)


@app.command()
def undo(
    inspection_id: Annotated[str, typer.Argument(help="Id of the inspection.")],
    reviewer: Reviewer = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Withdraw the reviewer's newest review of an inspection."""
    with connect(url) as client:
        history = client.undo_review(inspection_id, reviewer=reviewer)
    OUT.print(f"The label of the inspection is now: {history.label or 'none'}", soft_wrap=True)


@app.command()
def queue(
    product: Product,
    reviewer: Reviewer = None,
    since: Since = None,
    until: Until = None,
    pass_sample: PassSample = None,
    fail_sample: FailSample = None,
    limit: Annotated[int, typer.Option(help="Maximum number of inspections.")] = 50,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """List inspections to review, and why each of them is listed."""
    with connect(url) as client:
        found = client.review_queue(
            product,
            reviewer=reviewer,
            since=_local(since),
            until=_local(until),
            pass_sample=pass_sample,
            fail_sample=fail_sample,
            limit=limit,
        )
        parts = {} if as_json else _parts(client, [item.inspection_id for item in found.items])
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
        return
    # The probabilities are in the output of --json.
    table = make_table("inspection", "decision", "score", "why", "part", "station", ids=frozenset({"inspection"}))
    for item in found.items:
        score = "" if item.score is None else f"{item.score:.4g}"
        part, station = parts.get(item.inspection_id, ("", ""))
        table.add_row(item.inspection_id, item.decision, score, ", ".join(item.reasons), escape(part), escape(station))
    OUT.print(table)
    OUT.print(f"{len(found.items)} of {found.total} inspections", soft_wrap=True)


@app.command()
def agreement(product: Product, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Show how far the reviewers agree."""
    with connect(url) as client:
        found = client.review_agreement(product)
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
        return
    table = _table("reviewers", "inspections", "agreement", "kappa", "95 % interval")
    for pair in found.pairs:
        table.add_row(
            escape(f"{pair.first}, {pair.second}"),
            str(pair.inspections),
            f"{pair.agreement:.1%}",
            "undefined" if pair.kappa is None else f"{pair.kappa:.2f}",
            _interval(pair),
        )
    if not found.pairs:
        names = ", ".join(item.reviewer for item in found.reviewers) or "nobody"
        OUT.print(
            f"No two reviewers labelled the same inspection (reviewers so far: {escape(names)}). Agreement needs "
            "inspections with the labels of at least two reviewers.",
            soft_wrap=True,
        )
        return
    OUT.print(table)
    if found.alpha is not None:
        OUT.print(f"Krippendorff's alpha of all reviewers: {found.alpha:.2f}", soft_wrap=True)


@app.command()
def rates(
    product: Product,
    fail_threshold: Annotated[float | None, typer.Option(help="Proposed fail threshold.")] = None,
    review_threshold: Annotated[float | None, typer.Option(help="Proposed review threshold.")] = None,
    since: Since = None,
    until: Until = None,
    pass_sample: PassSample = None,
    fail_sample: FailSample = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Estimate how many good parts fail and how many defective parts pass, from the labels."""
    with connect(url) as client:
        found = client.review_rates(
            product,
            fail_threshold=fail_threshold,
            review_threshold=review_threshold,
            since=_local(since),
            until=_local(until),
            pass_sample=pass_sample,
            fail_sample=fail_sample,
        )
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
        return
    table = _table("decisions", "good parts that fail", "good parts that fail or need review", "defective that pass")
    names = {"decisions": "as made", "current": "thresholds in force", "proposed": "proposed thresholds"}
    for result in found.results:
        estimates = (result.false_reject, result.false_alarm, result.miss)
        table.add_row(names[result.basis], *(_estimate(estimate) for estimate in estimates))
    OUT.print(table)
    unreviewed = max(result.unreviewed for result in found.results)
    if unreviewed:
        OUT.print(
            f"{unreviewed} of {found.inspections} inspections belong to strata without any review.", soft_wrap=True
        )


@app.command()
def export(
    product: Product,
    out: Annotated[Path, typer.Option(help="Folder for the images; it must be empty or not exist.")],
    since: Since = None,
    until: Until = None,
    test_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the good images that become test images.")
    ] = 0.2,
    url: Url = DEFAULT_URL,
) -> None:
    """Export the labelled images for `plumbline-train fit` and `evaluate`."""
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            refuse(f"{out} is not an empty folder. Give a new or an empty folder, so that exports are not mixed.")
        out.mkdir(parents=True, exist_ok=True)
        # In the same folder, because the archive can be larger than the space for temporary files.
        with tempfile.TemporaryDirectory(dir=out, prefix=".export-") as folder:
            archive = Path(folder) / "reviews.zip"
            with connect(url) as client:
                client.export_reviews(product, archive, since=_local(since), until=_local(until), test_share=test_share)
            with zipfile.ZipFile(archive) as opened:
                opened.extractall(out)
                images = len(opened.namelist()) - 1
    except OSError as error:
        stop(f"{out} cannot be written: {error.strerror}.", FAILURE)
    except zipfile.BadZipFile:
        stop("The service sent an archive that is damaged. Export again.", FAILURE)
    OUT.print(f"{images} images in {escape(str(out))}; manifest.csv lists them.", soft_wrap=True)


def _table(*headings: str) -> Table:
    table = Table()
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def _parts(client: Client, inspection_ids: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return part id and station of inspections, by id; empty where they were not stated."""
    found: dict[str, tuple[str, str]] = {}
    for start in range(0, len(inspection_ids), _IDS_AT_ONCE):
        for item in client.inspections(ids=inspection_ids[start : start + _IDS_AT_ONCE]):
            found[item.id] = item.part_id or "", item.station or ""
    return found


def _local(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.astimezone()


def _interval(pair: PairAgreement) -> str:
    if pair.kappa_low is None or pair.kappa_high is None:
        return ""
    if pair.inspections < _FEWEST_FOR_INTERVAL:
        return f"too few (fewer than {_FEWEST_FOR_INTERVAL})"
    return f"{pair.kappa_low:.2f} to {pair.kappa_high:.2f}"


def _estimate(estimate: RateEstimate) -> str:
    limits = f"{estimate.low:.2%} to {estimate.high:.2%} ({estimate.count} of {estimate.of} reviewed)"
    return f"unknown, {limits}" if estimate.rate is None else f"{estimate.rate:.2%}, {limits}"
