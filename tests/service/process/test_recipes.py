"""Recipes against a real process: the recipe in force is applied, also after a restart."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from plumbline_client import Client
from tests.running_service import BAD, GOOD
from tests.serving import service_process

pytestmark = pytest.mark.slow

CPU = {"provider": "cpu"}
WHO: dict[str, Any] = {"author": "Ada", "reason": "the right half is another part"}
LEFT = [[0, 0], [32, 0], [32, 64], [0, 64]]


def test_area_and_filters_judge_in_the_running_process_and_after_a_restart(tiny_models: Path, tmp_path: Path) -> None:
    with service_process(tiny_models, tmp_path / "data", CPU) as service:
        service.wait_until(200)
        with Client(service.url) as plumbline:
            assert plumbline.inspect("widget", BAD).decision == "fail"
            plumbline.change_recipe("widget", **WHO, parts={"ignore": [LEFT]})
            ignored = plumbline.inspect("widget", BAD)
            assert (ignored.decision, ignored.judged_share, ignored.recipe_revision) == ("pass", 0.5, 2)
            plumbline.change_recipe("widget", **WHO, parts={"ignore": None, "regions": {"min_area_px": 4000}})
            softened = plumbline.inspect("widget", BAD)
            assert softened.decision == "pass"
            assert softened.filtered is not None
            assert softened.filtered.decision_by_score == "fail"
            assert plumbline.inspect("widget", GOOD).filtered is None
        service.kill()
    with service_process(tiny_models, tmp_path / "data", CPU) as service:
        service.wait_until(200)
        with Client(service.url) as plumbline:
            again = plumbline.inspect("widget", BAD)
            assert (again.decision, again.recipe_revision) == ("pass", 3)
            assert plumbline.inspection(ignored.id) == ignored
            assert plumbline.heatmap(ignored.id, "png").startswith(b"\x89PNG"), (
                "drawn with the polygons of its revision"
            )
        metrics = httpx.get(f"{service.url}/metrics").text
        assert 'inspection_softened_total{product="widget"} 1.0' in metrics


def test_recipe_is_exported_imported_compared_and_reverted_while_the_process_runs(
    tiny_models: Path, tmp_path: Path
) -> None:
    with service_process(tiny_models, tmp_path / "data", CPU) as service:
        service.wait_until(200)
        started = service.process.pid
        with Client(service.url) as plumbline:
            plumbline.change_recipe("widget", **WHO, parts={"ignore": [LEFT]})
            toml = plumbline.export_recipe("widget")
            plumbline.revert_recipe("widget", 1, author="Ada")
            assert plumbline.inspect("widget", BAD).decision == "fail"
            plumbline.import_recipe("widget", toml, author="Bo", reason="as it was")
            assert plumbline.inspect("widget", BAD).decision == "pass"
            assert plumbline.compare_recipes("widget", 2, 4).differences == []
            assert [item.path for item in plumbline.compare_recipes("widget", 1, 4).differences] == ["ignore"]
        assert service.process.poll() is None
        assert service.process.pid == started


def test_retention_removes_images_and_keeps_records_while_the_process_inspects(
    tiny_models: Path, tmp_path: Path
) -> None:
    with service_process(tiny_models, tmp_path / "data", CPU | {"retention_interval_s": "0.05"}) as service:
        service.wait_until(200)
        with Client(service.url) as plumbline:
            plumbline.change_recipe("widget", **WHO, parts={"retention": {"pass": {"count": 2}}})
            for _ in range(40):
                assert plumbline.inspect("widget", GOOD).decision == "pass"
            failed = plumbline.inspect("widget", BAD)
            deadline = time.monotonic() + 20
            while (images := len(list((tmp_path / "data").rglob("*.png")))) > 3:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            assert images == 3, "two images that pass and one that fails"
            assert len(list(plumbline.inspections(product="widget"))) == 41
            assert plumbline.image(failed.id) == BAD
            oldest = list(plumbline.inspections(decision="pass"))[-1]
            assert oldest.artefacts_removed_at is not None
