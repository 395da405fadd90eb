"""The calibration card and the evaluation of an exported graph, with the code that serves it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from service.bundle.card import CalibrationCard, GroupedBy
from service.bundle.golden import GoldenSample
from service.bundle.images import ImageHashes
from service.bundle.manifest import ManifestDraft
from service.bundle.writer import write_bundle
from service.inspection.inspector import Inspector, InspectorOptions, Measurer
from service.inspection.runtime.session import GraphSession
from training.calibrate import calibrate
from training.dataset import TestImage
from training.evaluate import Evaluation, evaluate
from training.sanity import measure_sanity, sample_size

if TYPE_CHECKING:  # the pipeline imports this module
    from training.pipeline import Reporter


@dataclass(frozen=True)
class HeldOut:
    """The images of the calibration card.

    Attributes:
        paths: Good images that training did not use.
        sessions: The session of each image, see `DataSet.sessions`.
        grouped_by: The property that separates the sessions.
    """

    paths: Sequence[Path]
    sessions: Sequence[str]
    grouped_by: GroupedBy


@dataclass(frozen=True)
class TestSplit:
    """Labelled test images.

    Attributes:
        root: Their folder, in the layout of MVTec AD.
        images: The images.
    """

    __test__ = False  # pytest would collect the class by its name

    root: Path
    images: Sequence[TestImage]


def certify(
    model: bytes,
    draft: ManifestDraft,
    held_out: HeldOut,
    sizes: Sequence[tuple[int, int]],
    seed: int,
    options: InspectorOptions,
    reporter: Reporter,
) -> CalibrationCard:
    """Calibrate a graph on held-out good images and check it with synthetic anomalies, with the code that serves it.

    Args:
        model: The ONNX graph.
        draft: The manifest of its bundle.
        held_out: Good images that training did not use.
        sizes: Width and height of the training images, in pixels.
        seed: Seed of the synthetic anomalies.
        options: How to run the graph.
        reporter: Shows the progress.

    Returns:
        The calibration card, with the sanity figures and without a shift between groups.
    """
    measurer = Measurer(GraphSession(model, options.session), draft.input, draft.score_rule, options)
    calibrating = reporter.stage("calibrate", len(held_out.paths))
    try:
        card = calibrate(
            measurer,
            held_out.paths,
            held_out.sessions,
            held_out.grouped_by,
            lambda done: calibrating(done, ""),
            training_sizes=sizes,
        )
        checking = reporter.stage("check with synthetic anomalies", sample_size(measurer, held_out.paths))
        sanity = measure_sanity(measurer, held_out.paths, seed, lambda done: checking(done, ""))
    finally:
        measurer.close()
    return card.model_copy(update={"sanity": sanity})


def evaluate_trial(
    draft: ManifestDraft,
    model: bytes,
    card: CalibrationCard,
    golden: Sequence[GoldenSample],
    images: ImageHashes,
    test: TestSplit,
    options: InspectorOptions,
    reporter: Reporter,
) -> Evaluation:
    """Evaluate a temporary bundle: a bundle is never changed, so its figures must exist before it is written.

    Args:
        draft: The manifest, see `write_bundle`.
        model: The graph.
        card: The calibration card.
        golden: The golden samples.
        images: The images that the bundle is made from.
        test: The test split.
        options: How to run the graph.
        reporter: Shows the progress.
    """
    with tempfile.TemporaryDirectory() as folder:
        trial = write_bundle(Path(folder), draft=draft, model=model, card=card, golden=golden, images=images)
        return evaluate_bundle(trial.path, test, options, reporter)


def evaluate_bundle(path: Path, test: TestSplit, options: InspectorOptions, reporter: Reporter) -> Evaluation:
    """Open a bundle as the service does and evaluate it on a test split."""
    inspector = Inspector.load(path, options)
    evaluating = reporter.stage("evaluate", len(test.images))
    try:
        return evaluate(inspector, test.images, lambda done: evaluating(done, ""), data=test.root)
    finally:
        inspector.close()
