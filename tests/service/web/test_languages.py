"""Message catalogues: every text of the pages has a German translation, with the same placeholders."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args
from zoneinfo import ZoneInfo

import pytest
from babel.messages.catalog import Catalog, Message
from babel.messages.extract import extract_from_dir, extract_from_file
from babel.messages.pofile import read_po

import service.web
from service.api.http.problems import catalogue
from service.languages import LANGUAGES, SOURCE, Texts, catalogue_files, choose_language
from service.schemas.drift import DriftKind
from service.schemas.sections import InvalidReason
from service.schemas.violation_texts import EMPTY, PATTERN_TEXTS, TEXTS, kind_of
from service.web.alarms import _CHANGES, _REASONS
from service.web.page import CATALOGUES

PACKAGE = Path(service.web.__file__).parent
METHODS = [("**.py", "python"), ("templates/**.html", "jinja2")]
OPTIONS = {"templates/**.html": {"silent": "false", "trim_blocks": "true", "lstrip_blocks": "true"}}
PLACEHOLDER = re.compile(r"(?:%\(|\{)(\w+)")


def used() -> Catalog:
    """Return the messages in templates and code."""
    found = Catalog()
    for _, _, message, _, context in extract_from_dir(PACKAGE, METHODS, OPTIONS):
        found.add(message, context=context)
    for name in ("alarm_texts.py", "drift/explanations.py"):
        for _, message, _, context in extract_from_file("python", PACKAGE.parent / "serving" / name):
            found.add(message, context=context)
    for message in violation_messages() | {kind.title for kind in catalogue().values()}:
        found.add(message)
    return found


def violation_messages() -> set[str]:
    """Return the texts of violations, and the words that stand for the kind of a rejected value."""
    values: tuple[object, ...] = (None, True, 0.5, 1, "a", b"a", {}, [], object())
    return {*TEXTS.values(), *PATTERN_TEXTS.values(), EMPTY, *map(kind_of, values)}


def test_every_cause_of_an_alarm_has_words() -> None:
    assert set(_REASONS) == set(InvalidReason)
    assert set(_CHANGES) == set(get_args(DriftKind))


Key = tuple[str | None, str]


@pytest.mark.parametrize("language", sorted(set(LANGUAGES) - {SOURCE}))
def test_catalogue_is_complete(language: str) -> None:
    translated: dict[Key, tuple[str, ...]] = {}
    for path in catalogue_files(language, CATALOGUES):
        with path.open("rb") as file:
            for entry in read_po(file, language):
                texts = tuple(map(str, entry.string if isinstance(entry.string, tuple) else (entry.string or "",)))
                if entry.id and not entry.fuzzy and all(texts):
                    same = translated.setdefault(key_of(entry), texts)
                    assert same == texts, f"{path.name}: another file translates {entry.id!r} differently"
    messages = {key_of(message): message for message in used() if message.id}
    missing = sorted(str(key[1]) for key in messages.keys() - translated.keys())
    assert not missing, f"{len(missing)} messages have no translation: {missing}"
    superfluous = sorted(str(key[1]) for key in translated.keys() - messages.keys())
    assert not superfluous, f"no page has these messages: {superfluous}"
    for key, texts in translated.items():
        ids = messages[key].id
        allowed = set(PLACEHOLDER.findall(ids if isinstance(ids, str) else " ".join(ids)))
        for text in texts:
            assert set(PLACEHOLDER.findall(text)) <= allowed, text
        assert set(PLACEHOLDER.findall(texts[-1])) == allowed, texts[-1]


def key_of(message: Message) -> Key:
    return message.context, message.id if isinstance(message.id, str) else message.id[0]


@pytest.mark.parametrize(
    ("chosen", "header", "expected"),
    [
        (None, "", "en"),
        (None, "de-AT,de;q=0.9,en;q=0.5", "de"),
        (None, "fr,en;q=0.3,de;q=0.7", "de"),
        (None, "de;q=0,en", "en"),
        (None, "de;q=x", "en"),
        ("en", "de", "en"),
        ("xx", "de", "de"),
    ],
)
def test_language_is_chosen(chosen: str | None, header: str, expected: str) -> None:
    assert choose_language(chosen, header) == expected


def test_dates_and_numbers_follow_language_and_time_zone() -> None:
    moment = datetime(2026, 3, 1, 12, 5, 9, tzinfo=UTC)
    german, english = (Texts(language, ZoneInfo("Europe/Berlin"), CATALOGUES) for language in ("de", "en"))
    assert german.date_time(moment) == "01.03.2026, 13:05:09"
    assert english.date_time(moment) == "1 Mar 2026, 13:05:09"
    assert (german.moment(moment), english.moment(None)) == ("01.03.2026, 13:05:09 +01:00", "–")
    assert (german.weekday(moment), german.minute(moment)) == ("So. 01.03.26", "13:05")
    assert (english.weekday(moment), english.minute(moment)) == ("Sun 01/03/2026", "13:05")
    assert (german.number(1234.5, 1), english.number(1234.5, 1)) == ("1.234,5", "1,234.5")
    assert german.percent(0.0123) == "1,2\xa0%"
    assert english.significant(0.123456) == "0.1235"
    assert [german.general(value) for value in (0.0, 255.0, 1234567.0, 0.0123)] == ["0", "255", "1.234.567", "0,0123"]
    assert english.size(3 * 2**20) == "3.0 MiB"
    assert {english.number(None), english.percent(None), english.date_time(None)} == {"–"}
