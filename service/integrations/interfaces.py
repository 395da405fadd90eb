"""The interfaces that receive every stored inspection at once: OPC UA and OpenTelemetry."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from service.integrations.opcua.start import Opcua, open_opcua
from service.integrations.opcua.state import ReadState
from service.integrations.otel.start import Telemetry, open_telemetry
from service.settings import Settings
from service.store.completed import Listener, PartIds
from service.store.records import InspectionRecord


class Interfaces:
    """The interfaces that are configured. Without one it costs nothing.

    Args:
        opcua: The OPC UA server; None if it is not configured.
        telemetry: The export to an OpenTelemetry collector; None if none is configured.
    """

    def __init__(self, opcua: Opcua | None = None, telemetry: Telemetry | None = None) -> None:
        self.opcua = opcua
        self.telemetry = telemetry

    @property
    def listeners(self) -> list[Listener]:
        """What receives every stored inspection."""
        listeners: list[Listener] = [] if self.opcua is None else [self.opcua.board.publish]
        return listeners if self.telemetry is None else [*listeners, self.telemetry.record]

    @property
    def part_ids(self) -> PartIds | None:
        """What announces part ids of images; None if nothing does."""
        return None if self.opcua is None else self.opcua.board.part_id

    def traceparent(self, record: InspectionRecord) -> str | None:
        """Return the header `traceparent` of messages about an inspection; None if it belongs to no trace."""
        return record.traceparent if self.telemetry is None else self.telemetry.traceparent(record)

    def start(self, read_state: ReadState) -> None:
        """Start the threads, and open the endpoint.

        Args:
            read_state: Returns the state of the service.

        Raises:
            CannotStart: The endpoint cannot be opened.
        """
        if self.telemetry is not None:
            self.telemetry.start()
        if self.opcua is not None:
            self.opcua.start(read_state)

    def close(self) -> None:
        """Send what is pending and close all connections, within a limited time."""
        if self.opcua is not None:
            self.opcua.close()
        if self.telemetry is not None:
            self.telemetry.close()


def open_interfaces(settings: Settings, registry: CollectorRegistry) -> Interfaces:
    """Return the interfaces that the settings configure. They are not started yet.

    Args:
        settings: The settings.
        registry: The registry that `/metrics` exposes.

    Raises:
        CannotStart: The settings cannot be put into effect.
    """
    return Interfaces(open_opcua(settings, registry), open_telemetry(settings, registry))
