"""The training loop: it learns, it is deterministic, and it resumes after interruptions and kills."""

import dataclasses
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from training.config import FitConfig
from training.ema import ExponentialAverage
from training.errors import CheckpointMismatch, InvalidFitConfig, TooFewImages, UnknownMethod
from training.fit import CHECKPOINT_NAME, RATE_STEPS, Progress, _Run, fingerprint, fit, learning_rate, untrained
from training.methods.base import Method
from training.run_record import CurvePoint
from training.teachers import random_teacher

TINY = FitConfig(
    method="drd",
    input_size=64,
    iterations=6,
    batch_size=4,
    warmup_steps=2,
    pseudo_pool=12,
    seed=11,
    device="cpu",
    threads=1,  # the networks are too small for several threads
    options={"width": 0.8},
)


def parts(count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Draw good parts: a bright disc on a dark background, with small variations."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:64, :64]
    images = []
    for _ in range(count):
        cy, cx, level = rng.uniform(30, 34), rng.uniform(30, 34), rng.uniform(150, 190)
        disc = np.where((y - cy) ** 2 + (x - cx) ** 2 < 20**2, level, 40)
        images.append(np.clip(disc[..., None] + rng.normal(0, 3, (64, 64, 3)), 0, 255).astype(np.uint8))
    return np.stack(images)


def run(config: FitConfig, run_dir: Path, **kwargs: Any) -> Method:
    method = untrained(config, [random_teacher("efficientnet_lite0")])
    return fit(parts(8), parts(4, seed=1), config, run_dir, method=method, **kwargs)


def assert_same_weights(first: Method, second: Method) -> None:
    a, b = first.state_dict(), second.state_dict()
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Method:
    return run(TINY, tmp_path_factory.mktemp("unbroken"))


@pytest.mark.slow
def test_loss_falls_on_eight_images(tmp_path: Path) -> None:
    losses: list[float] = []
    config = dataclasses.replace(TINY, iterations=30, pseudo_share=0.0, lr=5e-3)
    run(config, tmp_path, on_progress=lambda p: losses.append(p.losses["loss"]))
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:3])


