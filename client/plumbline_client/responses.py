"""Reading responses, shared by the sync and the async side of the client."""

from __future__ import annotations

import io
import socket
import ssl
from typing import TYPE_CHECKING, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from plumbline_client.errors import UNKNOWN, MissingExtra, ServiceProblem, ServiceUnreachable, UnexpectedResponse
from plumbline_client.schemas.product import Readiness
from plumbline_client.schemas.violations import describe_violations, list_violations

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Model = TypeVar("Model", bound=BaseModel)
DEFAULT_PAUSE_S = 1.0
"""Seconds until the next attempt where the 503 of a proxy states no time."""


def retry_pause_s(response: httpx.Response, max_retry_after_s: float) -> float | None:
    """Return the seconds to wait before the request is sent again, or None if it must not be sent again.

    Only a 503 is temporary, and only if it does not demand a pause longer than `max_retry_after_s`. The service states
    no time where waiting does not help; a proxy may state none in any case.
    """
    if response.status_code != 503:
        return None
    problem = ServiceProblem.of(response)
    # The problem document states fractions of a second, the header only whole seconds.
    stated = problem.problem.get("retry_after", response.headers.get("retry-after"))
    if stated is None and problem.slug != UNKNOWN:
        return None
    try:
        pause_s = max(0.0, float(stated))
    except (TypeError, ValueError):
        pause_s = DEFAULT_PAUSE_S
    return pause_s if pause_s <= max_retry_after_s else None


def unreachable(url: str, error: httpx.HTTPError | OSError, timeout_s: float) -> ServiceUnreachable:
    """Return the client's own error for a failure below HTTP."""
    if isinstance(error, httpx.TimeoutException):
        return ServiceUnreachable(url, f"no response within {timeout_s:g} s")
    return ServiceUnreachable(url, failure_reason(error, url))


_CLOSED = "the connection was closed before a response arrived"
_CA_REMEDY = (
    "Give the CA certificate that signed it with PLUMBLINE_CA_FILE, --ca-file of the commands, or verify= of the client"
)

# X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH and X509_V_ERR_CERT_HAS_EXPIRED of OpenSSL.
_OTHER_NAME = {62, 64}
_EXPIRED = 10

# The first kind that is found in the chain of causes, in this order.
_REASONS: tuple[tuple[type[BaseException], str], ...] = (
    (ssl.SSLCertVerificationError, "the TLS certificate of the service cannot be verified"),
    (
        ssl.SSLError,
        "the TLS handshake failed; a client certificate may be required, or the port needs a URL with http://",
    ),
    (socket.gaierror, "the host name is unknown"),
    (ConnectionRefusedError, "the connection was refused"),
    (ConnectionError, _CLOSED),
    (TimeoutError, "no response in time"),
    (httpx.RemoteProtocolError, f"{_CLOSED}, or it is not HTTP"),
    (httpx.ReadError, _CLOSED),
    (httpx.UnsupportedProtocol, "the URL does not begin with http:// or https://"),
)


def failure_reason(error: BaseException, url: str) -> str:
    """Return what failed below HTTP, in plain words. The exception of the library remains the cause."""
    chain = [error]
    for item in chain:  # the list grows while it is iterated
        causes = [item.__cause__, item.__context__, *getattr(item, "exceptions", ())]
        chain += [each for each in causes if each is not None and each not in chain]
    for kind, reason in _REASONS:
        found = next((item for item in chain if isinstance(item, kind)), None)
        if found is None:
            continue
        if isinstance(found, ssl.SSLCertVerificationError):
            return f"{reason}: {_certificate_problem(found)}"
        if reason.startswith(_CLOSED) and url.startswith(("http://", "ws://")):
            return f"{reason}; if the port uses TLS, its URL begins with https://"
        return reason
    return "no connection could be established"


def _certificate_problem(error: ssl.SSLCertVerificationError) -> str:
    code = getattr(error, "verify_code", None)
    if code in _OTHER_NAME:
        return "it is not valid for the host name in the URL. Use one of the names in the certificate"
    if code == _EXPIRED:
        return "it has expired, or the clock of this machine is wrong"
    return f"no known CA signed it. {_CA_REMEDY}"


def parse(model: type[Model], content: bytes, url: str) -> Model:
    """Return the body of a successful response as a model.

    Raises:
        UnexpectedResponse: The body does not fit the model.
    """
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        violations = list_violations(error)[:1]
        raise UnexpectedResponse(url, describe_violations(violations, "the body")) from error


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
    except Exception as error:  # numpy evaluates the header as a Python literal, which fails in many ways
        raise UnexpectedResponse(url, "the body is not a complete array in NumPy's .npy format") from error
    if loaded.dtype != np.float32 or loaded.ndim != 2:
        found = f"{loaded.dtype} with {loaded.ndim} axes"
        raise UnexpectedResponse(url, f"the array is {found}, expected float32 with 2 axes")
    return loaded
