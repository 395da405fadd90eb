"""Watch a folder: each image that is dropped into it is inspected once and moved by its decision."""

from __future__ import annotations

import errno
import hashlib
import math
import os
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from plumbline_client import Client
from service.cli.watching.files import DroppedFile, Inbox, Incomplete, TooLarge, read_file
from service.cli.watching.parts import NamePattern
from service.cli.watching.requests import Patience, Requests, ServiceFails, StopFlag, Stopped
from service.cli.watching.targets import KEY, TARGETS, TargetFolders
from service.inspection.image_files import console_text

HOLD_BACK_S = 60.0
"""Seconds until a file that could not be read, inspected or moved is tried again."""
_MAX_UNPLACED = 100
_MAX_REMEMBERED = 10_000
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
_CHANGED = "it changed or vanished before it was moved; what is there now is inspected anew"
ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class WatchOptions:
    """Options of the watcher.

    Attributes:
        product: Product that the images show.
        recursive: Whether images in sub-folders are inspected.
        settle_s: Seconds during which size and time of a file must not change.
        interval_s: Seconds between scans.
        max_file_bytes: Larger files are refused without being sent.
        pattern: Finds part id, lot and station in file names; None for none.
        station: Station of all images; None if unknown.
        lot: Lot of all images; None if unknown.
        once: Inspect the files that are present, then end.
        give_up_s: Longest wait for the service or the disk in a single pass, in seconds.
    """

    product: str
    recursive: bool = False
    settle_s: float = 2.0
    interval_s: float = 1.0
    max_file_bytes: int = 32 * 2**20
    pattern: NamePattern | None = None
    station: str | None = None
    lot: str | None = None
    once: bool = False
    give_up_s: float = 60.0


Report = Callable[[str, dict[str, Any]], None]
"""Receives the name of an event and its values."""


