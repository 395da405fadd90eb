"""Log-in in a browser, and what every page has: headers, assets, problems as pages, language and colours."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Request

import service.web
from service.web.navigation import ENTRIES
from service.web.page import _commands
from service.web.problem_pages import safe_target
from tests.access import PASSWORD, make_account
from tests.browser import PHONE, Open, assert_accessible, assert_fits, log_in, screenshot, watched
from tests.running_service import RunningService, Serve
from tests.service.api.test_shadow import wait_for

pytestmark = pytest.mark.slow

AS_PAGE = {"accept": "text/html"}


def test_person_logs_in_and_out(serve: Serve, open_page: Open) -> None:
    with serve() as service:
        make_account(service.store.engine, "ada", "admin")
        wait_for(lambda: service.client.get("/account", headers=AS_PAGE).status_code == 303)
        page = open_page(service.client.base_url, "/account", size=PHONE)
        assert page.url.endswith("/login?next=%2Faccount")
        assert_accessible(page)
        assert_fits(page)
        screenshot(page, "login-phone")
        watched(page).allow("401")
        page.get_by_label("Name").fill("ada")
        page.get_by_label("Password").fill("wrong")
        page.get_by_role("button", name="Log in").click()
        assert "password" in page.get_by_role("alert").inner_text()
        assert page.get_by_label("Password").evaluate("field => field === document.activeElement")
        log_in(page, "ada", PASSWORD)
        assert page.url.endswith("/account")
        assert page.get_by_role("heading", name="ada").is_visible()
        assert_accessible(page)
        page.get_by_label("Current password").fill("wrong password")
        page.get_by_label("New password").fill("another horse battery")
        watched(page).allow("403")
        page.get_by_role("button", name="Change the password").click()
        assert "password" in page.get_by_role("alert").inner_text()
        page.get_by_label("Current password").fill(PASSWORD)
        page.get_by_role("button", name="Change the password").click()
        page.get_by_role("status").get_by_text("The password was changed").wait_for()
        page.locator("details.menu summary").click()
        page.get_by_role("button", name="Log out", exact=True).click()
        page.wait_for_url("**/login")
        page.goto("/account")
        assert "/login" in page.url


def test_failed_page_is_a_page_and_failed_request_of_a_program_is_a_problem(service: RunningService) -> None:
    as_page = service.client.get("/nothing", headers=AS_PAGE)
    assert (as_page.status_code, as_page.headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert "/nothing" in as_page.text
    as_part = service.client.get("/nothing", headers={"hx-request": "true"})
    assert as_part.status_code == 404
    assert "<html" not in as_part.text
    for path, accept in (("/nothing", "*/*"), ("/v1/nothing", "text/html")):
        response = service.client.get(path, headers={"accept": accept})
        assert response.headers["content-type"] == "application/problem+json"
    refused = service.client.get("/account?x=1&x=2", headers=AS_PAGE)
    assert (refused.status_code, "x" in refused.text) == (422, True)


@pytest.mark.parametrize("headers", [AS_PAGE, {"hx-request": "true"}, {"accept": "*/*"}])
@pytest.mark.parametrize("path", ["/nothing", "/products/nothing", "/v1/nothing", "/"])
def test_head_has_the_status_and_headers_of_get_and_no_body(
    service: RunningService, path: str, headers: dict[str, str]
) -> None:
    got, probed = service.client.get(path, headers=headers), service.client.head(path, headers=headers)
    assert (probed.status_code, probed.content) == (got.status_code, b"")
    assert probed.headers["content-type"] == got.headers["content-type"]


def test_page_of_another_role_is_refused_in_plain_words(serve: Serve, open_page: Open) -> None:
    with serve() as service:
        make_account(service.store.engine, "otto", "operator")
        wait_for(lambda: service.client.get("/account", headers=AS_PAGE).status_code == 303)
        page = open_page(service.client.base_url, "/products", language="de-DE")
        watched(page).allow("403|404")
        page.get_by_label("Name").fill("otto")
        page.get_by_label("Passwort").fill(PASSWORD)
        page.get_by_role("button", name="Anmelden").click()
        page.get_by_text("Diese Seite ist nicht für Ihr Konto").wait_for()
        assert page.locator("nav li").all_inner_texts() == ["Live", "Prüfen"]
        page.get_by_text("otto", exact=True).click()
        assert page.get_by_role("button", name="Abmelden").is_visible()
        assert page.get_by_role("link", name="API").count() == 0
        assert_accessible(page)
        page.goto("/nothing")
        page.get_by_text("Der Dienst hat keine Seite unter /nothing.").wait_for()
        assert page.locator("nav li").all_inner_texts() == ["Live", "Prüfen"]
        assert page.get_by_text("otto", exact=True).is_visible()


@pytest.mark.parametrize(
    ("path", "status"),
    [("/nothing", 404), ("/products/nothing", 404), ("/logout", 405), ("/account?x=1", 422), ("/login?x=1", 422)],
)
def test_page_of_a_failure_has_the_navigation_of_the_person(serve: Serve, path: str, status: int) -> None:
    entries = [f'<a href="{entry.path}"' for entry in ENTRIES]
    with serve() as service:
        local = service.client.get(path, headers=AS_PAGE)
        assert local.status_code == status
        assert all(entry in local.text for entry in entries), "without accounts, this machine may open everything"
        foreign = service.client.get(path, headers=AS_PAGE | {"host": "evil.example"})
        assert foreign.status_code == 421
        assert not any(entry in foreign.text for entry in entries[1:])
        make_account(service.store.engine, "otto", "operator")
        wait_for(lambda: service.client.get("/account", headers=AS_PAGE).status_code == 303)
        unknown = service.client.get(path, headers=AS_PAGE)
        assert not any(entry in unknown.text for entry in entries[1:])
        credentials = {"name": "otto", "password": PASSWORD}
        assert service.client.post("/login", data=credentials).status_code == 303
        person = service.client.get(path, headers=AS_PAGE)
        assert [entry in person.text for entry in entries] == [True, True, False, False, False, False]
        assert ">otto<" in person.text
        wrong = service.client.get(path, headers=AS_PAGE | {"cookie": "plumbline=wrong"})
        assert "otto" not in wrong.text


def test_every_part_that_refreshes_itself_is_marked() -> None:
    """A refresh that is not marked would keep a session from ending as long as a page is open."""
    folder = Path(service.web.__file__).parent / "templates"
    found = [
        (path.name, element)
        for path in folder.glob("*.html")
        for element in re.findall(
            r"<[^>]*data-hx-trigger=\"[^\"]*(?:every|load)[^>]*>", path.read_text(encoding="utf-8")
        )
    ]
    refreshed = [(name, element) for name, element in found if re.search("every|delay", element)]
    assert {name for name, _ in refreshed} >= {"alarms_part.html", "system.html", "products_table.html"}
    for name, element in refreshed:
        assert """data-hx-headers='{"X-Background": "1"}'""" in element, f"{name}: {element}"


def test_requests_of_an_open_page_are_background_requests(serve: Serve, open_page: Open) -> None:
    with serve() as service:
        page = open_page(service.client.base_url, "/system")
        for path in ("/alarms?", "/system:state"):
            with page.expect_request(lambda request, path=path: path in request.url) as sent:  # type: ignore[misc]
                pass
            assert sent.value.headers.get("x-background") == "1", sent.value.url
        requested: list[Request] = []
        page.on("request", lambda request: requested.append(request))
        page.goto("/")
        page.locator("[data-state=live]").wait_for()
        own = [one for one in requested if "/v1/" in one.url and one.resource_type != "image"]
        assert {one.url.partition("?")[0].rpartition(":")[2] for one in own} >= {"events", "shift"}
        assert all(one.headers.get("x-background") == "1" for one in own)


def test_commands_in_texts_are_code_and_everything_else_is_escaped() -> None:
    assert _commands("Use `plumbline <x>` & wait.") == "Use <code>plumbline &lt;x&gt;</code> &amp; wait."


def test_problem_text_is_escaped(service: RunningService) -> None:
    response = service.client.get("/<script>alert(1)</script>", headers=AS_PAGE)
    assert response.status_code == 404
    assert "<script>alert" not in response.text


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/review?product=a", "/review?product=a"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("https://evil.example", "/"),
        ("javascript:alert(1)", "/"),
        ("", "/"),
        ("/a\nb", "/"),
    ],
)
def test_log_in_leads_to_pages_of_the_service_only(target: str, expected: str) -> None:
    assert safe_target(target) == expected


def test_part_of_a_page_without_session_opens_the_log_in(serve: Serve) -> None:
    with serve() as service:
        make_account(service.store.engine, "ada", "admin")
        wait_for(lambda: service.client.get("/account", headers=AS_PAGE).status_code == 303)
        headers = {"hx-request": "true", "hx-current-url": f"{service.client.base_url}/review?product=widget"}
        response = service.client.get("/account", headers=headers)
        assert response.headers["hx-redirect"] == "/login?next=%2Freview%3Fproduct%3Dwidget"


def test_language_and_colours(service: RunningService, open_page: Open) -> None:
    page = open_page(service.client.base_url, "/account", language="de-DE")
    assert page.locator("html").get_attribute("lang") == "de"
    page.get_by_text("Anzeige").click()
    with page.expect_navigation():
        page.get_by_label("Sprache").select_option("en")
    assert page.locator("html").get_attribute("lang") == "en"
    for theme in ("dark", "contrast", "light"):
        page.get_by_text("Display").click()
        with page.expect_navigation():
            page.get_by_label("Colours").select_option(theme)
        assert page.locator("html").get_attribute("data-theme") == theme
        assert_accessible(page)
        page.get_by_text("Display").click()
        assert_accessible(page)
        page.keyboard.press("Escape")
        assert not page.get_by_label("Colours").is_visible()


def test_page_has_a_strict_policy_and_is_not_kept(service: RunningService) -> None:
    response = service.client.get("/account", headers=AS_PAGE)
    policy = response.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert response.headers["cache-control"] == "no-store"
