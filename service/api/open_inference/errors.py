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
