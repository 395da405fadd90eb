"""The command `plumbline bundle prune`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.console import ERR, FAILURE, OUT, refuse, shown, stop, utc
from service.cli.credentials import credential_database, credential_database_for_reading, operator
from service.cli.options import AsJson, Data, load_settings

if TYPE_CHECKING:
    from rich.console import Console
    from sqlalchemy import Engine

    from service.settings import Settings
    from service.store.bundles.objects import BundleObjects
    from service.store.bundles.pruning import Orphan, Unneeded
    from service.store.bundles.references import ListedBundle, Reason
_AGE = re.compile(r"(\d{1,5})d")
_MIN_DAYS = 1
_REASONS: Mapping[Reason, str] = {
    "active": "active",
    "previous": "for a roll-back",
    "shadow": "shadow deployments",
    "none active": "of products without a chosen bundle",
    "recipe": "with the recipe in force",
    "deployed": "deployed within the minimum age",
    "training": "of training jobs in progress",
    "proposal": "with a recent threshold proposal",
    "age": "younger than the minimum age",
    "verdict": "with stored verdicts as a shadow",
    "inspection": "with stored inspections",
}


@dataclass
class _Report:
    """What was found, or what was removed.

    Attributes:
        is_removed: Whether it was removed.
        limit: Younger bundles are kept.
        bundles: The bundles.
        kept: Number of bundles that are kept, by the reason.
        orphans: Files without a bundle in the list.
    """

    is_removed: bool
    limit: datetime
    kept: dict[Reason, int]
    bundles: list[ListedBundle] = field(default_factory=list)
    orphans: list[Orphan] = field(default_factory=list)

    @property
    def size_bytes(self) -> int:
        """Size of everything that is listed."""
        return sum(one.size_bytes for one in self.bundles) + sum(one.size_bytes for one in self.orphans)

    def values(self) -> dict[str, Any]:
        """Return the values for JSON."""
        return {
            "removed": self.is_removed,
            "limit": self.limit.isoformat(),
            "bundles": [
                {
                    "product": one.product,
                    "version": one.version,
                    "digest": one.digest,
                    "created_at": one.created_at.isoformat(),
                    "stored_at": one.stored_at.isoformat(),
                    "size_bytes": one.size_bytes,
                }
                for one in self.bundles
            ],
            "orphans": [
                {
                    "digest": one.digest,
                    "modified_at": None if one.modified_at is None else one.modified_at.isoformat(),
                    "size_bytes": one.size_bytes,
                    "is_interrupted_removal": one.is_removal,
                }
                for one in self.orphans
            ],
            "size_bytes": self.size_bytes,
            "kept": {reason: self.kept.get(reason, 0) for reason in _REASONS},
        }


def prune(
    older_than: Annotated[
        str, typer.Option(help="Minimum age: a bundle that was made, stored or deployed since then is kept.")
    ] = "30d",
    product: Annotated[
        str | None, typer.Option(help="Only bundles of this product, and no files without a bundle.")
    ] = None,
    data: Data = None,
    *,
    remove: Annotated[bool, typer.Option("--remove", help="Remove what is listed, after a confirmation.")] = False,
    orphans: Annotated[
        bool,
        typer.Option(
            "--orphans",
            help="Remove files without a bundle in the database, too. Not after a backup of the database was restored.",
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for a confirmation.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the bundles of the bundle store (PLUMBLINE_BUNDLE_STORE) that nothing needs any more; --remove removes them.

    A bundle is kept if it is active or the shadow deployment, if a roll-back returns to it, if the recipe in force, a
    training job in progress or a recent threshold proposal belongs to it, if it was made, stored or deployed within the
    minimum age, and as long as an inspection or a verdict is stored that it judged. Files without a bundle in the
    database that are older than a day are listed, too. The command can run while services run, and can be interrupted
    and repeated. To find the bundles of stored inspections, it reads all of them once.

    It knows only what the database of these settings needs: do not use --remove if another database uses the same
    bundle store, such as that of a test system.

    Exit code: 0 done, 1 not confirmed, or the database or the bundle store cannot be used, 2 wrong usage.
    """
    settings = load_settings(data=data)
    limit = _limit(older_than)
    _require_bundle_store(settings)
    with credential_database_for_reading(data) as engine, _objects(settings) as objects:
        if remove and orphans:
            _require_bundles(engine)
        with ERR.status("Reading what needs the bundles ..."):
            found = _find(engine, limit, product)
        listed = _Report(False, limit, dict(found.kept), list(found.bundles))
        with ERR.status("Listing the bundle store ..."):
            if product is None:
                listed.orphans = _find_orphans(engine, objects)
    removable = [one for one in listed.orphans if one.is_removal or orphans]
    if not remove or not (listed.bundles or removable):
        _print(listed, as_json=as_json)
        return
    if not yes:
        _print(listed, as_json=False, console=ERR if as_json else OUT)
        kept = "" if len(removable) == len(listed.orphans) else " Without --orphans, files without a bundle are kept."
        typer.confirm(
            f"Remove {len(listed.bundles)} bundles, and the files of {len(removable)} others?{kept} A removed bundle "
            f"cannot be restored without a copy. No other database may use {settings.bundle_store}. Continue",
            abort=True,
            err=True,
        )
    with credential_database(data) as engine, _objects(settings) as objects:
        removed = _remove(engine, objects, found, removable)
    _print(removed, as_json=as_json)


