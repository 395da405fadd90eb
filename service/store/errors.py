"""Failures of the store."""

from __future__ import annotations

from service.errors import PlumblineError


class StoreUnavailable(PlumblineError):
    """Nothing can be stored or read now; and what is not stored is not answered."""

    slug = "store-unavailable"
    title = "Inspection store is not available"
    status = 503

    def __init__(self, reason: str, retry_after_s: float = 5.0) -> None:
        super().__init__(
            f"The inspection store cannot be used: {reason}. No verdict is given that is not stored. "
            "Check disk space and permissions of PLUMBLINE_DATA and the database (`plumbline doctor`), then send "
            "the picture again.",
            retry_after=retry_after_s,
        )


class RecipeConflict(PlumblineError):
    slug = "recipe-conflict"
    title = "Recipe was changed by somebody else"
    status = 412

    def __init__(self, product: str, expected: int, current: int) -> None:
        super().__init__(
            f"The recipe of {product!r} is at revision {current}, the change was made against revision "
            f"{expected}. Read the current recipe, decide again, and send the change against it. Nothing was changed.",
            product=product,
            expected_revision=expected,
            current_revision=current,
        )


class UnknownRevision(PlumblineError):
    slug = "unknown-revision"
    title = "Unknown recipe revision"
    status = 404

    def __init__(self, product: str, revision: int) -> None:
        super().__init__(
            f"The recipe of {product!r} has no revision {revision}. GET "
            f"/v1/products/{product}/recipe/revisions lists those it has.",
            product=product,
            revision=revision,
        )


class UnknownProposal(PlumblineError):
    slug = "unknown-proposal"
    title = "Unknown threshold proposal"
    status = 404

    def __init__(self, product: str, proposal_id: str) -> None:
        super().__init__(
            f"There is no proposal {proposal_id!r} for {product!r}. GET /v1/products/{product}/proposals lists those "
            "there are. Nothing was changed.",
            product=product,
            proposal_id=proposal_id,
        )


class ProposalOutdated(PlumblineError):
    slug = "proposal-outdated"
    title = "Proposal was made for another bundle"
    status = 409

    def __init__(self, proposal_id: str, made_for: str, active: str) -> None:
        super().__init__(
            f"The proposal {proposal_id} was measured with bundle {made_for[:12]}, now {active[:12]} serves, and its "
            "scores are on another scale. Propose again with the same good images. Nothing was changed.",
            proposal_id=proposal_id,
            made_for=made_for,
            active=active,
        )
