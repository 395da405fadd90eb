"""The quality check: whether an image may be judged by a recipe."""

from __future__ import annotations

from service.inspection.quality import QualityLimits, QualityViolation, find_violations
from service.inspection.records import PreparedImage
from service.recipes.recipe import Recipe


def check_quality(image: PreparedImage, bundle_limits: QualityLimits, recipe: Recipe) -> tuple[QualityViolation, ...]:
    """Compare an image's measured quality with the limits in force.

    It is the only implementation: the service, the threshold proposals and the command line all call it. Frozen frames
    are detected elsewhere, in the service, because that needs the previous images.

    Args:
        image: The image, decoded and measured.
        bundle_limits: The limits that follow from the bundle's calibration images, `Inspector.quality_limits`.
        recipe: Overrides some of these limits, switches checks off, and declares the expected image size.

    Returns:
        Every limit that the image violates; empty where it may be judged.
    """
    limits = recipe.quality.combine(bundle_limits, recipe.pixels)
    return find_violations(image.quality, image.image_wh, limits)
