"""Problems in the language of the page whose script sent the request.

Scripts of pages call the JSON API and show its problems. They state the language of the page in a header; other clients
receive the problem in English, whatever their `Accept-Language` is, so that programs and logs have the same texts.
"""

from __future__ import annotations

import json

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.http.problems import MEDIA_TYPE
from service.languages import LANGUAGES, SOURCE
from service.web.page import Pages
from service.web.problem_texts import translate

HEADER = "x-page-language"


class TranslatedProblems:
    """Translates problem documents for scripts of pages.

    Args:
        app: The application.
        pages: Has the texts of each language.
    """

    def __init__(self, app: ASGIApp, pages: Pages) -> None:
        self._app = app
        self._pages = pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        language = Headers(scope=scope).get(HEADER) if scope["type"] == "http" else None
        if language is None or language not in LANGUAGES or language == SOURCE:
            await self._app(scope, receive, send)
            return
        texts = self._pages.texts_in(language)
        start: Message | None = None

        async def send_translated(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start" and is_problem(message):
                start = message
                return
            if start is not None:
                # A problem is sent as one message, also if the connection is kept open after it.
                body = json.dumps(translate(json.loads(message["body"]), texts)).encode()
                headers = MutableHeaders(raw=list(start["headers"]))
                if "content-length" in headers:
                    headers["Content-Length"] = str(len(body))
                await send({**start, "headers": headers.raw})
                start, message = None, {**message, "body": body}
            await send(message)

        await self._app(scope, receive, send_translated)


def is_problem(start: Message) -> bool:
    """Return whether a response is a problem document.

    Args:
        start: The message that starts the response.
    """
    return Headers(raw=start["headers"]).get("content-type", "").partition(";")[0] == MEDIA_TYPE
