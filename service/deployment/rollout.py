"""Changing which bundle of a product decides and which one watches.

A change loads and tests the new bundle beside the old one, exchanges them between two images, and unloads the old one
when its last image is judged. Whatever fails on the way leaves the old one in service.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import structlog

from service.bundle.archive import import_archive
from service.bundle.bundle import bundle_folders, read_manifest
from service.bundle.errors import BundleInvalid
from service.bundle.manifest import Manifest
from service.deployment.errors import NothingToRollBackTo, ShadowRefused, UnknownBundle, UnknownProduct
from service.deployment.memory import return_freed_memory
from service.deployment.registry import BrokenBundle, Registry
from service.monitoring.metrics import Metrics
from service.schemas.common import SYSTEM_AUTHOR
from service.store.choices import BundleChoice

log = structlog.get_logger(__name__)

BundleState = Literal["active", "shadow", "available", "broken"]


@dataclass(frozen=True)
class BundleVersion:
    """A bundle of the model repository and what it is doing.

    Attributes:
        manifest: None where it cannot be read.
        broken: Why it would not be served, as far as that is known without loading it.
    """

    product: str
    version: str
    state: BundleState
    manifest: Manifest | None
    digest: str | None
    broken: BrokenBundle | None


class BundleChanges:
    """Lists, uploads and exchanges bundles. Every method blocks, some for seconds: not for the event loop.

    Args:
        registry: What is in force.
        metrics: What is counted.

    Attributes:
        uploading: To be held around `upload`: unpacking takes memory, so it goes one after the other.
    """

    def __init__(self, registry: Registry, metrics: Metrics) -> None:
        self.uploading = asyncio.Lock()
        self._registry = registry
        self._metrics = metrics

    def versions(self, product: str) -> list[BundleVersion]:
        """A product's bundles, newest first.

        Raises:
            UnknownProduct: The repository has no such product.
        """
        return [self._describe(product, folder) for folder in self._folders(product)]

    def version(self, product: str, version: str) -> BundleVersion:
        """One of a product's bundles.

        Raises:
            UnknownProduct, UnknownBundle: It is not there.
        """
        return self._describe(product, self._folder(product, version))

    def upload(self, product: str, archive: IO[bytes], limit_bytes: int) -> tuple[BundleVersion, bool]:
        """Put an archived bundle into the model repository. It does not serve until it is activated.

        Returns:
            The bundle, and whether it is new here.

        Raises:
            BundleArchiveInvalid, BundleTooLarge, BundleInvalid, RepositoryNotWritable: As `import_archive`.
            ChangeUnderWay: The product's bundles are being loaded or exchanged now.
            StoreUnavailable: The database does not answer.
        """
        with self._registry.changing(product):
            self._keep_what_serves(product)
        bundle, is_new = import_archive(self._registry.models, product, archive, limit_bytes)
        return_freed_memory()
        self._registry.look_again(product, bundle.version)
        log.info("bundle uploaded", product=product, version=bundle.version, is_new=is_new)
        return self.version(product, bundle.version), is_new

    def activate(self, product: str, version: str, *, author: str, reason: str) -> BundleChoice:
        """Let a bundle inspect, with its recipe, from the next image on. It serves when this returns.

        Raises:
            UnknownProduct, UnknownBundle: It is not there.
            ChangeUnderWay: Somebody else changes the product's bundles now.
            BundleInvalid, ProviderUnavailable: It would not be served; the old one stays.
            StoreUnavailable: The choice could not be stored; the old one stays.
        """
        self._folder(product, version)
        with self._counted(product, "activate"), self._registry.changing(product):
            active = self._registry.active.get(product)
            current = self._registry.choices.current(product, "active")
            if active is not None and current is not None and active.bundle.version == current.version == version:
                return current
            return self._exchange(product, version, author, reason, returns_to=self._way_back(product, version))

    def roll_back(self, product: str, *, author: str, reason: str) -> BundleChoice:
        """Return to the bundle that was active before the present one; a second time, to the one before that.

        Raises:
            NothingToRollBackTo: No other one was active before.
            UnknownProduct, ChangeUnderWay, BundleInvalid, ProviderUnavailable, StoreUnavailable: As `activate`.
        """
        self._folders(product)
        with self._counted(product, "roll_back"), self._registry.changing(product):
            choices = self._registry.choices
            current = choices.current(product, "active")
            if current is None or current.returns_to is None:
                raise NothingToRollBackTo(product)
            former = choices.get(current.returns_to)
            assert former.version is not None
            return self._exchange(product, former.version, author, reason, returns_to=former.returns_to)

    def start_shadow(self, product: str, version: str, *, author: str, reason: str) -> BundleChoice:
        """Let a bundle judge what the active one decided, from the next image on.

        Raises:
            ShadowRefused: It is active, or no bundle is.
            UnknownProduct, UnknownBundle, ChangeUnderWay, BundleInvalid, ProviderUnavailable, StoreUnavailable: As
                `activate`; an earlier shadow stays.
        """
        self._folder(product, version)
        with self._counted(product, "shadow"), self._registry.changing(product):
            active = self._registry.active.get(product)
            if active is None:
                raise ShadowRefused(product, f"No bundle of {product!r} is active to be compared with.")
            if active.bundle.version == version:
                raise ShadowRefused(product, f"Bundle {version} is the active one; compare it with another.")
            inspector = self._registry.load_bundle(product, version, in_background=True)
            digest = inspector.bundle.digest
            choice = self._registry.set_shadow(
                product,
                inspector,
                lambda: self._registry.choices.append(product, "shadow", digest, author=author, reason=reason),
            )
            log.info("shadow started", product=product, version=version, author=author)
            return choice

    def stop_shadow(self, product: str, *, author: str, reason: str) -> BundleChoice:
        """Let nobody watch any more. What the shadow said stays stored.

        Raises:
            ShadowRefused: There is no shadow.
            UnknownProduct, ChangeUnderWay, StoreUnavailable: As `activate`.
        """
        self._folders(product)
        with self._counted(product, "stop_shadow"), self._registry.changing(product):
            current = self._registry.choices.current(product, "shadow")
            if current is None or current.bundle_digest is None:
                raise ShadowRefused(product, f"No bundle of {product!r} is a shadow.")
            return self._end_shadow(product, author, reason)

    def _exchange(
        self, product: str, version: str, author: str, reason: str, *, returns_to: int | None
    ) -> BundleChoice:
        inspector = self._registry.load_bundle(product, version)
        digest = inspector.bundle.digest
        choice = self._registry.swap(
            product,
            inspector,
            lambda: self._registry.choices.append(
                product, "active", digest, author=author, reason=reason, returns_to=returns_to
            ),
        )
        log.info("bundle activated", product=product, version=version, author=author)
        shadow = self._registry.shadows.get(product)
        if shadow is not None and shadow.bundle.version == version:
            self._end_shadow(product, author, f"Bundle {version} decides now.")
        return choice

    def _end_shadow(self, product: str, author: str, reason: str) -> BundleChoice:
        choice = self._registry.set_shadow(
            product,
            None,
            lambda: self._registry.choices.append(product, "shadow", None, author=author, reason=reason),
        )
        log.info("shadow ended", product=product, author=author)
        return choice

    def _way_back(self, product: str, version: str) -> int | None:
        """The choice that a roll-back from this version returns to: what serves now, also where nobody chose it."""
        choices = self._registry.choices
        lineage = choices.lineage(product)
        active = self._registry.active.get(product)
        if active is None:
            return lineage[0].id if lineage else None
        # Not the first of the lineage where that is broken and the one before it serves.
        present = next((choice for choice in lineage if choice.bundle_digest == active.bundle.digest), None)
        if active.bundle.version == version:  # to be chosen where it serves already: the way back is its own
            return None if present is None else present.returns_to
        if present is None:
            reason = "The newest bundle served; nobody had chosen one."
            present = choices.append(product, "active", active.bundle.digest, author=SYSTEM_AUTHOR, reason=reason)
        return present.id

    def _keep_what_serves(self, product: str) -> None:
        """Where nobody ever chose, the newest bundle serves at the next start. A bundle that was only uploaded must not
        get into service that way, so what serves now becomes the choice."""
        active = self._registry.active.get(product)
        if active is None or self._registry.choices.current(product, "active") is not None:
            return
        reason = "It served when another bundle was uploaded; nobody had chosen one."
        self._registry.choices.append(product, "active", active.bundle.digest, author=SYSTEM_AUTHOR, reason=reason)

    @contextmanager
    def _counted(self, product: str, change: str) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._metrics.bundle_changes.labels(product, change, "refused").inc()
            raise
        self._metrics.bundle_changes.labels(product, change, "done").inc()

    def _folders(self, product: str) -> list[Path]:
        if product not in self._registry.known:
            raise UnknownProduct(product, self._registry.known)
        try:
            return bundle_folders(self._registry.models / product)
        except FileNotFoundError:
            return []

    def _folder(self, product: str, version: str) -> Path:
        folders = self._folders(product)
        for folder in folders:
            if folder.name == version:
                return folder
        raise UnknownBundle(product, version, [folder.name for folder in folders])

    def _describe(self, product: str, folder: Path) -> BundleVersion:
        registry, version = self._registry, folder.name
        active, shadow = registry.active.get(product), registry.shadows.get(product)
        broken = registry.refused.get((product, version))
        manifest, digest = None, None
        try:
            manifest, digest = read_manifest(folder)
        except BundleInvalid as error:
            broken = broken or BrokenBundle(product, version, error.slug, error.detail)
        state: BundleState = "broken" if broken is not None else "available"
        # What serves was intact when it was loaded, whatever happened to its folder since.
        if active is not None and active.bundle.version == version:
            state = "active"
        elif shadow is not None and shadow.bundle.version == version:
            state = "shadow"
        return BundleVersion(product, version, state, manifest, digest, broken)
