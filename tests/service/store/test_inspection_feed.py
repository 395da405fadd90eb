"""Every inspection is read once, in whatever order it is committed, from wherever the reader stopped before."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import Engine, insert

from service.errors import InvalidRequest
from service.store.ids import new_id
from service.store.inspection_feed import InspectionFeed, Mark, open_feed
from service.store.models import InspectionRow
from service.store.retention import mark_removed
from service.store.reviews import ReviewDraft, add_review
from service.store.session import transaction
from service.store.store import Store
from tests.access import OPERATOR
from tests.databases import migrated_engine
from tests.service.store.test_store import make_row

LATE_S = 60.0
_INSERT = insert(InspectionRow.__table__)  # type: ignore[arg-type]


@pytest.fixture
def store(database_url: str, tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(database_url, tmp_path / "data")
    yield opened
    opened.close()


def add(engine: Engine, *ids: UUID) -> list[str]:
    with transaction(engine, "test") as connection:
        connection.execute(_INSERT, [make_row(id=str(one)).columns() for one in ids])
    return [str(one) for one in ids]


def follow(feed: InspectionFeed, after: Mark, limit: int = 100) -> tuple[list[str], Mark]:
    """Return everything behind a position, in pages, and the position behind it."""
    until, found = feed.head(), list[str]()
    while True:
        page = feed.read(after, until, limit)
        found += [entry.id for entry in page]
        after = page[-1].mark if page else after
        if len(page) < limit:
            return found, until


def test_inspections_are_read_in_the_order_of_their_commits(store: Store) -> None:
    feed = open_feed(store.engine, LATE_S)
    start = feed.head()
    first, second, third = (new_id() for _ in range(3))
    add(store.engine, second)
    found, mark = follow(feed, start)
    assert found == [str(second)]
    assert follow(feed, mark)[0] == []
    add(store.engine, first)  # late: its id is older than what was read
    add(store.engine, third)
    assert sorted(follow(feed, mark)[0]) == [str(first), str(third)]


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_reader_continues_behind_any_inspection_after_a_restart(store: Store, limit: int) -> None:
    feed, ids = open_feed(store.engine, LATE_S), [new_id() for _ in range(8)]
    start = feed.head().cursor
    add(store.engine, ids[4], ids[2])
    middle = feed.head()
    add(store.engine, ids[1], ids[5], ids[3])
    entries = feed.read(feed.find(start), feed.head(), 100)
    late = add(store.engine, ids[0], ids[6])
    read: list[str] = []
    for entry in entries:
        read.append(entry.id)
        # Another process, which has the cursor only.
        other = open_feed(store.engine, LATE_S)
        rest, _ = follow(other, other.find(entry.mark.cursor), limit)
        assert sorted(read + rest) == sorted(map(str, ids[:7])), entry.mark.cursor
    assert sorted(follow(feed, middle, limit)[0]) == sorted([*map(str, (ids[1], ids[3], ids[5])), *late])


def test_cursor_of_an_empty_database_and_id_as_cursor(store: Store) -> None:
    feed = open_feed(store.engine, LATE_S)
    empty = feed.head().cursor
    ids = add(store.engine, *(new_id() for _ in range(3)))
    assert follow(feed, feed.find(empty))[0] == ids
    assert follow(feed, feed.find("0"))[0] == ids
    assert follow(feed, feed.find(ids[0]))[0] == ids[1:]
    unknown = str(new_id())
    ids += add(store.engine, new_id())
    assert follow(feed, feed.find(unknown))[0] == ids[3:]


@pytest.mark.parametrize(
    "cursor",
    ["", "x", "1~2", "0~1:1:~1:1:", "0~0:1:~1:1:~1", "0~9:1:~1:1:~1", "0~1:9:9~1:1:~1", "0~1:9:4,3~1:9:~1", "٠"],
)
def test_other_text_is_not_a_cursor(store: Store, cursor: str) -> None:
    if cursor.startswith("0~") and store.engine.dialect.name == "sqlite":
        return  # the part before the tilde is enough
    with pytest.raises(InvalidRequest, match="is not a cursor"):
        open_feed(store.engine, LATE_S).find(cursor)


def test_review_and_retention_do_not_repeat_an_inspection(store: Store) -> None:
    feed = open_feed(store.engine, LATE_S)
    start = feed.head()
    ids = add(store.engine, new_id(), new_id())
    found, mark = follow(feed, start)
    assert found == ids
    time.sleep(0.005)  # a removal in the millisecond of the id would not be distinguished
    add_review(store.engine, UUID(ids[0]), ReviewDraft(OPERATOR, "good"), datetime.now(UTC))
    mark_removed(store.engine, [UUID(ids[1])], datetime.now(UTC))
    # Also in a transaction that has taken the position meanwhile.
    later = add(store.engine, new_id())
    assert follow(feed, mark)[0] == later
    assert follow(feed, feed.find(mark.cursor))[0] == later


def test_many_writers_and_readers_lose_and_repeat_nothing(store: Store) -> None:
    feed = open_feed(store.engine, LATE_S)
    start, stop = feed.head(), threading.Event()
    written: list[str] = []

    def write(seed: int) -> None:
        draw = random.Random(seed)
        for _ in range(30):
            one = new_id()
            time.sleep(draw.random() / 200)
            store.writer.write(make_row(id=str(one)))
            written.append(str(one))

    read: list[str] = []

    def restart_often() -> None:
        cursor = start.cursor
        while True:
            is_last = stop.is_set()
            other = open_feed(store.engine, LATE_S)
            page = other.read(other.find(cursor), other.head(), 7)
            read.extend(entry.id for entry in page)
            cursor = page[-1].mark.cursor if page else cursor
            if is_last and not page:
                return

    reader = threading.Thread(target=restart_often)
    writers = [threading.Thread(target=write, args=(seed,)) for seed in range(6)]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    reader.join(20)
    assert len(read) == len(set(read)) == 180
    assert set(read) == set(written)


@pytest.mark.slow
def test_transaction_that_is_open_while_others_commit_is_read_when_it_commits(postgres_url: str) -> None:
    engine = migrated_engine(postgres_url)
    feed = open_feed(engine, LATE_S)
    start, old = feed.head(), new_id()
    with ExitStack() as stack:
        connection = stack.enter_context(engine.connect())
        connection.execute(_INSERT, [make_row(id=str(old)).columns()])
        newer = add(engine, new_id(), new_id())
        entries = feed.read(start, feed.head(), 1)
        assert [entry.id for entry in entries] == newer[:1]
        connection.commit()
    cursor = entries[0].mark.cursor
    assert follow(feed, feed.find(cursor), 1)[0] == [newer[1], str(old)]
    engine.dispose()


@pytest.mark.slow
def test_cursor_of_a_database_that_was_restored_continues_by_id(postgres_url: str) -> None:
    engine = migrated_engine(postgres_url)
    feed = open_feed(engine, LATE_S)
    ids = add(engine, *(new_id() for _ in range(3)))
    far = "900000000000:900000000000:"
    assert follow(feed, feed.find(f"{ids[0]}~{far}~{far}~1"))[0] == ids[1:]
    # The transactions exist, but the inspection does not lie between them.
    assert follow(feed, feed.find(f"{ids[0]}~1:1:~1:2:~1"))[0] == ids[1:]
    engine.dispose()
