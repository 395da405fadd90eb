"""Import the bundles of a model repository into the bundle store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sqlalchemy import Engine

from service.bundle.bundle import Bundle
from service.bundle.errors import BundleIntegrity, BundleInvalid, BundleOfOtherProduct
from service.deployment.implicit_choice import default_choice, stored_for
from service.deployment.sources.folder import FolderSource
from service.deployment.sources.source import BundleSource
from service.store.audit import Actor, AuditEntry, recorded
from service.store.choices import BundleChoices

Outcome = Literal["stored", "known", "broken"]


@dataclass(frozen=True)
class Imported:
    """What was done with a bundle.

    Attributes:
        product: The product.
        version: The name of the bundle's folder.
        outcome: Whether it was stored, was in the store before, or is broken.
        size: Its size in bytes; 0 if it was not stored.
        reason: Why it is broken; empty otherwise.
    """

    product: str
    version: str
    outcome: Outcome
    size: int = 0
    reason: str = ""


def list_bundles(models: Path) -> list[tuple[str, str]]:
    """Return product and version of every bundle of a model repository, each product's default bundle first.

    In this order, an import that is interrupted and continued keeps the default bundle.

    Raises:
        OSError: The repository cannot be read.
    """
    folder = FolderSource(models)
    return [(product, version) for product in sorted(folder.products()) for version in folder.defaults(product)]


def import_bundles(
    models: Path, keys: list[tuple[str, str]], target: BundleSource, engine: Engine, actor: Actor
) -> Iterator[Imported]:
    """Store bundles that are not in the bundle store yet, or are damaged there.

    It can be interrupted between any two bundles, and repeated. None of the bundles is activated by it: see
    `store_bundle`. Of a product that is new to the store, the default bundle serves, as from the model repository.

    Args:
        models: The model repository that contains them.
        keys: Product and version of each.
        target: The bundle store.
        engine: The database.
        actor: Who imports them.

    Yields:
        What was done with each bundle, after it was done.

    Raises:
        BundleStoreUnavailable, StoreUnavailable: The bundle store or the database cannot be used.
    """
    known = {product: set(target.versions(product)) for product, _ in keys}
    for product, version in keys:
        if version in known[product] and not _is_damaged(target, product, version):
            yield Imported(product, version, "known")
            continue
        try:
            bundle = Bundle.load(models / product / version)
            if bundle.manifest.product != product:
                raise BundleOfOtherProduct(bundle.path, bundle.manifest.product, product)
            store_bundle(bundle, target, engine, actor, is_new_product=not known[product])
        except BundleInvalid as error:
            yield Imported(product, version, "broken", reason=error.detail)
            continue
        yield Imported(product, version, "stored", sum(entry.bytes for entry in bundle.manifest.files.values()))


def store_bundle(
    bundle: Bundle, target: BundleSource, engine: Engine, actor: Actor, *, is_new_product: bool = False
) -> bool:
    """Store a bundle, and record it in the audit log. Return whether it was not in the bundle store before.

    If the product has bundles in the store and none was ever chosen, its default bundle is chosen first. Otherwise, the
    new one could become the default, and serve after the next start.

    Args:
        bundle: The bundle, with its files on disk.
        target: The bundle store.
        engine: The database.
        actor: Who stores it.
        is_new_product: Whether the product is being created, so that its default bundle is not chosen yet.

    Raises:
        BundleIntegrity: A file was changed since the bundle was loaded.
        BundleStoreUnavailable, StoreUnavailable: It cannot be stored.
    """
    product = bundle.manifest.product
    register = target.store(bundle)  # also repairs one that is there already
    if target.contains(product, bundle.version):
        return register()
    choices = BundleChoices(engine)
    is_chosen = is_new_product or choices.current(product, "active") is not None
    entry = AuditEntry(actor, "bundle:upload", product, bundle.version, after={"bundle_digest": bundle.digest})
    with (
        stored_for(choices, None if is_chosen else default_choice(target, product)),
        recorded(engine, entry, failed="bundle:upload-failed"),
    ):
        return register()


def _is_damaged(target: BundleSource, product: str, version: str) -> bool:
    try:
        target.manifest(product, version)
    except BundleIntegrity:
        return True
    return False
