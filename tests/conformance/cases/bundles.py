"""Bundles and products: uploaded, activated, rolled back and compared while several replicas serve."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from tests.conformance.deployments import Deployment
from tests.conformance.products import ServedProduct, make_product
from tests.problems import assert_problem
from tests.running_service import BAD, GOOD, HttpService

WAIT_S = 60.0


def states(product: ServedProduct, replica: HttpService) -> dict[str, str]:
    return {item["version"]: item["state"] for item in replica.fetch(f"{product.path}/bundles")["items"]}


def names_of_products(replica: HttpService) -> set[str]:
    return {item["product"] for item in replica.fetch("/v1/products")["items"]}


def test_product_that_is_created_at_run_time_is_known_at_once(deployment: Deployment, tmp_path: Path) -> None:
    made = make_product(deployment, tmp_path)
    for replica in deployment.replicas:
        assert_problem(made.inspect(replica), 404, "unknown-product")
    first, last = deployment.replicas[0], deployment.replicas[-1]
    assert_problem(made.upload(first, made.old), 404, "unknown-product")
    assert made.upload(first, made.old, create_product="true").status_code == 201
    for replica in deployment.replicas:
        assert replica.fetch(made.path)["status"] == "inactive"
        assert states(made, replica) == {made.old.version: "available"}
        assert replica.fetch(f"{made.path}/recipe/revisions")["items"] == []
        assert replica.fetch("/v1/inspections", product=made.name)["items"] == []
        assert_problem(made.inspect(replica), 503, "product-not-ready")
    # Lists follow within about a second.
    wait_for(lambda: all(made.name in names_of_products(replica) for replica in deployment.replicas))
    assert made.activate(last, made.old).status_code == 200
    for replica in deployment.replicas:
        verdict = made.judge(replica)
        assert (verdict["product"], verdict["bundle"]["version"]) == (made.name, made.old.version)


def test_no_image_is_judged_by_the_old_bundle_after_an_activation(
    deployment: Deployment, product: ServedProduct
) -> None:
    first, last = deployment.replicas[0], deployment.replicas[-1]
    assert product.upload(last, product.new).status_code == 201
    activated = product.activate(first, product.new)
    assert activated.status_code == 200, activated.text
    for replica in deployment.replicas:
        verdict = product.judge(replica)
        assert verdict["bundle"]["digest"] == product.new.digest
        assert verdict["recipe_revision"] == activated.json()["recipe_revision"]
        expected = {product.new.version: "active", product.old.version: "available"}
        wait_for(lambda: states(product, replica) == expected)  # noqa: B023
    rolled_back = product.change(last, "bundles:rollback")
    assert (rolled_back.status_code, rolled_back.json()["version"]) == (200, product.old.version)
    for replica in deployment.replicas:
        assert product.judge(replica)["bundle"]["digest"] == product.old.digest
        history = replica.fetch(f"{product.path}/bundles:history")["items"]
        versions = [item["version"] for item in history][:3]
        assert versions == [product.old.version, product.new.version, product.old.version]


def test_inspection_is_replayed_with_its_own_bundle_at_every_replica(
    deployment: Deployment, product: ServedProduct
) -> None:
    verdicts = [product.judge(replica, image) for replica in deployment.replicas for image in (GOOD, BAD)]
    assert product.upload(deployment.service, product.new).status_code == 201
    assert product.activate(deployment.service, product.new).status_code == 200
    for replica in deployment.replicas:
        for verdict in verdicts:
            response = replica.client.post(f"/v1/inspections/{verdict['id']}:replay")
            assert response.status_code == 200, response.text
            replayed = response.json()
            assert (replayed["outcome"], replayed["score_difference"]) == ("same", 0)
            assert replayed["bundle"]["digest"] == product.old.digest
            assert replayed["replayed"]["decision"] == verdict["decision"]


def test_shadow_judges_the_images_of_every_replica(deployment: Deployment, product: ServedProduct) -> None:
    assert product.upload(deployment.service, product.new).status_code == 201
    assert product.change(deployment.replicas[0], f"bundles/{product.new.version}:shadow").status_code == 200

    def shadows() -> list[str]:
        return [replica.fetch(f"{product.path}/bundles")["shadow"] for replica in deployment.replicas]

    # Another replica loads it within a second or two: a shadow has no effect, so nothing is refused meanwhile.
    wait_for(lambda: set(shadows()) == {product.new.version})
    ids = {product.judge(replica, BAD)["id"] for replica in deployment.replicas}
    wait_for(lambda: pairs(product, deployment.service) == len(ids))
    stopped = product.change(deployment.replicas[-1], "bundles:stop-shadow")
    assert stopped.status_code == 200, stopped.text
    wait_for(lambda: set(shadows()) == {None})


def pairs(product: ServedProduct, service: HttpService) -> int:
    return int(service.fetch(f"{product.path}/bundles:compare")["pairs"])


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_upload_that_is_no_bundle_changes_nothing(deployment: Deployment, shared_product: ServedProduct) -> None:
    headers = {"content-type": "application/zip"}
    for content in (b"", b"PK but no zip"):
        refused = deployment.service.client.post(f"{shared_product.path}/bundles", content=content, headers=headers)
        assert refused.status_code == 422
    for replica in deployment.replicas:
        assert states(shared_product, replica) == {shared_product.old.version: "active"}
