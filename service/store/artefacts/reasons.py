"""Reasons of failures of remote file systems in plain words. The messages of the libraries are for the log."""

from __future__ import annotations

from service.store.reasons import log_failure

# By the name of the class, because a backend that is not installed cannot be imported.
_BY_CLASS = {
    "FSTimeoutError": "it does not respond in time",
    "TimeoutError": "it does not respond in time",
    "ConnectTimeoutError": "it does not respond in time",
    "ReadTimeoutError": "it does not respond in time",
    "EndpointConnectionError": "no server listens there, or its name cannot be resolved",
    "ConnectionClosedError": "the connection was closed",
    "HTTPClientError": "the connection failed",
    "ConnectionError": "the connection failed",
    "ConnectionRefusedError": "no server listens there",
    "ConnectionResetError": "the connection was closed",
    "SSLError": "its certificate is not accepted",
    "NoCredentialsError": "no credentials were found",
    "PartialCredentialsError": "the credentials are incomplete",
    "ProfileNotFound": "the profile with the credentials does not exist",
    "PermissionError": "access is denied",
    "IsADirectoryError": "a folder has the name of the file",
}

_BY_CODE = {
    "NoSuchBucket": "the bucket does not exist",
    "AccessDenied": "access is denied",
    "403": "access is denied",
    "InvalidAccessKeyId": "the credentials are not valid",
    "SignatureDoesNotMatch": "the credentials are not valid",
    "ExpiredToken": "the credentials have expired",
    "RequestTimeTooSkewed": "the clock of this machine is wrong",
    "SlowDown": "it receives too many requests",
    "ServiceUnavailable": "the server is overloaded or stopping",
    "503": "the server is overloaded or stopping",
    "InternalError": "the server reports an internal error",
    "500": "the server reports an internal error",
}


def remote_reason(error: Exception) -> str:
    """Return why a remote file system failed, and log the message of the library, at most every 10 s."""
    log_failure("remote file system failure", error)
    if (code := code_of(error)) in _BY_CODE:
        return _BY_CODE[code]
    for kind in type(error).__mro__:
        if kind.__name__ in _BY_CLASS:
            return _BY_CLASS[kind.__name__]
    return "it reports an error; see the log"


def is_missing_bucket(error: Exception) -> bool:
    """Return whether not only the object is missing, but the bucket."""
    return code_of(error) == "NoSuchBucket"


def code_of(error: BaseException) -> str:
    """Return the error code of S3, or an empty text."""
    for candidate in (error, error.__cause__):
        response = getattr(candidate, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
    return ""
