"""Python client of the Plumbline inspection service.

Example:
    ```python
    from pathlib import Path

    from plumbline_client import Client

    with Client("http://127.0.0.1:8000") as plumbline:
        inspection = plumbline.inspect("washer", Path("part.jpg").read_bytes(), part_id="4711")
        print(inspection.decision, inspection.score)
    ```
"""

from plumbline_client._async.client import AsyncClient
from plumbline_client._sync.client import Client
from plumbline_client.calls import CameraBuffer, InspectionFilters
from plumbline_client.errors import (
    MissingExtra,
    PlumblineClientError,
    ServiceProblem,
    ServiceUnreachable,
    StreamClosed,
    UnexpectedResponse,
)
from plumbline_client.events import InspectionEvent

__all__ = [
    "AsyncClient",
    "CameraBuffer",
    "InspectionEvent",
    "InspectionFilters",
    "Client",
    "MissingExtra",
    "PlumblineClientError",
    "ServiceProblem",
    "ServiceUnreachable",
    "StreamClosed",
    "UnexpectedResponse",
]
