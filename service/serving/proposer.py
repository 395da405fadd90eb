"""How a proposal comes about: collect scores of good images, derive the threshold, remember it. Nothing takes effect.

Good images are measured by the active bundle's own inspector, one at a time and on one thread: the line's own images
never wait behind more than one of them.
"""

from __future__ import annotations

import asyncio
import io
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC
from pathlib import PurePosixPath

import numpy as np

from service.bundle.arrays import Float32Map
from service.deployment.lease import ActiveProduct
from service.errors import BodyTooLarge, DeadlineExceeded, InvalidRequest, PlumblineError, QueueFull
from service.inspection.area import EVERYTHING
from service.inspection.capture_groups import group_images, is_defect_folder
from service.inspection.decision import Criteria, Decision, decide
from service.inspection.decoding.pixel_formats import PixelRules
from service.inspection.errors import (
    AreaMismatch,
    BufferSizeMismatch,
    CorruptImage,
    NotAnImage,
    PixelMismatch,
    TooManyPixels,
)
from service.inspection.inspector import Inspector
from service.inspection.records import PreparedImage
from service.inspection.regions import NO_FILTER
from service.proposals.derive import derive, summarise_replay
from service.proposals.records import GoodImages, ProposalOptions
from service.recipes.quality_check import check_quality
from service.recipes.recipe import Recipe
from service.schemas.proposal import MAX_GOOD_IMAGES, ChangedVerdict, Proposal, ReplayedVerdicts
from service.serving.batch import Frame
from service.serving.errors import ProposalsBusy
from service.store.errors import ArtefactGone, NotJudged
from service.store.ids import created_at, new_id
from service.store.inspections import Selection, recent_inspections, select_inspections
from service.store.proposals import add_proposal
from service.store.records import InspectionRecord, StoredProposal
from service.store.store import Store

_PATIENCE = 20
_UNUSABLE = (BodyTooLarge, TooManyPixels, NotAnImage, CorruptImage, PixelMismatch, BufferSizeMismatch)


@dataclass(frozen=True)
class Wanted:
    """A proposal that somebody wants.

    Attributes:
        wish: Rates, confidence, author.
        replay: How many of the newest inspections to decide again.
        selection: Stored inspections that are declared good; None: the calibration card.
    """

    wish: ProposalOptions
    replay: int
    selection: Selection | None = None


@dataclass(frozen=True)
class GoodImage:
    """An image that was sent: what it is called, its bytes' sha256, and its score; None where it is not judged."""

    name: str
    sha256: str
    score: float | None


