"""The audit log: an append-only list of changes, each with its author, linked by a chain of hashes.

Record a change in the transaction that makes it:

    with writing(engine, "the key cannot be stored") as session:
        session.add(row)
        session.flush()
        append_audit(session, AuditEntry(actor, "key:create", object=row.id, after={"scopes": [...]}))

Add the kind of change to `AuditAction`, and never put a secret into `before`, `after` or `note`. The entry is stored if
and only if the change is. Append entries after all other statements of the transaction: appending waits for other
transactions that append, and they must not wait for a row of this one.

The hash of an entry is the SHA-256 of its canonical JSON (`AuditRecord.content`), which contains the hash of the entry
before it. So no entry can be changed, removed or inserted without changing every later hash.
`service.store.audit_chain` verifies the chain. The end of the chain can be cut off unnoticed, unless its newest hash is
known from elsewhere: the service writes it to its log.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from sqlalchemy import Engine, Select, false, or_, select, text, update
from sqlalchemy.orm import Session

from service.schemas.common import SYSTEM_AUTHOR
from service.store.advisory_locks import AdvisoryLock
from service.store.errors import StoreUnavailable
from service.store.models import AuditRow
from service.store.session import reading, writing

AuditAction = Literal[
    "recipe:put", "recipe:import", "recipe:revert", "recipe:derive", "proposal:apply", "retention:change",
    "records:rule", "records:remove",
    "bundle:upload", "bundle:upload-failed", "bundle:activate", "bundle:roll-back", "bundle:keep", "bundle:withdraw",
    "bundle:remove", "shadow:start", "shadow:stop", "key:create", "key:revoke",
    "account:create", "account:disable", "account:enable", "account:role", "account:password",
    "session:log-in", "session:log-in-failed", "session:log-out-everywhere",
    "outbox:resend", "outbox:discard", "service:insecure-start",
    "review:add", "review:undo", "drift:acknowledge",
    "training:queue", "training:start", "training:finish", "training:cancel", "training:requeue",
]  # fmt: skip
"""The kinds of changes, and attempts to log in. The service itself makes `service:insecure-start`, the start without
access control (`PLUMBLINE_INSECURE`), `recipe:derive`, the recipe of a bundle that had none or is served
again, `records:rule`, another value of `record_days`, `records:remove`, the removal by it, `bundle:keep`, the choice
that is in force without an activation, and `bundle:withdraw`, the removal of such a choice after a failed upload.
"""
ACTIONS: tuple[AuditAction, ...] = get_args(AuditAction)
ActorKind = Literal["key", "account", "local", "anonymous", "command-line", "service"]
MAX_ADDRESS = 64
"""Longest address, in characters."""
GENESIS = "0" * 64
"""The previous hash of the first entry."""
_PIECE = 500
_NO_CHANGE = update(AuditRow.__table__).where(false()).values(note="")  # type: ignore[arg-type]  # a Table


@dataclass(frozen=True)
class Actor:
    """Who makes a change, and from where.

    Attributes:
        kind: How the actor was authenticated; `local` without authentication, `anonymous` for an attempt to log in,
            `command-line` for a command that changes the database, `service` for the service itself.
        id: Id of the key or of the account; of a command, the user and the host.
        name: Name of the key or of the account, or of the user of the operating system, which is recorded as the author
            of the change.
        address: IP address of the client; of a command, the name of its host; None for the service itself.
        request_id: Id of the request; None for the service itself and for commands.
        is_admin: Whether the actor has the scope `admin`. It is not recorded.
    """

    kind: ActorKind
    id: str
    name: str
    address: str | None = None
    request_id: str | None = None
    is_admin: bool = field(default=False, compare=False)

    def signed(self, author: str | None) -> Actor:
        """Return the actor with the name that a request states, if there is no authentication; otherwise itself.

        Args:
            author: The author that the request states, or None.
        """
        return replace(self, name=author) if self.kind == "local" and author is not None else self


SERVICE = Actor("service", SYSTEM_AUTHOR, SYSTEM_AUTHOR)
"""The actor of changes that the service itself makes."""


@dataclass(frozen=True)
class AuditEntry:
    """A change to record.

    Attributes:
        actor: Who makes it.
        action: What kind of change it is.
        product: The product; None if it concerns none.
        object: What else it concerns: a version, a revision, the id of a key.
        before: The values before it, JSON-serialisable; None if there were none.
        after: The values after it; None if there are none.
        note: The reason in the words of the author.
    """

    actor: Actor
    action: AuditAction
    product: str | None = None
    object: str | None = None
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None
    note: str = ""


@dataclass(frozen=True)
class AuditHead:
    """The newest entry of the audit log: its id, which is the number of entries, and its hash."""

    id: int
    hash: str


@dataclass(frozen=True)
class AuditRecord:
    """A stored entry. The attributes that are not listed are those of `AuditEntry` and `Actor`.

    Attributes:
        id: Number of the entry; the first one is 1, and none is missing.
        previous_hash: Hash of the entry before it; `GENESIS` for the first one.
        hash: SHA-256 of `content`, in hexadecimal digits.
    """

    id: int
    created_at: datetime
    actor_kind: str
    actor_id: str
    actor: str
    address: str | None
    request_id: str | None
    action: str
    product: str | None
    object: str | None
    before: Any
    after: Any
    note: str
    previous_hash: str
    hash: str

    def values(self) -> dict[str, Any]:
        """Return every value by name, JSON-serialisable."""
        named = {name: getattr(self, name) for name in FIELDS}
        return named | {"created_at": self.created_at.astimezone(UTC).isoformat(timespec="microseconds")}

    @property
    def content(self) -> str:
        """Return what is hashed: the canonical JSON of all values but `hash`."""
        return canonical_json({name: value for name, value in self.values().items() if name != "hash"})

    @property
    def expected_hash(self) -> str:
        """Return the hash of the content."""
        return hashlib.sha256(self.content.encode()).hexdigest()


FIELDS = tuple(AuditRecord.__dataclass_fields__)


@dataclass(frozen=True)
class AuditFilter:
    """Conditions on the entries to list. None matches any value.

    Attributes:
        actor: Name or id of the actor.
        action: Kind of change.
        actions: Kinds of changes, one of which an entry has; empty for any.
        product: Name of the product.
        since: Earliest time.
        until: Time before which the entries were made.
        permitted_products: Products whose entries are listed; entries without a product are left out.
    """

    actor: str | None = None
    action: str | None = None
    product: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    permitted_products: frozenset[str] | None = None
    actions: tuple[AuditAction, ...] = ()

    def apply(self, query: Select[AuditRow]) -> Select[AuditRow]:
        """Return a query with these conditions."""
        if self.actor is not None:
            query = query.where(or_(AuditRow.actor == self.actor, AuditRow.actor_id == self.actor))
        if self.action is not None:
            query = query.where(AuditRow.action == self.action)
        if self.actions:
            query = query.where(AuditRow.action.in_(self.actions))
        if self.product is not None:
            query = query.where(AuditRow.product == self.product)
        if self.since is not None:
            query = query.where(AuditRow.created_at >= self.since)
        if self.until is not None:
            query = query.where(AuditRow.created_at < self.until)
        if self.permitted_products is not None:
            query = query.where(AuditRow.product.in_(sorted(self.permitted_products)))
        return query


def canonical_json(value: Any) -> str:
    """Return the canonical JSON of a value: sorted names, no spaces, no escapes that are not required.

    Raises:
        ValueError: It contains a number that JSON does not have.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def append_audit(session: Session, *entries: AuditEntry) -> None:
    """Append entries to the audit log, inside the transaction of the change that they record.

    Args:
        session: An open transaction, in which the change was made before. No other statement may follow.
        entries: The entries, in their order in the log.
    """
    _lock(session)
    for entry in entries:
        _append(session, entry)


