import numpy as np
import pytest

from service.inspection.decoding.decoder import ImageLimits, decode
from service.inspection.heatmap import HEATMAP_MEDIA_TYPES, HeatmapScale, encode, render
from service.inspection.regions import find_regions

SCALE = HeatmapScale(low=1.0, high=3.0)
GRAY = np.full((40, 60, 3), 120, np.uint8)


@pytest.mark.parametrize(("value", "level"), [(-5.0, 0.0), (1.0, 0.0), (2.0, 0.5), (3.0, 1.0), (4.0, 1.5), (99.0, 1.5)])
def test_scale_is_fixed_by_the_product(value: float, level: float) -> None:
    assert SCALE.normalise(np.array([[value]], np.float32))[0, 0] == pytest.approx(level)


def test_good_part_is_rendered_unchanged() -> None:
    np.testing.assert_array_equal(render(GRAY, np.full((4, 6), 0.9, np.float32), SCALE), GRAY)


def test_colour_of_a_value_does_not_depend_on_the_rest_of_the_map() -> None:
    faint = np.full((4, 6), 1.0, np.float32)
    faint[0, 0] = 1.5
    with_defect = faint.copy()
    with_defect[3, 5] = 50.0  # normalisation per image would fade the faint spot

    np.testing.assert_array_equal(render(GRAY, faint, SCALE)[0, 0], render(GRAY, with_defect, SCALE)[0, 0])


def test_highest_values_are_red() -> None:
    red, green, blue = render(GRAY, np.full((4, 6), 9.0, np.float32), SCALE, opacity=1.0)[20, 30].tolist()

    assert red > 100 > max(green, blue)


def test_regions_are_outlined() -> None:
    anomaly_map = np.zeros((4, 6), np.float32)
    anomaly_map[1:3, 2:4] = 9.0
    regions = find_regions(anomaly_map, 3.0, (60, 40)).kept

    plain, outlined = render(GRAY, anomaly_map, SCALE), render(GRAY, anomaly_map, SCALE, regions)

    assert (outlined == 255).all(axis=2).any()
    assert not (plain == 255).all(axis=2).any()


@pytest.mark.parametrize("scale", [HeatmapScale(1.0, 1.0), HeatmapScale(2.0, 1.0)])
def test_degenerate_scale_does_not_divide_by_zero(scale: HeatmapScale) -> None:
    assert set(scale.normalise(np.array([[0.0, 5.0]], np.float32)).ravel()) == {0.0, 1.5}


@pytest.mark.parametrize("media_type", HEATMAP_MEDIA_TYPES)
def test_encoded_heatmap_is_rgb(media_type: str) -> None:
    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 0] = 255

    decoded = decode(encode(red, media_type), ImageLimits())

    assert decoded[16, 16, 0] > 240
    assert decoded[16, 16, 2] < 15


def test_image_larger_than_the_format_allows_is_scaled_down() -> None:
    line_scan = np.full((64, 20_000, 3), 90, np.uint8)

    decoded = decode(encode(line_scan, "image/webp"), ImageLimits())

    assert decoded.shape == (52, 16_383, 3)


def test_strips_leave_no_seams() -> None:
    tall = np.full((1000, 16, 3), 120, np.uint8)

    column = render(tall, np.full((4, 4), 2.0, np.float32), SCALE)[:, 8].astype(int)

    assert (column == column[0]).all()
    assert (column[0] != 120).any()


def test_red_begins_above_the_fail_threshold() -> None:
    at_threshold = render(GRAY, np.full((4, 6), 3.0, np.float32), SCALE, opacity=1.0)[20, 30].tolist()
    far_above = render(GRAY, np.full((4, 6), 4.0, np.float32), SCALE, opacity=1.0)[20, 30].tolist()

    assert at_threshold[1] > 150, "yellow has as much green as red"
    assert far_above[0] > 100 > max(far_above[1:])


def test_unjudged_pixels_are_dimmed_and_hatched_without_seams() -> None:
    tall = np.full((1000, 60, 3), 200, np.uint8)
    evidence = np.full((10, 6), 9.0, np.float32)
    judged = np.zeros((10, 6), np.bool_)
    judged[:, :3] = True

    shown = render(tall, evidence, SCALE, judged=judged)

    assert (shown[:, :29, 0] > 200).any(), "judged pixels have colour"
    hidden = shown[:, 30:]
    lines = (hidden == 128).all(axis=2)
    assert (hidden[~lines] == 80).all()
    assert 0.05 < lines.mean() < 0.2
    assert (lines[1:, :-1] == lines[:-1, 1:]).all(), "lines continue from strip to strip"


def test_unjudged_values_do_not_colour_judged_pixels() -> None:
    evidence = np.zeros((4, 6), np.float32)
    evidence[:, 3:] = 9.0

    shown = render(GRAY, evidence, SCALE, judged=evidence == 0)

    assert (shown[:, :30] == 120).all()
