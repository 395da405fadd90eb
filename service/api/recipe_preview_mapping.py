"""Map previews of recipe changes and distributions to the schemas of the API."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from service.api.mapping import to_links, to_rate_bound
from service.schemas import recipe_preview as schemas
from service.schemas.recipe_preview import MAX_LISTED
from service.serving.distributions import Distributions, Histogram
from service.serving.recipe_previews import RecipeEffect, RecipePreview, Redecided, ThresholdEffect


def to_recipe_preview(product: str, found: RecipePreview) -> schemas.RecipePreview:
    """Map the effect of a changed recipe."""
    nearest = found.nearest
    return schemas.RecipePreview(
        product=product,
        revision=found.active.recipe.revision,
        bundle_digest=found.active.bundle.digest,
        before=_thresholds(found.before),
        after=_thresholds(found.after),
        nearest=None
        if nearest is None
        else schemas.NearestRates(
            target_false_reject_rate=nearest.false_reject,
            review_rate=nearest.review,
            fail_threshold=nearest.fail_threshold,
            review_threshold=nearest.review_threshold,
        ),
        verdicts=schemas.VerdictsPreview(**_verdicts(product, found.newest)),
        labelled=schemas.LabelledPreview(
            **_verdicts(product, found.labelled),
            by_label_before=_by_label(found.labelled, is_after=False),
            by_label_after=_by_label(found.labelled, is_after=True),
        ),
        not_previewed=list(found.not_previewed),
    )


def _thresholds(effect: RecipeEffect) -> schemas.ThresholdsPreview:
    return schemas.ThresholdsPreview(
        fail=_threshold(effect.fail),
        review=_threshold(effect.review),
        certified=effect.recipe.certified,
        target_false_reject_rate=effect.recipe.target_false_reject_rate,
        review_rate=effect.recipe.review_rate,
    )


def _threshold(effect: ThresholdEffect) -> schemas.ThresholdPreview:
    bound = None if effect.bound is None else to_rate_bound(effect.bound)
    return schemas.ThresholdPreview(value=effect.value, above=effect.above, bound=bound)


def _verdicts(product: str, items: Sequence[Redecided]) -> dict[str, Any]:
    known = [item for item in items if item.after is not None]
    changed = [item for item in known if item.is_changed]
    pairs = Counter((item.record.decision, str(item.after)) for item in changed)
    return {
        "inspections": len(known),
        "unknown": len(items) - len(known),
        "before": dict(sorted(Counter(item.record.decision for item in known).items())),
        "after": dict(sorted(Counter(str(item.after) for item in known).items())),
        "changes": [
            {"before": before, "after": after, "count": count} for (before, after), count in sorted(pairs.items())
        ],
        "changed": [_inspection(product, item) for item in changed[:MAX_LISTED]],
        "changed_total": len(changed),
    }


def _inspection(product: str, item: Redecided) -> schemas.PreviewedInspection:
    record, label = item.record, item.label
    return schemas.PreviewedInspection(
        id=record.id,
        created_at=record.created_at,
        part_id=record.part_id,
        station=record.station,
        score=record.score,
        before=record.decision,  # type: ignore[arg-type]  # checked by pydantic
        after=str(item.after),  # type: ignore[arg-type]
        label=None if label is None else label.label,
        kind=None if label is None else label.kind,
        has_image=record.artefacts_removed_at is None,
        links=to_links(record.id, product, has_map=not record.objections),
    )


def _by_label(items: Sequence[Redecided], *, is_after: bool) -> dict[Any, dict[Any, int]]:
    found: dict[str, Counter[str]] = {}
    for item in items:
        if item.after is not None and item.label is not None:
            decision = str(item.after) if is_after else item.record.decision
            found.setdefault(item.label.label, Counter())[decision] += 1
    return {label: dict(sorted(counts.items())) for label, counts in sorted(found.items())}


def to_distributions(product: str, found: Distributions) -> schemas.Distributions:
    """Map the distributions of a product."""
    fail, review = found.thresholds
    return schemas.Distributions(
        product=product,
        since=found.since,
        until=found.until,
        inspections=found.inspections,
        is_cut=found.is_cut,
        scores=schemas.ScoreHistograms(
            edges=list(found.edges),
            reference=_histogram(found.reference),
            reference_source="proposal" if found.is_proposal else "card",
            recent=_histogram(found.recent),
            fail_threshold=fail,
            review_threshold=review,
        ),
        quality=[
            schemas.QualityDistribution(
                measure=one.measure,  # type: ignore[arg-type]  # checked by pydantic
                edges=list(one.edges),
                recent=_histogram(one.recent),
                newest=one.newest,
                median=one.median,
                low=one.limits[0],
                high=one.limits[1],
                derived_low=one.derived[0],
                derived_high=one.derived[1],
            )
            for one in found.quality
        ],
    )


def _histogram(found: Histogram) -> schemas.Histogram:
    return schemas.Histogram(**asdict(found), total=found.total)
