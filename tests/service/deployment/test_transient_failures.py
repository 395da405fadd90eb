"""An engine that runs no graphs for a while does not roll a product back, neither here nor in other replicas."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from service.bundle.bundle import Bundle
from service.deployment.errors import ProductNotReady
from service.deployment.registry import Registry
from service.deployment.startup import Startup
from service.inspection.runtime.engine import Engine, open_here
from service.inspection.runtime.session import Session, SessionOptions
from service.monitoring.metrics import Metrics
from service.store.recipes import current_recipe
from tests.service.deployment.conftest import SIGNATURE, Deployment


class UnavailableAtFirst:
    """An engine that cannot open the graphs of some bundles for the first time."""

    def __init__(self, *bundles: Bundle) -> None:
        self.waiting = {bundle.digest for bundle in bundles}

    def open(self, bundle: Bundle, options: SessionOptions) -> Session:
        if bundle.digest in self.waiting:
            self.waiting.discard(bundle.digest)
            raise ProductNotReady(bundle.manifest.product, "no replica of Inspector opened its graph.", 5.0)
        return open_here(bundle, options)


@pytest.fixture
def unavailable(unloaded: Deployment) -> Iterator[tuple[Registry, UnavailableAtFirst]]:
    """A second registry, whose engine is not available at first for the newest bundle of "bolt"."""
    engine, loader = UnavailableAtFirst(unloaded.new["bolt"]), unloaded.registry.loader
    options = replace(loader.options, engine=Engine(engine.open, 1))
    registry = Registry(unloaded.registry.models, loader.with_options(options), Metrics())
    yield registry, engine
    registry.close()


def test_no_older_bundle_serves_in_its_place(
    unloaded: Deployment, unavailable: tuple[Registry, UnavailableAtFirst]
) -> None:
    registry, engine = unavailable
    startup = Startup(registry, unloaded.store.engine)
    startup.run()
    assert engine.waiting == set()
    assert registry.active.keys() == {"nut"}
    assert current_recipe(unloaded.store.engine, "bolt") is None, "nothing that other replicas would follow"
    (broken,) = registry.broken
    assert (broken.version, broken.slug) == (unloaded.new["bolt"].version, "product-not-ready")
    assert broken.retry_after_s == 5.0
    assert registry.failures.refused == {}, "nothing is known about the bundle"
    startup.fetch_again(0.01)
    assert registry.get("bolt").bundle.digest == unloaded.new["bolt"].digest
    assert registry.broken == ()


def test_shadow_deployment_is_loaded_later(
    unloaded: Deployment, unavailable: tuple[Registry, UnavailableAtFirst]
) -> None:
    registry, engine = unavailable
    Startup(unloaded.registry, unloaded.store.engine).run()
    unloaded.rollout.start_shadow("bolt", unloaded.old["bolt"].version, **SIGNATURE)
    engine.waiting = {unloaded.old["bolt"].digest}
    startup = Startup(registry, unloaded.store.engine)
    startup.run()
    assert registry.active.keys() == {"bolt", "nut"}
    assert not registry.shadows
    startup.fetch_again(0.01)
    assert registry.shadows["bolt"].bundle.digest == unloaded.old["bolt"].digest
