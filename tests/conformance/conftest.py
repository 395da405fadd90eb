"""Fixtures of the API test suite: a deployment, and the service as its clients reach it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from service.bundle.bundle import Bundle
from tests.conformance.deployments import DEPLOYMENTS, Deployment, Parts, running
from tests.conformance.products import ServedProduct, serve_product
from tests.running_service import HttpService

# Their names do not match `test_*.py`, because they do not run on their own.
pytest.register_assert_rewrite("tests.conformance.cases")


@pytest.fixture(scope="module")
def deployment(
    request: pytest.FixtureRequest, tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """The deployment of the module, which all its tests share. They use names of their own."""
    parts = Parts(tmp_path_factory.mktemp("deployment"), tiny_bundle, request.getfixturevalue)
    with running(DEPLOYMENTS[request.module.DEPLOYMENT], parts) as deployment:
        yield deployment


@pytest.fixture(scope="module")
def service(deployment: Deployment) -> HttpService:
    """The deployment, for tests that were written for a service in one process."""
    return deployment.service


@pytest.fixture(scope="module")
def shared_product(deployment: Deployment, tmp_path_factory: pytest.TempPathFactory) -> ServedProduct:
    """A product for tests that change neither its bundles nor its recipe."""
    return serve_product(deployment, tmp_path_factory.mktemp("made"))


@pytest.fixture
def product(deployment: Deployment, tmp_path: Path) -> ServedProduct:
    """A product of one test."""
    return serve_product(deployment, tmp_path / "made")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out requests that a proxy does not pass on, and behind Ray's proxy those about Plumbline's HTTP server.

    `cases/operation.py` sends the former to each replica that can be reached.
    """
    here = Path(__file__).parent

    def is_left_out(item: pytest.Item) -> bool:
        if item.path.parent != here:
            return False
        marks = ["per_replica", "own_server"] if item.path.stem == "test_ray" else ["per_replica"]
        return any(item.get_closest_marker(mark) is not None for mark in marks)

    left_out = [one for one in items if is_left_out(one)]
    if left_out:
        items[:] = [one for one in items if one not in left_out]
        config.hook.pytest_deselected(items=left_out)
