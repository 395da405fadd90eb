import cv2
import numpy as np
import numpy.typing as npt
import pytest

from service.inspection.decoding.decoder import ImageLimits, decode
from service.inspection.heatmap import (
    COLORMAPS,
    HEATMAP_MEDIA_TYPES,
    HeatmapScale,
    Legend,
    draw_layer,
    draw_legend,
    empty_layer,
    encode,
    render,
)
from service.inspection.regions import find_regions
from service.settings import Settings

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


def colour(value: float, colormap: str, background: int = 120) -> np.ndarray:
    image = np.full((40, 60, 3), background, np.uint8)
    drawn = render(image, np.full((4, 6), value, np.float32), SCALE, opacity=1.0, colormap=colormap)
    pixel: np.ndarray = drawn[20, 30].astype(float)
    return pixel


def test_highest_values_are_red_with_turbo() -> None:
    red, green, blue = colour(9.0, "turbo")

    assert red > 100 > max(green, blue)


def test_highest_values_are_violet_by_default() -> None:
    red, green, blue = colour(9.0, "cyan-violet")

    assert min(red, blue) > 200 > 100 > green


def test_values_below_the_threshold_are_cyan_by_default() -> None:
    red, green, blue = colour(2.7, "cyan-violet")

    assert min(green, blue) > 150 > 100 > red


# Viénot, Brettel and Mollon 1999, in linear RGB, with the coefficients of Machado, Oliveira and Fernandes 2009.
DEFICIENCIES = {
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
}
PARTS = {"cookie": (205, 160, 105), "hazelnut": (95, 60, 40), "red plastic": (190, 40, 35), "steel": (150, 150, 150)}


def seen(rgb: np.ndarray, deficiency: str | None) -> np.ndarray:
    linear = (np.asarray(rgb, float) / 255) ** 2.2
    if deficiency is not None:
        linear = np.clip(np.array(DEFICIENCIES[deficiency]) @ linear, 0, 1)
    return 255 * linear ** (1 / 2.2)


@pytest.mark.parametrize("deficiency", [None, *DEFICIENCIES])
@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_default_colours_are_visible_on_brown_red_and_gray_parts(
    part: tuple[int, int, int], deficiency: str | None
) -> None:
    image = np.full((40, 60, 3), part, np.uint8)

    for value in (3.0, 4.0):
        drawn = render(image, np.full((4, 6), value, np.float32), SCALE)[20, 30]
        assert np.linalg.norm(seen(drawn, deficiency) - seen(np.array(part), deficiency)) > 60


def test_ordinary_variation_of_good_parts_hardly_shows() -> None:
    drawn = render(GRAY, np.full((4, 6), 2.0, np.float32), SCALE)  # half way to the fail threshold

    assert np.abs(drawn.astype(int) - GRAY).max() < 30


def test_regions_are_outlined() -> None:
    anomaly_map = np.zeros((4, 6), np.float32)
    anomaly_map[1:3, 2:4] = 9.0
    regions = find_regions(anomaly_map, 3.0, (60, 40)).kept

    plain, outlined = (render(GRAY, anomaly_map, SCALE, kept, fail_threshold=99.0) for kept in ((), regions))

    assert (outlined == 255).all(axis=2).any()
    assert not (plain == 255).all(axis=2).any()


def test_contour_marks_the_fail_threshold_without_colour() -> None:
    anomaly_map = np.full((4, 6), 2.9, np.float32)
    below = render(GRAY, anomaly_map, SCALE)
    anomaly_map[1:3, 2:4] = 3.5
    above = render(GRAY, anomaly_map, SCALE)
    higher_threshold = render(GRAY, anomaly_map, SCALE, fail_threshold=3.8)

    assert not (below > 200).all(axis=2).any()
    assert (above > 200).all(axis=2).sum() > 20
    assert (above < 60).all(axis=2).sum() > 20, "the black border"
    assert not (higher_threshold > 200).all(axis=2).any()


def test_setting_offers_every_colour_map() -> None:
    (annotation,) = [field.annotation for name, field in Settings.model_fields.items() if name == "heatmap_colormap"]

    assert annotation is not None
    assert set(annotation.__args__) == set(COLORMAPS)
    assert Settings().heatmap_colormap == COLORMAPS[0]


@pytest.mark.parametrize("colormap", COLORMAPS)
def test_every_colour_map_leaves_good_parts_unchanged_and_colours_defects(colormap: str) -> None:
    good = render(GRAY, np.full((4, 6), 0.9, np.float32), SCALE, colormap=colormap)

    np.testing.assert_array_equal(good, GRAY)
    assert np.abs(colour(4.0, colormap) - 120).max() > 60


LEGEND = Legend("fail", 3.0, 2.5, 4.25, 0.01, scale=SCALE)


@pytest.mark.parametrize("size", [(480, 640), (16, 16), (64, 5000), (3000, 40)])
def test_legend_covers_nothing_of_the_image(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)

    drawn = draw_legend(image, LEGEND)

    np.testing.assert_array_equal(drawn[: size[0], : size[1]], image)
    assert drawn.shape[0] > size[0]
    assert drawn.shape[1] == max(size[1], 320)
    assert (drawn[size[0] :] == 255).all(axis=2).any(), "text"


