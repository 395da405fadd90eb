"""Good images of training jobs: inspections that lost their image, and requests that end early."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from service.schemas.training import GoodImageUpload
from service.serving.batch import Frame
from service.serving.image import Image, StatedBuffer
from service.serving.records import PartRecord
from service.serving.training import jobs
from service.store.audit import Actor
from service.store.retention import mark_removed
from service.store.training.jobs import add_job
from tests.access import problem_of
from tests.running_service import Serve
from tests.service.api.test_training_jobs import IMAGES, claim, goods, reviewed, stored_files


def test_inspections_without_an_image_are_not_selected_by_the_label(serve: Serve) -> None:
    with serve() as service:
        ids = reviewed(service, 9)
        store = service.store
        store.files.remove(UUID(ids[0]), "image/png")
        mark_removed(store.engine, [UUID(ids[0])], datetime.now(UTC))
        by_label = service.client.post(IMAGES, json={"label": "good", "author": "Ada"})
        assert (by_label.status_code, by_label.json()["images"]) == (202, 8)
        by_ids = service.client.post(IMAGES, json={"ids": ids, "author": "Ada"})
        assert problem_of(by_ids) == (410, "artefact-gone")


def test_request_that_is_cancelled_after_its_job_was_stored_keeps_the_images(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve() as service:
        training = service.services.training
        stored, leave = threading.Event(), threading.Event()

        def slow(*arguments: Any) -> Any:
            found = add_job(*arguments)
            stored.set()
            assert leave.wait(10)
            return found

        async def frames() -> AsyncIterator[Frame]:
            for name, data in goods().items():
                yield Frame(Image(data, PartRecord(), StatedBuffer()), name)

        async def cancel() -> None:
            task = asyncio.create_task(
                training.queue_sent("widget", GoodImageUpload(), frames(), Actor("account", "1", "Ada"), None)
            )
            await asyncio.to_thread(stored.wait, 10)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()

        monkeypatch.setattr(jobs, "add_job", slow)
        try:
            asyncio.run(cancel())
        finally:
            leave.set()
        training._thread.submit(lambda: None).result()
        assert claim(service)["job"]["images"] == 8
        assert len(stored_files(service)) == 8
