"""Pieces of work on several threads: order, results and torch's own threads stay the same."""

import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from training.parallel import in_parallel
from training.pixels import map_chunks


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_results_come_in_the_order_of_the_items_from_single_threads() -> None:
    both = threading.Barrier(2, timeout=30)  # two calls are in progress at the same time

    def piece(number: int) -> tuple[int, int, bool, bool]:
        both.wait()
        return number, torch.get_num_threads(), torch.is_grad_enabled(), threading.current_thread().name == "MainThread"

    assert list(in_parallel(piece, range(6))) == [(number, 1, False, False) for number in range(6)]
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("threads")
def test_no_more_items_are_taken_than_threads_can_work_on() -> None:
    taken = []

    def items() -> Iterator[int]:
        for number in range(20):
            taken.append(number)
            yield number

    results = in_parallel(lambda number: number, items())
    assert next(results) == 0
    assert len(taken) <= 3
    assert list(results) == list(range(1, 20))


@pytest.mark.usefixtures("threads")
def test_exception_of_a_piece_is_raised() -> None:
    def piece(number: int) -> int:
        if number == 3:
            raise ValueError("the third")
        return number

    with pytest.raises(ValueError, match="the third"):
        list(in_parallel(piece, range(9)))
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("count", [1, 2])
def test_chunks_give_the_same_with_any_number_of_threads(count: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    images = torch.randint(0, 256, (11, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0))

    def convolve(pixels: Tensor) -> Tensor:
        assert len(pixels) <= 4
        return torch.nn.functional.conv2d(pixels, weight)

    try:
        found = torch.cat(list(map_chunks(convolve, images.numpy(), 4)))
    finally:
        torch.set_num_threads(before)
    expected = torch.nn.functional.conv2d(images.permute(0, 3, 1, 2).float() / 255, weight)
    torch.testing.assert_close(found, expected)