def _append(session: Session, entry: AuditEntry) -> AuditRecord:
    newest = session.execute(_newest()).one_or_none()
    number, previous_hash = (0, GENESIS) if newest is None else (newest.id, newest.hash)
    actor = entry.actor
    record = AuditRecord(
        id=number + 1,
        created_at=datetime.now(UTC),
        actor_kind=actor.kind,
        actor_id=actor.id,
        actor=actor.name,
        address=actor.address,
        request_id=actor.request_id,
        action=entry.action,
        product=entry.product,
        object=entry.object,
        # As it will be read: lists instead of tuples, texts instead of numbers as names.
        before=json.loads(canonical_json(entry.before)),
        after=json.loads(canonical_json(entry.after)),
        note=entry.note,
        previous_hash=previous_hash,
        hash="",
    )
    record = replace(record, hash=record.expected_hash)
    columns = {name: getattr(record, name) for name in FIELDS}
    columns |= {"before": canonical_json(record.before), "after": canonical_json(record.after)}
    session.add(AuditRow(**columns))
    session.flush()
    return record


def record_change(engine: Engine, entry: AuditEntry) -> AuditRecord:
    """Append an entry in a transaction of its own, for a change that is not made in the database; see `recorded`.

    Args:
        engine: The database.
        entry: The entry.

    Raises:
        StoreUnavailable: The database cannot store it.
    """
    with writing(engine, "the change cannot be recorded in the audit log") as session:
        _lock(session)
        return _append(session, entry)


