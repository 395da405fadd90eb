"""A product whose lots differ: single held-out images give too low a threshold for a new lot, held-out lots do not."""

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import pytest
import typer

from benchmarks.groups import BankScorer, Division, Outcome, Scores, TrainedScorer, divide, measure, table_row
from tests.training.small_product import build_bundle
from training.config import FitConfig
from training.dataset import scan
from training.pipeline import Reporter, Request, Trained
from training.teachers import random_teacher

LOTS, EACH, SIDE = 32, 4, 64
SEEDS = range(8)


def write_product(root: Path, lots: int = LOTS, each: int = EACH) -> Path:
    """Write a product whose lots differ in brightness, colour and texture, and whose images of one lot hardly do."""
    for name in ("train/good", "test/good", "test/spot"):
        (root / name).mkdir(parents=True)
    for lot in range(lots):
        rng = np.random.default_rng(lot)
        colour = rng.uniform(60, 190, 3)
        grain = cv2.resize(rng.normal(0, rng.uniform(5, 40), (16, 16, 3)), (SIDE, SIDE))
        for number in range(each):
            image = colour + grain + np.random.default_rng((lot, number)).normal(0, 2, (SIDE, SIDE, 3))
            folder = root / ("train" if lot % 2 else "test") / "good"
            cv2.imwrite(str(folder / f"lot{lot}_{number}.png"), image.clip(0, 255).astype(np.uint8))
            if number == 0:
                image[20:40, 20:40] = rng.uniform(0, 255, (20, 20, 3))
                cv2.imwrite(str(root / "test" / "spot" / f"{lot}.png"), image.clip(0, 255).astype(np.uint8))
    return root


@pytest.fixture
def small_bank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.group_shift.PROTOTYPES", 256)


def mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


@pytest.mark.slow
@pytest.mark.usefixtures("small_bank")
def test_false_rejects_of_new_lots_exceed_the_bound_without_groups_and_keep_it_with_them(tmp_path: Path) -> None:
    product, scorer = write_product(tmp_path / "product"), BankScorer(random_teacher("efficientnet_lite0"), SIDE)

    outcomes = measure(product, scorer, Division.LOTS, ["none", "prefix"], SEEDS)

    single, whole = outcomes["none"], outcomes["prefix"]
    assert {outcome.groups for outcome in single} == {1}
    assert all(outcome.exceeds for outcome in single), "siblings in training make the calibration scores too low"
    assert {outcome.groups for outcome in whole} == {4}
    assert {outcome.new_group for outcome in whole} == {1 / 5}
    assert mean(outcome.rate for outcome in whole) <= 1 / 5
    assert mean(outcome.rate for outcome in whole) < mean(outcome.rate for outcome in single) / 3


@pytest.mark.slow
@pytest.mark.usefixtures("small_bank")
def test_single_images_are_enough_for_new_images_of_the_same_lots(tmp_path: Path) -> None:
    product, scorer = write_product(tmp_path / "product"), BankScorer(random_teacher("efficientnet_lite0"), SIDE)

    outcomes = measure(product, scorer, Division.IMAGES, ["none"], SEEDS)["none"]

    assert mean(outcome.rate for outcome in outcomes) <= mean(outcome.threshold.expected_rate for outcome in outcomes)


def test_no_lot_is_in_both_halves(tmp_path: Path) -> None:
    product = write_product(tmp_path / "product", lots=7, each=3)

    for seed in range(3):
        divide(product, target := tmp_path / str(seed), Division.LOTS, seed)
        train, test = (sorted((target / part / "good").iterdir()) for part in ("train", "test"))
        assert {path.name.split("_")[0] for path in train}.isdisjoint(path.name.split("_")[0] for path in test)
        assert (len(train), len(test)) == (12, 9)
        assert len(list((target / "test" / "spot").iterdir())) == 7


def test_images_are_divided_across_lots(tmp_path: Path) -> None:
    product = write_product(tmp_path / "product", lots=4, each=5)
    divide(product, tmp_path / "divided", Division.IMAGES, 0)

    train, test = (list((tmp_path / "divided" / part / "good").iterdir()) for part in ("train", "test"))
    assert len(train) == len(test) == 10
    assert {path.name.split("_")[0] for path in train} & {path.name.split("_")[0] for path in test}


def test_given_division_is_kept(tmp_path: Path) -> None:
    product = write_product(tmp_path / "product", lots=4, each=5)
    divide(product, tmp_path / "divided", Division.GIVEN, 0)

    for part in ("train", "test"):
        given = {path.name for path in (product / part / "good").iterdir()}
        assert {path.name for path in (tmp_path / "divided" / part / "good").iterdir()} == given


def test_product_without_lots_is_refused(tmp_path: Path) -> None:
    product = write_product(tmp_path / "product", lots=1, each=4)

    with pytest.raises(typer.BadParameter, match="no common prefixes"):
        divide(product, tmp_path / "divided", Division.LOTS, 0)


def test_row_counts_false_rejects_by_the_fail_threshold() -> None:
    scores = Scores([1.0, 2.0, 3.0, 4.0], [2, 2], good=[0.5, 4.0, 4.5, 5.0], defective=[6.0, 7.0])
    outcome = Outcome.of(scores)

    assert (outcome.rejected, outcome.good, outcome.image_auroc) == (2, 4, 1.0)
    assert (outcome.rate, outcome.exceeds) == (0.5, False), "4 images certify 53 % with 95 % confidence"
    assert table_row("part", Division.LOTS, "prefix", [outcome, outcome]) == (
        "| part | other lots | prefix | 2.0 | 4 | 20.0% | 33% | 50.0% [50.0, 50.0] | 50.0% "
        "| 0 of 2 [0.0, 84.2] | 1.000 |"
    )


@pytest.mark.slow
def test_bundle_can_be_trained_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[Request] = []

    def without_training(request: Request, reporter: Reporter) -> Trained:
        reporter.stage("train", 1)(1, "")
        requests.append(request)
        bundle = build_bundle(request.data, request.models)
        return Trained(bundle, scan(request.data), evaluation=None, seconds=0.0, cpu_seconds=0.0)

    monkeypatch.setattr("benchmarks.groups.train", without_training)
    product = write_product(tmp_path / "product", lots=12, each=4)

    (outcome,) = measure(product, TrainedScorer(FitConfig(threads=1)), Division.LOTS, ["prefix"], [5])["prefix"]

    assert [(request.groups, request.config.seed) for request in requests] == [("prefix", 5)]
    assert (outcome.groups, outcome.threshold.n, outcome.good) == (3, 12, 24)
