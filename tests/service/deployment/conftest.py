"""A registry of two products with two bundles each, and helpers for concurrent changes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from service.bundle.bundle import Bundle
from service.deployment.passed_tests import PassedSelfTests
from service.deployment.recipes import replace_recipe
from service.deployment.registry import Registry
from service.deployment.repository import BundleLoader
from service.deployment.rollout import Rollout
from service.deployment.startup import Startup
from service.deployment.uploads import BundleUploads, UploadLimits
from service.errors import ShuttingDown
from service.inspection.inspector import Inspector, InspectorOptions
from service.inspection.runtime.isolation import SelfTestLimits
from service.inspection.runtime.session import SessionOptions
from service.monitoring.metrics import Metrics
from service.recipes.recipe import Recipe
from service.store.audit import Actor
from service.store.recipes import append_recipe
from service.store.records import RecipeRevision
from service.store.store import Store
from tests.bundles import SCORES, write_tiny_bundle
from tests.running_service import GOOD, shared_self_tests

if TYPE_CHECKING:  # it imports this module
    from tests.service.deployment.replicas import Replica, Run, WatchedObjects

PRODUCTS = ("bolt", "nut")
TIMEOUT_S = 30.0
ADA = Actor("local", "local", "Ada")
SIGNATURE: dict[str, Any] = {"actor": ADA, "reason": "test"}


@dataclass
class Deployment:
    """A loaded registry with its store. `old` and `new` are the bundles by product; `new` is active at first."""

    store: Store
    registry: Registry
    rollout: Rollout
    metrics: Metrics
    old: dict[str, Bundle]
    new: dict[str, Bundle]

    def change_recipe(self, product: str, fail_threshold: float) -> RecipeRevision:
        recipe = Recipe(fail_threshold=fail_threshold, review_threshold=0.5)
        return replace_recipe(
            self.registry,
            self.store.engine,
            product,
            lambda active: append_recipe(self.store.engine, active.bundle, recipe, actor=ADA, reason="test"),
        )

    def activate(self, product: str, bundle: Bundle) -> None:
        self.rollout.activate(product, bundle.version, **SIGNATURE)

    def version(self, product: str) -> str:
        return self.registry.get(product).bundle.version


class HangingWrite:
    """A database write that hangs until it is released, running in a thread of its own."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.released = threading.Event()
        self.error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def wait(self) -> None:
        self.entered.set()
        assert self.released.wait(TIMEOUT_S)

    def run(self, change: Callable[[], Any]) -> None:
        """Run a change in a thread, and return once its write hangs."""

        def work() -> None:
            try:
                change()
            except BaseException as error:  # noqa: BLE001 - checked by the test
                self.error = error

        self._thread = threading.Thread(target=work, daemon=True)
        self._thread.start()
        assert self.entered.wait(TIMEOUT_S), self.error

    def release(self) -> None:
        """Let the write continue, and wait until the change ends."""
        self.released.set()
        assert self._thread is not None
        self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive()


@pytest.fixture
def hanging() -> Iterator[HangingWrite]:
    write = HangingWrite()
    yield write
    write.released.set()


@pytest.fixture
def store_url(tmp_path: Path) -> str:
    """The database. Tests that depend on its kind override this fixture."""
    return f"sqlite:///{tmp_path / 'plumbline.db'}"


@pytest.fixture
def unloaded(store_url: str, tmp_path: Path) -> Iterator[Deployment]:
    """The deployment before any bundle is loaded."""
    models = tmp_path / "models"
    start = datetime(2026, 1, 1, tzinfo=UTC)
    old, new = (
        {
            product: write_tiny_bundle(
                models, product, created_at=start + timedelta(days=day), scores=[(1 + day) * score for score in SCORES]
            )
            for product in PRODUCTS
        }
        for day in (0, 1)
    )
    store = Store.open(store_url, tmp_path / "data")
    metrics = Metrics()
    options = InspectorOptions(session=SessionOptions(provider="cpu", threads=1))
    registry = Registry(models, BundleLoader(options, SelfTestLimits(), PassedSelfTests(shared_self_tests())), metrics)
    uploads = BundleUploads(models, UploadLimits(2**20, max_uploads=2, reserve_bytes=0))
    rollout = Rollout(registry, store.engine, metrics, uploads)
    yield Deployment(store, registry, rollout, metrics, old, new)
    registry.close()
    store.close()


@pytest.fixture
def deployment(unloaded: Deployment) -> Deployment:
    Startup(unloaded.registry, unloaded.store.engine).run()
    assert {product: unloaded.version(product) for product in PRODUCTS} == {
        product: bundle.version for product, bundle in unloaded.new.items()
    }
    return unloaded


def is_closed(inspector: Inspector) -> bool:
    try:
        inspector.infer(inspector.read(GOOD))
    except ShuttingDown:
        return True
    return False


@pytest.fixture
def objects(tmp_path: Path) -> WatchedObjects:
    from tests.service.deployment.replicas import WatchedObjects

    (tmp_path / "store").mkdir()
    return WatchedObjects(tmp_path / "store")


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The shared database: SQLite, and PostgreSQL where a test asks for both (`on_both`)."""
    if getattr(request, "param", "sqlite") == "sqlite":
        return f"sqlite:///{tmp_path / 'plumbline.db'}"
    found: str = request.getfixturevalue("postgres_url")
    return found


@pytest.fixture
def run(url: str, tmp_path: Path, objects: WatchedObjects) -> Run:
    """Start a replica: `with run("a") as replica`."""

    from tests.service.deployment.replicas import run_replica

    def start(name: str, **options: Any) -> AbstractContextManager[Replica]:
        return run_replica(url, tmp_path / name, objects, **options)

    return start


@pytest.fixture
def bundles(tmp_path: Path) -> tuple[Bundle, Bundle]:
    """An older and a newer bundle of the product "widget", outside of every replica."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    old, new = (
        write_tiny_bundle(
            tmp_path / "made", created_at=start + timedelta(days=day), scores=[(1 + day) * one for one in SCORES]
        )
        for day in (0, 1)
    )
    return old, new


@pytest.fixture
def pair(run: Run, bundles: tuple[Bundle, Bundle]) -> Iterator[tuple[Replica, Replica]]:
    """Two replicas; the older bundle is active in both."""
    with run("a") as first:
        first.upload(bundles[0])
        first.activate(bundles[0])
        with run("b") as second:
            yield first, second
