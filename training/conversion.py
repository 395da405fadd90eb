"""Conversion of a bundle to another precision: a new bundle with a graph, thresholds and golden maps of its own.

Nothing of the fp32 bundle's calibration is kept, because the graph computes other scores: the calibration card, the
sanity figures and the thresholds are measured anew on the same held-out images, with the code that serves. The golden
maps are those of the converted graph, so the service's self-test detects a machine that computes something else.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from service.bundle.bundle import Bundle
from service.bundle.card import SanityFigures
from service.bundle.golden import GoldenSample
from service.bundle.manifest import Explanation, ManifestDraft, Parity, Precision
from service.bundle.origins import Origins
from service.bundle.writer import write_bundle
from service.inspection.inspector import InspectorOptions, Measurer
from service.inspection.runtime.session import GraphSession
from training.certification import TestSplit, certify, evaluate_bundle, evaluate_trial
from training.dataset import read_size
from training.errors import NotConvertible, PrecisionLoss
from training.evaluate import Evaluation
from training.export import BATCH_SIZES, explanation_problem, golden_differences, with_metadata
from training.half_precision import halve
from training.pipeline import Advance, Reporter
from training.provenance import calibrated_on, git_revision, installed_libraries
from training.quantisation import CALIBRATION_IMAGES, quantise
from training.sanity import measure_sanity, sample_size, weaknesses
from training.source_images import SourceImages, find_source_images
from training.tiles import load_sample

_log = logging.getLogger(__name__)
MAX_AUROC_LOSS = 0.003
"""Largest accepted loss of image AUROC on the test split."""
MAX_SANITY_LOSS = 0.01
"""Largest accepted loss of either AUROC on synthetic anomalies. Of some hundred images, one changes it by a few tenths
of a percent."""
TOLERANCES: dict[Precision, float] = {"int8": 0.02, "fp16": 0.01}
"""Tolerance of the parity certificate. On the shipped bundle, results of the int8 graph differ by 1e-7 between batch
sizes and numbers of threads, and by 2 to 6 % between implementations of its operators, where values round to another of
256 steps. So the certificate accepts the runtime that the bundle was calibrated on, and detects another one."""

# Fields of the manifest that a converted bundle has in common with its source.
_KEPT = {"product", "method", "teachers", "input", "map_height", "map_width", "score_rule", "training"}


@dataclass(frozen=True)
class Request:
    """A bundle to convert.

    Attributes:
        bundle: The fp32 bundle.
        data: The folder that it was trained on.
        models: The model repository of the new bundle.
        precision: The precision of the new bundle.
        test: Labelled test images, which both bundles are measured on; None measures synthetic anomalies only.
        allow_weak: Write the bundle even if it detects less; the reasons are recorded in the manifest.
    """

    bundle: Bundle
    data: Path
    models: Path
    precision: Precision = "int8"
    test: TestSplit | None = None
    allow_weak: bool = False


@dataclass(frozen=True)
class Converted:
    """The result of `convert`.

    Attributes:
        bundle: The bundle that was written.
        sanity: Figures on synthetic anomalies of the fp32 bundle and of the new one.
        evaluations: Evaluations of the fp32 bundle and of the new one on the test split, if there is one.
    """

    bundle: Bundle
    sanity: tuple[SanityFigures, SanityFigures]
    evaluations: tuple[Evaluation, Evaluation] | None


def convert(request: Request, options: InspectorOptions, reporter: Reporter) -> Converted:
    """Convert a bundle to another precision, certify the new graph, and write the new bundle.

    Args:
        request: The bundle and the images.
        options: How to run the graphs. Its provider is the one that the new bundle is calibrated on.
        reporter: Shows the progress.

    Raises:
        NotConvertible: One of the precisions is wrong, or the graph cannot be converted.
        SourceImagesMissing: See `find_source_images`.
        PrecisionLoss: The new graph detects less. Nothing was written.
    """
    source, manifest = request.bundle, request.bundle.manifest
    if manifest.precision != "fp32":
        raise NotConvertible(
            source.version,
            f"its precision is {manifest.precision}, expected fp32; name an fp32 version with "
            "--bundle models/PRODUCT/VERSION",
        )
    images = _find_images(source, request.data, reporter)
    seed = manifest.training.seed
    if request.precision == "fp16":
        quantising = reporter.stage("convert to fp16", 1)
        model = halve(source.read_model(), version=source.version)
    else:
        good = load_sample(images.training, manifest.input, seed, CALIBRATION_IMAGES)
        measuring = reporter.stage("measure ranges for int8", 2 * len(good))
        quantising = reporter.stage("convert to int8", 1)
        model = quantise(
            source.read_model(),
            good,
            version=source.version,
            seed=seed,
            threads=options.session.threads,
            on_measured=lambda done: measuring(done, ""),
        )
    golden, parity = own_golden(model, source.golden, options, TOLERANCES[request.precision])
    quantising(1, f"largest difference between batch sizes {parity.measured:.1e}")
    if not parity.measured <= parity.tolerance:
        raise NotConvertible(
            source.version,
            f"the results of the new graph differ by {parity.measured:.1e} between batch sizes, expected at most "
            f"{parity.tolerance:g}",
        )
    explanation, origins = kept_explanation(source, model)
    draft = ManifestDraft(
        **manifest.model_dump(include=_KEPT),
        explanation=explanation,
        precision=request.precision,
        parity=parity,
        converted_from=source.digest,
        calibrated_on=calibrated_on(parity.provider),
        libraries=installed_libraries(),
        git_revision=git_revision(),
        created_at=datetime.now(UTC),
    )
    model = with_metadata(model, draft)
    sizes = [read_size(path) for path in images.training]
    card = certify(model, draft, images.held_out, sizes, seed, options, reporter)
    card = card.model_copy(update={"group_shift": source.card.group_shift})
    before, after = _source_sanity(source, images, options, reporter), card.sanity
    assert after is not None  # it has just been measured
    draft = _judged(draft, sanity_losses(before, after), request)
    evaluations = None
    assert source.images is not None  # the images were found by it
    if request.test is not None:
        reference = evaluate_bundle(source.path, request.test, options, reporter)
        trial = evaluate_trial(draft, model, card, golden, source.images, request.test, options, reporter)
        draft = _judged(draft.model_copy(update={"evaluation": trial.figures}), auroc_losses(reference, trial), request)
        evaluations = reference, trial
    bundle = write_bundle(
        request.models,
        draft=draft,
        model=model,
        card=card,
        golden=golden,
        images=source.images,
        origins=origins,
    )
    if evaluations is not None:  # the trial bundle has no figures in its manifest and therefore another version
        evaluations = evaluations[0], replace(evaluations[1], version=bundle.version)
    return Converted(bundle, (before, after), evaluations)


def kept_explanation(source: Bundle, model: bytes) -> tuple[Explanation | None, Origins | None]:
    """Return what explains the maps of a converted graph: tensors, distances and prototypes are those of the source.

    Args:
        source: The fp32 bundle.
        model: The converted graph.

    Returns:
        The tensors that explain the map, and the origins of the prototypes; None for what the source has not, and for
        both if the contributions do not add up to the map of the converted graph.
    """
    explanation = source.manifest.explanation
    if explanation is None:
        return None, None
    for sample in source.golden:
        if problem := explanation_problem(model, explanation, sample.image):
            _log.warning("The bundle will not explain its anomaly maps: %s", problem)
            return None, None
    return explanation, source.read_origins()


def own_golden(
    model: bytes, samples: Sequence[GoldenSample], options: InspectorOptions, tolerance: float
) -> tuple[list[GoldenSample], Parity]:
    """Compute the golden maps of a graph itself, one image at a time.

    Args:
        model: The graph.
        samples: Samples with the images to use.
        options: How to run it.
        tolerance: Tolerance of the parity certificate.

    Returns:
        The samples with the graph's maps, and a certificate with the largest relative difference of larger batches.
    """
    session = GraphSession(model, options.session)
    try:
        golden = []
        for sample in samples:
            output = session.run(sample.image[None])
            gain = None if output.gains is None else float(output.gains[0])
            golden.append(GoldenSample(sample.image, output.maps[0].copy(), gain))
        measured = max(golden_differences(session, golden, BATCH_SIZES))
        return golden, Parity(tolerance=tolerance, measured=measured, provider=session.provider)
    finally:
        session.close()


def sanity_losses(before: SanityFigures, after: SanityFigures) -> list[str]:
    """Return how much worse a graph finds synthetic anomalies, in words; empty if the difference is accepted.

    Args:
        before: Figures of the fp32 graph.
        after: Figures of the new graph, on the same images.
    """
    pairs = (
        ("the image AUROC on synthetic anomalies", before.image_auroc, after.image_auroc),
        ("the pixel AUROC on synthetic anomalies", before.pixel_auroc, after.pixel_auroc),
    )
    losses = [_loss(*pair, MAX_SANITY_LOSS) for pair in pairs if pair[1] - pair[2] > MAX_SANITY_LOSS]
    return losses + ([] if weaknesses(before) else weaknesses(after))


def auroc_losses(before: Evaluation, after: Evaluation) -> list[str]:
    """Return how much lower the image AUROC on the test split is, in words; empty if the difference is accepted.

    Args:
        before: Evaluation of the fp32 bundle.
        after: Evaluation of the new bundle on the same images.
    """
    old, new = before.figures["image_auroc"], after.figures["image_auroc"]
    lost = old - new > MAX_AUROC_LOSS
    return [_loss("the image AUROC on the test split", old, new, MAX_AUROC_LOSS)] if lost else []


def _judged(draft: ManifestDraft, losses: list[str], request: Request) -> ManifestDraft:
    """Refuse the graph for its losses, or record them in the manifest if that is allowed."""
    if losses and not request.allow_weak:
        raise PrecisionLoss(losses)
    training = draft.training.model_copy(update={"weak": draft.training.weak + losses})
    return draft.model_copy(update={"training": training})


def _loss(name: str, old: float, new: float, limit: float) -> str:
    return f"{name} falls from {100 * old:.2f} % to {100 * new:.2f} %, by more than {100 * limit:g} points"


def _find_images(source: Bundle, data: Path, reporter: Reporter) -> SourceImages:
    bars: list[Advance] = []  # the number of files is known after the first one

    def progress(done: int, total: int) -> None:
        if not bars:
            bars.append(reporter.stage("look up the good images", total))
        bars[0](done, "")

    return find_source_images(source, data, progress)


def _source_sanity(
    source: Bundle, images: SourceImages, options: InspectorOptions, reporter: Reporter
) -> SanityFigures:
    """Measure the figures of the fp32 graph on the same synthetic anomalies, in the same environment."""
    manifest = source.manifest
    measurer = Measurer(
        GraphSession(source.read_model(), options.session), manifest.input, manifest.score_rule, options
    )
    paths = images.held_out.paths
    advance = reporter.stage("check the fp32 graph", sample_size(measurer, paths))
    try:
        return measure_sanity(measurer, paths, manifest.training.seed, lambda done: advance(done, ""))
    finally:
        measurer.close()
