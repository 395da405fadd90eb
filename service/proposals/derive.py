"""Derive a threshold proposal from the scores of good images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime

from service.inspection.calibration import certify_nearest, images_needed, smallest_alpha
from service.inspection.capture_groups import summarise_days
from service.proposals.records import GoodImages, ProposalOptions
from service.recipes.recipe import Recipe
from service.schemas.proposal import (
    MAX_CHANGED_LISTED,
    ChangedVerdict,
    ConfidentRate,
    FalseRejectRate,
    Proposal,
    ProposalDay,
    ProposalSource,
    ProposedThresholds,
    ReplayedVerdicts,
)

SUSPICIOUS_SHARE = 0.05  # of the images declared good, above the fail threshold in force: then a note says so


def recipe_of(scores: Sequence[float], certified: float, review_rate: float | None, proposal_id: str) -> Recipe:
    """The thresholds of a stored proposal, derived from its scores once more: nobody's word is taken for them.

    Args:
        scores: The proposal's scores, ascending.
        certified: Its certified rate.
        review_rate: The review rate that was asked for, None for the usual one.
        proposal_id: Its id.

    Raises:
        InvalidRecipe: The rates are not possible with these scores.
    """
    recipe = Recipe.for_rates(scores, certified, review_rate)
    return recipe.model_copy(update={"derivation": "proposal", "proposal_id": proposal_id})


def derive(
    images: GoodImages,
    wish: ProposalOptions,
    *,
    proposal_id: str,
    created_at: datetime,
    product: str,
    bundle_digest: str,
    fail_in_force: float,
    replay: Callable[[Recipe], ReplayedVerdicts],
) -> Proposal:
    """Compute a proposal.

    Args:
        images: The good images.
        wish: What was asked for.
        proposal_id: Its name in the store.
        created_at: Now.
        product: Whose thresholds.
        bundle_digest: The bundle that gave the scores.
        fail_in_force: The fail threshold that the line judges by now.
        replay: Decides stored inspections again by the proposed thresholds.

    Raises:
        InvalidRecipe: The review rate is not possible.
    """
    scores = sorted(images.scores)
    certified = certify_nearest(scores, wish.target)
    recipe = recipe_of(scores, certified.alpha, wish.review_rate, proposal_id)
    assert recipe.review_rate is not None  # rates in, rates out
    days = _days(images, recipe.fail_threshold)
    return Proposal(
        id=proposal_id,
        product=product,
        created_at=created_at,
        author=wish.author,
        bundle_digest=bundle_digest,
        source=ProposalSource(
            kind=images.kind,
            images=len(scores),
            duplicates=images.duplicates,
            grouped_by=images.grouped_by,
            one_session=images.one_session,
            measured=images.measured,
            not_judged=list(images.not_judged),
        ),
        thresholds=ProposedThresholds(fail=recipe.fail_threshold, review=recipe.review_threshold),
        false_reject_rate=FalseRejectRate(
            target=wish.target,
            certified=certified.alpha,
            expected=certified.expected_rate,
            confident=ConfidentRate(confidence=wish.confidence, rate=certified.confident_rate(wish.confidence)),
            smallest_certifiable=smallest_alpha(len(scores)),
            images_for_target=images_needed(wish.target),
        ),
        review_rate=recipe.review_rate,
        days=days,
        replayed=replay(recipe),
        notes=_notes(images, wish, certified.alpha, days, fail_in_force),
    )


def _days(images: GoodImages, threshold: float) -> list[ProposalDay]:
    if images.days is None:
        unknown = {"above": None, "share_above": None, "median_score": None, "p_value": None, "differs": None}
        return [ProposalDay(name=name, images=count, **unknown) for name, count in images.groups.items()]
    return [
        ProposalDay(
            name=day.name,
            images=day.images,
            above=day.above,
            share_above=day.above / day.images,
            median_score=day.median_score,
            p_value=day.p_value,
            differs=day.differs,
        )
        for day in summarise_days(images.scores, images.days, threshold)
    ]


def summarise_replay(verdicts: Sequence[ChangedVerdict], unknown: int = 0) -> ReplayedVerdicts:
    """Count verdicts that were decided again.

    Args:
        verdicts: All of them, newest first, changed or not.
        unknown: How many could not be decided again.
    """
    changed = [verdict for verdict in verdicts if verdict.before != verdict.after]
    return ReplayedVerdicts(
        inspections=len(verdicts),
        unknown=unknown,
        before=dict(sorted(Counter(verdict.before for verdict in verdicts).items())),
        after=dict(sorted(Counter(verdict.after for verdict in verdicts).items())),
        changed=changed[:MAX_CHANGED_LISTED],
        changed_total=len(changed),
    )


def _notes(
    images: GoodImages, wish: ProposalOptions, certified: float, days: Sequence[ProposalDay], fail_in_force: float
) -> list[str]:
    n, notes = len(images.scores), []
    failing = sum(score > fail_in_force for score in images.scores)
    # They are not left out: images chosen by what was decided about them promise nothing. But they are worth a look.
    if images.kind != "card" and failing > max(1, SUSPICIOUS_SHARE * n):
        notes.append(
            f"{failing} of {n} images fail by the threshold in force ({fail_in_force:.4g}; the highest score is "
            f"{max(images.scores):.4g}). One defective part among them makes the proposed threshold worthless: look at "
            "them before it is applied."
        )
    if certified > wish.target:
        notes.append(
            f"{n} good images can certify a false-reject rate of {certified:.4g} at best, so this is proposed instead "
            f"of {wish.target:g}; {images_needed(wish.target)} would be needed."
        )
    if images.one_session:
        notes.append(
            f"Same-day calibration: all {n} images count as one session. The rates hold for parts taken like them; "
            "another day, shift or lamp is not covered. Propose again from good images of several days."
        )
    elif images.days is None:
        notes.append(
            "This bundle's calibration card does not say which score belongs to which day, so days cannot be compared."
        )
    if images.not_judged:
        notes.append(
            f"{len(images.not_judged)} images were left out because the line would not judge them either: see "
            "source.not_judged."
        )
    if strange := [day.name for day in days if day.differs]:
        notes.append(
            f"The images of {', '.join(strange)} score unlike those of the other days. The rates assume that the next "
            "part may come from any of these days alike: find out what was different before this is applied."
        )
    return notes
