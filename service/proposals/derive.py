"""Derive a threshold proposal from the scores of good images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime

from service.inspection.calibration import (
    bound_rate,
    certify_nearest,
    explain_few_images,
    images_needed,
    smallest_alpha,
)
from service.inspection.capture_groups import summarise_days
from service.proposals.records import GoodImages, ProposalOptions
from service.recipes.errors import InvalidRecipe
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

# A note warns if more than this share of the images declared good scores above the fail threshold in force.
SUSPICIOUS_SHARE = 0.05


def recipe_of(scores: Sequence[float], certified: float, review_rate: float | None, proposal_id: str) -> Recipe:
    """Return the recipe of a stored proposal, with its thresholds derived again from the stored scores.

    Args:
        scores: The proposal's scores, ascending.
        certified: Its certified false-reject rate.
        review_rate: The requested review rate, None for the default.
        proposal_id: Its id.

    Raises:
        InvalidRecipe: These scores cannot certify the rates.
    """
    recipe = Recipe.for_rates(scores, certified, review_rate)
    return recipe.model_copy(update={"derivation": "proposal", "proposal_id": proposal_id})


def derive(
    images: GoodImages,
    options: ProposalOptions,
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
        options: The requested rates.
        proposal_id: Id of the proposal in the store.
        created_at: Time of creation.
        product: The product that the thresholds are for.
        bundle_digest: The bundle that computed the scores.
        fail_in_force: The fail threshold in force.
        replay: Decides stored inspections again with the proposed thresholds.

    Raises:
        InvalidRecipe: The review rate is missing or not possible.
    """
    scores = sorted(images.scores)
    certified = certify_nearest(scores, options.target)
    recipe = recipe_of(scores, certified.alpha, options.review_rate, proposal_id)
    if recipe.review_rate is None:
        raise InvalidRecipe("The proposed thresholds have no review rate. State `review_rate` in the request.")
    days = _days(images, recipe.fail_threshold)
    return Proposal(
        id=proposal_id,
        product=product,
        created_at=created_at,
        author=options.author,
        bundle_digest=bundle_digest,
        source=ProposalSource(
            kind=images.kind,
            images=len(scores),
            duplicates=images.duplicates,
            grouped_by=images.grouped_by,
            one_session=images.one_session,
            measured=images.measured,
            reviewed_good=images.reviewed_good,
            labelled_defect=list(images.labelled_defect),
            not_judged=list(images.not_judged),
        ),
        thresholds=ProposedThresholds(fail=recipe.fail_threshold, review=recipe.review_threshold),
        false_reject_rate=FalseRejectRate(
            target=options.target,
            certified=certified.alpha,
            expected=certified.expected_rate,
            confident=ConfidentRate(confidence=options.confidence, rate=certified.confident_rate(options.confidence)),
            statement=str(bound_rate(len(scores), certified.alpha, options.confidence)),
            smallest_certifiable=smallest_alpha(len(scores)),
            images_for_target=images_needed(options.target),
        ),
        review_rate=recipe.review_rate,
        days=days,
        replayed=replay(recipe),
        notes=_notes(images, options, certified.alpha, days, fail_in_force),
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
        unknown: Number of inspections that could not be decided again.
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
    images: GoodImages, options: ProposalOptions, certified: float, days: Sequence[ProposalDay], fail_in_force: float
) -> list[str]:
    n, notes = len(images.scores), []
    failing = sum(score > fail_in_force for score in images.scores)
    # Excluding them would invalidate the guarantee, which holds only for images that were not selected by their scores.
    # So a note recommends a check.
    if images.kind != "card" and failing > max(1, SUSPICIOUS_SHARE * n):
        notes.append(
            f"{failing} of {n} images score above the fail threshold in force ({fail_in_force:.4g}; the highest score "
            f"is {max(images.scores):.4g}). A single defective part among them invalidates the proposed threshold. "
            "Check these images before you apply the proposal."
        )
    if certified > options.target:
        notes.append(
            f"{n} good images cannot certify a false-reject rate below {certified:.4g}, so this rate is proposed "
            f"instead of {options.target:g}, which needs {images_needed(options.target)} images."
        )
    if (few := explain_few_images(n)) is not None:
        notes.append(few)
    if not images.compared:
        notes.append(
            "This bundle does not list the images that it was made from. Make sure that none of the images of this "
            "proposal was used for training: a threshold from training images rejects more good parts than stated."
        )
    if images.one_session:
        notes.append(
            f"Same-day calibration: all {n} images count as one session. The rates hold for images taken under the "
            "same conditions; another day, shift or illumination is not covered. Create a proposal from good images of "
            "several days."
        )
    elif images.days is None:
        notes.append(
            "This bundle's calibration card does not record the day of each score, so days cannot be compared."
        )
    if images.reviewed_good:
        notes.append(
            f"{images.reviewed_good} of {n} images joined because reviews label them as good. If mainly rejected parts "
            "were reviewed, high scores are over-represented: the thresholds are then higher than the rate needs, so "
            "fewer good parts fail, but more defective parts may pass."
        )
    if images.labelled_defect:
        notes.append(
            f"{len(images.labelled_defect)} inspections were left out because reviews label them as defect or "
            "disputed: see source.labelled_defect."
        )
    if images.not_judged:
        notes.append(
            f"{len(images.not_judged)} images were left out because the quality check rejects them: see "
            "source.not_judged."
        )
    if differing := [day.name for day in days if day.differs]:
        notes.append(
            f"The scores of {', '.join(differing)} differ from those of the other days. The rates assume that all days "
            "are alike. Find out what was different before you apply the proposal."
        )
    return notes
