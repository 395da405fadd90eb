"""Publish uploaded bundles: make them visible, without putting them in force."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import IO

from sqlalchemy import Engine

from service.bundle.archive import import_archive
from service.bundle.bundle import Bundle
from service.deployment.implicit_choice import default_choice, stored_for
from service.deployment.registry import Registry
from service.deployment.uploads import UploadLimits
from service.inspection.runtime.freed_memory import return_freed_memory
from service.store.audit import SERVICE, Actor, AuditEntry, recorded
from service.store.choices import BundleChoices
from service.store.records import ChoiceDraft


class Publication:
    """Adds archived bundles to the model repository, or to the bundle store.

    Args:
        registry: The registry.
        engine: The database.
        choices: The stored bundle choices.
    """

    def __init__(self, registry: Registry, engine: Engine, choices: BundleChoices) -> None:
        self._registry = registry
        self._engine = engine
        self._choices = choices

    def publish(self, product: str, archive: IO[bytes], limits: UploadLimits, actor: Actor) -> tuple[Bundle, bool]:
        """Add an archived bundle.

        Args:
            product: The product.
            archive: A zip file.
            limits: Limits of uploads.
            actor: Who uploads it.

        Returns:
            The bundle, and whether it was added.

        Raises:
            PlumblineError: As for `Rollout.upload`.
        """
        source = self._registry.source
        is_known = False

        @contextmanager
        def publishing(bundle: Bundle) -> Iterator[None]:
            nonlocal is_known
            # Another replica may have uploaded it. Then its files are examined, and repaired if they are damaged.
            is_known = source.is_shared and source.contains(product, bundle.version)
            register = source.store(bundle)
            with ExitStack() as recording:
                if not is_known:
                    after = {"bundle_digest": bundle.digest}
                    entry = AuditEntry(actor, "bundle:upload", product, bundle.version, after=after)
                    recording.enter_context(self._publishing(product))
                    recording.enter_context(recorded(self._engine, entry, failed="bundle:upload-failed"))
                yield
                register()

        bundle, is_new = import_archive(
            self._registry.models,
            product,
            archive,
            limits.max_bytes,
            reserve_bytes=limits.reserve_bytes,
            publishing=publishing,
        )
        return_freed_memory()
        if source.is_shared:
            if not is_new:  # it is on the local disk, which does not mean that it is in the bundle store
                with publishing(bundle):
                    pass
            is_new = not is_known
        return bundle, is_new

    @contextmanager
    def _publishing(self, product: str) -> Iterator[None]:
        """Store the choice that is in force without an activation; an uploaded bundle becomes visible in the block.

        Without any choice the newest bundle serves after a restart, which would activate a bundle that was only
        uploaded. The choice is withdrawn if the block fails. Uploads to one product wait for each other here.

        Raises:
            ShuttingDown: The registry is closed.
            StoreUnavailable: The database cannot be used.
        """
        with self._registry.exclusive(product):
            is_chosen = self._choices.current(product, "active") is not None
            with stored_for(self._choices, None if is_chosen else self._implicit_choice(product)):
                yield

    def _implicit_choice(self, product: str) -> ChoiceDraft:
        """Return the choice that is in force without an activation.

        It is the active bundle. If none is active, it is the first of `BundleSource.defaults`, and none if the product
        is new.
        """
        active = self._registry.active.get(product)
        if active is not None:
            reason = "It was active by default when another bundle was uploaded."
            return ChoiceDraft(product, "active", active.bundle.digest, SERVICE, reason, "bundle:keep")
        reason = "The product was created by an upload, and none of its bundles was activated."
        none = ChoiceDraft(product, "active", None, SERVICE, reason, "bundle:keep")
        return default_choice(self._registry.source, product) or none
