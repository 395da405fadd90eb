"""Files of training jobs that were never queued: a crash while their images are received leaves them."""

from __future__ import annotations

import shutil
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

import structlog

from service.store.ids import created_at
from service.store.store import Store
from service.store.training.jobs import existing_jobs

log = structlog.get_logger(__name__)
MIN_AGE = timedelta(days=1)
"""Longer than images can be received for."""


def remove_abandoned(store: Store, moment: datetime) -> None:
    """Delete the folders of jobs that are not in the database and were begun more than `MIN_AGE` ago.

    Images on a server are in no folders. There, files of such a job stay.

    Args:
        store: The jobs and the files of their images.
        moment: The present time.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    if store.files.folder is None:
        return
    found = {job_id: path for path in (store.files.folder / "training").glob("*") if (job_id := _old_id(path, moment))}
    for job_id in found.keys() - existing_jobs(store.engine, found.keys()):
        log.warning("images of a training job that was never queued removed", job=job_id)
        shutil.rmtree(found[job_id], ignore_errors=True)  # what is left is removed by the next call


def _old_id(path: Path, moment: datetime) -> str | None:
    """Return the id of the job of a folder, if it was begun long ago."""
    try:
        job_id = UUID(path.name)
        is_old = created_at(job_id) < moment - MIN_AGE
    except ValueError:  # another folder, whose name may be a UUID without a time
        return None
    return str(job_id) if is_old else None
