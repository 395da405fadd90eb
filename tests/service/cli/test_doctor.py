"""`plumbline doctor`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bundles import tiny_draft, write_tiny_bundle
from tests.command_line import run


def test_doctor_finds_no_problem_on_a_working_machine(tiny_models: Path, tmp_path: Path) -> None:
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


def test_doctor_reports_problems_with_remedies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLUMBLINE_PROT", "9000")
    models = tmp_path / "models"
    bundle = write_tiny_bundle(models)
    (bundle.path / "calibration.json").write_text("{}")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "plumbline.db").write_text("this is not a database " * 100)
    result = run("doctor", "--models", models, "--data", tmp_path / "data", "--port", "0", "--host", "0.0.0.0")  # noqa: S104
    assert result.exit_code == 1
    for words in ("PLUMBLINE_PROT is not a setting", "calibration.json", "cannot be opened", "firewall"):
        assert words in result.output, words
    assert result.output.count("→") >= 4, "each has a remedy"


def test_doctor_warns_of_a_weak_bundle(tmp_path: Path) -> None:
    training = tiny_draft().training.model_copy(update={"weak": ["the image AUROC is 0.36"]})
    write_tiny_bundle(tmp_path / "models", training=training)
    result = run(
        "doctor", "--models", tmp_path / "models", "--data", tmp_path / "data", "--port", "0", "--provider", "cpu"
    )
    assert result.exit_code == 0, result.output
    assert "weak bundle: the image AUROC is 0.36" in result.output
    assert "without --allow-weak" in result.output
