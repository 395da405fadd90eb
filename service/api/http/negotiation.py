"""Content negotiation with the Accept header (RFC 9110, section 12.5.1)."""

from __future__ import annotations

from collections.abc import Sequence

from service.api.http.errors import NotAcceptable

# Names in use for media types that are registered under another name.
_ALIASES = {"image/jpg": "image/jpeg", "image/pjpeg": "image/jpeg", "image/x-png": "image/png"}


def negotiate(accept: str | None, offers: Sequence[str]) -> str:
    """Return the media type that the client prefers.

    Args:
        accept: The Accept header; without it, every media type is acceptable.
        offers: Available media types in the order of the service's preference, which decides between types that the
            client prefers equally.

    Raises:
        NotAcceptable: None of the offers is acceptable.
    """
    if not accept:
        return offers[0]
    ranges = [_parse(item) for item in accept.split(",") if item.strip()]
    # max() returns the first of equal items, which is the service's preference.
    best = max(offers, key=lambda offer: _quality(offer, ranges))
    if _quality(best, ranges) <= 0:
        raise NotAcceptable(accept, offers)
    return best


def _parse(item: str) -> tuple[str, float]:
    media_range, *parameters = (part.strip().lower() for part in item.split(";"))
    quality = 1.0
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                quality = float(parameter[2:])
            except ValueError:
                quality = 0.0
    return _ALIASES.get(media_range, media_range), quality


def _quality(offer: str, ranges: Sequence[tuple[str, float]]) -> float:
    """Return the quality of the most specific media range that includes the offer, or 0 without one."""
    kind = offer.split("/")[0]
    for wanted in (offer, f"{kind}/*", "*/*"):
        matches = [quality for media_range, quality in ranges if media_range == wanted]
        if matches:
            return matches[0]
    return 0.0
