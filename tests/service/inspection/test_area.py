from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.inspection.area import EVERYTHING, Area, Polygon, judged_cells
from service.inspection.errors import AreaMismatch


def box(left: float, top: float, right: float, bottom: float) -> Polygon:
    return ((left, top), (right, top), (right, bottom), (left, bottom))


def image(area: Area, map_hw: tuple[int, int], image_wh: tuple[int, int]) -> list[str]:
    """Return the judged cells as rows of # and dots."""
    cells = judged_cells(area, map_hw, image_wh)
    assert cells is not None
    return ["".join("#" if cell else "." for cell in row) for row in cells]


# A map of 4 x 6 cells over an image of 60 x 40 pixels: a cell has 10 x 10 pixels.
@pytest.mark.parametrize(
    ("area", "cells"),
    [
        (Area(roi=(box(10, 10, 30, 30),)), ["......", ".##...", ".##...", "......"]),
        (Area(ignore=(box(10, 10, 30, 30),)), ["######", "#..###", "#..###", "######"]),
        (Area(roi=(box(0, 0, 60, 40),), ignore=(box(0, 0, 50, 40),)), [".....#"] * 4),
        # Half a cell is judged, less is not.
        (Area(roi=(box(15, 0, 25, 40),)), [".##..."] * 4),
        (Area(roi=(box(14, 0, 24, 40),)), [".#...."] * 4),
        # Two polygons are combined, also where they overlap.
        (Area(roi=(box(0, 0, 20, 20), box(10, 10, 30, 30))), ["##....", "###...", ".##...", "......"]),
        # The order of the corners does not matter.
        (Area(roi=(box(10, 10, 30, 30)[::-1],)), ["......", ".##...", ".##...", "......"]),
        (Area(roi=(((0, 0), (60, 0), (0, 40)),)), ["#####.", "####..", "##....", "#....."]),
        # Not convex: a U.
        (
            Area(roi=(((0, 0), (20, 0), (20, 30), (40, 30), (40, 0), (60, 0), (60, 40), (0, 40)),)),
            ["##..##", "##..##", "##..##", "######"],
        ),
    ],
)
def test_cell_is_judged_when_at_least_half_of_it_is(area: Area, cells: list[str]) -> None:
    assert image(area, (4, 6), (60, 40)) == cells


def test_polygons_are_in_image_pixels_for_any_aspect_ratio() -> None:
    area = Area(roi=(box(1000, 0, 2000, 500),))

    assert image(area, (4, 4), (4000, 1000)) == [".#..", ".#..", "....", "...."]


def test_whole_image_needs_no_mask() -> None:
    assert judged_cells(EVERYTHING, (4, 6), (60, 40)) is None


@pytest.mark.parametrize(
    ("area", "message"),
    [
        (Area(roi=(box(0, 0, 61, 40),)), r"ROI polygon 1 has a corner at \(61, 0\)"),
        (Area(ignore=(box(0, 0, 1, 1), box(0, 0, 60, 41))), r"ignore polygon 2 has a corner at \(60, 41\)"),
        (Area(ignore=(box(0, 0, 60, 40),)), "leave less than half of every cell"),
        (Area(roi=(box(16, 0, 24, 40),)), "leave less than half of every cell"),
    ],
)
def test_image_that_does_not_fit_the_polygons_is_refused(area: Area, message: str) -> None:
    with pytest.raises(AreaMismatch, match=message) as caught:
        judged_cells(area, (4, 6), (60, 40))
    assert "60 x 40" in caught.value.detail


@pytest.mark.parametrize(
    ("area", "leaves"),
    [
        (EVERYTHING, True),
        (Area(ignore=(box(0, 0, 9, 9),)), True),
        (Area(roi=(box(0, 0, 9, 9),), ignore=(box(0, 0, 9, 9),)), False),
        (Area(roi=(box(0, 0, 9, 9), box(50, 50, 60, 60)), ignore=(box(0, 0, 9, 9),)), True),
        (Area(roi=(box(0, 0, 9, 9),), ignore=(box(0, 0, 5, 9), box(5, 0, 20, 20))), False),
    ],
)
def test_has_judged_part(area: Area, leaves: bool) -> None:
    assert area.has_judged_part() is leaves


def test_judged_part_of_an_image_depends_on_its_size() -> None:
    area = Area(ignore=(box(0, 0, 10, 10),))

    assert not area.has_judged_part(10, 10)
    assert area.has_judged_part(11, 10)
    assert area.has_judged_part(10), "the height is unknown"


@pytest.mark.slow
@given(st.integers(3, 12).flatmap(lambda corners: st.lists(st.floats(20, 50), min_size=corners, max_size=corners)))
def test_judged_share_is_the_share_of_the_polygon(radii: list[float]) -> None:
    """Stars around the centre never intersect themselves, and their area is known."""
    angles = [2 * math.pi * number / len(radii) for number in range(len(radii))]
    star = tuple(
        (50 + radius * math.cos(angle), 50 + radius * math.sin(angle))
        for radius, angle in zip(radii, angles, strict=True)
    )
    pairs = zip(star, star[1:] + star[:1], strict=True)
    true_share = abs(sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairs)) / 2 / 100**2

    inside = judged_cells(Area(roi=(star,)), (50, 50), (100, 100))
    outside = judged_cells(Area(ignore=(star,)), (50, 50), (100, 100))

    assert inside is not None
    assert outside is not None
    assert inside.mean() == pytest.approx(true_share, abs=0.02)
    assert np.mean(inside == outside) < 0.02, (
        "ROI and ignore area are complementary, except for cells that are exactly half covered"
    )
