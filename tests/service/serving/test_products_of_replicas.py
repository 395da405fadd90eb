"""Requests about a product that another replica has just uploaded, before this one has noticed it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.deployment.errors import ProductNotReady, UnknownProduct
from service.errors import InvalidRequest
from service.monitoring.clock import Clock
from service.schemas.training import GoodImageSelection
from service.serving.bundles import BundleService
from service.serving.drift.guarantees import Guarantees
from service.serving.products import ProductService
from service.serving.recipes import RecipeService
from service.serving.training.jobs import TrainingService
from service.settings import Settings
from service.store.bundles.objects import LocalObjects
from tests.bundles import write_tiny_bundle
from tests.service.deployment.conftest import ADA
from tests.service.deployment.replicas import Replica, run_replica


@pytest.fixture
def replica(tmp_path: Path) -> Iterator[Replica]:
    """A replica that has not noticed that another one uploaded the product `nut`."""
    (tmp_path / "store").mkdir()
    url, objects = f"sqlite:///{tmp_path / 'plumbline.db'}", LocalObjects(tmp_path / "store")
    with run_replica(url, tmp_path / "a", objects) as here, run_replica(url, tmp_path / "b", objects) as other:
        other.upload(write_tiny_bundle(tmp_path / "made", "nut"))
        assert "nut" not in here.registry.known
        yield here


def test_choices_of_a_product_that_another_replica_uploaded(replica: Replica) -> None:
    bundles = BundleService(replica.source.root, replica.registry, replica.rollout, replica.store)
    assert [choice.version for choice in bundles.history("nut", "active", 10)] == [None]
    with pytest.raises(UnknownProduct):
        bundles.history("bolt", "active", 10)


def test_comparison_for_a_product_that_another_replica_uploaded(replica: Replica) -> None:
    bundles = BundleService(replica.source.root, replica.registry, replica.rollout, replica.store)
    with pytest.raises(ProductNotReady):
        bundles.compare("nut", None, None, 10)


def test_good_images_for_a_product_that_another_replica_uploaded(replica: Replica) -> None:
    training = TrainingService(Settings(), replica.registry, replica.store, replica.metrics.training, Clock())
    try:
        with pytest.raises(InvalidRequest, match="good"):  # none of its inspections is labelled
            asyncio.run(training.queue_selected("nut", GoodImageSelection(label="good"), ADA))
        with pytest.raises(UnknownProduct):
            asyncio.run(training.queue_selected("bolt", GoodImageSelection(label="good"), ADA))
    finally:
        training.close()


def test_state_of_a_product_that_another_replica_uploaded(replica: Replica) -> None:
    products = ProductService(replica.registry, Guarantees())
    assert asyncio.run(products.find("nut")).active is None
    with pytest.raises(UnknownProduct):
        asyncio.run(products.find("bolt"))


def test_recipes_of_a_product_that_another_replica_uploaded(replica: Replica) -> None:
    recipes = RecipeService(replica.registry, replica.store)
    assert recipes.history("nut", 10) == []
    with pytest.raises(UnknownProduct):
        recipes.history("bolt", 10)


def test_product_that_another_replica_uploaded_and_nobody_activated_is_not_ready(replica: Replica) -> None:
    with pytest.raises(ProductNotReady, match="none of its bundles is activated"), replica.registry.lease("nut"):
        pass
    with pytest.raises(UnknownProduct), replica.registry.lease("bolt"):
        pass
