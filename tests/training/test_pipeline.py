"""One small product, trained in process: the content of its bundle and the progress reports."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from service.bundle.bundle import Bundle
from service.bundle.card import SanityFigures
from service.bundle.manifest import InputGeometry, graph_metadata
from service.bundle.origins import MAX_ORIGINS_BYTES
from service.inspection.decoded_image import DecodedImage
from service.inspection.explanation.explainer import Explainer
from service.inspection.inspector import Inspector
from service.inspection.tiling import prepare_input
from tests.training.small_product import write_plates
from tests.training.small_trained_method import SmallTrainedMethod
from training import dataset
from training.config import FitConfig
from training.dataset import read_rgb
from training.errors import InvalidOption, TooFewIterations, UnreadableImage, WeakBundle
from training.export import PROBES
from training.fit import CHECKPOINT_NAME, Progress, learning_rate, warm_up_ends
from training.methods import METHODS
from training.pipeline import Request, Trained, _shareable, describe_counts, inspector_options, train
from training.run_record import RunRecord, find_record
from training.sanity import weaknesses
from training.selected import describe_selected


class Recorder:
    """Stores the progress of every stage."""

    def __init__(self) -> None:
        self.stages: dict[str, tuple[int, int]] = {}
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

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


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> FitConfig:
    """Register a method with a small network, for tests of what is the same with every network."""
    monkeypatch.setitem(METHODS, SmallTrainedMethod.name, SmallTrainedMethod)
    return dataclasses.replace(CONFIG, method=SmallTrainedMethod.name, options={}, pseudo_pool=4)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_plates(tmp_path_factory.mktemp("plates"))


@pytest.fixture(scope="module")
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture(scope="module")
def trained(data: Path, recorder: Recorder, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("trained")
    request = Request(data, "plate", folder / "models", folder / "run", CONFIG, evaluate=True, allow_weak=True)
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
def test_manifest_and_report_record_what_was_selected(trained: Trained) -> None:
    selected = trained.bundle.manifest.training.selected

    assert selected is not None
    assert selected.energy_floor == 0.3
    assert selected.memory_bank is not None
    assert selected.memory_bank.prototypes == 4096
    assert set(selected.memory_bank.mean_distances) == {"query_reduced", "query_full"}
    rows = describe_selected(selected)
    assert rows["energy floor"] == "0.3"
    assert rows["prototypes"].startswith("4096")
    assert describe_selected(None) == {}


@pytest.mark.slow
def test_planted_defective_images_are_named_and_left_out_on_request(small: FitConfig, tmp_path: Path) -> None:
    good = write_plates(tmp_path / "plates") / "train/good"
    for number in (1, 2):
        (good.parents[1] / f"test/spots/00{number}.png").rename(good / f"planted{number}.png")
    recorder = Recorder()
    request = Request(good, "plate", tmp_path / "models", tmp_path / "run", small, allow_weak=True)

    suspected: list[str] = []
    contaminated = train(request, recorder, on_checked=lambda _, paths: suspected.extend(path.name for path in paths))
    assert {"planted1.png", "planted2.png"} <= set(suspected)
    (warning,) = (note for note in recorder.notes if note.startswith("Warning"))
    assert "planted1.png" in warning
    assert "planted2.png" in warning
    inspector = Inspector.load(contaminated.bundle.path, inspector_options(threads=1, provider="cpu"))
    try:
        fine, spots = (
            [inspector.measure(path.read_bytes()).score for path in sorted((good.parents[1] / "test" / kind).iterdir())]
            for kind in ("good", "spots")
        )
    finally:
        inspector.close()
    assert min(spots) > max(fine), "the defects among the training images have become normal"

    clean = Recorder()
    without = train(dataclasses.replace(request, exclude=("planted1.png", "planted2.png")), clean)
    assert not any(f"planted{number}.png" in note for number in (1, 2) for note in clean.notes)
    assert len(without.data.train) + len(without.data.held_out) == 40
    record = find_record(tmp_path / "run", without.bundle)
    assert isinstance(record, RunRecord)
    assert record.excluded == ["planted1.png", "planted2.png"]


@pytest.mark.slow
def test_metadata_of_the_graph_equals_the_manifest(trained: Trained) -> None:
    graph = onnx.load_model_from_string(trained.bundle.read_model())

    assert {prop.key: prop.value for prop in graph.metadata_props} == graph_metadata(trained.bundle.manifest)
    assert str(Path(__file__).parent.parent.parent).encode() not in trained.bundle.read_model()


@pytest.mark.slow
def test_manifest_holds_the_figures_of_the_evaluation(trained: Trained) -> None:
    evaluation = trained.require_evaluation()
    assert trained.bundle.manifest.evaluation == evaluation.figures
    assert evaluation.version == trained.bundle.version
    with pytest.raises(ValueError, match="did not ask for an evaluation"):
        dataclasses.replace(trained, evaluation=None).require_evaluation()


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
    stages = [
        "check the good images",
        "read images",
        "train",
        "build the anomaly map",
        "export and compare",
        "calibrate",
    ]
    stages += ["check with synthetic anomalies", "evaluate"]
    assert list(recorder.stages) == stages
    assert all(done == total for done, total in recorder.stages.values())


@pytest.mark.slow
def test_one_line_states_what_the_good_images_are_used_for(trained: Trained, recorder: Recorder) -> None:
    data = trained.data
    fitted, reference, held_out = len(data.fitted), len(data.reference), len(data.held_out)
    assert fitted + reference + held_out == 40
    assert describe_counts(data).startswith(
        f"Good images: 40 found. {fitted} are learnt from; {reference} are the reference, on which the map is "
        f"adjusted; {held_out} are held out"
    )
    assert describe_counts(data) in recorder.notes
    fewer = dataclasses.replace(data, duplicates=data.train[:2], excluded=data.train[:1])
    assert "43 found, 2 duplicate(s) and 1 excluded not used." in describe_counts(fewer)


def test_repository_holds_the_bundle_only(trained: Trained) -> None:
    assert [path.name for path in trained.bundle.path.parent.iterdir()] == [trained.bundle.version]
    assert Bundle.load(trained.bundle.path).digest == trained.bundle.digest


@pytest.mark.slow
def test_bundle_explains_its_maps_with_the_training_images(trained: Trained, data: Path) -> None:
    bundle = trained.bundle
    origins, images = bundle.read_origins(), bundle.images
    assert origins is not None
    assert images is not None
    assert origins.banks.keys() == {"query_reduced", "query_full"}
    fitted = {path.relative_to(data).as_posix() for path in trained.data.fitted}
    assert {image.name for image in origins.index.images} <= fitted
    assert {image.sha256 for image in origins.index.images} <= set(images.training)
    assert (bundle.path / "origins.npz").stat().st_size <= MAX_ORIGINS_BYTES
    inspector = Inspector.load(bundle.path, inspector_options(threads=1, provider="cpu"))
    path = trained.data.held_out[0]
    anomaly_map = inspector.measure(path.read_bytes()).anomaly_map
    inspector.close()
    row, column = np.unravel_index(int(anomaly_map.argmax()), anomaly_map.shape)
    with Explainer(bundle) as explainer:
        image = read_rgb(path)
        prepared = prepare_input(image, bundle.manifest.input)
        found = explainer.explain(prepared, (image.shape[0], image.shape[1]), anomaly_map, (int(row), int(column)))
    assert found.value == pytest.approx(float(anomaly_map.max()), rel=1e-3)
    assert {one.bank.name for one in found.nearest} == set(origins.banks)
    assert len(found.contributions) == 6


@pytest.mark.slow
def test_run_folder_holds_the_record_of_the_training(trained: Trained, data: Path) -> None:
    record = find_record(trained.bundle.path.parents[2] / "run", trained.bundle)

    assert isinstance(record, RunRecord)
    assert [point.step for point in record.curve] == [1, 2, 3]
    assert all(point.losses["loss"] > 0 for point in record.curve)
    assert sum(group.training for group in record.groups) == trained.bundle.manifest.training.images
    assert record.data == str(data)


@pytest.mark.parametrize("product", ["", "Part", "../part", "a b"])
def test_product_names_follow_the_rule_of_the_service(tmp_path: Path, product: str) -> None:
    with pytest.raises(InvalidOption, match="product name"):
        Request(tmp_path, product, tmp_path, tmp_path, CONFIG)


def test_manifest_has_no_path_of_the_training_machine() -> None:
    config = dataclasses.replace(CONFIG, teacher_weights=(Path("/home/user/project/weights.pth"),))

    assert _shareable(config)["teacher_weights"] == ["weights.pth"]


@pytest.mark.slow
def test_only_the_probes_are_decoded_before_the_calibration(
    data: Path, small: FitConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[Path] = []
    read = dataset.read_for

    def recorded(path: Path, geometry: InputGeometry) -> DecodedImage:
        decoded.append(path)
        return read(path, geometry)

    monkeypatch.setattr(dataset, "read_for", recorded)
    request = Request(data, "plate", tmp_path / "models", tmp_path / "run", small, held_out_fraction=0.4)
    # The check of the good images decodes all of them, in turn.
    trained = train(dataclasses.replace(request, allow_weak=True, checked=True), Recorder())

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


@pytest.mark.slow
def test_bundle_records_groups_sizes_hashes_and_sanity(trained: Trained, recorder: Recorder) -> None:
    card = trained.bundle.card
    assert card.image_size is not None
    assert (card.image_size.min_width, card.image_size.max_height, card.image_size.max_aspect) == (80, 72, 80 / 72)
    assert trained.bundle.images == trained.data.hashes
    assert len(trained.data.hashes.training) == 30
    assert card.group_shift is None, "nothing separates these images"
    assert card.sanity is not None
    assert (card.sanity.images, card.sanity.synthetic) == (10, 60)
    assert trained.bundle.manifest.training.weak == weaknesses(card.sanity)
    assert any("none found" in note for note in recorder.notes)


def test_training_within_the_warm_up_is_refused_before_images_are_read(data: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, warmup_steps=30, iterations=15)
    recorder = Recorder()

    with pytest.raises(TooFewIterations, match=r"15 training steps.*at least 31 steps.*--allow-weak"):
        train(Request(data, "plate", tmp_path / "models", tmp_path / "run", config), recorder)

    assert recorder.stages == {}
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("stages", "minimum"), [((1.0,), 31), ((0.2, 1.0), 153), ((0.5, 1.0), 62)], ids=["one", "dual-teacher", "halves"]
)
def test_every_stage_must_be_longer_than_its_warm_up(stages: tuple[float, ...], minimum: int) -> None:
    assert warm_up_ends(FitConfig(), stages) == minimum
    for step in range(minimum):
        config = FitConfig(iterations=minimum)
        assert 0 < learning_rate(step, config, stages) <= config.lr
    peaks = sum(learning_rate(step, FitConfig(iterations=minimum), stages) == FitConfig.lr for step in range(minimum))
    assert peaks >= len(stages), "the full rate is reached in every stage"


@pytest.mark.slow
def test_weak_network_gets_no_bundle_unless_it_is_allowed_and_then_says_so(
    data: Path, small: FitConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    useless = SanityFigures(images=10, synthetic=60, image_auroc=0.36, pixel_auroc=0.5)
    monkeypatch.setattr("training.certification.measure_sanity", lambda *_: useless)
    request = Request(data, "plate", tmp_path / "models", tmp_path / "run", small)

    with pytest.raises(WeakBundle, match=r"image AUROC on synthetic anomalies is 0\.36.*pixel AUROC.*--allow-weak"):
        train(request, Recorder())
    assert not list((tmp_path / "models").rglob("manifest.json"))

    allowed = train(dataclasses.replace(request, resume=True, allow_weak=True), Recorder())
    assert allowed.bundle.card.sanity == useless
    first, second = allowed.bundle.manifest.training.weak
    assert "image AUROC" in first
    assert "pixel AUROC" in second
    assert Bundle.load(allowed.bundle.path).manifest.training.weak == [first, second]


@pytest.mark.slow
def test_shift_between_few_groups_is_estimated_and_recorded(data: Path, small: FitConfig, tmp_path: Path) -> None:
    grouped = tmp_path / "grouped"
    grouped.mkdir()
    for number, path in enumerate(sorted((data / "train" / "good").glob("*.png"))):
        (grouped / f"lot{number % 5}_{number:02d}.png").write_bytes(path.read_bytes())
    recorder = Recorder()
    request = Request(grouped, "plate", tmp_path / "models", tmp_path / "run", small, allow_weak=True)

    trained = train(request, recorder)

    assert any("5 by common prefixes of file names (lot0, lot1, lot2, lot3, lot4)" in note for note in recorder.notes)
    assert trained.bundle.card.grouped_by == "prefix"
    shift = trained.bundle.card.group_shift
    assert shift is not None
    assert (shift.groups, shift.images) == (5, 20)
    assert 0 <= shift.new_rate <= shift.worst_rate <= 1
    assert recorder.stages["compare the groups"] == (5, 5)
