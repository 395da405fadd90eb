"""Rendering of pages: templates, the context that every page has, and the headers."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo

from fastapi import Depends
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.requests import Request
from starlette.responses import HTMLResponse

from service.access.control import AccessControl
from service.api.http.access import identity_of, principal_of
from service.languages import LANGUAGES, Texts
from service.version import VERSION
from service.web.assets import Assets
from service.web.navigation import entries_for
from service.web.preferences import Preferences, preferences_of
from service.web.problem_texts import translate_violation
from service.web.start_page import LIVE

CATALOGUES = Path(__file__).parent / "locale"
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_COMMAND = re.compile(r"`([^`]+)`")
# Without a referrer, browsers send `Origin: null` with forms, which the service refuses.
HEADERS = {"Content-Security-Policy": CSP, "Cache-Control": "no-store", "Referrer-Policy": "same-origin"}


class Pages:
    """Renders the templates of the pages.

    Args:
        zone: Time zone of times on pages.
    """

    def __init__(self, zone: ZoneInfo) -> None:
        self.assets = Assets()
        self.zone = zone
        self._texts = {language: Texts(language, zone, CATALOGUES) for language in LANGUAGES}
        self._environments = {language: _environment(texts) for language, texts in self._texts.items()}

    def texts(self, request: Request) -> Texts:
        """Return texts, dates and numbers in the language of a request."""
        return self.texts_in(preferences_of(request).language)

    def texts_in(self, language: str) -> Texts:
        """Return texts, dates and numbers in a language, one of `LANGUAGES`."""
        return self._texts[language]

    def render(self, request: Request, template: str, **context: Any) -> str:
        """Return a template as HTML.

        Args:
            request: The request.
            template: Name of the template.
            context: Values for the template, beside those that every template has.
        """
        preferences = preferences_of(request)
        values = {**self._common(request, preferences), **context}
        return self._environments[preferences.language].get_template(template).render(values)

    def page(self, request: Request, template: str, *, status: int = 200, **context: Any) -> HTMLResponse:
        """Return the response with a page or a part of a page.

        Args:
            request: The request.
            template: Name of the template.
            status: HTTP status.
            context: Values for the template, beside those that every template has.
        """
        return HTMLResponse(self.render(request, template, **context), status, HEADERS)

    def _common(self, request: Request, preferences: Preferences) -> dict[str, Any]:
        principal, identity = principal_of(request), identity_of(request)
        control: AccessControl | None = getattr(request.app.state, "access", None)
        return {
            "asset": self.assets.url,
            "csrf_token": "" if identity is None else identity.csrf_token or "",
            "entries": entries_for(principal),
            "is_insecure": control is not None and control.is_insecure,
            "languages": LANGUAGES,
            "path": "/" if request.url.path == LIVE else request.url.path,
            "preferences": preferences,
            "principal": principal,
            "texts": self._texts[preferences.language],
            "version": VERSION,
            "zone": self.zone.key,
        }


@cache
def _loader() -> PackageLoader:
    return PackageLoader("service.web")


def _environment(texts: Texts) -> Environment:
    environment = Environment(
        autoescape=True,
        extensions=["jinja2.ext.i18n"],
        loader=_loader(),
        lstrip_blocks=True,
        trim_blocks=True,
        undefined=StrictUndefined,
    )
    environment.install_gettext_translations(texts.translations, newstyle=True)  # type: ignore[attr-defined]
    environment.filters.update(
        commands=_commands,
        date=texts.date,
        datetime=texts.date_time,
        json_data=_json_data,
        number=texts.number,
        percent=texts.percent,
        significant=texts.significant,
        size=texts.size,
        time=texts.time,
        violation=lambda item: translate_violation(item, texts)["msg"],
    )
    return environment


def _commands(text: str) -> Markup:
    """Return a text as HTML in which what is between grave accents, such as a command, is code."""
    return Markup(_COMMAND.sub(r"<code>\1</code>", str(escape(text))))


def _json_data(value: Any) -> Markup:
    """Return a value as the content of `<script type="application/json">`, which no text in it can end."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


async def _pages(request: Request) -> Pages:
    pages: Pages = request.app.state.pages
    return pages


PagesDep = Annotated[Pages, Depends(_pages)]
