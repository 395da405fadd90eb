"""Map records and results of the service to the schemas of the API."""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any, Literal, TypeVar

from service.api.http.problems import known_error, problem_body
from service.api.http.server_paths import hide_paths
from service.bundle.bundle import Bundle
from service.bundle.manifest import Manifest
from service.deployment.comparison import Comparison
from service.deployment.failures import BrokenBundle
from service.deployment.replay import Replay
from service.deployment.rollout import BundleVersion
from service.inspection import calibration
from service.inspection.calibration import bound_rate, describe_card, smallest_alpha
from service.schemas.batch import BatchItem
from service.schemas.bundle import (
    Activation,
    BundleRecord,
    ChoiceRecord,
    ComparisonRecord,
    Disagreement,
    PairedTestRecord,
    ReplayRecord,
    VerdictRecord,
)
from service.schemas.common import RateBound
from service.schemas.drift import Suspension
from service.schemas.inspection import (
    BundleReference,
    FilterEffect,
    HeatmapScaleFacts,
    ImageFacts,
    ImagePixels,
    Inspection,
    InspectionLabel,
    InvalidFact,
    Links,
    PreviewImage,
    QualityFacts,
    Region,
    Thresholds,
    Trial,
)
from service.schemas.problem import Problem
from service.schemas.product import (
    BundleFacts,
    BundleProblem,
    CalibrationFacts,
    GroupShift,
    ParityFacts,
    Product,
    SanityFigures,
    TilingFacts,
)
from service.schemas.recipe import RecipeRecord, RecipeValues, RevisionFacts
from service.serving.batch import Outcome
from service.serving.bundles import ActivatedBundle
from service.serving.previews import Layer
from service.serving.products import ProductState
from service.serving.trials import TriedImage
from service.store.records import BundleChoice, InspectionRecord, RecipeRevision

ItemT = TypeVar("ItemT", bound=BatchItem)


def to_item(kind: type[ItemT], index: int, outcome: Outcome, request_id: str) -> ItemT:
    """Map the result of one of several images.

    Args:
        kind: Schema of the item.
        index: Position of the image.
        outcome: The result.
        request_id: Request id that a problem contains.
    """
    name, result = outcome.frame.label, outcome.result
    if isinstance(result, Exception):
        return kind(index=index, name=name, problem=Problem(**problem_body(known_error(result), request_id)))
    return kind(index=index, name=name, inspection=to_inspection(result))


def to_inspection(record: InspectionRecord, label: InspectionLabel | None = None) -> Inspection:
    """Map a stored inspection.

    Args:
        record: The inspection.
        label: Its label; None without a review.
    """
    return Inspection(
        id=record.id,
        part_id=record.part_id,
        station=record.station,
        lot=record.lot,
        captured_at=record.captured_at,
        created_at=record.created_at,
        request_id=record.request_id,
        label=label,
        artefacts_removed_at=record.artefacts_removed_at,
        links=to_links(record.id, record.product, has_map=not record.objections),
        **_judged_fields(record),
    )


def to_trial(trial: TriedImage) -> Trial:
    """Map an image that was judged and not stored."""
    record = trial.record
    return Trial(
        preview=None if trial.preview is None else _to_preview(trial.preview),
        overlay=None if trial.overlay is None else _to_preview(trial.overlay),
        **_judged_fields(record),
    )


def _to_preview(layer: Layer) -> PreviewImage:
    width, height = layer.size_wh
    data = base64.b64encode(layer.content).decode("ascii")
    return PreviewImage(media_type=layer.media_type, width=width, height=height, data=data)


def _judged_fields(record: InspectionRecord) -> dict[str, Any]:
    """Return the fields of `JudgedImage`."""
    return {
        "product": record.product,
        "decision": record.decision,
        "score": record.score,
        "p_value": record.p_value,
        "thresholds": Thresholds(
            fail=record.fail_threshold,
            review=record.review_threshold,
            target_false_reject_rate=record.target_false_reject_rate,
            false_reject_bound=_rate_bound(record.target_false_reject_rate, record.calibration_count),
            certified=record.certified,
            guarantee=record.guarantee,
            calibration_images=record.calibration_count,
            proposal_id=record.proposal_id,
            conservative=record.judged_share is not None,
        ),
        "heatmap_scale": HeatmapScaleFacts(low=record.heatmap_low, high=record.heatmap_high),
        "judged_share": 1.0 if record.judged_share is None else record.judged_share,
        "regions": [to_region(region) for region in record.regions],
        "filtered": _filtered(record),
        "bundle": BundleReference(digest=record.bundle_digest, version=record.bundle_version, method=record.method),
        "provider": record.provider,
        "recipe_revision": record.recipe_revision,
        "image": ImageFacts(
            media_type=record.image_media_type,
            width=record.image_width,
            height=record.image_height,
            bytes=record.image_bytes,
            sha256=record.image_sha256,
            pixels=None if record.image_pixels is None else ImagePixels.model_validate(record.image_pixels),
        ),
        "invalid_reasons": [InvalidFact.model_validate(item) for item in record.objections or []],
        "quality": None if record.quality is None else QualityFacts.model_validate(record.quality),
        "timings_ms": record.timings_ms,
        "batch_size": record.batch_size,
    }


