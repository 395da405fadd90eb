"""What the API says and takes, as JSON. The client uses the same classes, so nothing heavy is imported here."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from service.inspection.quality import InvalidReason
from service.recipe_parts import (
    DecisionName,
    HeatmapSetting,
    Keep,
    PixelSetting,
    Polygons,
    QualityLimits,
    RecipeParts,
    RegionSetting,
)
from service.store.recipes import SYSTEM_AUTHOR

# No control characters: these texts go into logs, headers, databases and spreadsheets.
Label = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+$")]
Sentence = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=1000, pattern=r"^[^\x00-\x08\x7f]+$")
]


def _a_person(author: str) -> str:
    if author.strip().lower() == SYSTEM_AUTHOR:
        raise ValueError(f"{SYSTEM_AUTHOR!r} stands for the service itself; name the person")
    return author


Author = Annotated[Label, AfterValidator(_a_person)]


TYPE_PREFIX = "urn:plumbline:problem:"


class Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class Problem(BaseModel):
    """A failure (RFC 9457). Members beyond these depend on the type; `docs/problems.md` lists the types."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=[TYPE_PREFIX + "queue-full"], description="Stable name of the kind of failure.")
    title: str = Field(description="The kind of failure in words; the same for every occurrence.")
    status: int = Field(ge=400, le=599, description="The HTTP status code.")
    detail: str = Field(description="What happened, what was expected, what to do.")
    instance: str = Field(examples=["urn:plumbline:request:0192..."], description="The request; also in the log.")


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:  # within a day of the calendar's ends
        raise ValueError("is not a moment that can be written in UTC") from error


Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]


class PartFields(BaseModel):
    """What a sender may say about the part; stored and echoed."""

    model_config = ConfigDict(extra="forbid")

    part_id: Label | None = Field(default=None, description="Serial number of the part.")
    station: Label | None = Field(default=None, description="Where the picture was taken.")
    lot: Label | None = Field(default=None, description="Lot or order that the part belongs to.")
    captured_at: Moment | None = Field(
        default=None, description="When the picture was taken, with time zone.", examples=["2026-03-01T08:30:00Z"]
    )


class BufferHeaders(BaseModel):
    """How a camera buffer is laid out. A request without these headers carries an encoded picture."""

    x_pixel_format: str | None = Field(
        default=None, max_length=32, description="PFNC name of the format, such as `Mono12p` or `BayerRG8`."
    )
    x_width: int | None = Field(default=None, ge=1, le=65535, description="Pixels in a line.")
    x_height: int | None = Field(default=None, ge=1, le=65535, description="Lines.")
    x_stride: int | None = Field(
        default=None, ge=1, le=2**24, description="Bytes from line to line; without it lines follow without padding."
    )


class Region(Answer):
    """A connected area above the level of the verdict, in pixels of the image that was sent."""

    bbox: tuple[int, int, int, int] = Field(description="x, y, width, height.")
    polygon: list[tuple[int, int]] = Field(description="Outer contour as [x, y] points.")
    area_px: int
    peak: float = Field(description="Highest value of the anomaly map inside.")
    peak_xy: tuple[int, int]


class Thresholds(Answer):
    """The levels of the raw score that the part was judged by, and what they guarantee."""

    fail: float = Field(description="A part fails strictly above.")
    review: float = Field(description="A part needs review strictly above.")
    target_false_reject_rate: float | None = Field(
        description="Bound on the share of good parts that fail; null where the threshold was set by hand."
    )
    certified: bool = Field(description="Whether the calibration images vouch for that bound.")
    calibration_images: int = Field(description="Good images behind p-values and thresholds.")
    proposal_id: str | None = Field(
        default=None, description="The proposal that these images belong to; null: the bundle's calibration card."
    )
    conservative: bool = Field(
        description="True where thresholds stem from whole pictures and a part of this one was judged. That can only "
        "lower its score: the bound holds, and the real share of rejected good parts lies below it."
    )


VerdictName = Literal["pass", "review", "fail"]


class FilterEffect(Answer):
    """What the recipe's region filters did."""

    changed_verdict: bool = Field(description="Whether the verdict is milder than the score alone says.")
    decision_by_score: VerdictName = Field(description="What the score alone says; it agrees with the p-value.")
    dropped_regions: dict[str, int] = Field(
        description="Regions above that level that do not count, by the filter: `border`, `area` or `peak`."
    )


class BundleReference(Answer):
    digest: str = Field(description="sha256 of the bundle's manifest.")
    version: str
    method: str


class BufferLayout(Answer):
    """How a camera buffer is laid out."""

    pixel_format: str = Field(description="PFNC name.")
    width: int
    height: int
    stride: int | None = Field(description="Bytes from line to line; null: without padding.")


class ImagePixels(Answer):
    """How the image's bytes were read."""

    layout: BufferLayout | None = Field(description="Of a camera buffer; null for an encoded picture.")
    bit_depth: int | None
    black_level: int
    white_level: int | None


