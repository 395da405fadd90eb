"""Prepare a fleet: write tiny bundles, import them into the bundle store, and record their self-tests as passed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.many_products import copy_bundle, record_self_tests
from service.bundle.bundle import Bundle
from service.bundle.manifest import CARD, IMAGES, MANIFEST
from service.cli.bundle_store import open_for_writing
from service.deployment.passed_tests import SELF_TESTS
from service.deployment.sources.importing import import_bundles
from service.settings import Settings
from service.store.audit import SERVICE
from tests.bundles import write_tiny_bundle

_WRITERS = 8
DESCRIPTION = {CARD, IMAGES}
"""The files of a bundle that stay in a cache beside its manifest."""


def write_products(models: Path, names: Sequence[str]) -> list[Bundle]:
    """Write a tiny bundle for each product, all with the same graph.

    Args:
        models: The model repository.
        names: Names of the products.
    """
    with tempfile.TemporaryDirectory() as scratch:
        original = write_tiny_bundle(Path(scratch))
        with ThreadPoolExecutor(_WRITERS) as threads:  # most of the time they wait for the disk
            return list(threads.map(lambda name: copy_bundle(original, models, name), names))


def import_all(models: Path, bundles: Sequence[Bundle], settings: Settings) -> None:
    """Import bundles into the bundle store, as `plumbline bundle import-repository` does.

    Args:
        models: The model repository that contains them.
        bundles: The bundles.
        settings: Settings with the bundle store and the database.

    Raises:
        RuntimeError: A bundle was not stored.
    """
    keys = [(one.manifest.product, one.version) for one in bundles]
    with open_for_writing(settings) as (source, engine):
        for imported in import_bundles(models, keys, source, engine, SERVICE):
            if imported.outcome != "stored":
                raise RuntimeError(f"{imported.product} was not stored: {imported.outcome} {imported.reason}")


def record_for_all(bundles: Sequence[Bundle], folders: Sequence[Path], settings: Settings) -> None:
    """Record the self-tests of all bundles as passed in several data folders. They run for a tiny bundle elsewhere.

    Args:
        bundles: The bundles.
        folders: The data folders.
        settings: Settings of the replicas, on which a self-test depends.
    """
    first, *others = folders
    record_self_tests(bundles, first, settings)
    for folder in others:
        shutil.copytree(first / SELF_TESTS, folder / SELF_TESTS)


def cache_limit(bundles: Sequence[Bundle], share: float) -> int:
    """Return a limit of the local cache, in bytes: all descriptions, and a share of the graphs and golden samples.

    Args:
        bundles: All bundles.
        share: Share of them whose graph and golden samples fit.
    """
    described = removable = 0
    for bundle in bundles:
        described += (bundle.path / MANIFEST).stat().st_size
        for name, entry in bundle.manifest.files.items():
            if name in DESCRIPTION:
                described += entry.bytes
            else:
                removable += entry.bytes
    return max(2**20, int(described + share * removable))
