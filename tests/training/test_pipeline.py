"""One small product, trained in this very process: what its bundle says about itself."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from service.bundle.bundle import Bundle
from service.bundle.manifest import graph_metadata
from service.inspection.inspector import Inspector
from tests.training.small_product import write_plates
from training import dataset
from training.config import FitConfig
from training.errors import InvalidOption
from training.pipeline import Request, Trained, _shareable, inspector_options, train


class Recorder:
    """Remembers how far every stage came."""

    def __init__(self) -> None:
        self.stages: dict[str, tuple[int, int]] = {}

    def stage(self, title: str, total: int) -> Callable[[int, str], None]:
        def advance(done: int, note: str) -> None:
            self.stages[title] = (done, total)

        return advance


CONFIG = FitConfig(
    input_size=64,
    iterations=3,
    batch_size=4,
    pseudo_pool=16,
    threads=1,
    warmup_steps=1,
    options={"energy_floors": [0.3]},
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_plates(tmp_path_factory.mktemp("plates"))


@pytest.fixture(scope="module")
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture(scope="module")
def trained(data: Path, recorder: Recorder, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("trained")
    request = Request(data, "plate", folder / "models", folder / "run", CONFIG, evaluate=True)
    return train(request, recorder)


@pytest.mark.slow
def test_bundle_tells_how_it_was_made(trained: Trained, data: Path) -> None:
    manifest = trained.bundle.manifest

    assert (manifest.product, manifest.method, manifest.teachers) == ("plate", "nnet", ["efficientnet_lite0"])
    assert (manifest.training.images, manifest.training.held_out) == (30, 10)
    assert manifest.training.fingerprint == dataset.scan(data).fingerprint
    assert manifest.training.config["iterations"] == 3
    assert {"torch", "onnxruntime-gpu"} <= set(manifest.libraries) or "onnxruntime" in manifest.libraries
    assert manifest.parity.measured <= manifest.parity.tolerance
    assert trained.bundle.path.parent.parent.name == "models"
    assert len(trained.bundle.golden) == 6


@pytest.mark.slow
def test_graph_alone_tells_the_same(trained: Trained) -> None:
    graph = onnx.load_model_from_string(trained.bundle.read_model())

    assert {prop.key: prop.value for prop in graph.metadata_props} == graph_metadata(trained.bundle.manifest)
    assert str(Path(__file__).parent.parent.parent).encode() not in trained.bundle.read_model()


@pytest.mark.slow
def test_evaluation_in_the_manifest_is_that_of_the_bundle(trained: Trained) -> None:
    assert trained.evaluation is not None
    assert trained.bundle.manifest.evaluation == trained.evaluation.figures
    assert trained.evaluation.version == trained.bundle.version


@pytest.mark.slow
def test_card_is_what_the_service_measures(trained: Trained) -> None:
    inspector = Inspector.load(trained.bundle.path, inspector_options(threads=1, provider="cpu"))
    try:
        again = sorted(inspector.measure(path.read_bytes()).score for path in trained.data.held_out)
    finally:
        inspector.close()

    np.testing.assert_allclose(trained.bundle.card.scores, again, rtol=1e-5)


@pytest.mark.slow
def test_every_stage_is_reported_to_its_end(trained: Trained, recorder: Recorder) -> None:
    stages = ["read images", "train", "measure the map's constants", "export and compare", "calibrate", "evaluate"]
    assert list(recorder.stages) == stages
    assert all(done == total for done, total in recorder.stages.values())


@pytest.mark.slow
def test_nothing_but_the_bundle_is_left_in_the_repository(trained: Trained) -> None:
    assert [path.name for path in trained.bundle.path.parent.iterdir()] == [trained.bundle.version]
    assert Bundle.load(trained.bundle.path).digest == trained.bundle.digest


@pytest.mark.parametrize("product", ["", "Part", "../part", "a b"])
def test_product_names_follow_the_services_rule(tmp_path: Path, product: str) -> None:
    with pytest.raises(InvalidOption, match="product name"):
        Request(tmp_path, product, tmp_path, tmp_path, CONFIG)


def test_a_manifest_names_no_folder_of_the_training_machine() -> None:
    config = dataclasses.replace(CONFIG, teacher_weights=(Path("/home/somebody/secret project/weights.pth"),))

    assert _shareable(config)["teacher_weights"] == ["weights.pth"]
