"""The command line as a whole, and its short commands."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bundles import tiny_draft, write_tiny_bundle
from tests.command_line import run

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("inspect", "nowhere.png", "--product", "widget"), "does not exist"),
        (("inspect", ".", "--product", "ghost"), "Known products: widget"),
        (("inspect", ".", "--product", "widget", "--output", "out.xls"), ".json or .csv"),
        (
            ("inspect", ".", "--product", "widget", "--provider", "tpu"),
            "--provider: is not an accepted value; expected 'auto', 'cuda', 'tensorrt', 'openvino' or 'cpu'",
        ),
        (("inspect", "."), "--product"),
        (("serve", "--port", "high"), "--port: is not a whole number"),
        (("serve", "--queue-limit", "1", "--max-batch", "4"), "full batch could never form"),
    ],
)
def test_wrong_usage_is_explained(tiny_models: Path, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    folders = ("--models", tiny_models, "--data", tmp_path)
    result = run(*arguments, *folders)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split()).replace("│", "")


def test_wrong_environment_variable_is_named(tiny_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLUMBLINE_PORT", "high")
    result = run("serve", "--models", tiny_models)
    assert result.exit_code == 2
    assert "PLUMBLINE_PORT: is not a whole number" in " ".join(result.output.split())


def test_products_are_listed(tiny_models: Path, tmp_path: Path) -> None:
    result = run("products", "--models", tiny_models, "--data", tmp_path, "--json")
    (product,) = json.loads(result.stdout)
    assert (product["product"], product["method"]) == ("widget", "gray-distance")
    assert product["target_false_reject_rate"] == 0.01
    assert "widget" in run("products", "--models", tiny_models, "--data", tmp_path).stdout
    (tmp_path / "none").mkdir()
    assert "holds no product" in run("products", "--models", tmp_path / "none", "--data", tmp_path).stdout


@pytest.mark.parametrize(
    "command", [("products",), ("products", "--json"), ("replay", "--product", "x"), ("inspect", ".", "--product", "x")]
)
def test_missing_model_repository_is_an_error_that_names_the_path(command: tuple[str, ...], tmp_path: Path) -> None:
    result = run(*command, "--models", tmp_path / "nope", "--data", tmp_path)
    assert result.exit_code == 2
    assert f"{tmp_path / 'nope'} does not exist" in " ".join(result.stderr.split())
    assert "PLUMBLINE_MODELS" in result.stderr
    assert result.stdout == ""


def test_version_and_document_are_printed() -> None:
    assert run("--version").exit_code == 0
    assert json.loads(run("openapi").stdout)["openapi"].startswith("3.1")


def test_help_loads_neither_the_web_framework_nor_the_runtime() -> None:
    code = "import json, sys, service.cli.main; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert "typer" in loaded
    assert not loaded & {"fastapi", "onnx", "onnxruntime", "cv2", "numpy", "sqlalchemy", "httpx", "plumbline_client"}


def test_products_show_the_bound_for_this_calibration_and_its_notes(tmp_path: Path) -> None:
    training = tiny_draft().training.model_copy(update={"weak": ["15 training steps end within the warm-up"]})
    write_tiny_bundle(tmp_path / "models", scores=[float(value) for value in range(10)], training=training)
    folders = ("--models", tmp_path / "models", "--data", tmp_path / "data")
    shown = run("products", *folders).stdout
    assert "widget: good parts that fail: ≤ 9.1 % on average, ≤ 26 % with 95 % confidence (n = 10)" in shown
    assert "widget: weak bundle: 15 training steps end within the warm-up." in shown
    assert "widget: Few calibration images" in shown
    assert "widget: One capture group" in shown
    (product,) = json.loads(run("products", *folders, "--json").stdout)
    assert product["false_reject_bound"]["confident"] == pytest.approx(1 - 0.05**0.1)
    assert product["weak"] == ["15 training steps end within the warm-up"]
