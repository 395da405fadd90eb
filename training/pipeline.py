"""The training pipeline: images of good parts, network, graph, calibration card, bundle."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from service.bundle.bundle import Bundle
from service.bundle.card import GroupShift
from service.bundle.manifest import PRODUCT_NAME, InputGeometry, ManifestDraft, ScoreRule, Tiling, TrainingRecord
from service.bundle.origins import Origins
from service.bundle.writer import write_bundle
from service.inspection.capture_groups import GroupChoice
from service.inspection.inspector import InspectorOptions
from service.inspection.runtime.batching import BatchingOptions
from service.inspection.runtime.session import RequestedProvider, SessionOptions
from training.cached_views import augmented
from training.certification import HeldOut, TestSplit, certify, evaluate_trial
from training.coarse_features import CoarseFeatures
from training.config import FitConfig
from training.dataset import GROUPED_BY, DataSet, TestImage, read_size, require_jpeg, scan
from training.device import resolve_device
from training.errors import InvalidOption, TooFewIterations, WeakBundle
from training.evaluate import Evaluation
from training.export import PROBES, Exported, Probes, export, with_metadata
from training.fit import Progress, fit, load_teachers, untrained, warm_up_ends
from training.group_shift import ENOUGH_GROUPS, choose_images, estimate_shift
from training.image_check.check import check_images, describe_suspected
from training.image_limits import image_limits
from training.masks import read_mask
from training.methods import fit_config
from training.methods.base import Method
from training.origins import collect_origins
from training.places import ViewPlace
from training.provenance import calibrated_on, git_revision, installed_libraries
from training.run_record import CurvePoint, record_run
from training.sanity import weaknesses
from training.split import MAX_REFERENCE_IMAGES
from training.tiles import load_for_training, load_sample

Advance = Callable[[int, str], None]  # the items done so far, and a note


class Reporter(Protocol):
    """Shows the progress of the pipeline."""

    def note(self, text: str) -> None:
        """Show a line of text."""

    def stage(self, title: str, total: int) -> Advance:
        """Begin a stage of `total` items and return the function to call after each item."""


@dataclass(frozen=True)
class Request:
    """A product to train.

    Attributes:
        data: MVTec-layout folder or folder of good images.
        product: Name in the model repository.
        models: The model repository.
        run_dir: Folder of the checkpoint.
        config: Settings of the network and its training.
        held_out_fraction: Share of good images for the calibration card.
        groups: The property that separates the capture groups, which are held out as a whole.
        allow_weak: Write the bundle even if the network is not usable; the reasons are recorded in the manifest.
        resume: Continue from the checkpoint.
        evaluate: Also measure the bundle on the test split and write the figures to the manifest.
        exclude: Names of good images to leave out, see `training.exclusion`.
        checked: Whether a run before it has checked the same images; then it is not done again.
        precedes_full: Whether the whole training of the same images follows, which needs more of them than a method
            without training steps; too few are refused here already.
    """

    data: Path
    product: str
    models: Path
    run_dir: Path
    config: FitConfig
    held_out_fraction: float = 0.2
    groups: GroupChoice = "auto"
    allow_weak: bool = False
    resume: bool = False
    evaluate: bool = False
    exclude: tuple[str, ...] = ()
    checked: bool = False
    precedes_full: bool = False

    def __post_init__(self) -> None:
        if not PRODUCT_NAME.fullmatch(self.product):
            expected = "1 to 64 of a-z, 0-9, - and _, beginning with a letter or digit"
            raise InvalidOption("The product name", repr(self.product), expected)


@dataclass(frozen=True)
class Trained:
    """The result of `train`.

    Attributes:
        bundle: The bundle that was written.
        data: The images of the product.
        evaluation: The measurement on the test split, if it was requested.
        seconds: Wall time from images to calibrated graph, without the evaluation.
        cpu_seconds: Processor time of the same.
    """

    bundle: Bundle
    data: DataSet
    evaluation: Evaluation | None
    seconds: float
    cpu_seconds: float

    def require_evaluation(self) -> Evaluation:
        """Return the evaluation.

        Raises:
            ValueError: It was not requested.
        """
        if self.evaluation is None:
            raise ValueError("the request for the training did not ask for an evaluation (Request.evaluate)")
        return self.evaluation


def train(
    request: Request,
    reporter: Reporter,
    should_stop: Callable[[Progress], bool] = lambda _: False,
    on_checked: Callable[[DataSet, Sequence[Path]], None] = lambda _, __: None,
) -> Trained:
    """Train, export, verify, calibrate and write a bundle.

    Args:
        request: The product to train.
        reporter: Shows the progress.
        should_stop: Called after every training step. If it returns True, the checkpoint is written and the run ends
            with `KeyboardInterrupt`; with `Request.resume` a later run continues there.
        on_checked: Called with the images and those that may show a defect, if they are checked.

    Raises:
        PlumblineError: Subclasses name what was wrong. The model repository then holds no new bundle.
        KeyboardInterrupt: `should_stop` returned True.
    """
    started, cpu_started = time.monotonic(), time.process_time()
    # The manifest records the device that is used, so that "auto" and "cpu" give the same bundle on a CPU.
    config = replace(request.config, device=resolve_device(request.config.device))
    method = untrained(config)  # wrong settings and missing weights are reported before images are read
    if not method.learns:
        config = replace(config, iterations=0, pseudo_share=0.0)
    weak = _check_iterations(config, method, allow_weak=request.allow_weak)
    data = scan(
        request.data,
        held_out_fraction=request.held_out_fraction,
        seed=config.seed,
        groups=request.groups,
        few=not (method.learns or request.precedes_full),
        exclude=request.exclude,
    )
    reporter.note(describe_counts(data))
    reporter.note(describe_groups(data, request.groups))
    if request.evaluate:
        _check_test_split(request.data, data.test)
    # A folder that cannot be written is reported before the training.
    (request.models / request.product).mkdir(parents=True, exist_ok=True)
    tiling = None if config.overlap is None else Tiling(overlap=config.overlap, scale=config.scale)
    jpeg: Literal["full", "scaled"] = "scaled" if config.scaled_decoding else "full"
    geometry = InputGeometry(height=config.input_size, width=config.input_size, tiling=tiling, jpeg=jpeg)
    if config.scaled_decoding:
        require_jpeg((*data.train, *data.held_out))
    request = replace(request, config=config)
    group_shift = _examine(data, request, reporter, on_checked)
    sizes: list[tuple[int, int]] = []
    curve: list[CurvePoint] = []
    method, exported, origins = _fit_and_export(request, method, data, geometry, sizes, curve, reporter, should_stop)
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
            selected=method.selected,
        ),
        libraries=installed_libraries(),
        git_revision=git_revision(),
        created_at=datetime.now(UTC),
        explanation=exported.explanation,
    )
    model = with_metadata(exported.model, draft)
    options = inspector_options(config.threads)
    held_out = HeldOut(data.held_out, data.sessions, data.grouped_by)
    card = certify(model, draft, held_out, sizes, config.seed, options, reporter)
    card = card.model_copy(update={"group_shift": group_shift})
    assert card.sanity is not None  # it has just been measured
    weak += weaknesses(card.sanity)
    if weak and not request.allow_weak:
        raise WeakBundle(weak)
    training = draft.training.model_copy(update={"weak": weak})
    draft = draft.model_copy(update={"training": training, "calibrated_on": calibrated_on(card.provider)})
    seconds, cpu_seconds = time.monotonic() - started, time.process_time() - cpu_started
    evaluation = None
    if request.evaluate:
        test, golden = TestSplit(data.root, data.test), exported.golden
        evaluation = evaluate_trial(draft, model, card, golden, data.hashes, test, options, reporter)
        draft = draft.model_copy(update={"evaluation": evaluation.figures})
    bundle = write_bundle(
        request.models,
        draft=draft,
        model=model,
        card=card,
        golden=exported.golden,
        images=data.hashes,
        origins=origins,
    )
    # The trial bundle has no figures in its manifest and therefore another version.
    evaluation = evaluation and replace(evaluation, version=bundle.version)
    record_run(request.run_dir, bundle, data, curve)
    return Trained(bundle, data, evaluation, seconds, cpu_seconds)


def describe_counts(data: DataSet) -> str:
    """Return one line about the number of good images that were found and what each part of them is used for."""
    left_out = [
        f"{count} {reason}"
        for count, reason in ((len(data.duplicates), "duplicate(s)"), (len(data.excluded), "excluded"))
        if count
    ]
    used, reference = len(data.train) + len(data.held_out), len(data.reference)
    return (
        f"Good images: {used + len(data.duplicates) + len(data.excluded)} found"
        + (f", {' and '.join(left_out)} not used" if left_out else "")
        + f". {len(data.fitted)} are learnt from; {reference} are the reference, on which the map is adjusted; "
        f"{len(data.held_out)} are held out to calibrate the thresholds. The three sets share no image, because "
        "images that were learnt from have lower scores than new ones."
    )


def describe_groups(data: DataSet, choice: GroupChoice = "auto") -> str:
    """Return one line about the capture groups that were found and how they are used."""
    names = sorted(set(data.grouping.names))
    if choice == "none":
        return "Groups: not used (--groups none). All images count as one capture session."
    if data.grouping.grouped_by == "none":
        return (
            "Groups: none found (no dates in names, sub-folders, or common prefixes of file names). All images count "
            "as one capture session. Sort images of different days or lots into sub-folders to calibrate across them."
        )
    listed = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
    used = (
        f"{len(data.groups)} are held out as a whole for the thresholds"
        if data.grouped_by != "none"
        else "they are too large to hold out as a whole, so single images are held out"
    )
    return (
        f"Groups: {len(names)} by {GROUPED_BY[data.grouping.grouped_by]} ({listed}); {used}. "
        "--groups folder|date|prefix|none chooses others."
    )


def inspector_options(threads: int | None, provider: RequestedProvider = "auto") -> InspectorOptions:
    """Return the service's options for offline work: no micro-batching, and a deadline that is never reached."""
    offline = BatchingOptions(max_batch=1, queue_limit=4, deadline_s=600.0)
    session = SessionOptions(provider=provider, threads=threads)
    return InspectorOptions(session=session, batching=offline, limits=image_limits())


