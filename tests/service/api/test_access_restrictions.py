"""Keys that are restricted to products and stations."""

from __future__ import annotations

import csv
import io
import zipfile
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from service.serving import exports
from service.store.inspections import read_columns
from tests.access import bearer, make_key, problem_of
from tests.running_service import GOOD, INSPECT, RunningService

ME = "/v1/access/me"
HELLO = '{"type": "hello"}'


def test_lists_contain_what_a_restricted_key_permits(secured: RunningService, anonymous: httpx.Client) -> None:
    engine = secured.store.engine
    for station in ("a", "b"):
        assert secured.inspect(params={"station": station}).status_code == 201
    assert secured.inspect().status_code == 201
    of_station = make_key(engine, "inspect", stations=["a"])
    of_other = make_key(engine, "inspect", products=["gadget"])
    items = anonymous.get("/v1/inspections", headers=bearer(of_station)).json()["items"]
    assert {item["station"] for item in items} == {"a"}
    assert anonymous.get("/v1/inspections", headers=bearer(of_other)).json()["items"] == []
    assert anonymous.get("/v1/products", headers=bearer(of_other)).json()["items"] == []
    assert len(anonymous.get("/v1/products", headers=bearer(of_station)).json()["items"]) == 1


def test_summaries_and_exports_contain_what_a_restricted_key_permits(
    secured: RunningService, anonymous: httpx.Client
) -> None:
    engine = secured.store.engine
    for station in ("x", "x", "y"):
        assert secured.inspect(params={"station": station}).status_code == 201
    of_station = bearer(make_key(engine, "inspect", stations=["x"]))
    of_other = bearer(make_key(engine, "inspect", products=["gadget"]))
    groups = anonymous.get("/v1/inspections:summary", params={"by": "station"}, headers=of_station).json()["groups"]
    assert [(group["name"], group["total"]) for group in groups] == [("x", 2)]
    rows = anonymous.get("/v1/inspections:export", headers=of_station).text.splitlines()[1:]
    assert len(rows) == 2
    assert all(",x," in row for row in rows)
    assert anonymous.get("/v1/inspections:summary", headers=of_other).json()["total"]["total"] == 0
    assert len(anonymous.get("/v1/inspections:export", headers=of_other).text.splitlines()) == 1
    for path in ("/v1/inspections:summary", "/v1/inspections:export"):
        refused = anonymous.get(path, params={"product": "widget"}, headers=of_other)
        assert problem_of(refused) == (403, "not-permitted")


def test_reviews_are_evaluated_for_what_a_restricted_key_permits(
    secured: RunningService, anonymous: httpx.Client
) -> None:
    engine = secured.store.engine
    mine, other = (secured.inspect(params={"station": station}).json()["id"] for station in ("r1", "r2"))
    free = bearer(make_key(engine, "review"))  # of another name: a reviewer is not asked twice
    for name, kind in ((mine, "scratch"), (other, "dent")):
        body = {"label": "defect", "kind": kind}
        assert anonymous.post(f"/v1/inspections/{name}:review", json=body, headers=free).status_code == 201

    def read(report: str, key: dict[str, str], product: str = "widget") -> httpx.Response:
        return anonymous.get(f"/v1/reviews:{report}", params={"product": product}, headers=key)

    of_station = bearer(make_key(engine, "inspect", "review", stations=["r1"]))
    of_product = bearer(make_key(engine, "inspect", "review", products=["widget"]))
    of_other = bearer(make_key(engine, "inspect", "review", products=["gadget"]))
    assert {item["inspection_id"] for item in read("queue", of_station).json()["items"]} == {mine}
    assert {item["inspection_id"] for item in read("queue", of_product).json()["items"]} >= {mine, other}
    assert read("kinds", of_station).json()["items"] == [{"kind": "scratch", "reviews": 1}]
    assert {item["kind"] for item in read("kinds", of_product).json()["items"]} == {"scratch", "dent"}
    (reviewer,) = read("agreement", of_station).json()["reviewers"]
    assert reviewer["labels"]["defect"] == 1
    assert read("rates", of_station).json()["inspections"] == 1
    with zipfile.ZipFile(io.BytesIO(read("export", of_station).content)) as archive:
        rows = list(csv.DictReader(io.TextIOWrapper(archive.open("manifest.csv"))))
    assert [(row["inspection_id"], row["kind"]) for row in rows] == [(mine, "scratch")]
    for report in ("queue", "kinds", "agreement", "rates", "export"):
        assert problem_of(read(report, of_other)) == (403, "not-permitted")
        assert read(report, of_product).status_code == 200


