"""Work in several pieces at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


def in_parallel(function: Callable[[ItemT], ResultT], items: Iterable[ItemT]) -> Iterator[ResultT]:
    """Apply a function to items, on as many threads as torch has, and yield the results in the order of the items.

    Each call computes on one thread. The threads of a single operation wait for each other, and for a long time if
    another process takes one of the cores; those of different calls do not. The results do not depend on the number of
    threads.

    Args:
        function: Must not need gradients, which are off in it, nor a context that its caller entered.
        items: Taken one by one, at most one per thread ahead of the results.
    """
    workers = torch.get_num_threads()

    def call(item: ItemT) -> ResultT:
        with torch.no_grad():
            return function(item)

    if workers == 1:
        yield from map(call, items)
        return
    pending = deque[Future[ResultT]]()
    try:
        # The setting counts for the thread that makes it, and for threads that start afterwards.
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for item in items:
                pending.append(pool.submit(call, item))
                if len(pending) > workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
    finally:
        torch.set_num_threads(workers)
