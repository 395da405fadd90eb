"""The training loop: fixed iterations, averaged weights, exact resume."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import pickle
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.cached_views import Views
from training.config import FitConfig
from training.ema import ExponentialAverage
from training.errors import CheckpointMismatch, TooFewImages
from training.methods import build_method
from training.methods.base import Batch, Method
from training.pixels import in_chunks
from training.teachers import Teacher, load_teacher

CHECKPOINT_NAME = "checkpoint.pt"


@dataclass(frozen=True)
class Progress:
    """What `on_progress` is told after every step.

    Attributes:
        step: steps done, 1..`steps`.
        steps: steps of the whole run.
        losses: this step's losses by name.
        images_per_second: good images trained on per second, over the last steps.
        eta_s: estimated seconds until the last step.
    """

    step: int
    steps: int
    losses: dict[str, float]
    images_per_second: float
    eta_s: float


def fit(
    images: NDArray[np.uint8],
    reference: NDArray[np.uint8],
    config: FitConfig,
    run_dir: Path,
    *,
    resume: bool = False,
    on_progress: Callable[[Progress], None] = lambda _: None,
    on_measured: Callable[[int], None] = lambda _: None,
    teachers: Sequence[Teacher] | None = None,
) -> Method:
    """Trains a method on good images and measures the constants of its map.

    Args:
        images: uint8 `[N, S, S, 3]`, RGB, good images to train on.
        reference: uint8 `[M, S, S, 3]`, RGB, good images to measure the map's constants on. Not those of the
            calibration card: the score must not depend on the images that certify its threshold.
        config: the settings; S is `config.input_size`.
        run_dir: holds the checkpoint; made if missing.
        resume: go on from the checkpoint if there is one; the result is the unbroken run's, bit by bit.
        on_progress: called after every step.
        on_measured: called with 1 when the weights are final and what they need of the images is remembered, with 2
            when the map's constants are measured too.
        teachers: ready teachers instead of `config.teachers`, for tests.

    Returns:
        The method with averaged weights, in evaluation mode on float32.

    Raises:
        TooFewImages: fewer than 2 images to train on or no reference.
        CheckpointMismatch: the checkpoint is of other images or settings.
        TeacherWeightsUnavailable: see `load_teacher`.
    """
    if len(images) < 2:
        raise TooFewImages(len(images), 2, "training")
    if len(reference) < 1:
        raise TooFewImages(len(reference), 1, "reference")
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    method = build_method(config, load_teachers(config) if teachers is None else teachers)
    method.to(memory_format=torch.channels_last)
    views = Views.make(images, config, lambda pool: _frozen_features(method, pool, config))
    method.prepare(views.frozen)
    run = _Run(method, config, fingerprint(images))
    path = run_dir / CHECKPOINT_NAME
    run_dir.mkdir(parents=True, exist_ok=True)
    if not resume:
        # An older run's checkpoint must not be what a later --resume goes on from.
        path.unlink(missing_ok=True)
    elif path.exists():
        run.load(path)

    method.train()
    saved = started = time.monotonic()
    first = run.step
    try:
        while run.step < config.iterations:
            # torch's own chance (dropout, feature noise) follows the step, so that a resumed run needs no memory of it.
            torch.manual_seed(int(np.random.default_rng((config.seed, run.step)).integers(2**63)))
            losses = run.descend(views.batch(config, run.step))
            rate = (run.step - first) / max(time.monotonic() - started, 1e-9)
            on_progress(
                Progress(
                    step=run.step,
                    steps=config.iterations,
                    losses=losses,
                    images_per_second=rate * config.batch_size,
                    eta_s=(config.iterations - run.step) / rate,
                )
            )
            # After the report: whoever wants to stop says so there, between two steps, and not while this is written.
            if time.monotonic() - saved >= config.checkpoint_seconds:
                run.save(path)
                saved = time.monotonic()
    except KeyboardInterrupt:
        # In the middle of a step some weights have moved and some have not: the last whole checkpoint is worth more.
        if run.between_steps:
            run.save(path)
        raise
    run.save(path)
    run.ema.copy_to(method)
    method.eval().to(memory_format=torch.contiguous_format)
    method.consolidate(views.images, views.frozen)
    on_measured(1)
    method.calibrate(reference)
    on_measured(2)
    return method


def fingerprint(images: NDArray[np.uint8]) -> str:
    """sha256 (hex) of the shape and the pixels of prepared images: tells whether a run saw the same images."""
    digest = hashlib.sha256(repr(images.shape).encode())
    digest.update(np.ascontiguousarray(images).data)
    return digest.hexdigest()


class _Run:
    """Everything that changes while training: weights, optimiser, average, step."""

    def __init__(self, method: Method, config: FitConfig, images_fingerprint: str) -> None:
        self.method, self.config, self.step = method, config, 0
        self.between_steps = True
        self.identity = {"images": images_fingerprint, "torch": str(torch.__version__), **config.as_json()}
        del self.identity["checkpoint_seconds"]  # how often a run is saved changes nothing in it
        trained = [p for p in method.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=config.lr, weight_decay=config.weight_decay, fused=True)
        self.ema = ExponentialAverage(method, config.ema_decay)

    def descend(self, batch: Batch) -> dict[str, float]:
        config = self.config
        self.between_steps = False
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, config, self.method.stages)
        with _precision(config):
            losses = self.method.training_step(batch)
        self.optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.optimizer.param_groups[0]["params"], config.clip_norm)
        self.optimizer.step()
        self.ema.update(self.method, self.step)
        self.step += 1
        self.between_steps = True
        return {name: float(value.detach()) for name, value in losses.items()}

    def save(self, path: Path) -> None:
        """Writes the checkpoint so that a kill at any moment leaves a whole one behind."""
        state = {
            "identity": self.identity,
            "step": self.step,
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.shadow,
        }
        scratch = path.with_suffix(".tmp")
        with scratch.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)

    def load(self, path: Path) -> None:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise CheckpointMismatch(path, [f"the file cannot be read ({error})"]) from error
        differences = [
            f"{name} was {state['identity'].get(name)!r} and is now {value!r}"
            for name, value in self.identity.items()
            if state["identity"].get(name) != value
        ]
        if differences:
            raise CheckpointMismatch(path, differences)
        self.method.load_state_dict(state["method"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema.shadow = state["ema"]
        self.step = state["step"]


def load_teachers(config: FitConfig) -> list[Teacher]:
    """The frozen networks that the settings name.

    Raises:
        UnknownTeacher, TeacherWeightsUnavailable: see `load_teacher`.
    """
    files: Sequence[Path | None] = config.teacher_weights or [None] * len(config.teachers)
    return [load_teacher(name, file) for name, file in zip(config.teachers, files, strict=True)]


def learning_rate(step: int, config: FitConfig, stages: Sequence[float] = (1.0,)) -> float:
    """Linear warm-up, then half a cosine down to 1 % of the highest rate; anew in every stage.

    Args:
        step: from 0.
        config: the highest rate, the warm-up, the steps of the whole run.
        stages: shares of the run after which a stage ends, ascending, the last one 1.
    """
    ends = [0, *(round(share * config.iterations) for share in stages)]
    stage = next((i for i, end in enumerate(ends[1:]) if step < end), len(stages) - 1)
    step, length = step - ends[stage], ends[stage + 1] - ends[stage]
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, length - config.warmup_steps)
    return config.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def _precision(config: FitConfig) -> contextlib.AbstractContextManager[Any]:
    return torch.autocast("cpu", torch.bfloat16, enabled=_computes_in_bfloat16(config))


def _computes_in_bfloat16(config: FitConfig) -> bool:
    if config.precision == "auto":
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return config.precision == "bfloat16"


@torch.no_grad()
def _frozen_features(method: Method, images: NDArray[np.uint8], config: FitConfig) -> list[Tensor]:
    """Frozen features of a whole pool. In training precision: the loss is no more exact than that."""
    dtype = torch.bfloat16 if _computes_in_bfloat16(config) else torch.float32
    with _precision(config):
        chunks = [[f.to(dtype) for f in method.frozen_features(pixels)] for pixels in in_chunks(images)]
    return [torch.cat(level) for level in zip(*chunks, strict=True)]
