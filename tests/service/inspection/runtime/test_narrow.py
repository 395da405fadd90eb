"""A second session of one thread is used only if its results are those of the other session to the last bit."""

from __future__ import annotations

import numpy as np
import pytest

from service.bundle.arrays import UInt8Image
from service.inspection.runtime.narrow import open_narrow
from service.inspection.runtime.session import GraphOutput, GraphSession, SessionOptions
from tests.graphs import convolutions

IMAGE = np.random.default_rng(5).integers(0, 256, (96, 96, 3), dtype=np.uint8)


def test_the_session_has_one_thread_and_the_same_results() -> None:
    wide = GraphSession(convolutions(), SessionOptions(provider="cpu", threads=2))
    narrow = open_narrow(convolutions(), wide, IMAGE, (1, 2))

    assert narrow is not None
    assert narrow.options.threads == 1
    np.testing.assert_array_equal(narrow.run(IMAGE[None]).maps, wide.run(IMAGE[None]).maps)


class Altered(GraphSession):
    """A session whose results differ by the last bit, or in their gains, for one batch size."""

    def __init__(self, batch_size: int, *, has_gains: bool) -> None:
        super().__init__(convolutions(), SessionOptions(provider="cpu", threads=2))
        self._batch_size = batch_size
        self._has_gains = has_gains

    def run(self, images: UInt8Image, *, keeps_memory: bool = True) -> GraphOutput:
        output = super().run(images, keeps_memory=keeps_memory)
        if len(images) != self._batch_size:
            return output
        if self._has_gains:
            return GraphOutput(output.maps, np.ones(len(images), np.float32))
        maps = output.maps.copy()
        maps[0, 0, 0] = np.nextafter(maps[0, 0, 0], np.float32(np.inf))
        return GraphOutput(maps, None)


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("has_gains", [False, True])
def test_a_difference_in_the_last_bit_is_refused(batch_size: int, has_gains: bool) -> None:
    assert open_narrow(convolutions(), Altered(batch_size, has_gains=has_gains), IMAGE, (1, 2)) is None
