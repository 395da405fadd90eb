"""The streams of all products: counts stored inspections in the order of their ids, and stores the result."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass, field

import structlog
from sqlalchemy import Engine

from service.deployment.lease import ActiveProduct
from service.deployment.reference_scores import ReferenceScores
from service.deployment.registry import Registry
from service.monitoring.clock import Clock
from service.monitoring.drift.records import Limits, Reference
from service.monitoring.drift.streams import PENDING, FalseRejectStream, Stream, make_streams
from service.schemas.drift import DriftKind
from service.serving.drift.reference import ReferenceKeys, reference_of
from service.store.drift.alarms import open_alarms
from service.store.drift.inspections import false_rejects, ids_since, late_since, newest_review, read_inspections
from service.store.drift.records import ChangedStream, NewInspection, StreamRecord
from service.store.drift.streams import DriftWriter, read_position, read_streams
from service.store.errors import RecipeUnreadable, StoreUnavailable, UnknownRevision
from service.store.recipes import get_recipe
from service.store.records import RecipeRevision

log = structlog.get_logger(__name__)
FLUSH_S = 5.0
"""Seconds between two transactions that store the streams. Alarms are stored at once."""
MAX_STATIONS = 64
"""Most stations of a product that have streams of their own. Inspections of others count for the product only."""
PAGE = 2000
_MAX_IMAGES = 20_000
StreamKey = tuple[str, str, DriftKind]


@dataclass
class _Product:
    """The streams of a product under one reference.

    Attributes:
        revision: The recipe revision in force.
        reference: What the streams are compared with.
        streams: Streams by kind, by station; those of the product as a whole have the key "".
        images: Hashes of the newest images. A repeated image is no new part, so it is not counted.
    """

    revision: RecipeRevision
    reference: Reference
    streams: dict[str, dict[DriftKind, Stream]] = field(default_factory=dict)
    images: OrderedDict[str, None] = field(default_factory=OrderedDict)

    def is_repeated(self, image_sha256: str) -> bool:
        """Return whether an image was counted before, and remember it."""
        if image_sha256 in self.images:
            self.images.move_to_end(image_sha256)
            return True
        self.images[image_sha256] = None
        if len(self.images) > _MAX_IMAGES:
            self.images.popitem(last=False)
        return False


class DriftTracker:
    """The streams of all products, in memory, and the position up to which they are computed.

    Only one process at a time may have a tracker of a database. One that was superseded by another process notices it
    when it stores its state. All methods block and must be called by one thread at a time.

    Args:
        limits: When alarms are raised.
        registry: Products and the bundles that serve them.
        engine: The inspections.
        writer: Stores the streams.
        references: Scores of good images.
        keys: Identifies references.
        clock: The time of day.

    Raises:
        StoreUnavailable: The stored state cannot be read.
    """

    def __init__(
        self,
        limits: Limits,
        registry: Registry,
        engine: Engine,
        writer: DriftWriter,
        references: ReferenceScores,
        keys: ReferenceKeys,
        clock: Clock,
    ) -> None:
        self._limits = limits
        self._registry = registry
        self._engine = engine
        self._writer = writer
        self._references = references
        self._keys = keys
        self._clock = clock
        self._position = self._stored = read_position(engine)
        # An inspection whose id is older than the position may be stored later: see `late_since`.
        self._seen = set(ids_since(engine, late_since(self._position), until=self._position))
        self._records: dict[str, list[StreamRecord]] = {}
        for record in read_streams(engine):
            self._records.setdefault(record.product, []).append(record)
        self._products: dict[str, _Product] = {}
        self._changed: set[StreamKey] = set()
        self._ended: set[str] = set()
        self._review: int | None = None
        self._failed: set[tuple[str, str]] = set()
        # Keys of the references of recipe revisions that are not in force; None if they cannot be read.
        self._older: dict[tuple[str, int], str | None] = {}
        self._flushed_at = time.monotonic()
        self.is_urgent = False

    @property
    def is_due(self) -> bool:
        """Whether the state should be stored now: something must be known at once, or it is some time ago."""
        return self.is_urgent or time.monotonic() - self._flushed_at >= FLUSH_S

    @property
    def evidence(self) -> list[tuple[str, str, str, float]]:
        """Product, station, kind and evidence of every stream."""
        return [
            (name, scope, kind, stream.evidence)
            for name, product in self._products.items()
            for scope, streams in product.streams.items()
            for kind, stream in streams.items()
        ]

    def follow(self) -> None:
        """Start streams anew whose reference was replaced or whose alarm was acknowledged.

        Raises:
            StoreUnavailable: The database cannot be read.
        """
        self._follow_recipes()
        self._follow_acknowledgements()

    def count_page(self) -> bool:
        """Count inspections that were stored since, at most `PAGE`. Return whether there may be more.

        Raises:
            StoreUnavailable: The database cannot be read.
        """
        late = ids_since(self._engine, late_since(self._position), until=self._position)
        newer = ids_since(self._engine, self._position, limit=PAGE)
        for item in read_inspections(self._engine, [name for name in (*late, *newer) if name not in self._seen]):
            self._count(item)
        if newer:
            self._position = newer[-1]
        oldest = late_since(self._position)
        self._seen = {name for name in self._seen.union(late, newer) if name > oldest}
        self._follow_reviews()
        return len(newer) == PAGE

    def flush(self) -> list[ChangedStream] | None:
        """Store what was computed since the last time.

        Returns:
            The streams that raised an alarm; None if another process has stored a state since, so that this one is
            worthless.

        Raises:
            StoreUnavailable: Nothing was stored.
        """
        self._flushed_at = time.monotonic()
        if self._position == self._stored and not self._changed and not self._ended:
            return []
        changed = [found for key in self._changed if (found := self._to_store(key)) is not None]
        raised = [item for item in changed if item.raises]
        if not self._writer.write(self._stored, self._position, changed, self._ended, self._clock.now()):
            return None
        self._stored = self._position
        self._changed.clear()
        self._ended.clear()
        self.is_urgent = False
        return raised

    def _follow_recipes(self) -> None:
        """Start the streams of a product anew if its reference was replaced."""
        for name, active in self._registry.active.items():
            key = self._keys.of(active.recipe)
            found = self._products.get(name)
            if found is not None and found.reference.key == key:
                found.revision = active.recipe
                continue
            try:
                self._products[name] = self._open(name, active, key)
            except Exception as error:  # noqa: BLE001 - one product must not affect the others
                if (name, key) not in self._failed:
                    self._failed.add((name, key))
                    reason = error.reason if isinstance(error, StoreUnavailable) else repr(error)
                    log.error("drift of product not monitored", product=name, reason=reason)

    def _open(self, name: str, active: ActiveProduct, key: str) -> _Product:
        reference = reference_of(active.bundle, active.recipe, self._references, key)
        product = _Product(active.recipe, reference)
        stored = self._records.get(name, [])
        if name in self._products or any(record.reference != key for record in stored):
            self._ended.add(name)
            self._changed = {changed for changed in self._changed if changed[0] != name}
            self.is_urgent = True
            self._review = None
            stored = []
        for record in stored:
            streams = self._streams(product, record.station)
            if record.kind in streams:
                self._restore(streams, record, product.reference)
        self._records.pop(name, None)
        return product

    def _restore(self, streams: dict[DriftKind, Stream], record: StreamRecord, reference: Reference) -> None:
        """Continue a stream. One that another version stored in another form starts anew, with its alarm."""
        try:
            streams[record.kind].restore(record.stored)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            log.warning(
                "stream of drift starts anew",
                product=record.product,
                station=record.station or None,
                kind=record.kind,
                reason=repr(error),
            )
            fresh = make_streams(record.station or None, reference, self._clock.now())[record.kind]
            fresh.alarm_id = record.alarm_id
            streams[record.kind] = fresh

    def _streams(self, product: _Product, station: str) -> dict[DriftKind, Stream]:
        streams = product.streams.get(station)
        if streams is None:
            streams = make_streams(station or None, product.reference, self._clock.now())
            product.streams[station] = streams
        return streams

    def _count(self, item: NewInspection) -> None:
        product = self._products.get(item.product)
        if product is None or not self._is_comparable(item, product) or product.is_repeated(item.image_sha256):
            return
        scopes = [""]
        station = item.observation.station
        if station and (station in product.streams or len(product.streams) <= MAX_STATIONS):
            scopes.append(station)
        for scope in scopes:
            for kind, stream in self._streams(product, scope).items():
                stream.observe(item.observation)
                self._changed.add((item.product, scope, kind))
                self.is_urgent |= stream.check(self._limits)

    def _is_comparable(self, item: NewInspection, product: _Product) -> bool:
        """Return whether an inspection was judged under the reference in force."""
        if item.recipe_revision == product.revision.revision:
            return True
        name = (item.product, item.recipe_revision)
        if name not in self._older:
            try:
                self._older[name] = self._keys.of(get_recipe(self._engine, *name))
            except (UnknownRevision, RecipeUnreadable):
                self._older[name] = None
        return self._older[name] == product.reference.key

    def _follow_acknowledgements(self) -> None:
        """Start the streams anew whose alarms were acknowledged, by this or another process."""
        alarmed = [
            ((name, scope, kind), stream)
            for name, product in self._products.items()
            for scope, streams in product.streams.items()
            for kind, stream in streams.items()
            if stream.alarm_id is not None and stream.alarm_id != PENDING
        ]
        if not alarmed:
            return
        still_open = {alarm.id for alarm in open_alarms(self._engine)}
        for key, stream in alarmed:
            if stream.alarm_id not in still_open:
                stream.restart(self._clock.now())
                self._changed.add(key)
                self.is_urgent = True
                self._review = None

    def _follow_reviews(self) -> None:
        newest = newest_review(self._engine)
        if newest == self._review:
            return
        self._review = newest
        for name, product in self._products.items():
            found = [
                (scope, stream)
                for scope, streams in product.streams.items()
                if isinstance(stream := streams.get("false_reject"), FalseRejectStream) and stream.start is not None
            ]
            if not found:
                continue
            since = min(stream.start for _, stream in found if stream.start is not None)
            labelled = false_rejects(self._engine, name, since)
            for scope, stream in found:
                own = [
                    inspection_id
                    for inspection_id, station in labelled
                    if scope in {"", station} and inspection_id >= (stream.start or "")
                ]
                stream.label(own, self._clock.now().timestamp())
                self._changed.add((name, scope, "false_reject"))
                self.is_urgent |= stream.check(self._limits)

    def _to_store(self, key: StreamKey) -> ChangedStream | None:
        name, scope, kind = key
        product = self._products[name]
        stream = product.streams.get(scope, {}).get(kind)
        if stream is None:
            return None
        return ChangedStream(
            product=name,
            recipe_revision=product.revision.revision,
            stream=stream,
            raises=stream.alarm_id == PENDING,
            suspends=stream.suspends,
            has_new_reference=stream.has_new_reference,
        )
