"""A converted bundle is certified on its own graph, and refused if it detects less."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from service.bundle.bundle import Bundle
from service.bundle.card import SanityFigures
from service.bundle.errors import ParityFailure
from service.bundle.golden import GoldenSample
from service.bundle.manifest import InputGeometry, ManifestDraft, graph_metadata
from service.bundle.writer import write_bundle
from service.inspection.inspector import Inspector
from tests.bundles import write_tiny_bundle
from tests.explained_bundles import explained_draft, explained_model, gray_origins, write_explained_bundle
from tests.training.small_product import build_bundle, write_plates
from training import conversion
from training.certification import TestSplit
from training.cli.main import app
from training.cli.progress import ProgressBars
from training.conversion import (
    MAX_AUROC_LOSS,
    MAX_SANITY_LOSS,
    Converted,
    Request,
    auroc_losses,
    convert,
    kept_explanation,
    sanity_losses,
)
from training.dataset import scan, scan_test
from training.errors import NotConvertible, PrecisionLoss
from training.pipeline import inspector_options
from training.source_images import find_source_images
from training.tiles import load_sample

OPTIONS = inspector_options(threads=1, provider="cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_plates(tmp_path_factory.mktemp("plates"))


@pytest.fixture(scope="module")
def source(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return build_bundle(data, tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def request_(source: Bundle, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Request:
    return Request(
        source, data, tmp_path_factory.mktemp("int8"), test=TestSplit(data, scan_test(data)), allow_weak=True
    )


@pytest.fixture(scope="module")
def converted(request_: Request) -> Converted:
    return convert(request_, OPTIONS, ProgressBars())


@pytest.mark.slow
def test_manifest_states_precision_runtime_and_source(converted: Converted, source: Bundle) -> None:
    manifest = converted.bundle.manifest

    assert (source.manifest.precision, manifest.precision) == ("fp32", "int8")
    assert manifest.converted_from == source.digest
    assert manifest.calibrated_on is not None
    assert manifest.calibrated_on.runtime.startswith("onnxruntime ")
    assert manifest.calibrated_on.provider == manifest.parity.provider == converted.bundle.card.provider == "cpu"
    assert manifest.parity.measured <= manifest.parity.tolerance == 0.02
    assert manifest.created_at > source.manifest.created_at
    assert converted.bundle.images == source.images


def test_explanation_and_origins_are_kept_if_the_contributions_add_up(tmp_path: Path) -> None:
    origins = gray_origins()
    source = write_explained_bundle(tmp_path, origins=origins)
    model = source.read_model()
    explanation, kept = kept_explanation(source, model)
    assert explanation == source.manifest.explanation is not None
    assert kept is not None
    assert kept.to_bytes() == origins.to_bytes()
    other = explained_model(explained_draft(), squared=True).SerializeToString()
    assert kept_explanation(source, other) == (None, None)
    assert kept_explanation(write_tiny_bundle(tmp_path, "bolt"), model) == (None, None)


@pytest.mark.slow
def test_graph_is_quantised_and_states_it(converted: Converted) -> None:
    graph = onnx.load_model_from_string(converted.bundle.read_model())
    metadata = {prop.key: prop.value for prop in graph.metadata_props}

    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in graph.graph.node}
    assert "DynamicQuantizeLinear" not in {node.op_type for node in graph.graph.node}
    assert metadata == graph_metadata(converted.bundle.manifest)
    assert metadata["plumbline.precision"] == '"int8"'


@pytest.mark.slow
def test_card_holds_the_scores_of_the_new_graph(converted: Converted, source: Bundle, data: Path) -> None:
    inspector = Inspector.load(converted.bundle.path, OPTIONS)
    try:
        scores = sorted(inspector.measure(path.read_bytes()).score for path in scan(data).held_out)
    finally:
        inspector.close()
    card = converted.bundle.card

    np.testing.assert_allclose(card.scores, scores, rtol=1e-6)
    assert card.scores != source.card.scores
    assert card.image_size is not None
    assert (card.image_size.min_width, card.image_size.max_height) == (80, 72)
    assert card.sanity == converted.sanity[1]
    assert card.groups == source.card.groups


@pytest.mark.slow
def test_golden_maps_are_those_of_the_new_graph(converted: Converted, source: Bundle) -> None:
    for own, torchs in zip(converted.bundle.golden, source.golden, strict=True):
        np.testing.assert_array_equal(own.image, torchs.image)
        assert not np.array_equal(own.anomaly_map, torchs.anomaly_map)


@pytest.mark.slow
def test_parity_certificate_detects_other_maps(converted: Converted, tmp_path: Path) -> None:
    other_maps = [GoldenSample(s.image, s.anomaly_map * 1.05, s.score_gain) for s in converted.bundle.golden]
    manifest = converted.bundle.manifest
    draft = ManifestDraft(**manifest.model_dump(exclude={"files"}))
    other = write_bundle(
        tmp_path, draft=draft, model=converted.bundle.read_model(), card=converted.bundle.card, golden=other_maps
    )

    with pytest.raises(ParityFailure):
        Inspector.load(other.path, OPTIONS)


@pytest.mark.slow
def test_only_training_images_set_the_ranges(request_: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Path] = []

    def recorded(paths: Sequence[Path], geometry: InputGeometry, seed: int, count: int) -> NDArray[np.uint8]:
        drawn.extend(paths)
        return load_sample(paths, geometry, seed, count)

    monkeypatch.setattr(conversion, "load_sample", recorded)
    convert(replace(request_, test=None), OPTIONS, ProgressBars())

    assert sorted(drawn) == sorted(find_source_images(request_.bundle, request_.data).training)


@pytest.mark.slow
def test_both_bundles_are_evaluated_on_the_same_images(converted: Converted, source: Bundle) -> None:
    assert converted.evaluations is not None
    before, after = converted.evaluations

    assert before.version == source.version
    assert after.version == converted.bundle.version
    assert [image.path for image in before.images] == [image.path for image in after.images]
    assert converted.bundle.manifest.evaluation == after.figures


def test_converted_bundle_is_not_converted_again(converted: Converted, request_: Request) -> None:
    with pytest.raises(NotConvertible, match="its precision is int8, expected fp32"):
        convert(replace(request_, bundle=converted.bundle), OPTIONS, ProgressBars())


def figures(image: float, pixel: float = 0.9) -> SanityFigures:
    return SanityFigures(images=10, synthetic=60, image_auroc=image, pixel_auroc=pixel)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (figures(0.95), figures(0.95 - 0.9 * MAX_SANITY_LOSS), []),
        (figures(0.95), figures(0.99), []),
        (figures(0.95), figures(0.93), ["image AUROC on synthetic anomalies falls from 95.00 % to 93.00 %"]),
        (figures(0.95, 0.9), figures(0.95, 0.8), ["pixel AUROC on synthetic anomalies falls from 90.00 % to 80.00 %"]),
        (figures(0.651), figures(0.649), ["at least 0.65 is expected"]),
        (figures(0.5), figures(0.5), []),
    ],
    ids=["within", "better", "image", "pixel", "below-the-floor", "weak-before"],
)
def test_sanity_figures_must_not_fall(before: SanityFigures, after: SanityFigures, expected: list[str]) -> None:
    losses = sanity_losses(before, after)

    assert len(losses) == len(expected)
    assert all(part in loss for part, loss in zip(expected, losses, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(("factor", "lost"), [(0.9, False), (1.1, True)])
def test_image_auroc_must_not_fall_on_the_test_split(converted: Converted, factor: float, lost: bool) -> None:
    assert converted.evaluations is not None
    before = replace(converted.evaluations[0], figures={"image_auroc": 0.9})
    after = replace(converted.evaluations[1], figures={"image_auroc": 0.9 - factor * MAX_AUROC_LOSS})

    assert bool(auroc_losses(before, after)) is lost


@pytest.mark.slow
def test_worse_graph_is_refused_and_nothing_is_written(
    request_: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion, "sanity_losses", lambda *_: ["the image AUROC falls"])
    request = replace(request_, models=tmp_path, test=None, allow_weak=False)

    with pytest.raises(PrecisionLoss, match=r"No bundle was written.*the image AUROC falls.*Keep the fp32 bundle"):
        convert(request, OPTIONS, ProgressBars())
    assert not list(tmp_path.rglob("manifest.json"))

    allowed = convert(replace(request, allow_weak=True), OPTIONS, ProgressBars())
    assert allowed.bundle.manifest.training.weak[-1] == "the image AUROC falls"


@pytest.mark.slow
def test_export_command_writes_a_new_version(
    source: Bundle, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion, "auroc_losses", lambda *_: [])
    monkeypatch.setattr(conversion, "sanity_losses", lambda *_: [])
    arguments = ["export", "--bundle", source.path, "--data", data, "--precision", "int8", "--models", tmp_path]

    result = CliRunner().invoke(app, [str(part) for part in (*arguments, "--threads", 1)])

    assert result.exit_code == 0, result.output
    (path,) = (tmp_path / "plate").iterdir()
    assert Bundle.load(path).manifest.precision == "int8"
    assert f"Made from    {source.version} (fp32)" in result.stdout
    assert "image_auroc" in result.stdout


def test_export_command_names_what_is_missing(source: Bundle, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    arguments = ["export", "--bundle", source.path, "--data", tmp_path / "empty", "--models", tmp_path / "models"]

    result = CliRunner().invoke(app, [str(part) for part in arguments])

    assert result.exit_code == 2
    assert "10 of 10 held-out images are not there" in result.stderr
    assert not (tmp_path / "models").exists()
