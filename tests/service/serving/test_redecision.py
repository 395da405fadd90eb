"""The cache of anomaly maps that decisions about stored inspections are made from."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from service.bundle.arrays import Float32Map
from service.serving.redecision import Redecider
from service.store.ids import parse_id
from service.store.inspections import get_inspection
from service.store.records import InspectionRecord
from service.store.store import Store
from tests.running_service import RunningService


class CountingFiles:
    """Returns maps of one kilobyte and counts how often each is read."""

    def __init__(self) -> None:
        self.reads: Counter[str] = Counter()

    def map_of(self, record: InspectionRecord) -> Float32Map:
        self.reads[record.id] += 1
        return np.full((16, 16), len(self.reads), np.float32)


class FakeStore:
    def __init__(self) -> None:
        self.files = CountingFiles()


@pytest.fixture
def record(service: RunningService) -> InspectionRecord:
    return get_inspection(service.store.engine, parse_id(service.inspect().json()["id"]))


@pytest.mark.parametrize(("cache_bytes", "reads"), [(0, 3), (2 * 1024, 1), (100, 3)])
def test_maps_are_kept_within_the_limit(record: InspectionRecord, cache_bytes: int, reads: int) -> None:
    store: Any = FakeStore()
    redecider = Redecider(cast("Store", store), cache_bytes)
    for _ in range(3):
        assert redecider.read_map(record).shape == (16, 16)
    assert store.files.reads[record.id] == reads


def test_map_that_was_not_used_for_longest_is_dropped_first(record: InspectionRecord) -> None:
    store: Any = FakeStore()
    redecider = Redecider(cast("Store", store), 2 * 1024)
    first, second, third = (replace(record, id=name) for name in "abc")
    for one in (first, second, first, third, first, second):
        redecider.read_map(one)
    assert store.files.reads == {"a": 1, "b": 2, "c": 1}
