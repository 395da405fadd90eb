"""How long records of inspections are kept, as the setting `record_days` states it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

KeptReason = Literal["image", "review", "message", "drift", "newest"]
"""Why an old record is kept: its image or map is stored, a person reviewed it, a message to a sink or a dead letter
needs it, drift monitoring has not counted it yet, or it is the newest one.
"""
MIN_DAYS, MAX_DAYS = 1.0, 36_500.0
FOREVER = "forever"
_EXPECTED = (
    f"expected a number of days from {MIN_DAYS:g} to {MAX_DAYS:g}, and exceptions as PRODUCT=DAYS or PRODUCT={FOREVER}"
    f", separated by commas, such as 365 or 365,brake-disc=5475 or {FOREVER},washer=90"
)


@dataclass(frozen=True)
class RecordDays:
    """How long records are kept.

    Attributes:
        days: Days of all products; None for ever.
        of_products: Days of the products that are exceptions; None for ever.
    """

    days: float | None = None
    of_products: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def removes(self) -> bool:
        """Whether records of any product are removed."""
        return self.shortest is not None

    @property
    def text(self) -> str:
        """The text that `parse_record_days` reads; empty if all records are kept for ever."""
        if not self.removes:
            return ""
        products = (f"{product}={_text(days)}" for product, days in sorted(self.of_products.items()))
        return ",".join((_text(self.days), *products))

    @property
    def shortest(self) -> float | None:
        """The shortest time in days; None if all records are kept for ever."""
        return min((days for days in (self.days, *self.of_products.values()) if days is not None), default=None)

    def limit(self, product: str, now: datetime) -> datetime | None:
        """Return the time before which records of a product are removed; None if they are kept for ever.

        Args:
            product: Name of the product.
            now: The present time.
        """
        days = self.days_of(product)
        return None if days is None else now - timedelta(days=days)

    def days_of(self, product: str) -> float | None:
        """Return the days of a product; None for ever."""
        return self.of_products.get(product, self.days)

    def with_longer(self, exceptions: Mapping[str, float | None]) -> RecordDays:
        """Return the same with the exceptions of products that are longer than what applies to them.

        Args:
            exceptions: Days by the product; None for ever.
        """
        longer: dict[str, float | None] = {}
        for product, days in exceptions.items():
            own = self.days_of(product)
            if own is not None and (days is None or days > own):
                longer[product] = days
        return RecordDays(self.days, {**self.of_products, **longer})


def parse_record_days(text: str) -> RecordDays:
    """Return how long records are kept.

    Args:
        text: Days, and exceptions of products, separated by commas: "365", "365,brake-disc=5475",
            "forever,washer=90". An empty text keeps all records for ever.

    Raises:
        ValueError: It is not such a text.
    """
    days: float | None = None
    of_products: dict[str, float | None] = {}
    for number, part in enumerate(text.split(",") if text.strip() else ()):
        product, equals, value = (piece.strip() for piece in part.rpartition("="))
        if equals:
            if not product or product in of_products:
                raise ValueError(_EXPECTED)
            of_products[product] = _days(value)
        elif number == 0:
            days = _days(value)
        else:
            raise ValueError(_EXPECTED)
    return RecordDays(days, of_products)


def _text(days: float | None) -> str:
    return FOREVER if days is None else f"{days:g}"


def _days(text: str) -> float | None:
    if text == FOREVER:
        return None
    try:
        days = float(text)
    except ValueError:
        days = math.nan
    if not MIN_DAYS <= days <= MAX_DAYS:
        raise ValueError(_EXPECTED)
    return days
