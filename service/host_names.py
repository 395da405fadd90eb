"""Host names and IP addresses, as they stand in URLs and in the `Host` header."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable
from functools import lru_cache

_IPV6_PREFIX = 64
_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,252}[a-z0-9])?")


def is_address(host: str) -> bool:
    """Return whether a host is an IP address, without brackets."""
    try:
        ipaddress.ip_address(host)  # with the zone of an IPv6 address
    except ValueError:
        return False
    return True


def is_host_name(host: str) -> bool:
    """Return whether a text in lower case has the form of a host name."""
    return _NAME.fullmatch(host) is not None


def machine_names(allowed: Iterable[str]) -> frozenset[str]:
    """Return the names of this machine in lower case.

    Args:
        allowed: Further names that are configured.
    """
    return frozenset({socket.gethostname().lower(), socket.getfqdn().lower(), *allowed})


def is_loopback(host: str) -> bool:
    """Return whether a server that listens on this host is reachable from this machine only."""
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return host.lower() == "localhost"
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def parse_host(text: str) -> str:
    """Return a host in the form in which hosts are compared: lower case, without brackets and without final dot.

    Raises:
        ValueError: It is neither a host name nor an IP address.
    """
    host = text.strip().lower().rstrip(".").removeprefix("[").removesuffix("]")
    if not is_address(host) and not is_host_name(host):
        raise ValueError(f"{text!r} is not a host name; give names without scheme and port, such as line-pc.local")
    return host


def parse_origin(text: str) -> str:
    """Return an origin in the form in which browsers send it.

    Raises:
        ValueError: It is not an origin.
    """
    scheme, separator, rest = text.strip().lower().rstrip("/").partition("://")
    host, _, port = rest.partition(":") if not rest.startswith("[") else (rest.partition("]")[0], "", "")
    if not separator or scheme not in {"http", "https"} or "/" in rest or (port and not port.isdecimal()):
        raise ValueError(f"{text!r} is not an origin; give scheme, host and port, such as https://mes.example:8443")
    parse_host(host)
    return f"{scheme}://{rest}"


@lru_cache(maxsize=4096)
def client_of_address(address: str) -> str:
    """Return the identity of a client by its IP address; of IPv6 addresses, the network counts.

    A host usually has a whole IPv6 network of 64 bits and could use a new address for each request.
    """
    if ":" not in address:
        return address
    try:
        parsed = ipaddress.IPv6Address(address)
    except ValueError:
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(parsed), _IPV6_PREFIX), strict=False))
