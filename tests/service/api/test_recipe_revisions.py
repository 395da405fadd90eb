"""Recipes as files, the difference between two of them, and the way back to an old one."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import httpx
import pytest

from plumbline_client import Client
from tests.bundles import SCORES, tiny_draft, write_tiny_bundle
from tests.running_service import BAD, RunningService, Serve

RECIPE = "/v1/products/widget/recipe"
REVISIONS = f"{RECIPE}/revisions"
WHO: dict[str, Any] = {"author": "Ada", "reason": "because"}
TOML = {"accept": "application/toml"}
ROI = [[[0, 0], [32, 0], [32, 64], [0, 64]]]
# Something of everything, so that a part that is forgotten on the way is missed.
EVERYTHING: dict[str, Any] = {
    "roi": ROI,
    "ignore": [[[1.5, 2.25], [9, 2], [9, 9]], [[20, 20], [30, 20], [30, 30]]],
    "regions": {
        "merge_distance_px": 3, "border_margin_px": 1, "min_area_px": 2.5, "min_peak": 0.07, "max_count": 9,
    },
    "heatmap": {"low": 0.01, "high": 0.5},
    "retention": {"pass": {"days": 7.5, "count": 1000}},
}  # fmt: skip


def put(service: RunningService, **change: Any) -> dict[str, Any]:
    answer = service.client.put(RECIPE, json=WHO | change)
    assert answer.status_code == 200, answer.text
    record: dict[str, Any] = answer.json()
    return record


def export(service: RunningService, address: str = RECIPE) -> str:
    answer = service.client.get(address, headers=TOML)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("application/toml")
    return answer.text


def import_(service: RunningService, toml: str, headers: dict[str, str] | None = None, **who: Any) -> httpx.Response:
    sent = {"content-type": "application/toml"} | (headers or {})
    return service.client.put(RECIPE, content=toml.encode(), headers=sent, params=who)


def revert(service: RunningService, revision: int, **about: Any) -> httpx.Response:
    return service.client.post(f"{REVISIONS}/{revision}:revert", json={"author": "Ada"} | about)


def without_nulls(values: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in values.items() if value is not None}
    return {name: without_nulls(value) if isinstance(value, dict) else value for name, value in kept.items()}


# --- files ---------------------------------------------------------------------------------------------------


def test_file_says_what_the_revision_says(serve: Serve) -> None:
    with serve() as service:
        record = put(service, target_false_reject_rate=0.1, **EVERYTHING)
        answer = service.client.get(RECIPE, headers=TOML)
        said = tomllib.loads(answer.text)
        assert said.pop("created_at").isoformat() == record.pop("created_at").replace("Z", "+00:00")
        record["recipe"] = without_nulls(record["recipe"])  # TOML has none
        assert said == record
        assert answer.headers["etag"] == '"2"'
        assert export(service, f"{REVISIONS}/2") == answer.text


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
def test_recipe_comes_back_from_its_file_as_it_was(serve: Serve, thresholds: dict[str, Any]) -> None:
    with serve() as service:
        if "proposal" in thresholds:
            wish = {"author": "Ada", "target_false_reject_rate": 0.2}
            made = service.client.post("/v1/products/widget/thresholds:propose", json=wish).json()
            thresholds = {"proposal_id": made["id"]}
        recipe = put(service, **thresholds, **EVERYTHING)["recipe"]
        file = export(service)
        put(service, fail_threshold=9, review_threshold=8, **dict.fromkeys(EVERYTHING))
        answer = import_(service, file, author="Bo", reason="back")
        assert answer.status_code == 200, answer.text
        record = answer.json()
        assert record["recipe"] == recipe
        assert (record["revision"], record["author"], record["reason"]) == (4, "Bo", "back")
        assert service.inspect(BAD).json()["recipe_revision"] == 4, "in force from the next inspection on"


def test_what_a_file_leaves_out_takes_its_default_but_the_thresholds_stay(serve: Serve) -> None:
    with serve() as service:
        before = put(service, target_false_reject_rate=0.1, **EVERYTHING)["recipe"]
        file = 'author = "Bo"\nreason = "less"\n[recipe.regions]\nmin_area_px = 7\n'
        record = import_(service, file).json()
        assert (record["author"], record["reason"]) == ("Bo", "less")
        recipe = record["recipe"]
        assert recipe["fail_threshold"] == before["fail_threshold"]
        assert (recipe["roi"], recipe["heatmap"]["high"], recipe["regions"]["border_margin_px"]) == ([], None, 0)
        assert recipe["regions"]["min_area_px"] == 7


def test_guarantee_is_derived_and_not_believed(serve: Serve) -> None:
    with serve() as service:
        rates = import_(service, "[recipe]\ntarget_false_reject_rate = 0.1\nreview_rate = 0.3\n", **WHO).json()[
            "recipe"
        ]
        assert (rates["fail_threshold"], rates["review_threshold"]) == (SCORES[89], SCORES[69])
        by_hand = "[recipe]\nfail_threshold = 5\nreview_threshold = 4\ncertified = true\ncalibration_images = 999\n"
        recipe = import_(service, by_hand, **WHO).json()["recipe"]
        assert (recipe["fail_threshold"], recipe["derivation"]) == (5, "hand")
        assert (recipe["certified"], recipe["calibration_images"]) == (False, 0)
        answer = import_(service, "[recipe]\ntarget_false_reject_rate = 0.1\nfail_threshold = 5\n", **WHO)
        assert answer.status_code == 422
        assert "its rates give 0.0545" in answer.json()["detail"]
        # Who edits the rate of a default recipe gets that rate.
        service.client.put(RECIPE, json=WHO | {"target_false_reject_rate": 0.01})
        first = export(service, f"{REVISIONS}/1").replace(
            "target_false_reject_rate = 0.01", "target_false_reject_rate = 0.3"
        )
        edited = "\n".join(line for line in first.splitlines() if not line.startswith(("fail_thr", "review_")))
        recipe = import_(service, edited, **WHO).json()["recipe"]
        assert (recipe["target_false_reject_rate"], recipe["derivation"]) == (0.3, "card")


@pytest.mark.parametrize(
    ("toml", "slug", "message"),
    [
        ("[recipe", "invalid-recipe", "not TOML"),
        ("recipe = 1", "invalid-recipe", "recipe:"),
        ("a = " + "[" * 50_000, "invalid-recipe", ""),
        ("", "invalid-recipe", "recipe: Field required"),
        ("surprise = 1\n[recipe]", "invalid-recipe", "surprise"),
        ("[recipe]\nsurprise = 1", "invalid-recipe", "surprise"),
        ("[recipe]\nfail_threshold = 1", "invalid-recipe", "review_threshold: Field required"),
        ("[recipe]\nfail_threshold = 1\nreview_threshold = 2", "invalid-recipe", "is above"),
        ("[recipe]\nfail_threshold = nan\nreview_threshold = 2", "invalid-recipe", "finite"),
        ("[recipe]\ntarget_false_reject_rate = 0.0001", "invalid-recipe", "needs 9999 images"),
        ('[recipe]\ntarget_false_reject_rate = "low"', "invalid-recipe", "target_false_reject_rate"),
        ('product = "gadget"\n[recipe]', "invalid-recipe", "a recipe of 'gadget'"),
        ("[recipe]\nroi = [[[0, 0], [1, 1]]]", "invalid-recipe", "roi.0"),
        ("[recipe.heatmap]\nhigh = -1", "invalid-recipe", "heatmap.high"),
    ],
)
def test_file_that_makes_no_recipe_is_refused_and_changes_nothing(
    service: RunningService, toml: str, slug: str, message: str
) -> None:
    before = service.client.get(REVISIONS).json()
    answer = import_(service, toml, **WHO)
    assert answer.status_code == 422, answer.text
    assert answer.json()["type"].endswith(f"#{slug}")
    assert message in answer.json()["detail"]
    assert service.client.get(REVISIONS).json() == before


@pytest.mark.parametrize(
    "who", [{}, {"author": "Bo"}, {"author": "plumbline", "reason": "x"}, {"author": "Bo", "reason": " "}]
)
def test_import_is_signed_by_a_person_who_says_why(service: RunningService, who: dict[str, Any]) -> None:
    answer = import_(service, "[recipe]", **who)
    assert answer.status_code == 422
    assert answer.json()["type"].endswith("#invalid-request")
    assert "author" in answer.json()["detail"]


def test_import_against_a_revision_that_is_past_is_refused(serve: Serve) -> None:
    with serve() as service:
        file = export(service)
        put(service, target_false_reject_rate=0.1)
        answer = import_(service, file, {"if-match": '"1"'}, **WHO)
        assert answer.status_code == 412
        assert answer.json()["current_revision"] == 2


def test_recipe_is_sent_as_json_or_toml_and_not_beyond_reason(service: RunningService) -> None:
    answer = service.client.put(RECIPE, content=b"a: 1", headers={"content-type": "application/yaml"})
    assert (answer.status_code, answer.json()["expected"]) == (415, ["application/json", "application/toml"])
    assert service.client.get(RECIPE, headers={"accept": "application/yaml"}).status_code == 406


def test_recipe_body_is_bounded(serve: Serve) -> None:
    with serve() as service:
        answer = import_(service, "#" * 2**20 + "\n[recipe]", **WHO)
        assert answer.status_code == 413


# --- what changed --------------------------------------------------------------------------------------------


def test_difference_of_two_revisions_value_by_value(serve: Serve) -> None:
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
            assert diff[end] == {name: value for name, value in record.items() if name != "recipe"}
        back = service.client.get(f"{REVISIONS}/2/diff/1").json()
        assert [(item["after"], item["before"]) for item in back["differences"]] == [
            (item["before"], item["after"]) for item in diff["differences"]
        ]
        paths = [item["path"] for item in service.client.get(f"{REVISIONS}/2/diff/3").json()["differences"]]
        assert {"fail_threshold", "certified", "derivation", "regions.min_area_px"} <= set(paths)
        assert service.client.get(f"{REVISIONS}/2/diff/2").json()["differences"] == []


@pytest.mark.parametrize("address", [f"{REVISIONS}/1/diff/99", f"{REVISIONS}/99/diff/1"])
def test_difference_to_a_revision_that_never_was_is_refused(service: RunningService, address: str) -> None:
    answer = service.client.get(address)
    assert (answer.status_code, answer.json()["revision"]) == (404, 99)


# --- the way back --------------------------------------------------------------------------------------------


def test_old_revision_comes_back_as_a_new_one(serve: Serve) -> None:
    with serve() as service:
        old = put(service, fail_threshold=0.3, review_threshold=0.1, **EVERYTHING)
        put(service, target_false_reject_rate=0.2, **dict.fromkeys(EVERYTHING))
        answer = revert(service, 2, reason="it was better")
        assert answer.status_code == 200, answer.text
        record = answer.json()
        assert record["recipe"] == old["recipe"]
        assert (record["revision"], record["author"]) == (4, "Ada")
        assert record["reason"] == "Revision 2 again: it was better"
        assert answer.headers["etag"] == '"4"'
        verdict = service.inspect(BAD).json()
        assert (verdict["recipe_revision"], verdict["thresholds"]["fail"]) == (4, 0.3)
        assert [item["revision"] for item in service.client.get(REVISIONS).json()["items"]] == [4, 3, 2, 1]


@pytest.mark.parametrize(
    "stale", [{"headers": {"if-match": '"1"'}}, {"json": {"author": "Ada", "expected_revision": 1}}]
)
def test_revert_against_a_revision_that_is_past_is_refused(serve: Serve, stale: dict[str, Any]) -> None:
    with serve() as service:
        put(service, target_false_reject_rate=0.2)
        answer = service.client.post(f"{REVISIONS}/1:revert", **({"json": {"author": "Ada"}} | stale))
        assert answer.status_code == 412


@pytest.mark.parametrize(
    ("address", "body", "status"),
    [
        (f"{REVISIONS}/99:revert", {"author": "Ada"}, 404),
        ("/v1/products/gadget/recipe/revisions/1:revert", {"author": "Ada"}, 404),
        (f"{REVISIONS}/1:revert", {}, 422),
        (f"{REVISIONS}/1:revert", {"author": "plumbline"}, 422),
        (f"{REVISIONS}/x:revert", {"author": "Ada"}, 422),
    ],
)
def test_revert_that_cannot_be_changes_nothing(
    service: RunningService, address: str, body: dict[str, Any], status: int
) -> None:
    before = service.client.get(REVISIONS).json()
    assert service.client.post(address, json=body).status_code == status
    assert service.client.get(REVISIONS).json() == before


def test_revision_of_another_bundle_comes_back_with_thresholds_of_this_one(serve: Serve, tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_tiny_bundle(models)
    with serve(models=models) as service:
        put(service, target_false_reject_rate=0.1, **EVERYTHING)
        by_rate = export(service)
        put(service, fail_threshold=0.3, review_threshold=0.1, **EVERYTHING)
        by_hand = export(service)
    # A newer bundle whose good images score ten times as high.
    newer = tiny_draft().created_at.replace(year=2027)
    tens = [10 * score for score in SCORES]
    write_tiny_bundle(models, scores=tens, created_at=newer)
    with serve(models=models) as service:
        put(service, fail_threshold=9, review_threshold=8, roi=None)
        for answer in (revert(service, 2), import_(service, by_rate, **WHO)):
            assert answer.status_code == 200, answer.text
            recipe = answer.json()["recipe"]
            assert recipe["fail_threshold"] == tens[89]
            assert (recipe["roi"], recipe["regions"]["min_area_px"]) == ([[[0, 0], [32, 0], [32, 64], [0, 64]]], 2.5)
            assert recipe["heatmap"] == {"low": None, "high": None}, "levels on the other bundle's scale"
            assert recipe["regions"]["min_peak"] is None
        assert "derived for bundle" in service.client.get(f"{REVISIONS}/6").json()["reason"]
        before = service.client.get(REVISIONS).json()
        for answer in (revert(service, 3), import_(service, by_hand, **WHO)):
            assert answer.status_code == 422, answer.text
            assert answer.json()["type"].endswith("#invalid-recipe")
            assert "set by hand" in answer.json()["detail"]
        assert service.client.get(REVISIONS).json() == before


def test_client_reads_compares_reverts_exports_and_imports(serve: Serve) -> None:
    with serve() as service, Client(f"http://127.0.0.1:{service.port}") as line:
        changed = line.change_recipe("widget", **WHO, parts=EVERYTHING)
        assert line.recipe_revision("widget", 2) == changed
        paths = [item.path for item in line.compare_recipes("widget", 1, 2).differences]
        assert paths[:2] == ["roi", "ignore"]
        reverted = line.revert_recipe("widget", 1, author="Ada", expected_revision=2)
        assert reverted.recipe == line.recipe_revision("widget", 1).recipe
        imported = line.import_recipe("widget", line.export_recipe("widget", 2), expected_revision=3)
        assert (imported.recipe, imported.author) == (changed.recipe, "Ada")
