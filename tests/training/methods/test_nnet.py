"""N-Net: adapters, branches, queries and scales. Tests common to all methods are in test_methods.py."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.training.methods.batches import batch_of, random_images
from training.config import FitConfig
from training.errors import InvalidFitConfig
from training.memory_bank import BankVariant
from training.methods import build_method
from training.methods.nnet import Adapter, NNet
from training.pixels import in_chunks
from training.teachers import random_teacher


def build(**options: object) -> NNet:
    torch.manual_seed(0)
    config = FitConfig(method="nnet", input_size=64, options={"prototypes": 32, "energy_floors": [0.3], **options})
    method = build_method(config, [random_teacher("efficientnet_lite0")])
    assert isinstance(method, NNet)
    method.prepare(method.frozen_features(torch.cat(list(in_chunks(random_images(4))))))
    return method


@pytest.mark.parametrize("count", [0, 2])
def test_adapters_start_at_the_teachers_features_and_train_only_with_adapt(count: int) -> None:
    adapted, plain = build(adapt=True), build()
    features = adapted.frozen_features(torch.rand(2, 3, 64, 64))
    for before, after in zip(features, adapted.adapt(features), strict=True):
        assert torch.equal(before, after)
    losses = adapted.training_step(batch_of(adapted, count))
    assert "adapter" not in plain.training_step(batch_of(plain, count))
    # Before training, unchanged features have no loss; only anomalous cells are pushed away.
    assert (float(losses["adapter"].detach()) > 1e-3) == (count > 0)
    losses["loss"].backward()  # type: ignore[no-untyped-call]
    assert all(adapter.last.weight.grad is not None for adapter in adapted.adapters if isinstance(adapter, Adapter))
    assert not list(plain.adapters.parameters())


def test_branches_receive_the_image_through_the_code_only() -> None:
    method = build()
    assert method.branches is not None
    method.eval()
    features = method.scaler(method.frozen_features(torch.rand(1, 3, 96, 96)))
    seen: list[torch.Size] = []
    method.branches.code.register_forward_hook(lambda _m, _i, code: seen.append(code.shape))
    constant = torch.zeros(())
    method.branches.code.register_forward_hook(lambda _m, _i, code: code * constant)
    reverse, forward = method.branches(features)
    other_reverse, other_forward = method.branches([f.flip(3) for f in features])
    assert seen[0][2:] == (2, 2)  # stride 32 of 64 pixels
    # With a constant code the outputs are the same for every image, so no other path exists.
    for first, second in zip((*reverse, *forward), (*other_reverse, *other_forward), strict=True):
        assert torch.equal(first, second)


def test_map_has_a_distance_for_every_branch_and_level_and_each_query() -> None:
    method = build()
    method.eval()
    method.consolidate(random_images(4), method.frozen_features(torch.cat(list(in_chunks(random_images(4))))))
    method.calibrate(random_images(4, seed=1))
    with torch.inference_mode():
        shapes = [tuple(source.shape[2:]) for source in method.sources(torch.rand(1, 3, 96, 96))]
        assert method.fused(torch.rand(1, 3, 96, 96)).shape == (1, 1, 12, 12)
    # Branches and first query use a copy of 64 x 64, the second query the image.
    assert shapes == [(8, 8), (4, 4), (8, 8), (4, 4), (4, 4), (6, 6)]


@pytest.mark.parametrize(("side", "reduced"), [(384, 256), (256, 160), (96, 64), (64, 32), (32, 32)])
def test_reduced_copy_fits_the_branches_at_every_input_size(side: int, reduced: int) -> None:
    method = build()
    fine, coarse = method.frozen_features(torch.rand(1, 3, side, side))
    assert fine.shape[2:] == (reduced // 8, reduced // 8)
    assert coarse.shape[2:] == (reduced // 16, reduced // 16)


def calibrated(known: NDArray[np.uint8], reference: NDArray[np.uint8], **options: object) -> NNet:
    method = build(**options)
    method.eval()
    with torch.inference_mode():
        method.consolidate(known, method.frozen_features(torch.cat(list(in_chunks(known)))))
        method.calibrate(reference)
    return method


def noisy_copies(image: NDArray[np.uint8], count: int, seed: int) -> NDArray[np.uint8]:
    noise = np.random.default_rng(seed).normal(0, 2, (count, *image.shape[1:]))
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def test_aligned_parts_get_a_position_in_both_memory_banks_and_a_record_of_it() -> None:
    scene = random_images(1)
    method = calibrated(noisy_copies(scene, 6, seed=1), noisy_copies(scene, 3, seed=2), place_weight=0.5)
    selected = method.selected
    assert selected is not None
    assert selected.energy_floor == 0.3
    bank = selected.memory_bank
    assert bank is not None
    assert (bank.aligned, bank.half_lloyd, bank.place_weight, bank.prototypes) == (True, True, 0.5, 32)
    assert bank.same_place > 0.5
    assert method.banks is not None
    for name, query in method.banks.by_name.items():
        assert query.variant.place_weight == pytest.approx(0.5 * bank.mean_distances[name] * 100)
        assert query.origins[:, 0].max() < 6
        assert query.origins.amax() > 0


def test_parts_without_a_fixed_place_get_none() -> None:
    # Squares of 32 pixels with colours of their own in each image.
    squares = random_images(11, size=6).repeat(32, axis=1).repeat(32, axis=2)
    method = calibrated(squares[:8], squares[8:])
    assert method.selected is not None
    assert method.selected.memory_bank is not None
    assert not method.selected.memory_bank.aligned
    assert method.banks is not None
    assert method.banks.query_full.variant.place_weight == 0


def test_queries_hold_the_cells_of_their_own_scale() -> None:
    method = build(prototypes=128)  # 6 x 16 cells, all of them prototypes
    method.eval()
    images = random_images(6)
    with torch.inference_mode():
        method.consolidate(images, method.frozen_features(torch.cat(list(in_chunks(images)))))
        assert method.banks is not None
        queries = method.banks.by_name.values()
        for query in queries:
            query.select(BankVariant(0.3))
        known, other = torch.cat(list(in_chunks(images))), torch.rand(1, 3, 64, 64)
        for query, features in zip(queries, (method.frozen_features, method.full_features), strict=True):
            assert float(query(features(known)).max()) < 1e-4
            assert float(query(features(other)).min()) > 5e-3


def test_without_branches_the_map_comes_from_the_banks_and_nothing_is_trained() -> None:
    method = calibrated(random_images(6), random_images(3, seed=9), branches=False)
    assert not method.learns
    with torch.inference_mode():
        assert [tuple(source.shape[2:]) for source in method.sources(torch.rand(1, 3, 96, 96))] == [(4, 4), (6, 6)]
        assert method.fused(torch.rand(1, 3, 96, 96)).shape == (1, 1, 12, 12)
    assert method.fusion.weights.tolist() == [0.5, 0.5]


def test_adapters_need_branches() -> None:
    with pytest.raises(InvalidFitConfig, match="adapt"):
        build(branches=False, adapt=True)
