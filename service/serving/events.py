"""Streams of stored inspections: each inspection is sent once, in the order in which they were stored.

One thread reads what was stored, for all streams together: when an inspection of this process was stored, and
periodically, because other processes may share the database. The newest events are kept for the streams, which take
them at their own pace. A stream that continues behind a cursor reads the store itself until it reaches these events.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import ParamSpec, TypeVar
from uuid import UUID

import structlog

from service.errors import PlumblineError, ShuttingDown
from service.monitoring.metrics import Metrics
from service.serving.errors import TooManyEventStreams
from service.serving.kept_events import KeptEvents, TooSlow
from service.settings import Settings
from service.store.completed import Completed
from service.store.inspection_feed import Entry, InspectionFeed, Mark, open_feed
from service.store.inspection_filter import InspectionFilter
from service.store.inspections import find_inspections
from service.store.records import InspectionRecord
from service.store.store import Store

log = structlog.get_logger(__name__)

HEARTBEAT_S = 1.0
"""Longest time without anything sent on a stream. Clients notice a lost connection when several are missing."""
RETRY_MS = 1000
"""Time after which browsers connect again."""
_PAGE = 200
_PIECE_BYTES = 32 * 2**10
# Events of up to this time are read together, which costs little more than a single one.
_PAUSE_S = 0.05
_POLL_S, _SHARED_POLL_S = 1.0, 0.2
# Time for which an image may be inspected and stored after its id was assigned, beside its time in the queue, and the
# difference between the clocks of several machines.
_LATE_S = 60.0
_THREADS = 2

_P = ParamSpec("_P")
_T = TypeVar("_T")
Render = Callable[[InspectionRecord], str]
"""Returns an inspection as JSON, without line breaks."""


class EventStream:
    """One stream of events. Iterate over `chunks` once, then call `close`.

    Args:
        events: Supplies the events.
        which: Conditions on product, station and decision.
        client: Identity of the client.

    Attributes:
        client: Identity of the client.
        is_ended: Whether the stream ends at once.
    """

    def __init__(self, events: InspectionEvents, which: InspectionFilter, client: str) -> None:
        self.client = client
        self.is_ended = False
        self._events = events
        self._which = which
        self._changed = asyncio.Event()
        self._number = 0
        self._mark: Mark | None = None
        self._position: Mark | None = None

    async def start(self, cursor: str | None) -> None:
        """Find the first event.

        Args:
            cursor: Events behind this cursor; None for those that are stored from now on.

        Raises:
            InvalidRequest: The cursor is not valid.
            StoreUnavailable: The database cannot be read.
        """
        self._number, self._mark = await self._events.run(self._events.join)
        if cursor is not None:
            self._position = await self._events.run(self._events.feed.find, cursor)

    def wake(self) -> None:
        """Send new events."""
        self._changed.set()

    def end(self) -> None:
        """End the stream at once."""
        self.is_ended = True
        self._changed.set()

    def close(self) -> None:
        """Stop counting the stream."""
        self._events.remove(self)

    async def chunks(self) -> AsyncGenerator[bytes]:
        """Yield what is sent, until the stream ends. At most one chunk is in memory.

        Raises:
            StoreUnavailable: The database cannot be read.
        """
        position = self._position or self._mark
        assert position is not None
        # A client that connects again before the first event continues here.
        yield f"retry: {RETRY_MS}\nid: {position.cursor}\n\n".encode()
        if self._position is not None:
            async for chunk in self._missed(self._position):
                yield chunk
        try:
            async for chunk in self._live():
                yield chunk
        except TooSlow:
            self._events.count_slow()

    async def _missed(self, position: Mark) -> AsyncGenerator[bytes]:
        """Yield the events behind a position, from the store, until the kept events follow."""
        while not self.is_ended:
            assert self._mark is not None
            page = await self._events.run(self._events.read_page, position, self._mark, self._which)
            for piece in _pieces(page.contents):
                yield piece
            position = page.position
            if page.is_last:
                if self._events.kept.has_since(self._number):
                    return
                self._number, self._mark = await self._events.run(self._events.join)
            elif not page.contents:
                yield f"id: {position.cursor}\n\n".encode()

    async def _live(self) -> AsyncGenerator[bytes]:
        loop = asyncio.get_running_loop()
        due = loop.time() + HEARTBEAT_S
        passed_over: str | None = None
        while not self.is_ended:
            self._changed.clear()
            events = self._events.kept.since(self._number)
            if events:
                self._number = events[-1].number
                matching = [event.content for event in events if event.entry.matches(self._which)]
                passed_over = None if events[-1].entry.matches(self._which) else events[-1].entry.mark.cursor
                for piece in _pieces(matching):
                    yield piece
                    due = loop.time() + HEARTBEAT_S
            if loop.time() >= due:
                # The position behind events of other products is sent, too: the client does not wait for them again.
                yield b":\n\n" if passed_over is None else f"id: {passed_over}\n\n".encode()
                passed_over, due = None, loop.time() + HEARTBEAT_S
            try:
                async with asyncio.timeout_at(due):
                    await self._changed.wait()
            except TimeoutError:
                pass


@dataclass(frozen=True)
class _Page:
    contents: Sequence[bytes]
    position: Mark
    is_last: bool


class InspectionEvents:
    """Supplies the streams of stored inspections.

    Args:
        store: The inspections.
        settings: The limit of streams, and times that bound how late an inspection is stored.
        metrics: Shows the number of streams.
        render: Makes the content of an event.

    Attributes:
        feed: The inspections in the order in which they were stored.
        kept: The newest events.
    """

    def __init__(self, store: Store, settings: Settings, metrics: Metrics, render: Render) -> None:
        late_s = _LATE_S + settings.queue_deadline_s + settings.database_statement_timeout_s
        self.feed: InspectionFeed = open_feed(store.engine, late_s)
        self.kept = KeptEvents()
        self._engine = store.engine
        self._limit = settings.max_event_streams
        self._poll_s = _SHARED_POLL_S if store.is_shared else _POLL_S
        self._metrics = metrics
        self._render = render
        self._streams: dict[EventStream, None] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_draining = False
        self._is_closed = False
        self._wake = threading.Event()
        self._read_lock = threading.Lock()  # one reads at a time, so that events are kept in order
        self._mark: Mark | None = None
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="events")
        self._thread = threading.Thread(target=self._work, name="event-reader", daemon=True)
        metrics.event_streams.set_function(lambda: len(self._streams))

    def notify(self, _completed: Completed) -> None:
        """Note that an inspection was stored. It is called on the thread of the inspection and returns at once."""
        # Without a stream, nothing reads: waking a thread takes longer than everything else here.
        if self._streams:
            self._wake.set()

    def start(self) -> None:
        """Start the thread that reads."""
        self._thread.start()

    def close(self) -> None:
        """Stop the threads."""
        self._is_closed = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        self._pool.shutdown()

    def drain(self) -> None:
        """End all streams and refuse new ones. Call it on the thread of the event loop."""
        self._is_draining = True
        for stream in list(self._streams):
            stream.end()

    async def open(self, which: InspectionFilter, cursor: str | None, client: str) -> EventStream:
        """Open a stream. The caller closes it.

        If the limit is reached, the oldest stream of the client with most streams ends, if that client has more than
        the new one.

        Args:
            which: Conditions on product, station and decision.
            cursor: Events behind this cursor; None for those that are stored from now on.
            client: Identity of the client.

        Raises:
            TooManyEventStreams: The limit is reached.
            ShuttingDown: The service is stopping.
            InvalidRequest: The cursor is not valid.
            StoreUnavailable: The database cannot be read.
        """
        if self._is_draining:
            raise ShuttingDown()
        self._loop = asyncio.get_running_loop()
        if len(self._streams) >= self._limit:
            self._replace_one(client)
        stream = EventStream(self, which, client)
        self._streams[stream] = None
        self._wake.set()  # from now on, the thread also reads what other processes store
        try:
            await stream.start(cursor)
        except BaseException:
            self.remove(stream)
            raise
        return stream

    def remove(self, stream: EventStream) -> None:
        """Stop counting a stream."""
        self._streams.pop(stream, None)
        self._wake.set()  # after the last one, the thread drops what it kept

    def count_slow(self) -> None:
        """Count a stream that was closed because its client reads too slowly."""
        self._metrics.slow_event_streams.inc()

    async def run(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Call a function that reads the database, in one of few threads."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, partial(function, *args, **kwargs))

    def join(self) -> tuple[int, Mark]:
        """Return the number of the newest event, and the position behind it, after reading everything stored so far.

        Raises:
            StoreUnavailable: The database cannot be read.
        """
        with self._read_lock:
            self._read()
            assert self._mark is not None
            return self.kept.number, self._mark

    def read_page(self, after: Mark, until: Mark, which: InspectionFilter) -> _Page:
        """Return a page of events between two positions, from the store.

        Raises:
            StoreUnavailable: The database cannot be read.
        """
        entries = self.feed.read(after, until, _PAGE)
        is_last = len(entries) < _PAGE
        contents = [content for _, content in self._contents([entry for entry in entries if entry.matches(which)])]
        return _Page(contents, until if is_last else entries[-1].mark, is_last)

    def _work(self) -> None:
        has_failed = False
        while not self._is_closed:
            self._wake.wait(self._poll_s if self._streams else None)
            self._wake.clear()
            with self._read_lock:
                if not self._streams:
                    # Nothing is kept while there is no stream.
                    self._mark = None
                    self.kept.clear()
                else:
                    try:
                        self._read()
                        has_failed = False
                    except Exception as error:  # noqa: BLE001 - the thread must survive; the next attempt follows
                        if not has_failed:
                            reason = error.detail if isinstance(error, PlumblineError) else repr(error)
                            log.warning("stored inspections cannot be read", reason=reason)
                        has_failed = True
            time.sleep(_PAUSE_S)

    def _read(self) -> None:
        """Keep everything that was stored since the last call."""
        until = self.feed.head()
        if self._mark is None:
            self._mark = until
        is_changed = False
        while self._mark != until:
            entries = self.feed.read(self._mark, until, _PAGE)
            for entry, content in self._contents(entries):
                self.kept.add(entry, content)
            is_changed = is_changed or bool(entries)
            self._mark = until if len(entries) < _PAGE else entries[-1].mark
        if is_changed and self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop was closed, and with it all streams
                self._loop.call_soon_threadsafe(self._announce)

    def _contents(self, entries: Sequence[Entry]) -> Iterator[tuple[Entry, bytes]]:
        records = find_inspections(self._engine, [UUID(entry.id) for entry in entries])
        for entry in entries:
            record = records.get(entry.id)
            if record is None:  # it was deleted meanwhile
                continue
            yield entry, f"id: {entry.mark.cursor}\ndata: {self._render(record)}\n\n".encode()

    def _announce(self) -> None:
        for stream in self._streams:
            stream.wake()

    def _replace_one(self, newcomer: str) -> None:
        """End a stream in favour of a new one.

        Raises:
            TooManyEventStreams: No client has more streams than the new one would have.
        """
        counts = Counter(stream.client for stream in self._streams)
        busiest, most = counts.most_common(1)[0]
        if most <= counts[newcomer] + 1:
            raise TooManyEventStreams(self._limit)
        oldest = next(stream for stream in self._streams if stream.client == busiest)
        oldest.end()
        self.remove(oldest)


def _pieces(contents: Sequence[bytes]) -> Iterator[bytes]:
    """Yield events together, in pieces that are smaller than the buffer of a connection where that is possible."""
    piece: list[bytes] = []
    size = 0
    for content in contents:
        if piece and size + len(content) > _PIECE_BYTES:
            yield b"".join(piece)
            piece, size = [], 0
        piece.append(content)
        size += len(content)
    if piece:
        yield b"".join(piece)
