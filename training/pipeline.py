"""A product's whole way: images of good parts -> network -> graph -> calibration card -> bundle."""

import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from service.bundle.bundle import Bundle
from service.bundle.card import CalibrationCard
from service.bundle.manifest import PRODUCT_NAME, InputGeometry, ManifestDraft, ScoreRule, Tiling, TrainingRecord
from service.bundle.writer import write_bundle
from service.inspection.decoding.decoder import read_header
from service.inspection.inspector import Inspector, InspectorOptions, Measurer
from service.inspection.runtime.batching import BatchingOptions
from service.inspection.runtime.session import GraphSession, RequestedProvider, SessionOptions
from training.calibrate import calibrate, named_failures
from training.config import FitConfig
from training.dataset import DataSet, TestImage, UInt8Images, read_mask, scan
from training.errors import InvalidOption
from training.evaluate import Evaluation, evaluate
from training.export import Exported, Probes, export, with_metadata
from training.fit import Progress, fit
from training.methods.base import Method
from training.tiles import load_for_training

# What decides the numbers in a bundle.
_LIBRARIES = (
    *("plumbline", "torch", "torchvision", "onnx", "onnxscript", "onnxruntime-gpu", "onnxruntime"),
    *("numpy", "opencv-python-headless", "pillow", "simplejpeg"),
)

# Training images on which the constants of the map are measured: this share, but no more than enough.
REFERENCE_SHARE = 0.1
LEAST_REFERENCE_IMAGES, MOST_REFERENCE_IMAGES = 3, 64

Advance = Callable[[int, str], None]  # how far a stage is, and a note to show beside


class Reporter(Protocol):
    """Shows how far the work is."""

    def stage(self, title: str, total: int) -> Advance:
        """Begin a stage of `total` items; the answer is called after each."""


@dataclass(frozen=True)
class Request:
    """What to train, on what, and where to put it.

    Attributes:
        data: MVTec-layout folder or folder of good images.
        product: Name in the model repository.
        models: The model repository.
        run_dir: Holds the checkpoint while training.
        config: Settings of the network and its training.
        held_out_fraction: Share of good images for the calibration card.
        resume: Go on from the checkpoint.
        evaluate: Also measure on the test split and put the figures into the manifest.
    """

    data: Path
    product: str
    models: Path
    run_dir: Path
    config: FitConfig
    held_out_fraction: float = 0.2
    resume: bool = False
    evaluate: bool = False

    def __post_init__(self) -> None:
        if not PRODUCT_NAME.fullmatch(self.product):
            expected = "1 to 64 of a-z, 0-9, - and _, beginning with a letter or digit"
            raise InvalidOption("The product name", repr(self.product), expected)


@dataclass(frozen=True)
class Trained:
    """What came out."""

    bundle: Bundle
    data: DataSet
    evaluation: Evaluation | None


def train(request: Request, reporter: Reporter) -> Trained:
    """Fit, export, check, calibrate and write a bundle.

    Raises:
        PlumblineError: Of many kinds, each naming what was wrong; nothing is left in the model repository.
    """
    started = time.monotonic()
    config = request.config
    data = scan(request.data, held_out_fraction=request.held_out_fraction, seed=config.seed)
    if request.evaluate:
        _check_test_split(request.data, data.test)
    # Before the long part, so that a folder that cannot be written is noticed now.
    (request.models / request.product).mkdir(parents=True, exist_ok=True)
    tiling = None if config.overlap is None else Tiling(overlap=config.overlap, scale=config.scale)
    geometry = InputGeometry(height=config.input_size, width=config.input_size, tiling=tiling)
    method, exported = _fit_and_export(request, data, geometry, reporter)
    draft = ManifestDraft(
        product=request.product,
        method=config.method,
        teachers=method.teachers,
        input=geometry,
        map_height=exported.map_hw[0],
        map_width=exported.map_hw[1],
        score_rule=ScoreRule(fraction=config.score_fraction),
        parity=exported.parity,
        training=TrainingRecord(
            images=len(data.train),
            held_out=len(data.held_out),
            fingerprint=data.fingerprint,
            seed=config.seed,
            iterations=config.iterations,
            seconds=round(time.monotonic() - started, 1),
            config=_shareable(config),
        ),
        libraries=_installed(),
        git_revision=_git_revision(),
        created_at=datetime.now(UTC),
    )
    model = with_metadata(exported.model, draft)
    card = _calibrate(model, draft, data, config, reporter)
    evaluation = None
    if request.evaluate:
        evaluation = _evaluate_staged(model, draft, card, exported, data, config, reporter)
        draft = draft.model_copy(update={"evaluation": evaluation.figures})
    bundle = write_bundle(request.models, draft=draft, model=model, card=card, golden=exported.golden)
    # The trial bundle that was evaluated differs from the written one in the figures alone, and so in its version.
    return Trained(bundle, data, evaluation and replace(evaluation, version=bundle.version))


