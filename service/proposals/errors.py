"""Failures of threshold proposals."""

from __future__ import annotations

from service.errors import PlumblineError


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
