"""The pages below System in a browser: the state, the audit log, API keys and accounts."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from playwright.sync_api import Page, expect

from service.integrations.delivery import SinkState
from service.integrations.outbox import SinkSummary
from service.store.audit import Actor
from service.store.outbox import DeadLetterFilter, SinkBacklog
from tests.access import PASSWORD, make_account
from tests.browser import PHONE, Open, assert_accessible, assert_fits, log_in, screenshot, watched
from tests.running_service import BAD, GOOD, RunningService, Serve
from tests.service.api.test_shadow import wait_for

pytestmark = pytest.mark.slow


def as_account(service: RunningService, open_page: Open, name: str, path: str, **options: object) -> Page:
    page = open_page(service.client.base_url, path, **options)
    log_in(page, name, PASSWORD)
    return page


def require_accounts(service: RunningService) -> None:
    for name, role in (("ada", "admin"), ("eve", "engineer"), ("olga", "operator")):
        make_account(service.store.engine, name, role)  # type: ignore[arg-type]
    wait_for(lambda: service.client.get("/account", headers={"accept": "text/html"}).status_code == 303)


def test_state_refreshes_without_losing_focus_or_position(service: RunningService, open_page: Open) -> None:
    for _ in range(3):
        service.inspect(GOOD)
    service.inspect(b"no image")
    page = open_page(service.client.base_url, "/system")
    expect(page.locator(".status.ready")).to_have_text("Ready")
    content = page.locator("main")
    for text in ("3 inspections in the last", "widget", "not-an-image", "PLUMBLINE_MAX_BODY_BYTES", "onnxruntime"):
        expect(content).to_contain_text(text)
    expect(page.get_by_text("No webhook and no MQTT broker is configured.")).to_be_visible()
    assert_accessible(page)
    assert_fits(page)
    screenshot(page, "system")
    scrolled = page.get_by_role("region", name="Table of refused requests")
    scrolled.focus()
    page.evaluate("window.scrollTo(0, 200)")
    page.evaluate("window.kept = document.activeElement")
    service.inspect(BAD)
    service.inspect(b"no image either")
    expect(content).to_contain_text("4 inspections in the last", timeout=15_000)
    assert page.evaluate("window.kept === document.activeElement && window.kept.isConnected")
    assert page.evaluate("window.scrollY") == 200


def test_dead_letters_are_sent_again(serve: Serve, open_page: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve() as service:
        moment = datetime(2026, 3, 1, 12, tzinfo=UTC)
        sink = SinkSummary(
            "mes", "webhook", "https://mes.example", SinkState(failed_at=moment, error="refused (410)"),
            SinkBacklog(pending=4, oldest_at=moment, dead_letters=2),
        )  # fmt: skip
        monkeypatch.setattr(service.services.outbox, "summary", lambda: [sink])
        sent: list[str] = []

        def resend(which: DeadLetterFilter, _actor: Actor) -> int:
            sent.append(str(which.sink))
            return 2

        monkeypatch.setattr(service.services.outbox, "resend_all", resend)
        page = open_page(service.client.base_url, "/system")
        row = page.get_by_role("row", name=re.compile("mes"))
        expect(row).to_contain_text("refused (410)")
        expect(row.locator(".abnormal")).to_contain_text("2")
        row.get_by_role("button", name="Send all again").click()
        expect(page.get_by_text("The messages are sent again.")).to_be_visible()
        assert sent == ["mes"]


def test_key_is_created_shown_once_and_revoked(serve: Serve, open_page: Open) -> None:
    with serve() as service:
        require_accounts(service)
        page = as_account(service, open_page, "ada", "/system/keys")
        page.get_by_label("Name of the program or camera").fill("camera 7")
        page.get_by_label("review label inspections").check()
        page.get_by_label("Products, separated by commas").fill("widget, gadget")
        page.get_by_label("Expires").select_option(label="in 90 days")
        page.get_by_role("button", name="Create the key").click()
        box = page.locator("#new-key")
        expect(box).to_contain_text("It is shown once")
        expect(box).to_contain_text("gadget")  # there is no such product
        key = box.get_by_label("Key").input_value()
        assert_accessible(page)
        screenshot(page, "keys")
        headers = {"authorization": f"Bearer {key}"}
        assert service.client.get("/v1/products", headers=headers).status_code == 200
        row = page.get_by_role("row", name="camera 7")
        for text in ("inspect, review", "gadget, widget", "expires on"):
            expect(row).to_contain_text(text)
        page.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")  # as without HTTPS
        box.get_by_role("button", name="Copy").click()
        expect(page.get_by_text("The browser did not copy the key.")).to_be_visible()
        box.get_by_role("button", name="Hide").click()
        page.reload()
        assert key not in page.content()
        row.locator("summary").click()
        row.get_by_role("button", name="Revoke").click()
        expect(row).to_contain_text("revoked on")
        assert service.client.get("/v1/products", headers=headers).status_code == 401
        page.goto("/system/audit?action=key%3Arevoke")
        expect(page.get_by_role("row", name=re.compile("key:revoke"))).to_contain_text("ada")


def test_first_account_is_an_administrator_and_precedes_keys(serve: Serve, open_page: Open) -> None:
    with serve() as service:
        page = open_page(service.client.base_url, "/system/keys")
        expect(page.get_by_role("button", name="Create the key")).to_have_count(0)
        page.locator("main").get_by_role("link", name="Accounts").last.click()
        expect(page.get_by_label("Role").locator("option")).to_have_text(["admin: everything"])
        page.get_by_label("Name").fill("ada")
        page.get_by_label("Password").fill(PASSWORD)
        watched(page).allow("401")
        page.get_by_role("button", name="Create the account").click()
        page.wait_for_url("**/login?**")
        log_in(page, "ada", PASSWORD)
        form = page.locator("form", has_text="Create an account")
        expect(form.get_by_label("Role").locator("option")).to_have_count(3)
        page.goto("/system/keys")
        expect(page.get_by_role("button", name="Create the key")).to_be_visible()


def test_account_is_created_changed_and_disabled(serve: Serve, open_page: Open) -> None:
    with serve() as service:
        require_accounts(service)
        page = as_account(service, open_page, "ada", "/system/accounts")
        form = page.locator("form", has_text="Create an account")
        form.get_by_label("Name").fill("bea")
        form.get_by_label("Role").select_option("operator")
        form.get_by_label("Password").fill("bea bea bea bea")
        watched(page).allow("422|409")
        page.get_by_role("button", name="Create the account").click()
        expect(form.get_by_role("alert")).to_contain_text("name")  # the password must not contain the name
        form.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Create the account").click()
        row = page.get_by_role("row", name="bea")
        expect(row).to_contain_text("enabled")
        assert_accessible(page)
        screenshot(page, "accounts")
        row.get_by_label("Role of bea").select_option("engineer")
        row.get_by_role("button", name="Change").click()
        expect(page.get_by_text("The role was changed.")).to_be_visible()
        row.locator("summary").click()
        row.get_by_label("New password").fill("another horse battery")
        row.get_by_role("button", name="Set the password").click()
        expect(page.get_by_text("The password was set.")).to_be_visible()
        other = open_page(service.client.base_url, "/system")
        log_in(other, "bea", "another horse battery")
        expect(other.locator(".status")).to_be_visible()
        row.get_by_role("button", name="Disable").click()
        expect(row).to_contain_text("disabled on")
        watched(other).allow("401")
        other.goto("/system")
        other.wait_for_url("**/login?**")
        row.get_by_role("button", name="Enable").click()
        expect(row.get_by_role("button", name="Disable")).to_be_visible()
        own = page.get_by_role("row", name="ada")
        own.get_by_role("button", name="Disable").click()
        expect(own.get_by_role("alert")).to_contain_text("admin")  # the last one


def test_audit_log_is_searched_verified_and_exported(service: RunningService, open_page: Open) -> None:
    for minimum in range(2):
        recipe = {"author": "ada", "reason": f"light {minimum}", "quality": {"min_brightness": minimum}}
        assert service.client.put("/v1/products/widget/recipe", json=recipe).is_success
    page = open_page(service.client.base_url, "/system/audit")
    page.get_by_role("search").locator("[name=action]").select_option("recipe:put")
    page.get_by_role("button", name="Search").click()
    page.wait_for_url("**action=recipe*")
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text("light 1")
    rows.first.locator("summary").click()
    expect(rows.first).to_contain_text("min_brightness")
    page.get_by_role("button", name="Verify the audit log").click()
    expect(page.locator("#verification")).to_contain_text("Intact")
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV").click()
    assert len(download.value.path().read_text().splitlines()) == 3
    assert_accessible(page)
    assert_fits(page)
    screenshot(page, "audit")
    watched(page).allow("422")
    page.goto("/system/audit?since=yesterday")
    expect(page.locator("#problem-since")).to_contain_text("is not a time")


def test_roles_see_what_they_may_open(serve: Serve, open_page: Open) -> None:
    with serve() as service:
        require_accounts(service)
        admin = as_account(service, open_page, "ada", "/system")
        assert admin.locator(".tabs a").all_inner_texts() == ["State", "Audit log", "API keys", "Accounts"]
        engineer = as_account(service, open_page, "eve", "/system")
        assert engineer.locator(".tabs a").all_inner_texts() == ["State"]
        operator = as_account(service, open_page, "olga", "/account")
        assert operator.get_by_role("link", name="System").count() == 0
        for page in (engineer, operator):
            watched(page).allow("403")
        for path in ("/system/audit", "/system/keys", "/system/accounts"):
            engineer.goto(path)
            expect(engineer.get_by_role("alert")).to_contain_text("not for your account")
        operator.goto("/system")
        expect(operator.get_by_role("alert")).to_contain_text("not for your account")


@pytest.mark.parametrize("theme", ["dark", "contrast"])
def test_pages_on_a_phone_in_german(service: RunningService, open_page: Open, theme: str) -> None:
    page = open_page(service.client.base_url, "/system", size=PHONE, language="de-DE", theme=theme)
    expect(page.locator(".status.ready")).to_have_text("Bereit")
    for path, heading in (
        ("/system", "System"), ("/system/audit", "Audit-Protokoll"), ("/system/keys", "API-Schlüssel"),
        ("/system/accounts", "Konten"),
    ):  # fmt: skip
        page.goto(path)
        expect(page.get_by_role("heading", level=1)).to_have_text(heading)
        assert_fits(page)
        assert_accessible(page)
        screenshot(page, f"{heading.lower()}-phone-{theme}")
