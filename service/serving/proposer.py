"""Compute threshold proposals: collect the scores of good images, derive thresholds, store the proposal.

A proposal is not in force. Good images are measured by the inspector of the active bundle.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import PurePosixPath

from service.deployment.lease import ActiveProduct
from service.deployment.stored_image import DECODING_ERRORS
from service.errors import DeadlineExceeded, InvalidRequest, PlumblineError, QueueFull
from service.inspection.capture_groups import group_images, is_defect_folder
from service.inspection.decoding.pixel_formats import PixelRules
from service.inspection.errors import AreaMismatch
from service.inspection.inspector import Inspector
from service.inspection.records import PreparedImage
from service.proposals.derive import derive, summarise_replay
from service.proposals.known_images import refuse_known_images
from service.proposals.records import GoodImages, ProposalOptions
from service.recipes.quality_check import check_quality
from service.recipes.recipe import Recipe
from service.schemas.proposal import MAX_GOOD_IMAGES, ChangedVerdict, Proposal, ReplayedVerdicts
from service.serving.batch import Frame
from service.serving.redecision import Redecider
from service.store.errors import ArtefactGone, NotJudged
from service.store.ids import new_id
from service.store.inspections import Selection, recent_inspections, select_inspections
from service.store.proposals import add_proposal
from service.store.records import InspectionRecord, StoredProposal
from service.store.review_queries import labelled_ids, labels_of
from service.store.store import Store

_ATTEMPTS = 20


@dataclass(frozen=True)
class ProposalTask:
    """What to propose.

    Attributes:
        options: Rates, confidence and author.
        replay: Number of the newest inspections to decide again with the proposed thresholds.
        selection: Stored inspections that are declared good; None for the calibration card.
        includes_reviewed: Whether inspections that reviews label as good join the selection, and those that they label
            as defect or disputed are left out. With an empty selection, only the former remain.
    """

    options: ProposalOptions
    replay: int
    selection: Selection | None = None
    includes_reviewed: bool = False


@dataclass(frozen=True)
class MeasuredImage:
    """An image that was sent.

    Attributes:
        name: Label given by the sender, or the image's number in the request.
        sha256: Digest of the encoded image.
        score: Raw image score; None if the quality check rejected the image.
    """

    name: str
    sha256: str
    score: float | None


class Proposer:
    """Computes proposals. All methods block.

    Args:
        store: Stored inspections; new proposals are added to it.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._redecider = Redecider(store)

    def propose(self, active: ActiveProduct, task: ProposalTask) -> Proposal:
        """Compute and store a proposal from the calibration card or from stored inspections.

        Args:
            active: Bundle and recipe of the product.
            task: What to propose.

        Raises:
            PlumblineError: See `ProposalService.propose`.
        """
        if task.selection is None:
            images = GoodImages.of_card(active.bundle.card)
        else:
            images = self._stored_images(active, task.selection, includes_reviewed=task.includes_reviewed)
        return self.derive(active, task, images)

    def measure(self, active: ActiveProduct, frame: Frame, number: int) -> MeasuredImage:
        """Check the quality of an image and compute its score.

        Args:
            active: Bundle and recipe of the product.
            frame: The image.
            number: Number of the image in the request; names an image without a label.

        Raises:
            InvalidRequest: The image cannot be used, or its folder's name indicates defective parts.
            ProductNotReady: Another bundle was activated meanwhile.
            QueueFull, DeadlineExceeded, ShuttingDown: The image cannot be measured now.
        """
        name = frame.label or str(number)
        folders = PurePosixPath(name).parts[:-1]
        if (folder := next((part for part in folders if is_defect_folder(part)), None)) is not None:
            raise InvalidRequest(
                f"{name}: the name of the folder {folder!r} indicates defective parts. Send images of good parts only, "
                "or rename the folder."
            )
        if frame.error is not None:
            raise with_name(name, frame.error)
        recipe = active.recipe.recipe
        try:
            with active.held() as inspector:
                image = inspector.read(frame.image.data, recipe.pixels.rules(None))
                if check_quality(image, inspector.quality_limits, recipe):
                    return MeasuredImage(name, image.sha256, None)
                return MeasuredImage(name, image.sha256, _score(inspector, image))
        except DECODING_ERRORS as error:
            raise with_name(name, error) from error

    def derive(self, active: ActiveProduct, task: ProposalTask, images: GoodImages) -> Proposal:
        """Derive thresholds from the scores of good images and store the proposal.

        Args:
            active: Bundle and recipe of the product.
            task: What to propose.
            images: The good images.

        Raises:
            InvalidRecipe: The rates are not possible.
            StoreUnavailable: The database cannot be used.
        """
        proposal = derive(
            images,
            task.options,
            proposal_id=str(new_id()),
            created_at=datetime.now(UTC),
            product=active.bundle.manifest.product,
            bundle_digest=active.bundle.digest,
            fail_in_force=active.recipe.recipe.fail_threshold,
            replay=lambda recipe: self._replay(active, recipe, task.replay),
        )
        add_proposal(
            self._store.engine, StoredProposal(proposal, tuple(sorted(images.scores)), task.options.review_rate)
        )
        return proposal

    def _stored_images(self, active: ActiveProduct, selection: Selection, *, includes_reviewed: bool) -> GoodImages:
        product = active.bundle.manifest.product
        joined, excluded = 0, list[str]()
        if includes_reviewed:
            records, joined, excluded = self._with_reviewed(product, selection)
        else:
            records = select_inspections(self._store.engine, product, selection, MAX_GOOD_IMAGES + 1)
        if len(records) > MAX_GOOD_IMAGES:
            raise InvalidRequest(
                f"The selection contains more than {MAX_GOOD_IMAGES} inspections, which is the limit. Select a shorter "
                "period."
            )
        if not records:
            raise InvalidRequest(f"The selection contains no inspection of {product!r}. Check the period and product.")
        refuse_known_images(active.bundle.images, ((record.id, record.image_sha256) for record in records))
        # Identical images are one observation.
        unique = list({record.image_sha256: record for record in records}.values())
        scored = [self._whole_image_score(active, record) for record in unique]
        days = tuple(_day(record) for record in unique)
        return GoodImages(
            kind="inspections",
            scores=tuple(score for score, _ in scored),
            days=days,
            grouped_by="captured-at",
            groups=dict(sorted(Counter(days).items())),
            duplicates=len(records) - len(unique),
            reviewed_good=joined,
            labelled_defect=tuple(excluded),
            measured=sum(is_measured for _, is_measured in scored),
            compared=active.bundle.images is not None,
        )

    def _with_reviewed(self, product: str, selection: Selection) -> tuple[Sequence[InspectionRecord], int, list[str]]:
        """Return the selected inspections with those that reviews label as good, and without those labelled as defect.

        Returns:
            The inspections, oldest first; how many of them were not selected; and the ids of those that are left out.
        """
        engine, limit = self._store.engine, MAX_GOOD_IMAGES + 1
        is_empty = selection == Selection()
        selected = [] if is_empty else select_inspections(engine, product, selection, limit)
        good = labelled_ids(engine, product, "good", selection.since, selection.until, limit)
        known = {record.id for record in selected}
        more = tuple(name for name in good if str(name) not in known)
        joined = select_inspections(engine, product, Selection(more), limit) if more else []
        records = sorted((*selected, *joined), key=lambda record: record.id)
        labels = labels_of(engine, [record.id for record in records])
        excluded = [name for name in sorted(labels) if labels[name].label in {"defect", "disputed"}]
        return [record for record in records if record.id not in set(excluded)], len(joined), excluded

    def _whole_image_score(self, active: ActiveProduct, record: InspectionRecord) -> tuple[float, bool]:
        """Return the score over the whole image, and whether it was measured now.

        The score over the whole image is an upper bound of the score under any ROI, including one that is set later.
        The stored score is used if this bundle computed it with the present pixel settings; otherwise the stored image
        is measured.
        """
        if record.score is None:
            raise NotJudged(record.id)
        stored_rules = PixelRules.from_stored(record.image_pixels)
        rules = active.recipe.recipe.pixels.rules(stored_rules.layout)
        if record.bundle_digest == active.bundle.digest and rules == stored_rules:
            if record.judged_share is None:
                return record.score, False
            image_wh = (record.image_width, record.image_height)
            return active.rules.score_map(self._redecider.read_map(record), image_wh), False
        data = self._store.files.image_of(record)
        try:
            # Held for one image at a time, so that an activation does not have to wait for thousands of images.
            with active.held() as inspector:
                return _score(inspector, inspector.read(data, rules)), True
        except DECODING_ERRORS as error:
            raise with_name(record.id, error) from error

    def _replay(self, active: ActiveProduct, recipe: Recipe, limit: int) -> ReplayedVerdicts:
        product, digest = active.bundle.manifest.product, active.bundle.digest
        records = recent_inspections(self._store.engine, product, digest, limit) if limit else []
        criteria = replace(active.recipe.recipe.criteria, thresholds=recipe.thresholds)
        decisions, unknown = [], 0
        for record in records:
            try:
                after = self._redecider.decide(active, record, criteria)
            except (ArtefactGone, AreaMismatch):
                unknown += 1
                continue
            decisions.append(ChangedVerdict(id=record.id, before=record.decision, after=after.value))
        return summarise_replay(decisions, unknown)


