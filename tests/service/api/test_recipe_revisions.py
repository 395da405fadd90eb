"""Recipes as files, differences between revisions, and reverting to an earlier revision."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import httpx
import pytest

from plumbline_client import Client
from tests.bundles import SCORES, tiny_draft, write_tiny_bundle
from tests.problems import assert_problem
from tests.running_service import BAD, HttpService, RunningService, Serve

RECIPE = "/v1/products/widget/recipe"
REVISIONS = f"{RECIPE}/revisions"
WHO: dict[str, Any] = {"author": "Ada", "reason": "because"}
TOML = {"accept": "application/toml"}
ROI = [[[0, 0], [32, 0], [32, 64], [0, 64]]]
# A value in every section, so that a lost section is detected.
EVERYTHING: dict[str, Any] = {
    "roi": ROI,
    "ignore": [[[1.5, 2.25], [9, 2], [9, 9]], [[20, 20], [30, 20], [30, 30]]],
    "regions": {
        "merge_distance_px": 3, "border_margin_px": 1, "min_area_px": 2.5, "min_peak": 0.07, "max_count": 9,
    },
    "heatmap": {"low": 0.01, "high": 0.5},
    "retention": {"pass": {"days": 7.5, "count": 1000}},
}  # fmt: skip


def put(service: HttpService, **change: Any) -> dict[str, Any]:
    response = service.client.put(RECIPE, json=WHO | change)
    assert response.status_code == 200, response.text
    record: dict[str, Any] = response.json()
    return record


def export(service: HttpService, address: str = RECIPE) -> str:
    response = service.client.get(address, headers=TOML)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("application/toml")
    return response.text


def import_(service: HttpService, toml: str, headers: dict[str, str] | None = None, **who: Any) -> httpx.Response:
    sent = {"content-type": "application/toml"} | (headers or {})
    return service.client.put(RECIPE, content=toml.encode(), headers=sent, params=who)


def revert(service: HttpService, revision: int, **about: Any) -> httpx.Response:
    return service.client.post(f"{REVISIONS}/{revision}:revert", json={"author": "Ada"} | about)


def without_nulls(values: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in values.items() if value is not None}
    return {name: without_nulls(value) if isinstance(value, dict) else value for name, value in kept.items()}


# --- files ---------------------------------------------------------------------------------------------------


def test_file_contains_the_whole_revision(serve: Serve) -> None:
    with serve() as service:
        record = put(service, target_false_reject_rate=0.1, **EVERYTHING)
        response = service.client.get(RECIPE, headers=TOML)
        said = tomllib.loads(response.text)
        del record["false_reject_bound"]  # it follows from the recipe and is no part of the file
        del record["suspension"], record["recipe"]["guarantee"]  # they depend on the inspections since
        assert said.pop("created_at").isoformat() == record.pop("created_at").replace("Z", "+00:00")
        record["recipe"] = without_nulls(record["recipe"])  # TOML has none
        assert said == record
        assert response.headers["etag"] == '"2"'
        assert export(service, f"{REVISIONS}/2") == response.text


@pytest.mark.slow
@pytest.mark.parametrize(
    "thresholds",
    [
        {},
        {"target_false_reject_rate": 0.1},
        {"target_false_reject_rate": 0.1, "review_rate": 0.3},
        {"target_false_reject_rate": 0.001, "extrapolate": True},
        {"fail_threshold": 1 / 3, "review_threshold": 0.1 + 0.2},
        {"proposal": True},
    ],
)
def test_recipe_is_restored_from_its_file(serve: Serve, thresholds: dict[str, Any]) -> None:
    with serve() as service:
        if "proposal" in thresholds:
            requested = {"author": "Ada", "target_false_reject_rate": 0.2}
            made = service.client.post("/v1/products/widget/thresholds:propose", json=requested).json()
            thresholds = {"proposal_id": made["id"]}
        recipe = put(service, **thresholds, **EVERYTHING)["recipe"]
        file = export(service)
        put(service, fail_threshold=9, review_threshold=8, **dict.fromkeys(EVERYTHING))
        response = import_(service, file, author="Bo", reason="back")
        assert response.status_code == 200, response.text
        record = response.json()
        assert record["recipe"] == recipe
        assert (record["revision"], record["author"], record["reason"]) == (4, "Bo", "back")
        assert service.inspect(BAD).json()["recipe_revision"] == 4, "it is in force from the next inspection on"


def test_values_missing_in_a_file_get_defaults_except_thresholds(serve: Serve) -> None:
    with serve() as service:
        before = put(service, target_false_reject_rate=0.1, **EVERYTHING)["recipe"]
        file = 'author = "Bo"\nreason = "less"\n[recipe.regions]\nmin_area_px = 7\n'
        record = import_(service, file).json()
        assert (record["author"], record["reason"]) == ("Bo", "less")
        recipe = record["recipe"]
        assert recipe["fail_threshold"] == before["fail_threshold"]
        assert (recipe["roi"], recipe["heatmap"]["high"], recipe["regions"]["border_margin_px"]) == ([], None, 0)
        assert recipe["regions"]["min_area_px"] == 7


@pytest.mark.slow
def test_guarantee_is_derived_and_not_taken_from_the_file(serve: Serve) -> None:
    with serve() as service:
        rates = import_(service, "[recipe]\ntarget_false_reject_rate = 0.1\nreview_rate = 0.3\n", **WHO).json()[
            "recipe"
        ]
        assert (rates["fail_threshold"], rates["review_threshold"]) == (SCORES[89], SCORES[69])
        by_hand = "[recipe]\nfail_threshold = 5\nreview_threshold = 4\ncertified = true\ncalibration_images = 999\n"
        recipe = import_(service, by_hand, **WHO).json()["recipe"]
        assert (recipe["fail_threshold"], recipe["derivation"]) == (5, "hand")
        assert (recipe["certified"], recipe["calibration_images"]) == (False, 0)
        response = import_(service, "[recipe]\ntarget_false_reject_rate = 0.1\nfail_threshold = 5\n", **WHO)
        assert response.status_code == 422
        assert "its rates give 0.0545" in response.json()["detail"]
        # Editing the rate of a default recipe sets that rate.
        service.client.put(RECIPE, json=WHO | {"target_false_reject_rate": 0.01})
        first = export(service, f"{REVISIONS}/1").replace(
            "target_false_reject_rate = 0.01", "target_false_reject_rate = 0.3"
        )
        edited = "\n".join(line for line in first.splitlines() if not line.startswith(("fail_thr", "review_")))
        recipe = import_(service, edited, **WHO).json()["recipe"]
        assert (recipe["target_false_reject_rate"], recipe["derivation"]) == (0.3, "card")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("toml", "slug", "message"),
    [
        ("[recipe", "invalid-recipe", "not TOML"),
        ("recipe = 1", "invalid-recipe", "recipe:"),
        ("a = " + "[" * 50_000, "invalid-recipe", ""),
        ("", "invalid-recipe", "recipe: is missing"),
        ("surprise = 1\n[recipe]", "invalid-recipe", "surprise"),
        ("[recipe]\nsurprise = 1", "invalid-recipe", "surprise"),
        ("[recipe]\nfail_threshold = 1", "invalid-recipe", "review_threshold: is missing"),
        ("[recipe]\nfail_threshold = 1\nreview_threshold = 2", "invalid-recipe", "is above"),
        ("[recipe]\nfail_threshold = nan\nreview_threshold = 2", "invalid-recipe", "finite"),
        ("[recipe]\ntarget_false_reject_rate = 0.0001", "invalid-recipe", "needs 9999 images"),
        ('[recipe]\ntarget_false_reject_rate = "low"', "invalid-recipe", "target_false_reject_rate"),
        ('product = "gadget"\n[recipe]', "invalid-recipe", "a recipe of 'gadget'"),
        ("[recipe]\nroi = [[[0, 0], [1, 1]]]", "invalid-recipe", "roi.0"),
        ("[recipe.heatmap]\nhigh = -1", "invalid-recipe", "heatmap.high"),
    ],
)
def test_invalid_file_is_refused_and_changes_nothing(service: HttpService, toml: str, slug: str, message: str) -> None:
    before = service.client.get(REVISIONS).json()
    response = import_(service, toml, **WHO)
    assert response.status_code == 422, response.text
    assert response.json()["type"].endswith(f"#{slug}")
    assert message in response.json()["detail"]
    assert service.client.get(REVISIONS).json() == before


@pytest.mark.parametrize(
    "who", [{}, {"author": "Bo"}, {"author": "plumbline", "reason": "x"}, {"author": "Bo", "reason": " "}]
)
def test_import_needs_an_author_and_a_reason(service: RunningService, who: dict[str, Any]) -> None:
    response = import_(service, "[recipe]", **who)
    assert response.status_code == 422
    assert response.json()["type"].endswith("#invalid-request")
    assert "author" in response.json()["detail"]


@pytest.mark.slow
def test_import_against_an_outdated_revision_is_refused(serve: Serve) -> None:
    with serve() as service:
        file = export(service)
        put(service, target_false_reject_rate=0.1)
        response = import_(service, file, {"if-match": '"1"'}, **WHO)
        assert response.status_code == 412
        assert response.json()["current_revision"] == 2


def test_recipe_is_sent_as_json_or_toml(service: HttpService) -> None:
    response = service.client.put(RECIPE, content=b"a: 1", headers={"content-type": "application/yaml"})
    assert (response.status_code, response.json()["expected"]) == (415, ["application/json", "application/toml"])
    assert service.client.get(RECIPE, headers={"accept": "application/yaml"}).status_code == 406


def test_recipe_body_is_limited(serve: Serve) -> None:
    with serve() as service:
        response = import_(service, "#" * 2**20 + "\n[recipe]", **WHO)
        assert response.status_code == 413


# --- differences ---------------------------------------------------------------------------------------------


def test_differences_of_two_revisions(serve: Serve) -> None:
    with serve() as service:
        first = service.client.get(RECIPE).json()
        second = put(service, regions={"min_area_px": 5}, roi=ROI)
        put(service, fail_threshold=2, review_threshold=1, regions={"min_area_px": 6})
        diff = service.client.get(f"{REVISIONS}/1/diff/2").json()
        assert diff["differences"] == [
            {"path": "roi", "before": [], "after": second["recipe"]["roi"]},
            {"path": "regions.min_area_px", "before": 0, "after": 5},
        ]
        for end, record in (("before", first), ("after", second)):
            others = {"recipe", "false_reject_bound", "suspension"}
            facts = {name: value for name, value in record.items() if name not in others}
            assert diff[end] == facts
        back = service.client.get(f"{REVISIONS}/2/diff/1").json()
        assert [(item["after"], item["before"]) for item in back["differences"]] == [
            (item["before"], item["after"]) for item in diff["differences"]
        ]
        paths = [item["path"] for item in service.client.get(f"{REVISIONS}/2/diff/3").json()["differences"]]
        assert {"fail_threshold", "certified", "derivation", "regions.min_area_px"} <= set(paths)
        assert service.client.get(f"{REVISIONS}/2/diff/2").json()["differences"] == []


@pytest.mark.parametrize("address", [f"{REVISIONS}/1/diff/99", f"{REVISIONS}/99/diff/1"])
def test_difference_to_an_unknown_revision_is_refused(service: HttpService, address: str) -> None:
    response = service.client.get(address)
    assert (response.status_code, response.json()["revision"]) == (404, 99)


# --- revert --------------------------------------------------------------------------------------------------


def test_revert_creates_a_new_revision(serve: Serve) -> None:
    with serve() as service:
        old = put(service, fail_threshold=0.3, review_threshold=0.1, **EVERYTHING)
        put(service, target_false_reject_rate=0.2, **dict.fromkeys(EVERYTHING))
        response = revert(service, 2, reason="it was better")
        assert response.status_code == 200, response.text
        record = response.json()
        assert record["recipe"] == old["recipe"]
        assert (record["revision"], record["author"]) == (4, "Ada")
        assert record["reason"] == "Revert to revision 2: it was better"
        assert response.headers["etag"] == '"4"'
        verdict = service.inspect(BAD).json()
        assert (verdict["recipe_revision"], verdict["thresholds"]["fail"]) == (4, 0.3)
        assert [item["revision"] for item in service.client.get(REVISIONS).json()["items"]] == [4, 3, 2, 1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "stale", [{"headers": {"if-match": '"1"'}}, {"json": {"author": "Ada", "expected_revision": 1}}]
)
def test_revert_against_an_outdated_revision_is_refused(serve: Serve, stale: dict[str, Any]) -> None:
    with serve() as service:
        put(service, target_false_reject_rate=0.2)
        response = service.client.post(f"{REVISIONS}/1:revert", **({"json": {"author": "Ada"}} | stale))
        assert response.status_code == 412


@pytest.mark.parametrize(
    ("address", "body", "status"),
    [
        (f"{REVISIONS}/99:revert", {"author": "Ada"}, 404),
        ("/v1/products/gadget/recipe/revisions/1:revert", {"author": "Ada"}, 404),
        (f"{REVISIONS}/1:revert", {"author": ""}, 422),
        (f"{REVISIONS}/1:revert", {"author": "plumbline"}, 422),
        (f"{REVISIONS}/x:revert", {"author": "Ada"}, 422),
    ],
)
def test_impossible_revert_changes_nothing(
    service: HttpService, address: str, body: dict[str, Any], status: int
) -> None:
    before = service.client.get(REVISIONS).json()
    assert service.client.post(address, json=body).status_code == status
    assert service.client.get(REVISIONS).json() == before


@pytest.mark.slow
def test_revert_to_a_revision_of_another_bundle_derives_thresholds_again(serve: Serve, tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_tiny_bundle(models)
    with serve(models=models) as service:
        put(service, target_false_reject_rate=0.1, **EVERYTHING)
        by_rate = export(service)
        put(service, fail_threshold=0.3, review_threshold=0.1, **EVERYTHING)
        by_hand = export(service)
    # A newer bundle with good images that score ten times as high.
    newer = tiny_draft().created_at.replace(year=2027)
    tens = [10 * score for score in SCORES]
    write_tiny_bundle(models, scores=tens, created_at=newer)
    with serve(models=models) as service:
        put(service, fail_threshold=9, review_threshold=8, roi=None)
        for response in (revert(service, 2), import_(service, by_rate, **WHO)):
            assert response.status_code == 200, response.text
            recipe = response.json()["recipe"]
            assert recipe["fail_threshold"] == tens[89]
            assert (recipe["roi"], recipe["regions"]["min_area_px"]) == ([[[0, 0], [32, 0], [32, 64], [0, 64]]], 2.5)
            assert recipe["heatmap"] == {"low": None, "high": None}, "values on the other bundle's scale are reset"
            assert recipe["regions"]["min_peak"] is None
        assert "derived for bundle" in service.client.get(f"{REVISIONS}/6").json()["reason"]
        before = service.client.get(REVISIONS).json()
        for response in (revert(service, 3), import_(service, by_hand, **WHO)):
            assert response.status_code == 422, response.text
            assert response.json()["type"].endswith("#invalid-recipe")
            assert "set by hand" in response.json()["detail"]
        assert service.client.get(REVISIONS).json() == before


@pytest.mark.slow
def test_client_reads_compares_reverts_exports_and_imports(serve: Serve) -> None:
    with serve() as service, Client(f"http://127.0.0.1:{service.port}") as plumbline:
        changed = plumbline.change_recipe("widget", **WHO, parts=EVERYTHING)
        assert plumbline.recipe_revision("widget", 2) == changed
        paths = [item.path for item in plumbline.compare_recipes("widget", 1, 2).differences]
        assert paths[:2] == ["roi", "ignore"]
        reverted = plumbline.revert_recipe("widget", 1, author="Ada", expected_revision=2)
        assert reverted.recipe == plumbline.recipe_revision("widget", 1).recipe
        imported = plumbline.import_recipe("widget", plumbline.export_recipe("widget", 2), expected_revision=3)
        assert (imported.recipe, imported.author) == (changed.recipe, "Ada")


@pytest.mark.parametrize("names", [("author",), ("reason",), ("author", "reason")])
@pytest.mark.parametrize("body", [{}, {"author": "a", "reason": "b"}])
def test_author_and_reason_of_a_change_as_json_belong_into_the_body(
    service: HttpService, names: tuple[str, ...], body: dict[str, str]
) -> None:
    before = service.client.get(RECIPE).json()
    change = body | {"heatmap": {"high": 9.0}}
    response = service.client.put(RECIPE, json=change, params=dict.fromkeys(names, "x"))

    problem = assert_problem(response, 422, "invalid-request")
    assert all(f"`{name}`" in problem["detail"] for name in names)
    assert "belong into the body" in problem["detail"]
    assert [error["loc"] for error in problem["errors"]] == [["query", name] for name in names]
    assert service.client.get(RECIPE).json() == before
