"""Bundles that unpack or claim to unpack to gigabytes, uploaded over HTTP.

    python -m benchmarks.faults.inflated_bundle

Prints one line: the status of each response and the peak of the service's resident memory above its value before.
"""

from __future__ import annotations

import json
import zipfile

from benchmarks.faults.hostile_bundles import archived, golden_bomb, golden_claim, tiny_contents
from benchmarks.faults.processes import PeakMemory, attacked_service, scratch, upload
from service.bundle.manifest import MANIFEST

GOLDEN_BYTES = 4 * 10**9
CLAIMED_BYTES = 120 * 10**9
MANIFEST_BYTES = 100 * 10**6


def main() -> None:
    """Run the attacks and print the figures."""
    with scratch() as (models, data):
        bomb = tiny_contents(data.parent / "bomb", "widget", golden=golden_bomb(GOLDEN_BYTES))
        claim = tiny_contents(data.parent / "claim", "widget", golden=golden_claim(CLAIMED_BYTES))
        manifest = json.loads(claim[MANIFEST])
        manifest["training"]["config"] = {"note": "x" * MANIFEST_BYTES}
        attacks = {
            f"golden sample of {GOLDEN_BYTES / 1e9:g} GB": archived(bomb, zipfile.ZIP_STORED),
            f"header claiming {CLAIMED_BYTES / 1e9:g} GB": archived(claim),
            f"manifest of {MANIFEST_BYTES / 1e6:g} MB": archived(claim | {MANIFEST: json.dumps(manifest).encode()}),
        }
        results = []
        with attacked_service(models, data) as service:
            service.wait_until(200)
            for name, archive in attacks.items():
                before = service.rss_bytes()
                with PeakMemory(service.process.pid) as peak:
                    status = upload(service, archive).status_code
                grown = max(0, peak.own_bytes - before) / 2**20
                results.append(f"{name} ({len(archive) / 2**20:.1f} MiB sent): {status}, +{grown:.0f} MiB")
    print("; ".join(results))  # noqa: T201


if __name__ == "__main__":
    main()
