"""MQTT topics, similar to Sparkplug: prefix, site, station, product, kind of message."""

from __future__ import annotations

import re

NO_STATION = "-"
"""Level of the topic for inspections without a station."""
# Beside what separates levels, the characters with which a broker may close the connection (MQTT 3.1.1, 1.5.3):
# control characters and noncharacters of Unicode.
_ESCAPED = re.compile(
    "[/+#%\x00-\x1f\x7f-\x9f\ufdd0-\ufdef"
    + "".join(chr(plane * 0x10000 + last) for plane in range(17) for last in (0xFFFE, 0xFFFF))
    + "]"
)


def escape(level: str) -> str:
    """Return a text as one level of a topic.

    `/`, the wildcards `+` and `#`, control characters, noncharacters of Unicode and `%` become `%XX` as in URLs, byte
    by byte in UTF-8. A text that would be the level for "no station" is escaped as well, so that different texts have
    different topics.
    """
    if level == NO_STATION:
        return "%2D"
    return _ESCAPED.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), level)


def verdict_topic(prefix: str, site: str, station: str | None, product: str) -> str:
    """Return the topic of the verdicts of a product at a station."""
    return f"{prefix}/{escape(site)}/{NO_STATION if station is None else escape(station)}/{escape(product)}/verdict"


def status_topic(prefix: str, site: str, client_id: str) -> str:
    """Return the topic with the retained state of a service: online or offline."""
    return f"{prefix}/{escape(site)}/{escape(client_id)}/status"


def test_topic(prefix: str, site: str, client_id: str) -> str:
    """Return the topic of test messages."""
    return f"{prefix}/{escape(site)}/{escape(client_id)}/test"