def to_region(region: Mapping[str, Any]) -> Region:
    """Map a stored region."""
    return Region.model_validate(region)


def _rate_bound(rate: float | None, images: int) -> RateBound | None:
    """Return the bounds of a false-reject rate that a number of images was used for; None for no rate."""
    return None if rate is None or not images else to_rate_bound(bound_rate(images, rate))


def to_rate_bound(bound: calibration.RateBound) -> RateBound:
    """Map the bounds of a false-reject rate."""
    return RateBound(
        average=bound.average,
        confident=bound.confident,
        confidence=bound.confidence,
        images=bound.n,
        certified=bound.certified,
        statement=str(bound),
    )


def to_links(inspection_id: str, product: str, *, has_map: bool = True) -> Links:
    """Return the links of an inspection."""
    url = f"/v1/inspections/{inspection_id}"
    return Links(
        self=url,
        heatmap=f"{url}/heatmap",
        map=f"{url}/map" if has_map else None,
        image=f"{url}/image",
        product=f"/v1/products/{product}",
    )


def _filtered(record: InspectionRecord) -> FilterEffect | None:
    if record.by_score is None:
        return None
    return FilterEffect(
        changed_verdict=record.by_score != record.decision,
        decision_by_score=record.by_score,  # type: ignore[arg-type]  # checked by pydantic
        dropped_regions=record.dropped_regions or {},
    )


def to_revision_facts(revision: RecipeRevision) -> RevisionFacts:
    """Map a revision without its recipe."""
    return RevisionFacts(
        product=revision.product,
        revision=revision.revision,
        created_at=revision.created_at,
        author=revision.author,
        reason=revision.reason,
        bundle_digest=revision.bundle_digest,
    )


def to_recipe_record(revision: RecipeRevision, suspension: Suspension | None = None) -> RecipeRecord:
    """Map a revision with its recipe.

    Args:
        revision: The revision.
        suspension: Why its guarantee is suspended; None if it is not, and for a revision that is not in force.
    """
    certified = revision.recipe.certified and suspension is None
    guarantee = "certified" if certified else "none" if suspension is None else "suspended"
    values = revision.recipe.model_dump() | {"certified": certified, "guarantee": guarantee}
    recipe = RecipeValues.model_validate(values)
    bound = None if (found := revision.recipe.rate_bound) is None else to_rate_bound(found)
    facts = to_revision_facts(revision).model_dump()
    return RecipeRecord(**facts, recipe=recipe, false_reject_bound=bound, suspension=suspension)


def suspension_for(suspension: Suspension | None, stations: Collection[str] | None) -> Suspension | None:
    """Return a suspension as a principal may read it, without the names of other stations.

    Args:
        suspension: The suspension, if there is one.
        stations: The stations that the principal may use; None for all.
    """
    if suspension is None or stations is None:
        return suspension
    return suspension.model_copy(update={"stations": [name for name in suspension.stations if name in stations]})


def to_bundle_problem(broken: BrokenBundle) -> BundleProblem:
    """Map a bundle that is not served."""
    return BundleProblem(
        product=broken.product, version=broken.version, type=broken.slug, reason=hide_paths(broken.reason)
    )


def to_bundle_facts(manifest: Manifest, digest: str) -> BundleFacts:
    """Map the manifest of a bundle."""
    return BundleFacts(
        digest=digest,
        version=digest[:12],
        method=manifest.method,
        teachers=manifest.teachers,
        created_at=manifest.created_at,
        input_width=manifest.input.width,
        input_height=manifest.input.height,
        tiling=None if (tiling := manifest.input.tiling) is None else TilingFacts(**tiling.model_dump()),
        training_images=manifest.training.images,
        weak=manifest.training.weak,
        evaluation=manifest.evaluation,
        parity=ParityFacts(**manifest.parity.model_dump()),
        precision=manifest.precision,
        calibrated_on=None if (ran := manifest.calibrated_on) is None else f"{ran.runtime} ({ran.provider})",
        smallest_rate_bound=_rate_bound(smallest_alpha(manifest.training.held_out), manifest.training.held_out),
    )


