"""Pages for people: the API documentation, the list of problem types and the favicon.

The service serves every file that these pages need, so they work without internet access and under a strict
Content-Security-Policy. None of these routes is part of the OpenAPI document.
"""

from __future__ import annotations

import re
from functools import cache
from html import escape
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.staticfiles import StaticFiles

from service.api.http.access import requires
from service.api.http.problems import catalogue, describe
from service.errors import PlumblineError

STATIC = Path(__file__).parent / "static"
FAVICON = STATIC / "swagger-ui" / "favicon-32x32.png"

_COMMON_CSP = "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
PROBLEMS_CSP = f"{_COMMON_CSP}; img-src 'self'"
# Swagger UI sets its inline styles through the CSSOM, which style-src does not restrict, so it needs neither
# 'unsafe-inline' nor 'unsafe-eval'. Its style sheet embeds icons as data: URLs, and it shows a response that is an
# image, such as a heatmap, through a blob: URL.
DOCS_CSP = f"{_COMMON_CSP}; script-src 'self'; connect-src 'self'; img-src 'self' data: blob:"

_assets = StaticFiles(directory=STATIC)
router = APIRouter(include_in_schema=False)


@router.api_route("/docs", methods=["GET", "HEAD"])
@requires(None)
async def docs() -> Response:
    """Return the page that shows the OpenAPI document with Swagger UI."""
    return FileResponse(STATIC / "docs.html", headers=_headers(DOCS_CSP))


@router.api_route("/docs/assets/{path:path}", methods=["GET", "HEAD"])
@requires(None)
async def docs_asset(request: Request, path: str) -> Response:
    """Return a script or a style sheet of the pages, or 304 when the client has the current one."""
    response = await _assets.get_response(path, request.scope)
    response.headers.update(_headers(PROBLEMS_CSP))
    return response


@router.api_route("/favicon.ico", methods=["GET", "HEAD"])
@requires(None)
async def favicon() -> Response:
    """Return the icon that browsers request for every page."""
    return FileResponse(FAVICON, headers=_headers(PROBLEMS_CSP))


@router.api_route("/problems", methods=["GET", "HEAD"])
@requires(None)
async def problems() -> Response:
    """Return the page that the `type` of every problem refers to."""
    return HTMLResponse(_problems_page(), headers=_headers(PROBLEMS_CSP))


def _headers(csp: str) -> dict[str, str]:
    return {"Content-Security-Policy": csp, "X-Content-Type-Options": "nosniff"}


@cache
def _problems_page() -> str:
    sections = "\n".join(_section(slug, kind) for slug, kind in sorted(catalogue().items()))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Problem types - Plumbline</title>
<link rel="icon" type="image/png" href="favicon.ico">
<link rel="stylesheet" href="docs/assets/problems.css">
</head>
<body>
<h1>Problem types</h1>
<p>The service reports every failure as <code>application/problem+json</code> (RFC 9457). The member <code>type</code>
is a reference to a section of this page. It is stable; programs compare it. <code>detail</code> states what happened,
what was expected and what to do; its wording may change. <code>instance</code> names the request: the header
<code>X-Request-ID</code> and the log have the same id. If a later attempt can succeed, <code>retry_after</code> gives
the seconds to wait.</p>
{sections}
</body>
</html>
"""


def _section(slug: str, kind: type[PlumblineError]) -> str:
    paragraphs = "\n".join(f"<p>{_inline(text)}</p>" for text in describe(kind).split("\n\n"))
    return (
        f'<section id="{escape(slug)}">\n<h2>{escape(kind.title)} <code>{escape(slug)}</code></h2>\n'
        f"<p>Status {kind.status}</p>\n{paragraphs}\n</section>"
    )


def _inline(text: str) -> str:
    """Return a docstring's paragraph as HTML, with text between backticks as code."""
    return re.sub(r"`+([^`]+)`+", r"<code>\1</code>", escape(text, quote=False))
