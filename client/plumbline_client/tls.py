"""TLS settings, for HTTP and for the WebSocket alike."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import httpx

from plumbline_client.credentials import CA_FILE

FilePath = str | os.PathLike[str]
Verify = bool | FilePath | ssl.SSLContext
Cert = FilePath | tuple[FilePath, FilePath] | tuple[FilePath, FilePath, str]


def tls_context(verify: Verify, cert: Cert | None) -> ssl.SSLContext:
    """Return the TLS context for a client.

    httpx deprecated paths as `verify` and the argument `cert` in favour of an `ssl.SSLContext`, which websockets takes
    as well, so the context is made here, once for both.

    Args:
        verify: True: verify with the CA certificates of PLUMBLINE_CA_FILE, of SSL_CERT_FILE or SSL_CERT_DIR, or of
            certifi, whichever is set first. False: do not verify. A path: verify with this PEM file or this folder of
            CA certificates. A context is used as it is.
        cert: Client certificate: a PEM file with certificate and key, or (certificate, key), or (certificate, key,
            password of the key). It is loaded into the context.

    Raises:
        ValueError: A file cannot be read or is not a certificate.
    """
    source = "verify"
    if verify is True and (named := os.environ.get(CA_FILE)):
        verify, source = named, CA_FILE
    if isinstance(verify, ssl.SSLContext):
        context = verify
    elif isinstance(verify, bool):
        context = httpx.create_ssl_context(verify=verify)
    else:
        path = os.fspath(verify)
        try:
            if Path(path).is_dir():
                context = ssl.create_default_context(capath=path)
            else:
                context = ssl.create_default_context(cafile=path)
        except OSError as error:
            raise ValueError(
                f"{source}: no CA certificate can be read from {path}: it is missing or not in PEM format"
            ) from error
    if cert is not None:
        files = (cert,) if isinstance(cert, str | os.PathLike) else cert
        try:
            context.load_cert_chain(*files)
        except OSError as error:
            raise ValueError(
                f"cert: no client certificate can be read from {os.fspath(files[0])}: the file is "
                "missing or not in PEM format, or key or password do not match"
            ) from error
    return context
