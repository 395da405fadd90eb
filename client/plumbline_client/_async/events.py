"""Following inspections as they are stored."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Sequence

import httpx

from plumbline_client._async.concurrency import sleep
from plumbline_client._async.connection import AsyncConnection
from plumbline_client.calls import Call, InspectionFilters, filter_params, given
from plumbline_client.errors import ServiceProblem
from plumbline_client.events import FIRST_PAUSE_S, READ_TIMEOUT_S, EventParser, InspectionEvent, next_pause_s
from plumbline_client.responses import retry_pause_s, unreachable
from plumbline_client.schemas.alarm import AlarmList, AlarmRecord
from plumbline_client.schemas.records import CurrentShift
from plumbline_client.schemas.sections import DecisionName


class AsyncEventCalls(AsyncConnection):
    """The part of `AsyncClient` that deals with what happens now."""

    async def events(
        self,
        *,
        after: str | None = None,
        product: str | None = None,
        station: str | None = None,
        decision: DecisionName | Sequence[DecisionName] | None = None,
    ) -> AsyncIterator[InspectionEvent]:
        """Iterate over inspections as they are stored, without an end.

        If the connection is lost later, the client connects again and continues where it stopped: no inspection is
        missing and none is repeated. To continue after a restart of the program, keep `cursor` of the last event.

        Args:
            after: Begin behind this cursor or inspection id; None for inspections that are stored from now on.
            product: Only inspections of this product.
            station: Only inspections at this station.
            decision: Only inspections with this decision, or with one of these.

        Raises:
            ServiceUnreachable: The first connection failed.
            ServiceProblem: The service refused the stream, or ended it, for instance because the key was revoked.
        """
        filters: InspectionFilters = {"product": product, "station": station, "decision": decision}
        call = Call("GET", "/v1/inspections:events", filter_params(filters))
        parser = EventParser(self._url(call), after)
        timeout = httpx.Timeout(self._timeout_s, read=READ_TIMEOUT_S)
        pause_s, was_connected = FIRST_PAUSE_S, False
        while True:
            headers = given({"last-event-id": parser.cursor})
            try:
                async with self._http.stream(
                    call.method, call.path, params=call.params, headers=headers, timeout=timeout
                ) as response:
                    if response.is_success:
                        pause_s, was_connected = FIRST_PAUSE_S, True
                        parser.reset()
                        async for line in response.aiter_lines():
                            if (event := parser.add(line)) is not None:
                                yield event
                    else:
                        await response.aread()
                        stated_s = retry_pause_s(response, self.max_retry_after_s)
                        if stated_s is None:
                            raise ServiceProblem.of(response)
                        pause_s = max(pause_s, stated_s)
            except (httpx.HTTPError, ssl.SSLError) as error:
                if not was_connected:
                    raise unreachable(self._url(call), error, self._timeout_s) from error
            except ServiceProblem as problem:
                if problem.status != 503:
                    raise
            await sleep(pause_s)
            pause_s = next_pause_s(pause_s)

    async def shift(self, *, product: str | None = None, station: str | None = None) -> CurrentShift:
        """Return the counters of the current shift.

        Args:
            product: Only inspections of this product.
            station: Only inspections at this station.
        """
        params = given({"product": product, "station": station})
        return await self._load(CurrentShift, Call("GET", "/v1/inspections:shift", params))

    async def alarms(self, *, product: str | None = None, station: str | None = None) -> Sequence[AlarmRecord]:
        """Return what is abnormal now, the most severe first.

        Args:
            product: Leave out alarms of other products.
            station: Leave out alarms of other stations.
        """
        params = given({"product": product, "station": station})
        return (await self._load(AlarmList, Call("GET", "/v1/alarms", params))).items