class FolderWatcher:
    """Inspects the images of a folder one after another, the oldest first.

    Args:
        folder: The folder. Its target folders must exist, and no other watcher may use it.
        client: Client of the service; it must not repeat requests itself.
        options: The options.
        report: Receives what happens.
        stop: Ends `run` after the current image.
    """

    def __init__(self, folder: Path, client: Client, options: WatchOptions, report: Report, stop: StopFlag) -> None:
        self._options = options
        self._report = report
        self._stop = stop
        self._targets = TargetFolders(folder)
        self._inbox = Inbox(
            folder,
            frozenset(TARGETS),
            recursive=options.recursive,
            settle_s=options.settle_s,
            skipped=self._skip_folder,
        )
        give_up_s = options.give_up_s if options.once else None
        self._disk = Patience(stop, self._report_wait, give_up_s)
        self._requests = Requests(client, options.product, Patience(stop, self._report_wait, give_up_s))
        # Results whose files could not be moved, so that an inspection is not repeated however long that lasts.
        self._unplaced: OrderedDict[str, tuple[str, dict[str, Any]]] = OrderedDict()
        self._left: OrderedDict[DroppedFile, str] = OrderedDict()
        self._skipped: set[str] = set()
        self.counts: Counter[str] = Counter()
        """Number of files by target folder, and of files that were `left`, `incomplete` or `unnamed`."""

    @property
    def is_complete(self) -> bool:
        """Whether every file was inspected and moved."""
        return not (self.counts["refused"] or self.counts["left"] or self.counts["incomplete"] or self._skipped)

    def run(self) -> None:
        """Inspect images until the watcher is asked to stop; in a single pass, until all that are present are done.

        Raises:
            WatcherRefused: The service accepts no images of this watcher.
            GaveUp: In a single pass, the service or the disk did not become available in time.
            OSError: In a single pass, the folder cannot be read.
        """
        try:
            if self._options.once:
                self._inbox.limit_to_present()
            while self._step():
                pass
        except Stopped:
            pass

    def _step(self) -> bool:
        """Scan the folder once and inspect what is complete. Return whether there is more to do."""
        scan = self._retry_disk(self._inbox.scan, is_scan=True)
        for file in scan.ready:
            if self._stop.is_set:
                return False
            self._process(file)
        if self._options.once and not scan.ready and not scan.settling:
            self.counts["incomplete"] += scan.empty
            return False
        if not scan.ready:
            self._stop.wait(min(self._options.interval_s, max(self._options.settle_s, 0.05)))
        return not self._stop.is_set

    def _process(self, file: DroppedFile) -> None:
        try:
            self._inspect(file)
        except Incomplete:
            self._leave_incomplete(file)
        except ServiceFails as error:
            self._leave(file, f"the service fails at this image: {error}")
        except OSError as error:
            self._leave(file, describe(error))

    def _inspect(self, file: DroppedFile) -> None:
        try:
            content = read_file(file, self._options.max_file_bytes)
        except TooLarge:
            key = file.key(self._options.product, "")
            self._finish(file, key, "refused", {"problem": self._too_large(file)}, "", {})
            return
        sha256 = hashlib.sha256(content).hexdigest()
        key = file.key(self._options.product, sha256)
        if (found := self._targets.find(file, key)) is not None:
            image, record = found
            self._move(file, image, record)
            return
        part = self._part(file)
        if key not in self._unplaced:
            self._unplaced[key] = self._requests.inspect(content, key, part)
            if len(self._unplaced) > _MAX_UNPLACED:
                self._unplaced.popitem(last=False)
        target, result = self._unplaced[key]
        del content
        self._finish(file, key, target, result, sha256, part)

    def _part(self, file: DroppedFile) -> dict[str, str]:
        fixed = {"station": self._options.station, "lot": self._options.lot}
        found = {} if self._options.pattern is None else self._options.pattern.fields(file.name)
        if found is None:
            self.counts["unnamed"] += 1
            self._report("unnamed", _named(file, reason="the pattern of --part-id does not occur in its name"))
        return {name: text for name, text in fixed.items() if text} | (found or {})

    def _finish(
        self,
        file: DroppedFile,
        key: str,
        target: str,
        result: dict[str, Any],
        sha256: str,
        part: dict[str, str],
    ) -> None:
        """Write the record of a file and move the file."""
        record = {
            "file": console_text(file.name),
            "bytes": file.size,
            "mtime_ns": file.mtime_ns,
            "sha256": sha256 or None,
            "product": self._options.product,
            **part,
            KEY: key,
            "target": target,
            **result,
        }
        image = self._retry_disk(lambda: self._targets.store(target, file, record))
        self._move(file, image, record)

    def _move(self, file: DroppedFile, image: Path, record: dict[str, Any]) -> None:
        try:
            self._retry_disk(lambda: self._targets.move(file, image))
        except Incomplete:
            self._report("changed", _named(file, reason=_CHANGED))
            self._unplaced.pop(record[KEY], None)
            self._inbox.forget(file)
            return
        self._unplaced.pop(record[KEY], None)
        self._inbox.forget(file)
        target = str(record.get("target"))
        self.counts[target] += 1
        self._report(
            target,
            _named(file, moved_to=console_text(image))
            | {name: record[name] for name in ("part_id", "lot", "station", "inspection", "problem") if name in record},
        )

    def _retry_disk(self, action: Callable[[], ResultT], *, is_scan: bool = False) -> ResultT:
        """Call a function, again while the disk is full or read-only.

        A folder that cannot be scanned, for instance because a network share is not mounted, is waited for as well,
        except in a single pass.
        """
        while True:
            try:
                done = action()
            except OSError as error:
                if error.errno not in _DISK and not (is_scan and not self._options.once):
                    raise
                self._disk.wait(f"disk-{error.errno}", f"{describe(error)} The images stay in the folder.")
            else:
                self._disk.succeeded()
                return done

    def _leave(self, file: DroppedFile, reason: str) -> None:
        """Leave a file in the folder for some time, so that the files after it have their turn."""
        self._inbox.hold_back(file, math.inf if self._options.once else HOLD_BACK_S)
        is_reported = self._left.pop(file, None) == reason
        self._left[file] = reason
        if len(self._left) > _MAX_REMEMBERED:
            self._left.popitem(last=False)
        if not is_reported:
            self.counts["left"] += 1
            self._report("left", _named(file, reason=reason))

    def _leave_incomplete(self, file: DroppedFile) -> None:
        if not self._options.once:
            self._inbox.hold_back(file, max(self._options.settle_s, self._options.interval_s))
            return
        self._inbox.hold_back(file, math.inf)
        self.counts["incomplete"] += 1
        self._report("left", _named(file, reason="it is being written, or it changed or vanished"))

    def _skip_folder(self, name: str, reason: str) -> None:
        if name not in self._skipped and len(self._skipped) < _MAX_REMEMBERED:
            self._skipped.add(name)
            self._report("left", {"file": console_text(name), "reason": f"the folder cannot be read: {reason}"})

    def _report_wait(self, reason: str | None) -> None:
        self._report("resumed" if reason is None else "waiting", {} if reason is None else {"reason": reason})

    def _too_large(self, file: DroppedFile) -> dict[str, Any]:
        limit = self._options.max_file_bytes
        detail = (
            f"The file has {file.size} bytes, more than {limit}. It was not sent. Raise --max-file-bytes and "
            "PLUMBLINE_MAX_BODY_BYTES of the service, or compress the images."
        )
        return {"title": "File too large", "detail": detail, "limit_bytes": limit}


def describe(error: OSError) -> str:
    """Return an error of the file system as a sentence."""
    where = "" if error.filename is None else f"{console_text(os.fsdecode(error.filename))}: "
    return f"{where}{error.strerror or error}."


def _named(file: DroppedFile, **values: Any) -> dict[str, Any]:
    return {"file": console_text(file.name), **values}