class Proposer:
    """Makes proposals, one at a time.

    Args:
        store: Where inspections are read and proposals are kept.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._busy = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="proposal")

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Be the one whose images are collected and measured. Used from the event loop only.

        Raises:
            ProposalsBusy: Somebody else is.
        """
        if self._busy:
            raise ProposalsBusy
        self._busy = True
        try:
            yield
        finally:
            self._busy = False

    async def propose(self, active: ActiveProduct, wanted: Wanted) -> Proposal:
        """Collect, derive, remember.

        Args:
            active: The product's bundle and recipe.
            wanted: What is asked for.

        Raises:
            InvalidRequest: There are no good images, or too many.
            InvalidRecipe: The rates are not possible.
            UnknownInspection, ArtefactGone: A selected inspection or its image is not there.
            QueueFull, DeadlineExceeded, ShuttingDown: The images cannot be measured now.
            ProductNotReady: Another bundle was activated while they were measured.
            StoreUnavailable: The database does not answer.
        """
        return await asyncio.wrap_future(self._thread.submit(self._propose, active, wanted))

    async def propose_from(self, active: ActiveProduct, wanted: Wanted, frames: AsyncIterator[Frame]) -> Proposal:
        """Measure images of good parts as they come, derive, remember.

        Args:
            active: The product's bundle and recipe.
            wanted: What is asked for.
            frames: The images; their labels tell the days apart.

        Raises:
            InvalidRequest: An image cannot be used; it is named. Or there are none.
            InvalidRecipe, StoreUnavailable, ShuttingDown, ProductNotReady: As `propose`.
        """
        loop = asyncio.get_running_loop()
        measured: dict[str, GoodImage] = {}
        not_judged: list[str] = []
        count = 0
        async for frame in frames:
            count += 1
            measured_image = await loop.run_in_executor(self._thread, self._measure, active, frame, count)
            if measured_image.score is None:
                not_judged.append(measured_image.name)
            else:
                measured.setdefault(measured_image.sha256, measured_image)
        if not measured:
            raise InvalidRequest(
                f"None of {count} images is worth a verdict: see the recipe's quality limits."
                if not_judged
                else "The request holds no image. Send several files in the field `image`, or a zip file."
            )
        images = good_images(list(measured.values()), count - len(not_judged) - len(measured), not_judged)
        return await loop.run_in_executor(self._thread, self._derive, active, wanted, images)

    def close(self) -> None:
        """End the thread; what it is at is finished first."""
        self._thread.shutdown()

    def _propose(self, active: ActiveProduct, wanted: Wanted) -> Proposal:
        if wanted.selection is None:
            images = GoodImages.of_card(active.bundle.card)
        else:
            images = self._stored(active, wanted.selection)
        return self._derive(active, wanted, images)

    def _derive(self, active: ActiveProduct, wanted: Wanted, images: GoodImages) -> Proposal:
        product, digest = active.bundle.manifest.product, active.bundle.digest
        proposal_id = new_id()
        proposal = derive(
            images,
            wanted.wish,
            proposal_id=str(proposal_id),
            created_at=created_at(proposal_id),
            product=product,
            bundle_digest=digest,
            fail_in_force=active.recipe.recipe.fail_threshold,
            replay=lambda recipe: self._replay(active, recipe, wanted.replay),
        )
        stored = StoredProposal(proposal, tuple(sorted(images.scores)), wanted.wish.review_rate)
        add_proposal(self.store.engine, stored)
        return proposal

    def _stored(self, active: ActiveProduct, selection: Selection) -> GoodImages:
        product = active.bundle.manifest.product
        rows = select_inspections(self.store.engine, product, selection, MAX_GOOD_IMAGES + 1)
        if len(rows) > MAX_GOOD_IMAGES:
            raise InvalidRequest(
                f"The selection holds more than {MAX_GOOD_IMAGES} inspections, which is the limit. Narrow its time."
            )
        if not rows:
            raise InvalidRequest(f"The selection holds no inspection of {product!r}. Check its time and product.")
        # The same image twice is one observation, however often it was sent.
        unique = list({row.image_sha256: row for row in rows}.values())
        scored = [self._score(active, row) for row in unique]
        days = tuple(_day(row) for row in unique)
        groups = dict(sorted(Counter(days).items()))
        return GoodImages(
            kind="inspections",
            scores=tuple(score for score, _ in scored),
            days=days,
            grouped_by="captured-at",
            groups=groups,
            duplicates=len(rows) - len(unique),
            measured=sum(is_measured for _, is_measured in scored),
        )

    def _score(self, active: ActiveProduct, row: InspectionRecord) -> tuple[float, bool]:
        """The score of the whole image, a bound that holds under any ROI, also under one that is drawn later; and
        whether it was measured now.

        It is the stored one where this bundle gave it, for pixels that were read as they would be now. Else it is what
        this bundle says about the stored image.
        """
        if row.score is None:
            raise NotJudged(row.id)
        before = PixelRules.from_stored(row.image_pixels)
        rules = active.recipe.recipe.pixels.rules(before.layout)
        if row.bundle_digest == active.bundle.digest and rules == before:
            if row.judged_share is None:
                return row.score, False
            return active.inspector.score_map(self._read_map(row), (row.image_width, row.image_height)), False
        data = self.store.files.image_of(row)
        try:
            # Held for this one image: an activation need not wait for thousands of them.
            with active.held() as inspector:
                return _score_patiently(inspector, inspector.read(data, rules)), True
        except _UNUSABLE as error:
            raise _about(row.id, error) from error

    def _measure(self, active: ActiveProduct, frame: Frame, number: int) -> GoodImage:
        name = frame.label or str(number)
        if (
            folder := next((part for part in PurePosixPath(name).parts[:-1] if is_defect_folder(part)), None)
        ) is not None:
            raise InvalidRequest(
                f"{name}: the folder {folder!r} does not sound like images of good parts. Send good ones only, or "
                "give the folder another name."
            )
        if frame.refusal is not None:
            raise _about(name, frame.refusal)
        recipe = active.recipe.recipe
        try:
            with active.held() as inspector:
                measured_image = inspector.read(frame.data, recipe.pixels.rules(None))
                if check_quality(measured_image, inspector.quality_limits, recipe):
                    return GoodImage(name, measured_image.sha256, None)
                return GoodImage(name, measured_image.sha256, _score_patiently(inspector, measured_image))
        except _UNUSABLE as error:
            raise _about(name, error) from error

    def _replay(self, active: ActiveProduct, recipe: Recipe, limit: int) -> ReplayedVerdicts:
        product, digest = active.bundle.manifest.product, active.bundle.digest
        rows = recent_inspections(self.store.engine, product, digest, limit) if limit else []
        criteria = replace(active.recipe.recipe.criteria, thresholds=recipe.thresholds)
        verdicts, unknown = [], 0
        for row in rows:
            try:
                after = self._decide_again(active, row, criteria)
            except (ArtefactGone, AreaMismatch):
                unknown += 1
                continue
            verdicts.append(ChangedVerdict(id=row.id, before=row.decision, after=after.value))
        return summarise_replay(verdicts, unknown)

    def _decide_again(self, active: ActiveProduct, row: InspectionRecord, criteria: Criteria) -> Decision:
        """The verdict by other criteria: from the score where that tells it, else from the map."""
        assert row.score is not None  # only what was judged is decided again
        is_same_area = row.recipe_revision == active.recipe.revision or (
            row.judged_share is None and criteria.area == EVERYTHING
        )
        by_score = decide(row.score, criteria.thresholds)
        # Filters only soften, so a part that passes by its score passes.
        if is_same_area and (by_score is Decision.PASS or criteria.regions == NO_FILTER):
            return by_score
        image_wh = (row.image_width, row.image_height)
        return active.inspector.judge_map(self._read_map(row), image_wh, criteria).decision

    def _read_map(self, row: InspectionRecord) -> Float32Map:
        return np.asarray(np.load(io.BytesIO(self.store.files.map_of(row)), allow_pickle=False), np.float32)