class ImageFacts(Answer):
    media_type: str = Field(description="Sniffed from the data; `application/octet-stream` for a camera buffer.")
    width: int
    height: int
    bytes: int
    sha256: str = Field(description="Of the bytes that were sent.")
    pixels: ImagePixels | None = Field(
        default=None, description="How they were read, where the bytes alone do not say it."
    )


class InvalidFact(Answer):
    """One reason why a picture was not worth a verdict."""

    reason: InvalidReason
    detail: str = Field(description="A sentence with the measured value and the limit.")
    measure: str = Field(description="What was measured.")
    measured: float
    limit: float


class QualityFacts(Answer):
    """What was measured of the picture, on the size that the network sees."""

    brightness: float = Field(description="Mean gray level, 0 to 255.")
    dark_share: float = Field(description="Share of pixels that are black in every channel.")
    bright_share: float = Field(description="Share of pixels that are saturated in some channel.")
    sharpness: float = Field(description="Variance of the Laplacian of the gray picture.")
    contrast: float = Field(description="Standard deviation of the gray levels.")


class Links(Answer):
    self: str
    heatmap: str
    map: str | None = Field(description="null for an invalid picture, which no graph looked at.")
    image: str
    product: str


class Inspection(Answer):
    """A verdict and what it rests on."""

    id: str = Field(description="UUIDv7: ordered by time.")
    product: str
    decision: DecisionName = Field(
        description="`invalid`: the picture was not worth a verdict, see `invalid_reasons`. The part is not inspected."
    )
    score: float | None = Field(
        description="Raw image score, unbounded, over the judged part of the picture; null where it is invalid."
    )
    p_value: float | None = Field(
        description="How usual the score is among good parts; at most the target exactly when the score fails the "
        "part. null as the score."
    )
    thresholds: Thresholds
    judged_share: float = Field(description="Share of the picture inside the recipe's ROI and not ignored.")
    regions: list[Region]
    filtered: FilterEffect | None = Field(description="What region filters did; null where they dropped nothing.")
    bundle: BundleReference
    provider: str
    recipe_revision: int
    image: ImageFacts
    invalid_reasons: list[InvalidFact] = Field(default=[], description="Why the decision is `invalid`; else empty.")
    quality: QualityFacts | None = Field(
        default=None, description="What was measured of the picture; null in inspections from before it was."
    )
    timings_ms: dict[str, float] = Field(description="Milliseconds per stage.")
    batch_size: int
    part_id: str | None
    station: str | None
    lot: str | None
    captured_at: datetime | None
    created_at: datetime
    request_id: str | None
    artefacts_removed_at: datetime | None = Field(
        default=None, description="When retention removed image and map; null: it did not."
    )
    links: Links


class InspectionPage(Answer):
    """Inspections, newest first."""

    items: list[Inspection]
    next_cursor: str | None = Field(description="Send as `cursor` for the next page; null on the last one.")


class RecipeValues(RecipeParts):
    """Thresholds, where they come from, and the other parts of the recipe."""

    # A client takes the parts that it knows from a service that knows more.
    model_config = ConfigDict(extra="ignore")

    fail_threshold: float
    review_threshold: float
    target_false_reject_rate: float | None
    review_rate: float | None
    certified: bool
    calibration_images: int
    derivation: Literal["default", "card", "proposal", "tail", "hand"] = Field(
        description="How the thresholds were found: `card` from the calibration card, certified; `default` likewise, "
        "for rates that nobody chose; `proposal` from that proposal's good images, certified; `tail` by extending the "
        "tail of the card's scores, `hand` by a person: not certified."
    )
    proposal_id: str | None = None


class RevisionFacts(Answer):
    """When a recipe was put in force, by whom and why."""

    product: str
    revision: int
    created_at: datetime
    author: str
    reason: str
    bundle_digest: str = Field(description="The bundle whose score scale the thresholds are on.")


class RecipeRecord(RevisionFacts):
    """One revision of a product's recipe."""

    recipe: RecipeValues


class RecipeDifference(Answer):
    """One value that differs between two recipes."""

    path: str = Field(examples=["regions.min_area_px"], description="Where, by dotted path in `recipe`.")
    before: Any
    after: Any


class RecipeDiff(Answer):
    """What changed from one revision to another."""

    before: RevisionFacts
    after: RevisionFacts
    differences: list[RecipeDifference]


class RecipeHistory(Answer):
    """Revisions of a recipe, newest first."""

    items: list[RecipeRecord]


