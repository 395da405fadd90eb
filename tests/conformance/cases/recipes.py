"""Recipes: a change is in force at every replica when it is answered."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from typing import Any

import httpx

from tests.conformance.deployments import WHO, Deployment
from tests.conformance.products import ServedProduct
from tests.problems import assert_problem
from tests.running_service import BAD, HttpService


def change(product: ServedProduct, service: HttpService, etag: str, **values: Any) -> httpx.Response:
    return service.client.put(f"{product.path}/recipe", json=WHO | values, headers={"if-match": etag})


def etag(product: ServedProduct, service: HttpService) -> str:
    response = service.client.get(f"{product.path}/recipe")
    assert response.status_code == 200, response.text
    return response.headers["etag"]


def test_every_replica_judges_by_the_new_revision_at_once(deployment: Deployment, product: ServedProduct) -> None:
    for number, changing in enumerate(deployment.replicas):
        lax = number % 2 == 0
        thresholds = {"fail_threshold": 9.0, "review_threshold": 8.0} if lax else {"target_false_reject_rate": 0.01}
        changed = change(product, changing, etag(product, changing), **thresholds)
        assert changed.status_code == 200, changed.text
        for judging in deployment.replicas:
            verdict = product.judge(judging, BAD)
            assert verdict["recipe_revision"] == changed.json()["revision"]
            assert verdict["decision"] == ("pass" if lax else "fail")
            assert etag(product, judging) == changed.headers["etag"]


def test_change_of_an_outdated_revision_is_refused_at_every_replica(
    deployment: Deployment, product: ServedProduct
) -> None:
    old = etag(product, deployment.service)
    assert change(product, deployment.service, old, fail_threshold=2.0, review_threshold=1.0).status_code == 200
    for replica in deployment.replicas:
        refused = change(product, replica, old, fail_threshold=3.0, review_threshold=1.0)
        assert_problem(refused, 412, "recipe-conflict")
        assert replica.fetch(f"{product.path}/recipe")["recipe"]["fail_threshold"] == 2.0


def test_one_of_simultaneous_changes_wins(deployment: Deployment, product: ServedProduct) -> None:
    before = etag(product, deployment.service)
    targets = list(islice(cycle(deployment.replicas), 6))

    def send(numbered: tuple[int, HttpService]) -> httpx.Response:
        number, replica = numbered
        return change(product, replica, before, fail_threshold=2.0 + number, review_threshold=1.0)

    with ThreadPoolExecutor(len(targets)) as pool:
        sent = list(pool.map(send, enumerate(targets)))
    assert sorted(response.status_code for response in sent) == [200, *[412] * (len(targets) - 1)]
    (won,) = (response.json() for response in sent if response.status_code == 200)
    for replica in deployment.replicas:
        recipe = replica.fetch(f"{product.path}/recipe")
        assert (recipe["revision"], recipe["recipe"]) == (won["revision"], won["recipe"])


def test_revisions_are_listed_compared_and_reverted(deployment: Deployment, product: ServedProduct) -> None:
    first, last = deployment.replicas[0], deployment.replicas[-1]
    original = first.fetch(f"{product.path}/recipe")
    changed = change(product, first, etag(product, first), fail_threshold=9.0, review_threshold=8.0).json()
    revisions = f"{product.path}/recipe/revisions"
    listed = [replica.fetch(revisions)["items"] for replica in deployment.replicas]
    assert all(items == listed[0] for items in listed)
    assert [item["revision"] for item in listed[0]][:2] == [changed["revision"], original["revision"]]
    differences = last.fetch(f"{revisions}/{original['revision']}/diff/{changed['revision']}")["differences"]
    assert "fail_threshold" in {item["path"] for item in differences}
    reverted = last.client.post(f"{revisions}/{original['revision']}:revert", json=WHO)
    assert reverted.status_code == 200, reverted.text
    for replica in deployment.replicas:
        verdict = product.judge(replica, BAD)
        assert (verdict["recipe_revision"], verdict["decision"]) == (reverted.json()["revision"], "fail")


def test_preview_decides_stored_inspections_again(deployment: Deployment, product: ServedProduct) -> None:
    ids = {product.judge(replica, BAD)["id"] for replica in deployment.replicas}
    for replica in deployment.replicas:
        response = replica.client.post(
            f"{product.path}/recipe:preview", json={"fail_threshold": 9.0, "review_threshold": 8.0}
        )
        assert response.status_code == 200, response.text
        changed = response.json()["verdicts"]["changed"]
        assert {item["id"]: item["after"] for item in changed} == dict.fromkeys(ids, "pass")
        assert replica.fetch(f"{product.path}/recipe")["recipe"]["fail_threshold"] < 1, "nothing was changed"