@contextmanager
def recorded(engine: Engine, entry: AuditEntry, failed: AuditAction) -> Iterator[None]:
    """Record a change that is made in the block, outside of the database. It is recorded before it is made.

    Args:
        engine: The database.
        entry: The entry.
        failed: The action of a second entry, which is appended if the block fails.

    Raises:
        StoreUnavailable: The database cannot store the entry; the block does not run.
    """
    record_change(engine, entry)
    try:
        yield
    except BaseException:
        with suppress(StoreUnavailable):
            record_change(engine, replace(entry, action=failed, before=entry.after, after=entry.before))
        raise


def audit_head(engine: Engine) -> AuditHead | None:
    """Return the newest entry's id and hash; None if there is no entry.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    with reading(engine) as session:
        newest = session.execute(_newest()).one_or_none()
        return None if newest is None else AuditHead(newest.id, newest.hash)


def audit_hash(engine: Engine, number: int) -> str | None:
    """Return the hash of the entry with this id; None if there is no such entry.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    with reading(engine) as session:
        return session.scalar(select(AuditRow.hash).where(AuditRow.id == number))


def list_audit(
    engine: Engine, which: AuditFilter, *, before: int | None = None, limit: int = 100
) -> Sequence[AuditRecord]:
    """Return entries, newest first.

    Args:
        engine: The database.
        which: The conditions.
        before: Return only entries with a smaller id.
        limit: Maximum number of entries.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    query = which.apply(select(AuditRow)).order_by(AuditRow.id.desc()).limit(limit)
    if before is not None:
        query = query.where(AuditRow.id < before)
    with reading(engine) as session:
        return [_record(row) for row in session.scalars(query)]


def read_audit(engine: Engine, which: AuditFilter | None = None) -> Iterator[AuditRecord]:
    """Yield entries in the order in which they were appended, without keeping them in memory.

    Args:
        engine: The database.
        which: The conditions; None for all entries.

    Raises:
        StoreUnavailable: The database cannot be read.
        ValueError, TypeError: The next entry has a value that the service never stores.
    """
    query = (which or AuditFilter()).apply(select(AuditRow)).order_by(AuditRow.id)
    size, last = _PIECE, 0
    while True:
        try:
            with reading(engine) as session:
                piece = [_record(row) for row in session.scalars(query.where(AuditRow.id > last).limit(size))]
        except (ValueError, TypeError):  # a value that its column cannot have: yield the entries before it
            if size == 1:
                raise
            size = 1
            continue
        yield from piece
        if len(piece) < size:
            return
        last = piece[-1].id


def _lock(session: Session) -> None:
    """Exclude other transactions that append until this one ends. Two of them would continue the same entry."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": AdvisoryLock.AUDIT.value})
    else:
        # SQLite has one writer at a time. A statement that changes nothing takes its lock before the newest is read.
        session.execute(_NO_CHANGE)


def _newest() -> Select[int, str]:
    return select(AuditRow.id, AuditRow.hash).order_by(AuditRow.id.desc()).limit(1)


def _record(row: AuditRow) -> AuditRecord:
    columns = {name: getattr(row, name) for name in FIELDS}
    return AuditRecord(**columns | {"before": _parsed(row.before), "after": _parsed(row.after)})


def _parsed(stored: str) -> Any:
    """Return a stored JSON value; the text itself if it is not canonical, so that its hash differs."""
    try:
        value = json.loads(stored)
        return value if canonical_json(value) == stored else stored
    except ValueError:
        return stored
