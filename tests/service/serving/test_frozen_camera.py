"""Frozen cameras are detected per product and station, with bounded memory."""

from __future__ import annotations

import pytest

from service.serving.frozen_camera import FrozenCameraDetector


def count(cameras: FrozenCameraDetector, product: str, station: str | None, sha256: str) -> int:
    """Count an image whose inspection is stored."""
    with cameras.counting(product, station, sha256) as repeats:
        return repeats


def fail(cameras: FrozenCameraDetector, sha256: str) -> None:
    """Count an image whose inspection fails."""
    with pytest.raises(OSError, match="disk"), cameras.counting("p", "s", sha256):
        raise OSError("disk")


def test_identical_images_in_succession_are_counted() -> None:
    cameras = FrozenCameraDetector()
    assert [count(cameras, "p", "s", sha) for sha in ("a", "a", "b", "a", "a", "a")] == [1, 2, 1, 1, 2, 3]


def test_image_whose_inspection_failed_does_not_count() -> None:
    cameras = FrozenCameraDetector()
    for _ in range(5):
        fail(cameras, "a")
    assert count(cameras, "p", "s", "a") == 1, "the client sends the image again after an error"
    fail(cameras, "b")
    assert count(cameras, "p", "s", "a") == 2, "a failed image between two identical ones does not hide a frozen camera"


def test_images_in_flight_count() -> None:
    cameras = FrozenCameraDetector()
    with cameras.counting("p", "s", "a") as first, cameras.counting("p", "s", "a") as second:
        assert (first, second) == (1, 2)
        with cameras.counting("p", "s", "b") as other:
            assert other == 1
    assert count(cameras, "p", "s", "a") == 3


def test_products_and_stations_do_not_mix() -> None:
    cameras = FrozenCameraDetector()
    for product, station in (("p", "s"), ("p", "t"), ("q", "s"), ("p", None)):
        assert count(cameras, product, station, "a") == 1
    assert count(cameras, "p", "t", "a") == 2


@pytest.mark.parametrize("stations", [10, 1000])
def test_number_of_stations_is_bounded(stations: int) -> None:
    cameras = FrozenCameraDetector(max_stations=4)
    count(cameras, "p", "real", "a")
    for number in range(stations):
        count(cameras, "p", str(number), "a")
        count(cameras, "p", "real", "a")
    assert len(cameras._stations) == 4
    assert count(cameras, "p", "real", "a") == stations + 2, "a station that sends regularly is kept"
