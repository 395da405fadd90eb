"""Errors of threshold proposals."""

from __future__ import annotations

from service.errors import PlumblineError


class UnknownProposal(PlumblineError):
    """The product has no proposal with this id. Nothing was changed.

    `GET /v1/products/{product}/proposals` lists the proposals of a product.
    """

    slug = "unknown-proposal"
    title = "Unknown threshold proposal"
    status = 404

    def __init__(self, product: str, proposal_id: str) -> None:
        super().__init__(
            f"There is no proposal {proposal_id!r} for {product!r}. GET /v1/products/{product}/proposals lists the "
            "existing ones. Nothing was changed.",
            product=product,
            proposal_id=proposal_id,
        )


class ProposalOutdated(PlumblineError):
    """The proposal was made with a bundle that is no longer active. Nothing was changed.

    Its scores are on the scale of the bundle that measured them (`made_for`). Create a new proposal from the same good
    images with the active bundle.
    """

    slug = "proposal-outdated"
    title = "Proposal was made for another bundle"
    status = 409

    def __init__(self, proposal_id: str, made_for: str, active: str) -> None:
        super().__init__(
            f"The proposal {proposal_id} was made with bundle {made_for[:12]}, but {active[:12]} is active and its "
            "scores are on another scale. Create a proposal from the same good images again. Nothing was changed.",
            proposal_id=proposal_id,
            made_for=made_for,
            active=active,
        )
