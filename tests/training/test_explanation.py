"""Tensors that explain the map: found in the network, named in the graph, and without effect on its results."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from service.inspection.explanation.graph import ExplainedGraph
from service.inspection.runtime.session import GraphSession, SessionOptions
from tests.training.methods.batches import random_images
from tests.training.small_method import SmallMethod
from training.config import FitConfig
from training.explanation import find_explanation
from training.export import Exported, Probes, explanation_problem, export, to_onnx
from training.half_precision import halve
from training.maps import Gaussian, LevelFusion
from training.methods import build_method
from training.methods.nnet import SOURCES, NNet
from training.pixels import in_chunks
from training.quantisation import quantise
from training.taps import Tap, recording
from training.teachers import random_teacher

SIZE = 96
OPTIONS = SessionOptions(provider="cpu", threads=1)


class _Fused(nn.Module):
    """Two maps that are fused; the tail may be nonlinear, and the fusion may be left out."""

    def __init__(self, *, squared: bool = False, unused: bool = False) -> None:
        super().__init__()
        self.fusion = LevelFusion([1.0, 3.0], ["first", "second"])
        self.smooth = Gaussian(1.0)
        self.squared, self.unused = squared, unused

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        pixels = image.permute(0, 3, 1, 2).float() / 255
        fine = nn.functional.avg_pool2d(pixels.mean(1, keepdim=True), 4)
        coarse = nn.functional.avg_pool2d((pixels - 0.5).abs().amax(1, keepdim=True), 8)
        if self.unused:
            return fine[:, 0], None
        anomaly_map = self.smooth(self.fusion([fine, coarse]))[:, 0]
        return anomaly_map.square() if self.squared else anomaly_map, None


def probes() -> Probes:
    return Probes.draw(random_images(4), random_images(0), seed=0, count=3)


def test_modules_are_recorded_only_inside_of_the_block() -> None:
    first, second, unused = Tap(), Tap(), Tap()
    network = nn.Sequential(first, nn.ReLU(), second)
    with recording({"first": first, "second": second, "unused": unused}) as seen:
        network(torch.tensor([-1.0, 2.0]))
        assert seen.keys() == {"first", "second"}
        assert torch.equal(seen["first"], torch.tensor([-1.0, 2.0]))
        assert torch.equal(seen["second"], torch.tensor([0.0, 2.0]))
    network(torch.zeros(2))
    assert torch.equal(seen["second"], torch.tensor([0.0, 2.0]))


def test_names_of_a_fusion_match_its_maps() -> None:
    assert LevelFusion([1.0, 1.0]).names == ("level_1", "level_2")
    with pytest.raises(ValueError, match="2 maps have 1 names"):
        LevelFusion([1.0, 1.0], ["one"])
    with pytest.raises(ValueError, match="argument"):
        LevelFusion([1.0, 1.0])([torch.zeros(1, 1, 2, 2)])


def test_network_without_a_fusion_has_no_explanation() -> None:
    image = torch.zeros(1, 64, 64, 3, dtype=torch.uint8)
    assert find_explanation(SmallMethod(), image) is None
    assert find_explanation(_Fused(unused=True), image) is None
    assert find_explanation(nn.Sequential(), image) is None
    found = find_explanation(_Fused(), image)
    assert found is not None
    assert [source.name for source in found.explanation.sources] == ["first", "second"]
    assert found.explanation.banks == []


def test_map_that_is_not_linear_in_its_sources_is_exported_without_an_explanation(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert export(_Fused(squared=True), probes()).explanation is None
    assert "it is not linear in them" in _warnings(caplog)
    caplog.clear()
    explained = export(_Fused(), probes()).explanation
    assert explained is not None
    assert not _warnings(caplog)


def _warnings(caplog: pytest.LogCaptureFixture) -> str:
    return "".join(record.getMessage() for record in caplog.records if record.name.startswith("training."))


@pytest.fixture(scope="module")
def nnet() -> NNet:
    torch.manual_seed(0)
    config = FitConfig(method="nnet", input_size=SIZE, options={"prototypes": 40, "energy_floors": [0.3]})
    method = build_method(config, [random_teacher("efficientnet_lite0")])
    assert isinstance(method, NNet)
    method.eval()
    images = random_images(6, SIZE)
    with torch.inference_mode():
        frozen = method.frozen_features(torch.cat(list(in_chunks(images))))
        method.prepare(frozen)
        method.consolidate(images, frozen)
        method.calibrate(random_images(4, SIZE, seed=1))
    return method


@pytest.fixture(scope="module")
def exported(nnet: NNet) -> Exported:
    good = random_images(4, SIZE, seed=2)
    return export(nnet, Probes.draw(good, nnet.branch_flipping_inputs(good[:1]), seed=0, count=2))


@pytest.fixture(scope="module")
def graph(exported: Exported) -> Iterator[ExplainedGraph]:
    assert exported.explanation is not None
    explained = ExplainedGraph(exported.model, exported.explanation, OPTIONS)
    yield explained
    explained.close()


@pytest.mark.slow
def test_taps_do_not_change_the_exported_graph(nnet: NNet, exported: Exported) -> None:
    class Plain(nn.Module):
        def forward(self, image: Tensor) -> tuple[Tensor]:
            return (nnet(image)[0],)

    explanation = exported.explanation
    assert explanation is not None
    assert tuple(source.name for source in explanation.sources) == SOURCES
    assert [(bank.name, bank.rows, bank.prototypes) for bank in explanation.banks] == [
        ("query_reduced", 4, 40),
        ("query_full", 6, 40),
    ]
    images = random_images(2, SIZE)
    plain = onnx.load_model_from_string(to_onnx(Plain(), images, ["anomaly_map"]))
    model = onnx.load_model_from_string(exported.model)
    assert [output.name for output in model.graph.output] == ["anomaly_map"]
    assert [node.op_type for node in model.graph.node] == [node.op_type for node in plain.graph.node]
    first, second = (GraphSession(one.SerializeToString(), OPTIONS).run(images).maps for one in (plain, model))
    np.testing.assert_array_equal(first, second)


@pytest.mark.slow
def test_contributions_are_the_fused_maps_and_add_up(nnet: NNet, graph: ExplainedGraph) -> None:
    image = random_images(1, SIZE, seed=5)[0]
    found = graph.run(image)
    with torch.inference_mode():
        pixels = next(in_chunks(image[None]))
        expected = nnet.fused(pixels)[0, 0].numpy()
        sources = nnet.sources(pixels)
        alone = []
        for source in sources:
            others = [one if one is source else torch.zeros_like(one) for one in sources]
            alone.append(nnet.smooth(nnet.fusion(others, (SIZE // 8, SIZE // 8))))
    np.testing.assert_allclose(found.anomaly_map, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.contributions, torch.cat(alone)[:, 0].numpy(), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found.contributions.sum(0), found.anomaly_map, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_converted_graph_explains_its_own_map(exported: Exported, precision: str) -> None:
    if precision == "fp16":
        model = halve(exported.model, version="0123456789ab")
    else:
        model = quantise(exported.model, random_images(4, SIZE), version="0123456789ab", seed=0, threads=1)
    image = random_images(1, SIZE, seed=5)[0]
    assert exported.explanation is not None
    assert explanation_problem(model, exported.explanation, image) is None
    converted, single = (GraphSession(one, OPTIONS).run(image[None]).maps for one in (model, exported.model))
    assert not np.array_equal(converted, single), "the precision makes a difference"


@pytest.mark.slow
def test_nearest_prototypes_are_those_of_the_network(nnet: NNet, graph: ExplainedGraph) -> None:
    image = random_images(1, SIZE, seed=6)[0]
    explained = graph.run(image)
    assert nnet.banks is not None
    banks = nnet.banks.by_name
    with recording({name: bank.candidates for name, bank in banks.items()}) as seen, torch.inference_mode():
        nnet.fused(next(in_chunks(image[None])))
    for name, cells in explained.banks.items():
        values = seen[name].reshape(*cells.nearest.shape, -1)
        found = values.gather(-1, torch.from_numpy(cells.nearest)[..., None])[..., 0]
        torch.testing.assert_close(found, values.amax(-1), rtol=1e-4, atol=1e-5)
        assert len(np.unique(cells.nearest)) > 1


@pytest.mark.slow
def test_cells_that_prototypes_come_from_are_nearer_than_others(nnet: NNet, graph: ExplainedGraph) -> None:
    images = random_images(6, SIZE)
    explained = [graph.run(image) for image in images]
    assert nnet.banks is not None
    for name, bank in nnet.banks.by_name.items():
        places = bank.origins.numpy()
        assert len(places) == 40
        every = np.stack([one.banks[name].distances for one in explained])
        is_origin = np.zeros(every.shape, bool)
        is_origin[tuple(places.T)] = True
        assert np.median(every[is_origin]) < np.median(every[~is_origin])