def set_aside(images: UInt8Images) -> tuple[UInt8Images, UInt8Images]:
    """Splits good images, uint8 `[N, S, S, 3]`, into those to train on and the reference for the map's constants."""
    wanted = round(len(images) * REFERENCE_SHARE)
    count = min(max(wanted, LEAST_REFERENCE_IMAGES), MOST_REFERENCE_IMAGES, len(images) // 2)
    chosen = np.zeros(len(images), np.bool_)
    # Evenly through the list: names often follow time, and every part of it should have a say.
    chosen[np.linspace(0, len(images), count, endpoint=False).astype(np.intp)] = True
    return images[~chosen], images[chosen]


def inspector_options(threads: int | None, provider: RequestedProvider = "auto") -> InspectorOptions:
    """The service's options for work that waits for nobody: no deadline worth the name."""
    patient = BatchingOptions(max_batch=1, queue_limit=4, deadline_s=600.0)
    return InspectorOptions(session=SessionOptions(provider=provider, threads=threads), batching=patient)


def _fit_and_export(
    request: Request, data: DataSet, geometry: InputGeometry, reporter: Reporter
) -> tuple[Method, Exported]:
    config = request.config
    reading = reporter.stage("read images", len(data.train) + len(data.held_out))
    images = load_for_training(data.train, geometry, config.seed, lambda done: reading(done, ""))
    held_out = load_for_training(data.held_out, geometry, config.seed, lambda done: reading(len(data.train) + done, ""))
    # The held-out images certify the threshold, so nothing of the score may be measured on them, however little; and
    # a network's distances to what it has learnt are smaller than to what it has not.
    images, reference = set_aside(images)
    training = reporter.stage("train", config.iterations)
    measuring = reporter.stage("measure the map's constants", 2)
    method = fit(
        images,
        reference,
        config,
        request.run_dir,
        resume=request.resume,
        on_progress=lambda progress: training(progress.step, _note(progress)),
        on_measured=lambda done: measuring(done, "a minute or two" if done == 1 else ""),
    )
    exporting = reporter.stage("export and compare", 1)
    probes = Probes.draw(held_out, np.empty((0, *held_out.shape[1:]), np.uint8), config.seed)
    probes = Probes(probes.good, probes.pseudo, method.branch_flipping_inputs(probes.good))
    exported = export(method, probes)
    exporting(1, f"largest difference {exported.parity.measured:.1e}")
    return method, exported


def _note(progress: Progress) -> str:
    minutes, seconds = divmod(round(progress.eta_s), 60)
    loss, rate = progress.losses["loss"], progress.images_per_second
    return f"loss {loss:.4f} · {rate:.0f} images/s · {minutes}:{seconds:02d} left"


def _calibrate(
    model: bytes, draft: ManifestDraft, data: DataSet, config: FitConfig, reporter: Reporter
) -> CalibrationCard:
    options = inspector_options(config.threads)
    measurer = Measurer(GraphSession(model, options.session), draft.input, draft.score_rule, options)
    calibrating = reporter.stage("calibrate", len(data.held_out))
    try:
        return calibrate(measurer, data.held_out, data.sessions, data.grouped_by, lambda done: calibrating(done, ""))
    finally:
        measurer.close()


def _evaluate_staged(
    model: bytes,
    draft: ManifestDraft,
    card: CalibrationCard,
    exported: Exported,
    data: DataSet,
    config: FitConfig,
    reporter: Reporter,
) -> Evaluation:
    """A manifest is written once, so the figures that go into it come from a trial bundle."""
    with tempfile.TemporaryDirectory() as folder:
        staged = write_bundle(Path(folder), draft=draft, model=model, card=card, golden=exported.golden)
        return evaluate_bundle(staged.path, data.test, reporter, inspector_options(config.threads))


def evaluate_bundle(
    path: Path, images: Sequence[TestImage], reporter: Reporter, options: InspectorOptions
) -> Evaluation:
    """Open a bundle as the service does and evaluate it."""
    inspector = Inspector.load(path, options)
    evaluating = reporter.stage("evaluate", len(images))
    try:
        return evaluate(inspector, images, lambda done: evaluating(done, ""))
    finally:
        inspector.close()


def _check_test_split(folder: Path, test: Sequence[TestImage]) -> None:
    """What evaluation would stumble over after the training is found before it."""
    if {image.defective for image in test} != {True, False}:
        raise InvalidOption(
            "--evaluate", "given", f"a test split with good and defective images in {folder} (test/good, test/<defect>)"
        )
    for image in test:
        with named_failures(image.path):
            header = read_header(image.path.read_bytes())
        read_mask(image.mask, (header.width, header.height))


def _shareable(config: FitConfig) -> dict[str, Any]:
    """The settings without the training machine's folders."""
    settings = config.as_json()
    settings["teacher_weights"] = [path.name for path in config.teacher_weights]
    return settings


def _installed() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _git_revision() -> str | None:
    """The revision of this source tree, None outside a repository; "-dirty" where files were changed."""
    here = Path(__file__).resolve().parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        tracked = subprocess.run(
            ["git", "-C", str(here), "ls-files", "--error-unmatch", __file__],
            capture_output=True,
            check=False,
        )
        # A virtual environment inside somebody else's repository must not lend us its revision.
        if tracked.returncode != 0:
            return None
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() or None
    except (OSError, subprocess.CalledProcessError):
        return None
