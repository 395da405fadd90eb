"""The export: a graph is written only if it computes what the trained network computes."""

from datetime import UTC, datetime

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from service.bundle.manifest import InputGeometry, ManifestDraft, ScoreRule, TrainingRecord, graph_metadata
from service.inspection.runtime.session import GraphSession, SessionOptions
from tests.training.small_method import SmallMethod
from training.errors import ExportFailed, ExportParityFailed
from training.export import TOLERANCE, Exported, Probes, export, to_onnx, with_metadata

SIZE = 64


def random_images(count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Draw random blocks, as good images."""
    coarse = np.random.default_rng(seed).integers(60, 180, (count, 8, 8, 3), dtype=np.uint8)
    return np.repeat(np.repeat(coarse, SIZE // 8, axis=1), SIZE // 8, axis=2)


def flipping() -> NDArray[np.uint8]:
    """Draw noise, a dot and a black image: they differ in the level with the smaller variance."""
    noise = np.random.default_rng(1).integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)
    dot = np.full((SIZE, SIZE, 3), 128, np.uint8)
    dot[30, 30] = 255
    return np.stack([noise, dot, np.zeros_like(noise)])


def probes() -> Probes:
    return Probes.draw(random_images(5), flipping(), seed=0, count=4)


@pytest.fixture(scope="module")
def exported() -> Exported:
    return export(SmallMethod(), probes())


def draft(exported: Exported) -> ManifestDraft:
    return ManifestDraft(
        product="washer",
        method="small",
        teachers=["none"],
        input=InputGeometry(height=SIZE, width=SIZE),
        map_height=exported.map_hw[0],
        map_width=exported.map_hw[1],
        score_rule=ScoreRule(fraction=0.01),
        parity=exported.parity,
        training=TrainingRecord(
            images=5, held_out=5, fingerprint="0" * 64, seed=0, iterations=1, seconds=1.0, config={}
        ),
        libraries={},
        git_revision=None,
        created_at=datetime.now(UTC),
    )


@pytest.mark.slow
def test_graph_has_the_contract_of_a_bundle(exported: Exported) -> None:
    graph = onnx.load_model_from_string(exported.model)
    shapes = {
        value.name: (
            value.type.tensor_type.elem_type,
            [dim.dim_value or "N" for dim in value.type.tensor_type.shape.dim],
        )
        for value in (*graph.graph.input, *graph.graph.output)
    }

    assert shapes == {
        "image": (onnx.TensorProto.UINT8, ["N", SIZE, SIZE, 3]),
        "anomaly_map": (onnx.TensorProto.FLOAT, ["N", SIZE // 2, SIZE // 2]),
        "score_gain": (onnx.TensorProto.FLOAT, ["N"]),
    }
    assert [entry.version for entry in graph.opset_import if entry.domain == ""] == [18]
    assert exported.parity.measured <= exported.parity.tolerance == TOLERANCE
    assert exported.map_hw == (SIZE // 2, SIZE // 2)


@pytest.mark.parametrize("batch", [1, 2, 3, 8])
def test_any_batch_size_computes_what_torch_computes(exported: Exported, batch: int) -> None:
    images = random_images(batch, seed=9)
    output = GraphSession(exported.model, SessionOptions(provider="cpu")).run(images)
    with torch.inference_mode():
        maps, gains = SmallMethod()(torch.from_numpy(images))

    np.testing.assert_allclose(output.maps, maps.numpy(), rtol=1e-4, atol=1e-5)
    assert output.gains is not None
    np.testing.assert_allclose(output.gains, gains.numpy(), rtol=1e-4)


def test_golden_samples_are_good_and_synthetic_anomaly_images_with_the_outputs_of_torch(exported: Exported) -> None:
    drawn = probes()

    assert len(exported.golden) == 6
    np.testing.assert_array_equal(exported.golden[0].image, drawn.good[0])
    np.testing.assert_array_equal(exported.golden[3].image, drawn.synthetic[0])
    with torch.inference_mode():
        anomaly_map, gain = SmallMethod()(torch.from_numpy(drawn.synthetic[:1]))
    np.testing.assert_allclose(exported.golden[3].anomaly_map, anomaly_map[0].numpy())
    assert exported.golden[3].score_gain == pytest.approx(float(gain[0]))


def test_graph_has_no_source_path_of_the_training_machine(exported: Exported) -> None:
    assert b"small_method.py" not in exported.model
    assert b"stack_trace" not in exported.model


@pytest.mark.slow
def test_graph_of_a_method_without_gain_has_one_output() -> None:
    exported = export(SmallMethod(gain=False), probes())

    assert [output.name for output in onnx.load_model_from_string(exported.model).graph.output] == ["anomaly_map"]
    assert all(sample.score_gain is None for sample in exported.golden)


@pytest.mark.slow
def test_choice_that_tracing_made_constant_is_refused() -> None:
    """Only the branch-flipping probes detect it; on good images the graph agrees."""
    method = SmallMethod(frozen_choice=True)
    with torch.inference_mode():
        spread = method.levels(torch.from_numpy(np.concatenate([random_images(5), flipping()]))).var((2, 3))
    assert len(set(spread.argmin(1).tolist())) == 2, "the probes do not flip the choice"

    with pytest.raises(
        ExportParityFailed, match=r"relative\) on branch-flipping images at batch size 1.*No bundle was written"
    ):
        export(method, probes())


class _PythonBranch(nn.Module):
    def forward(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        x = image.float().mean(3)
        return (x if float(x.mean()) > 100 else -x), None


@pytest.mark.slow
def test_python_branch_on_values_is_refused() -> None:
    with pytest.raises(ExportFailed, match="the ONNX exporter cannot convert the forward method") as caught:
        export(_PythonBranch(), probes())
    assert "torch" not in caught.value.detail
    assert "plumbline-train --debug fit" in caught.value.detail
    assert caught.value.__cause__ is not None


def test_metadata_holds_the_essentials_of_the_manifest(exported: Exported) -> None:
    manifest = draft(exported)
    graph = onnx.load_model_from_string(with_metadata(exported.model, manifest))

    assert {prop.key: prop.value for prop in graph.metadata_props} == graph_metadata(manifest)


@pytest.mark.slow
def test_export_is_deterministic(exported: Exported) -> None:
    again = export(SmallMethod(), probes())

    assert again.model == exported.model


def test_subnormal_weights_are_zero_in_the_graph() -> None:
    class Offset(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            values = torch.linspace(0.1, 0.9, SIZE * SIZE).reshape(SIZE, SIZE)
            values[0, :4] = torch.tensor([1e-40, -1e-45, 1.2e-38, -1.2e-38])
            self.values = nn.Parameter(values)

        def forward(self, image: Tensor) -> tuple[Tensor]:
            return (image.float().mean(3) / 255 * self.values,)

    network = Offset()
    graph = onnx.load_model_from_string(to_onnx(network, random_images(1), ["anomaly_map"]))
    (values,) = [
        onnx.numpy_helper.to_array(item) for item in graph.graph.initializer if list(item.dims) == [SIZE, SIZE]
    ]

    expected = network.values.detach().numpy().copy()
    expected[0, :2] = 0
    np.testing.assert_array_equal(values, expected)
