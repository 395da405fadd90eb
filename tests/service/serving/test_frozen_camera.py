"""Frozen cameras are found per product and station, with bounded memory."""

import pytest

from service.serving.frozen_camera import FrozenFrames


def test_equal_images_in_a_row_are_counted() -> None:
    frames = FrozenFrames()
    assert [frames.count("p", "s", sha) for sha in ("a", "a", "b", "a", "a", "a")] == [1, 2, 1, 1, 2, 3]


def test_products_and_stations_do_not_mix() -> None:
    frames = FrozenFrames()
    for product, station in (("p", "s"), ("p", "t"), ("q", "s"), ("p", None)):
        assert frames.count(product, station, "a") == 1
    assert frames.count("p", "t", "a") == 2


@pytest.mark.parametrize("stations", [10, 1000])
def test_made_up_stations_use_no_memory(stations: int) -> None:
    frames = FrozenFrames(max_stations=4)
    frames.count("p", "real", "a")
    for number in range(stations):
        frames.count("p", str(number), "a")
        frames.count("p", "real", "a")
    assert len(frames._last) == 4
    assert frames.count("p", "real", "a") == stations + 2, "who sends all the time is not forgotten"
