"""Uploads of bundles that take disk space and places: one that trickles, and six at once.

    python -m benchmarks.faults.bundle_uploads

Prints one line: the status of an upload that states more than the free disk space, of six uploads at once, and when an
upload of one byte a second is ended. The limits are lowered so that the script takes seconds.
"""

from __future__ import annotations

import shutil
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

from benchmarks.faults.hostile_bundles import archived, tiny_contents
from benchmarks.faults.processes import attacked_service, scratch, upload
from tests.serving import ServiceProcess

HEAD = (
    "POST /v1/products/widget/bundles HTTP/1.1\r\nHost: localhost\r\n"
    "Content-Type: application/zip\r\nContent-Length: {}\r\n\r\n"
)
TIMEOUT_S = 5


def main() -> None:
    """Run the attacks and print the figures."""
    with scratch() as (models, data):
        archive = archived(tiny_contents(data.parent / "scratch", "widget"))
        free = shutil.disk_usage(models).free
        with attacked_service(
            models, data, upload_timeout_s=str(TIMEOUT_S), min_free_bytes=str(max(0, free - 900 * 2**20))
        ) as service:
            service.wait_until(200)
            with connected(service, 500 * 2**20) as large:
                full = int(large.recv(12).split()[1])
            with ThreadPoolExecutor(6) as pool:
                statuses = Counter(
                    response.status_code for response in pool.map(lambda _: upload(service, archive), range(6))
                )
            seconds, status = trickle(service)
            again = upload(service, archive).status_code
    print(  # noqa: T201
        f"archive of 500 MiB on a disk with 900 MiB to spare: {full}; six uploads at once: "
        f"{dict(sorted(statuses.items()))}; one byte a second: {status} after {seconds:.1f} s (limit {TIMEOUT_S} s), "
        f"then {again}"
    )


def connected(service: ServiceProcess, length: int) -> socket.socket:
    """Connect and send the head of an upload."""
    address = urlsplit(service.url)
    assert address.hostname is not None
    assert address.port is not None
    connection = socket.create_connection((address.hostname, address.port), timeout=30)
    connection.sendall(HEAD.format(length).encode())
    return connection


def trickle(service: ServiceProcess) -> tuple[float, int]:
    """Send an archive of 10 kB with one byte a second. Return when it is answered, and the status."""
    since = time.monotonic()
    with connected(service, 10_000) as connection:
        connection.settimeout(1)
        while time.monotonic() - since < 60:
            connection.sendall(b"x")
            try:
                status = int(connection.recv(12).split()[1])
            except TimeoutError:
                continue
            return time.monotonic() - since, status
    return float("inf"), 0


if __name__ == "__main__":
    main()
