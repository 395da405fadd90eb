"""Limits of attempts to log in that two processes share; a test of one process is in `test_keys_and_accounts`."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, create_engine, text

from service.access.errors import TooManyLogins
from service.access.shared_throttle import SharedLoginThrottle
from service.access.throttle import PER_CLIENT

pytestmark = pytest.mark.slow


@pytest.fixture
def engine(postgres_url: str) -> Iterator[Engine]:
    engine = create_engine(postgres_url)
    yield engine
    engine.dispose()


def pair(engine: Engine, attempts: int = 3) -> tuple[SharedLoginThrottle, SharedLoginThrottle]:
    first, second = (SharedLoginThrottle(engine, attempts, 60) for _ in range(2))
    for throttle in (first, second):
        throttle.observe("kim", "hash")
    return first, second


def is_limited(throttle: SharedLoginThrottle, account: str, client: str) -> bool:
    try:
        throttle.count(account, client)
    except TooManyLogins as error:
        return 0 <= (error.retry_after_s or -1) <= 60
    return False


def test_attempts_at_two_processes_count_together(engine: Engine) -> None:
    first, second = pair(engine)
    assert [is_limited(one, "kim", "a") for one in (first, second, first)] == [False] * 3
    assert is_limited(first, "kim", "a")
    assert is_limited(second, "kim", "a")
    assert not is_limited(second, "kim", "b"), "another client has attempts of its own"
    for number in range(PER_CLIENT * 3 - 3):
        assert not is_limited(first, f"name {number}", "a")
    assert is_limited(second, "another name", "a"), "a client has attempts for all accounts together"


def test_attempts_at_the_same_time_do_not_pass_the_limit_together(engine: Engine) -> None:
    both = pair(engine)
    with ThreadPoolExecutor(8) as pool:
        limited = list(pool.map(lambda number: is_limited(both[number % 2], "kim", "a"), range(16)))
    assert limited.count(False) == 3


def test_success_and_a_new_password_take_attempts_back(engine: Engine) -> None:
    first, second = pair(engine)
    for _ in range(3):
        first.count("kim", "a")
    second.succeed("kim", "a")
    assert [is_limited(first, "kim", "a") for _ in range(4)] == [False, False, False, True]
    second.observe("kim", "another hash")
    assert not is_limited(second, "kim", "a")


def test_old_attempts_are_forgotten_and_names_are_not_stored(engine: Engine) -> None:
    first, second = pair(engine)
    for _ in range(3):
        first.count("kim", "address 10.0.0.1")
    with engine.begin() as connection:
        stored = connection.execute(text("SELECT * FROM login_attempts")).all()
        assert not any(word in str(stored) for word in ("kim", "10.0.0.1", "hash"))
        connection.execute(text("UPDATE login_attempts SET tried_at = tried_at - interval '61 seconds'"))
    assert not is_limited(second, "kim", "address 10.0.0.1")
    with engine.begin() as connection:
        assert connection.scalar(text("SELECT count(*) FROM login_attempts")) == 1
