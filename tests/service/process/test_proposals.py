"""Proposals against a real process."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from plumbline_client import Client
from tests.proposals import good_part, two_days, zipped
from tests.serving import service_process

pytestmark = pytest.mark.slow


def test_good_parts_pass_again_after_a_proposal_for_a_new_illumination(tiny_models: Path, tmp_path: Path) -> None:
    with service_process(tiny_models, tmp_path / "data", {"provider": "cpu"}) as service:
        service.wait_until(200)
        with Client(service.url) as plumbline:
            ids = [plumbline.inspect("widget", good_part(seed)).id for seed in range(40)]
            assert plumbline.inspect("widget", good_part(99)).decision == "fail"
            proposal = plumbline.propose_thresholds("widget", author="Ada", target_false_reject_rate=0.025, ids=ids)
            assert proposal.false_reject_rate.certified == 0.025
            assert any(note.startswith("Same-day calibration") for note in proposal.notes)
            assert plumbline.inspect("widget", good_part(99)).decision == "fail", "a proposal is not in force"
            plumbline.change_recipe("widget", author="Ada", reason="new illumination", proposal_id=proposal.id)
            again = plumbline.inspect("widget", good_part(99))
            assert again.decision != "fail"
            assert again.thresholds.proposal_id == proposal.id
        service.kill()
    with service_process(tiny_models, tmp_path / "data", {"provider": "cpu"}) as service:
        service.wait_until(200)
        recipe = httpx.get(f"{service.url}/v1/products/widget/recipe").json()["recipe"]
        assert (recipe["proposal_id"], recipe["certified"]) == (proposal.id, True)


def test_zip_of_images_from_other_days_is_measured_by_the_running_service(tiny_models: Path, tmp_path: Path) -> None:
    with service_process(tiny_models, tmp_path / "data", {"provider": "cpu"}) as service:
        service.wait_until(200)
        with Client(service.url, timeout_s=120) as plumbline:
            proposal = plumbline.propose_thresholds(
                "widget", author="Ada", target_false_reject_rate=0.05, archive=zipped(two_days(40))
            )
            assert (proposal.source.kind, proposal.source.images) == ("images", 40)
            assert [day.name for day in proposal.days] == ["2026-03-01", "2026-03-02"]
            assert plumbline.inspect("widget", good_part(99)).decision == "fail"
            plumbline.change_recipe("widget", author="Ada", reason="new illumination", proposal_id=proposal.id)
            assert plumbline.inspect("widget", good_part(99)).decision != "fail"
        files = [path.name for path in (tmp_path / "data").iterdir() if path.is_file()]
        assert [name for name in files if "db" not in name and name != "plumbline.lock"] == []
