"""Frozen cameras are detected per product and station, with bounded memory."""

import pytest

from service.serving.frozen_camera import FrozenCameraDetector


def test_identical_images_in_succession_are_counted() -> None:
    cameras = FrozenCameraDetector()
    assert [cameras.count("p", "s", sha) for sha in ("a", "a", "b", "a", "a", "a")] == [1, 2, 1, 1, 2, 3]


def test_products_and_stations_do_not_mix() -> None:
    cameras = FrozenCameraDetector()
    for product, station in (("p", "s"), ("p", "t"), ("q", "s"), ("p", None)):
        assert cameras.count(product, station, "a") == 1
    assert cameras.count("p", "t", "a") == 2


@pytest.mark.parametrize("stations", [10, 1000])
def test_number_of_stations_is_bounded(stations: int) -> None:
    cameras = FrozenCameraDetector(max_stations=4)
    cameras.count("p", "real", "a")
    for number in range(stations):
        cameras.count("p", str(number), "a")
        cameras.count("p", "real", "a")
    assert len(cameras._last) == 4
    assert cameras.count("p", "real", "a") == stations + 2, "a station that sends regularly is kept"
