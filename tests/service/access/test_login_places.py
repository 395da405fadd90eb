"""Log-ins beside a client that tries passwords without a pause: what it may not try delays nobody."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from service.access import accounts
from service.access.control import AccessControl
from service.access.errors import TooManyLogins
from service.access.sessions import NewSession
from service.settings import Settings
from tests.access import OPERATOR, PASSWORD, make_account
from tests.databases import migrated_engine

TIMEOUT_S = 60
ATTEMPTS = 2
FLOOD = 40  # more than may wait for a check of their password


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = migrated_engine(f"sqlite:///{tmp_path / 'p.db'}")
    make_account(engine, "kim")
    yield engine
    engine.dispose()


@pytest.fixture
def control(engine: Engine) -> Iterator[AccessControl]:
    """Access control; the address `flood` has no attempt left."""
    control = AccessControl(Settings(login_attempts=ATTEMPTS), engine)
    for _ in range(ATTEMPTS):
        control._count_login("kim", "flood")
    yield control
    control.close()


async def try_often(control: AccessControl) -> list[NewSession | BaseException]:
    attempts = (control.log_in("kim", "wrong", "flood", OPERATOR) for _ in range(FLOOD))
    return await asyncio.gather(*attempts, return_exceptions=True)


def test_attempts_over_the_limit_take_no_place_of_others(control: AccessControl) -> None:
    async def log_in_beside_them() -> NewSession:
        flood = asyncio.create_task(try_often(control))
        for _ in range(2):  # the task begins, then its attempts do
            await asyncio.sleep(0)
        session = await control.log_in("kim", PASSWORD, "other", OPERATOR)
        assert all(isinstance(each, TooManyLogins) for each in await flood)
        return session

    assert asyncio.run(log_in_beside_them()).token


def test_attempts_over_the_limit_do_not_wait_for_passwords(
    control: AccessControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, released = threading.Semaphore(0), threading.Event()

    def check(*_: object) -> None:
        entered.release()
        assert released.wait(TIMEOUT_S)

    monkeypatch.setattr(accounts, "check_password", check)

    async def flood_while_passwords_are_checked() -> None:
        slow = [asyncio.create_task(control.log_in("kim", "wrong", f"{n}", OPERATOR)) for n in range(2)]
        try:
            for _ in slow:
                await asyncio.to_thread(entered.acquire, timeout=TIMEOUT_S)
            refused = await asyncio.wait_for(try_often(control), TIMEOUT_S / 2)
        finally:
            released.set()
            await asyncio.gather(*slow, return_exceptions=True)
        assert all(isinstance(each, TooManyLogins) for each in refused)

    asyncio.run(flood_while_passwords_are_checked())
