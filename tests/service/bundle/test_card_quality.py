"""The quality measures on the calibration card."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from service.bundle.card import CalibrationCard
from tests.bundles import SCORES, tiny_card

NAMES = ("brightness", "contrast", "sharpness", "red_share", "blue_share")


@pytest.mark.parametrize("count", [0, len(SCORES) - 1, len(SCORES) + 1])
def test_every_score_has_a_value_of_each_measure(count: int) -> None:
    values = {name: [1.0] * len(SCORES) for name in NAMES}
    card = CalibrationCard.model_validate(tiny_card().model_dump() | {"quality_of_score": values})
    assert card.quality_of_score is not None
    values["contrast"] = [1.0] * count
    with pytest.raises(ValidationError, match="a value of each measure for every score"):
        CalibrationCard.model_validate(tiny_card().model_dump() | {"quality_of_score": values})


def test_a_card_from_before_has_none() -> None:
    stored = tiny_card().model_dump()
    del stored["quality_of_score"]
    assert CalibrationCard.model_validate(stored).quality_of_score is None
