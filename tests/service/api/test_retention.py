"""Retention over HTTP: files are removed, records are kept, and the reason is reported."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from tests.running_service import BAD, GOOD, HttpService, Serve

RECIPE = "/v1/products/widget/recipe"
WHO = {"author": "Ada", "reason": "the disk is small"}
SOON = {"retention_interval_s": 0.05}


def put(service: HttpService, **change: Any) -> httpx.Response:
    return service.client.put(RECIPE, json=WHO | change)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_images_and_maps_are_removed_by_decision_and_the_record_is_marked(serve: Serve) -> None:
    with serve(**SOON) as service:
        passed = [service.inspect(GOOD).json() for _ in range(3)]
        failed = service.inspect(BAD).json()
        response = put(service, retention={"pass": {"count": 1}, "fail": {"days": 90}}, confirm_removal=2)
        assert response.status_code == 200, response.text
        get = service.client.get

        gone = passed[0]["links"]
        wait_for(lambda: get(gone["self"]).json()["artefacts_removed_at"] is not None)
        stored = get(gone["self"]).json()
        for artefact in ("image", "map", "heatmap"):
            problem = get(gone[artefact]).json()
            assert problem["type"].endswith("#artefact-gone")
            assert "Retention removed it on" in problem["detail"]
            assert problem["removed_at"].replace("+00:00", "Z") == stored["artefacts_removed_at"]
        assert stored | {"artefacts_removed_at": None} == passed[0], "nothing else of the record changed"

        metric = 'inspection_artefacts_removed_total{decision="pass",product="widget"} 2.0'
        wait_for(lambda: metric in get("/metrics").text)
        for kept in (passed[2], failed):  # the newest one that passes, and the one kept for ninety days
            assert get(kept["links"]["image"]).status_code == 200
            assert get(kept["links"]["self"]).json() == kept


def test_files_lost_otherwise_are_not_attributed_to_retention(serve: Serve) -> None:
    with serve() as service:
        verdict = service.inspect(GOOD).json()
        for path in service.settings.data.rglob("*.png"):
            path.unlink()
        problem = service.client.get(verdict["links"]["image"]).json()
        assert "lost, deleted by hand" in problem["detail"]
        assert problem["removed_at"] is None


def test_retention_is_changed_decision_by_decision(serve: Serve) -> None:
    with serve() as service:
        assert service.client.get(RECIPE).json()["recipe"]["retention"] == {}, "by default everything is kept"
        put(service, retention={"pass": {"days": 7}, "fail": {"days": 90, "count": 1000}})
        recipe = put(service, retention={"review": {"count": 5}, "fail": {"days": None}}).json()["recipe"]
        assert recipe["retention"] == {
            "pass": {"days": 7, "count": None},
            "fail": {"days": None, "count": 1000},
            "review": {"days": None, "count": 5},
        }
        assert put(service, retention={"pass": None}).json()["recipe"]["retention"].keys() == {"fail", "review"}


@pytest.mark.parametrize(
    "retention",
    [
        {"pass": {"days": 0}},
        {"pass": {"days": -1}},
        {"pass": {"days": 40_000}},
        {"pass": {"count": -1}},
        {"pass": {"count": 1.5}},
        {"pass": {"weeks": 1}},
        {"passed": {"days": 1}},
        {"pass": 7},
    ],
)
def test_invalid_retention_is_refused(service: HttpService, retention: dict[str, Any]) -> None:
    before = service.client.get(RECIPE).json()
    assert put(service, retention=retention).status_code == 422
    assert service.client.get(RECIPE).json() == before


@pytest.mark.slow
def test_retention_is_part_of_the_file_and_may_keep_nothing(serve: Serve) -> None:
    with serve(**SOON) as service:
        put(service, retention={"fail": {"count": 0}})
        toml = service.client.get(RECIPE, headers={"accept": "application/toml"}).text
        assert "[recipe.retention.fail]\ncount = 0" in toml
        verdict = service.inspect(BAD)
        assert verdict.status_code == 201
        wait_for(lambda: service.client.get(verdict.json()["links"]["map"]).status_code == 410)


@pytest.mark.slow
def test_size_of_the_files_is_limited_per_product(serve: Serve) -> None:
    with serve(**SOON) as service:
        passed = [service.inspect(GOOD).json() for _ in range(4)]
        failed = service.inspect(BAD).json()
        stored = {path.stem: 0 for path in service.settings.data.rglob("*.npy")}
        for path in service.settings.data.rglob("inspections/**/*.*"):
            stored[path.stem] += path.stat().st_size
        with service.store.engine.connect() as connection:
            recorded = connection.execute(text("SELECT id, artefact_bytes FROM inspections")).all()
        assert sorted(map(tuple, recorded)) == sorted(stored.items()), "the recorded size is that of the files"

        limit = stored[failed["id"]] + stored[passed[0]["id"]]
        problem = put(service, storage={"max_bytes": limit}).json()
        assert (problem["removed"], problem["kept"]) == (3, 2)
        response = put(service, storage={"max_bytes": limit}, confirm_removal=3)
        assert response.status_code == 200, response.text
        assert response.json()["recipe"]["storage"] == {"max_bytes": limit, "keep_longer": ["fail", "review"]}
        toml = service.client.get(RECIPE, headers={"accept": "application/toml"}).text
        assert f"[recipe.storage]\nmax_bytes = {limit}\n" in toml

        def removed() -> list[bool]:
            links = [item["links"]["self"] for item in (*passed, failed)]
            return [service.client.get(link).json()["artefacts_removed_at"] is not None for link in links]

        wait_for(lambda: removed() == [True, True, True, False, False])


@pytest.mark.parametrize(
    "storage", [{"max_bytes": -1}, {"max_bytes": 1.5}, {"keep_longer": ["passed"]}, {"keep_longer": ["pass", "pass"]}]
)
def test_invalid_storage_limit_is_refused(service: HttpService, storage: dict[str, Any]) -> None:
    before = service.client.get(RECIPE).json()
    assert put(service, storage=storage).status_code == 422
    assert service.client.get(RECIPE).json() == before


@pytest.mark.slow
def test_size_of_an_invalid_image_is_recorded(serve: Serve) -> None:
    with serve() as service:
        assert put(service, quality={"min_contrast": 100}).status_code == 200
        assert service.inspect(GOOD).json()["decision"] == "invalid"
        with service.store.engine.connect() as connection:
            assert connection.execute(text("SELECT artefact_bytes FROM inspections")).scalar_one() == len(GOOD)