def test_export_ends_when_its_key_is_revoked(
    secured: RunningService, anonymous: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = make_key(secured.store.engine, "inspect")
    for _ in range(4):
        secured.inspect()

    def read_and_revoke(*args: Any, **options: Any) -> Any:
        found = read_columns(*args, **options)
        if options["before"] is not None:
            secured.app.state.access.revoke_key(key.record.id)
        return found

    monkeypatch.setattr(exports, "PAGE", 1)
    monkeypatch.setattr(exports, "read_columns", read_and_revoke)
    with pytest.raises(httpx.RemoteProtocolError):
        anonymous.get("/v1/inspections:export", headers=bearer(key))


def test_inspection_of_another_station_is_reported_as_unknown(secured: RunningService, anonymous: httpx.Client) -> None:
    mine, other = (secured.inspect(params={"station": station}).json()["id"] for station in ("mine", "other"))
    key = bearer(make_key(secured.store.engine, "inspect", stations=["mine"]))
    for suffix in ("", "/heatmap", "/map", "/image"):
        assert anonymous.get(f"/v1/inspections/{mine}{suffix}", headers=key).status_code == 200
        refused = anonymous.get(f"/v1/inspections/{other}{suffix}", headers=key)
        assert problem_of(refused) == (404, "unknown-inspection")
    ghost = "01890000-0000-7000-8000-000000000000"
    missing = anonymous.get(f"/v1/inspections/{ghost}", headers=key).json()["detail"]
    assert missing == anonymous.get(f"/v1/inspections/{other}", headers=key).json()["detail"].replace(other, ghost)


def test_station_of_the_part_is_filled_in_or_must_be_permitted(
    secured: RunningService, anonymous: httpx.Client
) -> None:
    engine = secured.store.engine
    one = bearer(make_key(engine, "inspect", stations=["s1"])) | {"content-type": "image/png"}
    two = bearer(make_key(engine, "inspect", stations=["s1", "s2"])) | {"content-type": "image/png"}

    def send(headers: dict[str, str], url: str = INSPECT, **options: Any) -> httpx.Response:
        return anonymous.post(url, headers=headers, content=GOOD, **options)

    assert send(one).json()["station"] == "s1"
    assert send(two, params={"station": "s2"}).json()["station"] == "s2"
    for headers, params in ((two, {}), (two, {"station": "s3"}), (one, {"station": "s2"})):
        response = send(headers, params=params)
        assert problem_of(response) == (403, "not-permitted")
        assert "'s1'" in response.json()["detail"]
    form = {key: value for key, value in one.items() if key != "content-type"}
    files = {"image": ("a.png", GOOD, "image/png")}
    refused = anonymous.post(INSPECT, headers=form, files=files, data={"station": "s2"})
    assert problem_of(refused) == (403, "not-permitted"), "a field of the form overrides the query"
    batch = anonymous.post(f"{INSPECT}:batch", headers=form, files=files)
    assert batch.json()["items"][0]["inspection"]["station"] == "s1"
    refused = anonymous.post(f"{INSPECT}:batch", headers=form, files=files, params={"station": "s2"})
    assert problem_of(refused) == (403, "not-permitted")


def test_unknown_product_names_only_products_that_the_key_permits(
    secured: RunningService, anonymous: httpx.Client
) -> None:
    engine = secured.store.engine
    foreign = bearer(make_key(engine, "inspect", "engineer", products=["ghost"]))
    for path in (
        "/v1/products/ghost/inspections",
        "/v1/products/ghost/inspections:batch",
        "/2020-11-20/projects/ghost/models/1/detect",
    ):
        response = anonymous.post(path, headers=foreign | {"content-type": "image/png"}, content=GOOD)
        assert response.status_code == 404
        assert "ghost" in response.text
        assert "widget" not in response.text
    for path in ("/v1/products/ghost", "/v2/models/ghost", "/v1/inspections?product=ghost"):
        response = anonymous.get(path, headers=foreign)
        assert response.status_code == 404
        assert "widget" not in response.text
        assert response.headers["content-length"] == str(len(response.content))
    with pytest.raises(InvalidStatus) as caught:
        connect(f"ws://127.0.0.1:{secured.port}/v1/products/ghost/stream", additional_headers=foreign)
    assert b"widget" not in (caught.value.response.body or b"")
    permitted = bearer(make_key(engine, "review", "inspect", products=["ghost", "widget"]))
    assert anonymous.get("/v1/products/ghost", headers=permitted).json()["known"] == ["widget"]
    free = bearer(make_key(engine, "inspect"))
    assert "Known products: widget." in anonymous.get("/v1/products/ghost", headers=free).json()["detail"]


def test_stream_is_restricted_and_ends_when_its_key_is_revoked(secured: RunningService) -> None:
    key = make_key(secured.store.engine, "inspect", stations=["s1", "s2"])
    url = f"ws://127.0.0.1:{secured.port}/v1/products/widget/stream"
    with connect(url, additional_headers=bearer(key)) as stream:
        stream.send('{"type": "hello", "part": {"station": "s1"}}')
        assert '"ready"' in str(stream.recv())
        stream.send(GOOD)
        assert '"station":"s1"' in str(stream.recv())
        stream.send('{"type": "frame", "part": {"station": "s9"}}')
        stream.send(GOOD)
        assert "not-permitted" in str(stream.recv()), "of this frame only"
        secured.client.post(f"/v1/access/keys/{key.record.id}:revoke")
        stream.send(GOOD)
        assert "invalid-key" in str(stream.recv())
        with pytest.raises(ConnectionClosed):
            stream.recv()