def to_good_images(
    measured: Sequence[MeasuredImage], duplicates: int, rejected: Sequence[str], *, compared: bool
) -> GoodImages:
    """Return the scores of images that were sent, grouped into days by their names.

    Args:
        measured: Distinct images with a score.
        duplicates: Number of images left out because they are identical to another one.
        rejected: Names of the images that the quality check rejected.
        compared: Whether they were compared with the images that the bundle was made from.
    """
    grouping = group_images([PurePosixPath(image.name) for image in measured])
    return GoodImages(
        kind="images",
        scores=tuple(image.score for image in measured if image.score is not None),
        days=grouping.names,
        grouped_by=grouping.grouped_by,
        groups=dict(sorted(Counter(grouping.names).items())),
        duplicates=duplicates,
        measured=len(measured),
        not_judged=tuple(rejected),
        compared=compared,
    )


def _score(inspector: Inspector, image: PreparedImage) -> float:
    """Return the score over the whole image. If the queue is full, wait and retry: inspections come first."""
    for _ in range(_ATTEMPTS):
        try:
            return inspector.score(image, inspector.infer(image)).score
        except (QueueFull, DeadlineExceeded) as error:
            time.sleep(error.retry_after_s or 1.0)
    return inspector.score(image, inspector.infer(image)).score


def with_name(name: str, error: PlumblineError) -> InvalidRequest:
    """Return the error of one image of a request, which names the image.

    Args:
        name: Name of the image.
        error: Why it cannot be used.
    """
    return InvalidRequest(f"{name}: {error.detail}", [{"loc": [name], "msg": error.detail, "type": error.slug}])


def _day(record: InspectionRecord) -> str:
    """Return the UTC date on which the image was captured, or judged if the sender did not state it."""
    return f"{(record.captured_at or record.created_at).astimezone(UTC):%Y-%m-%d}"
