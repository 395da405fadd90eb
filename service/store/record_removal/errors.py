"""Errors about records of inspections that were removed."""

from __future__ import annotations

from datetime import datetime

from service.errors import PlumblineError
from service.store.errors import UnknownInspection


class InspectionRemoved(UnknownInspection):
    """No inspection has this id, and records of inspections of its time were removed.

    PLUMBLINE_RECORD_DAYS states how long records are kept. `time` is the time in the id. Whether an inspection ever had
    this id is not known any more. A backup of the database may contain it.
    """

    slug = "inspection-removed"
    title = "Inspection was removed"
    status = 410

    def __init__(self, inspection_id: str, time: datetime) -> None:
        PlumblineError.__init__(
            self,
            f"There is no inspection {inspection_id!r} in the store. Its id is of {time:%Y-%m-%d}, and records of "
            "inspections of that time were removed, because the service keeps them for a limited time "
            "(PLUMBLINE_RECORD_DAYS). A backup of the database may contain it.",
            inspection_id=inspection_id,
            time=time.isoformat(timespec="milliseconds"),
        )
