"""The last administrator, on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, update

from service.access.accounts import all_accounts, create_account, disable, set_role
from service.access.keys import revoke
from service.store.audit import AuditFilter, list_audit
from service.store.errors import LastAdmin
from service.store.models import ApiKeyRow
from service.store.store import Store
from tests.access import OPERATOR, PASSWORD, make_key

pytestmark = pytest.mark.slow


@pytest.fixture
def engine(database_url: str, tmp_path: Path) -> Iterator[Engine]:
    store = Store.open(database_url, tmp_path / "data")
    yield store.engine
    store.close()


def enabled_admins(engine: Engine) -> list[str]:
    return [account.name for account in all_accounts(engine) if account.is_enabled_admin]


def test_one_of_several_administrators_that_are_disabled_at_once_stays(engine: Engine) -> None:
    names = [f"admin-{number}" for number in range(4)]
    for name in names:
        create_account(engine, name, "admin", PASSWORD, OPERATOR)

    def remove(name: str) -> bool:
        try:
            if name in names[:2]:
                disable(engine, name, OPERATOR)
            else:
                set_role(engine, name, "operator", OPERATOR)
        except LastAdmin:
            return False
        return True

    with ThreadPoolExecutor(len(names)) as threads:
        removed = list(threads.map(remove, names))
    assert sorted(removed) == [False, True, True, True]
    assert enabled_admins(engine) == [names[removed.index(False)]]
    changes = [entry.action for entry in list_audit(engine, AuditFilter()) if entry.action != "account:create"]
    assert len(changes) == 3, "a change that was refused has no entry"


def test_only_a_valid_key_without_restriction_replaces_the_administrator(engine: Engine) -> None:
    create_account(engine, "ada", "admin", PASSWORD, OPERATOR)
    revoke(engine, make_key(engine, "admin").record.id, OPERATOR)
    make_key(engine, "engineer", "review", "inspect")
    values = (
        {"expires_at": datetime.now(UTC) - timedelta(hours=1)},
        {"products": ["widget"]},
        {"stations": ["A2"]},
    )
    for value in values:  # as an earlier version may have stored it
        key = make_key(engine, "admin")
        with engine.begin() as connection:
            connection.execute(update(ApiKeyRow).where(ApiKeyRow.id == key.record.id).values(**value))
    with pytest.raises(LastAdmin):
        disable(engine, "ada", OPERATOR)
    assert enabled_admins(engine) == ["ada"]
    make_key(engine, "admin", expires_at=datetime.now(UTC) + timedelta(hours=1))
    disable(engine, "ADA", OPERATOR)
    assert enabled_admins(engine) == []
