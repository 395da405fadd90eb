"""The training loop: a fixed number of steps, averaged weights, exact resume."""

from __future__ import annotations

import hashlib
import math
import os
import pickle
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.cached_views import Views
from training.config import FitConfig
from training.device import batch_to, default_device, mixed_precision, resolve_device, uses_bfloat16
from training.ema import ExponentialAverage
from training.errors import CheckpointMismatch, TooFewImages
from training.methods import build_method
from training.methods.base import Batch, Method
from training.pixels import in_chunks, map_chunks
from training.run_record import CurvePoint, TrainingCurve
from training.teachers import Teacher, load_teacher

CHECKPOINT_NAME = "checkpoint.pt"
RATE_STEPS = 20  # the speed is measured over this many steps


@dataclass(frozen=True)
class Progress:
    """The state of a run after a step.

    Attributes:
        step: Finished steps, 1..`steps`.
        steps: Steps of the whole run.
        losses: The step's losses by name.
        images_per_second: Good images trained on per second, over the last `RATE_STEPS` steps of this process.
        eta_s: Estimated time until the last step, seconds, at this speed.
    """

    step: int
    steps: int
    losses: dict[str, float]
    images_per_second: float
    eta_s: float


def untrained(config: FitConfig, teachers: Sequence[Teacher] | None = None) -> Method:
    """Build the method of a run with its initial weights, which depend on the seed.

    Args:
        config: Settings of the run.
        teachers: Loaded teachers to use instead of `config.teachers`.

    Raises:
        UnknownMethod, UnknownTeacher, WrongTeachers, TeacherWeightsUnavailable, InvalidFitConfig: See their messages.
    """
    torch.manual_seed(config.seed)
    return build_method(config, load_teachers(config) if teachers is None else teachers)


def fit(
    images: NDArray[np.uint8],
    reference: NDArray[np.uint8],
    config: FitConfig,
    run_dir: Path,
    *,
    method: Method | None = None,
    resume: bool = False,
    on_progress: Callable[[Progress], None] = lambda _: None,
    on_measured: Callable[[int], None] = lambda _: None,
    on_curve: Callable[[list[CurvePoint]], None] = lambda _: None,
    should_stop: Callable[[Progress], bool] = lambda _: False,
) -> Method:
    """Train a method on good images and measure the constants of its map.

    Training runs on `config.device`; the constants are measured on the CPU.

    Args:
        images: uint8 `[N, S, S, 3]`, RGB, good images to train on.
        reference: uint8 `[M, S, S, 3]`, RGB, good images to measure the map's constants on. They must not be images of
            the calibration card: the score must not depend on the images that certify its threshold.
        config: Settings of the run; S is `config.input_size`.
        run_dir: Folder of the checkpoint; created if missing.
        method: The result of `untrained(config)`, if it was built before. It is trained in place.
        resume: Continue from the checkpoint if there is one. On a CPU the result equals that of an uninterrupted run,
            bit by bit.
        on_progress: Called after every step.
        on_measured: Called with 1 when the weights and the memory banks are final, with 2 when the map's constants are
            measured.
        on_curve: Called once, after the last step, with the losses of the whole run, also of the steps before it was
            resumed.
        should_stop: Called after every step, after `on_progress`. If it returns True, the checkpoint is written and
            the run ends with `KeyboardInterrupt`.

    Returns:
        The method with averaged weights, on the CPU, in evaluation mode and float32.

    Raises:
        TooFewImages: There are fewer than 2 images to train on, or no reference image.
        CheckpointMismatch: The checkpoint belongs to other images or settings.
        DeviceUnavailable: `config.device` is "cuda" and there is no CUDA GPU.
        TeacherWeightsUnavailable: See `load_teacher`.
        KeyboardInterrupt: `should_stop` returned True, or the process was interrupted.
    """
    if len(images) < 2:
        raise TooFewImages(len(images), 2, "training")
    if len(reference) < 1:
        raise TooFewImages(len(reference), 1, "reference")
    device = torch.device(resolve_device(config.device))
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    method = untrained(config) if method is None else method
    method.to(device).to(memory_format=torch.channels_last)
    views = Views.make(images, config, lambda pool: _frozen_features(method, pool, config, device))
    method.prepare(views.frozen)
    path = run_dir / CHECKPOINT_NAME
    run_dir.mkdir(parents=True, exist_ok=True)
    if not resume:
        # A later --resume must not continue from the checkpoint of an older run.
        path.unlink(missing_ok=True)
    if method.learns:
        run = _Run(method, config, device, fingerprint(images))
        if resume and path.exists():
            run.load(path)
        run.complete(views, path, on_progress, should_stop)
        on_curve(run.curve.points())
        run.ema.copy_to(method)
    method.eval().cpu().to(memory_format=torch.contiguous_format)
    method.consolidate(views.images, views.frozen)
    on_measured(1)
    method.calibrate(reference)
    on_measured(2)
    return method


