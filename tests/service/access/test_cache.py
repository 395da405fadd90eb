"""The cache of verified credentials, with a clock of the test."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from service.access.cache import FRESH_S, LONGEST_S, MAX_ENTRIES, VERIFIED_S, CredentialCache, Identity
from service.access.principal import Principal


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def identity(name: str = "k1", stored_hash: str = "h") -> Identity:
    return Identity(Principal("key", name, name, frozenset({"inspect"})), stored_hash, None)


def test_entry_is_used_while_fresh_and_then_checked_by_one_caller() -> None:
    clock = Clock()
    cache = CredentialCache(clock)
    digest = cache.digest("key")
    assert cache.get(digest) is None
    cache.put(cache.begin(), digest, identity())
    clock.now += FRESH_S
    assert cache.get(digest) == identity()
    clock.now += 0.01
    assert cache.get(digest) is None, "this caller checks"
    assert cache.get(digest) == identity(), "the others need not wait"
    clock.now += LONGEST_S - FRESH_S
    assert cache.get(digest) is None, "but nobody uses an entry that is older than a second"
    assert LONGEST_S <= 1.0


def test_age_of_an_entry_counts_from_the_start_of_its_check() -> None:
    clock = Clock()
    cache = CredentialCache(clock)
    digest = cache.digest("key")
    begun = cache.begin()
    clock.now += FRESH_S + 0.01
    cache.put(begun, digest, identity())
    assert cache.get(digest) is None


def test_check_that_began_before_a_revocation_is_not_stored() -> None:
    cache = CredentialCache(Clock())
    digest = cache.digest("key")
    begun = cache.begin()
    cache.drop("k1")
    cache.put(begun, digest, identity())
    assert cache.get(digest) is None


def test_drop_removes_all_credentials_of_a_principal_only() -> None:
    cache = CredentialCache(Clock())
    for name in ("k1", "k2"):
        cache.put(cache.begin(), cache.digest(name), identity(name))
    cache.drop("k1")
    assert cache.get(cache.digest("k1")) is None
    assert cache.verified(cache.digest("k1")) is None
    assert cache.get(cache.digest("k2")) == identity("k2")


def test_secret_is_verified_again_after_a_while_however_often_it_is_used() -> None:
    clock = Clock()
    cache = CredentialCache(clock)
    digest = cache.digest("key")
    cache.put(cache.begin(), digest, identity())
    for _ in range(int(VERIFIED_S)):
        clock.now += 1
        assert cache.verified(digest) == identity()
        cache.put(cache.begin(), digest, identity())
    clock.now += 1
    assert cache.verified(digest) is None


def test_number_of_entries_is_bounded() -> None:
    cache = CredentialCache(Clock())
    for number in range(MAX_ENTRIES + 1):
        cache.put(cache.begin(), cache.digest(str(number)), identity())
    assert cache.get(cache.digest("0")) is None
    assert cache.get(cache.digest(str(MAX_ENTRIES))) is not None


def test_digest_depends_on_a_key_of_the_process() -> None:
    assert CredentialCache().digest("key") != CredentialCache().digest("key")
    assert CredentialCache().digest("Zoë") is not None


def test_expiry_is_compared_with_the_time_of_day() -> None:
    past, future = (datetime.now(UTC) + timedelta(seconds=seconds) for seconds in (-1, 60))
    principal = identity().principal
    assert Identity(principal, "h", past).has_expired
    assert not Identity(principal, "h", future).has_expired
    assert not Identity(principal, "h", None).has_expired
