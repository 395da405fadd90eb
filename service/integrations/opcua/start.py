"""Construct the OPC UA server from the settings. The library is imported only if the server is configured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from service.integrations.opcua.options import check_port, read_options
from service.integrations.opcua.state import ReadState
from service.integrations.opcua.stations import StationBoard
from service.monitoring.opcua_metrics import OpcuaMetrics
from service.settings import Settings

if TYPE_CHECKING:
    from service.integrations.opcua.server import OpcuaServer


class Opcua:
    """The stations and the server that shows them.

    Args:
        settings: The settings.
        registry: The registry that `/metrics` exposes.

    Attributes:
        board: The stations.
        server: The server; None before `start`.

    Raises:
        CannotStart: The settings cannot be put into effect.
    """

    def __init__(self, settings: Settings, registry: CollectorRegistry) -> None:
        options = read_options(settings)
        assert options is not None, "OPC UA is not configured"
        self._options = options
        self._metrics = OpcuaMetrics(registry)
        self.board = StationBoard(options.stations, options.max_stations, self._metrics)
        self.server: OpcuaServer | None = None

    def start(self, read_state: ReadState) -> None:
        """Open the endpoint.

        Args:
            read_state: Returns the state of the service.

        Raises:
            CannotStart: The endpoint cannot be opened.
        """
        # The library needs seconds to start; whether the port is free is checked before.
        check_port(self._options)
        from service.integrations.opcua.server import OpcuaServer

        self.server = OpcuaServer(self._options, self.board, read_state, self._metrics)
        self.server.start()

    def close(self) -> None:
        """Close all connections, within a limited time."""
        if self.server is not None:
            self.server.close()


def open_opcua(settings: Settings, registry: CollectorRegistry) -> Opcua | None:
    """Return the OPC UA server, which is not started yet; None if it is not configured.

    Raises:
        CannotStart: The settings cannot be put into effect.
    """
    return Opcua(settings, registry) if settings.opcua_endpoint else None
