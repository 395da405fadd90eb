"""Content of a threshold proposal for known scores."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta

from service.inspection.calibration import p_value, smallest_alpha
from service.inspection.decision import Decision, decide
from service.proposals.derive import derive, recipe_of, summarise_replay
from service.proposals.records import GoodImages, ProposalOptions
from service.recipes.errors import InvalidRecipe
from service.recipes.recipe import Recipe
from service.schemas.proposal import ChangedVerdict, Proposal, ReplayedVerdicts
from tests.bundles import tiny_card

SCORES = [float(value) for value in range(1, 100)]
DAYS = ["2026-03-01"] * 50 + ["2026-03-02"] * 49


def good_images(scores: list[float] = SCORES, days: list[str] | None = DAYS, **changes: Any) -> GoodImages:
    names = days or ["all"] * len(scores)
    values: dict[str, Any] = {
        "kind": "images",
        "scores": tuple(scores),
        "days": None if days is None else tuple(days),
        "grouped_by": "date-in-name",
        "groups": {name: names.count(name) for name in sorted(set(names))},
    }
    return GoodImages(**(values | changes))


def propose(
    images: GoodImages,
    target: float = 0.05,
    review: float | None = None,
    past: Sequence[tuple[str, float, str]] = (),
    in_force: float = math.inf,
) -> Proposal:
    def replay(recipe: Recipe) -> ReplayedVerdicts:
        again = [(name, before, decide(score, recipe.thresholds).value) for name, score, before in past]
        return summarise_replay([ChangedVerdict(id=name, before=before, after=after) for name, before, after in again])

    return derive(
        images,
        ProposalOptions(target, review, 0.95, "Ada"),
        proposal_id="p",
        created_at=datetime(2026, 3, 3, tzinfo=UTC),
        product="widget",
        bundle_digest="d" * 64,
        fail_in_force=in_force,
        replay=replay,
    )


def test_images_above_the_threshold_in_force_are_noted_and_not_left_out() -> None:
    scores = sorted(good_images().scores)
    limit = scores[-10]  # 9 of 99 scores are above it
    proposal = propose(good_images(), in_force=limit)
    (note,) = [note for note in proposal.notes if "score above the fail threshold in force" in note]
    assert note.startswith("9 of 99 images")
    assert proposal.source.images == 99
    assert not any("in force" in note for note in propose(good_images(), in_force=scores[-3]).notes)
    card = GoodImages(**(vars(good_images()) | {"kind": "card"}))
    assert not any("in force" in note for note in propose(card, in_force=limit).notes)


def test_expected_and_confident_rate_are_both_stated() -> None:
    rate = propose(good_images()).false_reject_rate

    assert (rate.target, rate.certified, rate.expected) == (0.05, 0.05, 0.05)
    assert rate.confident.confidence == 0.95
    assert rate.confident.rate == pytest.approx(float(beta.ppf(0.95, 5, 95))), "Clopper-Pearson for 4 of 99"
    assert rate.smallest_certifiable == 0.01


def test_rate_that_needs_more_images_is_replaced_by_the_smallest_certifiable_one() -> None:
    proposal = propose(good_images(), 0.001)

    assert proposal.false_reject_rate.certified == pytest.approx(0.01)
    assert proposal.thresholds.fail == 99.0
    assert proposal.false_reject_rate.images_for_target == 999
    assert any("which needs 999 images" in note for note in proposal.notes)


def test_expected_rate_is_below_the_target_where_no_rank_matches_it_exactly() -> None:
    rate = propose(good_images([float(value) for value in range(150)], None), 0.01).false_reject_rate

    assert rate.certified == 0.01
    assert rate.expected == pytest.approx(1 / 151)


@pytest.mark.parametrize(
    "changes",
    [
        {"grouped_by": "none", "groups": {"all": 99}, "days": ("all",) * 99},
        {"grouped_by": "captured-at", "groups": {"2026-03-01": 99}, "days": ("2026-03-01",) * 99},
    ],
    ids=["no-days-in-names", "a-single-day"],
)
def test_same_day_calibration_is_noted(changes: dict[str, Any]) -> None:
    proposal = propose(good_images(**changes))

    assert proposal.source.one_session
    assert any(note.startswith("Same-day calibration") for note in proposal.notes)


def test_several_days_are_not_a_same_day_calibration() -> None:
    proposal = propose(good_images(sorted(SCORES, key=lambda score: score * 37 % 99)))

    assert not proposal.source.one_session
    assert proposal.notes == []
    assert [day.images for day in proposal.days] == [50, 49]
    assert sum(day.above or 0 for day in proposal.days) == 4


def test_day_that_differs_is_noted() -> None:
    proposal = propose(good_images())  # all scores of the second day are above those of the first

    assert [day.differs for day in proposal.days] == [True, True]
    assert any("2026-03-02" in note and "differ from those of the other days" in note for note in proposal.notes)


def test_card_without_days_per_score_is_noted() -> None:
    groups = {"mon": 50, "tue": 49}
    proposal = propose(good_images(days=None, grouped_by="folder", groups=groups))

    assert [(day.name, day.images, day.above) for day in proposal.days] == [("mon", 50, None), ("tue", 49, None)]
    assert any("does not record the day" in note for note in proposal.notes)


def test_days_of_a_card_are_compared() -> None:
    card = tiny_card().model_copy(
        update={
            "groups": [group.model_copy(update={"name": name, "count": count}) for name, count in (("a", 50), ("b", 49))
                       for group in tiny_card().groups],
            "grouped_by": "folder",
            "group_of_score": [place % 2 for place in range(99)],
        }
    )  # fmt: skip
    proposal = propose(GoodImages.of_card(card))

    assert [(day.name, day.images, day.differs) for day in proposal.days] == [("a", 50, False), ("b", 49, False)]


def test_past_verdicts_are_decided_again() -> None:
    past = (("3", 98.0, "pass"), ("2", 93.0, "fail"), ("1", 1.0, "pass"))
    replayed = propose(good_images(), 0.05, 0.1, past).replayed

    assert (replayed.inspections, replayed.changed_total) == (3, 2)
    assert replayed.before == {"fail": 1, "pass": 2}
    assert replayed.after == {"fail": 1, "pass": 1, "review": 1}
    assert [(item.id, item.before, item.after) for item in replayed.changed] == [
        ("3", "pass", "fail"),
        ("2", "fail", "review"),
    ]


def test_impossible_review_rate_is_refused() -> None:
    with pytest.raises(InvalidRecipe, match="smaller than the false-reject rate"):
        propose(good_images(), 0.1, 0.05)


@given(
    st.lists(st.integers(0, 20).map(lambda value: value / 4), min_size=1, max_size=60).map(sorted),
    st.integers(0, 24).map(lambda value: value / 4),
    st.integers(1, 99).map(lambda value: value / 100),
)
def test_score_p_value_and_decision_of_an_applied_proposal_agree_at_every_boundary(
    scores: list[float], score: float, target: float
) -> None:
    """P-values are against the proposal's own good images, also where they are too few for the target."""
    proposal = propose(good_images(scores, None, grouped_by="none", groups={"all": len(scores)}), target)
    recipe = recipe_of(scores, proposal.false_reject_rate.certified, None, "p")
    assert recipe.certified
    assert recipe.target_false_reject_rate is not None
    assert recipe.target_false_reject_rate == max(target, smallest_alpha(len(scores)))

    fails = decide(score, recipe.thresholds) is Decision.FAIL

    assert fails == (p_value(scores, score) <= recipe.target_false_reject_rate)


def test_thresholds_without_a_review_rate_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    by_hand = Recipe(fail_threshold=2.0, review_threshold=1.0)
    monkeypatch.setattr("service.proposals.derive.recipe_of", lambda *_: by_hand)
    with pytest.raises(InvalidRecipe, match="no review rate"):
        propose(good_images())
