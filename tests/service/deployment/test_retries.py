"""Bundles that were refused are loaded again after a growing delay, and when their files changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.deployment.retries import MAX_DELAY_S, LoadRetries


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def retries(tmp_path: Path, clock: Clock) -> LoadRetries:
    (tmp_path / "bolt" / "v1").mkdir(parents=True)
    (tmp_path / "bolt" / "v1" / "model.onnx").write_bytes(b"damaged")
    return LoadRetries(tmp_path, clock)


def test_delay_doubles_up_to_a_minute(retries: LoadRetries, clock: Clock) -> None:
    delays = []
    for _ in range(9):
        assert retries.is_due("bolt", "active", 1)
        retries.add_failure("bolt", "active", 1)
        start = clock.now
        while not retries.is_due("bolt", "active", 1):
            clock.now += 0.5
        delays.append(clock.now - start)
    assert delays == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert MAX_DELAY_S == 60


def test_other_product_role_or_request_is_not_delayed(retries: LoadRetries) -> None:
    retries.add_failure("bolt", "active", 1)
    assert not retries.is_due("bolt", "active", 1)
    assert retries.is_due("bolt", "active", 2)
    assert retries.is_due("bolt", "shadow", 1)
    assert retries.is_due("nut", "active", 1)
    assert retries.clear("bolt", "active")
    assert retries.is_due("bolt", "active", 1)
    assert not retries.clear("bolt", "active")


def test_changed_files_are_tried_when_they_do_not_change_any_more(retries: LoadRetries, tmp_path: Path) -> None:
    for _ in range(6):
        retries.add_failure("bolt", "active", 1)
    model = tmp_path / "bolt" / "v1" / "model.onnx"
    assert not retries.is_due("bolt", "active", 1)
    for size in (10, 20):
        model.write_bytes(bytes(size))
        assert not retries.is_due("bolt", "active", 1), "it may still be being copied"
    assert retries.is_due("bolt", "active", 1)
    retries.add_failure("bolt", "active", 1)
    assert not retries.is_due("bolt", "active", 1)


def test_delay_begins_anew_with_changed_files(retries: LoadRetries, tmp_path: Path, clock: Clock) -> None:
    for _ in range(6):
        retries.add_failure("bolt", "active", 1)
    (tmp_path / "bolt" / "v1" / "card.json").write_bytes(b"{}")
    retries.add_failure("bolt", "active", 1)
    clock.now = 1.0
    assert retries.is_due("bolt", "active", 1)
