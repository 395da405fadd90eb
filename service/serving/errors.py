"""Errors of the serving layer."""

from __future__ import annotations

from service.errors import PlumblineError


class ProposalsBusy(PlumblineError):
    """Another proposal is being computed.

    Only one is computed at a time, so that inspections are not delayed. Send the request again after `retry_after`.
    """

    slug = "proposals-busy"
    title = "Another proposal is being computed"
    status = 503

    def __init__(self, retry_after_s: float = 5.0) -> None:
        super().__init__(
            "Good images are being measured for another proposal. Only one proposal is computed at a time, so that "
            f"inspections are not delayed. Retry after {retry_after_s:g} s.",
            retry_after=retry_after_s,
        )
