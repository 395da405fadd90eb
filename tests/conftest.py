"""Fixtures that the tests of several packages need."""

import gc
from pathlib import Path

import pytest
from hypothesis import settings

from service.bundle.bundle import Bundle
from service.inspection.runtime.configure import configure
from tests.bundles import write_tiny_bundle

pytest_plugins = ["tests.strict_skips", "tests.running_service", "tests.postgres", "tests.s3", "tests.browser"]

# The time that an example takes depends on the load of the machine, so it is no criterion.
settings.register_profile("plumbline", deadline=None)
settings.load_profile("plumbline")

configure()

# Modules and tests stay until the end. To search them for garbage takes a quarter of the time of their collection, and
# time with each collection of garbage afterwards.
gc.disable()


def pytest_runtestloop() -> None:
    gc.enable()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository with one product, "widget". Shared: read it, never write to it."""
    models = tmp_path_factory.mktemp("models")
    write_tiny_bundle(models)
    return models


@pytest.fixture(scope="session")
def tiny_bundle(tiny_models: Path) -> Bundle:
    """The bundle of the product "widget"."""
    (path,) = (tiny_models / "widget").iterdir()
    return Bundle.load(path)


# The longest files and folders first, in this order: with several processes, each of which takes the next file when it
# has almost finished one (`--dist loadfile --no-loadscope-reorder`), none of them runs alone at the end.
_LONG = (
    "tests/test_end_to_end",
    "tests/training/methods/test_methods",
    "tests/service/process/test_openapi",
    "tests/conformance/",
    "tests/docs/test_commands",
    "tests/training/worker/",
    "tests/service/web/",
    "tests/training/",
    "tests/service/process/",
    "tests/benchmarks/",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        return next((place for place, start in enumerate(_LONG) if item.nodeid.startswith(start)), len(_LONG))

    items.sort(key=rank)