class RecipeChange(BaseModel):
    """What is to change in a recipe. What is not named keeps its value, at every depth; null takes a value back to its
    default; a list replaces the list.

    Thresholds are changed together: both set by hand, by rates that the calibration card turns into thresholds, or by
    a proposal.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    author: Author = Field(description="Who changes it.")
    reason: Sentence = Field(description="Why.")
    fail_threshold: float | None = None
    review_threshold: float | None = None
    target_false_reject_rate: float | None = Field(
        default=None, gt=0, lt=1, description="At most this share of good parts may fail."
    )
    review_rate: float | None = Field(
        default=None, gt=0, lt=1, description="At most this share may lie above the review threshold."
    )
    extrapolate: bool = Field(
        default=False,
        description="Where the card has too few images to certify the rate, extend the tail of their scores instead. "
        "The threshold is then marked `certified: false`.",
    )
    proposal_id: Label | None = Field(
        default=None, description="A stored proposal, whose thresholds are derived again from its good images."
    )
    roi: Polygons | None = Field(default=None, description="Only what lies in one of these polygons is judged.")
    ignore: Polygons | None = Field(default=None, description="Nothing in one of these polygons is judged.")
    regions: RegionSetting | None = Field(default=None, description="Which regions count.")
    heatmap: HeatmapSetting | None = Field(default=None, description="The heatmap's scale.")
    pixels: PixelSetting | None = Field(default=None, description="What the camera sends.")
    quality: QualityLimits | None = Field(default=None, description="When a picture is not worth a verdict.")
    retention: dict[DecisionName, Keep | None] | None = Field(
        default=None, description="How long images and maps are kept, by decision."
    )
    expected_revision: int | None = Field(
        default=None, ge=0, description="Refuse the change if the recipe is at another revision. As If-Match."
    )

    @model_validator(mode="after")
    def _state_one_way(self) -> Self:
        by_hand = (self.fail_threshold, self.review_threshold)
        by_rate = (self.target_false_reject_rate, self.review_rate)
        ways = (by_hand, by_rate, (self.proposal_id,))
        if sum(any(value is not None for value in way) for way in ways) > 1:
            raise ValueError("give one of: fail_threshold and review_threshold; target_false_reject_rate; proposal_id")
        if any(value is not None for value in by_hand) and None in by_hand:
            raise ValueError("thresholds set by hand need both fail_threshold and review_threshold")
        if (self.review_rate is not None or self.extrapolate) and self.target_false_reject_rate is None:
            raise ValueError("review_rate and extrapolate need target_false_reject_rate")
        if not any(value is not None for way in ways for value in way) and not self.parts():
            raise ValueError("name at least one value to change")
        return self

    def parts(self) -> dict[str, Any]:
        """The parts that are named, and of each only what is named."""
        return self.model_dump(exclude_unset=True, include=set(RecipeParts.model_fields))


class Signature(BaseModel):
    """Who changes a recipe, and why."""

    model_config = ConfigDict(extra="forbid")

    author: Author = Field(description="Who changes it.")
    reason: Sentence = Field(description="Why.")


class RecipeRevert(BaseModel):
    """Who returns to an old revision, and why."""

    model_config = ConfigDict(extra="forbid")

    author: Author = Field(description="Who changes it.")
    reason: Annotated[Sentence, StringConstraints(max_length=800)] | None = Field(default=None, description="Why.")
    expected_revision: int | None = Field(
        default=None, ge=0, description="Refuse the change if the recipe is at another revision. As If-Match."
    )


class BundleProblem(Answer):
    """A bundle that is not served."""

    product: str
    version: str
    type: str
    reason: str


class TilingFacts(Answer):
    overlap: int = Field(description="Pixels that neighbouring tiles share.")
    scale: float = Field(description="The picture's size is multiplied by this before it is cut.")


class BundleFacts(BundleReference):
    teachers: list[str]
    created_at: datetime
    input_width: int
    input_height: int
    tiling: TilingFacts | None = Field(
        default=None, description="How larger pictures are cut into tiles of the input's size; null: not at all."
    )
    training_images: int
    evaluation: dict[str, float] | None


class CalibrationFacts(Answer):
    images: int
    groups: dict[str, int] = Field(description="Images per day or folder.")
    grouped_by: str = Field(description="`none`: all images count as one session, so other days are not covered.")
    provider: str
    smallest_false_reject_rate: float = Field(description="The smallest rate that so many images can certify.")


class Product(Answer):
    """A product of the model repository."""

    product: str
    status: Literal["ready", "loading", "broken", "inactive"] = Field(
        description="`inactive`: it has bundles, none of them was activated yet."
    )
    provider: str | None = None
    bundle: BundleFacts | None = None
    shadow: BundleReference | None = Field(default=None, description="The bundle that watches and decides nothing.")
    calibration: CalibrationFacts | None = None
    recipe: RecipeRecord | None = None
    broken_bundles: list[BundleProblem] = []


class ProductList(Answer):
    items: list[Product]


class Liveness(Answer):
    status: Literal["alive"] = "alive"


class Readiness(Answer):
    """Whether pictures should be sent here, and if not, why."""

    status: Literal["ready", "degraded", "loading", "draining", "not-ready"] = Field(
        description="`degraded` answers 200: some bundle is broken, every required product is served."
    )
    reasons: list[str]
    products: list[str] = Field(description="Products that are served.")
    broken_bundles: list[BundleProblem]
    version: str
