"""Idempotency keys that two processes insert in opposite orders."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from service.store.database import make_engine
from service.store.errors import KeyTaken
from service.store.idempotency import IdempotencyKey
from service.store.writer import GroupWriter, _Waiting
from tests.service.store.test_store import make_row

TURNS = 20
KEYS = 6


def commit(writer: GroupWriter, names: list[str]) -> list[Exception | None]:
    """Commit a group of inspections with these keys, and return the error of each."""
    group = [_Waiting(make_row(), IdempotencyKey("p", name, "0" * 64)) for name in names]
    writer._commit(group)
    return [item.error for item in group]


@pytest.mark.slow
def test_crossed_keys_do_not_block_each_other(postgres_url: str) -> None:
    engines = [make_engine(postgres_url) for _ in range(2)]
    writers = [GroupWriter(engine) for engine in engines]
    with ThreadPoolExecutor(2) as pool:
        for turn in range(TURNS):
            names = [f"{turn}-{index}" for index in range(KEYS)]
            results = [pool.submit(commit, writers[0], names), pool.submit(commit, writers[1], names[::-1])]
            errors = [error for result in results for error in result.result()]
            assert sum(error is None for error in errors) == KEYS
            assert all(error is None or isinstance(error, KeyTaken) for error in errors)
    for engine in engines:
        engine.dispose()
