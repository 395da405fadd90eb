"""Reading responses, shared by the sync and the async side of the client."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from plumbline_client.errors import MissingExtra, ServiceProblem, ServiceUnreachable, UnexpectedResponse
from plumbline_client.schemas.product import Readiness

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Model = TypeVar("Model", bound=BaseModel)
DEFAULT_PAUSE_S = 1.0
"""Seconds until the next attempt where a 503 states no time."""


def retry_pause_s(response: httpx.Response, max_retry_after_s: float) -> float | None:
    """Return the seconds to wait before the request is sent again, or None if it must not be sent again.

    Only a 503 is temporary, and only if it does not demand a pause longer than `max_retry_after_s`.
    """
    if response.status_code != 503:
        return None
    # The problem document states fractions of a second, the header only whole seconds.
    stated = ServiceProblem.of(response).problem.get("retry_after", response.headers.get("retry-after"))
    try:
        pause_s = max(0.0, float(stated))
    except (TypeError, ValueError):
        pause_s = DEFAULT_PAUSE_S
    return pause_s if pause_s <= max_retry_after_s else None


def unreachable(url: str, error: httpx.HTTPError | OSError, timeout_s: float) -> ServiceUnreachable:
    """Return the client's own error for a failure below HTTP."""
    if isinstance(error, httpx.TimeoutException):
        return ServiceUnreachable(url, f"no response within {timeout_s:g} s")
    return ServiceUnreachable(url, str(error) or type(error).__name__)


def parse(model: type[Model], content: bytes, url: str) -> Model:
    """Return the body of a successful response as a model.

    Raises:
        UnexpectedResponse: The body does not fit the model.
    """
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise UnexpectedResponse(url, f"{where}: {first['msg']}" if where else first["msg"]) from error


def parse_readiness(response: httpx.Response, url: str) -> Readiness:
    """Return the readiness, which a service that is not ready reports with a 503.

    Raises:
        ServiceProblem: The response is neither successful nor a readiness report.
        UnexpectedResponse: The response is successful but not a readiness report.
    """
    try:
        return parse(Readiness, response.content, url)
    except UnexpectedResponse:
        if not response.is_success:
            raise ServiceProblem.of(response) from None
        raise


def require_numpy() -> None:
    """Check that anomaly maps can be read, before one is requested.

    Raises:
        MissingExtra: numpy is not installed.
    """
    try:
        import numpy as np  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtra("anomaly_map()", "numpy", "numpy") from error


def parse_map(content: bytes, url: str) -> npt.NDArray[np.float32]:
    """Return an anomaly map, float32 `[h, w]`.

    Raises:
        UnexpectedResponse: The content is not in NumPy's `.npy` format.
    """
    import numpy as np

    try:
        loaded: npt.NDArray[np.float32] = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UnexpectedResponse(url, f"no array in NumPy's .npy format ({error})") from error
    return loaded
