"""A bundle whose graph does not end, uploaded over HTTP and copied into the model repository.

    python -m benchmarks.faults.endless_bundle

Prints one line: the response to the upload of a `Loop` of 2^62 rounds, how long the other product waits at a start with
a bundle that multiplies matrices for minutes, and how long the process takes to end after SIGTERM.
"""

from __future__ import annotations

import time
from pathlib import Path

import httpx

from benchmarks.faults.hostile_bundles import archived, looping_model, slow_model, tiny_contents, write_unchecked
from benchmarks.faults.processes import attacked_service, scratch, upload, wait_for


def main() -> None:
    """Run the attack and print the figures."""
    with scratch() as (models, data):
        loop = tiny_contents(data.parent / "loop", "gear", model=looping_model("gear"))
        with attacked_service(models, data) as service:
            service.wait_until(200)
            unasked = upload(service, archived(loop), "gear")
            asked = upload(service, archived(loop), "gear", create_product="true")
        copy_slow_bundle(models, data.parent)
        with attacked_service(models, data, shutdown_delay_s="0") as service:
            waited = wait_for(lambda: is_ready(service.url, "widget"), 60)
            hanging = httpx.get(f"{service.url}/v1/products/gear").json()["status"]
            since = time.monotonic()
            code = service.terminate(timeout_s=60)
            stopped = time.monotonic() - since
    print(  # noqa: T201
        f"Loop of 2^62 rounds: upload {unasked.status_code}, with create_product {asked.status_code}; at a start "
        f"beside an endless bundle ({hanging}) the other product is ready after {waited:.1f} s; SIGTERM ends the "
        f"process after {stopped:.1f} s with exit code {code}"
    )


def copy_slow_bundle(models: Path, folder: Path) -> None:
    """Copy a bundle of allowed operators that runs for many minutes into the model repository."""
    write_unchecked(models, "gear", tiny_contents(folder / "slow", "gear", model=slow_model("gear")))


def is_ready(url: str, product: str) -> bool:
    """Return whether a product is served."""
    return bool(httpx.get(f"{url}/v1/products/{product}").json()["status"] == "ready")


if __name__ == "__main__":
    main()
