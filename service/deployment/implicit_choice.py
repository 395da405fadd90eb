"""The choice that is stored when a bundle is added to a product that has bundles and no choice.

Without any choice, the default bundle serves after a restart, which would activate a bundle that was only added.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from service.deployment.sources.source import BundleSource
from service.store.audit import SERVICE
from service.store.choices import BundleChoices
from service.store.errors import StoreUnavailable
from service.store.records import BundleChoice, ChoiceDraft

log = structlog.get_logger(__name__)


def default_choice(source: BundleSource, product: str) -> ChoiceDraft | None:
    """Return the choice of a product's default bundle; None if it has no bundle whose manifest can be read.

    Raises:
        OSError, StoreUnavailable: The bundles cannot be listed.
    """
    digest = source.default_digest(product)
    if digest is None:
        return None
    reason = "It was the default bundle when another one was uploaded."
    return ChoiceDraft(product, "active", digest, SERVICE, reason, "bundle:keep")


@contextmanager
def stored_for(choices: BundleChoices, draft: ChoiceDraft | None) -> Iterator[None]:
    """Store a choice before the block, which adds a bundle, and withdraw it if the block fails.

    Args:
        choices: The stored bundle choices.
        draft: The choice; None to store none.

    Raises:
        StoreUnavailable: The database cannot be used.
    """
    stored = None if draft is None else choices.append(draft)
    try:
        yield
    except BaseException:
        if stored is not None:
            _withdraw(choices, stored)
        raise


def _withdraw(choices: BundleChoices, choice: BundleChoice) -> None:
    try:
        choices.withdraw(choice)
    except StoreUnavailable as error:
        log.error("choice of a failed upload not removed", product=choice.product, reason=error.detail)
