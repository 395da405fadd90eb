"""Training jobs in the store, on SQLite and PostgreSQL: queue, claims, lost workers, cancellation, files."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from service.serving.training.abandoned import remove_abandoned
from service.store.audit import SERVICE, Actor, read_audit
from service.store.errors import TrainingJobEnded, TrainingJobNotHeld, UnknownTrainingJob
from service.store.ids import new_id
from service.store.store import Store
from service.store.training.claims import MAX_LOSSES, claim_job, end_job, recover_lost, report_progress
from service.store.training.jobs import (
    add_job,
    cancel_job,
    count_jobs,
    get_job,
    get_job_image,
    image_types,
    list_job_images,
    list_jobs,
    mark_images_removed,
    past_jobs,
)
from service.store.training.records import (
    JobDraft,
    JobEnd,
    JobProgress,
    TrainedVersion,
    TrainingImage,
    TrainingJobRecord,
)

START = datetime(2026, 3, 1, tzinfo=UTC)
LEASE = timedelta(seconds=60)
ADA, WORKER = Actor("account", "1", "Ada", "127.0.0.1", "request"), Actor("key", "2", "worker")
IMAGES = tuple(TrainingImage(number, f"{number}.png", "image/png", 100, f"{number}" * 64) for number in (1, 2))


@pytest.fixture
def store(database_url: str, tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(database_url, tmp_path / "data")
    yield opened
    opened.close()


def queue(store: Store, product: str = "widget", **changes: Any) -> TrainingJobRecord:
    values: dict[str, Any] = {
        "id": new_id(),
        "product": product,
        "images": IMAGES,
        "duplicates": 1,
        "activate": True,
        "quick_only": False,
        "create_product": False,
    }
    return add_job(store.engine, JobDraft(**(values | changes)), ADA, START)


def claim(store: Store, second: float = 0.0, products: list[str] | None = None) -> TrainingJobRecord | None:
    return claim_job(store.engine, WORKER, "pc-7", products, START + timedelta(seconds=second), LEASE)


def claimed(store: Store, second: float = 0.0) -> TrainingJobRecord:
    found = claim(store, second)
    assert found is not None
    return found


def report(store: Store, job: TrainingJobRecord, second: float = 1.0, **changes: Any) -> TrainingJobRecord:
    values: dict[str, Any] = {"stage": "train", "done": 3, "total": 10, "seconds": 2.5}
    progress = JobProgress(**(values | changes))
    moment = START + timedelta(seconds=second)
    return report_progress(store.engine, job.product, job.id, job.attempt, progress, moment, LEASE)


def end(store: Store, job: TrainingJobRecord, outcome: Any, error: str | None = None) -> TrainingJobRecord:
    return end_job(store.engine, job.product, job.id, job.attempt, JobEnd(outcome, error), WORKER, START)


def audited(store: Store) -> list[tuple[str, str, str | None]]:
    return [(entry.actor, entry.action, entry.object) for entry in read_audit(store.engine)]


def test_queued_job_is_stored_with_its_images_and_audited(store: Store) -> None:
    job = queue(store)
    assert get_job(store.engine, "widget", job.id) == job
    assert (job.state, job.author, job.images, job.image_bytes, job.duplicates) == ("queued", "Ada", 2, 200, 1)
    assert tuple(list_job_images(store.engine, "widget", job.id)) == IMAGES
    assert audited(store) == [("Ada", "training:queue", job.id)]
    assert count_jobs(store.engine).by_state == {"queued": 1}
    assert count_jobs(store.engine).stored_bytes == 200


def test_job_of_another_product_is_unknown(store: Store) -> None:
    job = queue(store)
    with pytest.raises(UnknownTrainingJob, match="gadget"):
        get_job(store.engine, "gadget", job.id)
    with pytest.raises(UnknownTrainingJob):
        list_job_images(store.engine, "gadget", job.id)
    with pytest.raises(UnknownTrainingJob):
        cancel_job(store.engine, "gadget", job.id, ADA, START)


def test_jobs_are_listed_newest_first_page_by_page(store: Store) -> None:
    first, second, other = queue(store), queue(store), queue(store, "gadget")
    assert [job.id for job in list_jobs(store.engine, None)] == [other.id, second.id, first.id]
    assert [job.id for job in list_jobs(store.engine, {"widget"})] == [second.id, first.id]
    assert [job.id for job in list_jobs(store.engine, None, before=UUID(second.id), limit=5)] == [first.id]


def test_oldest_permitted_job_is_claimed_once(store: Store) -> None:
    first, second = queue(store), queue(store, "gadget")
    assert claim(store, products=["bolt"]) is None
    found = claim(store, products=["gadget"])
    assert found is not None
    assert (found.id, found.state, found.attempt, found.worker) == (second.id, "running", 1, "pc-7")
    assert found.lease_until == START + LEASE
    assert claimed(store).id == first.id
    assert claim(store) is None
    assert audited(store)[-1] == ("worker", "training:start", first.id)


def test_workers_that_claim_together_get_different_jobs(store: Store) -> None:
    jobs = {queue(store).id for _ in range(3)}
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda _: [job.id for _ in range(4) if (job := claim(store)) is not None], range(6)))
    given = [job_id for ids in found for job_id in ids]
    assert sorted(given) == sorted(jobs)


def test_report_stores_the_progress_and_prolongs_the_lease(store: Store) -> None:
    queue(store)
    job = claimed(store)
    made = TrainedVersion("quick", "0123456789ab", "active")
    first = report(store, job, 30.0, version=made)
    assert (first.stage, first.done, first.total, first.seconds) == ("train", 3, 10, 2.5)
    assert first.lease_until == START + timedelta(seconds=90)
    assert first.versions == (made,)
    assert report(store, job, 31.0, version=made).versions == (made,), "the same report, sent again"
    full = TrainedVersion("full", "ba9876543210", "shadow")
    assert report(store, job, 32.0, version=full).versions == (made, full)


def test_report_with_another_claim_changes_nothing(store: Store) -> None:
    queue(store)
    job = claimed(store)
    assert recover_lost(store.engine, START + timedelta(seconds=61))[0].state == "queued"
    second = claimed(store, 63.0)
    assert second.attempt == 2
    with pytest.raises(TrainingJobNotHeld, match="claim 1"):
        report(store, job, 64.0)
    with pytest.raises(TrainingJobNotHeld):
        end(store, job, "succeeded")
    assert get_job(store.engine, "widget", job.id) == second
    assert report(store, second, 64.0).state == "running"


def test_worker_that_could_not_report_gets_its_job_back_if_nobody_claimed_it(store: Store) -> None:
    queue(store)
    job = claimed(store)
    for outage in range(MAX_LOSSES + 1):
        second = 100.0 * outage
        assert recover_lost(store.engine, START + timedelta(seconds=second + 61))[0].state == "queued"
        back = report(store, job, second + 100.0)
        assert (back.state, back.attempt, back.losses, back.stage) == ("running", 1, 0, "train")
        assert back.lease_until == START + timedelta(seconds=second + 160)
        assert claim(store, second + 101) is None
    assert audited(store)[-1] == (SERVICE.name, "training:start", job.id)


def test_released_job_is_not_given_back_by_a_late_report(store: Store) -> None:
    queue(store)
    job = claimed(store)
    end(store, job, "released")
    with pytest.raises(TrainingJobNotHeld, match="claim 1"):
        report(store, job)


def test_image_of_a_job_is_found_by_its_number(store: Store) -> None:
    job = queue(store)
    assert get_job_image(store.engine, "widget", job.id, 2) == IMAGES[1]
    for product, number in (("widget", 3), ("other", 2)):
        with pytest.raises(UnknownTrainingJob):
            get_job_image(store.engine, product, job.id, number)


def test_job_of_a_worker_that_reports_in_time_is_not_lost(store: Store) -> None:
    queue(store)
    job = claimed(store)
    report(store, job, 50.0)
    assert recover_lost(store.engine, START + timedelta(seconds=100)) == []


def test_job_whose_workers_are_lost_again_and_again_fails(store: Store) -> None:
    job = lost = queue(store)
    for number in range(1, MAX_LOSSES + 1):
        claimed(store, 100.0 * number)
        (lost,) = recover_lost(store.engine, START + timedelta(seconds=100.0 * number + 61))
        assert lost.losses == number
    assert (lost.id, lost.state) == (job.id, "failed")
    assert lost.error is not None
    assert "stopped to report 3 times" in lost.error
    assert [action for _, action, _ in audited(store)].count("training:requeue") == MAX_LOSSES - 1
    assert audited(store)[-1] == (SERVICE.name, "training:finish", job.id)


@pytest.mark.parametrize(("outcome", "error"), [("succeeded", None), ("failed", "no images"), ("cancelled", None)])
def test_ended_job_keeps_its_outcome(store: Store, outcome: str, error: str | None) -> None:
    queue(store)
    job = end(store, claimed(store), outcome, error)
    assert (job.state, job.error, job.finished_at, job.lease_until) == (outcome, error, START, None)
    assert job.is_ended
    assert audited(store)[-1] == ("worker", "training:finish", job.id)
    with pytest.raises(TrainingJobNotHeld):
        report(store, job)
    with pytest.raises(TrainingJobEnded, match=outcome):
        cancel_job(store.engine, "widget", job.id, ADA, START)


def test_released_job_is_queued_again(store: Store) -> None:
    queue(store)
    job = end(store, claimed(store), "released")
    assert (job.state, job.finished_at, job.losses) == ("queued", None, 0)
    assert audited(store)[-1] == ("worker", "training:requeue", job.id)
    assert claimed(store).attempt == 2


def test_queued_job_is_cancelled_at_once(store: Store) -> None:
    job = cancel_job(store.engine, "widget", queue(store).id, ADA, START)
    assert (job.state, job.finished_at) == ("cancelled", START)
    assert claim(store) is None
    assert audited(store)[-1] == ("Ada", "training:cancel", job.id)


def test_running_job_is_cancelled_by_its_worker(store: Store) -> None:
    queue(store)
    job = claimed(store)
    asked = cancel_job(store.engine, "widget", job.id, ADA, START)
    assert (asked.state, asked.cancel_requested) == ("running", True)
    assert report(store, job).cancel_requested
    assert end(store, job, "cancelled").state == "cancelled"


@pytest.mark.parametrize("how", ["lost", "released"])
def test_cancelled_job_is_not_queued_again(store: Store, how: str) -> None:
    queue(store)
    job = claimed(store)
    cancel_job(store.engine, "widget", job.id, ADA, START)
    if how == "lost":
        (ended,) = recover_lost(store.engine, START + timedelta(seconds=61))
    else:
        ended = end(store, job, "released")
    assert ended.state == "cancelled"
    assert ended.finished_at is not None


def test_images_of_failed_jobs_are_kept_for_a_time(store: Store) -> None:
    queue(store)
    failed = end(store, claimed(store), "failed", "no images")
    queue(store)
    succeeded = end(store, claimed(store), "succeeded")
    queue(store)
    assert [job.id for job in past_jobs(store.engine, START)] == [succeeded.id]
    assert [job.id for job in past_jobs(store.engine, START + LEASE)] == [failed.id, succeeded.id]
    mark_images_removed(store.engine, failed.id, START)
    assert [job.id for job in past_jobs(store.engine, START + LEASE)] == [succeeded.id]
    assert count_jobs(store.engine).stored_bytes == 400
    assert get_job(store.engine, "widget", failed.id).images_removed_at == START


def test_files_of_images_are_written_read_and_removed_with_their_folder(store: Store) -> None:
    job = queue(store)
    name = UUID(job.id)
    for number in (1, 2):
        store.files.write_training_image(name, number, "image/png", bytes([number])).sync()
    assert store.files.read_training_image(name, 2, "image/png") == b"\x02"
    assert image_types(store.engine, job.id) == {1: "image/png", 2: "image/png"}
    store.files.remove_training_images(name, {1: "image/png"})
    with pytest.raises(FileNotFoundError):
        store.files.read_training_image(name, 1, "image/png")
    store.files.remove_training_images(name, image_types(store.engine, job.id))
    assert store.files.folder is not None
    assert list((store.files.folder / "training").iterdir()) == []


def test_folders_of_jobs_that_were_never_queued_are_removed_after_a_day(store: Store) -> None:
    assert store.files.folder is not None
    queued, abandoned = UUID(queue(store).id), new_id()
    for name in (queued, abandoned):
        store.files.write_training_image(name, 1, "image/png", b"\x01").sync()
    others = {"notes", "ffffffff-ffff-4fff-bfff-ffffffffffff"}
    for other in others:
        (store.files.folder / "training" / other).mkdir()
    folders = []
    for hours in (23, 25):
        remove_abandoned(store, datetime.now(UTC) + timedelta(hours=hours))
        folders.append({path.name for path in (store.files.folder / "training").iterdir()})
    kept = others | {str(queued)}
    assert folders == [kept | {str(abandoned)}, kept]
