"""Events and camera streams: through every replica, about the inspections of all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from websockets.sync.client import ClientConnection, connect

from tests.conformance.deployments import Deployment
from tests.conformance.products import ServedProduct
from tests.events import follow
from tests.running_service import BAD, GOOD, HttpService


def add(service: HttpService, station: str) -> str:
    response = service.inspect(params={"station": station})
    assert response.status_code == 201, response.text
    identity: str = response.json()["id"]
    return identity


def test_events_of_every_replica_have_the_inspections_of_all(deployment: Deployment) -> None:
    for following in deployment.replicas:
        station = deployment.new_name("station")
        with follow(following.client, {"station": station}) as events:
            ids = {add(replica, station) for replica in deployment.replicas}
            found = events.take(len(ids))
        assert {event.data["id"] for event in found} == ids
        assert all(event.data == deployment.service.fetch(f"/v1/inspections/{event.data['id']}") for event in found)


def test_events_continue_at_another_replica(deployment: Deployment) -> None:
    station = deployment.new_name("station")
    first, last = deployment.replicas[0], deployment.replicas[-1]
    with follow(first.client, {"station": station}) as events:
        seen = add(last, station)
        assert events.take(1)[0].data["id"] == seen
        cursor = events.cursor
    missed = [add(replica, station) for replica in deployment.replicas]
    with follow(last.client, {"station": station}, after=cursor) as events:
        assert {event.data["id"] for event in events.take(len(missed))} == set(missed)


@contextmanager
def camera_of(deployment: Deployment, service: HttpService, product: ServedProduct) -> Iterator[ClientConnection]:
    base = str(service.client.base_url).rstrip("/").removeprefix("http")
    url = f"ws{base}{product.path}/stream"
    with connect(url, compression=None, additional_headers=deployment.headers) as camera:
        yield camera


def hear(camera: ClientConnection) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(camera.recv(timeout=30))
    return message


def test_camera_stream_is_judged_in_order_at_every_replica(
    deployment: Deployment, shared_product: ServedProduct
) -> None:
    for replica in [deployment.service, *deployment.replicas]:
        station = deployment.new_name("station")
        with camera_of(deployment, replica, shared_product) as camera:
            camera.send(json.dumps({"type": "hello", "part": {"station": station}}))
            assert hear(camera)["type"] == "ready"
            for frame in (GOOD, BAD, b"no image"):
                camera.send(frame)
            camera.send(json.dumps({"type": "end"}))
            first, second, third = (hear(camera) for _ in range(3))
        assert (first["inspection"]["decision"], second["inspection"]["decision"]) == ("pass", "fail")
        assert third["problem"]["type"].endswith("#not-an-image")
        stored = deployment.service.fetch("/v1/inspections", station=station)["items"]
        assert {item["id"] for item in stored} == {first["inspection"]["id"], second["inspection"]["id"]}
