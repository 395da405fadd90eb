"""From what the service knows to what the API says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

from service.bundle.bundle import Bundle
from service.bundle.manifest import Manifest
from service.deployment.comparison import Comparison
from service.deployment.failures import BrokenBundle
from service.deployment.lease import ActiveProduct, Shadow
from service.deployment.replay import Replay
from service.deployment.rollout import BundleVersion
from service.inspection.calibration import smallest_alpha
from service.schemas.bundle import (
    Activation,
    BundleRecord,
    ChoiceRecord,
    ComparisonRecord,
    Disagreement,
    PairedTestRecord,
    ReplayRecord,
    SaidRecord,
)
from service.schemas.inspection import (
    BundleReference,
    FilterEffect,
    ImageFacts,
    ImagePixels,
    Inspection,
    InvalidFact,
    Links,
    QualityFacts,
    Region,
    Thresholds,
)
from service.schemas.product import BundleFacts, BundleProblem, CalibrationFacts, Product, TilingFacts
from service.schemas.recipe import RecipeRecord, RecipeValues, RevisionFacts
from service.store.records import BundleChoice, InspectionRecord, RecipeRevision


def inspection_answer(row: InspectionRecord) -> Inspection:
    return Inspection(
        id=row.id,
        product=row.product,
        decision=row.decision,  # type: ignore[arg-type]  # checked by pydantic
        score=row.score,
        p_value=row.p_value,
        thresholds=Thresholds(
            fail=row.fail_threshold,
            review=row.review_threshold,
            target_false_reject_rate=row.target_false_reject_rate,
            certified=row.certified,
            calibration_images=row.calibration_count,
            proposal_id=row.proposal_id,
            conservative=row.judged_share is not None,
        ),
        judged_share=1.0 if row.judged_share is None else row.judged_share,
        regions=[Region.model_validate(region) for region in row.regions],
        filtered=_filtered(row),
        bundle=BundleReference(digest=row.bundle_digest, version=row.bundle_version, method=row.method),
        provider=row.provider,
        recipe_revision=row.recipe_revision,
        image=ImageFacts(
            media_type=row.image_media_type,
            width=row.image_width,
            height=row.image_height,
            bytes=row.image_bytes,
            sha256=row.image_sha256,
            pixels=None if row.image_pixels is None else ImagePixels.model_validate(row.image_pixels),
        ),
        invalid_reasons=[InvalidFact.model_validate(item) for item in row.objections or []],
        quality=None if row.quality is None else QualityFacts.model_validate(row.quality),
        timings_ms=row.timings_ms,
        batch_size=row.batch_size,
        part_id=row.part_id,
        station=row.station,
        lot=row.lot,
        captured_at=row.captured_at,
        created_at=row.created_at,
        request_id=row.request_id,
        artefacts_removed_at=row.artefacts_removed_at,
        links=links_of(row.id, row.product, has_map=not row.objections),
    )


def links_of(inspection_id: str, product: str, *, has_map: bool = True) -> Links:
    address = f"/v1/inspections/{inspection_id}"
    return Links(
        self=address,
        heatmap=f"{address}/heatmap",
        map=f"{address}/map" if has_map else None,
        image=f"{address}/image",
        product=f"/v1/products/{product}",
    )


def _filtered(row: InspectionRecord) -> FilterEffect | None:
    if row.by_score is None:
        return None
    return FilterEffect(
        changed_verdict=row.by_score != row.decision,
        decision_by_score=row.by_score,  # type: ignore[arg-type]  # checked by pydantic
        dropped_regions=row.dropped_regions or {},
    )


def revision_facts(revision: RecipeRevision) -> RevisionFacts:
    return RevisionFacts(
        product=revision.product,
        revision=revision.revision,
        created_at=revision.created_at,
        author=revision.author,
        reason=revision.reason,
        bundle_digest=revision.bundle_digest,
    )


def recipe_answer(revision: RecipeRevision) -> RecipeRecord:
    recipe = RecipeValues.model_validate(revision.recipe.model_dump())
    return RecipeRecord(**revision_facts(revision).model_dump(), recipe=recipe)


def broken_answer(broken: BrokenBundle) -> BundleProblem:
    return BundleProblem(product=broken.product, version=broken.version, type=broken.slug, reason=broken.reason)


def bundle_facts(manifest: Manifest, digest: str) -> BundleFacts:
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
        evaluation=manifest.evaluation,
    )


def bundle_reference(bundle: Bundle) -> BundleReference:
    return BundleReference(digest=bundle.digest, version=bundle.version, method=bundle.manifest.method)


def bundle_answer(version: BundleVersion) -> BundleRecord:
    manifest = version.manifest
    return BundleRecord(
        product=version.product,
        version=version.version,
        state=version.state,
        loaded=version.state in {"active", "shadow"},
        bundle=None if manifest is None or version.digest is None else bundle_facts(manifest, version.digest),
        bytes=None if manifest is None else sum(entry.bytes for entry in manifest.files.values()),
        problem=None if version.broken is None else broken_answer(version.broken),
    )


def choice_answer(choice: BundleChoice) -> ChoiceRecord:
    return ChoiceRecord(version=choice.version, **_choice_fields(choice))


def activation_answer(choice: BundleChoice, active: ActiveProduct) -> Activation:
    return Activation(
        version=choice.version,
        provider=active.inspector.provider,
        recipe_revision=active.recipe.revision,
        **_choice_fields(choice),
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


def comparison_answer(product: str, comparison: Comparison) -> ComparisonRecord:
    return ComparisonRecord(
        product=product,
        active=comparison.active,
        shadow=comparison.shadow,
        pairs=comparison.pairs,
        agreement={mine: dict(others) for mine, others in comparison.agreement.items()},
        rejects=PairedTestRecord(**asdict(comparison.rejects)),
        p_values=PairedTestRecord(**asdict(comparison.p_values)),
        examples=[
            Disagreement(**asdict(example), links=links_of(example.inspection_id, product))
            for example in comparison.examples
        ],
        summary=comparison.summary,
    )


def replay_answer(row: InspectionRecord, replay: Replay) -> ReplayRecord:
    return ReplayRecord(
        inspection_id=row.id,
        outcome=replay.outcome,
        stored=SaidRecord(**asdict(replay.stored)),
        replayed=SaidRecord(**asdict(replay.replayed)),
        score_difference=replay.score_difference,
        tolerance=replay.tolerance,
        bundle=BundleReference(digest=row.bundle_digest, version=row.bundle_version, method=row.method),
        recipe_revision=row.recipe_revision,
        summary=replay.summary,
        links=links_of(row.id, row.product),
    )


def product_answer(
    name: str, active: ActiveProduct | None, shadow: Shadow | None, broken: Sequence[BrokenBundle], *, is_loading: bool
) -> Product:
    problems = [broken_answer(item) for item in broken]
    if active is None:
        waits: Literal["loading", "inactive"] = "loading" if is_loading else "inactive"
        return Product(product=name, status="broken" if problems else waits, broken_bundles=problems)
    manifest, card = active.bundle.manifest, active.bundle.card
    return Product(
        product=name,
        status="ready",
        provider=active.inspector.provider,
        bundle=bundle_facts(manifest, active.bundle.digest),
        shadow=None if shadow is None else bundle_reference(shadow.bundle),
        calibration=CalibrationFacts(
            images=len(card.scores),
            groups={group.name: group.count for group in card.groups},
            grouped_by=card.grouped_by,
            provider=card.provider,
            smallest_false_reject_rate=smallest_alpha(len(card.scores)),
        ),
        recipe=recipe_answer(active.recipe),
        broken_bundles=problems,
    )
