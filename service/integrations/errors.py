"""Errors of integrations."""

from __future__ import annotations

from service.errors import PlumblineError


class SinksInvalid(Exception):
    """The file with the sinks (`PLUMBLINE_SINKS`) cannot be used, so the service does not start.

    Attributes:
        reason: What is wrong, and what was expected. It contains no secrets.
        detail: The reason as a sentence of its own.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        self.detail = f"The sinks cannot be used: {reason} `plumbline doctor` examines them."
        super().__init__(self.detail)


class SinkNotConfigured(PlumblineError):
    """The dead letter belongs to a sink that the service has no configuration of, so it cannot be sent again.

    Add the sink to the file that `PLUMBLINE_SINKS` names and restart the service, or discard the dead letter.
    """

    slug = "sink-not-configured"
    title = "Sink is not configured"
    status = 409

    def __init__(self, sink: str) -> None:
        super().__init__(
            f"The sink {sink!r} is not configured, so nothing can be sent to it. Add it to the file that "
            "PLUMBLINE_SINKS names and restart the service, or discard the dead letters.",
            sink=sink,
        )
