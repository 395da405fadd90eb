"""The language of pages and reports: message catalogues, and dates and numbers as a language writes them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from zoneinfo import ZoneInfo

from babel import Locale
from babel.dates import format_date, format_datetime, format_time
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from babel.numbers import format_compact_decimal, format_decimal, format_percent
from babel.support import NullTranslations, Translations

SOURCE = "en"
LANGUAGES: Mapping[str, str] = {"en": "English", "de": "Deutsch"}
"""The languages of pages and reports, each with its own name."""
# Formats of the region whose 24-hour times and dates people on a shop floor read without doubt.
_LOCALES = {"en": "en_GB", "de": "de_DE"}
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def choose_language(chosen: str | None, accept_language: str) -> str:
    """Return the language of a page.

    Args:
        chosen: The language that the person chose on a page; None if there is none.
        accept_language: Header `Accept-Language` of the request.
    """
    if chosen is not None and chosen in LANGUAGES:
        return chosen
    wanted: list[tuple[float, str]] = []
    for part in accept_language.lower().split(",")[:20]:
        tag, _, weight = part.strip().partition(";q=")
        try:
            wanted.append((float(weight or 1), tag.split("-")[0]))
        except ValueError:
            continue
    ranked = sorted(wanted, key=lambda one: -one[0])
    return next((tag for weight, tag in ranked if tag in LANGUAGES and weight > 0), SOURCE)


def mark(message: str) -> str:
    """Return a message as it is. Imported as `_`, it marks the message for the catalogues."""
    return message


class Texts:
    """Texts, dates and numbers in one language.

    Args:
        language: One of `LANGUAGES`.
        zone: Time zone of times.
        folder: Folder of the message catalogues, with a folder per language.
    """

    def __init__(self, language: str, zone: ZoneInfo, folder: Path) -> None:
        self.language = language
        self.zone = zone
        self.translations = catalogue(language, folder)
        self._locale = Locale.parse(_LOCALES[language])

    def text(self, message: str, **values: object) -> str:
        """Return a message in the language, with values put in.

        Args:
            message: The message in English, with placeholders such as `%(count)s`.
            values: The values.
        """
        translated: str = self.translations.gettext(message)
        return translated % values if values else translated

    def number(self, value: float | None, digits: int = 0) -> str:
        """Return a number with a fixed number of decimals; an en dash for None."""
        if value is None:
            return "–"
        return format_decimal(value, f"#,##0.{'0' * digits}" if digits else "#,##0", self._locale)

    def significant(self, value: float | None, digits: int = 4) -> str:
        """Return a number with a number of significant digits, such as a score; an en dash for None."""
        if value is None:
            return "–"
        return format_decimal(value, f"{'@' * digits}", self._locale)

    def general(self, value: float) -> str:
        """Return a whole number in full, and another one with at most 6 significant digits."""
        return self.number(value) if value == round(value) else format_decimal(value, "@#####", self._locale)

    def compact(self, value: float) -> str:
        """Return a large number in short form, such as 12K."""
        return format_compact_decimal(value, locale=self._locale, fraction_digits=1)

    def percent(self, value: float | None, digits: int = 1) -> str:
        """Return a share as a percentage; an en dash for None."""
        if value is None:
            return "–"
        pattern: str = self._locale.percent_formats[None].pattern
        return format_percent(value, pattern.replace("0", f"0.{'0' * digits}") if digits else pattern, self._locale)

    def size(self, value: float | None) -> str:
        """Return a number of bytes with its unit; an en dash for None."""
        if value is None:
            return "–"
        scaled, unit = float(value), 0
        while abs(scaled) >= 1024 and unit < len(_UNITS) - 1:
            scaled, unit = scaled / 1024, unit + 1
        return f"{self.number(scaled, 1 if unit and scaled < 100 else 0)} {_UNITS[unit]}"

    def date_time(self, value: datetime | None) -> str:
        """Return date and time to the second in the time zone; an en dash for None."""
        return "–" if value is None else format_datetime(value.astimezone(self.zone), "medium", locale=self._locale)

    def moment(self, value: datetime | None) -> str:
        """Return date and time to the second with the offset from UTC; an en dash for None."""
        return "–" if value is None else f"{self.date_time(value)} {value.astimezone(self.zone).isoformat()[-6:]}"

    def date(self, value: datetime) -> str:
        """Return the date in the time zone."""
        return format_date(value.astimezone(self.zone).date(), "medium", self._locale)

    def weekday(self, value: datetime) -> str:
        """Return the date in the time zone with its weekday, in short form."""
        day = value.astimezone(self.zone).date()
        return f"{format_date(day, 'EEE', self._locale)} {format_date(day, 'short', self._locale)}"

    def time(self, value: datetime) -> str:
        """Return the time to the second in the time zone."""
        return format_time(value.astimezone(self.zone).time(), "medium", locale=self._locale)

    def minute(self, value: datetime) -> str:
        """Return the time to the minute in the time zone."""
        return format_time(value.astimezone(self.zone).time(), "short", locale=self._locale)


@cache
def catalogue(language: str, folder: Path) -> NullTranslations:
    """Return the message catalogue of a language: all files of its folder.

    Args:
        language: One of `LANGUAGES`.
        folder: Folder of the message catalogues, with a folder per language.
    """
    if language == SOURCE:
        return NullTranslations()
    found = Translations()
    for path in catalogue_files(language, folder):
        compiled = io.BytesIO()
        with path.open("rb") as file:
            write_mo(compiled, read_po(file, language))
        compiled.seek(0)
        found.merge(Translations(compiled))
    return found


def catalogue_files(language: str, folder: Path) -> list[Path]:
    """Return the files of a message catalogue. The arguments are those of `catalogue`."""
    return sorted((folder / language).glob("*.po"))
