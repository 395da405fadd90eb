"""DRD: shapes, widths, losses, and agreement of the exported graph with torch."""

from pathlib import Path

import onnxruntime
import pytest
import torch

from service.bundle.golden import parity_difference
from tests.training.methods.batches import batch_of, random_images
from training.config import FitConfig
from training.export import Probes, export
from training.methods import build_method
from training.methods.base import Method
from training.methods.drd import DrdOptions, DualReverseDistillation, _refinement
from training.pixels import in_chunks
from training.teachers import random_teacher


@pytest.fixture(scope="module")
def method() -> Method:
    torch.manual_seed(0)
    options = {"width": 0.8, "banks": False}
    method = build_method(
        FitConfig(method="drd", input_size=64, options=options), [random_teacher("efficientnet_lite0")]
    )
    method.prepare(method.frozen_features(torch.cat(list(in_chunks(random_images(4))))))
    method.eval()
    method.calibrate(random_images(4, seed=1))
    return method


@pytest.mark.slow
def test_only_the_student_is_trained(method: Method) -> None:
    trained = {name.split(".")[0] for name, p in method.named_parameters() if p.requires_grad}
    assert trained == {"student"}


@pytest.mark.parametrize(("teacher", "widths"), [("efficientnet_lite0", (32, 64, 128)), ("resnet18", (48, 96, 192))])
def test_student_widths_follow_the_teacher(teacher: str, widths: tuple[int, ...]) -> None:
    student = DualReverseDistillation(random_teacher(teacher), DrdOptions()).student
    assert tuple(head.in_channels for head in student.heads) == widths


def test_student_reconstructs_every_level_in_its_own_shape(method: Method) -> None:
    features = method.frozen_features(torch.rand(2, 3, 64, 64))
    reconstructed = method.student(features)  # type: ignore[operator]
    assert [f.shape for f in reconstructed] == [f.shape for f in features]


@pytest.mark.parametrize("count", [0, 2, 4])
def test_training_step_gives_finite_losses_with_a_gradient(method: Method, count: int) -> None:
    method.train()
    losses = method.training_step(batch_of(method, count))
    method.eval()
    assert losses["loss"].requires_grad
    assert all(bool(torch.isfinite(value)) for value in losses.values())
    assert ("restore" in losses) == (count > 0)


def test_map_does_not_depend_on_other_images_of_the_batch(method: Method) -> None:
    images = torch.from_numpy(random_images(3))
    with torch.no_grad():
        together, _ = method(images)
        alone, _ = method(images[1:2])
    torch.testing.assert_close(together[1], alone[0], rtol=1e-4, atol=1e-5)


def test_map_is_never_negative(method: Method) -> None:
    with torch.no_grad():
        anomaly_map, _ = method(torch.from_numpy(random_images(2)))
    assert float(anomaly_map.min()) >= 0


@pytest.mark.slow
def test_graph_equals_torch_at_every_batch_size_and_on_branch_flipping_inputs(method: Method, tmp_path: Path) -> None:
    good = random_images(8, seed=3)
    exported = export(method, Probes.draw(good, method.branch_flipping_inputs(good[:2]), seed=0))
    assert exported.parity.measured < 1e-4
    session = onnxruntime.InferenceSession(exported.model, providers=["CPUExecutionProvider"])
    for count in (1, 3, 8):
        with torch.no_grad():
            expected = method(torch.from_numpy(good[:count]))[0].numpy()
        assert parity_difference(expected, session.run(["anomaly_map"], {"image": good[:count]})[0]) < 1e-4


def test_strict_selects_the_published_options_and_explicit_ones_take_precedence() -> None:
    config = FitConfig(method="drd", input_size=64, options={"strict": True, "width": 0.8, "weight_point": 2.0})
    strict = build_method(config, [random_teacher("efficientnet_lite0")])
    assert isinstance(strict, DualReverseDistillation)
    options = strict.options
    assert (options.individual, options.energy_floors, options.weight_channel) == ("channel", (0.0,), 1.0)
    assert (options.width, options.weight_point) == (0.8, 2.0)


@pytest.mark.slow
def test_published_losses_have_a_gradient_and_the_score_a_refinement(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = FitConfig(method="drd", input_size=64, options={"strict": True, "width": 0.8})
    strict = build_method(config, [random_teacher("efficientnet_lite0")])
    assert isinstance(strict, DualReverseDistillation)
    strict.prepare(strict.frozen_features(torch.cat(list(in_chunks(random_images(4))))))
    losses = strict.training_step(batch_of(strict, 4))
    assert losses["loss"].requires_grad
    assert float(losses["segment"].detach()) > 0
    strict.eval()
    strict.calibrate(random_images(4, seed=1))
    # The level with the smallest variance differs between these images, which reveals a choice fixed by tracing.
    good = random_images(8, seed=3)
    flipping = strict.branch_flipping_inputs(good[:2])
    with torch.no_grad():
        spreads = [
            torch.stack([level.flatten(1).var(1) for level in strict.sources(p)], 1) for p in in_chunks(flipping)
        ]
        _, gain = strict(torch.from_numpy(flipping))
    assert len(set(torch.cat(spreads).argmin(1).tolist())) > 1
    assert gain is not None
    assert float(gain.min()) >= 1
    assert export(strict, Probes.draw(good, flipping, seed=0)).parity.measured < 5e-4


def test_refinement_uses_the_maximum_of_the_level_with_the_smallest_variance() -> None:
    smooth, noisy = torch.full((1, 1, 4, 4), 0.2), torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    smooth[0, 0, 1, 1] = 0.3
    torch.testing.assert_close(_refinement([noisy, smooth]), torch.tensor([1.3]))
    torch.testing.assert_close(_refinement([smooth, noisy]), torch.tensor([1.3]))
