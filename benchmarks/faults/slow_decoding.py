"""Small files that take long to decode: a progressive JPEG with 3,000 scans, and a TIFF with 60,000 one-row strips.

    python -m benchmarks.faults.slow_decoding

Sends each file 4 times at once, and a good part beside them. Prints one line per file: the statuses, how long the
slowest response took, and how long the good part waited.
"""

from __future__ import annotations

import io
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import tifffile

from benchmarks.faults.processes import attacked_service, scratch
from tests.running_service import GOOD
from tests.service.inspection.decoding.test_jpeg import scan_bomb

COPIES = 4
TIMEOUT_S = 120


def main() -> None:
    """Send the files and print what became of them."""
    files = {"JPEG with 3,000 scans": scan_bomb(4000, 3000), "TIFF with 60,000 strips": strips(60_000)}
    with scratch() as (models, data), attacked_service(models, data) as service:
        service.wait_until(200)
        url = f"{service.url}/v1/products/widget/inspections"
        for name, content in files.items():
            with ThreadPoolExecutor(COPIES + 1) as pool:
                slow = [pool.submit(_send, url, content) for _ in range(COPIES)]
                time.sleep(0.05)
                status, waited_s = pool.submit(_send, url, GOOD).result()
                results = [future.result() for future in slow]
            statuses = sorted({code for code, _ in results})
            print(  # noqa: T201
                f"{name}, {len(content) / 1000:.0f} kB: {statuses}, slowest {max(s for _, s in results):.2f} s; "
                f"good part {status} after {waited_s:.2f} s"
            )


def strips(rows: int) -> bytes:
    """Return a TIFF file that is one pixel wide and has a strip per row."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (rows, 1), np.uint8)
    tifffile.imwrite(buffer, pixels, photometric="minisblack", rowsperstrip=1, compression="zlib")
    return buffer.getvalue()


def _send(url: str, content: bytes) -> tuple[int, float]:
    started = time.monotonic()
    headers = {"content-type": "application/octet-stream"}
    response = httpx.post(url, content=content, headers=headers, timeout=TIMEOUT_S)
    return response.status_code, time.monotonic() - started


if __name__ == "__main__":
    main()
