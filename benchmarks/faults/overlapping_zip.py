"""A zip file of 60 kB whose 400 entries share the bytes of one image.

    python -m benchmarks.faults.overlapping_zip

Prints one line: the status of the response and the number of inspections.
"""

from __future__ import annotations

import io
import zipfile

import httpx
import numpy as np

from benchmarks.faults.processes import ZIP, attacked_service, scratch
from tests.running_service import encode

ENTRIES = 400


def main() -> None:
    """Send the archive and print what became of it."""
    noise = np.random.default_rng(0).integers(0, 256, (140, 140, 3), np.uint8)
    archive = overlapping(encode(noise), ENTRIES)
    with scratch() as (models, data), attacked_service(models, data) as service:
        service.wait_until(200)
        url = f"{service.url}/v1/products/widget/inspections:batch"
        response = httpx.post(url, content=archive, headers=ZIP, timeout=120)
        items = httpx.get(f"{service.url}/v1/inspections", params={"limit": 500}).json()["items"]
    print(  # noqa: T201
        f"zip file of {len(archive) / 1000:.0f} kB with {ENTRIES} overlapping entries: {response.status_code}, "
        f"{len(items)} inspections"
    )


def overlapping(image: bytes, count: int) -> bytes:
    """Return a zip file with one image and `count` directory entries that all refer to it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("0.png", image)
        (entry,) = archive.infolist()
        for _ in range(count - 1):
            copy = zipfile.ZipInfo(entry.filename)
            copy.CRC, copy.compress_size, copy.file_size = entry.CRC, entry.compress_size, entry.file_size
            copy.header_offset = entry.header_offset
            archive.filelist.append(copy)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
