"""The record of a training run: bounded, complete after a resumption, and never used for another bundle."""

import math
from pathlib import Path

import pytest

from service.bundle.bundle import Bundle
from tests.training.small_product import build_bundle, write_plates
from training.dataset import scan
from training.run_record import (
    MAX_POINTS,
    CurvePoint,
    GroupCount,
    RunRecord,
    TrainingCurve,
    find_record,
    record_file,
    record_run,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_plates(tmp_path_factory.mktemp("plates"))


@pytest.fixture(scope="module")
def bundle(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return build_bundle(data, tmp_path_factory.mktemp("models"))


def curve_of(steps: int, first: int = 1) -> TrainingCurve:
    curve = TrainingCurve(steps)
    for step in range(first, steps + 1):
        curve.add(step, {"loss": float(step)})
    return curve


@pytest.mark.parametrize("steps", [1, 249, 250, 251, 1000, 12_345])
def test_curve_has_the_means_of_all_steps_in_few_points(steps: int) -> None:
    points = curve_of(steps).points()

    assert 1 <= len(points) <= MAX_POINTS
    assert points[-1].step == steps
    ends = [0, *(point.step for point in points)]
    for point, before in zip(points, ends, strict=False):
        assert point.losses["loss"] == pytest.approx((before + 1 + point.step) / 2)


def test_short_run_keeps_every_step() -> None:
    assert [point.step for point in curve_of(7).points()] == [1, 2, 3, 4, 5, 6, 7]


def test_curve_leaves_out_values_that_are_not_finite_and_losses_that_a_stage_does_not_have() -> None:
    curve = TrainingCurve(3)
    curve.add(1, {"loss": 1.0, "restore": math.nan})
    curve.add(2, {"loss": math.inf})
    curve.add(3, {"segment": 2.0})

    assert curve.points() == [CurvePoint(step=1, losses={"loss": 1.0}), CurvePoint(step=3, losses={"segment": 2.0})]


def test_restored_curve_continues() -> None:
    whole, resumed = curve_of(600), TrainingCurve(600)
    before = TrainingCurve(600)
    for step in range(1, 332):
        before.add(step, {"loss": float(step)})
    resumed.restore(before.state())
    for step in range(332, 601):
        resumed.add(step, {"loss": float(step)})

    assert resumed.points() == whole.points()


def test_record_is_found_by_its_bundle(bundle: Bundle, data: Path, tmp_path: Path) -> None:
    found = scan(data)
    record_run(tmp_path / "run", bundle, found, curve_of(3).points())

    record = find_record(tmp_path / "run", bundle)

    assert isinstance(record, RunRecord)
    assert (record.product, record.digest, record.data) == ("plate", bundle.digest, str(data))
    assert (record.grouped_by, record.duplicates) == ("none", 0)
    assert record.groups == [GroupCount(name=found.grouping.names[0], training=30, held_out=10)]
    assert [point.losses["loss"] for point in record.curve] == [1, 2, 3]


def test_record_that_cannot_be_used_is_described(bundle: Bundle, data: Path, tmp_path: Path) -> None:
    path = record_file(tmp_path, bundle)
    assert find_record(tmp_path, bundle) == f"The record of the training is not there: {path} does not exist."

    path.write_text("{}")
    assert "is damaged" in str(find_record(tmp_path, bundle))
    path.write_bytes(b"\xff\x00 not JSON")
    assert "is damaged" in str(find_record(tmp_path, bundle))

    record_run(tmp_path, bundle, scan(data), [])
    path.write_text(path.read_text().replace(bundle.digest, "0" * 64))
    assert "belongs to another bundle" in str(find_record(tmp_path, bundle))

    path.unlink()
    path.mkdir()
    assert "cannot be read" in str(find_record(tmp_path, bundle))
