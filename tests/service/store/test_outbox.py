"""The stored outbox: written with the inspection, read in order, bounded, and dead letters."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

import service
from service.store.advisory_locks import AdvisoryLock, sink_lock
from service.store.audit import AuditEntry, AuditFilter, list_audit
from service.store.database import _transactional, _upgrade
from service.store.errors import StoreUnavailable, UnknownDeadLetter
from service.store.outbox import DeadLetterFilter, Outbox, OutboxFeed, Subscription
from service.store.records import InspectionRecord
from service.store.schema import MIGRATIONS
from service.store.sink_lease import SinkLeases
from service.store.store import Store
from tests.access import OPERATOR
from tests.databases import recorded_statements
from tests.service.store.test_store import make_row

RESEND, DISCARD = (AuditEntry(OPERATOR, action, object="mes") for action in ("outbox:resend", "outbox:discard"))
SERVICE = Path(service.__file__).parent
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def store(database_url: str, tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(database_url, tmp_path / "data")
    yield opened
    opened.close()


@pytest.fixture
def outbox(store: Store) -> Outbox:
    return Outbox(store.engine, None if store.is_shared else store.writer.between_commits)


def feed(store: Store, *subscriptions: Subscription) -> list[set[tuple[str, str]]]:
    announced: list[set[tuple[str, str]]] = []
    chosen = subscriptions or (Subscription("mes"),)
    store.writer.feed = OutboxFeed(chosen, lambda lanes: announced.append(set(lanes)))
    return announced


def ids(outbox: Outbox, sink: str = "mes", product: str = "widget") -> list[int]:
    return [message.id for message, _ in outbox.pending(sink, product, 100)]


def bury(outbox: Outbox, count: int = 1) -> list[int]:
    found = outbox.pending("mes", "widget", count)
    for message, _ in found:
        outbox.bury(message, "refused", "status 400", NOW)
    return [message.id for message, _ in found]


def test_messages_are_stored_with_their_inspection_for_the_sinks_that_receive_it(store: Store, outbox: Outbox) -> None:
    announced = feed(
        store,
        Subscription("all"),
        Subscription("fails", decisions=frozenset({"fail"})),
        Subscription("nuts", products=frozenset({"nut"})),
    )
    record = make_row(decision="pass")
    store.writer.write(record)

    assert announced == [{("all", "widget")}]
    ((message, found),) = outbox.pending("all", "widget", 10)
    assert (message.inspection_id, found) == (record.id, record)
    assert outbox.products("fails") == outbox.products("nuts") == []


def test_event_has_the_same_id_for_every_sink(store: Store, outbox: Outbox) -> None:
    feed(store, Subscription("one"), Subscription("two"))
    store.writer.write(make_row())
    ((first, _),), ((second, _),) = outbox.pending("one", "widget", 2), outbox.pending("two", "widget", 2)

    assert first.event_id == second.event_id
    assert first.id != second.id


def test_neither_inspection_nor_message_is_stored_if_the_transaction_fails(store: Store, outbox: Outbox) -> None:
    announced = feed(store)
    record = make_row()
    store.writer.write(record)
    with pytest.raises(StoreUnavailable):
        store.writer.write(record)  # the id exists already

    assert len(ids(outbox)) == 1
    assert len(announced) == 1

    with store.engine.begin() as connection:
        connection.execute(text("DROP TABLE outbox"))
    lost = make_row()
    with pytest.raises(StoreUnavailable):
        store.writer.write(lost)
    with store.engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM inspections")) == 1


def test_without_a_matching_sink_the_commit_runs_no_further_statement(store: Store) -> None:
    with recorded_statements(store.engine) as statements:
        store.writer.write(make_row())
        feed(store, Subscription("nuts", products=frozenset({"nut"})))
        store.writer.write(make_row())

    assert [statement.split()[2] for statement in statements] == ["inspections", "inspections"]


def test_messages_of_a_group_keep_the_order_of_the_inspections(store: Store, outbox: Outbox) -> None:
    feed(store, Subscription("one"), Subscription("two"))
    records = [make_row(product=f"p{number % 3}") for number in range(60)]
    for record in records:
        store.writer.write(record)

    assert outbox.products("one") == outbox.products("two") == ["p0", "p1", "p2"]
    for product in ("p0", "p1", "p2"):
        expected = [record.id for record in records if record.product == product]
        assert [message.inspection_id for message, _ in outbox.pending("two", product, 100)] == expected


def test_delivered_messages_are_deleted_and_their_numbers_not_used_again(store: Store, outbox: Outbox) -> None:
    feed(store)
    store.writer.write(make_row())
    (first,) = ids(outbox)
    outbox.remove([first])
    store.writer.write(make_row())

    assert ids(outbox) == [first + 1]


def test_message_whose_inspection_is_gone_is_read_without_it(store: Store, outbox: Outbox) -> None:
    feed(store)
    store.writer.write(make_row())
    with store.engine.begin() as connection:
        connection.execute(text("DELETE FROM inspections"))

    ((_, record),) = outbox.pending("mes", "widget", 10)
    assert record is None


def test_failed_attempts_are_stored(store: Store, outbox: Outbox) -> None:
    feed(store)
    store.writer.write(make_row())
    ((message, _),) = outbox.pending("mes", "widget", 1)
    outbox.postpone(message, "x" * 600, NOW, is_rejected=False)
    outbox.postpone(message, "status 500", NOW, is_rejected=True)

    ((again, _),) = outbox.pending("mes", "widget", 1)
    assert (again.attempts, again.rejections, again.next_attempt_at, again.last_error) == (2, 1, NOW, "status 500")


def test_dead_letter_can_be_sent_again_at_its_place(store: Store, outbox: Outbox) -> None:
    feed(store)
    for _ in range(3):
        store.writer.write(make_row())
    all_ids = ids(outbox)
    (dead,) = bury(outbox)

    assert ids(outbox) == all_ids[1:]
    letter = outbox.dead_letter(dead)
    assert (letter.dead_reason, letter.dead_at, letter.last_error, letter.attempts) == ("refused", NOW, "status 400", 1)

    later = NOW + timedelta(days=9)
    assert outbox.resend([dead], later, RESEND) == 1
    assert outbox.resend([dead], later, RESEND) == 0, "it is pending already"
    assert ids(outbox) == all_ids
    ((message, _), *_) = outbox.pending("mes", "widget", 1)
    assert (message.attempts, message.dead_reason, message.created_at) == (0, None, later)
    with pytest.raises(UnknownDeadLetter):
        outbox.dead_letter(dead)


def test_dead_letters_are_filtered_and_paged_newest_first(store: Store, outbox: Outbox) -> None:
    feed(store)
    for _ in range(5):
        store.writer.write(make_row())
    dead = bury(outbox, 5)
    found = outbox.dead_letters(DeadLetterFilter("mes", "widget"), before=dead[3], limit=2)

    assert [letter.id for letter in found] == [dead[2], dead[1]]
    assert outbox.dead_letters(DeadLetterFilter("other"), before=None, limit=2) == []
    assert outbox.dead_letter_ids(DeadLetterFilter(product="widget")) == dead
    assert outbox.dead_letter_ids(DeadLetterFilter(product="nut")) == []
    assert outbox.discard(dead[:2], DISCARD) == 2
    assert outbox.dead_letter_ids(DeadLetterFilter()) == dead[2:]


def test_dead_letters_that_are_sent_again_or_discarded_are_recorded(store: Store, outbox: Outbox) -> None:
    feed(store)
    for _ in range(3):
        store.writer.write(make_row())
    one, two, three = bury(outbox, 3)
    letters = {number: outbox.dead_letter(number).inspection_id for number in (one, two, three)}
    outbox.resend([one], NOW, RESEND)
    outbox.resend([one], NOW, RESEND)
    outbox.discard([one, two, three], DISCARD)
    found = list_audit(store.engine, AuditFilter())
    assert [(entry.action, entry.actor, entry.object) for entry in found] == [
        ("outbox:discard", OPERATOR.name, "mes"),
        ("outbox:resend", OPERATOR.name, "mes"),
    ], "nothing is recorded for a letter that was pending already"
    assert found[0].before == {"inspections": {str(number): letters[number] for number in (two, three)}}
    assert found[1].before == {"inspections": {str(one): letters[one]}}


def test_dead_letters_stay_if_the_entry_cannot_be_stored(
    store: Store, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed(store)
    store.writer.write(make_row())
    dead = bury(outbox)

    def fail(*_: object) -> None:
        raise StoreUnavailable("the disk is full")

    monkeypatch.setattr("service.store.outbox.append_audit", fail)
    with pytest.raises(StoreUnavailable):
        outbox.resend(dead, NOW, RESEND)
    with pytest.raises(StoreUnavailable):
        outbox.discard(dead, DISCARD)
    assert outbox.dead_letter_ids(DeadLetterFilter()) == dead


def test_pending_messages_are_not_discarded(store: Store, outbox: Outbox) -> None:
    feed(store)
    store.writer.write(make_row())

    assert outbox.discard(ids(outbox), DISCARD) == 0
    assert len(ids(outbox)) == 1


def test_oldest_messages_beyond_the_limit_become_dead_letters(store: Store, outbox: Outbox) -> None:
    feed(store, Subscription("mes"), Subscription("other"))
    for number in range(12):
        store.writer.write(make_row(product=f"p{number % 2}"))
    first = ids(outbox, product="p0")

    assert outbox.bury_surplus("mes", 12, NOW) == 0
    assert outbox.bury_surplus("mes", 9, NOW) == 3
    assert ids(outbox, product="p0") == first[2:]
    assert {letter.dead_reason for letter in outbox.dead_letters(DeadLetterFilter(), before=None, limit=9)} == {"full"}
    assert outbox.backlogs()["mes"].pending == 9
    assert outbox.backlogs()["other"].pending == 12


def test_old_messages_become_dead_letters(store: Store, outbox: Outbox) -> None:
    feed(store)
    for hours in (80, 70, 1):
        store.writer.write(make_row(created_at=NOW - timedelta(hours=hours)))

    assert outbox.bury_expired("mes", NOW - timedelta(hours=72), NOW) == 1
    backlog = outbox.backlogs()["mes"]
    assert (backlog.pending, backlog.dead_letters, backlog.oldest_at) == (2, 1, NOW - timedelta(hours=70))


def test_oldest_dead_letters_beyond_the_limit_are_deleted(store: Store, outbox: Outbox) -> None:
    feed(store)
    for _ in range(5):
        store.writer.write(make_row())
    dead = bury(outbox, 4)

    assert outbox.trim_dead_letters("mes", 4) == 0
    assert outbox.trim_dead_letters("mes", 3) == 1
    assert outbox.dead_letter_ids(DeadLetterFilter()) == dead[1:]
    assert len(ids(outbox)) == 1


def test_dead_letter_that_is_sent_again_is_not_deleted_for_the_limit(
    store: Store, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed(store)
    for _ in range(3):
        store.writer.write(make_row())
    dead = bury(outbox, 3)
    find = outbox._scalars

    def find_and_resend(query: Any) -> Sequence[Any]:
        found = find(query)
        assert outbox.resend(dead[:1], NOW, RESEND) == 1
        return found

    monkeypatch.setattr(outbox, "_scalars", find_and_resend)
    assert outbox.trim_dead_letters("mes", 1) == 1
    monkeypatch.undo()
    assert ids(outbox) == dead[:1]
    assert outbox.dead_letter_ids(DeadLetterFilter()) == dead[2:]


def test_migration_can_be_reverted(store: Store) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    engine = store.engine if store.is_shared else _transactional(store.engine)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        revision = ScriptDirectory(str(MIGRATIONS)).get_revision("0013_outbox")
        assert isinstance(revision.down_revision, str)
        command.downgrade(config, revision.down_revision)
        assert not inspect(connection).has_table("outbox")
    _upgrade(store.engine)
    with store.engine.connect() as connection:
        assert {index["name"] for index in inspect(connection).get_indexes("outbox")} == {
            "ix_outbox_pending",
            "ix_outbox_dead",
        }


def test_one_process_holds_the_lease_of_a_sink(store: Store) -> None:
    first, second = SinkLeases(store.engine), SinkLeases(store.engine)

    assert first.hold(["one", "two"]) == {"one", "two"}
    assert first.hold(["one", "two"]) == {"one", "two"}, "they are kept"
    if store.is_shared:
        assert second.hold(["one", "three"]) == {"three"}
        first.release()
        assert second.hold(["one", "three"]) == {"one", "three"}
    second.release()
    first.release()


@pytest.mark.slow
def test_leases_of_a_broken_session_are_lost_and_can_be_acquired_again(postgres_url: str, tmp_path: Path) -> None:
    store = Store.open(postgres_url, tmp_path / "data")
    leases = SinkLeases(store.engine)
    assert leases.hold(["one"]) == {"one"}
    with store.engine.connect() as connection:
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid != pg_backend_pid() AND datname = "
                "current_database()"
            )
        )

    assert leases.hold(["one"]) == set()
    assert leases.hold(["one"]) == {"one"}
    leases.release()
    store.close()


def test_numbers_of_advisory_locks_differ_and_fit_into_64_bits() -> None:
    fixed = [lock.value for lock in AdvisoryLock.__members__.values()]
    sinks = [sink_lock(f"sink{number}") for number in range(100)]

    assert len({*fixed, *sinks}) == len(fixed) + 100
    assert all(0 < number < 2**63 for number in fixed)
    assert all(-(2**63) <= number < 0 for number in sinks)


def test_every_advisory_lock_has_a_number_of_the_common_list() -> None:
    modules = [path.read_text(encoding="utf-8") for path in SERVICE.rglob("*.py")]
    users = [source for source in modules if re.search(r"pg_(try_)?advisory\w*lock", source)]

    assert len(users) >= 4
    assert all("from service.store.advisory_locks import" in source for source in users)


def test_defect_of_the_feed_fails_the_inspection_but_not_the_writer(store: Store, outbox: Outbox) -> None:

    class Broken(OutboxFeed):
        def messages(self, records: Sequence[InspectionRecord]) -> list[dict[str, Any]]:  # noqa: ARG002
            raise RuntimeError("a defect")

    store.writer.feed = Broken([Subscription("mes")], lambda _lanes: None)
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            store.writer.write(make_row())
    feed(store)
    store.writer.write(make_row())
    assert len(ids(outbox)) == 1
