"""Comparison of the outputs of layouts."""

import numpy as np

from benchmarks.saturation import are_identical


def test_one_changed_bit_is_a_difference() -> None:
    first = np.linspace(0, 1, 9, dtype=np.float32)
    other = first.copy()
    other[4] = np.nextafter(other[4], np.float32(2))

    assert are_identical([lambda: [first], lambda: [first.copy()]])
    assert not are_identical([lambda: [first], lambda: [first.copy()], lambda: [other]])
