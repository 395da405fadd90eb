"""Errors of the Open Inference Protocol."""

from __future__ import annotations

from service.errors import PlumblineError


class InvalidInferRequest(PlumblineError):
    """The body of an inference request does not follow the Open Inference Protocol v2, or its tensors are no images.

    The message names the tensor. `GET /v2/models/{model}` describes inputs and outputs.
    """

    slug = "invalid-infer-request"
    title = "Invalid inference request"
    status = 400

    def __init__(self, reason: str) -> None:
        super().__init__(f"{reason} GET /v2/models/MODEL describes inputs and outputs.")


class VersionNotActive(PlumblineError):
    """The requested version of a model is not the active bundle of the product.

    Other bundles do not inspect images. Request the active version, or leave the version out; where the path always has
    a version, request `active`.
    """

    slug = "version-not-active"
    title = "Version is not active"
    status = 404

    def __init__(
        self, product: str, version: str, active: str | None, advice: str = "Leave the version out to use it."
    ) -> None:
        offer = "No bundle is active." if active is None else f"The active version is {active}."
        super().__init__(
            f"Version {version!r} of {product!r} is not the active bundle. {offer} {advice}",
            product=product,
            version=version,
            active=active,
        )
