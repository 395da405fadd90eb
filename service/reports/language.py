"""Languages of reports: translated texts, and dates and numbers as the language writes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import get_args

from babel import Locale, negotiate_locale
from babel.dates import format_date, format_datetime, format_time
from babel.messages.pofile import read_po
from babel.numbers import format_decimal, format_percent
from markupsafe import Markup, escape

from service.schemas.report import ReportLanguage

LANGUAGES: tuple[ReportLanguage, ...] = get_args(ReportLanguage)
DEFAULT_LANGUAGE: ReportLanguage = "en"
LOCALE = Path(__file__).parent / "locale"
CATALOGUE = "LC_MESSAGES/report.po"
MISSING = "–"
"""What a report shows for a value that does not exist."""
# English dates are those of Great Britain: with the day before the month, and 24 hours.
_LOCALES = {"en": "en_GB", "de": "de_DE"}


@dataclass(frozen=True)
class Language:
    """A language of reports.

    Attributes:
        code: Its ISO 639 code, such as `en`.
        gettext: Returns the translation of an English text.
    """

    code: ReportLanguage
    gettext: Callable[[str], str]

    @property
    def locale(self) -> Locale:
        """The rules for dates and numbers."""
        return Locale.parse(_LOCALES[self.code])

    def translate(self, text: str, **values: object) -> Markup:
        """Return a translated text for HTML. Text and values are escaped.

        Args:
            text: The English text, with places for the values such as `%(count)s`.
            **values: The values.
        """
        translated = Markup(escape(self.gettext(text)))
        return translated % values if values else translated

    def moment(self, moment: datetime) -> str:
        """Return a date and time with seconds and the offset from UTC."""
        local = format_datetime(moment, "medium", tzinfo=moment.tzinfo, locale=self.locale)
        return f"{local} {format_datetime(moment, 'xxx', tzinfo=moment.tzinfo)}"

    def day(self, moment: datetime) -> str:
        """Return a date with its weekday."""
        return format_date(moment, "EEE", locale=self.locale) + " " + format_date(moment, "short", locale=self.locale)

    def clock(self, moment: datetime) -> str:
        """Return a time of day to the minute."""
        return format_time(moment, "short", tzinfo=moment.tzinfo, locale=self.locale)

    def number(self, value: float | None, digits: int = 0) -> str:
        """Return a number with this many decimal places."""
        if value is None:
            return MISSING
        pattern = "#,##0" + ("." + "0" * digits if digits else "")
        return format_decimal(value, pattern, locale=self.locale)

    def score(self, value: float) -> str:
        """Return a score with four significant digits."""
        return format_decimal(float(f"{value:.4g}"), "#,##0.##########", locale=self.locale)

    def share(self, value: float | None, digits: int = 1) -> str:
        """Return a share as a percentage with this many decimal places."""
        if value is None:
            return MISSING
        pattern = "0" + ("." + "0" * digits if digits else "") + ("\u00a0%" if self.code == "de" else "%")
        return format_percent(value, pattern, locale=self.locale)


@cache
def language_of(code: ReportLanguage) -> Language:
    """Return a language with the translations of this package."""
    texts: dict[str, str] = {}
    path = LOCALE / code / CATALOGUE
    if path.exists():  # English is the language of the source
        with path.open("rb") as file:
            texts = {str(message.id): str(message.string) for message in read_po(file) if message.id}
    return Language(code, lambda text: texts.get(text) or text)


def preferred_language(accept_language: str | None) -> ReportLanguage:
    """Return the language that a client prefers (RFC 9110, section 12.5.4); the default one if none is available.

    Args:
        accept_language: The header `Accept-Language`; None without it.
    """
    wanted: list[tuple[float, str]] = []
    for item in (accept_language or "").split(","):
        name, _, parameter = item.strip().partition(";")
        try:
            quality = float(parameter.strip().removeprefix("q=")) if parameter else 1.0
        except ValueError:
            quality = 0.0
        if name.strip() and quality > 0:
            wanted.append((quality, name.strip().split("-")[0].lower()))
    wanted.sort(key=lambda pair: -pair[0])
    found = negotiate_locale([name for _, name in wanted], LANGUAGES)
    return next((code for code in LANGUAGES if code == found), DEFAULT_LANGUAGE)
