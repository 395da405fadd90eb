"""Problems and drift in the language of a page."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any, get_args
from zoneinfo import ZoneInfo

import pytest
from pydantic import BaseModel, Field, ValidationError

from service.access.accounts import require_strong
from service.access.errors import AccountRefused, TooManyLogins
from service.api.http.problems import catalogue, problem_body
from service.errors import InvalidRequest, PlumblineError
from service.languages import Texts
from service.recipes.errors import InvalidRecipe
from service.recipes.recipe import Recipe
from service.schemas.drift import DriftDirection, DriftKind
from service.schemas.problem import TYPE_PREFIX
from service.schemas.violations import describe_violations, list_violations
from service.serving.drift.explanations import explain, explain_stream, remedy
from service.store.errors import RecipeConflict, RemovalNotConfirmed
from service.web.page import CATALOGUES
from service.web.problem_texts import ABOUT_ENTRIES, DETAILS, describe, translate
from tests.browser import Open, watched
from tests.problems import assert_problem
from tests.running_service import RunningService
from tests.service.web.products import RECIPE

ENGLISH, GERMAN = (Texts(language, ZoneInfo("UTC"), CATALOGUES) for language in ("en", "de"))
# Problems that no form and no page causes: of programs and cameras, uploads of bundles, and proposals of thresholds.
OF_PROGRAMS = {
    "body-too-slow", "buffer-size-mismatch", "bundle-archive-invalid", "bundle-too-large",
    "conflicting-credentials", "headers-too-large", "host-not-allowed", "idempotency-key-used", "invalid-infer-request",
    "invalid-key", "malformed-request", "method-not-allowed", "not-acceptable", "not-enough-space", "not-found",
    "not-permitted", "part-not-inspected", "repository-not-writable", "stream-idle", "too-many-images",
    "too-many-streams", "unknown-pixel-format", "upload-too-slow", "uploads-busy",
    "training-job-not-held",
    "unknown-training-job",
}  # fmt: skip


def in_german(error: PlumblineError) -> dict[str, Any]:
    return translate(problem_body(error, "r-1"), GERMAN)


def test_every_problem_has_a_text_or_is_one_of_programs() -> None:
    assert set(DETAILS) | ABOUT_ENTRIES | OF_PROGRAMS == set(catalogue())
    assert not OF_PROGRAMS & (set(DETAILS) | ABOUT_ENTRIES)


def test_every_value_of_a_text_is_a_member_of_its_problem() -> None:
    for slug, message in DETAILS.items():
        source = inspect.getsource(catalogue()[slug]) + "".join(
            inspect.getsource(base) for base in catalogue()[slug].__mro__ if issubclass(base, PlumblineError)
        )
        for name in re.findall(r"%\((\w+)\)", message):
            is_member = name in {"gone", "instance"} or re.search(rf"\b{name}=", source)
            assert is_member, f"{slug} has no member {name}"


def test_english_page_has_the_text_of_the_api() -> None:
    body = problem_body(RecipeConflict("widget", 3, 4), "r-1")
    assert translate(body, ENGLISH) == body


def test_german_page_has_title_and_text_with_the_values_of_the_problem() -> None:
    found = in_german(RecipeConflict("widget", 3, 1234))
    assert found["title"] == "Rezept wurde gleichzeitig geändert"
    assert found["detail"].startswith("Jemand anderes hat inzwischen das Rezept von widget geändert (Revision 1.234).")
    assert found["type"].endswith("#recipe-conflict"), "scripts recognise the problem by its type"
    removal = RemovalNotConfirmed("widget", {"pass": {"removed": 14, "kept": 1}}, {}, is_admin=True)
    assert "die Bilder von 14 Prüfungen von widget entfernen und die von 1 behalten" in in_german(removal)["detail"]
    assert in_german(removal)["removed"] == 14
    assert "nach 60 s erneut" in describe(TooManyLogins(60.2), GERMAN)


def test_unknown_problem_and_missing_values_are_shown_as_they_are() -> None:
    newer = {"type": TYPE_PREFIX + "of-a-newer-service", "title": "New", "status": 409, "detail": "What happened."}
    assert translate(newer, GERMAN) == newer
    incomplete = {"type": TYPE_PREFIX + "recipe-conflict", "title": "x", "status": 412, "detail": "y", "product": "a"}
    assert "(Revision –)" in translate(incomplete, GERMAN)["detail"]


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"heatmap": {"low": 2.5, "high": 1}}, "heatmap: heatmap.low 2,5 liegt nicht unter heatmap.high 1"),
        ({"regions": {"min_area_px": -1}}, "regions.min_area_px: ist kleiner als 0; geben Sie eine Zahl ab 0 an"),
        ({"regions": {"min_area_px": None, "max_count": 2.5}},
         "regions.max_count: hat Nachkommastellen; erwartet wird eine ganze Zahl wie 20"),
        ({"roi": [[[0, 0], [9, 9], ["a", 0]]]}, "roi.0.2.0: ist keine Zahl; geben Sie eine an, etwa 0,5"),
        ({"quality": {"off": "blurred"}}, "quality.off: ist Text, erwartet wird eine Liste"),
    ],
)  # fmt: skip
def test_violations_of_a_recipe_are_translated_by_type_and_values(parts: Mapping[str, Any], expected: str) -> None:
    with pytest.raises(InvalidRecipe) as caught:
        Recipe(fail_threshold=1.0, review_threshold=0.5).changed(parts)
    found = in_german(caught.value)
    assert describe_violations(found["errors"]) == expected
    assert found["detail"] == f"{expected}. Es wurde nichts geändert."


class Entry(BaseModel):
    name: str = Field(min_length=1, max_length=5, pattern=r"^[a-z]*$")


def test_violation_without_a_text_keeps_its_own() -> None:
    with pytest.raises(ValidationError) as caught:
        Entry(name="A")
    problem = InvalidRequest("x", list_violations(caught.value, Entry))
    assert in_german(problem)["errors"][0]["msg"] == problem.extensions["errors"][0]["msg"]


def test_rule_of_a_password_is_translated() -> None:
    with pytest.raises(AccountRefused) as caught:
        require_strong("short", "kim")
    assert re.fullmatch(
        r"Das Konto wurde nicht geändert: password: das Passwort muss mindestens \d+ Zeichen haben\.",
        in_german(caught.value)["detail"],
    )


@pytest.mark.parametrize("kind", get_args(DriftKind))
@pytest.mark.parametrize("direction", [None, *get_args(DriftDirection)])
def test_drift_is_explained_in_the_language_of_the_page(kind: DriftKind, direction: DriftDirection | None) -> None:
    english, german = explain([(kind, direction)]), explain([(kind, direction)], GERMAN.text)
    assert english == explain_stream(kind, direction, "alarm", 5)
    for one, other in zip(re.split(": ", english), re.split(": ", german), strict=True):
        assert one != other
    assert remedy(kind, GERMAN.text) != remedy(kind)


def test_stream_without_an_alarm_is_explained() -> None:
    assert explain_stream("colour", None, "ok", 7, GERMAN.text) == "Es wurde keine Drift gefunden."
    assert explain_stream("colour", None, "collecting", 7) == (
        "The first inspections become the reference; 7 are collected."
    )
    assert explain_stream("colour", None, "collecting", 7, GERMAN.text) == (
        "Die ersten Prüfungen werden zur Referenz; 7 sind gesammelt."
    )


def test_only_scripts_of_pages_receive_translated_problems(service: RunningService) -> None:
    change = {"reason": "x", "heatmap": {"low": 2, "high": 1}}
    english = service.client.put(RECIPE, json=change, headers={"accept-language": "de"})
    assert "is not below" in assert_problem(english, 422, "invalid-recipe")["detail"]
    for language in ("en", "fr"):
        other = service.client.put(RECIPE, json=change, headers={"x-page-language": language})
        assert "is not below" in assert_problem(other, 422, "invalid-recipe")["detail"]
    german = service.client.put(RECIPE, json=change, headers={"x-page-language": "de"})
    assert german.status_code == 422
    assert german.headers["content-type"] == "application/problem+json"
    problem = german.json()
    assert problem["title"] == "Ungültiges Rezept"
    assert "liegt nicht unter" in problem["detail"]
    assert int(german.headers["content-length"]) == len(german.content)


def test_problem_of_a_refused_body_is_translated_before_the_connection_closes(service: RunningService) -> None:
    too_large = b"x" * (service.settings.max_body_bytes + 1)
    response = service.client.post(
        "/v1/products/widget/inspections:try",
        content=too_large,
        headers={"content-type": "image/png", "x-page-language": "de"},
    )
    assert response.status_code == 413
    assert response.json()["title"] == "Inhalt der Anfrage ist zu groß"


@pytest.mark.slow
def test_form_on_a_german_page_shows_the_problem_in_german(product: RunningService, open_page: Open) -> None:
    page = open_page(product.client.base_url, "/products/widget/recipe", language="de-DE")
    watched(page).allow("422")
    page.locator('[data-path="quality.min_brightness"]').fill("180")
    page.locator('[data-path="quality.max_brightness"]').fill("120")
    problem = page.locator('[data-field="quality.min_brightness"] .problem')
    problem.wait_for()
    assert "liegt über quality.max_brightness 120" in problem.inner_text()
    page.goto("/products/widget/history?before=1&after=99")
    watched(page).allow("404")
    assert "hat keine Revision 99" in page.get_by_role("alert").inner_text()