def good_images(measured: Sequence[GoodImage], duplicates: int, not_judged: Sequence[str]) -> GoodImages:
    """Images that were sent, with their days as their names tell them."""
    grouping = group_images([PurePosixPath(measured_image.name) for measured_image in measured])
    return GoodImages(
        kind="images",
        scores=tuple(measured_image.score for measured_image in measured if measured_image.score is not None),
        days=grouping.names,
        grouped_by=grouping.grouped_by,
        groups=dict(sorted(Counter(grouping.names).items())),
        duplicates=duplicates,
        measured=len(measured),
        not_judged=tuple(not_judged),
    )


def _score_patiently(inspector: Inspector, measured_image: PreparedImage) -> float:
    """Measure a whole image. Where the line itself has no room just now, this one waits: nobody waits for it."""
    for _ in range(_PATIENCE):
        try:
            return inspector.score(measured_image, inspector.infer(measured_image)).score
        except (QueueFull, DeadlineExceeded) as error:
            time.sleep(error.retry_after_s or 1.0)
    return inspector.score(measured_image, inspector.infer(measured_image)).score


def _about(name: str, error: PlumblineError) -> InvalidRequest:
    return InvalidRequest(f"{name}: {error.detail}", [{"loc": [name], "msg": error.detail, "type": error.slug}])


def _day(row: InspectionRecord) -> str:
    """The day, in UTC, that the sender says the image was taken on, else that it was judged on."""
    return f"{(row.captured_at or row.created_at).astimezone(UTC):%Y-%m-%d}"
