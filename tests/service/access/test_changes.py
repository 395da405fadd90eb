"""Changes of keys and accounts by another process: what is withdrawn, restored and created."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from service.access import accounts
from service.access.cache import CredentialCache, Identity
from service.access.changes import AccessChanges
from service.access.errors import InvalidKey, NotAuthenticated
from service.access.keys import revoke
from service.access.principal import Principal
from service.store.access import find_account
from service.store.audit import SERVICE, AuditEntry, record_change
from service.store.revisions import newest_audit_entry
from tests.access import OPERATOR, make_account, make_key
from tests.databases import migrated_engine


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = migrated_engine(database_url)
    yield engine
    engine.dispose()


def cached(cache: CredentialCache, principal_id: str) -> bytes:
    digest = cache.digest(principal_id)
    cache.put(
        cache.begin(), digest, Identity(Principal("key", principal_id, "k", frozenset({"inspect"})), "hash", None)
    )
    assert cache.get(digest) is not None
    return digest


def test_revoked_key_is_withdrawn_and_leaves_the_cache(engine: Engine) -> None:
    revoked, kept = (make_key(engine, "inspect").record.id for _ in range(2))
    cache, created = CredentialCache(), list[str]()
    changes = AccessChanges(engine, cache, created.append)
    digests = [cached(cache, key) for key in (revoked, kept)]

    record_change(engine, AuditEntry(SERVICE, "review:add", product="widget"))
    changes.follow(newest_audit_entry(engine))
    assert all(cache.get(digest) for digest in digests), "other entries of the audit log change nothing"

    revoke(engine, revoked, OPERATOR)
    changes.require_valid(f"key {revoked}")  # not followed yet
    changes.follow(newest_audit_entry(engine))
    with pytest.raises(InvalidKey):
        changes.require_valid(f"key {revoked}")
    changes.require_valid(f"key {kept}")
    changes.require_valid("10.0.0.1")
    assert [cache.get(digest) is None for digest in digests] == [True, False]
    assert created == []


def test_disabled_account_is_withdrawn_until_it_is_enabled(engine: Engine) -> None:
    make_account(engine, "Kim")
    found = find_account(engine, "kim")
    assert found is not None
    cache = CredentialCache()
    changes = AccessChanges(engine, cache, lambda _reason: None)
    digest = cached(cache, found.id)
    accounts.disable(engine, "Kim", OPERATOR)
    changes.follow(newest_audit_entry(engine))
    with pytest.raises(NotAuthenticated):
        changes.require_valid(f"account {found.id}")
    assert cache.get(digest) is None
    accounts.enable(engine, "Kim", OPERATOR)
    changes.follow(newest_audit_entry(engine))
    changes.require_valid(f"account {found.id}")


def test_first_key_is_reported_and_no_entry_is_missed_or_followed_twice(engine: Engine) -> None:
    created: list[str] = []
    changes = AccessChanges(engine, CredentialCache(), created.append)
    key = make_key(engine, "inspect").record.id
    newest = newest_audit_entry(engine)
    changes.follow(newest)
    changes.follow(newest)
    changes.follow(0)
    assert len(created) == 1
    revoke(engine, key, OPERATOR)
    make_account(engine, "kim")
    changes.follow(newest_audit_entry(engine))
    with pytest.raises(InvalidKey):
        changes.require_valid(f"key {key}")
    assert len(created) == 2
