"""Rollout: list, upload, activate, roll back and shadow the bundles of a product.

A change loads and tests the new bundle while the old one serves, swaps the two between two images, and unloads the old
one after its last inspection. If any step fails, the old bundle stays active.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Literal

import structlog
from sqlalchemy import Engine

from service.bundle.bundle import Bundle
from service.bundle.errors import BundleInvalid
from service.bundle.manifest import Manifest
from service.deployment.errors import ChangeUnderWay, NothingToRollBackTo, ShadowRefused, UnknownProduct
from service.deployment.failures import BrokenBundle
from service.deployment.publication import Publication
from service.deployment.recipes import draft_recipe, shadow_recipe
from service.deployment.registry import Registry
from service.deployment.uploads import BundleUploads
from service.monitoring.metrics import Metrics
from service.recipes.recipe import Recipe
from service.store.audit import SERVICE, Actor, AuditAction
from service.store.choices import BundleChoices
from service.store.records import BundleChoice, ChoiceDraft, RecipeDraft, RecipeRevision

log = structlog.get_logger(__name__)

BundleState = Literal["active", "shadow", "available", "broken"]
_Predecessor = int | ChoiceDraft | None


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
        is_loaded: Whether it is in memory.
    """

    product: str
    version: str
    state: BundleState
    manifest: Manifest | None
    digest: str | None
    broken: BrokenBundle | None
    is_loaded: bool = False


@dataclass(frozen=True)
class _Change:
    """A requested change of the active bundle."""

    action: AuditAction
    actor: Actor
    reason: str
    confirm_removal: int | None


