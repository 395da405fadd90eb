"""The command line, in processes of its own where exit codes and streams matter."""

from __future__ import annotations

import csv
import json
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from service.bundle.bundle import Bundle
from service.cli.main import app
from tests.bundles import part, write_tiny_bundle
from tests.running_service import BAD, GOOD, Serve, encode


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


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
    assert result.exit_code == 1, "one part fails"
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    assert [(Path(row["file"]).name, row["decision"], row["regions"]) for row in rows] == [
        ("bad.png", "fail", "1"),
        ("good.png", "pass", "0"),
    ]
    drawn = cv2.imread(rows[0]["heatmap"])
    assert drawn is not None
    assert drawn.shape == (64, 64, 3)
    assert not (tmp_path / "data").exists(), "looking for a recipe makes no database"


def test_folder_is_inspected_by_the_recipe_that_a_service_was_told(
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


def test_file_that_cannot_be_judged_stops_no_other(images: Path, tiny_models: Path, tmp_path: Path) -> None:
    (images / "broken.png").write_bytes(GOOD[: len(GOOD) // 2])
    table = tmp_path / "out.json"
    result = inspect(tiny_models, tmp_path / "data", images, "--output", table)
    assert result.exit_code == 1
    rows = {Path(row["file"]).name: row for row in json.loads(table.read_text())}
    assert rows["broken.png"]["decision"] is None
    assert "truncated or corrupt" in rows["broken.png"]["error"]
    assert rows["good.png"]["decision"] == "pass"
    assert rows["bad.png"]["regions"][0]["area_px"] > 0


def test_recipe_of_the_service_judges_without_it(serve: Serve, images: Path, tiny_models: Path) -> None:
    change = {"author": "a", "reason": "b", "fail_threshold": 10, "review_threshold": 9}
    with serve() as service:
        service.client.put("/v1/products/widget/recipe", json=change)
        data = service.settings.data
    assert inspect(tiny_models, data, images).exit_code == 0, "lax thresholds pass the bad part"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("inspect", "nowhere.png", "--product", "widget"), "does not exist"),
        (("inspect", ".", "--product", "ghost"), "Known products: widget"),
        (("inspect", ".", "--product", "widget", "--output", "out.xls"), ".json or .csv"),
        (("inspect", ".", "--product", "widget", "--provider", "tpu"), "PLUMBLINE_PROVIDER"),
        (("inspect", "."), "--product"),
        (("serve", "--port", "high"), "PLUMBLINE_PORT"),
        (("serve", "--queue-limit", "1"), "full batch could never form"),
    ],
)
def test_wrong_usage_is_explained(tiny_models: Path, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    places = ("--models", tiny_models, "--data", tmp_path)
    result = run(*arguments, *places)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split()).replace("│", "")


def test_products_are_listed(tiny_models: Path, tmp_path: Path) -> None:
    result = run("products", "--models", tiny_models, "--data", tmp_path, "--json")
    (product,) = json.loads(result.stdout)
    assert (product["product"], product["method"]) == ("widget", "gray-distance")
    assert product["target_false_reject_rate"] == 0.01
    assert "widget" in run("products", "--models", tiny_models, "--data", tmp_path).stdout
    assert "holds no product" in run("products", "--models", tmp_path / "none", "--data", tmp_path).stdout


def test_bundles_are_verified(tmp_path: Path) -> None:
    intact = write_tiny_bundle(tmp_path, "bolt").path
    wrong = write_tiny_bundle(tmp_path, "nut", offset=0.5).path
    assert run("bundle", "verify", intact).exit_code == 0
    result = run("bundle", "verify", intact, wrong, "--json")
    assert result.exit_code == 1
    good, bad = json.loads(result.stdout)
    assert (good["intact"], bad["intact"]) == (True, False)
    assert bad["problem"] == "parity-failure"


def test_bundle_is_exported_and_imported(tiny_bundle: Bundle, tmp_path: Path) -> None:
    archive, models = tmp_path / "widget.zip", tmp_path / "models"
    assert run("bundle", "export", tiny_bundle.path, "--output", archive).exit_code == 0
    for words in ("is there now", "was there already"):
        result = run("bundle", "import", archive, "--product", "widget", "--models", models)
        assert result.exit_code == 0, result.output
        assert words in result.output
    assert Bundle.load(models / "widget" / tiny_bundle.version).digest == tiny_bundle.digest
    for arguments in (
        ("import", archive, "--product", "nut", "--models", models),
        ("import", archive, "--product", "../nut", "--models", models),
        ("import", tmp_path / "nothing.zip", "--product", "widget", "--models", models),
        ("export", tmp_path),
        ("export", tiny_bundle.path, "--output", tmp_path / "no" / "folder.zip"),
    ):
        assert run("bundle", *arguments).exit_code == 2, arguments
    assert [path.name for path in models.iterdir()] == ["widget"]


