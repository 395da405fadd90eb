"""A stored recipe with a field that this version does not have, as after a downgrade.

    python -m benchmarks.faults.unreadable_recipe

Prints one line: what becomes of the product with this recipe and of the products after it.
"""

from __future__ import annotations

import json
import sqlite3

import httpx

from benchmarks.faults.endless_bundle import is_ready
from benchmarks.faults.processes import attacked_service, scratch, wait_for
from tests.bundles import write_tiny_bundle

PRODUCTS = ("anvil", "widget", "zipper")


def main() -> None:
    """Change the stored recipe of the first product and print what a start makes of it."""
    with scratch() as (models, data):
        for product in ("anvil", "zipper"):
            write_tiny_bundle(models, product)
        with attacked_service(models, data) as service:
            service.wait_until(200)
            service.terminate()
        with sqlite3.connect(data / "plumbline.db") as database:
            (table,) = [
                name
                for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
                if name.startswith("recipe")
            ]
            (stored,) = database.execute(f"SELECT recipe FROM {table} WHERE product = 'anvil'").fetchone()  # noqa: S608
            changed = json.dumps(json.loads(stored) | {"invented_later": 1})
            database.execute(f"UPDATE {table} SET recipe = ? WHERE product = 'anvil'", (changed,))  # noqa: S608
        with attacked_service(models, data) as service:
            waited = wait_for(lambda: all(is_ready(service.url, name) for name in PRODUCTS[1:]), 60)
            ready = httpx.get(f"{service.url}/health/ready")
            product = httpx.get(f"{service.url}/v1/products/anvil").json()
    print(  # noqa: T201
        f"unreadable recipe of one of {len(PRODUCTS)} products: the others are ready after {waited:.1f} s, readiness "
        f"{ready.status_code} {ready.json()['status']}, the product is {product['status']} and names "
        f"{product['broken_bundles'][0]['type']}"
    )


if __name__ == "__main__":
    main()
