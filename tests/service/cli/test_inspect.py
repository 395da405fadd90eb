"""`plumbline inspect`: files without a server."""

from __future__ import annotations

import csv
import io
import json
import os
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from typer.testing import Result

from tests.bundles import part, write_tiny_bundle
from tests.command_line import run
from tests.running_service import BAD, GOOD, Serve, encode


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "deeper").mkdir(parents=True)
    (folder / "good.png").write_bytes(GOOD)
    (folder / "deeper" / "bad.png").write_bytes(BAD)
    (folder / "notes.txt").write_text("not an image")
    return folder


def inspect(models: Path, data: Path, *arguments: str | Path) -> Result:
    return run("inspect", *arguments, "--product", "widget", "--models", models, "--data", data, "--provider", "cpu")


def test_folder_is_inspected_with_table_and_heatmaps(images: Path, tiny_models: Path, tmp_path: Path) -> None:
    table, heatmaps = tmp_path / "out.csv", tmp_path / "heatmaps"
    result = inspect(tiny_models, tmp_path / "data", images, "--output", table, "--save-heatmap", heatmaps)
    assert result.exit_code == 1, "one image fails"
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    assert [(Path(row["file"]).name, row["decision"], row["regions"]) for row in rows] == [
        ("bad.png", "fail", "1"),
        ("good.png", "pass", "0"),
    ]
    drawn = cv2.imread(rows[0]["heatmap"])
    assert drawn is not None
    assert drawn.shape == (64, 64, 3)
    assert not (tmp_path / "data").exists(), "reading the recipe must not create a database"


def test_other_files_in_a_folder_are_counted(images: Path, tiny_models: Path, tmp_path: Path) -> None:
    result = inspect(tiny_models, tmp_path / "data", images)
    assert "1 other files in the folders were passed over" in result.stderr


def test_results_file_in_a_missing_folder_is_refused_before_anything_is_inspected(
    images: Path, tiny_models: Path, tmp_path: Path
) -> None:
    result = inspect(tiny_models, tmp_path / "data", images, "--output", tmp_path / "nope" / "r.csv")
    assert result.exit_code == 2
    assert "does not exist" in result.stderr
    assert result.stdout == ""


def test_legend_is_drawn_below_the_heatmap(images: Path, tiny_models: Path, tmp_path: Path) -> None:
    heatmaps = tmp_path / "heatmaps"

    inspect(tiny_models, tmp_path / "data", images, "--save-heatmap", heatmaps, "--legend")

    shapes = {drawn.shape for path in heatmaps.iterdir() if (drawn := cv2.imread(str(path))) is not None}
    (shape,) = shapes
    assert shape[0] > 64
    assert shape[1] == 320


def test_legend_without_heatmaps_is_refused(images: Path, tiny_models: Path, tmp_path: Path) -> None:
    result = inspect(tiny_models, tmp_path / "data", images, "--legend")

    assert result.exit_code == 2
    assert "--save-heatmap" in result.stderr


@pytest.mark.slow
def test_folder_is_inspected_with_the_recipe_of_the_service(
    serve: Serve, images: Path, tiny_models: Path, tmp_path: Path
) -> None:
    with serve() as service:
        change = {"author": "a", "reason": "b", "regions": {"min_area_px": 4000}}
        assert service.client.put("/v1/products/widget/recipe", json=change).status_code == 200
    table = tmp_path / "out.csv"
    result = inspect(tiny_models, service.settings.data, images, "--output", table)
    assert result.exit_code == 0
    assert "(fail without region filters)" in result.stdout
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    assert [(row["decision"], row["decision_by_score"]) for row in rows] == [("pass", "fail"), ("pass", "pass")]


def test_all_good_parts_end_with_success(images: Path, tiny_models: Path, tmp_path: Path) -> None:
    assert inspect(tiny_models, tmp_path / "data", images / "good.png").exit_code == 0


