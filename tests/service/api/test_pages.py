"""The pages for people need nothing but the service itself, and every problem type refers to one of them."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from urllib.parse import urljoin, urlsplit

import httpx
import pytest

from service.api.http.problems import catalogue, describe
from service.api.pages import STATIC
from service.errors import PlumblineError
from service.schemas.problem import TYPE_PREFIX
from tests.running_service import HttpService

LINKS = {"src", "href", "action", "data", "poster", "srcset"}


class Page(HTMLParser):
    """What a Content-Security-Policy is about: references, scripts, inline code and inline styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[tuple[str, str]] = []
        self.ids: list[str] = []
        self.inline: list[str] = []
        self._open = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open = tag
        for name, value in attrs:
            if name in LINKS:
                self.references.append((tag, value or ""))
            if name == "id":
                self.ids.append(value or "")
            if name.startswith("on") or name == "style":
                self.inline.append(f"{tag} {name}")

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open in {"script", "style"} and data.strip():
            self.inline.append(data)


def policy(response: httpx.Response) -> dict[str, list[str]]:
    directives = [part.split() for part in response.headers["content-security-policy"].split(";")]
    return {name: sources for name, *sources in directives}


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/docs", "/problems"])
def test_page_refers_only_to_what_the_service_serves(service: HttpService, path: str) -> None:
    response = service.client.get(path)
    base = str(response.url)
    page = Page(response.text)

    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert page.references
    assert page.inline == []
    assert "//" not in response.text.replace("<!DOCTYPE html>", "")
    for tag, reference in page.references:
        url = urljoin(base, reference)
        assert urlsplit(url)[:2] == urlsplit(base)[:2], reference
        asset = service.client.get(url)
        assert asset.status_code == 200, reference
        assert asset.content
        assert tag == "a" or asset.headers["x-content-type-options"] == "nosniff"


def test_documentation_has_a_strict_policy_and_the_media_types_that_nosniff_needs(service: HttpService) -> None:
    response = service.client.get("/docs")
    rules = policy(response)

    assert rules["default-src"] == ["'none'"]
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == ["'self'"]
    assert rules["frame-ancestors"] == rules["base-uri"] == rules["form-action"] == ["'none'"]
    assert "unsafe" not in response.headers["content-security-policy"]
    types = {
        tag: service.client.get(urljoin(str(response.url), reference)).headers["content-type"].split(";")[0]
        for tag, reference in Page(response.text).references
        if tag == "script" or reference.endswith(".css")
    }
    assert types == {"script": "text/javascript", "link": "text/css"}


def test_problems_page_has_a_policy_without_scripts(service: HttpService) -> None:
    response = service.client.get("/problems")

    assert policy(response)["default-src"] == ["'none'"]
    assert "script-src" not in policy(response)
    assert "<script" not in response.text


def test_initializer_shows_the_document_of_this_service_and_asks_no_validator(service: HttpService) -> None:
    script = service.client.get("/docs/assets/swagger-initializer.js").text

    (url,) = re.findall(r'url: "(.*)"', script)
    assert service.client.get(urljoin("/docs", url)).json()["info"]["title"] == "Plumbline inspection service"
    assert "validatorUrl: null" in script
    assert "http" not in script


def test_style_sheets_load_nothing(service: HttpService) -> None:
    for name in ("swagger-ui/swagger-ui.css", "problems.css"):
        text = service.client.get(f"/docs/assets/{name}").text
        assert set(re.findall(r"url\(\s*[\"']?(.{5})", text)) <= {"data:"}, name
        assert "@import" not in text


def test_asset_that_did_not_change_is_not_sent_again(service: HttpService) -> None:
    first = service.client.get("/docs/assets/swagger-ui/swagger-ui-bundle.js")
    again = service.client.get(str(first.url), headers={"if-none-match": first.headers["etag"]})

    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("path", ["nothing.js", "", "../pages.py", "..%2fpages.py", "/etc/passwd", "swagger-ui"])
def test_assets_are_the_files_of_the_pages_only(service: HttpService, path: str) -> None:
    response = service.client.get(f"/docs/assets/{path}")

    assert response.status_code == 404
    assert response.json()["type"] == TYPE_PREFIX + "not-found"


@pytest.mark.parametrize("path", ["/docs", "/problems", "/favicon.ico", "/docs/assets/problems.css"])
def test_head_returns_no_body(service: HttpService, path: str) -> None:
    response = service.client.head(path)

    assert (response.status_code, response.content) == (200, b"")


def test_favicon_is_an_image(service: HttpService) -> None:
    response = service.client.get("/favicon.ico")

    assert response.headers["content-type"] == "image/png"
    assert response.content.startswith(b"\x89PNG")


def test_pages_are_not_in_the_openapi_document(service: HttpService) -> None:
    paths = service.client.get("/openapi.json").json()["paths"]

    assert not [path for path in paths if path.startswith(("/docs", "/problems", "/favicon"))]


def test_every_problem_type_resolves_to_a_section_that_explains_it(service: HttpService) -> None:
    refused = service.client.get("/nowhere")
    page = service.client.get("/problems")
    ids = Page(page.text).ids

    assert sorted(ids) == sorted(catalogue())
    for slug, kind in catalogue().items():
        path, _, anchor = urljoin(str(refused.url), TYPE_PREFIX + slug).partition("#")
        assert (path, anchor) == (str(page.url), slug)
        section = page.text.partition(f'id="{slug}"')[2].partition("</section>")[0]
        assert f"Status {kind.status}<" in section
    assert refused.json()["type"] == TYPE_PREFIX + "not-found"


def test_description_is_the_docstring_without_its_sections_or_the_title() -> None:
    assert PlumblineError.__doc__ is not None
    assert "Attributes:" in PlumblineError.__doc__
    assert describe(PlumblineError) == PlumblineError.__doc__.splitlines()[0]

    class Undocumented(PlumblineError):
        title = "Something else"

    assert describe(Undocumented) == "Something else."
    assert all(describe(kind) for kind in catalogue().values())


def test_vendored_files_carry_their_license() -> None:
    vendored = STATIC / "swagger-ui"

    assert {path.name for path in vendored.iterdir()} == {
        "swagger-ui.css",
        "swagger-ui-bundle.js",
        "swagger-ui-bundle.js.LICENSE.txt",
        "favicon-32x32.png",
        "LICENSE",
        "NOTICE",
        "README.md",
    }
    assert "Apache License" in (vendored / "LICENSE").read_text(encoding="utf-8")
    assert "sha512-" in (vendored / "README.md").read_text(encoding="utf-8")
