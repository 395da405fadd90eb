"""Dual teacher: SSIM by windows, reconstruction from the code alone, nearest distance, stages, two teachers."""

import dataclasses

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.training.methods.batches import batch_of, random_images
from training.blocks import ChannelSpatialAttention
from training.config import FitConfig
from training.errors import WrongTeachers
from training.losses import structural_difference
from training.maps import PyramidDistance, cosine_distance, nearest_distance
from training.methods import build_method, fit_config
from training.methods.dual_teacher import DualTeacherDistillation, DualTeacherOptions
from training.pixels import in_chunks
from training.teachers import random_teacher

SMALL = DualTeacherOptions(width=8, code=16, banks=False, reduction=1.0)


@pytest.fixture
def method() -> DualTeacherDistillation:
    torch.manual_seed(0)
    # Teachers of two families, because their channels differ.
    method = DualTeacherDistillation([random_teacher("efficientnet_lite0"), random_teacher("resnet18")], SMALL)
    method.prepare(method.frozen_features(torch.cat(list(in_chunks(random_images(4))))))
    return method.eval()


def naive_structural_difference(a: NDArray[np.float64], b: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Compute 1 - SSIM per window and channel from the definition; `[C, H, W]` -> `[H / p, W / p]`."""
    out = np.zeros((a.shape[1] // window, a.shape[2] // window))
    for row, column in np.ndindex(*out.shape):
        region = np.s_[:, row * window : (row + 1) * window, column * window : (column + 1) * window]
        for x, y in zip(a[region], b[region], strict=True):
            cov = ((x - x.mean()) * (y - y.mean())).mean()
            level = (2 * x.mean() * y.mean() + 1e-4) / (x.mean() ** 2 + y.mean() ** 2 + 1e-4)
            out[row, column] += 1 - level * (2 * cov + 9e-4) / (x.var() + y.var() + 9e-4)
    return out / len(a)


@pytest.mark.parametrize("window", [2, 4, 8])
def test_structural_difference_equals_the_definition(window: int) -> None:
    rng = np.random.default_rng(0)
    a = rng.uniform(0, 1, (3, 16, 24))
    b = np.clip(a + rng.normal(0, 0.2, a.shape), 0, 1)
    measured = structural_difference(torch.from_numpy(a)[None], torch.from_numpy(b)[None], window)
    assert measured.dtype == torch.float32
    np.testing.assert_allclose(measured[0, 0], naive_structural_difference(a, b, window), atol=1e-4)


def test_equal_images_have_no_difference_even_where_they_are_constant() -> None:
    image = torch.full((1, 3, 16, 16), 0.7)
    image[..., :8] = torch.rand(1, 3, 16, 8)
    assert float(structural_difference(image, image, 4).abs().max()) < 1e-5


@pytest.mark.parametrize("floor", [0.0, 0.7])
@pytest.mark.parametrize("shift", [(0, 1), (1, 0), (-1, 1), (-1, -1)])
def test_nearest_distance_tolerates_a_shift_of_one_cell_and_not_of_two(shift: tuple[int, int], floor: float) -> None:
    a = torch.randn(2, 5, 8, 8)
    inside = np.s_[..., 2:-2, 2:-2]
    assert float(nearest_distance(a, a.roll(shift, (2, 3)), floor)[inside].max()) < 1e-6
    twice = (2 * shift[0], 2 * shift[1])
    assert float(nearest_distance(a, a.roll(twice, (2, 3)), floor)[inside].min()) > 1e-3


def test_nearest_distance_is_at_most_the_distance_to_the_same_cell() -> None:
    a, b = torch.randn(2, 5, 8, 8), torch.randn(2, 5, 8, 8)
    b[:, :, :4] *= 0.1  # the floor's channel must move with its cell
    same, nearest = (
        cosine_distance(a, b, 0.5),
        nearest_distance(a, b, 0.5),
    )
    assert bool((nearest <= same + 1e-6).all())
    constant = torch.nn.functional.interpolate(torch.randn(1, 5, 1, 1), size=(4, 4))
    torch.testing.assert_close(
        nearest_distance(a[:1, :, :4, :4], constant), cosine_distance(a[:1, :, :4, :4], constant)
    )


def test_nearest_pyramid_distance_uses_the_energy_floor() -> None:
    levels = [torch.randn(2, 5, 8, 8)]
    distance = PyramidDistance(1, 0.5, nearest=True)
    distance.measure(levels)
    expected = nearest_distance(levels[0], levels[0].roll(2, 3), 0.5 * levels[0].square().sum(1).mean())
    torch.testing.assert_close(distance(levels, [levels[0].roll(2, 3)])[0], expected)


def test_attention_reduces_values_and_keeps_their_sign() -> None:
    x = torch.randn(2, 8, 6, 6)
    with torch.no_grad():
        gate = ChannelSpatialAttention(8)(x) / x
    assert 0 < float(gate.min()) <= float(gate.max()) < 1


def test_features_of_both_teachers_are_predicted_in_their_own_shapes(method: DualTeacherDistillation) -> None:
    features = method.frozen_features(torch.rand(2, 3, 64, 64))
    predicted, reconstructed, image = method.students(method.input_scaler(features[:3]))
    shapes = [feature.shape for feature in features]
    assert shapes[1][1] != shapes[3][1]
    assert [f.shape for f in reconstructed] == shapes[1:]
    assert [f.shape for f in predicted] == shapes[3:]
    assert image.shape == (2, 3, 16, 16)
    assert method.teachers == ["efficientnet_lite0", "resnet18"]


def test_reconstruction_depends_on_the_code_alone(method: DualTeacherDistillation) -> None:
    def constant_code(module: torch.nn.Module, inputs: object, output: Tensor) -> Tensor:
        del module, inputs
        return torch.ones_like(output)

    one, other = (method.input_scaler(method.frozen_features(torch.rand(1, 3, 64, 64))[:3]) for _ in range(2))
    method.encoder.squeeze.register_forward_hook(constant_code)
    with torch.no_grad():
        (predicted, reconstructed, image), (predicted2, reconstructed2, image2) = (
            method.students(one),
            method.students(other),
        )
    assert not torch.equal(predicted[0], predicted2[0])
    assert torch.equal(image, image2)
    assert all(torch.equal(a, b) for a, b in zip(reconstructed, reconstructed2, strict=True))


def test_image_loss_is_added_in_the_second_stage(method: DualTeacherDistillation) -> None:
    method.train()
    batch = dataclasses.replace(batch_of(method, 2), steps=100)
    border = round(100 * method.stages[0])
    before = method.training_step(dataclasses.replace(batch, step=border - 1))
    after = method.training_step(dataclasses.replace(batch, step=border))
    assert "image" not in before
    assert float(after["image"].detach()) > 0
    after["loss"].backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None for p in method.encoder.squeeze.parameters())


def test_synthetic_images_have_clean_targets(method: DualTeacherDistillation) -> None:
    batch = batch_of(method, 2)
    # The second teacher's features of the synthetic images are neither an input nor a target.
    masked = [*batch.synthetic_frozen[:3], *(torch.full_like(f, torch.nan) for f in batch.synthetic_frozen[3:])]
    assert bool(torch.isfinite(method.training_step(dataclasses.replace(batch, synthetic_frozen=masked))["loss"]))
    assert "restore" not in method.training_step(batch_of(method, 0))


def test_only_students_are_trained(method: DualTeacherDistillation) -> None:
    trained = {name.split(".")[0] for name, p in method.named_parameters() if p.requires_grad}
    assert trained == {"encoder", "decoder", "prediction", "reconstruction"}


@pytest.mark.slow
def test_every_distance_is_calibrated_and_the_map_is_never_negative(method: DualTeacherDistillation) -> None:
    method.calibrate(random_images(4, seed=1))
    spread = method.get_buffer("fusion.spread")
    assert len(spread) == 7
    assert not bool((spread == 1).any())
    with torch.no_grad():
        anomaly_map, gain = method(torch.from_numpy(random_images(2)))
    assert anomaly_map.shape == (2, 8, 8)
    assert float(anomaly_map.min()) >= 0
    assert gain is None


def test_two_teachers_are_required() -> None:
    config = fit_config("dual_teacher")
    assert config.teachers == ("efficientnet_lite0", "efficientnet_lite2")
    with pytest.raises(WrongTeachers):
        build_method(FitConfig(method="dual_teacher"), [random_teacher("efficientnet_lite0")])