def fingerprint(images: NDArray[np.uint8]) -> str:
    """Return the sha256 (hex) of the shape and the pixels of prepared images; it identifies a run's images."""
    digest = hashlib.sha256(repr(images.shape).encode())
    digest.update(np.ascontiguousarray(images).data)
    return digest.hexdigest()


class _Speed:
    """Steps per second over the last `RATE_STEPS` steps."""

    def __init__(self) -> None:
        self._times = deque([time.monotonic()], maxlen=RATE_STEPS + 1)

    def after_step(self) -> float:
        self._times.append(time.monotonic())
        return (len(self._times) - 1) / max(self._times[-1] - self._times[0], 1e-9)


class _Run:
    """The state that training changes: weights, optimizer, average, step."""

    def __init__(self, method: Method, config: FitConfig, device: torch.device, images_fingerprint: str) -> None:
        self.method, self.config, self.device, self.step = method, config, device, 0
        self.between_steps = True
        self.identity = {"images": images_fingerprint, "torch": str(torch.__version__), **config.as_json()}
        # Neither the time between checkpoints nor the device makes it another run: a run may continue elsewhere.
        del self.identity["checkpoint_seconds"], self.identity["device"]
        trained = [p for p in method.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=config.lr, weight_decay=config.weight_decay, fused=True)
        self.ema = ExponentialAverage(method, config.ema_decay)
        self.curve = TrainingCurve(config.iterations)

    def complete(
        self,
        views: Views,
        path: Path,
        on_progress: Callable[[Progress], None],
        should_stop: Callable[[Progress], bool],
    ) -> None:
        """Do the remaining steps, with checkpoints in between.

        Args:
            views: The training data.
            path: File of the checkpoint.
            on_progress: As for `fit`.
            should_stop: As for `fit`.

        Raises:
            KeyboardInterrupt: As for `fit`.
        """
        config = self.config
        self.method.train()
        saved = time.monotonic()
        speed = _Speed()
        try:
            while self.step < config.iterations:
                # Random numbers of torch (dropout, feature noise) depend on the step alone, so that a checkpoint need
                # not store the generator's state.
                torch.manual_seed(int(np.random.default_rng((config.seed, self.step)).integers(2**63)))
                losses = self.descend(views.batch(config, self.step))
                steps_per_second = speed.after_step()
                progress = Progress(
                    step=self.step,
                    steps=config.iterations,
                    losses=losses,
                    images_per_second=steps_per_second * config.batch_size,
                    eta_s=(config.iterations - self.step) / steps_per_second,
                )
                on_progress(progress)
                if should_stop(progress):
                    raise KeyboardInterrupt
                if time.monotonic() - saved >= config.checkpoint_seconds:
                    self.save(path)
                    saved = time.monotonic()
        except KeyboardInterrupt:
            # Within a step some weights are updated and others are not; then the last complete checkpoint is kept.
            if self.between_steps:
                self.save(path)
            raise
        self.save(path)

    def descend(self, batch: Batch) -> dict[str, float]:
        """Do one step and return its losses."""
        config = self.config
        self.between_steps = False
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, config, self.method.stages)
        with default_device(self.device), mixed_precision(config, self.device):
            losses = self.method.training_step(batch_to(batch, self.device))
        self.optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.optimizer.param_groups[0]["params"], config.clip_norm)
        self.optimizer.step()
        self.ema.update(self.method, self.step)
        values = {name: float(value.detach()) for name, value in losses.items()}
        self.step += 1
        self.curve.add(self.step, values)
        self.between_steps = True
        return values

    def save(self, path: Path) -> None:
        """Write the checkpoint atomically: a process that is killed leaves the previous checkpoint complete."""
        state = {
            "identity": self.identity,
            "step": self.step,
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.shadow,
            "curve": self.curve.state(),
        }
        scratch = path.with_suffix(".tmp")
        with scratch.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)

    def load(self, path: Path) -> None:
        """Restore a checkpoint, which may have been written on another device."""
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise CheckpointMismatch(path, ["the file is damaged or not a checkpoint"]) from error
        differences = [
            f"{name} was {state['identity'].get(name)!r} and is now {value!r}"
            for name, value in self.identity.items()
            if state["identity"].get(name) != value
        ]
        if differences:
            raise CheckpointMismatch(path, differences)
        try:
            self.method.load_state_dict(state["method"])
        except RuntimeError as error:  # layers were renamed, added or removed since
            raise CheckpointMismatch(path, ["another version of Plumbline wrote it"]) from error
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema.load(state["ema"])
        self.curve.restore(state.get("curve", {}))  # earlier versions stored none; then the curve begins here
        self.step = state["step"]