def to_bundle_reference(bundle: Bundle) -> BundleReference:
    """Map a bundle to a reference."""
    return BundleReference(digest=bundle.digest, version=bundle.version, method=bundle.manifest.method)


def to_bundle_record(version: BundleVersion) -> BundleRecord:
    """Map a bundle of the model repository."""
    manifest = version.manifest
    return BundleRecord(
        product=version.product,
        version=version.version,
        state=version.state,
        loaded=version.is_loaded,
        bundle=None if manifest is None or version.digest is None else to_bundle_facts(manifest, version.digest),
        bytes=None if manifest is None else sum(entry.bytes for entry in manifest.files.values()),
        problem=None if version.broken is None else to_bundle_problem(version.broken),
    )


def to_choice_record(choice: BundleChoice) -> ChoiceRecord:
    """Map the choice of a bundle."""
    return ChoiceRecord(version=choice.version, **_choice_fields(choice))


def to_activation(activated: ActivatedBundle) -> Activation:
    """Map an activated bundle."""
    return Activation(
        version=activated.choice.version,
        provider=activated.active.served.provider,
        recipe_revision=activated.active.recipe.revision,
        **_choice_fields(activated.choice),
    )


def _choice_fields(choice: BundleChoice) -> dict[str, Any]:
    return {
        "product": choice.product,
        "role": choice.role,
        "bundle_digest": choice.bundle_digest,
        "created_at": choice.created_at,
        "author": choice.author,
        "reason": choice.reason,
    }


def to_comparison_record(product: str, comparison: Comparison) -> ComparisonRecord:
    """Map the comparison of two bundles."""
    return ComparisonRecord(
        product=product,
        active=comparison.active,
        shadow=comparison.shadow,
        pairs=comparison.pairs,
        agreement={first: dict(second) for first, second in comparison.agreement.items()},
        rejects=PairedTestRecord(**asdict(comparison.rejects)),
        p_values=PairedTestRecord(**asdict(comparison.p_values)),
        examples=[
            Disagreement(**asdict(example), links=to_links(example.inspection_id, product))
            for example in comparison.examples
        ],
        summary=comparison.summary,
    )


def to_replay_record(record: InspectionRecord, replay: Replay) -> ReplayRecord:
    """Map the replay of an inspection."""
    return ReplayRecord(
        inspection_id=record.id,
        outcome=replay.outcome,
        stored=VerdictRecord(**asdict(replay.stored)),
        replayed=VerdictRecord(**asdict(replay.replayed)),
        score_difference=replay.score_difference,
        tolerance=replay.tolerance,
        bundle=BundleReference(digest=record.bundle_digest, version=record.bundle_version, method=record.method),
        recipe_revision=record.recipe_revision,
        summary=replay.summary,
        links=to_links(record.id, record.product),
    )


def to_product(state: ProductState, stations: Collection[str] | None = None) -> Product:
    """Map the state of a product.

    Args:
        state: The state.
        stations: The stations whose names the reader may see; None for all.
    """
    problems = [to_bundle_problem(broken) for broken in state.broken]
    active = state.active
    if active is None:
        idle: Literal["loading", "inactive"] = "loading" if state.is_loading else "inactive"
        return Product(product=state.name, status="broken" if problems else idle, broken_bundles=problems)
    manifest, card, served = active.bundle.manifest, active.bundle.card, active.served
    is_refused = not served.is_loaded and any(broken.version == active.bundle.version for broken in state.broken)
    smallest = smallest_alpha(len(card.scores))
    return Product(
        product=state.name,
        status="broken" if is_refused else "ready",
        provider=served.provider,
        memory="pinned" if served.is_pinned else "loaded" if served.is_loaded else "on-demand",
        bundle=to_bundle_facts(manifest, active.bundle.digest),
        shadow=None if state.shadow is None else to_bundle_reference(state.shadow.bundle),
        calibration=CalibrationFacts(
            images=len(card.scores),
            groups={group.name: group.count for group in card.groups},
            grouped_by=card.grouped_by,
            provider=card.provider,
            smallest_false_reject_rate=smallest,
            smallest_rate_bound=_rate_bound(smallest, len(card.scores)),
            group_shift=None if card.group_shift is None else GroupShift(**card.group_shift.model_dump()),
            sanity=None if card.sanity is None else SanityFigures(**card.sanity.model_dump()),
            notes=describe_card(card),
        ),
        recipe=to_recipe_record(active.recipe, suspension_for(state.suspension, stations)),
        broken_bundles=problems,
    )
