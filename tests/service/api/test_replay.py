"""Replay over HTTP and on the command line: with the bundle and recipe of the inspection, not the active ones."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from plumbline_client import Client
from service.bundle.bundle import Bundle
from service.bundle.manifest import InputGeometry, Tiling
from service.cli.main import app
from service.deployment.replay import Replay, Verdict
from service.schemas.bundle import ReplayRecord
from tests.bundles import SIZE, part, write_tiny_bundle
from tests.running_service import BAD, GOOD, RunningService, Serve, encode
from tests.service.api.test_bundles import PRODUCT, WHO, activate, make_bundle
from tests.service.api.test_camera_buffers import BAD12, HEADERS
from tests.service.api.test_shadow import wait_for
from tests.service.inspection.decoding.test_samples import pack_p

LAX = {"fail_threshold": 10.0, "review_threshold": 9.0}


def run(models: Path, data: Path, *arguments: str) -> Result:
    places = ("--models", str(models), "--data", str(data), "--provider", "cpu")
    return CliRunner().invoke(app, ["replay", *arguments, *places])


def replay(service: RunningService, inspection_id: str) -> ReplayRecord:
    response = service.client.post(f"/v1/inspections/{inspection_id}:replay")
    assert response.status_code == 200, response.text
    return ReplayRecord.model_validate_json(response.content)


def change(data: Path, statement: str, *values: Any) -> None:
    """Change the database without the service."""
    with sqlite3.connect(data / "plumbline.db") as database:
        database.execute(statement, values)
    database.close()


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def two(models: Path) -> tuple[Bundle, Bundle]:
    return make_bundle(models), make_bundle(models, 1, gain=True)


@pytest.mark.slow
def test_inspection_is_replayed_with_its_own_bundle_and_recipe(
    serve: Serve, models: Path, two: tuple[Bundle, Bundle]
) -> None:
    old, _ = two
    with serve(models=models) as service:
        verdicts = [service.inspect(BAD).json()]
        service.client.put(f"{PRODUCT}/recipe", json=WHO | LAX)
        verdicts.append(service.inspect(BAD).json())
        activate(service, old)
        verdicts.append(service.inspect(BAD).json())
        assert [verdict["decision"] for verdict in verdicts] == ["fail", "pass", "fail"]
        for verdict in verdicts:
            again = replay(service, verdict["id"])
            assert (again.outcome, again.score_difference, again.tolerance) == ("same", 0, 0)
            assert again.replayed == again.stored
            assert (again.replayed.decision, again.replayed.score) == (verdict["decision"], verdict["score"])
            assert again.bundle.digest == verdict["bundle"]["digest"]
            assert again.recipe_revision == verdict["recipe_revision"]
        assert service.client.get("/v1/inspections").json()["items"][0] == verdicts[-1], "a replay stores nothing"
        assert service.inspect(BAD).json()["bundle"]["digest"] == old.digest, "a replay changes nothing"
        data = service.settings.data
    result = run(models, data, *(verdict["id"] for verdict in verdicts))
    assert result.exit_code == 0, result.output
    assert "3 same" in result.output


@pytest.mark.slow
def test_different_result_is_reported(serve: Serve, models: Path, two: tuple[Bundle, Bundle]) -> None:
    with serve(models=models) as service:
        verdict = service.inspect(BAD).json()
        data = service.settings.data
        change(data, "UPDATE inspections SET decision = 'pass', score = 0.001 WHERE id = ?", verdict["id"])
        again = replay(service, verdict["id"])
        assert (again.outcome, again.stored.decision, again.replayed.decision) == ("different", "pass", "fail")
        assert "the tolerance is 0 (cpu)" in again.summary
    result = run(models, data, "--product", "widget", "--json")
    assert result.exit_code == 1
    (report,) = json.loads(result.stdout)
    assert (report["inspection_id"], report["outcome"]) == (verdict["id"], "different")


def test_score_that_differs_in_the_last_bit_is_a_difference(serve: Serve, models: Path) -> None:
    make_bundle(models)
    with serve(models=models) as service:
        verdict = service.inspect(BAD).json()
        change(service.settings.data, "UPDATE inspections SET score = score * (1 + 3e-16)")
        assert replay(service, verdict["id"]).outcome == "different"


@pytest.mark.slow
def test_missing_data_is_reported(serve: Serve, models: Path, two: tuple[Bundle, Bundle]) -> None:
    old, new = two
    with serve(models=models) as service:
        by_new = service.inspect(BAD).json()["id"]
        activate(service, old)
        by_old, without_image, odd = (service.inspect(image).json()["id"] for image in (GOOD, BAD, BAD))
        data = service.settings.data
        (image,) = data.rglob(f"{without_image}.png")
        image.unlink()
        new.path.rename(models / "elsewhere")
        change(data, "UPDATE inspections SET decision = 'invalid', score = NULL, p_value = NULL WHERE id = ?", odd)
        for name, slug in ((without_image, "artefact-gone"), (by_new, "unknown-bundle"), (odd, "not-judged")):
            response = service.client.post(f"/v1/inspections/{name}:replay")
            assert response.json()["type"] == f"/problems#{slug}"
            assert response.status_code == response.json()["status"]
        assert service.client.post(f"/v1/inspections/{by_old[:-1]}:replay").status_code == 404
    result = run(models, data, by_old, without_image, by_new, "nonsense", "--json")
    assert result.exit_code == 0, "the replayed inspections have the same result"
    outcomes = {report["inspection_id"]: report for report in json.loads(result.stdout)}
    assert [outcomes[name]["outcome"] for name in (by_old, without_image, by_new, "nonsense")] == [
        "same",
        "impossible",
        "impossible",
        "impossible",
    ]
    assert "retention" in outcomes[without_image]["detail"]
    assert run(models, data, without_image).exit_code == 1, "nothing could be replayed"


def test_camera_buffer_is_replayed_as_it_was_read(serve: Serve, models: Path) -> None:
    make_bundle(models)
    with serve(models=models) as service:
        response = service.client.post(f"{PRODUCT}/inspections", content=pack_p(BAD12, 12), headers=HEADERS)
        assert response.status_code == 201, response.text
        assert replay(service, response.json()["id"]).outcome == "same"


@pytest.mark.slow
def test_tiled_image_is_replayed_within_the_tolerance(serve: Serve, models: Path) -> None:
    write_tiny_bundle(models, input=InputGeometry(height=SIZE, width=SIZE, tiling=Tiling(overlap=16)))
    with serve(models=models) as service:
        verdict = service.inspect(encode(part(width=300, height=200, spot=(211, 103, 24)))).json()
        again = replay(service, verdict["id"])
        assert (again.outcome, again.replayed.decision) == ("same", "fail")
        assert 0 < again.tolerance <= 1e-5, "tiles ran in batches of different sizes"


@pytest.mark.slow
def test_period_and_product_select_inspections(serve: Serve, models: Path) -> None:
    make_bundle(models)
    write_tiny_bundle(models, "nut")
    with serve(models=models) as service:
        data = service.settings.data
        for _ in range(3):
            service.inspect()
        headers = {"content-type": "image/png"}
        nut = service.client.post("/v1/products/nut/inspections", content=GOOD, headers=headers).json()
    for arguments, count in (
        (("--product", "widget"), 3),
        (("--product", "widget", "--limit", "2"), 2),
        (("--since", nut["created_at"]), 1),
        (("--since", "2026-01-01", "--product", "nut"), 1),
        (("--since", "2099-01-01T00:00:00Z"), 0),
    ):
        result = run(models, data, *arguments, "--json")
        assert len(json.loads(result.stdout)) == count, arguments
        assert result.exit_code == (0 if count else 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", [(), ("01a200cf-24a2-74fb-a0f8-9e8d0de452cf", "--product", "widget"), ("--since", "yesterday")]
)
def test_wrong_usage_is_explained(serve: Serve, tiny_models: Path, arguments: tuple[str, ...]) -> None:
    with serve() as service:
        assert run(tiny_models, service.settings.data, *arguments).exit_code == 2


def test_data_folder_without_a_database_is_reported_and_none_is_created(tiny_models: Path, tmp_path: Path) -> None:
    result = run(tiny_models, tmp_path / "nothing", "--product", "widget")
    assert result.exit_code == 2
    assert "there is no database" in result.output
    assert not (tmp_path / "nothing").exists()


def test_one_replay_at_a_time(serve: Serve) -> None:
    with serve() as service, Client(f"http://127.0.0.1:{service.port}") as plumbline:
        verdict = service.inspect().json()
        (image,) = service.settings.data.rglob("*.png")
        # Opening a pipe for reading blocks until it is opened for writing: it simulates a slow disk.
        aside = image.rename(image.with_suffix(".aside"))
        os.mkfifo(image)
        first = threading.Thread(target=service.client.post, args=(f"/v1/inspections/{verdict['id']}:replay",))
        first.start()
        wait_for(lambda: service.services.replays.is_busy)
        response = service.client.post(f"/v1/inspections/{verdict['id']}:replay")
        assert (response.status_code, response.json()["type"]) == (503, "/problems#replay-busy")
        os.close(os.open(image, os.O_WRONLY))  # nothing is written: the reader may have closed its side before
        first.join()
        image.unlink()
        aside.rename(image)
        assert plumbline.replay(verdict["id"]).outcome == "same"


@pytest.mark.parametrize(
    ("replayed", "tolerance", "outcome"),
    [
        (Verdict("fail", 1.0, 0.01, "cpu"), 0.0, "same"),
        (Verdict("fail", 1.0001, 0.01, "cpu"), 0.0, "different"),
        (Verdict("fail", 1.0, 0.02, "cpu"), 0.0, "different"),
        (Verdict("pass", 1.0, 0.01, "cpu"), 0.0, "different"),
        (Verdict("fail", 1.0001, 0.02, "cuda"), 1e-3, "same"),
        (Verdict("fail", 1.01, 0.01, "cuda"), 1e-3, "different"),
        (Verdict("review", 1.0001, 0.01, "cuda"), 1e-3, "different"),
    ],
)
def test_another_provider_may_differ_within_the_bundles_tolerance(
    replayed: Verdict, tolerance: float, outcome: str
) -> None:
    stored = Verdict("fail", 1.0, 0.01, "cpu")
    again = Replay("id", stored, replayed, abs(replayed.score - stored.score), tolerance)
    assert again.outcome == outcome
    assert replayed.decision in again.summary
