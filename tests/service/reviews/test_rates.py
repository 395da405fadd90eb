"""The sample and the rates that it estimates, by simulation of populations with known rates."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from service.inspection.decision import Thresholds, decide
from service.reviews.intervals import WeightedCount, melded_share_interval, rate_interval
from service.reviews.rates import Cell, cells_of, estimate_rates, estimate_share
from service.reviews.sampling import JudgedImage, SamplePlan, draw, hash_of
from service.schemas.inspection import InspectionLabel, VerdictName

THRESHOLDS = Thresholds(fail=3.0, review=2.5)


def stored(image: JudgedImage) -> VerdictName:
    return image.decision


def population(seed: int, size: int = 4000) -> tuple[list[JudgedImage], dict[str, InspectionLabel]]:
    """Return inspections, 4 % of them of defective parts, and the truth about them."""
    rng = np.random.default_rng(seed)
    is_defective = rng.random(size) < 0.04
    scores = np.where(is_defective, rng.normal(3.2, 0.8, size), rng.normal(1.0, 0.8, size))
    images = [
        JudgedImage(f"{seed}-{number}", decide(score, THRESHOLDS).value, score, "b")  # type: ignore[arg-type]
        for number, score in enumerate(scores.tolist())
    ]
    truth: dict[str, InspectionLabel] = {
        image.id: "defect" if bad else "good" for image, bad in zip(images, is_defective, strict=True)
    }
    return images, truth


def true_share(images: list[JudgedImage], truth: dict[str, InspectionLabel], kind: str, decisions: set[str]) -> float:
    chosen = [image for image in images if truth[image.id] == kind]
    return sum(image.decision in decisions for image in chosen) / len(chosen)


def test_sample_has_all_reviews_and_equal_numbers_from_strata_that_are_finer_near_the_thresholds() -> None:
    images, _ = population(0)
    strata = draw(images, SamplePlan(passed=40, failed=20))

    assert sum(len(stratum.members) for stratum in strata) == len(images)
    by_decision = {name: [item for item in strata if item.decision == name] for name in ("pass", "review", "fail")}
    assert [len(item.drawn) for item in by_decision["pass"]] == [10] * 4
    assert [len(item.drawn) for item in by_decision["fail"]] == [5] * 4
    (review,) = by_decision["review"]
    assert (review.probability, set(review.drawn)) == (1, set(review.members))
    assert [item.probability for item in by_decision["pass"]] == sorted(
        item.probability for item in by_decision["pass"]
    )
    assert [item.probability for item in by_decision["fail"]] == sorted(
        (item.probability for item in by_decision["fail"]), reverse=True
    )
    for name in ("pass", "fail"):
        bounds = [(min(i.score for i in s.members), max(i.score for i in s.members)) for s in by_decision[name]]
        assert all(before[1] < after[0] for before, after in pairwise(bounds))


def test_sample_depends_on_nothing_but_the_inspections() -> None:
    images, _ = population(1)
    plan = SamplePlan(20, 20)
    chosen = {image.id for stratum in draw(images, plan) for image in stratum.drawn}

    assert {image.id for stratum in draw(images[::-1], plan) for image in stratum.drawn} == chosen
    larger = {image.id for stratum in draw(images, SamplePlan(80, 80)) for image in stratum.drawn}
    assert chosen < larger, "a smaller sample is part of a larger one"


def test_inclusion_probability_is_the_frequency_with_which_an_inspection_is_drawn() -> None:
    scores = np.linspace(0, 1, 200)
    drawn: Counter[int] = Counter()
    probabilities: dict[int, float] = {}
    for seed in range(300):
        images = [JudgedImage(f"{seed}/{number}", "pass", score, "b") for number, score in enumerate(scores.tolist())]
        for stratum in draw(images, SamplePlan(passed=20)):
            drawn.update(int(image.id.partition("/")[2]) for image in stratum.drawn)
            probabilities |= {int(image.id.partition("/")[2]): stratum.probability for image in stratum.members}

    for low, high in ((0, 100), (100, 160), (160, 190), (190, 200)):
        frequency = sum(drawn[number] for number in range(low, high)) / 300 / (high - low)
        assert frequency == pytest.approx(probabilities[low], abs=1e-9)
    assert max(drawn[number] / 300 - probabilities[number] for number in range(200)) < 0.12, (
        "no inspection is preferred"
    )


def test_small_and_equal_scores_are_sampled() -> None:
    images = [JudgedImage(str(number), "pass", 1.0, "b") for number in range(7)]

    (stratum,) = draw(images, SamplePlan(passed=3))
    assert (len(stratum.members), len(stratum.drawn)) == (7, 3)
    assert draw([], SamplePlan()) == []
    assert [len(stratum.drawn) for stratum in draw(images, SamplePlan(passed=0))] == [0]


def test_hash_is_uniform() -> None:
    values = sorted(hash_of(str(number)) for number in range(2000))

    assert max(abs(value - number / 2000) for number, value in enumerate(values)) < 0.04


def test_estimates_are_unbiased_and_the_intervals_cover_the_rates_of_the_population() -> None:
    miss: list[float] = []
    covered = Counter[str]()
    for seed in range(40):
        images, truth = population(seed)
        strata = draw(images, SamplePlan(80, 80))
        labels = {image.id: truth[image.id] for stratum in strata for image in stratum.drawn}
        rates = estimate_rates(cells_of(strata, labels, stored))
        expected = {
            "miss": true_share(images, truth, "defect", {"pass"}),
            "false_reject": true_share(images, truth, "good", {"fail"}),
            "false_alarm": true_share(images, truth, "good", {"fail", "review"}),
        }
        for name, value in expected.items():
            estimate = getattr(rates, name)
            covered[name] += estimate.low <= value <= estimate.high
        assert rates.miss.rate is not None
        miss.append(rates.miss.rate - expected["miss"])

    assert min(covered.values()) >= 38, "95 % of 40"
    assert np.mean(miss) == pytest.approx(0, abs=3 * np.std(miss) / np.sqrt(len(miss)))
    images, truth = population(0)
    naive = [image for stratum in draw(images, SamplePlan(80, 80)) for image in stratum.drawn]
    assert true_share(naive, truth, "good", {"fail"}) > 3 * true_share(images, truth, "good", {"fail"}), (
        "without weights the sample is wrong"
    )


def test_rates_of_other_thresholds_are_those_of_the_population() -> None:
    other = Thresholds(fail=2.2, review=1.5)

    def decided(image: JudgedImage) -> VerdictName:
        return decide(image.score, other).value  # type: ignore[return-value]

    covered = 0
    for seed in range(10):
        images, truth = population(seed)
        strata = draw(images, SamplePlan(200, 200))
        labels = {image.id: truth[image.id] for stratum in strata for image in stratum.drawn}
        rates = estimate_rates(cells_of(strata, labels, decided))
        again = [JudgedImage(image.id, decided(image), image.score, image.bundle) for image in images]
        expected = true_share(again, truth, "good", {"fail"})
        assert rates.false_reject.rate == pytest.approx(expected, abs=0.03)
        covered += rates.false_reject.low <= expected <= rates.false_reject.high
    assert covered == 10


def test_labels_outside_the_sample_have_no_effect() -> None:
    images, truth = population(3)
    strata = draw(images, SamplePlan(40, 40))
    sampled = {image.id: truth[image.id] for stratum in strata for image in stratum.drawn}

    assert cells_of(strata, truth, stored) == cells_of(strata, sampled, stored)


def test_interval_is_that_of_clopper_and_pearson_if_every_part_has_the_same_weight() -> None:
    cells = [Cell("pass", 90, 40, 5), Cell("review", 10, 3, 2), Cell("fail", 20, 1, 9)]

    miss = estimate_share(cells, "defect", {"pass"})
    assert (miss.rate, miss.count, miss.of, miss.method) == (5 / 16, 5, 16, "clopper-pearson")
    assert (miss.low, miss.high) == rate_interval(5, 16)
    assert estimate_share([], "good", {"fail"}).rate is None


def test_melded_interval_has_a_width_without_events_and_contains_everything_without_reviews() -> None:
    none_missed = [Cell("pass", 9000, 40, 0), Cell("fail", 100, 5, 35)]
    miss = estimate_share(none_missed, "defect", {"pass"})
    assert (miss.rate, miss.method) == (0, "melded")
    assert miss.low == 0
    assert miss.high > 0.5, "1 % of the passed parts would be as many as all rejected ones"

    unknown = [Cell("pass", 9000, 0, 0), Cell("fail", 100, 5, 35)]
    miss = estimate_share(unknown, "defect", {"pass"})
    assert (miss.low, miss.rate) == (0, 0)
    assert miss.high > 0.98
    assert estimate_rates(unknown).unreviewed == 9000


def test_melded_interval_is_close_to_the_exact_one_where_that_is_known() -> None:
    # A / (A + B) with B known is a monotone function of one rate, so its interval follows from that of the rate.
    low, high = rate_interval(6, 80)
    melded = melded_share_interval([WeightedCount(1000, 6, 80)], [WeightedCount(100, 10**6, 10**6)])

    assert melded == pytest.approx((1000 * low / (1000 * low + 100), 1000 * high / (1000 * high + 100)), abs=0.02)
    assert melded == melded_share_interval([WeightedCount(1000, 6, 80)], [WeightedCount(100, 10**6, 10**6)])
