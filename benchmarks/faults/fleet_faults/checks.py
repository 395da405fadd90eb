"""What must hold after a fleet was disturbed: nothing lost, nothing stored twice, nothing judged by an old recipe."""

from __future__ import annotations

import multiprocessing
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import create_engine, text

from benchmarks.faults.fleet_faults.observed import Observed
from service.cli.offline import open_bundles, open_store
from service.deployment.configuration import bundle_loader
from service.deployment.passed_tests import SELF_TESTS, PassedSelfTests
from service.deployment.replay import Replayer
from service.errors import PlumblineError
from service.inspection.runtime.configure import configure
from service.settings import Settings
from service.store.ids import parse_id
from service.store.inspections import get_inspection

_PROCESSES = 2


def stored_findings(observed: Observed, database: str) -> dict[str, Any]:
    """Compare what was answered with what is stored. Each finding is empty or 0 if nothing is wrong.

    Args:
        observed: What the clients observed.
        database: URL of the database.
    """
    engine = create_engine(database)
    with engine.connect() as connection:
        stored = {row[0] for row in connection.execute(text("SELECT id FROM inspections"))}
        keys = {row[0]: row[1] for row in connection.execute(text("SELECT key, inspection_id FROM idempotency_keys"))}
    engine.dispose()
    answers = observed.answers
    return {
        "other statuses": sorted(set(observed.statuses) - {200, 201, 503}),
        "keys with two inspections": len(observed.twice),
        "answered and not stored": len({one.inspection for one in answers.values()} - stored),
        "answered and stored under another key": sum(keys.get(key) != one.inspection for key, one in answers.items()),
        "inspections without a key of their own": len(stored) - len(set(keys.values())),
        "judged by an old recipe": sum(one.revision < one.newest for one in answers.values()),
        "no recipe was changed": observed.changes == 0,
    }


def replay_findings(ids_by_product: Mapping[str, Sequence[str]], settings: Settings) -> dict[str, Any]:
    """Judge stored images again with the bundle and the recipe that their inspections name.

    Args:
        ids_by_product: Ids of inspections by product.
        settings: Settings with database, bundle store, images, a cache and a data folder with passed self-tests.

    Returns:
        The number of the inspections that were replayed, and of those that have another result or could not be
        replayed, by the reason.
    """
    groups = list(ids_by_product.values())
    context = multiprocessing.get_context("spawn")
    with context.Pool(_PROCESSES) as pool:
        found = pool.starmap(_replay, [(groups[number::_PROCESSES], settings) for number in range(_PROCESSES)])
    total = sum(found, Counter[str]())
    return {"replayed": total.pop("same", 0) + total.total(), "replays that differ": dict(total)}


def group_by_product(observed: Observed) -> dict[str, list[str]]:
    """Return the ids of all answered inspections by product."""
    groups: dict[str, list[str]] = defaultdict(list)
    for answer in observed.answers.values():
        groups[answer.product].append(answer.inspection)
    return groups


def _replay(groups: Sequence[Sequence[str]], settings: Settings) -> Counter[str]:
    configure()
    loader = bundle_loader(settings, PassedSelfTests(settings.data / SELF_TESTS))
    outcomes = Counter[str]()
    with open_store(settings) as store, open_bundles(settings) as source, Replayer(source, store, loader) as replayer:
        for inspection_id in (one for group in groups for one in group):
            try:
                record = get_inspection(store.engine, parse_id(inspection_id))
                outcomes[replayer.replay(record).outcome] += 1
            except PlumblineError as error:
                outcomes[f"impossible: {error.slug}"] += 1
    return outcomes
