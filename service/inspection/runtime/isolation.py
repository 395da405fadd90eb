"""Run a bundle's graph for the first time in a process of its own, with limits on time and memory.

The service opens only graphs that passed there. The work of a graph depends on the shape of its input alone (see
`service.bundle.operators`), so what the golden samples and the largest batch needed is what every image needs.

The process runs on the CPU even if CUDA serves the bundle: a second CUDA context would take several hundred megabytes
of GPU memory beside the products that are in service, and limits on memory do not apply to a GPU. The parity of the
results is checked on the provider that serves, in the service, each time a bundle is loaded.
"""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

import service
from service.bundle.bundle import Bundle
from service.bundle.errors import BundleInvalid, SelfTestFailed
from service.bundle.manifest import MODEL
from service.errors import ShuttingDown
from service.inspection.runtime.session import SessionOptions
from service.inspection.runtime.threads import cpu_quota

log = structlog.get_logger(__name__)
_COMMAND = (sys.executable, "-P", "-m", "service.inspection.runtime.self_test_process")
_ROOT = Path(service.__file__).parent.parent
_MAX_REASON = 500
# ONNX Runtime names the operator at which it stopped in one of these ways.
_OPERATOR = re.compile(
    r"In Node, \([^,]*, (\w{1,50}),|running (\w{1,50}) node|implementation for (\w{1,50})\(|registered for (\w{1,50})"
)
# By the stage of the self-test. The message of ONNX Runtime is for the log.
_FAILURES = {
    "open": "ONNX Runtime cannot open it, because an operator is not supported or its inputs do not fit.",
    "golden": "ONNX Runtime stops with an error at a golden sample.",
    "batch": "it does not return one result per image for a batch of {batch} images; its batch axis must be dynamic.",
}


@dataclass(frozen=True)
class SelfTestLimits:
    """Limits of a self-test.

    Attributes:
        timeout_s: Seconds that it may take, the start of the process included.
        memory_bytes: Memory that the process may use.
    """

    timeout_s: float = 120.0
    memory_bytes: int = 4 * 2**30


class IsolatedSelfTest:
    """Runs self-tests, each in a process of its own. Can be used from several threads.

    Args:
        limits: Limits of each self-test.
    """

    def __init__(self, limits: SelfTestLimits) -> None:
        self.limits = limits
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._closed = False

    def run(self, bundle: Bundle, options: SessionOptions, max_batch: int, *, in_background: bool = False) -> float:
        """Run the golden samples and the largest batch of a bundle in a new process, and wait for it.

        Args:
            bundle: The verified bundle.
            options: The number of threads is taken from them; the provider is the CPU.
            max_batch: Size of the largest batch.
            in_background: Run the process at a lower priority.

        Returns:
            The largest relative difference from the expected results; see `GraphSession.self_test`.

        Raises:
            SelfTestFailed: The process cannot be started, did not finish within its limits, or ended abnormally.
            BundleInvalid: ONNX Runtime cannot open or run the graph.
            ShuttingDown: `close` was called.
        """
        names = [MODEL, *sorted(name for name in bundle.manifest.files if name.startswith("golden/"))]
        files = [bundle.read_file(name) for name in names]
        geometry, threads = bundle.manifest.input, options.threads or cpu_quota()
        request = {
            "timeout_s": self.limits.timeout_s,
            "cpu_s": math.ceil(self.limits.timeout_s * threads) + 5,
            "memory_bytes": self.limits.memory_bytes,
            "in_background": in_background,
            "threads": threads,
            "max_batch": max_batch,
            "image_shape": (geometry.height, geometry.width, 3),
            "map_shape": (bundle.manifest.map_height, bundle.manifest.map_width),
            "sizes": [len(data) for data in files],
        }
        result = self._result(bundle.path, b"".join([json.dumps(request).encode(), b"\n", *files]))
        if result.get("out_of_memory"):
            raise self._out_of_memory(bundle.path)
        if "error" in result:
            text = str(result["error"])[:_MAX_REASON]
            log.debug("self-test failed", path=str(bundle.path), error=text)
            reason = _FAILURES[result["stage"]].format(batch=max_batch)
            found = _OPERATOR.search(text)
            where = f" The operator is {found[found.lastindex]!r}." if found and found.lastindex else ""
            raise BundleInvalid(bundle.path, f"its graph cannot be run in the self-test: {reason}{where}")
        return float(result["difference"])

    def close(self) -> None:
        """End all running self-tests and refuse new ones."""
        with self._lock:
            self._closed = True
            for process in self._running:
                process.kill()

    def _result(self, path: Path, request: bytes) -> dict[str, Any]:
        search = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        with self._lock:
            if self._closed:
                raise ShuttingDown()
            try:
                process = subprocess.Popen(
                    _COMMAND,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    env=os.environ | {"PYTHONPATH": os.pathsep.join(search)},
                    start_new_session=True,  # Ctrl+C in a terminal is sent to the whole group; the service handles it
                )
            except OSError as error:  # too little memory, or too many processes or open files
                raise SelfTestFailed(path, f"its process cannot be started ({error.strerror}).") from error
            self._running.add(process)
        try:
            output, _ = process.communicate(request, self.limits.timeout_s)
        except subprocess.TimeoutExpired as error:
            raise self._out_of_time(path) from error
        finally:
            process.kill()
            process.communicate()
            with self._lock:
                self._running.discard(process)
        if self._closed:
            raise ShuttingDown()
        try:
            result = json.loads(output)
        except ValueError:
            raise self._ended(path, process.returncode) from None
        assert isinstance(result, dict)
        return result

    def _ended(self, path: Path, code: int) -> SelfTestFailed:
        """Return the error for a process that ended without a result."""
        if os.name == "posix" and -code in {signal.SIGXCPU, signal.SIGALRM}:
            return self._out_of_time(path)
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return SelfTestFailed(path, f"the process ended with {how}, for example because it ran out of memory.")

    def _out_of_time(self, path: Path) -> SelfTestFailed:
        limit = self.limits.timeout_s
        return SelfTestFailed(path, f"it did not finish within {limit:g} s (PLUMBLINE_SELF_TEST_TIMEOUT_S).")

    def _out_of_memory(self, path: Path) -> SelfTestFailed:
        limit = self.limits.memory_bytes / 2**20
        return SelfTestFailed(path, f"it needs more than {limit:.0f} MiB of memory (PLUMBLINE_SELF_TEST_MEMORY_BYTES).")