def test_file_that_cannot_be_inspected_does_not_stop_the_others(
    images: Path, tiny_models: Path, tmp_path: Path
) -> None:
    (images / "broken.png").write_bytes(GOOD[: len(GOOD) // 2])
    table = tmp_path / "out.json"
    result = inspect(tiny_models, tmp_path / "data", images, "--output", table)
    assert result.exit_code == 1
    rows = {Path(row["file"]).name: row for row in json.loads(table.read_text())}
    assert rows["broken.png"]["decision"] is None
    assert "truncated or corrupt" in rows["broken.png"]["error"]
    assert rows["good.png"]["decision"] == "pass"
    assert rows["bad.png"]["regions"][0]["area_px"] > 0


@pytest.mark.slow
def test_thresholds_of_the_service_apply_without_it(serve: Serve, images: Path, tiny_models: Path) -> None:
    change = {"author": "a", "reason": "b", "fail_threshold": 10, "review_threshold": 9}
    with serve() as service:
        service.client.put("/v1/products/widget/recipe", json=change)
        data = service.settings.data
    assert inspect(tiny_models, data, images).exit_code == 0, "with high thresholds the defective part passes"


@pytest.mark.slow
def test_activated_bundle_is_used_without_the_service(serve: Serve, images: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    older = write_tiny_bundle(models, scores=[10 + rank for rank in range(99)])
    newer = write_tiny_bundle(models, created_at=datetime(2026, 2, 1, tzinfo=UTC))
    assert inspect(models, tmp_path / "data", images).exit_code == 1, "the newest, because none was activated"
    with serve(models=models) as service:
        decision = {"author": "a", "reason": "b"}
        service.client.post(f"/v1/products/widget/bundles/{older.version}:activate", json=decision)
    assert inspect(models, tmp_path / "data", images).exit_code == 0, "its calibration passes both images"
    (product,) = json.loads(run("products", "--models", models, "--data", tmp_path / "data", "--json").stdout)
    assert product["version"] == older.version != newer.version


def test_gray_levels_of_the_fixture_are_what_the_tests_assume() -> None:
    decoded = cv2.imdecode(np.frombuffer(encode(part()), np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    assert np.unique(decoded).tolist() == [128]


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_names_that_are_not_utf_8_are_inspected_printed_and_written(
    tiny_models: Path, tmp_path: Path, suffix: str
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    names = ["a.png", os.fsdecode(b"tr\xfcb_01.png"), os.fsdecode(b"tr\xfcb_02.png"), "z.png"]
    for name in names:
        (folder / name).write_bytes(GOOD)
    (folder / names[2]).write_bytes(GOOD[:50])
    output, heatmaps = tmp_path / f"results{suffix}", tmp_path / "heatmaps"
    result = inspect(tiny_models, tmp_path / "data", folder, "--output", output, "--save-heatmap", heatmaps)
    assert result.exit_code == 1, "one of the images is damaged"
    assert r"tr\xfcb_01.png" in result.stdout
    text = output.read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines())) if suffix == ".csv" else json.loads(text)
    assert [Path(row["file"]).name for row in rows] == ["a.png", r"tr\xfcb_01.png", r"tr\xfcb_02.png", "z.png"]
    assert [row["decision"] or None for row in rows] == ["pass", "pass", None, "pass"]
    assert len(list(heatmaps.iterdir())) == 3


def test_missing_file_whose_name_is_not_utf_8_is_named(tiny_models: Path, tmp_path: Path) -> None:
    result = inspect(tiny_models, tmp_path / "data", tmp_path / os.fsdecode(b"fehlt_\xfc.png"))
    assert result.exit_code == 2
    assert r"fehlt_\xfc.png does not exist" in result.stderr


def test_hidden_files_are_skipped_and_linked_folders_followed(tiny_models: Path, tmp_path: Path) -> None:
    for day in ("data/monday", "data/tuesday", "elsewhere"):
        (tmp_path / day).mkdir(parents=True)
        for number in range(3):
            (tmp_path / day / f"{number}.png").write_bytes(GOOD)
            (tmp_path / day / f"._{number}.png").write_bytes(b"\x00\x05\x16\x07 metadata of macOS")
    (tmp_path / "data" / "wednesday").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "loop").symlink_to(tmp_path / "data")
    result = inspect(tiny_models, tmp_path / "store", tmp_path / "data")
    assert result.exit_code == 0
    assert "9 pass" in result.stderr


def test_unusual_files_stop_no_other_file(tiny_models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    image = Image.open(io.BytesIO(GOOD)).convert("RGB")
    image.save(folder / "phone.jpg", "MPO", save_all=True, append_images=[image], quality=95)
    image.save(folder / "animated.webp", save_all=True, append_images=[Image.new("RGB", image.size)])
    (folder / "good.png").write_bytes(GOOD)
    result = inspect(tiny_models, tmp_path / "data", folder)
    assert "1 error, 2 pass" in result.stderr
    assert "it is animated" in result.stdout


STRANGE = ("line\nbreak", "\x1b[31mred", os.fsdecode(b"tr\xfcb"))
PRINTED = (r"line\nbreak", r"\x1b[31mred", r"tr\xfcb")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "printed"), list(zip(STRANGE, PRINTED, strict=True)))
def test_strange_names_are_printed_escaped_by_every_command(
    name: str, printed: str, tiny_models: Path, tmp_path: Path
) -> None:
    (tmp_path / f"{name}.png").write_bytes(GOOD)
    (tmp_path / f"{name}2.png").write_bytes(b"no image")
    missing, (models, data) = tmp_path / "nowhere" / name, (tmp_path / f"models{name}", tmp_path / f"data{name}")
    bundle = write_tiny_bundle(models)
    commands: list[tuple[str | Path, ...]] = [
        ("inspect", tmp_path / f"{name}.png", tmp_path / f"{name}2.png", "--product", "widget", "--models", models),
        ("inspect", missing, "--product", "widget", "--models", models),
        ("inspect", tmp_path, "--product", "widget", "--models", missing),
        ("inspect", tmp_path, "--product", "ghost", "--models", models),
        ("inspect", tmp_path, "--product", "widget", "--models", models, "--output", missing / "x.csv"),
        ("products", "--models", missing),
        ("replay", "--product", "widget", "--models", models, "--data", missing),
        ("doctor", "--models", models, "--data", data, "--port", "0", "--provider", "cpu"),
        ("bundle", "verify", missing),
        ("bundle", "verify", bundle.path),
        ("bundle", "export", missing),
        ("bundle", "export", bundle.path, "--output", tmp_path / f"{name}.zip"),
        ("bundle", "import", tmp_path / f"{name}.zip", "--product", "widget", "--models", models),
        ("bundle", "import", missing, "--product", "widget", "--models", models),
        ("recipe", "import", "widget", missing, "--reason", "dust"),
    ]
    refused = run("doctor", "--models", tmp_path / f"{name}.png")
    assert (refused.exit_code, repr(name)[1:-1] in refused.output) == (2, True)
    for command in commands:
        output = run(*command).output
        assert printed in output, command[:2]
        assert name not in output, command[:2]
        assert "Traceback" not in output, command[:2]
