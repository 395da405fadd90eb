"""Agreement of reviewers against published examples, scikit-learn and a simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta
from sklearn.metrics import cohen_kappa_score

from service.reviews.agreement import cohens_kappa, krippendorffs_alpha
from service.reviews.intervals import Z, rate_interval
from service.reviews.labels import CombinedLabel, Opinion, combine


def labels_of(table: list[list[int]]) -> tuple[list[int], list[int]]:
    pairs = [
        (row, column) for row, counts in enumerate(table) for column, count in enumerate(counts) for _ in range(count)
    ]
    return [first for first, _ in pairs], [second for _, second in pairs]


def test_kappa_and_its_standard_error_are_those_of_the_published_example() -> None:
    # Fleiss, Levin & Paik, Statistical Methods for Rates and Proportions (2003), table 18.1.
    result = cohens_kappa(*labels_of([[75, 1, 4], [5, 4, 1], [0, 0, 10]]))

    assert result.kappa is not None
    assert result.kappa == pytest.approx(0.676, abs=5e-4)
    assert result.interval is not None
    assert (result.interval[1] - result.kappa) / Z == pytest.approx(0.088, abs=5e-4)


@pytest.mark.parametrize("seed", range(5))
def test_kappa_is_that_of_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first = rng.choice(["good", "defect", "unsure"], 50).tolist()
    second = [one if rng.random() < 0.7 else str(rng.choice(["good", "defect", "unsure"])) for one in first]

    assert cohens_kappa(first, second).kappa == pytest.approx(cohen_kappa_score(first, second), abs=1e-12)
    assert cohens_kappa(second, first) == cohens_kappa(first, second)


def test_interval_of_kappa_covers_the_kappa_of_the_population() -> None:
    rng = np.random.default_rng(0)
    table = np.array([[0.5, 0.05, 0.02], [0.08, 0.2, 0.02], [0.03, 0.04, 0.06]])
    expected = float(table.sum(1) @ table.sum(0))
    kappa = (np.trace(table) - expected) / (1 - expected)
    covered = 0
    for _ in range(400):
        counts = rng.multinomial(150, table.ravel()).reshape(3, 3)
        result = cohens_kappa(*labels_of(counts.tolist()))
        assert result.interval is not None
        covered += result.interval[0] <= kappa <= result.interval[1]

    assert covered / 400 == pytest.approx(0.95, abs=0.03)


def test_perfect_agreement_of_few_images_is_no_certainty() -> None:
    few = cohens_kappa(["good", "defect"] * 3, ["good", "defect"] * 3)
    many = cohens_kappa(["good", "defect"] * 300, ["good", "defect"] * 300)

    assert (few.kappa, many.kappa) == (1, 1)
    assert few.interval is not None
    assert many.interval is not None
    assert few.interval[0] < 0.2
    assert many.interval[0] > 0.97


def test_kappa_is_undefined_for_a_single_label_and_without_images() -> None:
    assert cohens_kappa(["good"] * 4, ["good"] * 4).kappa is None
    assert cohens_kappa(["good"] * 4, ["good"] * 4).agreement == 1
    assert cohens_kappa([], []).images == 0
    with pytest.raises(ValueError, match="two labels per image"):
        cohens_kappa(["good"], [])


def test_alpha_is_that_of_the_published_example() -> None:
    # Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), section C.
    reviewers = (
        "1 2 3 3 2 1 4 1 2 . . .",
        "1 2 3 3 2 2 4 1 2 5 . 3",
        ". 3 3 3 2 3 4 2 2 5 1 .",
        "1 2 3 3 2 4 4 1 2 5 1 .",
    )
    images = zip(*(labels.split() for labels in reviewers), strict=True)

    assert krippendorffs_alpha([[one for one in image if one != "."] for image in images]) == pytest.approx(
        0.743, abs=5e-4
    )
    assert krippendorffs_alpha([["a"], ["b"]]) is None
    assert krippendorffs_alpha([["a", "a"], ["a", "a"]]) is None


@pytest.mark.parametrize(("count", "total"), [(0, 10), (3, 10), (10, 10), (1, 500), (250, 500)])
def test_interval_of_a_rate_is_that_of_scipy(count: int, total: int) -> None:
    low, high = rate_interval(count, total)

    assert low == pytest.approx(0 if count == 0 else beta.ppf(0.025, count, total - count + 1), abs=1e-9)
    assert high == pytest.approx(1 if count == total else beta.ppf(0.975, count + 1, total - count), abs=1e-9)
    assert rate_interval(0, 0) == (0, 1)


@pytest.mark.parametrize(
    ("opinions", "expected"),
    [
        ([], None),
        ([Opinion("good")], CombinedLabel("good")),
        ([Opinion("good"), Opinion("unsure")], CombinedLabel("good")),
        ([Opinion("unsure")], CombinedLabel("unsure")),
        ([Opinion("good"), Opinion("defect", "dent")], CombinedLabel("disputed")),
        ([Opinion("defect", "dent"), Opinion("defect")], CombinedLabel("defect", "dent")),
        ([Opinion("defect", "dent"), Opinion("defect", "scratch")], CombinedLabel("defect")),
    ],
)
def test_reviews_combine_to_one_label(opinions: list[Opinion], expected: CombinedLabel | None) -> None:
    assert combine(opinions) == expected
