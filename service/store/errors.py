"""Errors of the store."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from service.errors import PlumblineError


class StoreUnavailable(PlumblineError):
    """The database or the artefact folder cannot be used. No verdict is returned that is not stored.

    Check disk space, permissions and the database; `plumbline doctor` examines all three. The message states what to
    do. Without `retry_after`, waiting does not help: a damaged database has to be restored from a backup.

    Args:
        reason: What was wrong, without a full stop.
        retry_after_s: Seconds after which the same request may succeed; None if waiting does not help.
        remedy: What to do, as sentences; empty for a general advice.
        is_outdated: The database is intact, and only has the schema of an older version.
    """

    slug = "store-unavailable"
    title = "Inspection store is not available"
    status = 503

    def __init__(
        self, reason: str, retry_after_s: float | None = 5.0, *, remedy: str = "", is_outdated: bool = False
    ) -> None:
        advice = remedy or (
            "Check disk space and permissions of PLUMBLINE_DATA and the database (`plumbline doctor`), then try again."
        )
        waiting = {} if retry_after_s is None else {"retry_after": retry_after_s}
        super().__init__(f"The inspection store cannot be used: {reason}. {advice}", **waiting)
        self.reason = reason
        self.remedy = remedy
        self.is_outdated = is_outdated

    def copy(self) -> StoreUnavailable:
        """Return an error of its own for another thread: raising one object in several would mix their tracebacks."""
        return StoreUnavailable(self.reason, self.retry_after_s, remedy=self.remedy, is_outdated=self.is_outdated)


class BundleStoreUnavailable(PlumblineError):
    """The bundle store cannot be used, or what it contains of a bundle is damaged.

    Bundles that are in memory or on the local disk are served as before. Without the bundle store, none can be
    uploaded, and none can be fetched. The message states the reason. Send the request again after `retry_after`
    seconds.

    Args:
        reason: What was wrong, without a full stop.
        remedy: What to do, as sentences; empty for a general advice.
    """

    slug = "bundle-store-unavailable"
    title = "Bundle store is not available"
    status = 503

    def __init__(self, reason: str, remedy: str = "", *, retry_after_s: float = 5.0) -> None:
        advice = remedy or (
            "Check PLUMBLINE_BUNDLE_STORE, its credentials and the network (`plumbline doctor`), then try again."
        )
        super().__init__(f"The bundle store cannot be used: {reason}. {advice}", retry_after=retry_after_s)
        self.reason = reason
        self.remedy = remedy


class RecipeConflict(PlumblineError):
    """The recipe was changed since the revision that a change is based on.

    The recipe is at `current_revision`, the change is based on `expected_revision`. Nothing was changed. Read the
    recipe, decide again, and send the change with the new `If-Match`.
    """

    slug = "recipe-conflict"
    title = "Recipe was changed concurrently"
    status = 412

    def __init__(self, product: str, expected: int, current: int) -> None:
        super().__init__(
            f"The recipe of {product!r} is at revision {current}, but the change is based on revision {expected}. "
            "Nothing was changed. Read the current recipe and send the change again, based on its revision.",
            product=product,
            expected_revision=expected,
            current_revision=current,
        )


class RemovalNotConfirmed(PlumblineError):
    """A change of a recipe would remove the images of more inspections than it keeps, and this was not confirmed.

    `removed` and `kept` are the numbers of inspections whose images and maps the new retention would remove and keep,
    as estimated now; `by_decision` lists them per decision. `removed_before` is what other changes of retention removed
    in the 30 days before, per decision, since the last one that was confirmed; it counts as well. Nothing was changed.
    Choose longer limits, or let a person or key with the scopes `engineer` and `admin` send the change with
    `confirm_removal`, which must be at least `removed`. Recipes, bundles and changes are never removed, and records of
    inspections only as PLUMBLINE_RECORD_DAYS demands.
    """

    slug = "removal-not-confirmed"
    title = "Removal of images was not confirmed"
    status = 409

    def __init__(
        self,
        product: str,
        by_decision: Mapping[str, Mapping[str, int]],
        removed_before: Mapping[str, int],
        *,
        is_admin: bool,
    ) -> None:
        removed, kept = (sum(item[name] for item in by_decision.values()) for name in ("removed", "kept"))
        before = sum(removed_before.values())
        how = f"send the change with confirm_removal={removed}"
        if not is_admin:
            how += (
                " as a person or with a key that has the scopes `engineer` and `admin`: the scope `admin` is missing, "
                "and without it a confirmation has no effect"
            )
        super().__init__(
            f"The change would remove the images and maps of {removed} inspections of {product!r} and keep those of "
            f"{kept}. Other changes of its retention removed those of {before} in the 30 days before. For at least one "
            "decision, more would be removed in total than kept. Nothing was changed. If this is "
            f"intended, {how}.",
            product=product,
            removed=removed,
            kept=kept,
            removed_before=dict(removed_before),
            by_decision={name: dict(item) for name, item in by_decision.items()},
        )


class LastAdmin(PlumblineError):
    """The account is the last one that can manage keys and accounts, so it cannot be disabled or get another role.

    Nothing was changed. Give another account the role `admin`, or create a key with the scope `admin`, and try again.
    """

    slug = "last-admin"
    title = "Last administrator"
    status = 409

    def __init__(self, name: str) -> None:
        super().__init__(
            f"The account {name!r} is the last enabled one with the role 'admin', and no valid API key has the scope "
            "'admin', so keys and accounts could no longer be managed. Nothing was changed. Give another account the "
            "role 'admin', or create a key (`plumbline key create NAME --scope admin`), and try again.",
            name=name,
        )


class UnknownRevision(PlumblineError):
    """The product's recipe has no such revision.

    `GET /v1/products/{product}/recipe/revisions` lists the revisions.
    """

    slug = "unknown-revision"
    title = "Unknown recipe revision"
    status = 404

    def __init__(self, product: str, revision: int) -> None:
        super().__init__(
            f"The recipe of {product!r} has no revision {revision}. "
            f"GET /v1/products/{product}/recipe/revisions lists the existing revisions.",
            product=product,
            revision=revision,
        )


class RecipeUnreadable(PlumblineError):
    """A stored recipe has a form that this version cannot read, for example after a downgrade.

    Run the version of Plumbline that stored it, or a newer one. Other products are not affected.
    """

    slug = "recipe-unreadable"
    title = "Stored recipe cannot be read"
    status = 500

    def __init__(self, product: str, revision: int, reason: str) -> None:
        super().__init__(
            f"Revision {revision} of the recipe of {product!r} cannot be read by this version: {reason}. Run the "
            "version of Plumbline that stored it, or a newer one.",
            product=product,
            revision=revision,
        )


class UnknownInspection(PlumblineError):
    """No inspection has this id.

    The id was never assigned, or it is not a UUIDv7. Take the id from the response of the inspection, or from
    `GET /v1/inspections`.
    """

    slug = "unknown-inspection"
    title = "Unknown inspection"
    status = 404

    def __init__(self, inspection_id: str) -> None:
        super().__init__(
            f"There is no inspection {inspection_id!r} in the store. Use the `id` of a returned inspection.",
            inspection_id=inspection_id,
        )


class ArtefactGone(PlumblineError):
    """The image or the anomaly map of an inspection is no longer stored.

    The record stays. `artefact` names the file; `removed_at` is the time at which the recipe's `retention` removed it,
    or null if it was lost or removed by hand. Restore the file from a backup.
    """

    slug = "artefact-gone"
    title = "Artefact no longer stored"
    status = 410

    def __init__(self, what: str, inspection_id: str, removed_at: datetime | None = None) -> None:
        if removed_at is None:
            why = (
                "It was lost, deleted by hand, or is being removed by retention at this moment. Restore it from a "
                "backup if it is needed."
            )
        else:
            why = (
                f"Retention removed it on {removed_at:%Y-%m-%d at %H:%M} UTC, according to the product's recipe. "
                "Increase the limits in the recipe's `retention` section to keep images and maps for longer."
            )
        super().__init__(
            f"The {what} of inspection {inspection_id} is no longer stored; its record still is. {why}",
            artefact=what,
            inspection_id=inspection_id,
            removed_at=None if removed_at is None else removed_at.isoformat(),
        )


class StoredImageUnreadable(PlumblineError):
    """The stored image of an inspection cannot be decoded, so it cannot be drawn, converted or judged again.

    An older version of Plumbline accepted it, with a decoder that was less strict, or the stored file was damaged. The
    inspection and its decision stay. `cause` names the problem that the decoder reports. `GET
    /v1/inspections/{inspection_id}/image` returns the image byte for byte as it is stored.
    """

    slug = "stored-image-unreadable"
    title = "Stored image cannot be decoded"
    status = 409

    def __init__(self, inspection_id: str, cause: str, reason: str) -> None:
        super().__init__(
            f"The stored image of inspection {inspection_id} cannot be decoded by this version of Plumbline: {reason} "
            "An older version accepted the image, or the stored file was damaged. The decision stays. "
            f"GET /v1/inspections/{inspection_id}/image returns the image as it is stored.",
            inspection_id=inspection_id,
            cause=cause,
        )


class NotJudged(PlumblineError):
    """The quality check rejected the image, so there is no score and no anomaly map.

    `invalid_reasons` of the inspection lists the reasons. The image itself is stored.
    """

    slug = "not-judged"
    title = "Image was not judged"
    status = 409

    def __init__(self, inspection_id: str) -> None:
        super().__init__(
            f"The image of inspection {inspection_id} was rejected by the quality check (decision `invalid`), so it "
            "has no anomaly map and can be neither replayed nor explained. See the inspection's `invalid_reasons`.",
            inspection_id=inspection_id,
        )


class IdempotencyKeyUsed(PlumblineError):
    """The `Idempotency-Key` was used for another request: another image, product, part or buffer layout.

    Nothing was inspected. Use a new key for every new image, and the same key only to send the same request again.
    """

    slug = "idempotency-key-used"
    title = "Idempotency key belongs to another request"
    status = 422

    def __init__(self, inspection_id: str) -> None:
        super().__init__(
            f"The Idempotency-Key belongs to the inspection {inspection_id}, whose request had another image, product, "
            "part or buffer layout. Nothing was inspected. Use a new key for every new image.",
            inspection=inspection_id,
        )


class KeyTaken(Exception):
    """Another process stored an inspection with the same idempotency key at the same moment."""


class UnknownDeadLetter(PlumblineError):
    """There is no dead letter with this id. It may have been sent again, delivered or discarded meanwhile.

    `GET /v1/outbox/dead-letters` lists the dead letters.
    """

    slug = "unknown-dead-letter"
    title = "Unknown dead letter"
    status = 404

    def __init__(self, message_id: int) -> None:
        super().__init__(
            f"There is no dead letter with the id {message_id}. It may have been sent again, delivered or discarded. "
            "GET /v1/outbox/dead-letters lists the dead letters."
        )


class NoOpenDriftAlarm(PlumblineError):
    """There is no open drift alarm of the product to acknowledge.

    It was acknowledged already, or another recipe or bundle ended it. Nothing was changed.
    """

    slug = "no-open-drift-alarm"
    title = "No drift alarm is open"
    status = 409

    def __init__(self, product: str) -> None:
        super().__init__(
            f"No drift alarm of {product!r} is open. It may have been acknowledged already, or ended by another recipe "
            "or bundle. Read the drift of the product to see its alarms.",
            product=product,
        )


class UnknownTrainingJob(PlumblineError):
    """The product has no training job with this id, or the job has no such image.

    `GET /v1/products/{product}/training-jobs` lists the jobs.
    """

    slug = "unknown-training-job"
    title = "Unknown training job"
    status = 404

    def __init__(self, product: str, job_id: str, number: int | None = None) -> None:
        what = f"no training job {job_id!r}" if number is None else f"no image {number} in its training job {job_id!r}"
        super().__init__(
            f"{product!r} has {what}. GET /v1/products/{product}/training-jobs lists the jobs.",
            product=product,
            job=job_id,
        )


class TrainingJobEnded(PlumblineError):
    """The training job has ended already, so it cannot be cancelled. Nothing was changed."""

    slug = "training-job-ended"
    title = "Training job has ended"
    status = 409

    def __init__(self, product: str, job_id: str, state: str) -> None:
        super().__init__(
            f"The training job {job_id} of {product!r} has ended already: it is {state}. Nothing was changed.",
            product=product,
            job=job_id,
            state=state,
        )


class TrainingJobNotHeld(PlumblineError):
    """The worker no longer holds the training job: it did not report in time, or the job has ended. Nothing was stored.

    A worker that gets this problem stops its work on the job, and claims the next one.
    """

    slug = "training-job-not-held"
    title = "Training job is not held by this worker"
    status = 409

    def __init__(self, product: str, job_id: str, claim: int) -> None:
        super().__init__(
            f"The claim {claim} of the training job {job_id} of {product!r} is no longer in force: the worker did not "
            "report in time, or the job has ended. Nothing was stored. Stop the work on it, and claim the next job.",
            product=product,
            job=job_id,
        )