@pytest.mark.slow
def test_trained_method_is_in_evaluation_mode_with_measured_constants(unbroken: Method) -> None:
    assert not any(module.training for module in unbroken.modules())
    image = torch.from_numpy(parts(2))
    with torch.no_grad():
        anomaly_map, gain = unbroken(image)
    assert anomaly_map.shape == (2, 64 // unbroken.map_stride, 64 // unbroken.map_stride)
    assert anomaly_map.dtype == torch.float32
    assert gain is None
    assert not torch.equal(unbroken.get_buffer("fusion.spread"), torch.ones(3))


@pytest.mark.slow
def test_same_seed_gives_the_same_weights(unbroken: Method, tmp_path: Path) -> None:
    assert_same_weights(run(TINY, tmp_path), unbroken)


@pytest.mark.slow
def test_another_seed_gives_other_weights(unbroken: Method, tmp_path: Path) -> None:
    other = run(dataclasses.replace(TINY, seed=12), tmp_path)
    assert not torch.equal(*(next(p for p in m.parameters() if p.requires_grad) for m in (other, unbroken)))


@pytest.mark.slow
def test_interrupted_run_saves_first_and_resumes_to_the_unbroken_result(unbroken: Method, tmp_path: Path) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(TINY, tmp_path, on_progress=interrupt)
    steps: list[int] = []
    curve: list[CurvePoint] = []
    resumed = run(TINY, tmp_path, resume=True, on_progress=lambda p: steps.append(p.step), on_curve=curve.extend)
    assert steps == [4, 5, 6]
    assert_same_weights(resumed, unbroken)
    assert [point.step for point in curve] == [1, 2, 3, 4, 5, 6], "the curve includes the steps before the interruption"


@pytest.mark.slow
def test_requested_stop_saves_between_steps_and_resumes_to_the_unbroken_result(
    unbroken: Method, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(TINY, tmp_path, should_stop=lambda progress: progress.step == 2)
    assert torch.load(tmp_path / CHECKPOINT_NAME, weights_only=True)["step"] == 2
    assert_same_weights(run(TINY, tmp_path, resume=True), unbroken)


@pytest.mark.slow
def test_killed_run_resumes_to_the_unbroken_result(unbroken: Method, tmp_path: Path) -> None:
    # A process of its own and SIGKILL, right after the step before which the last checkpoint was written.
    script = f"""
        import dataclasses, os, signal, sys
        sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parents[2])!r}]
        from pathlib import Path
        from test_fit import TINY, run

        def kill(progress):
            if progress.step == 5:
                os.kill(os.getpid(), signal.SIGKILL)

        run(dataclasses.replace(TINY, checkpoint_seconds=0), Path({str(tmp_path)!r}), on_progress=kill)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr
    assert not list(tmp_path.glob("*.tmp"))
    resumed = run(dataclasses.replace(TINY, checkpoint_seconds=0), tmp_path, resume=True)
    assert_same_weights(resumed, unbroken)


@pytest.mark.slow
def test_save_that_fails_half_way_keeps_the_checkpoint_before(
    unbroken: Method, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(TINY, checkpoint_seconds=0)
    saves, save = [0], torch.save

    def fill_the_disk(state: object, file: BinaryIO) -> None:
        saves[0] += 1
        if saves[0] == 2:
            file.write(b"the beginning of a checkpoint")
            raise OSError("no space left")
        save(state, file)

    monkeypatch.setattr(torch, "save", fill_the_disk)
    with pytest.raises(OSError, match="no space left"):
        run(config, tmp_path)
    monkeypatch.undo()

    assert_same_weights(run(config, tmp_path, resume=True), unbroken)


@pytest.mark.slow
def test_resume_without_a_checkpoint_starts_afresh(unbroken: Method, tmp_path: Path) -> None:
    assert_same_weights(run(TINY, tmp_path / "new", resume=True), unbroken)


@pytest.mark.slow
def test_without_resume_an_old_checkpoint_is_ignored(unbroken: Method, tmp_path: Path) -> None:
    run(dataclasses.replace(TINY, seed=99), tmp_path)
    assert_same_weights(run(TINY, tmp_path), unbroken)


@pytest.mark.slow
def test_checkpoint_of_other_settings_is_refused_and_the_setting_is_named(tmp_path: Path) -> None:
    run(TINY, tmp_path)
    with pytest.raises(CheckpointMismatch, match=r"lr was 0\.002 and is now 0\.001"):
        run(dataclasses.replace(TINY, lr=1e-3), tmp_path, resume=True)


@pytest.mark.slow
def test_checkpoint_of_other_images_is_refused(tmp_path: Path) -> None:
    run(TINY, tmp_path)
    method = untrained(TINY, [random_teacher("efficientnet_lite0")])
    with pytest.raises(CheckpointMismatch, match="images"):
        fit(parts(9), parts(4), TINY, tmp_path, resume=True, method=method)


@pytest.mark.parametrize(("train", "reference", "message"), [(1, 4, "training"), (8, 0, "reference")])
def test_too_few_images_are_refused(tmp_path: Path, train: int, reference: int, message: str) -> None:
    with pytest.raises(TooFewImages, match=message):
        fit(parts(8)[:train], parts(8)[:reference], TINY, tmp_path)


def test_unknown_method_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UnknownMethod, match="drd"):
        run(dataclasses.replace(TINY, method="magic"), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_size": 250}, "multiple of 32"),
        ({"iterations": -1}, "iterations"),
        ({"batch_size": 0}, "batch_size"),
        ({"pseudo_share": 1.5}, "pseudo_share"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidFitConfig, match=message):
        dataclasses.replace(TINY, **change)


@pytest.mark.slow
def test_progress_counts_and_estimates(tmp_path: Path) -> None:
    seen: list[Progress] = []
    run(TINY, tmp_path, on_progress=seen.append)
    assert [p.step for p in seen] == [1, 2, 3, 4, 5, 6]
    assert all(p.steps == 6 and p.images_per_second > 0 for p in seen)
    assert seen[-1].eta_s == 0
    assert {"loss", "distil", "restore"} <= seen[0].losses.keys()


@pytest.mark.slow
def test_speed_is_that_of_the_last_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second per step for ten steps, then a quarter of a second: after 20 of those the first ten do not count."""
    clock = [0.0]
    step_seconds = {step: 1.0 if step < 10 else 0.25 for step in range(40)}

    def descend(run: _Run, _batch: object) -> dict[str, float]:
        clock[0] += step_seconds[run.step]
        run.step += 1
        return {"loss": 0.0}

    monkeypatch.setattr(_Run, "descend", descend)
    monkeypatch.setattr("training.fit.time.monotonic", lambda: clock[0])
    seen: list[Progress] = []
    run(dataclasses.replace(TINY, iterations=40, batch_size=8), tmp_path, on_progress=seen.append)

    assert RATE_STEPS == 20
    assert seen[4].images_per_second == pytest.approx(8)
    assert seen[19].images_per_second == pytest.approx(20 * 8 / 12.5)
    assert seen[29].images_per_second == seen[39].images_per_second == pytest.approx(32)
    assert seen[29].eta_s == pytest.approx(10 * 0.25)


@pytest.mark.slow
def test_checkpoint_holds_no_code(tmp_path: Path) -> None:
    run(TINY, tmp_path)
    assert torch.load(tmp_path / CHECKPOINT_NAME, weights_only=True)["step"] == 6


def test_learning_rate_warms_up_and_falls() -> None:
    rates = [learning_rate(step, dataclasses.replace(TINY, iterations=100, warmup_steps=10)) for step in range(100)]
    assert rates[9] == pytest.approx(TINY.lr)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.02 * TINY.lr


def test_every_stage_has_a_learning_rate_curve_of_its_own() -> None:
    config = dataclasses.replace(TINY, iterations=100, warmup_steps=10)
    rates = [learning_rate(step, config, (0.6, 1.0)) for step in range(100)]
    assert rates[9] == rates[69] == pytest.approx(TINY.lr)
    assert rates[59] < 0.02 * TINY.lr < rates[60] < rates[69]
    assert rates[99] < 0.02 * TINY.lr


def test_average_follows_trained_weights_and_statistics_only() -> None:
    conv, norm = torch.nn.Conv2d(1, 1, 1), torch.nn.BatchNorm2d(1)
    assert conv.bias is not None
    conv.bias.requires_grad_(False)
    module = torch.nn.Sequential(conv, norm)
    average = ExponentialAverage(module, decay=0.5)
    assert set(average.shadow) == {"0.weight", "1.weight", "1.bias", "1.running_mean", "1.running_var"}
    before = conv.weight.detach().clone()
    with torch.no_grad():
        conv.weight += 2
    average.update(module, step=1000)
    average.copy_to(module)
    torch.testing.assert_close(conv.weight.detach(), before + 1)


def test_average_is_a_linear_interpolation_with_warm_up() -> None:
    module = torch.nn.Linear(3, 3)
    average = ExponentialAverage(module, decay=0.9)
    expected = module.weight.detach().clone()
    for step in range(150):
        with torch.no_grad():
            module.weight += torch.randn(3, 3)
        average.update(module, step)
        expected.lerp_(module.weight.detach(), 1 - min(0.9, (1 + step) / (10 + step)))
    assert torch.equal(average.shadow["weight"], expected)


def test_fingerprint_differs_between_images() -> None:
    assert fingerprint(parts(2)) == fingerprint(parts(2))
    assert fingerprint(parts(2)) != fingerprint(parts(2, seed=5))
