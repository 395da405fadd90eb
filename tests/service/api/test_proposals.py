"""Proposals over HTTP: derived from good images, and in force only after a recipe change."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from service.bundle.bundle import Bundle
from service.inspection.calibration import p_value
from service.schemas.proposal import Proposal
from tests.bundles import SCORES, part, write_tiny_bundle
from tests.proposals import (
    PROPOSALS,
    RECIPE,
    WHO,
    apply,
    good_part,
    inspect_days,
    propose,
    send,
    two_days,
)
from tests.running_service import BAD, GOOD, RunningService, Serve, encode


def test_card_determines_the_threshold_and_both_guarantees(serve: Serve, tiny_bundle: Bundle) -> None:
    with serve() as service:
        response = propose(service, confidence=0.9)
        assert response.status_code == 201, response.text
        proposal = Proposal.model_validate_json(response.content)
        assert response.headers["location"] == f"{PROPOSALS}/{proposal.id}"
        assert proposal.thresholds.fail == SCORES[94]
        assert (proposal.source.kind, proposal.source.images) == ("card", 99)
        assert proposal.bundle_digest == tiny_bundle.digest
        rate = proposal.false_reject_rate
        assert (rate.certified, rate.confident.confidence) == (0.05, 0.9)
        assert rate.expected < rate.confident.rate < 0.1
        assert proposal.source.one_session
        assert proposal.notes[0].startswith("Same-day calibration")


def test_proposing_changes_nothing_until_it_is_applied(serve: Serve) -> None:
    with serve() as service:
        before = service.client.get(RECIPE).json()
        proposal = propose(service).json()
        assert service.client.get(RECIPE).json() == before
        applied = apply(service, proposal)
        assert applied.status_code == 200, applied.text
        recipe = applied.json()["recipe"]
        assert recipe["fail_threshold"] == proposal["thresholds"]["fail"]
        assert recipe["review_threshold"] == proposal["thresholds"]["review"]
        assert (recipe["certified"], recipe["target_false_reject_rate"]) == (True, 0.05)
        assert recipe["proposal_id"] == proposal["id"]


@pytest.mark.slow
def test_stored_inspections_of_other_days_move_the_threshold_and_the_p_value(serve: Serve) -> None:
    with serve() as service:
        rows = inspect_days(service, 12)
        assert {row["decision"] for row in rows} == {"fail"}, "the card was made with another illumination"
        chosen = {"ids": [row["id"] for row in rows], "declared_good": True}
        proposal = propose(service, target_false_reject_rate=0.1, inspections=chosen).json()
        scores = sorted(row["score"] for row in rows)
        assert proposal["source"] == {
            "kind": "inspections",
            "images": 24,
            "duplicates": 0,
            "grouped_by": "captured-at",
            "one_session": False,
            "measured": 0,
            "reviewed_good": 0,
            "labelled_defect": [],
            "not_judged": [],
        }
        assert proposal["thresholds"]["fail"] == scores[22]  # ceil(25 * 0.9) = 23rd smallest
        assert [(day["name"], day["images"]) for day in proposal["days"]] == [("2026-03-01", 12), ("2026-03-02", 12)]
        assert apply(service, proposal).status_code == 200
        for row in rows:
            image = service.client.get(row["links"]["image"]).content
            again = service.inspect(image).json()
            assert again["p_value"] == p_value(scores, row["score"]), (
                "relative to the proposal's images, not the card's"
            )
            assert again["thresholds"]["calibration_images"] == 24
            assert again["thresholds"]["proposal_id"] == proposal["id"]
            # Images that define the thresholds lie exactly on the boundaries.
            assert (again["decision"] == "fail") == (again["p_value"] <= 0.1)


def test_proposal_holds_for_any_roi_because_whole_images_are_scored(serve: Serve) -> None:
    with serve() as service:
        whole = [service.inspect(good_part(seed)).json() for seed in range(4)]
        roi = {"roi": [[[0, 0], [32, 0], [32, 8], [0, 8]]], "reason": "only the label"}
        assert service.client.put(RECIPE, json=WHO | roi).status_code == 200
        inside = [service.inspect(good_part(seed)).json() for seed in range(4)]
        assert min(row["score"] for row in whole) != min(row["score"] for row in inside)
        chosen = {"ids": [row["id"] for row in inside], "declared_good": True}
        proposal = propose(service, target_false_reject_rate=0.2, inspections=chosen).json()
        assert proposal["thresholds"]["fail"] == max(row["score"] for row in whole)


def test_period_selects_inspections_with_any_decision(serve: Serve) -> None:
    with serve() as service:
        service.inspect(GOOD)
        inside = [service.inspect(image).json() for image in (GOOD, BAD, GOOD)]
        since, until = inside[0]["created_at"], service.inspect(good_part(1)).json()["created_at"]
        chosen = {"since": since, "until": until, "declared_good": True}
        proposal = propose(service, target_false_reject_rate=0.5, inspections=chosen).json()
        assert (proposal["source"]["images"], proposal["source"]["duplicates"]) == (2, 1)
        assert proposal["thresholds"]["fail"] == inside[1]["score"], "the defective image was declared good, too"


@pytest.mark.slow
def test_past_inspections_are_decided_again(serve: Serve) -> None:
    with serve() as service:
        rows = inspect_days(service, 10)
        service.inspect(GOOD)
        chosen = {"ids": [row["id"] for row in rows], "declared_good": True}
        replayed = propose(service, inspections=chosen).json()["replayed"]
        assert replayed["inspections"] == 21
        assert replayed["before"] == {"fail": 20, "pass": 1}
        assert sum(replayed["after"].values()) == 21
        assert replayed["changed_total"] == len(replayed["changed"]) >= 19
        assert {item["before"] for item in replayed["changed"]} == {"fail"}
        assert propose(service, replay=3).json()["replayed"]["inspections"] == 3


def test_past_inspections_are_decided_again_under_the_roi_and_the_filters_in_force(serve: Serve) -> None:
    def spots(left: int, right: int) -> bytes:
        image = part(spot=(4, 28, left))
        image[28 : 28 + right, 44 : 44 + right] = 255
        return encode(image)

    with serve() as service:
        large, small, outside = (service.inspect(spots(*sizes)).json() for sizes in ((12, 0), (4, 0), (0, 12)))
        assert {row["decision"] for row in (large, small, outside)} == {"fail"}
        roi = [[[0, 0], [32, 0], [32, 64], [0, 64]]]
        change = {"roi": roi, "regions": {"min_area_px": 200}, "reason": "the left half, and no specks"}
        assert service.client.put(RECIPE, json=WHO | change).status_code == 200
        replayed = propose(service).json()["replayed"]
        assert (replayed["inspections"], replayed["unknown"]) == (3, 0)
        assert replayed["after"] == {"fail": 1, "pass": 2}
        assert {item["id"] for item in replayed["changed"]} == {small["id"], outside["id"]}
        again = [service.inspect(spots(*sizes)).json()["decision"] for sizes in ((12, 0), (4, 0), (0, 12))]
        assert again == ["fail", "pass", "pass"], "as decided from now on"


@pytest.mark.slow
def test_images_of_another_bundle_are_measured_with_the_active_one(serve: Serve, tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_tiny_bundle(models)
    with serve(models=models) as service:
        rows = inspect_days(service, 10)
        stale = propose(service).json()
    gained = write_tiny_bundle(models, gain=True, created_at=datetime(2026, 2, 1, tzinfo=UTC))
    with serve(models=models) as service:
        assert service.client.get("/v1/products/widget").json()["bundle"]["digest"] == gained.digest
        chosen = {"ids": [row["id"] for row in rows], "declared_good": True}
        proposal = propose(service, inspections=chosen).json()
        assert proposal["source"]["measured"] == 20
        assert proposal["thresholds"]["fail"] > max(row["score"] for row in rows), "the gain raises every score"
        assert proposal["replayed"]["inspections"] == 0, "the other bundle's scores are on another scale"
        refused = apply(service, stale)
        assert refused.status_code == 409
        assert refused.json()["type"].endswith("#proposal-outdated")
        assert apply(service, proposal).status_code == 200


@pytest.mark.slow
def test_images_with_other_pixel_settings_are_measured_again(serve: Serve) -> None:
    with serve() as service:
        rows = inspect_days(service, 5)
        levels = {"pixels": {"black_level": 100}, "reason": "the sensor's dark level"}
        assert service.client.put(RECIPE, json=WHO | levels).status_code == 200
        chosen = {"ids": [row["id"] for row in rows], "declared_good": True}
        proposal = propose(service, target_false_reject_rate=0.1, inspections=chosen).json()
        assert proposal["source"]["measured"] == 10
        images = [service.client.get(row["links"]["image"]).content for row in rows]
        assert proposal["thresholds"]["fail"] == max(service.inspect(image).json()["score"] for image in images)


@pytest.mark.slow
def test_proposals_are_kept_and_listed(serve: Serve) -> None:
    with serve() as service:
        made = [propose(service, target_false_reject_rate=rate).json() for rate in (0.1, 0.2, 0.3)]
    with serve() as service:
        assert service.client.get(f"{PROPOSALS}/{made[1]['id']}").json() == made[1]
        page = service.client.get(PROPOSALS, params={"limit": 2}).json()
        assert page["items"] == [made[2], made[1]]
        rest = service.client.get(PROPOSALS, params={"limit": 2, "cursor": page["next_cursor"]}).json()
        assert rest == {"items": [made[0]], "next_cursor": None}


@pytest.mark.slow
def test_applied_proposal_persists_over_a_restart(serve: Serve) -> None:
    with serve() as service:
        rows = inspect_days(service, 10)
        chosen = {"ids": [row["id"] for row in rows], "declared_good": True}
        proposal = propose(service, inspections=chosen).json()
        apply(service, proposal)
        before = service.inspect(BAD).json()
    with serve() as service:
        after = service.inspect(BAD).json()
        assert (after["p_value"], after["thresholds"]) == (before["p_value"], before["thresholds"])
        assert after["p_value"] == pytest.approx(1 / 21)


@pytest.mark.parametrize(
    "requested",
    [
        {"target_false_reject_rate": 0},
        {"author": "plumbline"},
        {"confidence": 1},
        {"certified": True},
        {"inspections": {"declared_good": True}},
        {"inspections": {"ids": []}},
        {"inspections": {"ids": ["01a200cf-24a2-74fb-a0f8-9e8d0de452cf"]}},
        {"inspections": {"ids": ["01a200cf-24a2-74fb-a0f8-9e8d0de452cf"], "declared_good": False}},
        {"inspections": {"since": "2026-03-01T00:00:00Z", "declared_good": True}},
        {"inspections": {"since": "2026-03-02T00:00:00Z", "until": "2026-03-01T00:00:00Z", "declared_good": True}},
        {"inspections": {"since": "2001-01-01T00:00:00Z", "until": "2001-01-02T00:00:00Z", "declared_good": True}},
        {"target_false_reject_rate": 0.2, "review_rate": 0.1},
    ],
)
def test_invalid_request_is_refused_and_nothing_is_stored(service: RunningService, requested: dict[str, Any]) -> None:
    response = propose(service, **requested)
    assert response.status_code == 422, response.text
    assert service.client.get(PROPOSALS).json()["items"] == []


@pytest.mark.slow
@pytest.mark.parametrize("claim", [{"certified": True}, {"calibration_images": 10_000}, {"fail_threshold": 9.0}])
def test_guarantee_of_a_proposal_cannot_be_stated_by_the_client(serve: Serve, claim: dict[str, Any]) -> None:
    with serve() as service:
        proposal = propose(service).json()
        body = WHO | {"reason": "r", "proposal_id": proposal["id"]} | claim
        assert service.client.put(RECIPE, json=body).status_code == 422


@pytest.mark.slow
def test_proposal_states_its_rate_with_the_bound_for_these_images(serve: Serve) -> None:
    with serve() as service:
        card = propose(service).json()
        assert card["false_reject_rate"]["statement"] == "≤ 5 % on average, ≤ 9.1 % with 95 % confidence (n = 99)"
        few = send(service, two_days(10)).json()
        assert few["false_reject_rate"]["statement"] == "≤ 10 % on average, ≤ 26 % with 95 % confidence (n = 10)"
        assert any("Few calibration images: with n = 10" in note for note in few["notes"])
