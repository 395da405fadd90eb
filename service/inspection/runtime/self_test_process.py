"""The process that runs a bundle's graph for the first time; see `service.inspection.runtime.isolation`.

It reads a request line and the files from standard input, sets its own limits, runs the golden samples on the CPU, and
writes one line of JSON. It imports as little as possible, and only after the limits are set.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from typing import IO, Any

_PR_SET_PDEATHSIG = 1
_OUT_OF_MEMORY = ("bad_alloc", "failed to allocate", "bad allocation", "out of memory")


def main() -> None:
    """Run the self-test that standard input describes, and print its result."""
    # Libraries that write to standard output must not mix with the result.
    result_file = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    source = sys.stdin.buffer
    request: dict[str, Any] = json.loads(source.readline())
    _limit(request["timeout_s"], request["cpu_s"], request["memory_bytes"], in_background=request["in_background"])
    result: dict[str, Any]
    stage = ["open"]
    try:
        result = {"difference": _run(request, source, stage)}
    except MemoryError:
        result = {"out_of_memory": True}
    except Exception as error:  # noqa: BLE001 - reported to the service, which refuses the bundle
        text = f"{type(error).__name__}: {error}"
        result = {"error": text, "stage": stage[-1]}
        if any(sign in text.lower() for sign in _OUT_OF_MEMORY):
            result = {"out_of_memory": True}
    json.dump(result, result_file)
    result_file.flush()
    # Destructors of a damaged runtime cannot change the result any more.
    os._exit(0)


def _run(request: dict[str, Any], source: IO[bytes], stage: list[str]) -> float:
    """Run the golden samples and the largest batch; return the largest relative difference.

    The names of the stages are appended to `stage`, so that a failure can be located.
    """
    from service.bundle.golden import GoldenSample
    from service.inspection.runtime.session import GraphSession, SessionOptions

    model, *samples = [source.read(size) for size in request["sizes"]]
    session = GraphSession(model, SessionOptions(provider="cpu", threads=request["threads"]))
    del model
    stage.append("golden")
    shapes = (tuple(request["image_shape"]), tuple(request["map_shape"]))
    difference = session.self_test([GoldenSample.from_bytes(sample, *shapes) for sample in samples])
    # A batch needs the most memory, so the largest one is tried, too.
    stage.append("batch")
    session.warm_up((request["max_batch"],))
    return difference


def _limit(timeout_s: float, cpu_s: int, memory_bytes: int, *, in_background: bool) -> None:
    """Limit this process, as far as the platform can. The service also ends it after the timeout."""
    if sys.platform == "win32":
        return
    import resource

    # Without a handler the alarm ends the process, also within native code and when the service was killed.
    signal.setitimer(signal.ITIMER_REAL, timeout_s + 5)
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # On Linux RLIMIT_DATA counts memory that can be written. RLIMIT_AS would count reserved addresses, too, of which
    # the allocators of threads take many times what they use.
    kind = resource.RLIMIT_DATA if sys.platform == "linux" else resource.RLIMIT_AS
    with contextlib.suppress(ValueError, OSError):  # a lower limit is in force already
        resource.setrlimit(kind, (memory_bytes, memory_bytes))
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
            file.write("1000")  # if the machine runs out of memory, this process ends and not the service
    if in_background:
        os.nice(10)


if __name__ == "__main__":
    main()
