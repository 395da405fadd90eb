"""Where images and anomaly maps are stored."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ArtefactOptions:
    """Where images and anomaly maps are stored, and the limits of requests to a remote file system.

    Attributes:
        url: URL of fsspec; empty for the folder `inspections` in the data folder.
        s3_endpoint_url: URL of an S3 server other than AWS; empty for AWS, or for the one in the environment.
        connect_timeout_s: Seconds that a connection may take.
        read_timeout_s: Seconds that a server may take to respond, or to send the next piece of a response.
        attempts: Most attempts of a request.
    """

    url: str = ""
    s3_endpoint_url: str = ""
    connect_timeout_s: float = 2.0
    read_timeout_s: float = 5.0
    attempts: int = 3

    @property
    def attempt_s(self) -> float:
        """Seconds that one attempt may take."""
        return self.connect_timeout_s + self.read_timeout_s

    @property
    def deadline_s(self) -> float:
        """Seconds after which a request fails, with all its attempts."""
        return self.attempts * self.attempt_s
