"""The command line: one line and exit code 2 for bad input, no traceback; interruption and resume."""

import os
import shlex
import signal
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from service.bundle.bundle import Bundle
from tests.training.small_product import build_bundle, write_plates
from training.cli.fit import default_overlap
from training.cli.interrupt import Interrupt
from training.cli.main import app
from training.config import FitConfig
from training.dataset import scan
from training.exclusion import read_names
from training.fit import Progress

runner = CliRunner()


def draw(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        image = np.random.default_rng(number).integers(0, 255, (40, 40, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{number}.png"), image)
    return folder


def error_line(*arguments: object) -> str:
    """Run a command that must fail and return its one line of output."""
    result = runner.invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.output
    return lines[0]


def fit(data: Path, tmp_path: Path, *options: object, product: str = "part") -> str:
    folders = ("--models", tmp_path / "models", "--run-dir", tmp_path / "run")
    return error_line("fit", "--data", data, "--product", product, *folders, *options)


@pytest.mark.parametrize("product", ["Part", "-part", "a/b", "", "x" * 65, "..", "part\n"])
def test_product_names_are_checked(tmp_path: Path, product: str) -> None:
    assert "product name" in fit(draw(tmp_path / "data", 20), tmp_path, f"--product={product}")


def test_missing_data(tmp_path: Path) -> None:
    assert "nowhere is not a folder" in fit(tmp_path / "nowhere", tmp_path)


def test_empty_folder(tmp_path: Path) -> None:
    assert "No images found" in fit(draw(tmp_path / "data", 0), tmp_path)


def test_too_few_images(tmp_path: Path) -> None:
    assert "at least 20 are needed" in fit(draw(tmp_path / "data", 7), tmp_path)


def test_quick_first_refuses_images_that_are_enough_for_the_first_bundle_only(tmp_path: Path) -> None:
    said = fit(draw(tmp_path / "data", 12), tmp_path, "--quick-first")
    assert "has 12 different good images, at least 20 are needed" in said
    assert "Add 8 more images of good parts, or make the bundle of --quick alone, which needs 8." in said
    assert not (tmp_path / "models").exists()


def test_unreadable_image_is_named(tmp_path: Path) -> None:
    data = draw(tmp_path / "data", 25)
    (data / "11.png").write_bytes(b"oops")

    assert "11.png cannot be read" in fit(data, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--input-size", 100), "multiple of 32"),
        (("--iterations", 0), "iterations is 0"),
        (("--held-out", 0.9), "held-out share is 0.9"),
        (("--evaluate",), "a test split"),
        (("--teacher", "resnet51"), "no teacher 'resnet51'"),
        (("--method", "magic"), "no method 'magic'"),
        (("--tile", 500), "multiple of 32"),
        (("--tile", 128, "--overlap", 64), "overlap is 64"),
        (("--overlap", 64), "together with --tile"),
        (("--scale", 0.5), "needs tiles"),
        (("--iterations", 15), "at least 31 steps"),
        (("--groups", "prefix"), "--groups is prefix"),
        (("--device", "cuda"), "train on the CPU with --device cpu"),
    ],
    ids=[
        *("input-size", "iterations", "held-out", "evaluate-without-test", "teacher", "method"),
        *("tile", "half-a-tile", "overlap-alone", "scale-alone"),
        *("within-the-warm-up", "no-groups", "no-gpu"),
    ],
)
def test_options_are_checked(
    tmp_path: Path, options: tuple[object, ...], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert expected in fit(draw(tmp_path / "data", 25), tmp_path, *options)


@pytest.mark.parametrize(
    ("options", "reason"),
    [(("--method", "drd"), "no variant without training steps; nnet has one"), (("--iterations", 5), "--iterations")],
)
def test_quick_is_refused_where_it_has_no_meaning(tmp_path: Path, options: tuple[object, ...], reason: str) -> None:
    assert reason in fit(draw(tmp_path / "data", 8), tmp_path, "--quick", *options)


@pytest.mark.slow
def test_quick_makes_a_bundle_of_eight_images_without_training(tmp_path: Path) -> None:
    plates = write_plates(tmp_path / "plates") / "train" / "good"
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted(plates.iterdir())[:8]:
        path.rename(few / path.name)
    result = runner.invoke(
        app,
        [
            *("fit", "--data", str(few), "--product", "plate", "--quick", "--input-size", "96", "--allow-weak"),
            *("--models", str(tmp_path / "models"), "--run-dir", str(tmp_path / "run"), "--threads", "1"),
        ],
    )
    assert result.exit_code == 0, result.output
    (folder,) = (tmp_path / "models" / "plate").iterdir()
    bundle = Bundle.load(folder)
    assert (bundle.manifest.training.iterations, bundle.manifest.training.held_out) == (0, 4)
    assert len(bundle.card.scores) == 4
    assert "20 %" in result.output


def test_quick_first_is_refused_with_quick(tmp_path: Path) -> None:
    assert "--quick-first" in fit(draw(tmp_path / "data", 8), tmp_path, "--quick", "--quick-first")


def test_unknown_excluded_image_is_refused(tmp_path: Path) -> None:
    data = draw(tmp_path / "data", 25)
    assert "--exclude is '99.png'" in fit(data, tmp_path, "--exclude", "3.png", "--exclude", "99.png")


def test_check_images_writes_a_contact_sheet_and_a_list_for_exclude(tmp_path: Path) -> None:
    good = write_plates(tmp_path / "plates") / "train/good"
    (good / "lot 2").mkdir()
    (good.parents[1] / "test/spots/001.png").rename(good / "lot 2/planted.png")
    sheet, names = tmp_path / "out" / "sheet.html", tmp_path / "suspected.txt"
    options = ["--data", str(good.parents[1]), "--teacher", "efficientnet_lite0", "--out", str(sheet)]

    result = runner.invoke(app, ["check-images", *options, "--names", str(names)])

    assert result.exit_code == 0, result.output
    suspected = names.read_text().splitlines()
    assert f"41 good images, {len(suspected)} suspected:" in result.stdout
    assert suspected[0] == "lot 2/planted.png"
    assert len(suspected) <= 3  # good ones may be among them
    assert "lot 2/planted.png" in sheet.read_text(encoding="utf-8")
    assert len(scan(good, exclude=read_names([str(names)])).excluded) == len(suspected)
    again = runner.invoke(app, ["check-images", *options, "--exclude", str(names)])
    assert f"{41 - len(suspected)} good images," in again.stdout
    assert "planted" not in again.stdout


def test_outputs_of_check_images_are_checked_before_the_work(tmp_path: Path) -> None:
    data = draw(tmp_path / "data", 10)
    assert "--out is" in error_line("check-images", "--data", data, "--out", tmp_path)
    assert "NAME.txt" in error_line("check-images", "--data", data, "--names", tmp_path / "names.csv")
    assert "is not a folder" in error_line("check-images", "--data", tmp_path / "nowhere")
    assert "no teacher 'magic'" in error_line("check-images", "--data", data, "--teacher", "magic")


@pytest.mark.parametrize(("tile", "overlap"), [(None, None), (64, 0), (96, 32), (256, 32), (512, 64), (1024, 128)])
def test_default_overlap_is_an_eighth_of_the_tile_in_steps_of_32(tile: int | None, overlap: int | None) -> None:
    assert default_overlap(tile) == overlap
    FitConfig(input_size=tile or 256, overlap=overlap)


def test_failed_training_leaves_no_bundle(tmp_path: Path) -> None:
    fit(draw(tmp_path / "data", 7), tmp_path)

    assert not list(tmp_path.rglob("manifest.json"))


def test_model_repository_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file where a folder should be")

    assert "models" in fit(draw(tmp_path / "data", 25), tmp_path)


@pytest.mark.slow
def test_ctrl_c_keeps_a_checkpoint_and_prints_the_command_to_continue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tmp_path / "run" / "checkpoint.pt"
    arguments = ["fit", "--data", str(draw(tmp_path / "my data", 20)), "--product", "part"]
    arguments += ["--models", str(tmp_path / "models"), "--run-dir", str(tmp_path / "run")]
    arguments += ["--input-size", "64", "--batch-size", "4", "--iterations", "100000", "--checkpoint-seconds", "0"]
    monkeypatch.setattr(sys, "argv", ["plumbline-train", *arguments])
    # Background processes of a shell ignore SIGINT, and the test process inherits that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    ended = threading.Event()

    def press_ctrl_c() -> None:
        while not checkpoint.exists():
            if ended.wait(0.01):
                return  # the command failed before its first checkpoint
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press_ctrl_c)
    thread.start()
    result = runner.invoke(app, arguments)
    ended.set()
    thread.join()
    handler_after = signal.signal(signal.SIGINT, before)

    assert result.exit_code == 130
    (command,) = [line.strip() for line in result.stderr.splitlines() if "plumbline-train fit" in line]
    assert shlex.split(command)[1:] == [*arguments, "--resume"]
    assert "Traceback" not in result.output
    assert handler_after is signal.default_int_handler


def test_ctrl_c_is_deferred_to_the_end_of_a_training_step(tmp_path: Path) -> None:
    def progress(step: int) -> Progress:
        return Progress(step=step, steps=3, losses={}, images_per_second=1.0, eta_s=0.0)

    with Interrupt(tmp_path) as interrupt:
        assert not interrupt.should_stop(progress(1))
        os.kill(os.getpid(), signal.SIGINT)  # during a step: deferred
        assert interrupt.should_stop(progress(2))
        assert interrupt.should_stop(progress(3))
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)  # after the last step: at once


@pytest.mark.slow
def test_resume_with_other_settings_is_refused(tmp_path: Path) -> None:
    data = draw(tmp_path / "data", 20)
    options = ("--input-size", 64, "--batch-size", 4, "--iterations", 1, "--allow-weak")
    arguments = ("fit", "--data", data, "--product", "part", "--models", tmp_path / "models", *options)
    result = runner.invoke(app, [str(part) for part in (*arguments, "--run-dir", tmp_path / "run")])
    assert result.exit_code == 0, result.output
    assert "≤ 9.1 % on average, ≤ 26 % with 95 % confidence (n = 10)" in result.stdout
    assert "Note: Weak bundle: 1 training steps end within the warm-up" in result.stdout
    assert "Note: Few calibration images" in result.stdout
    assert "Note: One capture group" in result.stdout
    assert "Sanity       AUROC on synthetic anomalies: images" in result.stdout
    assert "Groups: none found" in result.stderr

    assert "seed was 0 and is now 1" in fit(data, tmp_path, *options, "--seed", 1, "--resume")


@pytest.fixture(scope="module")
def plates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_plates(tmp_path_factory.mktemp("plates"))


@pytest.fixture(scope="module")
def bundle(plates: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return build_bundle(plates, tmp_path_factory.mktemp("models"))


@pytest.mark.slow
@pytest.mark.parametrize("by_product", [False, True], ids=["version-folder", "product-folder"])
def test_evaluate_writes_table_json_and_report(bundle: Bundle, plates: Path, tmp_path: Path, by_product: bool) -> None:
    path = bundle.path.parent if by_product else bundle.path
    arguments = ["evaluate", "--bundle", path, "--data", plates, "--out", tmp_path / "out"]

    result = runner.invoke(app, [str(argument) for argument in arguments])

    assert result.exit_code == 0, result.output
    assert "image AUROC" in result.output
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"evaluation.json", "report.html"}


def test_evaluate_without_bundle(plates: Path, tmp_path: Path) -> None:
    assert "models/PRODUCT/VERSION" in error_line("evaluate", "--bundle", tmp_path, "--data", plates)


def test_evaluate_without_test_split(bundle: Bundle, tmp_path: Path) -> None:
    data = draw(tmp_path / "data", 3)

    assert "test/good" in error_line("evaluate", "--bundle", bundle.path, "--data", data)


def test_evaluate_refuses_a_changed_bundle(bundle: Bundle, plates: Path, tmp_path: Path) -> None:
    copy = tmp_path / bundle.version
    for name in ("manifest.json", "calibration.json", "model.onnx"):
        copy.mkdir(exist_ok=True)
        (copy / name).write_bytes((bundle.path / name).read_bytes())
    (copy / "calibration.json").write_text("{}")

    assert "is not served" in error_line("evaluate", "--bundle", copy, "--data", plates)


def report(*arguments: object) -> tuple[str, str]:
    """Run a report that must succeed and return its standard output and its progress."""
    result = runner.invoke(app, ["report", *(str(argument) for argument in arguments)])
    assert result.exit_code == 0, result.output
    return result.stdout, result.stderr


@pytest.mark.slow
def test_report_measures_a_bundle_and_shows_its_progress(bundle: Bundle, plates: Path, tmp_path: Path) -> None:
    output = tmp_path / "new" / "bundle.html"

    printed, progress = report(bundle.path, "--data", plates, "--output", output, "--run-dir", tmp_path / "run")

    page = output.read_text(encoding="utf-8")
    assert "<h2>Curves</h2>" in page
    assert "image AUROC" in page
    assert f"Report: {output}" in printed
    assert f"training-{bundle.version}.json does not exist" in printed
    for stage in ("look up the good images 40/40", "evaluate 18/18", "draw overlays"):
        assert stage in progress


@pytest.mark.slow
def test_report_without_data_is_written_to_the_folder_of_the_runs(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    printed, _ = report(bundle.path.parent)

    page = (tmp_path / "runs" / "plate" / f"report-{bundle.version}.html").read_text(encoding="utf-8")
    assert "No test images were given" in page
    assert "Note: No test images were given" in printed


@pytest.mark.slow
def test_report_on_a_folder_of_good_images_says_that_nothing_is_measured(
    bundle: Bundle, plates: Path, tmp_path: Path
) -> None:
    printed, _ = report(bundle.path, "--data", plates / "train" / "good", "--output", tmp_path / "report.html")

    assert "has no folder test, so nothing about defects is measured" in printed
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "contains 40 image files, compared by SHA-256" in " ".join(page.split())


def test_report_names_what_is_wrong_with_its_options(bundle: Bundle, plates: Path, tmp_path: Path) -> None:
    assert "BUNDLE is" in error_line("report", tmp_path)
    assert "nowhere is not a folder" in error_line("report", bundle.path, "--data", tmp_path / "nowhere")
    assert "--output is" in error_line("report", bundle.path, "--output", tmp_path)
    (tmp_path / "file").touch()
    assert "file" in error_line("report", bundle.path, "--output", tmp_path / "file" / "report.html")
    draw(tmp_path / "data" / "test" / "good", 2)
    assert "test/<defect>" in error_line("report", bundle.path, "--data", tmp_path / "data")
    assert not list(tmp_path.rglob("*.html"))
