"""What a person chose for the pages in this browser: language and colours. The script of the menu sets the cookies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast, get_args

from starlette.requests import Request

from service.languages import choose_language

LANGUAGE_COOKIE, THEME_COOKIE = "plumbline-language", "plumbline-theme"
Theme = Literal["auto", "light", "dark", "contrast"]


@dataclass(frozen=True)
class Preferences:
    """Language and colours of a page.

    Attributes:
        language: One of `service.languages.LANGUAGES`.
        theme: The colours; `auto` follows the browser.
    """

    language: str
    theme: Theme


def preferences_of(request: Request) -> Preferences:
    """Return what the browser of a request chose, or the defaults."""
    theme = request.cookies.get(THEME_COOKIE, "auto")
    language = choose_language(request.cookies.get(LANGUAGE_COOKIE), request.headers.get("accept-language", ""))
    return Preferences(language, cast("Theme", theme) if theme in get_args(Theme) else "auto")
