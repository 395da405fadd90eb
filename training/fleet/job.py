"""The training of one product of a fleet, on whatever machine it runs."""

from __future__ import annotations

import logging
import resource
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from service.bundle.bundle import Bundle
from service.errors import PlumblineError
from service.inspection.inspector import Inspector
from training.claims import claimed
from training.dataset import scan_test
from training.evaluate import Evaluation, evaluate
from training.files import write_text
from training.fit import CHECKPOINT_NAME, Progress
from training.fleet.results import Result, bundle_of, identify, is_done, read_result, report_file, write_result
from training.pipeline import Reporter, Request, Trained, inspector_options
from training.report.origin import gather_origin
from training.report.page import no_test_split, write_report
from training.resumption import continue_or_restart

LOCK = "lock"
UNEXPECTED = "error.txt"

Outcome = Result | Literal["busy", "interrupted"]
"""The result; or "busy" if another process works on the product, "interrupted" if a later start continues it."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """A product to train.

    Attributes:
        request: How. Its checkpoint is in `folder`.
        folder: Folder of the product's results.
        started_at: When the fleet was started, seconds since 1970. A failure after it is not tried again.
    """

    request: Request
    folder: Path
    started_at: float

    @property
    def product(self) -> str:
        """Name of the product."""
        return self.request.product


def run_job(job: Job, reporter: Reporter, should_stop: Callable[[Progress], bool] = lambda _: False) -> Outcome:
    """Train a product if that is not done yet, store its result and write its report.

    No failure of the training is raised: it is the result.

    Args:
        job: What to do.
        reporter: Shows the progress.
        should_stop: See `training.pipeline.train`.

    Raises:
        OSError: The result cannot be stored.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    with claimed(job.folder / LOCK, wait=False) as ours:
        return _run(job, reporter, should_stop) if ours else "busy"


def stored_result(job: Job) -> Result | None:
    """Return the stored result of the job's images and settings, None without one.

    Raises:
        OSError: The folder of the images cannot be read.
    """
    return read_result(job.folder, identify(job.request))


def is_ended(job: Job, result: Result | None) -> bool:
    """Return whether nothing is left to do in this fleet: the product is done, or failed since the start."""
    if result is not None and result.error is not None:
        return result.ended_at >= job.started_at
    return is_done(job.request, job.folder, result)


def _run(job: Job, reporter: Reporter, should_stop: Callable[[Progress], bool]) -> Outcome:
    started, identity = time.monotonic(), None
    try:
        identity = identify(job.request)
        stored = read_result(job.folder, identity)
        if stored is not None and is_ended(job, stored):  # another process was faster
            return stored
        return _train(job, identity, stored, reporter, should_stop)
    except KeyboardInterrupt:
        return "interrupted"
    except PlumblineError as failure:
        reason = failure.detail
    except OSError as failure:
        reason = f"{failure.filename or 'The system'}: {failure.strerror or failure}"
    except Exception as failure:
        log.exception("The training of %s failed unexpectedly.", job.product)
        write_text(job.folder / UNEXPECTED, traceback.format_exc())
        reason = f"It failed unexpectedly ({type(failure).__name__}); {UNEXPECTED} in its folder has the details."
    result = Result(ended_at=time.time(), error=reason, seconds=round(time.monotonic() - started, 1), **_used())
    if identity is not None:
        write_result(job.folder, identity, result)
    return result


def _train(
    job: Job,
    identity: dict[str, Any],
    stored: Result | None,
    reporter: Reporter,
    should_stop: Callable[[Progress], bool],
) -> Result:
    """Train and write the report; a bundle whose report is missing is not trained again."""
    images = scan_test(job.request.data) if (job.request.data / "test").is_dir() else []
    request = job.request
    if {image.defective for image in images} != {True, False}:
        request = replace(request, evaluate=False)
    evaluation: Evaluation | None = None
    path = bundle_of(request, stored)
    if stored is None or path is None:
        trained = continue_or_restart(request, reporter, should_stop)
        stored, bundle, evaluation = _result_of(trained), trained.bundle, trained.evaluation
        write_result(job.folder, identity, stored)
    else:
        bundle = Bundle.load(path)
    inspector = Inspector.load(bundle.path, inspector_options(request.config.threads))
    try:
        if request.evaluate and evaluation is None:
            advance = reporter.stage("evaluate", len(images))
            evaluation = evaluate(inspector, images, lambda done: advance(done, ""), data=request.data)
        origin = gather_origin(bundle, request.run_dir)
        report = report_file(job.folder, bundle.version)
        write_report(evaluation, inspector, report, origin, unmeasured=no_test_split(request.data))
    finally:
        inspector.close()
    (request.run_dir / CHECKPOINT_NAME).unlink(missing_ok=True)  # tens of megabytes, and no longer needed
    return stored


def _result_of(trained: Trained) -> Result:
    bundle = trained.bundle
    figures = {} if trained.evaluation is None else dict(trained.evaluation.figures)
    if (sanity := bundle.card.sanity) is not None:
        figures |= {"sanity_images": sanity.image_auroc, "sanity_pixels": sanity.pixel_auroc}
    return Result(
        ended_at=time.time(),
        version=bundle.version,
        seconds=round(trained.seconds, 1),
        images=len(trained.data.train),
        held_out=len(bundle.card.scores),
        weak=tuple(bundle.manifest.training.weak),
        figures=figures,
        **{**_used(), "cpu_seconds": round(trained.cpu_seconds, 1)},
    )


def _used() -> dict[str, Any]:
    """Return processor time and peak memory of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    unit = 1 if sys.platform == "darwin" else 1024
    return {"cpu_seconds": round(used.ru_utime + used.ru_stime, 1), "peak_bytes": used.ru_maxrss * unit}