class Rollout:
    """Lists, uploads and swaps bundles. All methods block, some for seconds: do not call them on an event loop.

    Args:
        registry: The registry.
        engine: The database.
        metrics: Metrics that count the changes.
        uploads: Receives the archives.

    Attributes:
        choices: The stored bundle choices.
        uploads: Receives the archives.
    """

    def __init__(self, registry: Registry, engine: Engine, metrics: Metrics, uploads: BundleUploads) -> None:
        self.choices = BundleChoices(engine, in_store=registry.source.is_shared)
        self.uploads = uploads
        self._registry = registry
        self._engine = engine
        self._publication = Publication(registry, engine, self.choices)
        self._metrics = metrics

    def versions(self, product: str) -> list[BundleVersion]:
        """Return a product's bundles, newest first.

        Raises:
            UnknownProduct: The repository has no such product.
        """
        return [self._describe(product, version) for version in self._versions(product)]

    def version(self, product: str, version: str) -> BundleVersion:
        """Return one of a product's bundles.

        Raises:
            UnknownProduct, UnknownBundle: The repository does not contain it.
        """
        self._require(product, version)
        return self._describe(product, version)

    def check_upload(self, product: str, *, create_product: bool) -> None:
        """Check whether a bundle of a product may be uploaded now, before its archive is received.

        Args:
            product: The product.
            create_product: Whether the product may be new.

        Raises:
            UnknownProduct: The product is new.
            ChangeUnderWay: A change of the product's bundles is in progress.
        """
        if not create_product and not self._registry.products.contains(product):
            remedy = "To create the product with its first bundle, upload it with create_product=true."
            raise UnknownProduct(product, self._registry.known, self._registry.source.repository, remedy)
        if self._registry.is_loading(product):
            raise ChangeUnderWay(product)

    def upload(
        self, product: str, archive: IO[bytes], *, actor: Actor, create_product: bool
    ) -> tuple[BundleVersion, bool]:
        """Add an archived bundle to the model repository. It does not serve until it is activated.

        Args:
            product: The product.
            archive: A zip file.
            actor: Who uploads it.
            create_product: Whether the product may be new.

        Returns:
            The bundle, and whether it was added.

        Raises:
            UnknownProduct, ChangeUnderWay: As for `check_upload`.
            BundleArchiveInvalid, BundleTooLarge, BundleInvalid, NotEnoughSpace, RepositoryNotWritable: As for
                `import_archive`.
            BundleStoreUnavailable: The bundle store cannot take it.
            StoreUnavailable: The database cannot be used.
        """
        self.check_upload(product, create_product=create_product)
        bundle, is_new = self._publication.publish(product, archive, self.uploads.limits, actor)
        self._registry.refresh(product, bundle.version)
        log.info("bundle uploaded", product=product, version=bundle.version, is_new=is_new)
        return self.version(product, bundle.version), is_new

    def activate(
        self, product: str, version: str, *, actor: Actor, reason: str, confirm_removal: int | None = None
    ) -> BundleChoice:
        """Activate a bundle with its recipe. It serves from the next image on when this method returns.

        Args:
            product: The product.
            version: The bundle's version.
            actor: Who activates it.
            reason: Why.
            confirm_removal: Number of inspections whose images may be removed because of the bundle's recipe.

        Raises:
            UnknownProduct, UnknownBundle: The repository does not contain it.
            RemovalNotConfirmed: The retention of the recipe would remove more than it keeps.
            ChangeUnderWay: Another change of the product's bundles is in progress.
            BundleInvalid, ProviderUnavailable: It cannot be served. The old bundle stays active.
            BundleStoreUnavailable: It cannot be fetched. The old bundle stays active.
            StoreUnavailable: The choice cannot be stored. The old bundle stays active.
        """
        self._require(product, version)
        with self._counted(product, "activate"), self._registry.changing(product):
            active = self._registry.active.get(product)
            current = self.choices.current(product, "active")
            if active is not None and current is not None and active.bundle.version == current.version == version:
                return current
            change = _Change("bundle:activate", actor, reason, confirm_removal)
            return self._swap(product, version, change, lambda: self._predecessor(product, version))

    def roll_back(self, product: str, *, actor: Actor, reason: str, confirm_removal: int | None = None) -> BundleChoice:
        """Activate the bundle that was active before the current one. Each call goes back one bundle further.

        Raises:
            NothingToRollBackTo: No other bundle was active before.
            UnknownProduct, ChangeUnderWay, BundleInvalid, ProviderUnavailable, StoreUnavailable: As for `activate`.
        """
        self._registry.products.look_up(product)
        with self._counted(product, "roll_back"), self._registry.changing(product):
            current = self.choices.current(product, "active")
            if current is None or current.returns_to is None:
                raise NothingToRollBackTo(product)
            previous = self.choices.get(current.returns_to)
            if previous.version is None:  # the choice that the first upload to a product without a bundle stores
                raise NothingToRollBackTo(product)
            change = _Change("bundle:roll-back", actor, reason, confirm_removal)
            return self._swap(product, previous.version, change, lambda: previous.returns_to)

    def start_shadow(self, product: str, version: str, *, actor: Actor, reason: str) -> BundleChoice:
        """Deploy a bundle as the product's shadow: it judges the images of the active bundle from the next one on.

        Raises:
            ShadowRefused: It is the active bundle, or no bundle is active.
            UnknownProduct, UnknownBundle, ChangeUnderWay, BundleInvalid, ProviderUnavailable, StoreUnavailable: As for
                `activate`. An earlier shadow deployment stays.
        """
        self._require(product, version)
        with self._counted(product, "shadow"), self._registry.changing(product):
            active = self._registry.active.get(product)
            if active is None:
                raise ShadowRefused(product, f"{product!r} has no active bundle to compare with.")
            if active.bundle.version == version:
                raise ShadowRefused(product, f"Bundle {version} is the active bundle. Choose another one.")
            served = self._registry.load_bundle(product, version, in_background=True)
            draft = ChoiceDraft(product, "shadow", served.bundle.digest, actor, reason, "shadow:start")

            def store() -> tuple[Recipe, BundleChoice]:
                recipe = shadow_recipe(self._engine, served.bundle)
                return recipe, self.choices.append(draft)

            choice = self._registry.start_shadow(product, served, store)
            log.info("shadow started", product=product, version=version, author=actor.name)
            return choice

    def stop_shadow(self, product: str, *, actor: Actor, reason: str) -> BundleChoice:
        """End the product's shadow deployment. Its verdicts stay stored.

        Raises:
            ShadowRefused: The product has no shadow deployment.
            UnknownProduct, ChangeUnderWay, StoreUnavailable: As for `activate`.
        """
        self._registry.products.look_up(product)
        with self._counted(product, "stop_shadow"), self._registry.changing(product):
            current = self.choices.current(product, "shadow")
            if current is None or current.bundle_digest is None:
                raise ShadowRefused(product, f"{product!r} has no shadow bundle.")
            draft = ChoiceDraft(product, "shadow", None, actor, reason, "shadow:stop")
            choice = self._registry.stop_shadow(product, lambda: self.choices.append(draft))
            log.info("shadow stopped", product=product, author=actor.name)
            return choice

    def _swap(
        self, product: str, version: str, change: _Change, find_predecessor: Callable[[], _Predecessor]
    ) -> BundleChoice:
        served = self._registry.load_bundle(product, version)

        def store() -> tuple[RecipeRevision, BundleChoice]:
            # What a roll-back returns to: a stored choice, or one that is stored together with this one. It is
            # determined under the product's lock, because a failed upload withdraws a choice under it.
            found = find_predecessor()
            returns_to, implicit = (None, found) if isinstance(found, ChoiceDraft) else (found, None)
            actor, digest = change.actor, served.bundle.digest
            drafts = [ChoiceDraft(product, "active", digest, actor, change.reason, change.action, returns_to)]
            shadow = self._registry.shadows.get(product)
            if shadow is not None and shadow.bundle.digest == digest:
                reason = f"Bundle {version} is active now."
                drafts.append(ChoiceDraft(product, "shadow", None, actor, reason, "shadow:stop"))
            return self._store_choices(served.bundle, drafts, implicit, change)

        choice = self._registry.swap(product, served, store)
        log.info("bundle activated", product=product, version=version, author=change.actor.name)
        return choice

    def _store_choices(
        self, bundle: Bundle, drafts: list[ChoiceDraft], implicit: ChoiceDraft | None, change: _Change
    ) -> tuple[RecipeRevision, BundleChoice]:
        """Store the choice of a bundle and its recipe in one transaction."""
        recipe = draft_recipe(self._engine, bundle, change.confirm_removal, change.actor)
        draft = recipe if isinstance(recipe, RecipeDraft) else None
        (choice, *_), appended = self.choices.append_with_recipe(drafts, draft, implicit)
        if appended is not None:
            return appended, choice
        assert isinstance(recipe, RecipeRevision)
        return recipe, choice

    def _predecessor(self, product: str, version: str) -> _Predecessor:
        """Return the choice that a roll-back from this version returns to: its id, or a draft if it is not stored.

        It is the choice of the active bundle, which has none if it was active by default.
        """
        lineage = self.choices.lineage(product)
        active = self._registry.active.get(product)
        if active is None:
            return lineage[0].id if lineage and lineage[0].version is not None else None
        # Not always the first: if the chosen bundle is broken, the one before it serves.
        current = next((choice for choice in lineage if choice.bundle_digest == active.bundle.digest), None)
        if active.bundle.version == version:  # it is chosen while it serves already, so it inherits its own predecessor
            return None if current is None else current.returns_to
        if current is None:
            reason = "The newest bundle was active by default."
            return ChoiceDraft(product, "active", active.bundle.digest, SERVICE, reason, "bundle:keep")
        return current.id

    @contextmanager
    def _counted(self, product: str, change: str) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._metrics.bundles.bundle_changes.labels(product, change, "refused").inc()
            raise
        self._metrics.bundles.bundle_changes.labels(product, change, "done").inc()

    def _versions(self, product: str) -> list[str]:
        self._registry.products.look_up(product)
        return self._registry.source.versions(product)

    def _require(self, product: str, version: str) -> None:
        self._registry.products.look_up(product)
        self._registry.source.require(product, version)

    def _describe(self, product: str, version: str) -> BundleVersion:
        registry = self._registry
        active, shadow = registry.active.get(product), registry.shadows.get(product)
        broken = registry.failures.refused.get((product, version))
        manifest, digest = None, None
        try:
            manifest, digest = registry.source.manifest(product, version)
        except BundleInvalid as error:
            broken = broken or BrokenBundle(product, version, error.slug, error.detail)
        state: BundleState = "broken" if broken is not None else "available"
        # A loaded bundle was intact when it was loaded, even if its folder was damaged since.
        is_loaded = False
        if active is not None and active.bundle.version == version:
            state, is_loaded = "active", active.served.is_loaded
        elif shadow is not None and shadow.bundle.version == version:
            state, is_loaded = "shadow", shadow.served.is_loaded
        return BundleVersion(product, version, state, manifest, digest, broken, is_loaded)
