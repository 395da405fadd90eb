"""The client class."""

from __future__ import annotations

from plumbline_client._async.access import AsyncAccessCalls
from plumbline_client._async.audit import AsyncAuditCalls
from plumbline_client._async.bundles import AsyncBundleCalls
from plumbline_client._async.events import AsyncEventCalls
from plumbline_client._async.inspections import AsyncInspectionCalls
from plumbline_client._async.outbox import AsyncOutboxCalls
from plumbline_client._async.products import AsyncProductCalls
from plumbline_client._async.recipes import AsyncRecipeCalls
from plumbline_client._async.reviews import AsyncReviewCalls
from plumbline_client._async.stream import AsyncStreamCalls
from plumbline_client._async.training import AsyncTrainingCalls


class AsyncClient(
    AsyncInspectionCalls,
    AsyncEventCalls,
    AsyncProductCalls,
    AsyncRecipeCalls,
    AsyncBundleCalls,
    AsyncAuditCalls,
    AsyncAccessCalls,
    AsyncOutboxCalls,
    AsyncReviewCalls,
    AsyncStreamCalls,
    AsyncTrainingCalls,
):
    """Client of one Plumbline service.

    If the service has no capacity at the moment, its response is a 503 with the time to wait; the client tries again
    after that time, at most `retries` times. Every other failure is raised as a `ServiceProblem` with the problem that
    the service describes, and as `ServiceUnreachable` if no response arrives. All errors are `PlumblineClientError`.

    Example:
        ```python
        async with AsyncClient("http://127.0.0.1:8000") as plumbline:
            inspection = await plumbline.inspect("washer", image, part_id="4711")
            print(inspection.decision, inspection.score)
            heatmap = await plumbline.heatmap(inspection.id)
        ```
    """
