"""Bounds of false-reject rates on pages: the words of the service in English, and numbers of the language."""

from __future__ import annotations

from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st

from service.api.mapping import to_rate_bound
from service.inspection.calibration import bound_rate
from service.languages import Texts
from service.web.bounds import bound_text
from service.web.page import CATALOGUES

ENGLISH, GERMAN = (Texts(language, ZoneInfo("UTC"), CATALOGUES) for language in ("en", "de"))


@given(st.integers(1, 3000), st.floats(1e-6, 0.999))
def test_english_text_is_the_statement_of_the_api(n: int, rate: float) -> None:
    bound = bound_rate(n, rate)
    assert bound_text(ENGLISH, to_rate_bound(bound), rate) == str(bound)


def test_german_text_has_german_numbers() -> None:
    text = bound_text(GERMAN, to_rate_bound(bound_rate(10, 0.01)), 0.01)
    assert text == "etwa 1 %, extrapoliert; zertifiziert: ≤ 9,1 % im Mittel, ≤ 26 % mit 95 % Sicherheit (n = 10)"
