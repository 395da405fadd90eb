"""Keys and accounts in the database: verification, constant cost, names and passwords."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import argon2
import pytest
from sqlalchemy import Engine

from service.access import hashing
from service.access.accounts import check_password, create_account, disable, require_strong, set_password
from service.access.errors import AccountExists, AccountRefused, InvalidKey, TooManyLogins, UnknownAccount
from service.access.keys import key_id_of, verify_key
from service.access.throttle import MAX_NAMES, PER_ACCOUNT, PER_CLIENT, LoginThrottle
from service.store.access import list_accounts
from service.store.database import make_engine, migrate
from tests.access import OPERATOR, PASSWORD, make_key


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    opened = make_engine(f"sqlite:///{tmp_path / 'p.db'}")
    migrate(opened)
    yield opened
    opened.dispose()


def test_unknown_id_costs_as_much_as_a_wrong_secret(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    key = make_key(engine, "inspect").key
    hashes: list[str] = []
    real = argon2.PasswordHasher.verify

    def record(self: argon2.PasswordHasher, stored: str, secret: str) -> Any:
        hashes.append(stored)
        return real(self, stored, secret)

    monkeypatch.setattr(argon2.PasswordHasher, "verify", record)
    _, key_id, secret = key.split("_")
    for wrong in (f"plumb_{key_id}_{secret[::-1]}", f"plumb_{'0' * 16}_{secret}"):
        with pytest.raises(InvalidKey, match="not known"):
            verify_key(engine, wrong, None)
    parameters = [argon2.extract_parameters(stored) for stored in hashes]
    assert len(parameters) == 2
    assert parameters[0] == parameters[1]


@pytest.mark.parametrize("hasher", [hashing.KEYS, hashing.PASSWORDS])
def test_hash_that_stands_for_an_unknown_name_matches_nothing(hasher: argon2.PasswordHasher) -> None:
    for secret in ("", "a", "\0" * 32):
        assert not hashing.verify(hasher, None, secret)
    assert hashing.verify(hasher, hasher.hash("a"), "a")
    assert not hashing.verify(hasher, "no hash", "a")


def test_identity_of_another_hash_does_not_replace_the_verification(engine: Engine) -> None:
    one, two = make_key(engine, "inspect"), make_key(engine, "admin")
    known = verify_key(engine, one.key, None)
    _, key_id, _ = two.key.split("_")
    with pytest.raises(InvalidKey):
        verify_key(engine, f"plumb_{key_id}_{'0' * 64}", known)


@pytest.mark.parametrize("text", ["", "plumb_", "plumb_0_0", "Plumb_" + "0" * 16 + "_" + "0" * 64, "\u0660" * 87])
def test_text_that_is_no_key(engine: Engine, text: str) -> None:
    assert key_id_of(text) is None
    with pytest.raises(InvalidKey, match="form plumb_ID_SECRET"):
        verify_key(engine, text, None)


@pytest.mark.slow
def test_names_are_compared_without_case_and_width(engine: Engine) -> None:
    create_account(engine, "Jörg", "operator", PASSWORD, OPERATOR)
    for same in ("jörg", "JO\u0308RG", " Jörg ", "\uff2aörg"):
        assert check_password(engine, same, PASSWORD) is not None
        with pytest.raises(AccountExists, match="already"):
            create_account(engine, same, "admin", PASSWORD, OPERATOR)
    assert check_password(engine, "jorg", PASSWORD) is None


@pytest.mark.slow
def test_disabled_account_cannot_log_in_until_it_gets_a_new_password(engine: Engine) -> None:
    create_account(engine, "kim", "operator", PASSWORD, OPERATOR)
    disable(engine, "kim", OPERATOR)
    assert check_password(engine, "kim", PASSWORD) is None
    set_password(engine, "KIM", "another long password", OPERATOR)
    assert check_password(engine, "kim", PASSWORD) is None
    assert check_password(engine, "kim", "another long password") is not None
    (stored,) = list_accounts(engine)
    assert stored.password_hash.startswith("$argon2id$")
    assert "argon2" not in repr(stored)
    with pytest.raises(UnknownAccount, match="no account"):
        disable(engine, "lee", OPERATOR)


@pytest.mark.parametrize(
    ("password", "words"),
    [
        ("short", "at least 12"),
        ("\u0301" + "e" * 10, "at least 12"),
        ("x" * 257, "at most"),
        ("my-KIM-password", "name"),
        ("abababababab", "three different"),
    ],
)
def test_weak_password_is_refused(password: str, words: str) -> None:
    with pytest.raises(AccountRefused, match=words):
        require_strong(password, "kim")


@pytest.mark.parametrize("name", ["", " ", "a" * 65, "a\nb", "Plumbline", "LOCAL"])
def test_name_that_is_not_valid_is_refused(engine: Engine, name: str) -> None:
    with pytest.raises(AccountRefused, match="name"):
        create_account(engine, name, "operator", PASSWORD, OPERATOR)


def test_throttle_forgets_attempts_after_the_window_and_bounds_its_memory() -> None:
    now = 0.0
    throttle = LoginThrottle(2, 60, lambda: now)
    for second in (0.0, 10.0):
        now = second
        throttle.count("kim", "c")
    with pytest.raises(TooManyLogins) as refused:
        throttle.count("kim", "c")
    assert refused.value.retry_after_s == 50.0
    now = 60.0
    throttle.count("kim", "c")
    for number in range(MAX_NAMES + 10):
        throttle.count(f"n{number}", f"c{number}")
    assert len(throttle._tried) <= MAX_NAMES
    assert PER_CLIENT > 1


def test_attempts_of_one_client_do_not_lock_an_account_for_others() -> None:
    throttle = LoginThrottle(2, 60, lambda: 0.0)
    for _ in range(2):
        throttle.count("kim", "attacker")
    with pytest.raises(TooManyLogins):
        throttle.count("kim", "attacker")
    throttle.count("kim", "owner")
    throttle.succeed("kim", "owner")
    with pytest.raises(TooManyLogins):
        throttle.count("kim", "attacker")


def test_attempts_of_many_clients_for_one_account_are_limited() -> None:
    throttle = LoginThrottle(2, 60, lambda: 0.0)
    for number in range(2 * PER_ACCOUNT):
        throttle.count("kim", f"c{number}")
    with pytest.raises(TooManyLogins):
        throttle.count("kim", "one more client")