def _fit_and_export(
    request: Request,
    method: Method,
    data: DataSet,
    geometry: InputGeometry,
    sizes: list[tuple[int, int]],
    curve: list[CurvePoint],
    reporter: Reporter,
    should_stop: Callable[[Progress], bool],
) -> tuple[Method, Exported, Origins | None]:
    config = request.config
    reading = reporter.stage("read images", len(data.fitted))
    for path in data.held_out:
        read_size(path)  # they are decoded after the training: a file that is not an image is reported now
    # The constants of the map must be measured neither on held-out images, which certify the threshold, nor on images
    # that the network was trained on, where its distances are smaller.
    places: list[ViewPlace] = []
    images = load_for_training(
        data.fitted, geometry, config.seed, lambda done: reading(done, ""), sizes=sizes, places=places
    )
    reference = load_sample(data.reference, geometry, config.seed, MAX_REFERENCE_IMAGES, sizes)
    training = reporter.stage("train", config.iterations)
    measuring = reporter.stage("build the anomaly map", 2)
    method = fit(
        images,
        reference,
        config,
        request.run_dir,
        method=method,
        resume=request.resume,
        on_progress=lambda progress: training(progress.step, _note(progress)),
        on_measured=lambda done: measuring(done, "adjusting it to good images, a minute or two" if done == 1 else ""),
        on_curve=curve.extend,
        should_stop=should_stop,
    )
    exporting = reporter.stage("export and compare", 1)
    good = load_sample(data.held_out, geometry, config.seed, PROBES)
    exported = export(method, Probes.draw(good, method.branch_flipping_inputs(good), config.seed))
    exporting(1, f"largest difference {exported.parity.measured:.1e}")
    origins = collect_origins(
        method,
        exported.explanation,
        augmented(images, config),
        places,
        data.fitted,
        sizes[: len(data.fitted)],
        data.root,
        is_augmented=config.augment != "none",
    )
    return method, exported, origins


