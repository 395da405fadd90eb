"""Refuse images that a bundle was made from as evidence for its thresholds."""

from __future__ import annotations

from collections.abc import Iterable

from service.bundle.images import ImageHashes
from service.errors import InvalidRequest

MAX_NAMED = 5


def refuse_known_images(known: ImageHashes | None, sent: Iterable[tuple[str, str]]) -> None:
    """Refuse images that the bundle was made from.

    The scores of training images are lower than those of new parts, and calibration images are already in the card: a
    threshold from either would reject more good parts than stated.

    Args:
        known: The images that the bundle was made from; None for a bundle that does not list them.
        sent: Name and SHA-256 (hex) of every image of the proposal.

    Raises:
        InvalidRequest: At least one image is known; the first ones are named.
    """
    if known is None:
        return
    found = [(name, role) for name, sha256 in sent if (role := known.role_of(sha256)) is not None]
    if not found:
        return
    named = ", ".join(f"{name} ({role})" for name, role in found[:MAX_NAMED])
    more = f" and {len(found) - MAX_NAMED} more" if len(found) > MAX_NAMED else ""
    raise InvalidRequest(
        f"The bundle was made from {len(found)} of these images: {named}{more}. A threshold must be derived from good "
        "parts that training and calibration did not use. Leave these images out, or propose from the "
        "calibration card.",
        [
            {"loc": [name], "msg": f"The bundle was made from this image ({role}).", "type": "known-image"}
            for name, role in found[:MAX_NAMED]
        ],
    )
