"""The page Teach a product in a browser: images are sent, the job is followed and cancelled."""

from __future__ import annotations

import re
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from playwright.sync_api import expect

from service.languages import Texts
from service.web.page import CATALOGUES
from service.web.routes.training import STAGES, VARIANTS, _stage_text
from tests.browser import PHONE, Open, assert_accessible, assert_fits, screenshot, watched
from tests.running_service import GOOD, RunningService
from tests.service.api.test_training_jobs import act, claim, goods, queue


def test_stages_of_the_pipeline_have_words_in_both_languages() -> None:
    german, english = (Texts(language, ZoneInfo("UTC"), CATALOGUES) for language in ("de", "en"))
    assert _stage_text(german, "quick: read images") == "erstes Bundle: Bilder werden gelesen"
    assert _stage_text(english, "full: train") == "whole training: training"
    assert _stage_text(german, "get the images") == "Bilder werden geholt"
    assert _stage_text(german, "something else: new") == "something else: new"
    for message in {*STAGES.values(), *VARIANTS.values()} - {"training"}:
        assert german.text(message) != message


@pytest.mark.slow
def test_images_are_sent_and_the_job_is_followed_and_cancelled(
    service: RunningService, open_page: Open, tmp_path: Path
) -> None:
    paths = []
    for number, data in enumerate(goods(9).values()):
        paths.append(tmp_path / f"{number}.png")
        paths[-1].write_bytes(data)
    page = open_page(service.client.base_url, "/training?product=widget")
    expect(page.get_by_text("There is no training job yet.")).to_be_visible()
    page.get_by_label("Images or a zip file").set_input_files(paths)
    page.get_by_role("button", name="Send the images").click()
    expect(page.get_by_text("The training job is queued: 9 images.")).to_be_visible()
    row = page.locator("tr[data-job]").first
    expect(row).to_contain_text("waiting for a worker")
    assert_accessible(page)
    assert_fits(page)
    job = claim(service)["job"]
    version = {"variant": "quick", "version": "0123456789ab", "role": "shadow"}
    findings = {
        "grouped_by": "date-in-name",
        "groups": ["2026-03-01", "2026-03-02"],
        "group_count": 2,
        "held_out_groups": 1,
        "suspected": [4],
    }
    progress = {"done": 3, "total": 9, "version": version, "findings": findings}
    told = act(service, job, "report", claim=1, stage="quick: read images", **progress)
    assert told.status_code == 200, told.text
    expect(row).to_contain_text("first bundle: reading the images")
    expect(row.get_by_role("progressbar")).to_have_attribute("value", "3")
    expect(row).to_contain_text("0123456789ab")
    found = page.locator("tr[data-findings]")
    expect(found).to_contain_text("1 image differs from all others and may show a defect")
    expect(found).to_contain_text("2 capture groups by dates in their names: 2026-03-01, 2026-03-02.")
    expect(found.get_by_role("link", name="3.png")).to_have_attribute("href", re.compile("/images/4$"))
    screenshot(page, "training")
    row.get_by_role("button", name="Cancel").click()
    expect(row).to_contain_text("is being cancelled")
    act(service, job, "finish", claim=1, outcome="cancelled")
    expect(row).to_have_attribute("data-state", "cancelled")


@pytest.mark.slow
def test_dropped_images_are_chosen(service: RunningService, open_page: Open) -> None:
    page = open_page(service.client.base_url, "/training?product=widget")
    page.evaluate(
        """() => {
          const data = new DataTransfer();
          data.items.add(new File(["a"], "a.png", {type: "image/png"}));
          data.items.add(new File(["b"], "b.png", {type: "image/png"}));
          document.querySelector("h1").dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true}));
        }"""
    )
    names = page.get_by_label("Images or a zip file").evaluate("field => [...field.files].map(file => file.name)")
    assert names == ["a.png", "b.png"]


@pytest.mark.slow
def test_broken_image_is_named_on_a_phone_in_german(service: RunningService, open_page: Open, tmp_path: Path) -> None:
    (tmp_path / "kaputt.png").write_bytes(GOOD[:200])
    page = open_page(service.client.base_url, "/training", size=PHONE, language="de-DE")
    watched(page).allow("422")
    queue(service)
    name = page.get_by_role("combobox", name="Produkt")
    confirmation = page.get_by_role("checkbox", name="ist ein neues Produkt")
    name.fill("widget")
    expect(confirmation).to_be_hidden()
    name.fill("wigdet")
    expect(page.get_by_text("Ähnliche Namen: widget.")).to_be_visible()
    name.fill("neu")
    expect(page.get_by_text("Ähnliche Namen")).to_be_hidden()
    page.get_by_label("Bilder oder eine Zip-Datei").set_input_files([tmp_path / "kaputt.png"])
    send = page.get_by_role("button", name="Bilder senden")
    send.click()
    assert confirmation.evaluate("box => box.validity.valueMissing")
    expect(page.get_by_role("alert")).to_have_count(0)
    confirmation.check()
    with page.expect_request(re.compile("/neu/good-images")) as sent:
        send.click()
    assert "create_product=true" in sent.value.url
    expect(page.get_by_role("alert")).to_contain_text("kaputt.png")
    expect(page.get_by_role("button", name="Abbrechen")).to_be_visible()
    table = page.get_by_role("region", name="Trainingsaufträge")
    assert table.evaluate("region => region.scrollWidth <= region.clientWidth"), "all columns are visible"
    screenshot(page, "training-phone")
    assert_accessible(page)
    assert_fits(page)