def _limit(older_than: str) -> datetime:
    age = _AGE.fullmatch(older_than)
    if age is None or int(age[1]) < _MIN_DAYS:
        refuse(f"--older-than: {older_than!r} is not a number of days from {_MIN_DAYS} to 99999, such as 30d.")
    return datetime.now(UTC) - timedelta(days=int(age[1]))


def _require_bundle_store(settings: Settings) -> None:
    if not settings.bundle_store:
        refuse(
            "PLUMBLINE_BUNDLE_STORE is not set, and this command removes bundles from a bundle store only. In the "
            f"model repository {settings.models}, every bundle is a folder PRODUCT/VERSION, which a running service "
            "may be loading. To remove bundles there, see which are neither active nor the shadow (page of the "
            "product, or GET /v1/products/PRODUCT/bundles), stop the service, and delete their folders. Keep the "
            "bundle that was active before, for a roll-back. Inspections that a deleted bundle judged cannot be "
            "replayed or explained any more."
        )


@contextmanager
def _objects(settings: Settings) -> Iterator[BundleObjects]:
    from service.store.bundles.objects import open_objects
    from service.store.options import bundle_store_options

    objects = open_objects(bundle_store_options(settings))
    try:
        yield objects
    finally:
        objects.close()


def _find(engine: Engine, limit: datetime, product: str | None) -> Unneeded:
    from service.store.bundles.pruning import find_unneeded
    from service.store.bundles.table import BundleTable

    if product is not None and product not in (known := BundleTable(engine).products()):
        refuse(
            f"--product: the bundle store has no bundle of {product!r}. It has those of: "
            f"{', '.join(sorted(known)) or 'no product'}."
        )
    return find_unneeded(engine, limit, product)


def _require_bundles(engine: Engine) -> None:
    from service.store.bundles.table import BundleTable
    from service.store.database import name_of

    if not BundleTable(engine).products():
        refuse(
            f"--orphans: the database {name_of(engine.url)} lists no bundle, so that everything in the bundle "
            "store would be removed. Give the database of the services that use this bundle store."
        )


def _find_orphans(engine: Engine, objects: BundleObjects) -> list[Orphan]:
    from service.store.bundles.pruning import find_orphans

    return list(find_orphans(engine, objects, datetime.now(UTC)))


def _remove(engine: Engine, objects: BundleObjects, found: Unneeded, orphans: list[Orphan]) -> _Report:
    from service.errors import PlumblineError
    from service.store.bundles.pruning import claim_orphan, pruning, unlist
    from service.store.bundles.removals import finish_removal

    done, actor = _Report(True, found.limit, dict(found.kept)), operator()
    try:
        with pruning(engine) as right, ERR.status("Removing ...") as status:
            for orphan in orphans:
                right.require()
                if claim_orphan(engine, orphan, actor):
                    objects.remove(orphan.digest)
                    finish_removal(engine, orphan.digest)
                    done.orphans.append(orphan)
            for bundle in found.bundles:
                right.require()
                outcome = unlist(engine, bundle, found, actor)
                if outcome == "removed":
                    objects.remove(bundle.digest)
                    finish_removal(engine, bundle.digest)
                    done.bundles.append(bundle)
                    status.update(f"{len(done.bundles)} of {len(found.bundles)} bundles removed")
                elif outcome != "gone":
                    done.kept[outcome] = done.kept.get(outcome, 0) + 1
    except PlumblineError as error:
        stop(f"{error.detail} {len(done.bundles)} bundles were removed. Run the command again to continue.", FAILURE)
    except KeyboardInterrupt:
        stop(f"Interrupted. {len(done.bundles)} bundles were removed. Run the command again to continue.", FAILURE)
    return done


def _print(report: _Report, *, as_json: bool, console: Console = OUT) -> None:
    if as_json:
        typer.echo(json.dumps(report.values(), indent=2))
        return
    # Not a table of rich, which cuts columns that do not fit into a narrow terminal.
    width = max((len(one.product) for one in report.bundles), default=0)
    for one in report.bundles:
        size = _size(one.size_bytes)
        line = f"{one.product:{width}} {one.version}  made {utc(one.created_at)}  {size:>10}  {one.digest}"
        console.print(shown(line), soft_wrap=True)
    for orphan in report.orphans:
        origin = "left behind by an interrupted removal" if orphan.is_removal else "not in the database"
        since = f", written {utc(orphan.modified_at)}" if orphan.modified_at is not None else ""
        console.print(f"files of {orphan.digest}: {origin}{since}, {_size(orphan.size_bytes)}", soft_wrap=True)
    products = len({one.product for one in report.bundles})
    action = "removed" if report.is_removed else "can be removed"
    console.print(
        f"{action}: {len(report.bundles):,} bundles of {products:,} products, files of {len(report.orphans):,} others, "
        f"{_size(report.size_bytes)} in all",
        soft_wrap=True,
    )
    kept = [f"{report.kept[reason]:,} {text}" for reason, text in _REASONS.items() if report.kept.get(reason)]
    console.print(f"kept: {', '.join(kept) or 'none'} (minimum age: made before {utc(report.limit)})", soft_wrap=True)


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:,.1f} MiB"
