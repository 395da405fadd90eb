"""A small real bundle whose images have hostile names, its evaluation and the record of its run."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from service.bundle.bundle import Bundle
from service.inspection.inspector import Inspector
from tests.training.report.hostile_plates import CURVE, write_hostile_plates
from tests.training.small_product import build_bundle
from training.dataset import scan, scan_test
from training.evaluate import Evaluation, evaluate
from training.pipeline import inspector_options
from training.run_record import record_run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hostile_plates(tmp_path_factory.mktemp("plates"))


@pytest.fixture(scope="module")
def bundle(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return build_bundle(data, tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def inspector(bundle: Bundle) -> Iterator[Inspector]:
    inspector = Inspector.load(bundle.path, inspector_options(threads=1, provider="cpu"))
    yield inspector
    inspector.close()


@pytest.fixture(scope="module")
def evaluation(inspector: Inspector, data: Path) -> Evaluation:
    return evaluate(inspector, scan_test(data), data=data)


@pytest.fixture(scope="module")
def run_dir(bundle: Bundle, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    record_run(folder, bundle, scan(data), CURVE)
    return folder
