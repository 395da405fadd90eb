"""Previews of recipe changes, distributions and heatmaps of shadow bundles over HTTP."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import cv2
import httpx
import numpy as np
import pytest

from plumbline_client import Client
from service.inspection.calibration import bound_rate
from service.schemas.recipe_preview import Distributions, RecipePreview
from service.serving import recipe_previews
from service.store.retention import mark_removed
from tests.access import bearer, make_key
from tests.bundles import SCORES, part, tiny_quality, write_tiny_bundle
from tests.problems import assert_problem
from tests.running_service import BAD, GOOD, RunningService, Serve, encode
from tests.service.api.test_bundles import activate, make_bundle
from tests.service.api.test_shadow import start, stop

RECIPE = "/v1/products/widget/recipe"
WHO = {"author": "Ada", "reason": "trial"}
FAINT = [encode(part(brightness=128 + step)) for step in range(1, 20)]


def preview(service: RunningService, **change: Any) -> RecipePreview:
    response = service.client.post(f"{RECIPE}:preview", json=change)
    assert response.status_code == 200, response.text
    return RecipePreview.model_validate_json(response.content)


def put(service: RunningService, **change: Any) -> dict[str, Any]:
    response = service.client.put(RECIPE, json=WHO | change)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def inspect(service: RunningService, *images: bytes) -> list[dict[str, Any]]:
    return [service.inspect(image).json() for image in images]


def review(service: RunningService, inspection: dict[str, Any], label: str, **more: Any) -> None:
    body = {"label": label, "reviewer": "Ada"} | more
    assert service.client.post(f"/v1/inspections/{inspection['id']}:review", json=body).status_code == 201


def by_new_inspections(service: RunningService, images: list[bytes], **change: Any) -> list[str]:
    """Return the decisions that the service really makes once the change is in force."""
    put(service, **change)
    return [found["decision"] for found in inspect(service, *images)]


EDITS: list[dict[str, Any]] = [
    {"fail_threshold": 0.045, "review_threshold": 0.021},
    {"fail_threshold": 5.0, "review_threshold": 4.0},
    {"target_false_reject_rate": 0.2, "review_rate": 0.5},
    {"roi": [[[0, 0], [16, 0], [16, 64], [0, 64]]]},
    {"ignore": [[[16, 24], [32, 24], [32, 44], [16, 44]]], "fail_threshold": 0.03, "review_threshold": 0.02},
    {"regions": {"min_area_px": 200}},
    {"regions": {"min_area_px": 200}, "fail_threshold": 0.03, "review_threshold": 0.01},
    {"quality": {"max_brightness": 135}},
]


@pytest.mark.slow
@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize(
    "before", [{}, {"roi": [[[0, 0], [40, 0], [40, 64], [0, 64]]], "regions": {"min_area_px": 70}}]
)
def test_previewed_decisions_are_those_that_the_service_makes(
    serve: Serve, edit: dict[str, Any], before: dict[str, Any]
) -> None:
    images = [GOOD, BAD, *FAINT, encode(part(spot=(2, 2, 12)))]
    with serve() as service:
        if before:
            put(service, **before)
        stored = inspect(service, *images)
        found = preview(service, **edit)
        expected = by_new_inspections(service, images, **edit)
        assert found.verdicts.inspections == len(images)
        assert found.verdicts.unknown == 0
        changed = {item.id: item.after for item in found.verdicts.changed}
        assert [changed.get(one["id"], one["decision"]) for one in stored] == expected
        assert found.verdicts.after == {name: expected.count(name) for name in sorted(set(expected))}
        assert found.verdicts.changed_total == sum(change.count for change in found.verdicts.changes)


def test_bounds_are_those_of_the_calibration_scores_and_in_the_usual_words(serve: Serve) -> None:
    with serve() as service:
        # 94 of 99 scores are at most this threshold: five, and the part itself, of 100 ranks may be above it.
        between = (SCORES[93] + SCORES[94]) / 2
        after = preview(service, fail_threshold=between, review_threshold=SCORES[0] / 2).after
        assert after.fail.bound is not None
        assert after.fail.bound.statement == str(bound_rate(99, 0.06))
        assert (after.fail.above, after.fail.bound.average, after.fail.bound.images) == (5, 0.06, 99)
        assert (after.review.above, after.review.bound) == (99, None)
        assert (after.certified, after.target_false_reject_rate) == (False, None)
        in_force = preview(service, target_false_reject_rate=0.01).before
        recipe = service.client.get(RECIPE).json()
        assert in_force.fail.bound is not None
        assert in_force.fail.bound.model_dump() == recipe["false_reject_bound"]
        assert in_force.certified


def test_nearest_rates_give_certified_thresholds_that_are_not_higher(serve: Serve) -> None:
    with serve() as service:
        between = (SCORES[93] + SCORES[94]) / 2
        nearest = preview(service, fail_threshold=between, review_threshold=SCORES[50]).nearest
        assert nearest is not None
        assert (nearest.fail_threshold, nearest.review_threshold) == (SCORES[93], SCORES[50])
        rates = {
            "target_false_reject_rate": nearest.target_false_reject_rate,
            "review_rate": nearest.review_rate,
        }
        recipe = put(service, **rates)["recipe"]
        assert (recipe["fail_threshold"], recipe["certified"]) == (SCORES[93], True)
        assert recipe["review_threshold"] == SCORES[50]
        assert preview(service, fail_threshold=0.0, review_threshold=0.0).nearest is None


def test_labelled_parts_that_would_change_are_listed(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe_previews, "_INPUTS_S", 0.0)
    with serve() as service:
        good, defect, unlabelled = inspect(service, FAINT[10], FAINT[18], FAINT[18])
        review(service, good, "good")
        review(service, defect, "defect", kind="scratch")
        strict = preview(service, fail_threshold=0.02, review_threshold=0.02)
        assert strict.labelled.by_label_after == {"defect": {"fail": 1}, "good": {"fail": 1}}
        lax = preview(service, fail_threshold=5.0, review_threshold=5.0, inspections=0)
        assert lax.verdicts.inspections == 0
        assert [(item.id, item.label, item.kind, item.after) for item in lax.labelled.changed] == [
            (defect["id"], "defect", "scratch", "pass")
        ]
        assert {item.id for item in preview(service, fail_threshold=5.0, review_threshold=5.0).verdicts.changed} == {
            defect["id"],
            unlabelled["id"],
        }


def test_what_cannot_be_decided_again_is_counted_as_unknown(serve: Serve, tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_tiny_bundle(models, quality=tiny_quality(brightness=(100, 160)))
    with serve(models=models) as service:
        judged, rejected = inspect(service, BAD, encode(part(brightness=240)))
        assert rejected["decision"] == "invalid"
        (removed,) = inspect(service, BAD)
        service.store.files.unlink(UUID(removed["id"]), "image/png")
        mark_removed(service.store.engine, [UUID(removed["id"])], datetime.now(UTC))
        kept = preview(service, regions={"min_area_px": 10_000})
        assert (kept.verdicts.inspections, kept.verdicts.unknown) == (2, 1), "its map is needed and was removed"
        assert kept.verdicts.after == {"invalid": 1, "pass": 1}
        looser = preview(service, quality={"max_brightness": 250})
        assert looser.verdicts.unknown == 1, "the rejected image was not judged"
        assert looser.verdicts.after == {"fail": 2}
        assert preview(service, pixels={"bit_depth": 12, "width": 64}).not_previewed == ["pixels.bit_depth"]
        assert judged["decision"] == "fail"


def test_preview_is_refused_as_the_change_would_be_and_changes_nothing(serve: Serve) -> None:
    with serve() as service:
        before = service.client.get(RECIPE).json()
        for body, slug in (
            ({"fail_threshold": 0.01, "review_threshold": 0.02}, "invalid-recipe"),
            ({"fail_threshold": 0.01}, "invalid-request"),
            ({"target_false_reject_rate": 0.0001}, "invalid-recipe"),
            ({"reason": "x", "regions": {"min_area_px": 3}}, "invalid-request"),
            ({}, "invalid-request"),
        ):
            assert_problem(service.client.post(f"{RECIPE}:preview", json=body), 422, slug)
        assert_problem(
            service.client.post(f"{RECIPE}:preview".replace("widget", "gadget"), json={}), 422, "invalid-request"
        )
        preview(service, target_false_reject_rate=0.3)
        assert service.client.get(RECIPE).json() == before


def test_previews_at_the_same_time_are_limited(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe_previews, "_WAIT_S", 0.01)
    with serve() as service:
        slots = service.services.recipe_previews._slots
        while slots.acquire(blocking=False):
            pass
        response = service.client.post(f"{RECIPE}:preview", json={"target_false_reject_rate": 0.3})
        assert_problem(response, 503, "previews-busy")
        assert int(response.headers["retry-after"]) >= 1
        slots.release()
        assert preview(service, target_false_reject_rate=0.3).verdicts.inspections == 0


def test_restricted_key_sees_the_distributions_of_its_stations(serve: Serve) -> None:
    with serve() as service:
        for station in ("a", "b", "b"):
            service.inspect(BAD, params={"station": station})
        key = make_key(service.store.engine, "inspect", stations=["b"])
        service.client.headers.update(bearer(key))
        service.app.state.access._require("test")
        distributions = service.client.get("/v1/products/widget/distributions").json()
        assert distributions["inspections"] == 2


def test_distributions_count_scores_and_quality_with_their_limits(serve: Serve, tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_tiny_bundle(models, quality=tiny_quality(brightness=(100, 160)))
    with serve(models=models) as service:
        put(service, quality={"min_brightness": 90.0})
        inspect(service, GOOD, *FAINT[:5], BAD, encode(part(brightness=250)))
        found = Distributions.model_validate_json(service.client.get("/v1/products/widget/distributions").content)
        scores = found.scores
        assert (found.inspections, found.is_cut) == (8, False)
        assert (scores.reference.total, sum(scores.reference.counts), scores.reference_source) == (99, 99, "card")
        assert (scores.recent.total, scores.recent.above) == (7, 1), "a defect does not stretch the scale"
        assert scores.edges[0] < scores.review_threshold < scores.fail_threshold < scores.edges[-1]
        brightness = next(item for item in found.quality if item.measure == "brightness")
        assert (brightness.low, brightness.derived_low, brightness.high) == (90.0, 50.0, 207.5)
        assert brightness.newest == 250.0
        assert brightness.recent.total == sum(brightness.recent.counts) == 8
        assert brightness.edges[0] <= 50.0
        assert_problem(
            service.client.get("/v1/products/widget/distributions", params={"hours": 0}), 422, "invalid-request"
        )
        empty = Distributions.model_validate_json(
            service.client.get("/v1/products/widget/distributions", params={"hours": 1e-9}).content
        )
        assert (empty.inspections, empty.quality[0].newest) == (0, None)


def heatmap(service: RunningService, inspection: dict[str, Any], **params: Any) -> httpx.Response:
    return service.client.get(f"/v1/inspections/{inspection['id']}/shadow-heatmap", params=params)


@pytest.mark.slow
def test_heatmap_of_the_shadow_is_drawn_while_it_is_loaded(serve: Serve, tmp_path: Path) -> None:
    models = tmp_path / "models"
    strict, lax = make_bundle(models), make_bundle(models, 1)
    with serve(models=models) as service:
        activate(service, strict)
        (found,) = inspect(service, BAD)
        assert_problem(heatmap(service, found), 409, "shadow-not-loaded")
        start(service, lax)
        drawn = heatmap(service, found)
        assert drawn.status_code == 200, drawn.text
        assert drawn.headers["content-type"] == "image/png"
        pixels = cv2.imdecode(np.frombuffer(drawn.content, np.uint8), cv2.IMREAD_UNCHANGED)
        assert pixels is not None
        assert pixels.shape == (64, 64, 4)
        assert pixels[34, 24, 3] > pixels[5, 5, 3] == 0, "the defect has a colour"
        assert heatmap(service, found, version=lax.version).content == drawn.content
        assert_problem(heatmap(service, found, version=strict.version), 409, "shadow-not-loaded")
        with Client(f"http://127.0.0.1:{service.port}") as plumbline:
            assert plumbline.shadow_heatmap(found["id"], version=lax.version) == drawn.content
            assert plumbline.distributions("widget").inspections == 1
            assert plumbline.preview_recipe("widget", target_false_reject_rate=0.5).verdicts.inspections == 1
        stop(service)
        assert_problem(heatmap(service, found), 409, "shadow-not-loaded")


def test_inputs_of_previews_are_read_again_after_some_seconds(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve() as service:
        inspect(service, BAD)
        assert preview(service, target_false_reject_rate=0.5).verdicts.inspections == 1
        inspect(service, BAD)
        assert preview(service, target_false_reject_rate=0.4).verdicts.inspections == 1, "a slider moves"
        monkeypatch.setattr(recipe_previews, "_INPUTS_S", 0.0)
        assert preview(service, target_false_reject_rate=0.4).verdicts.inspections == 2