def _examine(
    data: DataSet, request: Request, reporter: Reporter, on_checked: Callable[[DataSet, Sequence[Path]], None]
) -> GroupShift | None:
    """Name good images that may show a defect, and estimate the shift between groups if too few are held out."""
    if request.config.threads is not None:
        torch.set_num_threads(request.config.threads)
    paths = [*data.train, *data.held_out]
    features = CoarseFeatures(load_teachers(request.config)[0])
    if not request.checked:
        checking = reporter.stage("check the good images", len(paths))
        check = check_images(features, paths, lambda done: checking(done, ""))
        if (warning := describe_suspected(check, data)) is not None:
            reporter.note(warning)
        on_checked(data, check.suspected)
    held_out_groups = 0 if data.grouped_by == "none" else len(data.groups)
    images = choose_images(paths, data.grouping.names)
    if held_out_groups >= ENOUGH_GROUPS or not images:
        return None
    comparing = reporter.stage("compare the groups", len(images))
    return estimate_shift(features, images, lambda done: comparing(done, ""))


def _note(progress: Progress) -> str:
    minutes, seconds = divmod(round(progress.eta_s), 60)
    loss, rate = progress.losses["loss"], progress.images_per_second
    return f"{minutes}:{seconds:02d} left · loss {loss:.4f} · {rate:.0f} images/s"


def _check_iterations(config: FitConfig, method: Method, *, allow_weak: bool) -> list[str]:
    """Refuse a training that ends within a warm-up, or return that as the reason why the bundle is weak."""
    minimum = warm_up_ends(config, method.stages)
    if not method.learns or config.iterations >= minimum:
        return []
    if not allow_weak:
        raise TooFewIterations(config.iterations, minimum, fit_config(config.method).iterations)
    return [f"{config.iterations} training steps end within the warm-up of the learning rate"]


def _check_test_split(folder: Path, test: Sequence[TestImage]) -> None:
    """Check images and masks before the training, so that the evaluation after it does not fail."""
    if {image.defective for image in test} != {True, False}:
        raise InvalidOption(
            "--evaluate", "given", f"a test split with good and defective images in {folder} (test/good, test/<defect>)"
        )
    for image in test:
        read_mask(image.mask, read_size(image.path))


def _shareable(config: FitConfig) -> dict[str, Any]:
    """Return the settings as JSON values, without paths of the training machine."""
    settings = config.as_json()
    settings["teacher_weights"] = [path.name for path in config.teacher_weights]
    return settings
