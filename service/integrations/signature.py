"""Signatures of webhook requests."""

from __future__ import annotations

import hashlib
import hmac

EVENT_ID = "X-Plumbline-Event-Id"
EVENT_TYPE = "X-Plumbline-Event"
TIMESTAMP = "X-Plumbline-Timestamp"
SIGNATURE = "X-Plumbline-Signature"


def sign(secret: str, timestamp: str, body: bytes) -> str:
    """Return the value of the signature header: HMAC-SHA256 of `timestamp.body`, with the version of the scheme.

    Args:
        secret: The key, as text.
        timestamp: Seconds since 1970, as in the header.
        body: The body of the request.
    """
    return "v1=" + hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
