"""The device of a training: selection, precision, transfer. No GPU is needed: `meta` tensors stand in for it."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.training.test_fit import TINY, assert_same_weights, parts
from training.cached_views import Views
from training.comparison.cells import Cell
from training.config import FitConfig
from training.device import batch_to, default_device, mixed_precision, resolve_device, uses_bfloat16
from training.errors import DeviceUnavailable
from training.fit import CHECKPOINT_NAME, _frozen_features, _Run, fit, untrained
from training.methods import METHODS, fit_config
from training.teachers import random_teacher

CPU, CUDA, META = torch.device("cpu"), torch.device("cuda"), torch.device("meta")


@pytest.mark.parametrize(
    ("requested", "available", "expected"),
    [("auto", False, "cpu"), ("auto", True, "cuda"), ("cpu", True, "cpu"), ("cuda", True, "cuda")],
)
def test_device_is_selected_by_availability(
    requested: Any, available: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    assert resolve_device(requested) == expected


def test_cuda_without_a_gpu_is_refused_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceUnavailable, match=r"NVIDIA driver .*--device cpu"):
        fit(parts(8), parts(4), dataclasses.replace(TINY, device="cuda"), tmp_path)


@pytest.mark.parametrize("supported", [False, True])
def test_automatic_precision_depends_on_the_device(supported: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: supported and not including_emulation
    )
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": supported, "avx2": True})
    for device in (CPU, CUDA):
        assert uses_bfloat16("auto", device) is supported
        assert uses_bfloat16("bfloat16", device)
        assert not uses_bfloat16("float32", device)


def test_networks_compute_in_the_chosen_precision() -> None:
    x = torch.ones(2, 2)
    with mixed_precision(FitConfig(precision="bfloat16"), CPU):
        assert (x @ x).dtype == torch.bfloat16
    with mixed_precision(FitConfig(precision="float32"), CPU):
        assert (x @ x).dtype == torch.float32


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(METHODS))
@pytest.mark.parametrize("step", [0, 9], ids=["first-stage", "last-stage"])
def test_training_step_keeps_every_tensor_on_the_device(name: str, step: int) -> None:
    config = fit_config(name, input_size=64, iterations=10, batch_size=4, pseudo_pool=4, precision="float32")
    method = untrained(config, [random_teacher(teacher) for teacher in config.teachers])
    views = Views.make(parts(4), config, lambda pool: _frozen_features(method, pool, config, CPU))
    batch = views.batch(config, step)
    assert {tensor.device for tensor in (batch.clean, *batch.frozen)} == {CPU}
    method.to(META)
    method.prepare(views.frozen)  # from features in main memory, as in `fit`
    method.train()

    with default_device(META):
        losses = method.training_step(batch_to(batch, META))
        losses["loss"].backward()  # type: ignore[no-untyped-call]

    assert {loss.device for loss in losses.values()} == {META}
    gradients = [p.grad for p in method.parameters() if p.requires_grad and p.grad is not None]
    assert gradients
    assert {gradient.device for gradient in gradients} == {META}


def test_cpu_needs_no_default_device() -> None:
    with default_device(CPU):
        assert torch.zeros(1).device == CPU
    with default_device(META):
        assert torch.zeros(1).device == META


@pytest.mark.slow
def test_device_is_no_part_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run, or a comparison, may continue on another machine."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    teacher = [random_teacher("efficientnet_lite0")]
    automatic = dataclasses.replace(TINY, device="auto")
    whole = fit(parts(8), parts(4), TINY, tmp_path / "whole", method=untrained(TINY, teacher))
    with pytest.raises(KeyboardInterrupt):
        fit(
            *(parts(8), parts(4), automatic, tmp_path / "run"),
            method=untrained(automatic, teacher),
            should_stop=lambda progress: progress.step == 3,
        )
    resumed = fit(parts(8), parts(4), TINY, tmp_path / "run", method=untrained(TINY, teacher), resume=True)

    assert_same_weights(resumed, whole)
    assert Cell("part", TINY).identity() == Cell("part", automatic).identity()


def test_checkpoint_is_read_into_main_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint of a GPU must load on a machine without one; the state is then copied to the run's device."""
    method = untrained(TINY, [random_teacher("efficientnet_lite0")])
    run = _Run(method, TINY, CPU, "images")
    run.save(tmp_path / CHECKPOINT_NAME)
    shadow = {name: value.data_ptr() for name, value in run.ema.shadow.items()}
    locations: list[str] = []
    load = torch.load

    def recorded(path: Path, *, map_location: str, weights_only: bool) -> Any:
        locations.append(map_location)
        return load(path, map_location=map_location, weights_only=weights_only)

    monkeypatch.setattr(torch, "load", recorded)
    run.load(tmp_path / CHECKPOINT_NAME)

    assert locations == ["cpu"]
    # Values are copied into the tensors of the run's device, which are not replaced by those of the file.
    assert {name: value.data_ptr() for name, value in run.ema.shadow.items()} == shadow


@pytest.mark.slow
def test_trained_method_is_on_the_cpu(tmp_path: Path) -> None:
    method = fit(parts(8), parts(4), TINY, tmp_path, method=untrained(TINY, [random_teacher("efficientnet_lite0")]))
    assert {tensor.device for tensor in (*method.parameters(), *method.buffers())} == {CPU}
    assert np.isfinite(method(torch.from_numpy(parts(1)))[0].detach().numpy()).all()
