"""Requests of the watcher: what a failure means for the file and for the files after it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from plumbline_client import Client, PlumblineClientError, ServiceProblem
from service.cli.options import client_message

REFUSALS = frozenset({413, 415, 422})
"""Statuses that concern the image or its metadata: the same request would fail again."""
TEMPORARY = frozenset({408, 425, 429, 502, 503, 504})
"""Statuses that say nothing about the image: the request is sent again until it succeeds."""
ATTEMPTS = 3
"""Requests for an image at which the service itself fails, before the next image has its turn."""
_KEY_USED = "idempotency-key-used"
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0
# A full queue is ordinary as long as it empties soon.
_UNREPORTED_S = 5.0


class Stopped(Exception):
    """The watcher was asked to stop."""


class GaveUp(Exception):
    """What the watcher waits for did not happen in time."""


class WatcherRefused(Exception):
    """The service refuses the watcher whatever the image is, for instance because the API key is not valid."""


class ServiceFails(Exception):
    """The service fails at this image; it may fail at this image only."""


@dataclass
class StopFlag:
    """A request to stop, which a signal handler sets.

    It has no lock, because a signal handler that interrupts the thread that holds the lock would block forever.
    """

    is_set: bool = False

    def wait(self, seconds: float) -> None:
        """Wait.

        Raises:
            Stopped: The flag is set.
        """
        end = time.monotonic() + seconds
        while not self.is_set and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))
        if self.is_set:
            raise Stopped


class Patience:
    """Waits with growing pauses while something does not work, and reports it once.

    Args:
        stop: Ends the wait.
        report: Called when waiting starts, with the reason, and when it ends, with None.
        give_up_s: Longest time without success, in seconds; None to wait for any time.
    """

    def __init__(self, stop: StopFlag, report: Callable[[str | None], None], give_up_s: float | None) -> None:
        self._stop = stop
        self._report = report
        self._give_up_s = give_up_s
        self._attempts = 0
        self._started = 0.0
        self._reported: str | None = None

    def wait(self, kind: str, reason: str, pause_s: float | None = None) -> None:
        """Wait before the next attempt.

        Args:
            kind: What does not work. A kind is reported once until something works again.
            reason: The message.
            pause_s: How long to wait, as the service demands; None for pauses that grow to half a minute.

        Raises:
            Stopped, GaveUp: There is no next attempt.
        """
        now = time.monotonic()
        if not self._attempts:
            self._started = now
        waited_s = now - self._started
        if self._give_up_s is not None and waited_s >= self._give_up_s:
            raise GaveUp(reason)
        if kind != self._reported and (pause_s is None or waited_s >= _UNREPORTED_S):
            self._reported = kind
            self._report(reason)
        # Several watchers of one service must not come back at the same moment.
        growing_s = min(_FIRST_PAUSE_S * 2**self._attempts, _LONGEST_PAUSE_S) * random.uniform(0.8, 1.2)
        self._attempts = min(self._attempts + 1, 10)
        self._stop.wait(min(growing_s if pause_s is None else pause_s, self._give_up_s or _LONGEST_PAUSE_S * 20))

    def succeeded(self) -> None:
        """Start afresh, and report that it works again if the opposite was reported."""
        self._attempts = 0
        if self._reported is not None:
            self._reported = None
            self._report(None)


class Requests:
    """Sends images until there is a result for each.

    Args:
        client: The client; it must not repeat requests itself, because its pauses cannot be ended.
        product: Name of the product.
        patience: Waits while the service cannot be reached or is busy.
    """

    def __init__(self, client: Client, product: str, patience: Patience) -> None:
        self._client = client
        self._product = product
        self._patience = patience

    def inspect(self, image: bytes, key: str, part: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
        """Inspect an image.

        Args:
            image: The encoded image.
            key: Idempotency key.
            part: Part id, lot and station.

        Returns:
            Name of the target folder, and the inspection or the problem as a member of the record.

        Raises:
            WatcherRefused: The service accepts no images of this watcher.
            ServiceFails: The service fails at this image.
            Stopped, GaveUp: There is no result yet.
        """
        failures = 0
        while True:
            try:
                found = self._client.inspect(
                    self._product,
                    image,
                    part_id=part.get("part_id"),
                    station=part.get("station"),
                    lot=part.get("lot"),
                    idempotency_key=key,
                )
            except ServiceProblem as problem:
                if problem.slug == _KEY_USED and "inspection" in problem.problem:
                    return self._earlier(str(problem.problem["inspection"]))
                if problem.status in REFUSALS:
                    return "refused", {"problem": problem.problem}
                failures += self._wait_after(problem)
                if failures >= ATTEMPTS:
                    raise ServiceFails(str(problem)) from problem
            except PlumblineClientError as error:
                self._patience.wait("unreachable", str(error))
            else:
                self._patience.succeeded()
                return found.decision, {"inspection": found.model_dump(mode="json")}

    def _earlier(self, inspection_id: str) -> tuple[str, dict[str, Any]]:
        """Return the inspection that an earlier run made of this file with other options, such as the part's id."""
        while True:
            try:
                found = self._client.inspection(inspection_id)
            except ServiceProblem as problem:
                if problem.status == 404:
                    return "refused", {"problem": problem.problem}
                if self._wait_after(problem):
                    raise ServiceFails(str(problem)) from problem
            except PlumblineClientError as error:
                self._patience.wait("unreachable", str(error))
            else:
                self._patience.succeeded()
                return found.decision, {"inspection": found.model_dump(mode="json")}

    def _wait_after(self, problem: ServiceProblem) -> int:
        """Wait if the same request can succeed later. Return 1 if the service failed at this image, 0 otherwise."""
        if problem.status in TEMPORARY:
            self._patience.wait(problem.slug, problem.detail or str(problem), _stated_pause_s(problem))
            return 0
        if problem.status < 500:
            raise WatcherRefused(client_message(problem)) from problem
        self._patience.wait(problem.slug, problem.detail or str(problem))
        return 1


def _stated_pause_s(problem: ServiceProblem) -> float | None:
    try:
        return min(max(float(problem.problem["retry_after"]), 0.05), 600.0)
    except (KeyError, TypeError, ValueError):
        return None
