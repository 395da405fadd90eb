"""The setting `record_days`: one rule for all products, and exceptions."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from service.record_days import parse_record_days
from service.settings import Settings

NOW = datetime(2026, 6, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "washer", "brake", "stated"),
    [
        ("", None, None, ""),
        ("forever", None, None, ""),
        ("365", 365, 365, "365"),
        ("365, brake-disc=5475", 365, 5475, "365,brake-disc=5475"),
        ("365,brake-disc=forever", 365, None, "365,brake-disc=forever"),
        ("brake-disc=90.5", None, 90.5, "forever,brake-disc=90.5"),
    ],
)
def test_rule_has_exceptions_of_products(text: str, washer: float | None, brake: float | None, stated: str) -> None:
    days = parse_record_days(text)
    for product, expected in (("washer", washer), ("brake-disc", brake)):
        assert days.limit(product, NOW) == (None if expected is None else NOW - timedelta(days=expected))
    assert days.removes is (stated != "")
    assert days.text == stated
    assert parse_record_days(days.text).text == stated


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"record_days": "0.5"}, "expected a number of days from 1 to 36500"),
        ({"record_days": "40000"}, "expected a number of days"),
        ({"record_days": "nan"}, "expected a number of days"),
        ({"record_days": "1y"}, "expected a number of days"),
        ({"record_days": "365,90"}, "PRODUCT=DAYS"),
        ({"record_days": "365,"}, "PRODUCT=DAYS"),
        ({"record_days": "365,=90"}, "PRODUCT=DAYS"),
        ({"record_days": "365,nut="}, "expected a number of days"),
        ({"record_days": "365,nut=90,nut=91"}, "PRODUCT=DAYS"),
        ({"record_days": "365,nut=2", "idempotency_hours": 49}, "less than idempotency_hours"),
    ],
)
def test_rule_that_is_not_valid_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Settings(**values)
