"""What the pages need of the monitoring of drift. Without a source of it, they do not mention drift."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from starlette.requests import Request


class DriftPoint(Protocol):
    """The evidence at a time."""

    @property
    def at(self) -> datetime:
        """The time."""

    @property
    def evidence(self) -> float:
        """Decimal logarithm of the evidence."""


class DriftStream(Protocol):
    """What is monitored of a product or of one of its stations. The fields are those of `GET …/drift`."""

    @property
    def kind(self) -> str:
        """What is monitored."""

    @property
    def station(self) -> str | None:
        """The station; None for the product as a whole."""

    @property
    def state(self) -> str:
        """`collecting`, `ok` or `alarm`."""

    @property
    def evidence(self) -> float:
        """Decimal logarithm of the evidence."""

    @property
    def limit(self) -> float:
        """Evidence at which an alarm is raised."""

    @property
    def onset(self) -> datetime | None:
        """Estimated start of the change."""

    @property
    def count(self) -> int:
        """Inspections that were counted."""

    @property
    def explanation(self) -> str:
        """What the stream shows, in words."""

    @property
    def remedy(self) -> str | None:
        """What to do; None without an alarm."""

    @property
    def history(self) -> Sequence[DriftPoint]:
        """Course of the evidence, oldest first."""


class DriftReport(Protocol):
    """Drift of a product."""

    @property
    def guarantee(self) -> str:
        """`certified`, `suspended` or `none`."""

    @property
    def streams(self) -> Sequence[DriftStream]:
        """What is monitored."""


class DriftSource(Protocol):
    """Reports drift."""

    def report(self, product: str) -> DriftReport:
        """Return the drift of a product.

        Raises:
            UnknownProduct: There is no such product.
            StoreUnavailable: The database cannot be read.
        """


def drift_source(request: Request) -> DriftSource | None:
    """Return what reports drift; None if the application has nothing that does."""
    source: DriftSource | None = getattr(request.app.state, "drift", None)
    return source
