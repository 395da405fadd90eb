"""Rollout: list, upload, activate, roll back and shadow the bundles of a product.

A change loads and tests the new bundle while the old one serves, swaps the two between two images, and unloads the old
one after its last inspection. If any step fails, the old bundle stays active.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import structlog
from sqlalchemy import Engine

from service.bundle.archive import import_archive
from service.bundle.bundle import bundle_folders, read_manifest
from service.bundle.errors import BundleInvalid
from service.bundle.manifest import Manifest
from service.deployment.errors import NothingToRollBackTo, ShadowRefused, UnknownBundle, UnknownProduct
from service.deployment.failures import BrokenBundle
from service.deployment.memory import return_freed_memory
from service.deployment.recipes import draft_recipe, shadow_recipe
from service.deployment.registry import Registry
from service.inspection.inspector import Inspector
from service.monitoring.metrics import Metrics
from service.recipes.recipe import Recipe
from service.schemas.common import SYSTEM_AUTHOR
from service.store.choices import BundleChoices
from service.store.records import BundleChoice, ChoiceDraft, RecipeDraft, RecipeRevision

log = structlog.get_logger(__name__)

BundleState = Literal["active", "shadow", "available", "broken"]


@dataclass(frozen=True)
class BundleVersion:
    """A bundle in the model repository, and its state.

    Attributes:
        product: The product.
        version: The bundle's version.
        state: Its state.
        manifest: Its manifest; None if it cannot be read.
        digest: Its digest; None if the manifest cannot be read.
        broken: Why it cannot be served, as far as it is known without loading it.
    """

    product: str
    version: str
    state: BundleState
    manifest: Manifest | None
    digest: str | None
    broken: BrokenBundle | None


class Rollout:
    """Lists, uploads and swaps bundles. All methods block, some for seconds: do not call them on an event loop.

    Args:
        registry: The registry.
        engine: The database.
        metrics: Metrics that count the changes.

    Attributes:
        choices: The stored bundle choices.
        uploading: Hold this lock around `upload`: unpacking takes memory, so uploads run one at a time.
    """

    def __init__(self, registry: Registry, engine: Engine, metrics: Metrics) -> None:
        self.choices = BundleChoices(engine)
        self.uploading = asyncio.Lock()
        self._registry = registry
        self._engine = engine
        self._metrics = metrics

    def versions(self, product: str) -> list[BundleVersion]:
        """Return a product's bundles, newest first.

        Raises:
            UnknownProduct: The repository has no such product.
        """
        return [self._describe(product, folder) for folder in self._folders(product)]

    def version(self, product: str, version: str) -> BundleVersion:
        """Return one of a product's bundles.

        Raises:
            UnknownProduct, UnknownBundle: The repository does not contain it.
        """
        return self._describe(product, self._folder(product, version))

    def upload(self, product: str, archive: IO[bytes], limit_bytes: int) -> tuple[BundleVersion, bool]:
        """Add an archived bundle to the model repository. It does not serve until it is activated.

        Args:
            product: The product. It may be new.
            archive: A zip file.
            limit_bytes: Maximum size of the unpacked bundle.

        Returns:
            The bundle, and whether it was added.

        Raises:
            BundleArchiveInvalid, BundleTooLarge, BundleInvalid, RepositoryNotWritable: As for `import_archive`.
            ChangeUnderWay: Another change of the product's bundles is in progress.
            StoreUnavailable: The database cannot be used.
        """
        with self._registry.changing(product):
            self._store_implicit_choice(product)
        bundle, is_new = import_archive(self._registry.models, product, archive, limit_bytes)
        return_freed_memory()
        self._registry.refresh(product, bundle.version)
        log.info("bundle uploaded", product=product, version=bundle.version, is_new=is_new)
        return self.version(product, bundle.version), is_new

    def activate(self, product: str, version: str, *, author: str, reason: str) -> BundleChoice:
        """Activate a bundle with its recipe. It serves from the next image on when this method returns.

        Raises:
            UnknownProduct, UnknownBundle: The repository does not contain it.
            ChangeUnderWay: Another change of the product's bundles is in progress.
            BundleInvalid, ProviderUnavailable: It cannot be served. The old bundle stays active.
            StoreUnavailable: The choice cannot be stored. The old bundle stays active.
        """
        self._folder(product, version)
        with self._counted(product, "activate"), self._registry.changing(product):
            active = self._registry.active.get(product)
            current = self.choices.current(product, "active")
            if active is not None and current is not None and active.bundle.version == current.version == version:
                return current
            return self._swap(product, version, author, reason, returns_to=self._predecessor(product, version))

    def roll_back(self, product: str, *, author: str, reason: str) -> BundleChoice:
        """Activate the bundle that was active before the current one. Each call goes back one bundle further.

        Raises:
            NothingToRollBackTo: No other bundle was active before.
            UnknownProduct, ChangeUnderWay, BundleInvalid, ProviderUnavailable, StoreUnavailable: As for `activate`.
        """
        self._folders(product)
        with self._counted(product, "roll_back"), self._registry.changing(product):
            current = self.choices.current(product, "active")
            if current is None or current.returns_to is None:
                raise NothingToRollBackTo(product)
            previous = self.choices.get(current.returns_to)
            assert previous.version is not None
            return self._swap(product, previous.version, author, reason, returns_to=previous.returns_to)

    def start_shadow(self, product: str, version: str, *, author: str, reason: str) -> BundleChoice:
        """Deploy a bundle as the product's shadow: it judges the images of the active bundle from the next one on.

        Raises:
            ShadowRefused: It is the active bundle, or no bundle is active.
            UnknownProduct, UnknownBundle, ChangeUnderWay, BundleInvalid, ProviderUnavailable, StoreUnavailable: As for
                `activate`. An earlier shadow deployment stays.
        """
        self._folder(product, version)
        with self._counted(product, "shadow"), self._registry.changing(product):
            active = self._registry.active.get(product)
            if active is None:
                raise ShadowRefused(product, f"{product!r} has no active bundle to compare with.")
            if active.bundle.version == version:
                raise ShadowRefused(product, f"Bundle {version} is the active bundle. Choose another one.")
            inspector = self._registry.load_bundle(product, version, in_background=True)
            draft = ChoiceDraft(product, "shadow", inspector.bundle.digest, author, reason)

            def store() -> tuple[Recipe, BundleChoice]:
                recipe = shadow_recipe(self._engine, inspector.bundle)
                return recipe, self.choices.append(draft)

            choice = self._registry.start_shadow(product, inspector, store)
            log.info("shadow started", product=product, version=version, author=author)
            return choice

    def stop_shadow(self, product: str, *, author: str, reason: str) -> BundleChoice:
        """End the product's shadow deployment. Its verdicts stay stored.

        Raises:
            ShadowRefused: The product has no shadow deployment.
            UnknownProduct, ChangeUnderWay, StoreUnavailable: As for `activate`.
        """
        self._folders(product)
        with self._counted(product, "stop_shadow"), self._registry.changing(product):
            current = self.choices.current(product, "shadow")
            if current is None or current.bundle_digest is None:
                raise ShadowRefused(product, f"{product!r} has no shadow bundle.")
            draft = ChoiceDraft(product, "shadow", None, author, reason)
            choice = self._registry.stop_shadow(product, lambda: self.choices.append(draft))
            log.info("shadow stopped", product=product, author=author)
            return choice

    def _swap(self, product: str, version: str, author: str, reason: str, *, returns_to: int | None) -> BundleChoice:
        inspector = self._registry.load_bundle(product, version)
        drafts = [ChoiceDraft(product, "active", inspector.bundle.digest, author, reason, returns_to)]
        shadow = self._registry.shadows.get(product)
        if shadow is not None and shadow.bundle.digest == inspector.bundle.digest:
            drafts.append(ChoiceDraft(product, "shadow", None, author, f"Bundle {version} is active now."))
        choice = self._registry.swap(product, inspector, lambda: self._store_choices(inspector, drafts))
        log.info("bundle activated", product=product, version=version, author=author)
        return choice

    def _store_choices(self, inspector: Inspector, drafts: list[ChoiceDraft]) -> tuple[RecipeRevision, BundleChoice]:
        """Store the choice of a bundle and its recipe in one transaction."""
        recipe = draft_recipe(self._engine, inspector.bundle)
        draft = recipe if isinstance(recipe, RecipeDraft) else None
        (choice, *_), appended = self.choices.append_with_recipe(drafts, draft)
        if appended is not None:
            return appended, choice
        assert isinstance(recipe, RecipeRevision)
        return recipe, choice

    def _predecessor(self, product: str, version: str) -> int | None:
        """Return the id of the choice that a roll-back from this version returns to.

        It is the choice of the active bundle. If that was never chosen, its choice is stored now.
        """
        lineage = self.choices.lineage(product)
        active = self._registry.active.get(product)
        if active is None:
            return lineage[0].id if lineage else None
        # Not always the first: if the chosen bundle is broken, the one before it serves.
        current = next((choice for choice in lineage if choice.bundle_digest == active.bundle.digest), None)
        if active.bundle.version == version:  # it is chosen while it serves already, so it inherits its own predecessor
            return None if current is None else current.returns_to
        if current is None:
            reason = "The newest bundle was active by default."
            current = self.choices.append(ChoiceDraft(product, "active", active.bundle.digest, SYSTEM_AUTHOR, reason))
        return current.id

    def _store_implicit_choice(self, product: str) -> None:
        """Store the active bundle as the choice if there is none.

        Without a choice the newest bundle serves after a restart, which would activate a bundle that was only uploaded.
        """
        active = self._registry.active.get(product)
        if active is None or self.choices.current(product, "active") is not None:
            return
        reason = "It was active by default when another bundle was uploaded."
        self.choices.append(ChoiceDraft(product, "active", active.bundle.digest, SYSTEM_AUTHOR, reason))

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
        broken = registry.failures.refused.get((product, version))
        manifest, digest = None, None
        try:
            manifest, digest = read_manifest(folder)
        except BundleInvalid as error:
            broken = broken or BrokenBundle(product, version, error.slug, error.detail)
        state: BundleState = "broken" if broken is not None else "available"
        # A loaded bundle was intact when it was loaded, even if its folder was damaged since.
        if active is not None and active.bundle.version == version:
            state = "active"
        elif shadow is not None and shadow.bundle.version == version:
            state = "shadow"
        return BundleVersion(product, version, state, manifest, digest, broken)
