"""The protocol between the benchmark and an inferencer's process: JSON lines on standard input and output.

It needs the standard library only, because it runs in the environments of the other products, too.

| request | reply |
|---|---|
| `{"file": PATH}` | `{"seconds": s, "score": x, "defective": b, "map_hw": [h, w]}` |
| `{"file": PATH, "callers": n, "for_s": s}` | `{"images": n, "seconds": s}` |

The first line of a process, `{"ready": true}`, says that it has loaded its model. An error ends the process.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any


@dataclass(frozen=True)
class Answer:
    """What an inferencer returns for one image.

    Attributes:
        score: The image score; larger means more anomalous.
        defective: The verdict: whether the score exceeds the inferencer's threshold.
        map_hw: Height and width of the anomaly map.
    """

    score: float
    defective: bool
    map_hw: tuple[int, int]


Inspect = Callable[[bytes], Answer]


def claim_output() -> IO[str]:
    """Return standard output for the protocol, and send what libraries print to standard error instead."""
    sys.stdout.flush()
    own = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return own


def serve(inspect: Inspect, requests: Iterable[str], replies: IO[str]) -> None:
    """Answer requests until there are no more.

    Args:
        inspect: Inspects the bytes of an encoded image. Requests with several callers call it from several threads.
        requests: Lines of standard input.
        replies: As returned by `claim_output`.
    """
    _write(replies, {"ready": True})
    for line in requests:
        request = json.loads(line)
        data = Path(request["file"]).read_bytes()
        if "callers" in request:
            _write(replies, _measure_rate(inspect, data, request["callers"], request["for_s"]))
            continue
        started = time.perf_counter()
        answer = inspect(data)
        seconds = time.perf_counter() - started
        _write(
            replies,
            {"seconds": seconds, "score": answer.score, "defective": answer.defective, "map_hw": answer.map_hw},
        )


def _measure_rate(inspect: Inspect, data: bytes, callers: int, for_s: float) -> dict[str, Any]:
    """Call from several threads, once at least, and each again when it has its result and the time is not over."""
    started = time.perf_counter()

    def call() -> tuple[int, float]:
        count = 0
        while True:
            inspect(data)
            count += 1
            ended = time.perf_counter()
            if ended - started >= for_s:
                return count, ended

    with ThreadPoolExecutor(callers) as pool:
        done = [future.result() for future in [pool.submit(call) for _ in range(callers)]]
    # Up to the last result: a call that began in time is counted, and so is the time that it took.
    return {"images": sum(count for count, _ in done), "seconds": max(end for _, end in done) - started}


def _write(replies: IO[str], value: dict[str, Any]) -> None:
    replies.write(json.dumps(value) + "\n")
    replies.flush()
