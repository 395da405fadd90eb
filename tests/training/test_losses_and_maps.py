"""Distances, loss reductions, fusion and smoothing against plain numpy."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.losses import channel_loss, flat_loss, hard_mined_loss, point_loss, ramp
from training.maps import Gaussian, LevelFusion, PyramidDistance, cosine_distance, resize


def random_pair(shape: tuple[int, ...] = (2, 3, 4, 4)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


def one_minus_cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    return float(1 - x @ y / math.sqrt((x @ x) * (y @ y)))


def point_reference(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    n, _, h, w = a.shape
    return float(
        np.mean([one_minus_cosine(a[i, :, y, x], b[i, :, y, x]) for i in range(n) for y in range(h) for x in range(w)])
    )


def flat_reference(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(np.mean([one_minus_cosine(a[i], b[i]) for i in range(len(a))]))


def channel_reference(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(np.mean([one_minus_cosine(a[i, c], b[i, c]) for i in range(a.shape[0]) for c in range(a.shape[1])]))


@pytest.mark.parametrize(
    ("loss", "reference"),
    [(point_loss, point_reference), (flat_loss, flat_reference), (channel_loss, channel_reference)],
)
def test_reductions_of_the_cosine_equal_loops_in_numpy(loss, reference) -> None:  # type: ignore[no-untyped-def]
    a, b = random_pair()
    assert float(loss(a, b)) == pytest.approx(reference(a.numpy(), b.numpy()), abs=1e-6)


@pytest.mark.parametrize("loss", [point_loss, flat_loss, channel_loss])
def test_identical_features_have_zero_loss(loss) -> None:  # type: ignore[no-untyped-def]
    a, _ = random_pair()
    assert float(loss(a, a.clone())) == pytest.approx(0, abs=1e-6)


def test_distance_is_never_negative_and_float32_for_any_input_type() -> None:
    a, _ = random_pair((1, 24, 8, 8))
    distance = cosine_distance(a.bfloat16(), a.bfloat16())
    assert distance.dtype == torch.float32
    assert float(distance.min()) >= 0
    assert float(distance.max()) < 1e-6


def test_distance_of_opposite_features_is_two() -> None:
    a, _ = random_pair()
    torch.testing.assert_close(cosine_distance(a, -a), torch.full((2, 1, 4, 4), 2.0))


def test_energy_floor_reduces_the_distance_of_short_vectors_only() -> None:
    a, b = random_pair()
    plain = cosine_distance(a, b)
    torch.testing.assert_close(cosine_distance(1000 * a, 1000 * b, 1.0), plain, rtol=1e-3, atol=1e-4)
    assert float(cosine_distance(1e-3 * a, 1e-3 * b, 1.0).max()) < 1e-3 * float(plain.min() + 1)


def test_high_energy_floor_gives_the_squared_euclidean_distance() -> None:
    a, b = random_pair()
    floor = 1e4
    expected = (a - b).square().sum(1, keepdim=True) / (2 * floor)
    torch.testing.assert_close(cosine_distance(a, b, floor), expected, rtol=0.01, atol=1e-7)


def test_small_distances_are_exact() -> None:
    a = torch.randn(1, 64, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    b = a + 1e-4 * torch.randn(a.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    exact = 1 - torch.nn.functional.cosine_similarity(a, b)[0, 0, 0]
    # 1 - cos of float32 would be off by as much as the distance itself.
    assert float(cosine_distance(a, b)) == pytest.approx(float(exact), rel=1e-2)


def test_energy_floor_is_relative_to_the_energy_of_each_level() -> None:
    features = [torch.randn(4, 8, 4, 4, generator=torch.Generator().manual_seed(0)) * scale for scale in (1e-4, 30.0)]
    others = [level.flip(0) for level in features]
    distance = PyramidDistance(2, 0.3)
    distance.measure(features)
    for level, other, found in zip(features, others, distance(features, others), strict=True):
        energy = level.square().sum(1).mean()
        torch.testing.assert_close(found, cosine_distance(level / energy.sqrt(), other / energy.sqrt(), 0.3))


def test_hard_mining_keeps_the_value_and_scales_the_gradient_of_easy_cells_only() -> None:
    a, b = random_pair((1, 3, 4, 4))
    plain, mined = b.clone().requires_grad_(), b.clone().requires_grad_()
    flat = flat_loss(a, plain)
    hard = hard_mined_loss(a, mined, easy_fraction=0.5, easy_gradient=0.1)
    flat.backward()  # type: ignore[no-untyped-call]
    hard.backward()  # type: ignore[no-untyped-call]
    assert float(hard.detach()) == pytest.approx(float(flat.detach()))
    assert plain.grad is not None
    assert mined.grad is not None
    distance = cosine_distance(a, b)[0, 0]
    easy = distance < distance.flatten().sort().values[8]
    assert int(easy.sum()) == 8
    torch.testing.assert_close(mined.grad[0][:, easy], 0.1 * plain.grad[0][:, easy])
    torch.testing.assert_close(mined.grad[0][:, ~easy], plain.grad[0][:, ~easy])


def test_hard_mining_does_not_change_the_gradient_of_other_losses() -> None:
    a, b = random_pair()
    b.requires_grad_()
    (0 * hard_mined_loss(a, b, easy_fraction=0.9) + point_loss(a, b)).backward()  # type: ignore[no-untyped-call]
    other = b.detach().clone().requires_grad_()
    point_loss(a, other).backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(b.grad, other.grad)


@pytest.mark.parametrize(("step", "expected"), [(0, 0.0), (50, 0.45), (100, 0.9), (1000, 0.9)])
def test_ramp_rises_and_stays(step: int, expected: float) -> None:
    assert ramp(step, 100, 0.9) == pytest.approx(expected)


def gaussian_reference(image: NDArray[np.float32], sigma: float, radius: int) -> NDArray[np.float64]:
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel = np.outer(taps, taps) / taps.sum() ** 2
    padded = np.pad(image.astype(np.float64), radius, mode="reflect")
    out = np.zeros(image.shape)
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            out[y, x] = (padded[y : y + 2 * radius + 1, x : x + 2 * radius + 1] * kernel).sum()
    return out


@pytest.mark.parametrize(("sigma", "size"), [(1.0, (9, 7)), (2.0, (12, 16))])
def test_gaussian_equals_a_two_dimensional_reference_with_reflected_border(sigma: float, size: tuple[int, int]) -> None:
    image = np.random.default_rng(3).random(size).astype(np.float32)
    smooth = Gaussian(sigma)
    result = smooth(torch.from_numpy(image)[None, None])[0, 0].numpy()
    np.testing.assert_allclose(result, gaussian_reference(image, sigma, math.ceil(4 * sigma)), atol=1e-6)


def test_gaussian_keeps_a_constant_map_constant() -> None:
    torch.testing.assert_close(Gaussian(1.5)(torch.full((2, 1, 16, 16), 0.7)), torch.full((2, 1, 16, 16), 0.7))


def test_fusion_brings_levels_to_one_scale() -> None:
    generator = torch.Generator().manual_seed(0)
    good = [torch.rand((4, 1, 16, 16), generator=generator), 100 * torch.rand((4, 1, 8, 8), generator=generator)]
    fusion = LevelFusion([1, 3])
    fusion.calibrate(good)
    torch.testing.assert_close(fusion.spread, torch.stack([level.std() for level in good]))
    fused = fusion([torch.ones(1, 1, 16, 16) * fusion.spread[0], torch.zeros(1, 1, 8, 8)])
    torch.testing.assert_close(fused, torch.full((1, 1, 16, 16), 0.25))


def test_fusion_is_finite_for_a_level_without_any_spread() -> None:
    fusion = LevelFusion([1])
    fusion.calibrate([torch.zeros(2, 1, 4, 4)])
    assert bool(torch.isfinite(fusion([torch.ones(1, 1, 4, 4)])).all())


def test_resize_returns_maps_of_the_right_size_unchanged() -> None:
    maps = torch.rand(1, 1, 4, 4)
    assert resize(maps, (4, 4)) is maps
    assert resize(maps, (8, 8)).shape == (1, 1, 8, 8)
