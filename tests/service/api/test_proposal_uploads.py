"""Proposals from uploaded images and from images that the bundle was made from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from plumbline_client import Client
from service.bundle.images import ImageHashes
from service.inspection.calibration import p_value
from tests.bundles import part, write_tiny_bundle
from tests.proposals import (
    PROPOSALS,
    PROPOSE,
    RECIPE,
    WHO,
    apply,
    good_part,
    inspect_days,
    propose,
    send,
    two_days,
    zipped,
)
from tests.running_service import BAD, GOOD, HttpService, RunningService, Serve, encode


@pytest.mark.slow
@pytest.mark.parametrize("form", [False, True], ids=["zip", "form"])
def test_images_of_other_days_are_measured_and_move_the_threshold(serve: Serve, form: bool) -> None:
    with serve() as service:
        files = two_days(20)
        response = send(service, files, form=form)
        assert response.status_code == 201, response.text
        proposal = response.json()
        scores = sorted(service.inspect(data).json()["score"] for data in files.values())
        assert proposal["thresholds"]["fail"] == scores[18]  # ceil(21 * 0.9) = 19th smallest
        assert proposal["source"] == {
            "kind": "images",
            "images": 20,
            "duplicates": 0,
            "grouped_by": "date-in-name",
            "one_session": False,
            "measured": 20,
            "not_judged": [],
            "reviewed_good": 0,
            "labelled_defect": [],
        }
        assert [(day["name"], day["images"]) for day in proposal["days"]] == [("2026-03-01", 10), ("2026-03-02", 10)]
        assert apply(service, proposal).status_code == 200
        for data in files.values():
            again = service.inspect(data).json()
            assert again["p_value"] == p_value(scores, again["score"])
            assert (again["decision"] == "fail") == (again["p_value"] <= 0.1)


@pytest.mark.slow
def test_images_of_one_folder_are_a_same_day_calibration_and_copies_count_once(serve: Serve) -> None:
    with serve() as service:
        files = {f"{number}.png": good_part(number % 4) for number in range(6)}
        proposal = send(service, files).json()
        assert (proposal["source"]["images"], proposal["source"]["duplicates"]) == (4, 2)
        assert proposal["source"]["one_session"]
        assert any(note.startswith("Same-day calibration") for note in proposal["notes"])


@pytest.mark.slow
def test_images_rejected_by_the_quality_check_are_left_out(serve: Serve) -> None:
    with serve() as service:
        limits = {"quality": {"max_brightness": 200}, "reason": "an open lid"}
        assert service.client.put(RECIPE, json=WHO | limits).status_code == 200
        files = two_days() | {"good/2026-03-01/open.png": encode(part(brightness=230))}
        proposal = send(service, files).json()
        assert proposal["source"]["not_judged"] == ["good/2026-03-01/open.png"]
        assert (proposal["source"]["images"], proposal["source"]["duplicates"]) == (10, 0)
        assert any("left out" in note for note in proposal["notes"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"good/1.png": GOOD, "good/2.png": GOOD[:100]}, "good/2.png: "),
        ({"good/1.png": GOOD, "good/notes.txt": b"hello"}, "good/notes.txt: "),
        ({"test/good/1.png": GOOD}, "'test' indicates defective parts"),
        ({"good/1.png": GOOD, "scrap/1.png": BAD}, "'scrap' indicates defective parts"),
        ({}, "no image"),
    ],
)
def test_upload_with_an_unusable_file_is_refused_and_the_file_is_named(
    serve: Serve, files: dict[str, bytes], message: str
) -> None:
    with serve() as service:
        response = send(service, files)
        assert response.status_code == 422, response.text
        assert message in response.json()["detail"]
        assert service.client.get(PROPOSALS).json()["items"] == []


@pytest.mark.parametrize(
    "requested",
    [{"declared_good": "false"}, {"declared_good": ""}, {"target_false_reject_rate": "2"}, {"surprise": "1"}],
)
def test_options_of_an_upload_are_validated_in_the_query(service: RunningService, requested: dict[str, Any]) -> None:
    response = send(service, two_days(2), **requested)
    assert response.status_code == 422, response.text
    assert response.json()["errors"][0]["loc"][0] == "query"


@pytest.mark.slow
def test_upload_has_the_limits_of_a_batch(serve: Serve) -> None:
    with serve(max_call_images=5) as service:
        for form in (False, True):
            assert send(service, two_days(6), form=form).json()["type"].endswith("#too-many-images")
        assert send(service, two_days(5)).status_code == 201
    with serve(max_call_bytes=2000) as service:
        for form in (False, True):
            assert send(service, two_days(6), form=form).json()["type"].endswith("#body-too-large")


def test_other_media_types_are_refused(service: HttpService) -> None:
    response = service.client.post(PROPOSE, content=GOOD, headers={"content-type": "image/png"})
    assert (response.status_code, response.json()["type"].rpartition("#")[2]) == (415, "unsupported-media-type")


@pytest.mark.slow
def test_client_proposes_and_applies(serve: Serve) -> None:
    with serve() as service, Client(f"http://127.0.0.1:{service.port}") as plumbline:
        ids = [row["id"] for row in inspect_days(service, 5)]
        proposal = plumbline.propose_thresholds("widget", author="Ada", target_false_reject_rate=0.2, ids=ids, replay=0)
        record = plumbline.change_recipe("widget", author="Ada", reason="r", proposal_id=proposal.id)
        assert record.recipe.proposal_id == proposal.id
        assert record.recipe.calibration_images == 10
        card = plumbline.propose_thresholds("widget", author="Ada", target_false_reject_rate=0.2)
        assert card.source.kind == "card"
        files = two_days(6)
        requested: dict[str, Any] = {"author": "Ada", "target_false_reject_rate": 0.2}
        zip_file = plumbline.propose_thresholds("widget", archive=zipped(files), **requested)
        form = plumbline.propose_thresholds("widget", images=list(files.items()), **requested)
        assert zip_file.thresholds == form.thresholds
        assert {zip_file.source.kind, form.source.kind} == {"images"}


def known_images_models(tmp_path: Path, files: Mapping[str, bytes]) -> Path:
    """A repository whose bundle was trained on the first half of the files and calibrated on the second."""
    hashes = [hashlib.sha256(data).hexdigest() for data in files.values()]
    half = len(hashes) // 2
    write_tiny_bundle(tmp_path / "models", images=ImageHashes.of(hashes[:half], hashes[half:]))
    return tmp_path / "models"


@pytest.mark.slow
@pytest.mark.parametrize("form", [False, True], ids=["zip", "form"])
def test_images_that_the_bundle_was_made_from_are_refused_and_named(serve: Serve, tmp_path: Path, form: bool) -> None:
    trained, new = two_days(16), {f"good/new-{seed}.png": good_part(seed) for seed in range(100, 110)}
    with serve(models=known_images_models(tmp_path, trained)) as service:
        refused = send(service, new | trained, form=form)
        assert refused.status_code == 422, refused.text
        detail = refused.json()["detail"]
        assert "made from 16 of these images" in detail
        assert "good/2026-03-01/0.png (training)" in detail
        assert "and 11 more" in detail
        assert len(refused.json()["errors"]) == 5
        (calibration,) = [name for name in trained if name.endswith("/9.png")]
        assert "(calibration)" in send(service, {calibration: trained[calibration]}, form=form).json()["detail"]
        assert service.client.get(PROPOSALS).json()["items"] == []
        assert send(service, new, form=form).status_code == 201


@pytest.mark.slow
def test_known_images_are_refused_whatever_they_are_called_and_however_often_they_are_sent(
    serve: Serve, tmp_path: Path
) -> None:
    trained = two_days(4)
    with serve(models=known_images_models(tmp_path, trained)) as service:
        renamed = {f"good/camera-{number}.png": data for number, data in enumerate(trained.values())}
        twice = {"good/a.png": renamed["good/camera-0.png"], "good/b.png": renamed["good/camera-0.png"]}
        assert "made from 4 of these" in send(service, renamed).json()["detail"]
        assert "good/b.png (training)" in send(service, twice).json()["detail"]


@pytest.mark.slow
@pytest.mark.parametrize("by_time", [False, True], ids=["ids", "period"])
def test_stored_inspections_of_known_images_are_refused_and_named(serve: Serve, tmp_path: Path, by_time: bool) -> None:
    trained = {str(seed): good_part(seed) for seed in range(4)}
    with serve(models=known_images_models(tmp_path, trained)) as service:
        rows = [service.inspect(data).json() for data in (*trained.values(), good_part(50), good_part(51))]
        period = {"since": rows[0]["created_at"], "until": datetime.now(UTC).isoformat()}
        chosen = period if by_time else {"ids": [row["id"] for row in rows]}
        refused = propose(service, inspections=chosen | {"declared_good": True})
        assert refused.status_code == 422, refused.text
        assert "made from 4 of these images" in refused.json()["detail"]
        assert f"{rows[0]['id']} (training)" in refused.json()["detail"]
        new = {"ids": [row["id"] for row in rows[4:]], "declared_good": True}
        assert propose(service, target_false_reject_rate=0.5, inspections=new).status_code == 201
        assert propose(service).status_code == 201, "the calibration card itself is no selection of images"


@pytest.mark.slow
def test_bundle_without_a_list_of_its_images_is_noted(serve: Serve) -> None:
    with serve() as service:
        proposal = send(service, two_days(6)).json()
        assert any("does not list the images that it was made from" in note for note in proposal["notes"])
