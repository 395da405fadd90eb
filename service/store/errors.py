"""Failures of the store."""

from __future__ import annotations

from datetime import datetime

from service.errors import PlumblineError


class StoreUnavailable(PlumblineError):
    """Nothing can be stored or read now; and what is not stored is not answered."""

    slug = "store-unavailable"
    title = "Inspection store is not available"
    status = 503

    def __init__(self, reason: str, retry_after_s: float = 5.0) -> None:
        super().__init__(
            f"The inspection store cannot be used: {reason}. No verdict is given that is not stored. "
            "Check disk space and permissions of PLUMBLINE_DATA and the database (`plumbline doctor`), then send "
            "the image again.",
            retry_after=retry_after_s,
        )


class RecipeConflict(PlumblineError):
    slug = "recipe-conflict"
    title = "Recipe was changed by somebody else"
    status = 412

    def __init__(self, product: str, expected: int, current: int) -> None:
        super().__init__(
            f"The recipe of {product!r} is at revision {current}, the change was made against revision "
            f"{expected}. Read the current recipe, decide again, and send the change against it. Nothing was changed.",
            product=product,
            expected_revision=expected,
            current_revision=current,
        )


class UnknownRevision(PlumblineError):
    slug = "unknown-revision"
    title = "Unknown recipe revision"
    status = 404

    def __init__(self, product: str, revision: int) -> None:
        super().__init__(
            f"The recipe of {product!r} has no revision {revision}. GET "
            f"/v1/products/{product}/recipe/revisions lists those it has.",
            product=product,
            revision=revision,
        )


class UnknownInspection(PlumblineError):
    slug = "unknown-inspection"
    title = "Unknown inspection"
    status = 404

    def __init__(self, inspection_id: str) -> None:
        super().__init__(
            f"There is no inspection {inspection_id!r} in the store. Check the id that the inspection's answer named.",
            inspection_id=inspection_id,
        )


class ArtefactGone(PlumblineError):
    slug = "artefact-gone"
    title = "Artefact no longer stored"
    status = 410

    def __init__(self, what: str, inspection_id: str, removed_at: datetime | None = None) -> None:
        if removed_at is None:
            why = (
                "It was lost or removed by hand, unless retention is removing it just now; restore it from a backup if "
                "it is needed."
            )
        else:
            why = (
                f"Retention removed it on {removed_at:%Y-%m-%d at %H:%M} UTC, as the product's recipe said then. Let "
                "the recipe keep images and maps for longer (`retention`) if they are needed."
            )
        super().__init__(
            f"The {what} of inspection {inspection_id} is not on disk any more, its record still is. {why}",
            artefact=what,
            inspection_id=inspection_id,
            removed_at=None if removed_at is None else removed_at.isoformat(),
        )


class NotJudged(PlumblineError):
    slug = "not-judged"
    title = "Image was not judged"
    status = 409

    def __init__(self, inspection_id: str) -> None:
        super().__init__(
            f"The image of inspection {inspection_id} was not worth a verdict (decision `invalid`), so there is no "
            "anomaly map of it and nothing to replay. The inspection's `invalid_reasons` say why.",
            inspection_id=inspection_id,
        )
