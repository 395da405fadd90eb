"""RSTPM: two students, two training stages, single-channel gates, bounded influence of the U-Net."""

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor

from service.bundle.golden import parity_difference
from tests.training.methods.batches import batch_of, random_images
from training.blocks import UNet
from training.config import FitConfig
from training.errors import InvalidFitConfig, WrongTeachers
from training.export import Probes, export
from training.losses import focal_loss
from training.methods import build_method, fit_config
from training.methods.rstpm import RSTPM, Gate, PairSum, RstpmOptions
from training.pixels import in_chunks
from training.teachers import random_teacher


def small_method(*, banks: bool = False, **options: object) -> RSTPM:
    torch.manual_seed(0)
    config = fit_config("rstpm", input_size=64, options={"width": 8, "unet_width": 4, "banks": banks, **options})
    method = build_method(config, [random_teacher(name) for name in config.teachers])
    assert isinstance(method, RSTPM)
    method.prepare(method.frozen_features(torch.cat(list(in_chunks(random_images(4))))))
    return method


@pytest.fixture(scope="module")
def method() -> RSTPM:
    method = small_method()
    method.eval()
    method.calibrate(random_images(4, seed=1))
    return method


def gradients(method: RSTPM, step: int, count: int = 2) -> tuple[dict[str, Tensor], set[str]]:
    """Return the losses of a step and the modules that received a gradient from it."""
    method.train()
    method.zero_grad(set_to_none=True)
    losses = method.training_step(batch_of(method, count, step, steps=100))
    losses["loss"].backward()  # type: ignore[no-untyped-call]
    trained = {name.split(".")[0] for name, p in method.named_parameters() if p.grad is not None}
    return losses, trained


@pytest.mark.parametrize("loss", ["mined", "flat", "point"])
def test_first_stage_trains_the_students_only(loss: str) -> None:
    losses, trained = gradients(small_method(loss=loss), step=0)
    assert trained == {"student1", "student2"}
    assert all(bool(torch.isfinite(value)) for value in losses.values())


@pytest.mark.slow
@pytest.mark.parametrize("count", [0, 2, 4])
def test_second_stage_trains_the_unet_only(count: int) -> None:
    losses, trained = gradients(small_method(), step=75, count=count)
    assert trained == {"unet"}
    assert bool(torch.isfinite(losses["loss"]))


def test_second_stage_does_not_change_the_students_statistics() -> None:
    method = small_method()
    before = {name: value.clone() for name, value in method.state_dict().items() if name.startswith("student")}
    gradients(method, step=75)
    assert [name for name, value in before.items() if not torch.equal(method.state_dict()[name], value)] == []


def test_second_stage_measures_the_spreads_from_its_first_step_on() -> None:
    method = small_method()
    method.pair_sum.spread.fill_(1e9)
    gradients(method, step=75)
    assert float(method.pair_sum.spread.max()) < 10


def test_students_predict_every_teacher_level_in_its_own_shape(method: RSTPM) -> None:
    pixels = torch.rand(2, 3, 64, 64)
    frozen = method.frozen_features(pixels)
    assert [f.shape for f in method.students(pixels, frozen)] == [f.shape for f in frozen]


@pytest.mark.parametrize("channels", [24, 40, 112, 1024])
def test_gate_has_one_value_per_cell(channels: int) -> None:
    gate = Gate(channels)(torch.randn(2, channels, 8, 8)).detach()
    assert gate.shape == (2, 1, 8, 8)
    assert float(gate.min()) > 0
    assert float(gate.max()) < 1


def test_unet_output_has_the_size_of_the_map() -> None:
    assert UNet(3, 4)(torch.rand(2, 3, 64, 64)).shape == (2, 1, 64, 64)


def test_pairs_are_summed_in_units_of_their_spread() -> None:
    weak, strong = torch.rand(4, 1, 8, 8), 1000 * torch.rand(4, 1, 8, 8)
    pairs = PairSum(1)
    pairs.measure([[weak], [strong]])
    (total,) = pairs([[weak], [strong]])
    torch.testing.assert_close(total, weak / weak.std() + strong / strong.std())


@pytest.mark.parametrize("fusion", ["blend", "product"])
def test_unet_with_probability_zero_cannot_remove_an_anomaly(fusion: str) -> None:
    method = small_method(fusion=fusion)
    floor = RstpmOptions().unet_floor if fusion == "blend" else RstpmOptions().product_floor
    maps = [torch.ones(1, 1, 16 // 2**k, 16 // 2**k) for k in range(3)]
    maps[0][..., 5, 5] = 50
    kept, full = (
        torch.stack(method.suppressed(maps, probability * torch.ones(1, 1, 16, 16))).sum(0) for probability in (0, 1)
    )
    torch.testing.assert_close(kept, floor * full)
    assert int(kept.argmax()) == 5 * 16 + 5


def test_blend_keeps_an_anomaly_of_one_level_that_the_product_loses(method: RSTPM) -> None:
    maps = [torch.ones(1, 1, 16, 16) for _ in range(3)]
    maps[2][..., 5, 5] = 50
    maps[0][..., 5, 5] = 1e-4
    certain = torch.ones(1, 1, 16, 16)
    blend = method.fusion(method.suppressed(maps, certain))
    assert int(blend.argmax()) == 5 * 16 + 5
    (product,) = small_method(fusion="product").suppressed(maps, certain)
    assert int(product.argmax()) != 5 * 16 + 5


@pytest.mark.slow
@pytest.mark.parametrize("fusion", ["blend", "product"])
def test_graph_equals_torch_at_every_batch_size_and_on_branch_flipping_inputs(fusion: str) -> None:
    method = small_method(fusion=fusion)
    method.eval()
    method.calibrate(random_images(4, seed=1))
    good = random_images(8, seed=3)
    exported = export(method, Probes.draw(good, method.branch_flipping_inputs(good[:2]), seed=0))
    assert exported.parity.measured < 1e-4
    session = onnxruntime.InferenceSession(exported.model, providers=["CPUExecutionProvider"])
    for count in (1, 3, 8):
        with torch.no_grad():
            expected = method(torch.from_numpy(good[:count]))[0].numpy()
        assert parity_difference(expected, session.run(["anomaly_map"], {"image": good[:count]})[0]) < 1e-4


def test_focal_loss_is_small_for_confident_correct_predictions() -> None:
    mask = torch.tensor([[[[1.0, 0.0]]]])
    uncertain = focal_loss(torch.zeros(1, 1, 1, 2), mask)
    assert float(uncertain) == pytest.approx(0.25 * np.log(2))
    assert float(focal_loss(torch.tensor([[[[9.0, -9.0]]]]), mask)) < 1e-9
    assert float(focal_loss(torch.tensor([[[[-9.0, 9.0]]]]), mask)) == pytest.approx(9, abs=0.01)


def test_two_teachers_are_required() -> None:
    with pytest.raises(WrongTeachers):
        build_method(FitConfig(method="rstpm"), [random_teacher("efficientnet_lite0")])


def test_unknown_option_is_rejected() -> None:
    with pytest.raises(InvalidFitConfig, match="widht"):
        small_method(widht=8)
