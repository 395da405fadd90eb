"""One small product, trained in process: the content of its bundle and the progress reports."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from service.bundle.bundle import Bundle
from service.bundle.manifest import graph_metadata
from service.inspection.inspector import Inspector
from tests.training.small_product import write_plates
from training import dataset
from training.config import FitConfig
from training.errors import InvalidOption, UnreadableImage
from training.export import PROBES
from training.fit import CHECKPOINT_NAME, Progress
from training.pipeline import Request, Trained, _shareable, inspector_options, train


class Recorder:
    """Stores the progress of every stage."""

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
def test_manifest_records_the_training(trained: Trained, data: Path) -> None:
    manifest = trained.bundle.manifest

    assert (manifest.product, manifest.method, manifest.teachers) == ("plate", "nnet", ["efficientnet_lite0"])
    assert (manifest.training.images, manifest.training.held_out) == (30, 10)
    assert manifest.training.fingerprint == dataset.scan(data).fingerprint
    assert manifest.training.config["iterations"] == 3
    assert manifest.training.config["device"] == ("cuda" if torch.cuda.is_available() else "cpu")
    assert {"torch", "onnxruntime-gpu"} <= set(manifest.libraries) or "onnxruntime" in manifest.libraries
    assert manifest.parity.measured <= manifest.parity.tolerance
    assert trained.bundle.path.parent.parent.name == "models"
    assert len(trained.bundle.golden) == 6


@pytest.mark.slow
def test_metadata_of_the_graph_equals_the_manifest(trained: Trained) -> None:
    graph = onnx.load_model_from_string(trained.bundle.read_model())

    assert {prop.key: prop.value for prop in graph.metadata_props} == graph_metadata(trained.bundle.manifest)
    assert str(Path(__file__).parent.parent.parent).encode() not in trained.bundle.read_model()


@pytest.mark.slow
def test_manifest_holds_the_figures_of_the_evaluation(trained: Trained) -> None:
    assert trained.evaluation is not None
    assert trained.bundle.manifest.evaluation == trained.evaluation.figures
    assert trained.evaluation.version == trained.bundle.version


@pytest.mark.slow
def test_card_holds_the_scores_that_the_service_measures(trained: Trained) -> None:
    inspector = Inspector.load(trained.bundle.path, inspector_options(threads=1, provider="cpu"))
    try:
        again = sorted(inspector.measure(path.read_bytes()).score for path in trained.data.held_out)
    finally:
        inspector.close()

    np.testing.assert_allclose(trained.bundle.card.scores, again, rtol=1e-5)


@pytest.mark.slow
def test_every_stage_is_reported_to_its_end(trained: Trained, recorder: Recorder) -> None:
    stages = ["read images", "train", "build the anomaly map", "export and compare", "calibrate", "evaluate"]
    assert list(recorder.stages) == stages
    assert all(done == total for done, total in recorder.stages.values())


@pytest.mark.slow
def test_repository_holds_the_bundle_only(trained: Trained) -> None:
    assert [path.name for path in trained.bundle.path.parent.iterdir()] == [trained.bundle.version]
    assert Bundle.load(trained.bundle.path).digest == trained.bundle.digest


@pytest.mark.parametrize("product", ["", "Part", "../part", "a b"])
def test_product_names_follow_the_rule_of_the_service(tmp_path: Path, product: str) -> None:
    with pytest.raises(InvalidOption, match="product name"):
        Request(tmp_path, product, tmp_path, tmp_path, CONFIG)


def test_manifest_has_no_path_of_the_training_machine() -> None:
    config = dataclasses.replace(CONFIG, teacher_weights=(Path("/home/user/project/weights.pth"),))

    assert _shareable(config)["teacher_weights"] == ["weights.pth"]


@pytest.mark.slow
def test_only_the_probes_are_decoded_before_the_calibration(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[Path] = []
    read = dataset.read_rgb

    def recorded(path: Path) -> dataset.UInt8Images:
        decoded.append(path)
        return read(path)

    monkeypatch.setattr(dataset, "read_rgb", recorded)
    config = dataclasses.replace(CONFIG, iterations=1, pseudo_pool=4)
    trained = train(
        Request(data, "plate", tmp_path / "models", tmp_path / "run", config, held_out_fraction=0.4), Recorder()
    )

    assert len(trained.data.held_out) == 16
    assert set(trained.data.train) <= set(decoded)
    assert len(set(decoded) & set(trained.data.held_out)) == PROBES


def test_held_out_file_that_is_no_image_is_reported_before_the_training(tmp_path: Path) -> None:
    folder = write_plates(tmp_path / "plates")
    damaged = dataset.scan(folder).held_out[0]
    damaged.write_bytes(b"not an image")
    held_out = {path.name for path in dataset.scan(folder).held_out}
    assert damaged.name in held_out
    recorder = Recorder()

    with pytest.raises(UnreadableImage, match=damaged.name):
        train(Request(folder, "plate", tmp_path / "models", tmp_path / "run", CONFIG), recorder)

    assert "train" not in recorder.stages
    assert not (tmp_path / "run").exists()


def test_requested_stop_reaches_the_training_loop(data: Path, tmp_path: Path) -> None:
    steps: list[int] = []

    def should_stop(progress: Progress) -> bool:
        steps.append(progress.step)
        return progress.step == 2

    with pytest.raises(KeyboardInterrupt):
        train(Request(data, "plate", tmp_path / "models", tmp_path / "run", CONFIG), Recorder(), should_stop)

    assert steps == [1, 2]
    assert (tmp_path / "run" / CHECKPOINT_NAME).is_file()
