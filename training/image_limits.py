"""Limits of the images that training decodes, for the whole process.

Training decodes images at many places and on several threads, always those of one product. A worker sets the limits of
the service whose job it does, so that an image which the service accepted is not refused later.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from service.inspection.decoding.decoder import ImageLimits

_limits = ImageLimits()


def image_limits() -> ImageLimits:
    """Return the limits that are in force."""
    return _limits


@contextmanager
def use_image_limits(limits: ImageLimits) -> Iterator[None]:
    """Put limits into force for the whole process, on all threads, and restore those before at the end."""
    global _limits  # see the docstring of the module
    before, _limits = _limits, limits
    try:
        yield
    finally:
        _limits = before
