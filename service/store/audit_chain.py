"""Verification of the audit log: its chain of hashes, and its comparison with an exported copy."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from service.store.audit import GENESIS, AuditHead, AuditRecord


@dataclass(frozen=True)
class BrokenEntry:
    """The first entry that is not as it was appended.

    Attributes:
        id: Number of the entry.
        reason: What differs.
    """

    id: int
    reason: str


@dataclass(frozen=True)
class ChainReport:
    """The result of a verification.

    Attributes:
        entries: Number of entries that are right.
        head: The last of them; None if there is none.
        broken: The first entry that is broken; None if all of them are right.
    """

    entries: int
    head: AuditHead | None
    broken: BrokenEntry | None


class ExportUnreadable(ValueError):
    """A line of an exported audit log is not valid. The message states which one."""


def verify_chain(
    records: Iterator[AuditRecord],
    *,
    expected_head: str | None = None,
    exported: Iterable[dict[str, Any]] = (),
) -> ChainReport:
    """Verify entries from the first one on.

    Args:
        records: All entries in the order of their ids, as `read_audit` yields them.
        expected_head: The hash of an entry that must be in the log, because it was the newest one once.
        exported: Entries that must be in the log, in the order of their ids, as `read_export` yields them.

    Raises:
        StoreUnavailable: The database cannot be read.
        ExportUnreadable: The exported entries cannot be read.
    """
    head: AuditHead | None = None
    copies = iter(exported)
    copy = next(copies, None)
    is_found = expected_head is None
    while True:
        count = 0 if head is None else head.id
        try:
            record = next(records, None)
        except (ValueError, TypeError) as error:  # of the database driver: for example, the time is not a time
            return ChainReport(count, head, BrokenEntry(count + 1, f"it cannot be read ({error})"))
        if record is None:
            break
        reason = _difference(record, head)
        while reason is None and copy is not None and copy["id"] <= record.id:
            reason = _changed(record, copy)
            copy = next(copies, None)
        if reason is not None:
            return ChainReport(count, head, BrokenEntry(min(record.id, count + 1), reason))
        head = AuditHead(record.id, record.hash)
        is_found |= record.hash == expected_head
    broken = None
    if copy is not None:
        broken = BrokenEntry(count + 1, "it is in the exported file, but not in the database: the end was removed")
    elif not is_found:
        reason = f"no entry has the expected hash {expected_head}: the end was removed, or entries were replaced"
        broken = BrokenEntry(count + 1, reason)
    return ChainReport(count, head, broken)


def read_export(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Yield the entries of an export in JSON Lines.

    Args:
        lines: The lines of the file.

    Raises:
        ExportUnreadable: A line is not an entry, or the entries are not in the order of their ids.
    """
    last = 0
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise ExportUnreadable(f"Line {number} of the exported file is not JSON.") from error
        if not isinstance(entry, dict) or not isinstance(entry.get("id"), int) or entry["id"] <= last:
            raise ExportUnreadable(f"Line {number} of the exported file is not the entry that follows the one before.")
        last = entry["id"]
        yield entry


def _difference(record: AuditRecord, head: AuditHead | None) -> str | None:
    """Return what is wrong with the entry that follows `head`, or None."""
    number, previous = (0, GENESIS) if head is None else (head.id, head.hash)
    if record.id != number + 1:
        return f"it is missing; the next entry is {record.id}"
    try:
        expected = record.expected_hash
    except (ValueError, TypeError) as error:  # for example, a text column of SQLite contains bytes
        return f"its content is not valid ({error})"
    if record.hash != expected:
        return f"its content has the hash {expected}, but the stored hash is {record.hash}"
    if record.previous_hash != previous:
        where = "the first entry must have" if head is None else f"entry {number} has"
        return f"its previous_hash is {record.previous_hash}, but {where} {previous}"
    return None


def _changed(record: AuditRecord, copy: dict[str, Any]) -> str | None:
    """Return the first value in which an entry differs from its exported copy, or None."""
    values = record.values()
    for name, exported in copy.items():
        if name not in values or values[name] != exported:
            return f"{name} is {values.get(name)!r} in the database, but {exported!r} in the exported file"
    return None
