import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from service.bundle.bundle import Bundle
from service.bundle.errors import ParityFailure
from service.inspection.decision import Criteria, Decision, Thresholds
from service.inspection.decoding.decoder import ImageLimits
from service.inspection.errors import CorruptImage, ScoreNotFinite, TooManyPixels
from service.inspection.inspector import Inspector, InspectorOptions, SelfTestResult
from service.inspection.runtime.batching import PatchResult
from service.inspection.runtime.session import GraphOutput, GraphSession, SessionOptions
from tests.bundles import part, write_tiny_bundle

OPTIONS = InspectorOptions(session=SessionOptions(provider="cpu", threads=1), limits=ImageLimits(max_pixels=10**6))
THRESHOLDS = Thresholds(fail=0.3, review=0.1)
CRITERIA = Criteria(THRESHOLDS)


def png(image: npt.NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def inspector(tiny_bundle: Bundle) -> Iterator[Inspector]:
    inspector = Inspector.load(tiny_bundle.path, OPTIONS)
    yield inspector
    inspector.close()


def test_good_part_passes_without_regions(inspector: Inspector) -> None:
    inspection = inspector.inspect(png(part()), CRITERIA)

    assert inspection.decision is Decision.PASS
    assert inspection.regions == ()
    assert inspection.p_value == 1.0


def test_defect_fails_and_is_located_in_pixels_of_the_sent_image(inspector: Inspector) -> None:
    data = png(part(width=640, height=320, spot=(400, 80, 60)))  # stretched to 64 x 64 for the graph

    inspection = inspector.inspect(data, CRITERIA)

    assert inspection.decision is Decision.FAIL
    (region,) = inspection.regions
    x, y, width, height = region.bbox
    assert x <= 400 + 30 <= x + width
    assert y <= 80 + 30 <= y + height
    assert width < 120
    assert inspection.p_value == pytest.approx(1 / 100)
    assert inspection.image.image_wh == (640, 320)
    assert inspection.image.media_type == "image/png"
    assert inspection.image.sha256 == hashlib.sha256(data).hexdigest()
    assert set(inspection.timings) == {"decode", "preprocess", "queue", "infer", "postprocess"}


def test_faint_defect_needs_review_and_has_a_region(inspector: Inspector) -> None:
    image = part()
    image[20:28, 20:28] = 180  # distance 0.2 from gray

    inspection = inspector.inspect(png(image), CRITERIA)

    assert inspection.decision is Decision.REVIEW
    assert len(inspection.regions) == 1


def test_measuring_and_inspecting_give_the_same_score(inspector: Inspector) -> None:
    data = png(part(spot=(20, 20, 12)))

    measured, inspected = inspector.measure(data), inspector.inspect(data, CRITERIA)

    assert measured.score == inspected.score
    np.testing.assert_array_equal(measured.anomaly_map, inspected.anomaly_map)


def test_gain_multiplies_score_and_map(tmp_path: Path, inspector: Inspector) -> None:
    data = png(part(spot=(20, 20, 12)))
    with_gain = Inspector.load(write_tiny_bundle(tmp_path, gain=True).path, OPTIONS)

    plain, gained = inspector.measure(data), with_gain.measure(data)
    with_gain.close()

    factor = 1 + float(plain.anomaly_map.max())
    assert gained.score == pytest.approx(plain.score * factor)
    np.testing.assert_allclose(gained.anomaly_map, plain.anomaly_map * factor, rtol=1e-6)


def test_heatmap_scale_runs_from_the_median_of_good_maps_to_the_fail_threshold(inspector: Inspector) -> None:
    scale = inspector.heatmap_scale(THRESHOLDS)

    assert (scale.low, scale.high) == (inspector.card.map_median, 0.3)


@pytest.mark.parametrize(
    ("data", "error"),
    [(png(part())[:100], CorruptImage), (png(np.zeros((1001, 1000, 3), np.uint8)), TooManyPixels)],
)
def test_unusable_image_is_refused(inspector: Inspector, data: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        inspector.inspect(data, CRITERIA)


def test_bundle_that_fails_its_self_test_is_not_loaded(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path, offset=0.01)

    with pytest.raises(ParityFailure, match=r"'cpu' .* differ by 5\.10e\+00"):
        Inspector.load(bundle.path, OPTIONS)


def test_reopened_bundle_runs_one_golden_sample_unless_the_provider_changed(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[int] = []
    run = GraphSession.run

    def counted(session: GraphSession, images: npt.NDArray[np.uint8], *, keeps_memory: bool = True) -> GraphOutput:
        runs.append(len(images))
        return run(session, images, keeps_memory=keeps_memory)

    monkeypatch.setattr(GraphSession, "run", counted)
    passed = SelfTestResult("cpu", 1e-7)
    reopened = Inspector.reopen(tiny_bundle, OPTIONS, passed)
    assert runs[:1] == [1]
    assert len(runs) == 1 + len(range(2, OPTIONS.batching.max_batch + 1))
    assert reopened.self_test_difference >= passed.difference
    reopened.close()
    runs.clear()
    Inspector.reopen(tiny_bundle, OPTIONS, SelfTestResult("cuda", 1e-7)).close()
    assert runs[:3] == [1, 1, 2], "both samples, and both together"


def test_reopened_bundle_must_return_the_recorded_results(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path, offset=0.5)
    with pytest.raises(ParityFailure):
        Inspector.reopen(bundle, OPTIONS, SelfTestResult("cpu", 0.0))


def test_score_that_is_not_finite_gives_no_verdict(inspector: Inspector) -> None:
    result = PatchResult(np.full((16, 16), np.nan, np.float32), None, 0.0, 0.0, 1)

    with pytest.raises(ScoreNotFinite, match="nan"):
        inspector.score(inspector.read(png(part())), result)
