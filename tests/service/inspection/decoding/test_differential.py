"""Compare the decoders with independent ones over generated files of every structure that the formats allow."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from service.errors import PlumblineError
from service.inspection.decoding.decoder import ImageLimits, decode, read_header
from tests.service.inspection.decoding import differential
from tests.service.inspection.decoding.differential import Case

# At least so many files per format and seed, 2,000 for each seed.
CASES: list[tuple[Callable[[np.random.Generator], Iterator[Case]], int]] = [
    (differential.png_cases, 720),
    (differential.tiff_cases, 430),
    (differential.jpeg_cases, 200),
    (differential.bmp_cases, 540),
    (differential.webp_cases, 110),
]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("cases", "at_least"), CASES, ids=[cases.__name__ for cases, _ in CASES])
def test_no_wrong_pixel_is_accepted(
    cases: Callable[[np.random.Generator], Iterator[Case]], at_least: int, seed: int
) -> None:
    count = 0
    for name, data, expected in cases(np.random.default_rng(seed)):
        try:
            decoded = decode(data, ImageLimits())
        except PlumblineError as error:
            pytest.fail(f"{name} is refused: {error.detail}")
        assert decoded.shape == expected.shape, name
        wrong = int((decoded != expected).sum())
        assert not wrong, f"{name}: {wrong} samples differ by up to {np.abs(decoded.astype(int) - expected).max()}"
        header = read_header(data)
        assert (header.height, header.width) == decoded.shape[:2]
        count += 1
    assert count >= at_least, count


def test_each_seed_gives_two_thousand_files() -> None:
    assert sum(at_least for _, at_least in CASES) >= 2_000