def load_teachers(config: FitConfig) -> list[Teacher]:
    """Load the frozen networks of the settings.

    Raises:
        UnknownTeacher, TeacherWeightsUnavailable: See `load_teacher`.
    """
    files: Sequence[Path | None] = config.teacher_weights or [None] * len(config.teachers)
    return [load_teacher(name, file) for name, file in zip(config.teachers, files, strict=True)]


def learning_rate(step: int, config: FitConfig, stages: Sequence[float] = (1.0,)) -> float:
    """Return the learning rate of a step: linear warm-up, then half a cosine down to 1 % of `config.lr`, per stage.

    Args:
        step: Number of the step, from 0.
        config: Highest rate, steps of warm-up, steps of the whole run.
        stages: Shares of the run after which a stage ends, ascending, the last one 1.
    """
    ends = [0, *(round(share * config.iterations) for share in stages)]
    stage = next((i for i, end in enumerate(ends[1:]) if step < end), len(stages) - 1)
    step, length = step - ends[stage], ends[stage + 1] - ends[stage]
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, length - config.warmup_steps)
    return config.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def warm_up_ends(config: FitConfig, stages: Sequence[float] = (1.0,)) -> int:
    """Return the smallest number of steps with which every stage is longer than its warm-up.

    Args:
        config: Steps of warm-up.
        stages: As in `learning_rate`.
    """
    steps = config.warmup_steps + 1
    while any(
        round(end * steps) - round(start * steps) <= config.warmup_steps
        for start, end in zip((0.0, *stages), stages, strict=False)
    ):
        steps += 1
    return steps


@torch.no_grad()
def _frozen_features(
    method: Method, images: NDArray[np.uint8], config: FitConfig, device: torch.device
) -> list[Tensor]:
    """Compute the frozen features of a pool on the device and keep them in main memory.

    They are stored in the precision of training, because the losses are not more precise than that.
    """
    dtype = torch.bfloat16 if uses_bfloat16(config.precision, device) else torch.float32

    def features(pixels: Tensor) -> list[Tensor]:
        with mixed_precision(config, device):
            return [level.to("cpu", dtype) for level in method.frozen_features(pixels.to(device))]

    # One thread feeds a GPU.
    chunks = map_chunks(features, images) if device.type == "cpu" else map(features, in_chunks(images))
    return [torch.cat(level) for level in zip(*chunks, strict=True)]
