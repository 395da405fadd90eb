"""Inspections, wherever they are sent to and read from."""

from __future__ import annotations

import csv
import io
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice

import httpx
import numpy as np
import pyarrow.parquet as pq

from plumbline_client import Client
from tests.conformance.deployments import Deployment
from tests.problems import assert_problem
from tests.running_service import BAD, GOOD, INSPECT

BATCH = f"{INSPECT}:batch"


def test_inspection_is_read_at_every_replica(deployment: Deployment) -> None:
    for sent_to in deployment.replicas:
        verdict = sent_to.inspect(BAD, params={"part_id": deployment.new_name(), "lot": "L"}).json()
        assert verdict["decision"] == "fail"
        links = verdict["links"]
        drawn = []
        for read_from in deployment.replicas:
            assert read_from.fetch(links["self"]) == verdict
            assert read_from.client.get(links["image"]).content == BAD
            anomaly_map = np.load(io.BytesIO(read_from.client.get(links["map"]).content), allow_pickle=False)
            assert (anomaly_map.dtype, anomaly_map.shape) == (np.float32, (16, 16))
            heatmap = read_from.client.get(links["heatmap"], params={"format": "png"})
            assert heatmap.headers["content-type"] == "image/png"
            preview = read_from.client.get(f"{links['self']}/preview", params={"max_side": 64})
            assert preview.status_code == 200, preview.text
            drawn.append((heatmap.content, preview.content))
        assert len(set(drawn)) == 1


def test_request_that_is_repeated_at_another_replica_is_inspected_once(deployment: Deployment) -> None:
    key = deployment.new_name("key")
    sent = [replica.inspect(headers={"idempotency-key": key}) for replica in deployment.replicas]
    assert {response.status_code for response in sent} == {201}
    assert len({response.json()["id"] for response in sent}) == 1
    assert "idempotency-replayed" not in sent[0].headers
    assert all(response.headers["idempotency-replayed"] == "true" for response in sent[1:])
    for replica in deployment.replicas:
        other = replica.inspect(BAD, headers={"idempotency-key": key})
        assert assert_problem(other, 422, "idempotency-key-used")["inspection"] == sent[0].json()["id"]


def test_simultaneous_repeats_at_all_replicas_are_inspected_once(deployment: Deployment) -> None:
    part = deployment.new_name()
    targets = list(islice(cycle(deployment.replicas), 12))
    with ThreadPoolExecutor(len(targets)) as pool:
        sent = list(
            pool.map(lambda one: one.inspect(params={"part_id": part}, headers={"idempotency-key": part}), targets)
        )
    assert {response.status_code for response in sent} == {201}, [response.text for response in sent]
    assert len({response.json()["id"] for response in sent}) == 1
    assert len(deployment.service.fetch("/v1/inspections", part_id=part)["items"]) == 1


def test_lists_summaries_and_exports_have_the_inspections_of_all_replicas(deployment: Deployment) -> None:
    lot = deployment.new_name("lot")
    ids = [
        replica.inspect(image, params={"lot": lot}).json()["id"]
        for replica in deployment.replicas
        for image in (GOOD, BAD)
    ]
    newest_first = sorted(ids, reverse=True)
    for replica in deployment.replicas:
        found: list[str] = []
        cursor: dict[str, str] = {}
        while True:
            page = replica.fetch("/v1/inspections", lot=lot, limit=3, **cursor)
            found += [item["id"] for item in page["items"]]
            if page["next_cursor"] is None:
                break
            cursor = {"cursor": page["next_cursor"]}
        assert found == newest_first
        failed = replica.fetch("/v1/inspections", lot=lot, decision="fail", limit=500)["items"]
        assert {item["id"] for item in failed} < set(ids)
        assert len(failed) == len(ids) / 2
        assert replica.fetch("/v1/inspections:summary", lot=lot)["total"]["total"] == len(ids)
        exported = replica.client.get("/v1/inspections:export", params={"lot": lot})
        rows = csv.DictReader(io.StringIO(exported.text, newline=""))
        assert [row["id"] for row in rows] == newest_first
        parquet = replica.client.get("/v1/inspections:export", params={"lot": lot, "format": "parquet"})
        assert pq.read_table(io.BytesIO(parquet.content)).column("id").to_pylist() == newest_first


def test_pages_continue_at_another_replica(deployment: Deployment) -> None:
    lot = deployment.new_name("lot")
    ids = [deployment.service.inspect(params={"lot": lot}).json()["id"] for _ in range(4)]
    found: list[str] = []
    cursor: dict[str, str] = {}
    for replica in islice(cycle(deployment.replicas), 4):
        page = replica.fetch("/v1/inspections", lot=lot, limit=1, **cursor)
        found += [item["id"] for item in page["items"]]
        cursor = {"cursor": page["next_cursor"]}
    assert found == ids[::-1]


def test_batch_is_judged_in_order_at_every_replica(deployment: Deployment) -> None:
    files = [("image", (name, data, "image/png")) for name, data in (("a", BAD), ("b", b"no image"), ("c", GOOD))]
    for replica in deployment.replicas:
        response = replica.client.post(BATCH, files=files, params={"lot": "batch"})
        assert response.status_code == 200, response.text
        first, second, third = response.json()["items"]
        assert (first["inspection"]["decision"], third["inspection"]["decision"]) == ("fail", "pass")
        assert second["problem"]["type"].endswith("#not-an-image")


def test_many_cameras_at_once_lose_nothing(deployment: Deployment) -> None:
    lot = deployment.new_name("lot")
    targets = list(islice(cycle(deployment.replicas), 48))

    def send(numbered: tuple[int, int]) -> httpx.Response:
        index, number = numbered
        return targets[index].inspect(BAD if number % 3 == 0 else GOOD, params={"lot": lot, "part_id": str(number)})

    with ThreadPoolExecutor(12) as pool:
        sent = list(pool.map(send, ((index, index) for index in range(len(targets)))))
    assert {response.status_code for response in sent} == {201}
    for number, response in enumerate(sent):
        assert response.json()["part_id"] == str(number)
        assert response.json()["decision"] == ("fail" if number % 3 == 0 else "pass")
    stored = deployment.service.fetch("/v1/inspections", lot=lot, limit=500)["items"]
    assert {item["id"] for item in stored} == {response.json()["id"] for response in sent}


def test_client_inspects_and_reads(deployment: Deployment) -> None:
    part = deployment.new_name()
    with Client(deployment.addresses.url, api_key=deployment.key) as plumbline:
        verdict = plumbline.inspect("widget", BAD, part_id=part)
        assert verdict.decision == "fail"
        assert [item.id for item in plumbline.inspections(part_id=part)] == [verdict.id]
        assert plumbline.image(verdict.id) == BAD
        assert plumbline.anomaly_map(verdict.id).shape == (16, 16)
        assert plumbline.replay(verdict.id).outcome == "same"
