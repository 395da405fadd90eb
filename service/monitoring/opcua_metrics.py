"""Metrics of the OPC UA server."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge


class OpcuaMetrics:
    """The metrics of the OPC UA server. They exist only if the server is configured.

    Args:
        registry: The registry that `/metrics` exposes.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.clients = Gauge("inspection_opcua_clients", "Connected OPC UA clients.", registry=registry)
        self.stations = Gauge("inspection_opcua_stations", "Stations in OPC UA.", registry=registry)
        self.updates = Counter(
            "inspection_opcua_updates_total", "Updates of a station's variables by an inspection.", registry=registry
        )
        self.coalesced = Counter(
            "inspection_opcua_coalesced_total",
            "Inspections that were replaced by a later one of their station before the variables were updated. The "
            "counters of the station include them.",
            registry=registry,
        )
        self.dropped = Counter(
            "inspection_opcua_dropped_total",
            "Inspections that were not published because the maximum number of stations is reached.",
            registry=registry,
        )
        self.refused_logins = Counter(
            "inspection_opcua_refused_logins_total",
            "Attempts to log in with a wrong user, password or certificate.",
            registry=registry,
        )
        self.closed = Counter(
            "inspection_opcua_closed_total",
            "Connections that were closed because the client does not read what it asks for.",
            registry=registry,
        )
