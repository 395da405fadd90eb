"""The memory of bodies in flight is bounded and shared between clients."""

from __future__ import annotations

import asyncio
import io
import zipfile
from pathlib import Path

import pytest
from fastapi import Request

from service.api.http.clients import client_of
from service.api.http.image_source import ImageSource
from service.errors import MemoryBudgetExceeded
from service.host_names import client_of_address
from service.serving import memory_budget
from service.serving.archive_space import ArchiveSpace
from service.serving.memory_budget import MemoryBudget, Reservation
from service.serving.records import PartRecord
from service.settings import Settings


def revocable(budget: MemoryBudget, client: str, size: int, revoked: list[Reservation]) -> Reservation:
    reservation = budget.reserve(client, size)
    reservation.set_revocable(lambda: revoked.append(reservation))
    return reservation


def test_budget_is_enforced_and_restored() -> None:
    budget = MemoryBudget(100)
    first = budget.reserve("a", 60)
    with pytest.raises(MemoryBudgetExceeded):
        budget.reserve("a", 60)
    first.grow(40)
    first.release(30)
    assert (first.size, budget.used) == (70, 70)
    first.release()
    first.release()
    assert budget.used == 0
    assert not budget._by_client
    assert not budget._open


def test_client_with_the_largest_share_gives_memory_to_another() -> None:
    budget, revoked = MemoryBudget(100), list[Reservation]()
    bodies = [revocable(budget, "greedy", 25, revoked) for _ in range(4)]
    budget.reserve("polite", 25)
    assert revoked == [bodies[3]], "the newest"
    with pytest.raises(MemoryBudgetExceeded):
        budget.reserve("greedy", 25)
    assert budget.used == 100


def test_slow_body_gives_memory_to_any_client(monkeypatch: pytest.MonkeyPatch) -> None:
    budget, revoked = MemoryBudget(100), list[Reservation]()
    slow = revocable(budget, "a", 60, revoked)
    complete = budget.reserve("a", 40)
    with pytest.raises(MemoryBudgetExceeded):
        budget.reserve("a", 60)
    monkeypatch.setattr(memory_budget, "_SLOW_AFTER_S", 0.0)
    with pytest.raises(MemoryBudgetExceeded):
        budget.reserve("a", 61)
    assert revoked == [], "revoking would not have helped"
    budget.reserve("a", 60)
    assert revoked == [slow]
    assert complete.size == 40


def test_growing_body_waits_for_memory() -> None:
    async def run() -> int:
        budget = MemoryBudget(100)
        held, waiting = budget.reserve("a", 100), budget.reserve("b", 0)
        asyncio.get_running_loop().call_later(0.01, held.release)
        await waiting.grow_when_free(50, 10)
        with pytest.raises(MemoryBudgetExceeded):
            await waiting.grow_when_free(51, 0.01)
        return budget.used

    assert asyncio.run(run()) == 50


def test_client_is_the_address_or_the_ipv6_network() -> None:
    assert client_of({"client": ("10.0.0.1", 5)}) == "10.0.0.1"
    assert client_of({}) == "unknown"
    assert client_of_address("2001:db8::1") == client_of_address("2001:db8::2")
    assert client_of_address("2001:db8::1") != client_of_address("2001:db8:0:1::1")
    assert client_of_address("::ffff:10.0.0.1") == "10.0.0.1"
    assert client_of_address("socket:path") == "socket:path"


def test_archive_that_is_not_read_to_its_end_gives_its_memory_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.png", bytes(1000))

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": packed.getvalue(), "more_body": False}

    def fail(*_: object) -> None:
        raise RuntimeError

    async def run() -> int:
        budget = MemoryBudget(10_000)
        scope = {"type": "http", "client": ("10.0.0.1", 5), "headers": [(b"content-type", b"application/zip")]}
        settings = Settings(models=tmp_path / "models", data=tmp_path)
        space = ArchiveSpace(settings.data, 0)
        with pytest.raises(RuntimeError):
            await anext(ImageSource(Request(scope, receive), settings, budget, space, PartRecord()).images())
        return budget.used

    monkeypatch.setattr(ImageSource, "_unpack", fail)
    assert asyncio.run(run()) == 0
