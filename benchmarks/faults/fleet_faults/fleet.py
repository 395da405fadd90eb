"""The replicas of a fleet, and what they count."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from tests.serving import ServiceProcess, service_process

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "not-a-secret", "AWS_SECRET_ACCESS_KEY": "not-a-secret"}
COUNTED = {
    'inspection_bundle_leases_total{result="hit"}': "hits",
    'inspection_bundle_leases_total{result="miss"}': "misses",
    "inspection_bundle_evictions_total": "evictions",
    "inspection_bundle_load_seconds_count": "loads",
    "inspection_bundle_load_seconds_sum": "load_s",
    "inspection_bundles_prefetched_total": "loaded_ahead",
    'inspection_bundle_downloads_total{outcome="done"}': "downloads",
    'inspection_bundle_downloads_total{outcome="failed"}': "failed_downloads",
    "inspection_bundle_cache_evictions_total": "removed_from_disk",
}
"""Names of counters of a replica, by their names in `/metrics`."""
_SAMPLE = re.compile(r"^(\w+(?:\{[^}]*\})?) ([0-9.e+-]+)$", re.MULTILINE)
_START_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Start:
    """A start of a replica.

    Attributes:
        replica: Its number.
        listening_s: Seconds until it listened.
        ready_s: Seconds until it was ready.
        cpu_s: Its processor seconds until then.
        loaded_ahead: Bundles that it had loaded ahead by then.
    """

    replica: int
    listening_s: float
    ready_s: float
    cpu_s: float
    loaded_ahead: float


class Fleet:
    """Replicas that can be started again on the same port, with the folders that they had.

    Args:
        folder: Where the replicas have their data folders and their caches of bundles.
        settings: Settings of all replicas.

    Attributes:
        stack: Ends all replicas.
        replicas: The replicas.
        starts: Each start of a replica so far.
    """

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        self._folder, self._settings = folder, settings
        self._ended: dict[str, float] = {}
        self.stack = ExitStack()
        self.replicas: list[ServiceProcess] = []
        self.starts: list[Start] = []

    def data(self, number: int) -> Path:
        """Return the data folder of a replica."""
        return self._folder / f"data-{number}"

    def start(self, number: int) -> None:
        """Start a replica, or start it again, and wait until it is ready."""
        given = dict(self._settings)
        if number < len(self.replicas):
            given["port"] = str(urlsplit(self.replicas[number].url).port)
        cache, began = self._folder / f"cache-{number}", time.monotonic()
        process = service_process(cache, self.data(number), given, CREDENTIALS, start_timeout_s=_START_TIMEOUT_S)
        replica = self.stack.enter_context(process)
        listening_s = time.monotonic() - began
        self.replicas[number : number + 1] = [replica]
        replica.wait_until(200, timeout_s=_START_TIMEOUT_S)
        ready_s, counted = time.monotonic() - began, self.counted(number)
        self.starts.append(
            Start(number, round(listening_s, 1), round(ready_s, 1), round(counted["cpu_s"], 1), counted["loaded_ahead"])
        )

    def kill(self, number: int) -> None:
        """Kill a replica with SIGKILL. What it counted until now is kept."""
        self._ended = added(self._ended, self.counted(number))
        self.replicas[number].kill()

    def terminate(self, number: int) -> int:
        """End a replica with SIGTERM, and return its exit code. What it counted until now is kept."""
        self._ended = added(self._ended, self.counted(number))
        return self.replicas[number].terminate(timeout_s=120)

    def counted(self, number: int) -> dict[str, float]:
        """Return the counters and the processor seconds of a replica since its start."""
        replica = self.replicas[number]
        text = httpx.get(f"{replica.url}/metrics", timeout=60).text
        found = {COUNTED[name]: float(value) for name, value in _SAMPLE.findall(text) if name in COUNTED}
        return found | {"cpu_s": cpu_seconds(replica.process.pid)}

    def total(self) -> dict[str, float]:
        """Return the sums of all replicas, also of those that ended."""
        return added(self._ended, *(self.counted(number) for number in range(len(self.replicas))))


def added(*counted: Mapping[str, float]) -> dict[str, float]:
    """Return the sums of counters."""
    names = dict.fromkeys(name for one in counted for name in one)
    return {name: sum(one.get(name, 0.0) for one in counted) for name in names}


def hit_rate(counted: Mapping[str, float]) -> float | None:
    """Return the share of the leases whose bundle was in memory when the lease asked; None without leases."""
    hits = counted.get("hits", 0.0)
    leases = hits + counted.get("misses", 0.0)
    return round(hits / leases, 4) if leases else None


def cpu_seconds(pid: int) -> float:
    """Return the processor seconds of a process and its descendants, as far as they run or their parent waited."""
    ticks = 0
    for process in _family(pid):
        try:
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].split()
        except OSError:  # it ended meanwhile
            continue
        ticks += sum(int(field) for field in fields[11:15])  # user and system time, of it and of its dead children
    return ticks / os.sysconf("SC_CLK_TCK")


def _family(pid: int) -> Iterator[int]:
    yield pid
    try:
        children = [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in _children(task)]
    except OSError:
        return
    for child in children:
        yield from _family(child)


def _children(task: Path) -> list[str]:
    try:
        return (task / "children").read_text().split()
    except OSError:
        return []
