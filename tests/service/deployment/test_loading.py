"""Products are loaded in parallel, and the failure of one does not affect the others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from sqlalchemy import update

from service.bundle.bundle import Bundle
from service.bundle.errors import BundleOfOtherProduct, ParityFailure, SelfTestFailed
from service.deployment.errors import NothingToRollBackTo, ProductNotReady
from service.deployment.failures import LoadFailures
from service.deployment.loading import ProductLoading
from service.deployment.passed_tests import PassedSelfTests
from service.deployment.registry import Registry
from service.deployment.repository import BundleLoader
from service.deployment.startup import Startup
from service.errors import ShuttingDown
from service.inspection.inspector import Inspector, InspectorOptions
from service.inspection.runtime.isolation import IsolatedSelfTest, SelfTestLimits
from service.inspection.runtime.session import SessionOptions
from service.monitoring.metrics import Metrics
from service.store.errors import RecipeUnreadable, StoreUnavailable
from service.store.models import RecipeRow
from service.store.recipes import recipe_history
from service.store.session import writing
from tests.bundles import write_tiny_bundle
from tests.running_service import shared_self_tests
from tests.service.deployment.conftest import SIGNATURE, TIMEOUT_S, Deployment, HangingWrite

OPTIONS = InspectorOptions(session=SessionOptions(provider="cpu", threads=1))


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def names(tmp_path: Path) -> list[str]:
    names = [f"part{number}" for number in range(8)]
    for name in names:
        write_tiny_bundle(tmp_path / "models", name)
    return names


def registry_of(models: Path) -> Registry:
    return Registry(models, BundleLoader(OPTIONS, SelfTestLimits()), Metrics())


def is_loading(registry: Registry) -> bool:
    return registry.loading  # a function, because the type checker believes that a property keeps its value


def test_service_is_not_ready_while_bundles_are_loaded_ahead(tmp_path: Path, names: list[str]) -> None:
    registry, seen = registry_of(tmp_path / "models"), list[bool]()

    def load_ahead() -> None:
        seen.append(is_loading(registry))
        time.sleep(0.2)
        seen.append(is_loading(registry))

    registry.load(lambda _product: None, load_ahead, ahead_s=0.1)
    assert seen == [True, False], "no longer than the limit"
    assert not is_loading(registry)
    registry.close()


def test_service_that_is_ready_stays_ready_while_bundles_are_loaded_ahead(
    tmp_path: Path, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for grace_s, is_waited_for in ((60.0, True), (0.0, False)):
        monkeypatch.setattr("service.deployment.loading.LOADING_GRACE_S", grace_s)
        loading = ProductLoading(tmp_path, frozenset(names), LoadFailures(), threading.Event())
        loading.run(lambda _product: None, lambda _product: None, lambda: None, 60.0)
        assert (loading.ahead_until > time.monotonic()) == is_waited_for


def test_service_is_not_ready_before_all_products_are_described(
    tmp_path: Path, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.deployment.loading.LOADERS", 1)
    monkeypatch.setattr("service.deployment.loading.LOADING_GRACE_S", 1.0)
    for is_quick, expected in ((True, True), (False, False)):
        loading = ProductLoading(tmp_path, frozenset(names), LoadFailures(), threading.Event(), is_quick=is_quick)
        seen = list[bool]()

        def describe(_product: str, loading: ProductLoading = loading, seen: list[bool] = seen) -> None:
            time.sleep(0.15)
            seen.append(loading.is_recent)

        loading.run(describe, lambda _product: None, lambda: None, 0.0)
        assert seen[-1] == expected, "a grace period begins with each product that was described"


def test_service_that_was_ready_stays_ready_while_products_are_described(
    tmp_path: Path, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.deployment.loading.LOADERS", 1)
    monkeypatch.setattr("service.deployment.loading.LOADING_GRACE_S", 0.1)
    loading = ProductLoading(tmp_path, frozenset(names), LoadFailures(), threading.Event(), is_quick=True)
    seen, ahead = list[bool](), list[bool]()

    def describe(product: str) -> None:
        seen.append(loading.is_waited_for(has_active=product != names[0]))
        if product == names[1]:
            time.sleep(0.2)  # longer than the grace period, which begins again with the next product
            seen.append(loading.is_waited_for(has_active=True))

    def load_ahead() -> None:
        ahead.append(loading.is_waited_for(has_active=True))

    loading.run(describe, lambda _product: None, load_ahead, 60.0)
    assert seen == [True, True, *[False] * (len(names) - 1)]
    assert ahead == [False]
    assert loading.ahead_until == 0.0


def test_product_that_hangs_delays_no_other(tmp_path: Path, names: list[str], hanging: HangingWrite) -> None:
    registry = registry_of(tmp_path / "models")
    loaded: list[str] = []

    def load(product: str) -> None:
        if product == "part0":
            hanging.wait()
        loaded.append(product)

    hanging.run(lambda: registry.load(load))
    wait_for(lambda: len(loaded) == len(names) - 1)
    assert registry.delayed == {"part0"}
    assert registry.is_loading("part0")
    assert not registry.is_loading("part7")
    assert is_loading(registry), "nothing is served yet"
    hanging.release()
    assert not is_loading(registry)
    assert not registry.delayed


def test_products_that_take_long_do_not_keep_the_service_from_being_ready(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(deployment.registry.models, deployment.registry.loader, Metrics())
    for product, active in deployment.registry.active.items():
        registry._in_force.set_active(product, active)
    assert is_loading(registry), "at first all products are waited for"
    monkeypatch.setattr("service.deployment.loading.LOADING_GRACE_S", 0)
    assert not is_loading(registry)
    assert registry.delayed == {"bolt", "nut"}


@pytest.mark.parametrize(
    ("error", "slug", "reason"),
    [
        (KeyError("x"), "bundle-invalid", "unexpectedly"),
        (MemoryError(), "bundle-invalid", "more memory"),
        (PermissionError(13, "Permission denied"), "bundle-integrity", "Permission denied"),
        (StoreUnavailable("test"), "store-unavailable", "test"),
        (RecursionError(), "bundle-invalid", "unexpectedly"),
    ],
)
def test_unexpected_failure_of_a_product_is_recorded(
    tmp_path: Path, names: list[str], error: Exception, slug: str, reason: str
) -> None:
    registry = registry_of(tmp_path / "models")
    loaded: list[str] = []

    def load(product: str) -> None:
        if product == "part3":
            raise error
        loaded.append(product)

    registry.load(load)
    assert sorted(loaded) == [name for name in names if name != "part3"]
    (broken,) = registry.broken
    assert (broken.product, broken.slug) == ("part3", slug)
    assert reason in broken.reason
    assert not registry.loading
    with pytest.raises(ProductNotReady, match=reason):
        registry.get("part3")


def test_closing_ends_the_loading(tmp_path: Path, names: list[str], hanging: HangingWrite) -> None:
    registry = registry_of(tmp_path / "models")
    seen: list[str] = []

    def load(product: str) -> None:
        seen.append(product)
        registry.wait_closing(TIMEOUT_S)
        raise ShuttingDown()

    loading = threading.Thread(target=registry.load, args=(load,))
    loading.start()
    wait_for(lambda: len(seen) == 4)
    registry.close()
    loading.join(5)
    assert not loading.is_alive()
    assert len(seen) == 4, "the others are not begun"
    assert registry.broken == ()


def change_stored_recipe(deployment: Deployment, product: str, **fields: Any) -> None:
    recipe = recipe_history(deployment.store.engine, product)[0].recipe.model_dump(mode="json")
    with writing(deployment.store.engine, "test") as session:
        session.execute(update(RecipeRow).where(RecipeRow.product == product).values(recipe=recipe | fields))


def test_stored_recipe_of_a_newer_version_breaks_its_product_only(deployment: Deployment) -> None:
    change_stored_recipe(deployment, "bolt", invented_later=1)
    registry = Registry(deployment.registry.models, deployment.registry.loader.with_options(OPTIONS), Metrics())
    Startup(registry, deployment.store.engine).run()
    assert registry.active.keys() == {"nut"}
    (broken,) = registry.broken
    assert (broken.product, broken.version, broken.slug) == (
        "bolt",
        deployment.new["bolt"].version,
        "recipe-unreadable",
    )
    assert "invented_later" in broken.reason
    assert not registry.loading
    with pytest.raises(RecipeUnreadable):
        recipe_history(deployment.store.engine, "bolt")
    registry.close()


def test_shadow_whose_recipe_cannot_be_determined_does_not_break_the_product(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment.rollout.start_shadow("bolt", deployment.old["bolt"].version, **SIGNATURE)

    def fail(*_: object) -> NoReturn:
        raise KeyError("test")

    monkeypatch.setattr("service.deployment.startup.shadow_recipe", fail)
    registry = Registry(deployment.registry.models, deployment.registry.loader.with_options(OPTIONS), Metrics())
    Startup(registry, deployment.store.engine).run()
    assert registry.active.keys() == {"bolt", "nut"}
    assert registry.shadows == {}
    assert registry.broken == ()
    registry.close()


def test_bundle_is_not_opened_before_its_self_test_passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = write_tiny_bundle(tmp_path)
    opened: list[Bundle] = []
    monkeypatch.setattr(Inspector, "open", lambda bundle, _: opened.append(bundle))
    loader = BundleLoader(OPTIONS, SelfTestLimits(timeout_s=0.01))
    with pytest.raises(SelfTestFailed):
        loader.load(bundle.path, "widget")
    with pytest.raises(BundleOfOtherProduct):
        BundleLoader(OPTIONS, SelfTestLimits()).load(bundle.path, "nut")
    wrong = write_tiny_bundle(tmp_path, offset=0.5)
    with pytest.raises(ParityFailure):
        BundleLoader(OPTIONS, SelfTestLimits()).load(wrong.path, "widget")
    assert opened == []


def test_opening_a_bundle_has_a_time_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, release, closed = write_tiny_bundle(tmp_path), threading.Event(), threading.Event()

    class Slow:
        def close(self) -> None:
            closed.set()

    def hang(*_: object) -> Slow:
        release.wait(TIMEOUT_S)
        return Slow()

    monkeypatch.setattr(IsolatedSelfTest, "run", lambda *_, **__: 0.0)
    monkeypatch.setattr(Inspector, "open", hang)
    monkeypatch.setattr(Inspector, "close", Slow.close)
    with pytest.raises(SelfTestFailed, match=r"could not be opened within 0\.2 s"):
        BundleLoader(OPTIONS, SelfTestLimits(timeout_s=0.2)).load(bundle.path)
    loader = BundleLoader(OPTIONS, SelfTestLimits(timeout_s=TIMEOUT_S))
    threading.Timer(0.2, loader.close).start()
    with pytest.raises(ShuttingDown):
        loader.load(bundle.path)
    release.set()
    assert closed.wait(TIMEOUT_S), "what is opened too late is closed"


@pytest.mark.slow
def test_passed_self_test_is_not_repeated_but_parity_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, passed = write_tiny_bundle(tmp_path / "models"), PassedSelfTests(tmp_path / "passed")
    runs: list[str] = []
    run = IsolatedSelfTest.run

    def counted(self: IsolatedSelfTest, bundle: Bundle, *args: Any, **options: Any) -> float:
        runs.append(bundle.version)
        return run(self, bundle, *args, **options)

    monkeypatch.setattr(IsolatedSelfTest, "run", counted)
    for _ in range(2):
        BundleLoader(OPTIONS, SelfTestLimits(), passed).load(bundle.path).close()
    assert runs == [bundle.version]
    BundleLoader(OPTIONS, SelfTestLimits(memory_bytes=2**30), passed).load(bundle.path).close()
    assert len(runs) == 2, "other limits are another self-test"
    BundleLoader(OPTIONS, SelfTestLimits()).load(bundle.path).close()
    assert len(runs) == 3
    monkeypatch.setattr("service.inspection.runtime.session.GraphSession.self_test", lambda *_: 1.0)
    with pytest.raises(ParityFailure):
        BundleLoader(OPTIONS, SelfTestLimits(), passed).load(bundle.path)


def test_record_of_passed_self_tests_is_bounded_and_optional(tmp_path: Path) -> None:
    passed = PassedSelfTests(tmp_path / "passed", limit=20)
    for number in range(30):
        passed.add([number])
    assert passed.contains([29])
    assert len(list((tmp_path / "passed").iterdir())) == 20
    (tmp_path / "file").write_text("")
    unwritable = PassedSelfTests(tmp_path / "file")
    unwritable.add([1])
    assert not unwritable.contains([1])
    PassedSelfTests(tmp_path / "deleted" / "passed").add([1])
    assert not (tmp_path / "deleted").exists(), "a data folder that was deleted or unmounted is not created anew"


def test_product_that_an_upload_created_serves_nothing_until_a_bundle_is_activated(
    deployment: Deployment, tmp_path: Path
) -> None:
    store, rollout, models = deployment.store, deployment.rollout, deployment.registry.models
    (models / "rivet").mkdir()
    with rollout._publication._publishing("rivet"):
        bundle = write_tiny_bundle(models, "rivet")
    loader = BundleLoader(OPTIONS, SelfTestLimits(), PassedSelfTests(shared_self_tests()))
    registry = Registry(models, loader, Metrics())
    Startup(registry, store.engine).run()
    assert registry.active.keys() == {"bolt", "nut"}
    assert "rivet" in registry.known
    with pytest.raises(ProductNotReady, match="none of its bundles is activated"):
        registry.get("rivet")
    registry.close()

    deployment.registry.refresh("rivet", bundle.version)
    with pytest.raises(NothingToRollBackTo):
        rollout.roll_back("rivet", **SIGNATURE)
    deployment.activate("rivet", bundle)
    assert deployment.version("rivet") == bundle.version
    with pytest.raises(NothingToRollBackTo):
        rollout.roll_back("rivet", **SIGNATURE)


def test_upload_to_a_product_filled_by_hand_that_never_served_keeps_its_newest_bundle(
    unloaded: Deployment, tmp_path: Path
) -> None:
    registry, rollout = unloaded.registry, unloaded.rollout
    registry.load(lambda _: None)  # as if neither could be loaded
    with rollout._publication._publishing("bolt"):
        pass
    choice = rollout.choices.current("bolt", "active")
    assert choice is not None
    assert choice.bundle_digest == unloaded.new["bolt"].digest
