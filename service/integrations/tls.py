"""TLS contexts of connections to receivers. Certificates are always verified."""

from __future__ import annotations

import ssl

from service.integrations.config import Tls
from service.integrations.errors import SinksInvalid


def client_context(tls: Tls, sink: str) -> ssl.SSLContext:
    """Return the context for the options of a sink.

    Args:
        tls: The options.
        sink: Name of the sink, for messages.

    Raises:
        SinksInvalid: A file cannot be read or is not what it should be.
    """
    try:
        context = ssl.create_default_context(cafile=tls.ca_file)
    except OSError as error:  # ssl.SSLError is one, too
        raise SinksInvalid(f"sink {sink!r}: tls.ca_file {tls.ca_file} {_reason(error, 'certificates')}.") from error
    if tls.cert_file is not None:
        try:
            # The password is never asked for in the terminal.
            context.load_cert_chain(tls.cert_file, tls.key_file, password=lambda: "")
        except OSError as error:
            files = f"{tls.cert_file}" + ("" if tls.key_file is None else f" with tls.key_file {tls.key_file}")
            what = "a certificate and its unencrypted private key"
            raise SinksInvalid(f"sink {sink!r}: tls.cert_file {files} {_reason(error, what)}.") from error
    return context


def _reason(error: OSError, expected: str) -> str:
    if isinstance(error, ssl.SSLError):
        return f"does not contain {expected} in PEM format"
    return f"cannot be read ({error.strerror})"
