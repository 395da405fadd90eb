"""Failures of one inspection's way through the service."""

from __future__ import annotations

from service.errors import PlumblineError


class ProposalsBusy(PlumblineError):
    slug = "proposals-busy"
    title = "Another proposal is being made"
    status = 503

    def __init__(self, retry_after_s: float = 5.0) -> None:
        super().__init__(
            "Good images are being measured for another proposal; one is made at a time, so that the line's own "
            f"images do not wait. Ask again after {retry_after_s:g} s.",
            retry_after=retry_after_s,
        )
