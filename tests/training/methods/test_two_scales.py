"""Two scales and memory banks of all methods: which scale each part sees, and one implementation of the banks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.training.methods.batches import random_images
from training.config import FitConfig
from training.methods import METHODS, build_method
from training.methods.two_scales import TwoScaleMethod
from training.pixels import in_chunks
from training.teachers import random_teacher

SIZE = 96  # the reduced copy has 64 x 64 pixels
WITHOUT_TRAINED_PART: dict[str, dict[str, Any]] = {
    "drd": {"level_weights": [0, 0, 0]},
    "rstpm": {"level_weights": [0, 0, 0]},
    "dual_teacher": {"ensemble_weights": [0, 0, 0]},
    "nnet": {"branches": False},
}
OWN_MAPS = {"drd": [(16, 16), (8, 8), (4, 4)], "rstpm": [(16, 16)] * 3, "nnet": [(8, 8), (4, 4)] * 2}
OWN_MAPS["dual_teacher"] = [(8, 8), (4, 4)] * 3 + [(8, 8)]
WITH_BANK_OPTION = sorted(METHODS.keys() - {"nnet"})


def build(name: str, **options: object) -> TwoScaleMethod:
    """Build a method whose teachers have random weights; that of the banks is the same for all methods."""
    torch.manual_seed(0)
    config = FitConfig(method=name, input_size=SIZE, options={"prototypes": 64, "energy_floors": [0.3], **options})
    teachers = [random_teacher(teacher) for teacher in METHODS[name].default_teachers]
    teachers[-1].load_state_dict(bank_weights())
    method = build_method(config, teachers)
    assert isinstance(method, TwoScaleMethod)
    return method.eval()


def bank_weights() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return random_teacher("efficientnet_lite2").state_dict()


def calibrated(name: str, **options: object) -> TwoScaleMethod:
    method, images = build(name, **options), random_images(6, SIZE)
    with torch.inference_mode():
        frozen = method.frozen_features(torch.cat(list(in_chunks(images))))
        method.prepare(frozen)
        method.consolidate(images, frozen)
        method.calibrate(random_images(4, SIZE, seed=1))
    return method


@pytest.mark.parametrize("name", sorted(METHODS))
def test_trained_part_sees_the_copy_and_the_banks_both_scales(name: str) -> None:
    method = calibrated(name)
    with torch.inference_mode():
        shapes = [tuple(source.shape[2:]) for source in method.sources(torch.rand(1, 3, SIZE, SIZE))]
    assert shapes == [*OWN_MAPS[name], (4, 4), (6, 6)]
    assert method.fusion.names[-2:] == ("query_reduced", "query_full")
    assert method.selected is not None
    assert method.selected.memory_bank is not None


@pytest.mark.parametrize("name", WITH_BANK_OPTION)
def test_banks_are_those_of_nnet(name: str) -> None:
    pixels = torch.cat(list(in_chunks(random_images(2, SIZE, seed=2))))
    with torch.inference_mode():
        own, others = (calibrated(each, **WITHOUT_TRAINED_PART[each]) for each in (name, "nnet"))
        for mine, theirs in zip(own.sources(pixels)[-2:], others.sources(pixels), strict=True):
            torch.testing.assert_close(mine, theirs)
        size = (SIZE // 8, SIZE // 8)
        fused = [method.fusion(method.sources(pixels), size) for method in (own, others)]
    torch.testing.assert_close(fused[0], fused[1])


@pytest.mark.parametrize("name", WITH_BANK_OPTION)
def test_one_scale_without_banks_is_the_trained_part_on_the_image(name: str) -> None:
    method = calibrated(name, banks=False, reduction=1.0)
    with torch.inference_mode():
        shapes = [tuple(source.shape[2:]) for source in method.sources(torch.rand(1, 3, 64, 64))]
    assert shapes == OWN_MAPS[name]
    assert method.banks is None
    assert method.selected is None or method.selected.memory_bank is None


def test_unet_leaves_the_maps_of_the_banks_as_they_are() -> None:
    method = calibrated("rstpm", unet_floor=0.0)
    pixels = torch.cat(list(in_chunks(random_images(1, SIZE, seed=2))))
    head = method.get_submodule("unet.head")
    with torch.inference_mode():
        before = method.sources(pixels)
        head.get_parameter("weight").zero_()
        head.get_parameter("bias").fill_(-20.0)  # no cell is anomalous
        after = method.sources(pixels)
    assert max(float(level.max()) for level in after[:-2]) < 1e-6
    for one, other in zip(before[-2:], after[-2:], strict=True):
        assert torch.equal(one, other)