def test_chosen_bundle_judges_without_the_service(serve: Serve, images: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    older = write_tiny_bundle(models, scores=[10 + rank for rank in range(99)])
    newer = write_tiny_bundle(models, created_at=datetime(2026, 2, 1, tzinfo=UTC))
    assert inspect(models, tmp_path / "data", images).exit_code == 1, "the newest, where nobody chose"
    with serve(models=models) as service:
        decision = {"author": "a", "reason": "b"}
        service.client.post(f"/v1/products/widget/bundles/{older.version}:activate", json=decision)
    assert inspect(models, tmp_path / "data", images).exit_code == 0, "its card passes everything"
    (product,) = json.loads(run("products", "--models", models, "--data", tmp_path / "data", "--json").stdout)
    assert product["version"] == older.version != newer.version


def test_doctor_finds_nothing_on_a_sound_machine(tiny_models: Path, tmp_path: Path) -> None:
    result = run("doctor", "--models", tiny_models, "--data", tmp_path / "data", "--port", "0", "--provider", "cpu")
    assert result.exit_code == 0, result.output
    for subject in (
        "python",
        "libraries",
        "cpu",
        "data folder",
        "disk",
        "database",
        "port",
        "model repository",
        "bundle widget/",
    ):
        assert subject in result.output


def test_doctor_names_problems_and_remedies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLUMBLINE_PROT", "9000")
    models = tmp_path / "models"
    bundle = write_tiny_bundle(models)
    (bundle.path / "calibration.json").write_text("{}")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "plumbline.db").write_text("this is no database " * 100)
    result = run("doctor", "--models", models, "--data", tmp_path / "data", "--port", "0", "--host", "0.0.0.0")  # noqa: S104
    assert result.exit_code == 1
    for words in ("PLUMBLINE_PROT is no setting", "calibration.json", "cannot be opened", "firewall"):
        assert words in result.output, words
    assert result.output.count("→") >= 4, "each with a remedy"


def test_version_and_document_are_printed() -> None:
    assert run("--version").exit_code == 0
    assert json.loads(run("openapi").stdout)["openapi"].startswith("3.1")


def test_gray_levels_of_the_fixture_are_what_the_tests_assume() -> None:
    decoded = cv2.imdecode(np.frombuffer(encode(part()), np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    assert np.unique(decoded).tolist() == [128]


def test_recipes_of_a_running_service_are_shown_compared_kept_and_put_back(serve: Serve, tmp_path: Path) -> None:
    with serve() as service:
        at = ("--url", f"http://127.0.0.1:{service.port}")
        file = tmp_path / "widget.toml"
        assert run("recipe", "export", "widget", "--output", file, *at).exit_code == 0
        edited = file.read_text(encoding="utf-8").replace("min_area_px = 0.0", "min_area_px = 25.0")
        file.write_text(edited, encoding="utf-8")

        imported = run("recipe", "import", "widget", file, "--author", "Ada", "--reason", "dust", "--expect", "1", *at)
        assert (imported.exit_code, imported.stdout) == (0, "Revision 2 is in force.\n")
        stale = run("recipe", "import", "widget", file, "--author", "Ada", "--reason", "dust", "--expect", "1", *at)
        assert stale.exit_code == 1
        assert "is at revision 2" in stale.stderr

        assert "min_area_px = 25.0" in run("recipe", "show", "widget", *at).stdout
        assert json.loads(run("recipe", "show", "widget", "1", "--json", *at).stdout)["revision"] == 1
        diff = run("recipe", "diff", "widget", "1", *at)
        assert (diff.exit_code, diff.stdout) == (1, "regions.min_area_px: 0.0 → 25.0\n")
        assert run("recipe", "diff", "widget", "2", "2", *at).exit_code == 0

        reverted = run("recipe", "revert", "widget", "1", "--author", "Ada", *at)
        assert (reverted.exit_code, reverted.stdout) == (0, "Revision 3 is in force: Revision 1 again.\n")
        history = run("recipe", "history", "widget", *at)
        assert [word in history.stdout for word in ("Ada", "dust", "plumbline")] == [True, True, True]
        assert [item["revision"] for item in json.loads(run("recipe", "history", "widget", "--json", *at).stdout)] == [
            3,
            2,
            1,
        ]


def test_recipe_command_says_what_the_service_refused_or_that_there_is_none(serve: Serve, tmp_path: Path) -> None:
    with serve() as service:
        unknown = run("recipe", "show", "gadget", "--url", f"http://127.0.0.1:{service.port}")
    assert unknown.exit_code == 1
    assert "There is no product 'gadget'. Known products: widget." in unknown.stderr
    nobody = run("recipe", "show", "widget", "--url", f"http://127.0.0.1:{service.port}")
    assert (nobody.exit_code, "Is the service running?" in nobody.stderr) == (1, True)
    missing = run("recipe", "import", "widget", tmp_path / "none.toml")
    assert (missing.exit_code, "cannot be read" in missing.stderr) == (1, True)
