"""Records and options of stored files, for tests."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from service.store.artefacts.options import ArtefactOptions
from service.store.ids import created_at
from service.store.records import InspectionRecord
from tests.s3 import S3Server
from tests.service.store.test_store import make_row


def options_for(s3: S3Server, **changes: Any) -> ArtefactOptions:
    return ArtefactOptions(f"s3://{s3.bucket()}/line 1/ü", s3.url, **changes)


def record(inspection_id: UUID, **changes: object) -> InspectionRecord:
    return make_row(id=str(inspection_id), created_at=created_at(inspection_id), **changes)
