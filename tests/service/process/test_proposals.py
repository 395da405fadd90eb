"""Proposals against the service as a process."""

from __future__ import annotations

from pathlib import Path

import httpx

from plumbline_client import Client
from tests.service.api.test_proposals import good_part, two_days, zipped
from tests.serving import service_process


def test_lamp_was_changed_and_good_parts_pass_again_after_a_proposal(tiny_models: Path, tmp_path: Path) -> None:
    with service_process(tiny_models, tmp_path / "data", {"provider": "cpu"}) as service:
        service.wait_until(200)
        with Client(service.url) as line:
            ids = [line.inspect("widget", good_part(seed)).id for seed in range(40)]
            assert line.inspect("widget", good_part(99)).decision == "fail"
            proposal = line.propose_thresholds("widget", author="Ada", target_false_reject_rate=0.025, ids=ids)
            assert proposal.false_reject_rate.certified == 0.025
            assert any(note.startswith("Same-day calibration") for note in proposal.notes)
            assert line.inspect("widget", good_part(99)).decision == "fail", "proposing is not applying"
            line.change_recipe("widget", author="Ada", reason="lamp changed", proposal_id=proposal.id)
            again = line.inspect("widget", good_part(99))
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
        with Client(service.url, timeout_s=120) as line:
            proposal = line.propose_thresholds(
                "widget", author="Ada", target_false_reject_rate=0.05, archive=zipped(two_days(40))
            )
            assert (proposal.source.kind, proposal.source.images) == ("images", 40)
            assert [day.name for day in proposal.days] == ["2026-03-01", "2026-03-02"]
            assert line.inspect("widget", good_part(99)).decision == "fail"
            line.change_recipe("widget", author="Ada", reason="lamp changed", proposal_id=proposal.id)
            assert line.inspect("widget", good_part(99)).decision != "fail"
        assert [path for path in (tmp_path / "data").iterdir() if path.is_file() and "db" not in path.name] == []