def test_legend_states_decision_score_and_thresholds() -> None:
    assert LEGEND.lines() == ["FAIL", "score 4.25, p-value 0.01", "review above 2.5, fail above 3"]
    assert Legend("pass", 3.0, 2.5, 4.25, 0.01, by_score="fail").lines()[0] == "PASS (fail without region filters)"
    assert Legend("invalid", 3.0, 2.5, reasons=("Too dark.",)).lines() == ["INVALID", "Too dark."]
    assert Legend("invalid", 3.0, 2.5).lines() == ["INVALID", "rejected by the quality check"]
    assert Legend("invalid", 3.0, 2.5, reasons=("64 × 64 – ≤ 5 µm",)).lines()[1] == "64 x 64 - <= 5 ?m"


def test_legend_shows_the_colours_of_the_scale() -> None:
    legend = Legend("fail", 3.0, 2.5, 4.25, 0.01, scale=SCALE, colormap="turbo")
    panel = draw_legend(np.zeros((10, 640, 3), np.uint8), legend)[10:].astype(int)
    red = (panel[..., 0] > 100) & (panel[..., 1:].max(axis=2) < 60)
    columns = np.flatnonzero(red.any(axis=0))

    assert columns.min() > 640 / 1.5, "red lies above the fail threshold"
    assert not red[:30].any()


def test_legend_of_an_invalid_image_has_no_scale() -> None:
    image = np.zeros((10, 640, 3), np.uint8)

    invalid = draw_legend(image, Legend("invalid", 3.0, 2.5, reasons=("Too dark.",)))

    assert invalid.shape[0] < draw_legend(image, LEGEND).shape[0]
    assert (invalid.max(axis=2) - invalid.min(axis=2)).max() == 0, "no colours"


@pytest.mark.parametrize("width", [64, 640, 2000])
def test_sentences_of_a_legend_are_wrapped_and_stay_legible(width: int) -> None:
    image = np.zeros((10, width, 3), np.uint8)
    sentence = "The image is too dark: its mean gray level is 3.2, at least 40 is expected. Check the light source."

    one, two = (draw_legend(image, Legend("invalid", 3.0, 2.5, reasons=count * (sentence,))) for count in (1, 2))

    assert two.shape[0] > one.shape[0] > draw_legend(image, Legend("invalid", 3.0, 2.5, reasons=("x",))).shape[0]
    rows = (one[10:] == 255).all(axis=2).any(axis=1)
    assert np.count_nonzero(np.diff(rows.astype(int)) == 1) >= 3, "decision and at least two lines of text"
    assert not (one[:, -4:] == 255).all(axis=2).any(), "no text is cut off"


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


def test_colour_changes_at_the_fail_threshold() -> None:
    below, above = colour(2.8, "cyan-violet"), colour(3.0, "cyan-violet")

    assert below[0] < 120 < 150 < above[0], "red, the component that cyan lacks"


def test_red_begins_above_the_fail_threshold_with_turbo() -> None:
    at_threshold, far_above = colour(3.0, "turbo"), colour(4.0, "turbo")

    assert at_threshold[1] > 150, "yellow has as much green as red"
    assert far_above[0] > 100 > max(far_above[1:])


def test_unjudged_pixels_are_dimmed_and_hatched_without_seams() -> None:
    tall = np.full((1000, 60, 3), 200, np.uint8)
    evidence = np.full((10, 6), 9.0, np.float32)
    judged = np.zeros((10, 6), np.bool_)
    judged[:, :3] = True

    shown = render(tall, evidence, SCALE, judged=judged, fail_threshold=99.0)  # without a contour

    assert (shown[:, :29, 1] < 150).any(), "judged pixels have colour"
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


def decoded(png: bytes) -> npt.NDArray[np.uint8]:
    bgra = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    assert bgra is not None
    return np.asarray(bgra[..., [2, 1, 0, 3]], np.uint8)


@pytest.mark.parametrize("colormap", COLORMAPS)
def test_layer_has_the_colours_of_the_heatmap(colormap: str) -> None:
    scale = HeatmapScale(0.2, 0.6)
    anomaly_map = np.linspace(0, 1, 64, dtype=np.float32)[None].repeat(64, axis=0)
    judged = np.ones((64, 64), bool)
    judged[40:] = False
    layer = decoded(draw_layer(anomaly_map, scale, (64, 64), judged, colormap)).astype(float)
    assert not layer[:40, :12, 3].any(), "transparent up to the median of good maps"
    assert (layer[:40, 40:, 3] == 255).all(), "opaque from the fail threshold"
    for brightness in (0, 120, 255):
        image = np.full((64, 64, 3), brightness, np.uint8)
        rendered = render(image, anomaly_map, scale, (), judged, opacity=1, colormap=colormap).astype(float)
        weight = layer[..., 3:] / 255
        assert np.abs(image * (1 - weight) + layer[..., :3] * weight - rendered).max() <= 1


def test_layer_of_an_invalid_image_is_transparent() -> None:
    layer = decoded(empty_layer((30, 20)))
    assert layer.shape == (20, 30, 4)
    assert not layer[..., 3].any()
