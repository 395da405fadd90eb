"""Removed records over HTTP: their links, and reports about their time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from plumbline_client import Client
from service.store.ids import created_at
from service.store.record_removal.pieces import old_records, remove_piece
from service.store.store import Store
from tests.access import bearer, make_key, problem_of
from tests.running_service import RunningService, run_service
from tests.service.store.test_record_removal import OLD, add_bare

NOW = datetime.now(UTC)
GERMAN = {"accept": "text/html", "accept-language": "de"}


def add_before(data: Path, *ages: timedelta) -> list[UUID]:
    """Store inspections before the service starts, so that drift monitoring has not to count them."""
    store = Store.open(f"sqlite:///{data / 'plumbline.db'}", data)
    ids = [add_bare(store, age, station="A") for age in ages]
    store.close()
    return ids


@pytest.fixture(scope="module")
def removed(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningService, UUID]]:
    """A service from which an inspection was removed, and its id."""
    data = tmp_path_factory.mktemp("data")
    (gone,) = add_before(data, OLD)
    with run_service(tiny_models, data) as running:
        assert running.inspect(params={"station": "A"}).status_code == 201
        for piece in old_records(running.store.engine, "widget", NOW - timedelta(days=365)):
            assert remove_piece(running.store.engine, piece, running.store.writer.between_commits) == 1
        yield running, gone


def period(days: float, length: float) -> dict[str, str]:
    start = NOW - timedelta(days=days)
    return {"since": start.isoformat(), "until": (start + timedelta(days=length)).isoformat()}


def test_every_endpoint_of_a_removed_inspection_says_so(removed: tuple[RunningService, UUID]) -> None:
    service, gone = removed
    for suffix in ("", "/image", "/map", "/heatmap", "/preview?layer=image", "/why", "/reviews", "/shadow-heatmap"):
        response = service.client.get(f"/v1/inspections/{gone}{suffix}")
        assert problem_of(response) == (410, "inspection-removed"), suffix
    for action, body in ((":review", {"label": "good"}), (":replay", None)):
        assert problem_of(service.client.post(f"/v1/inspections/{gone}{action}", json=body)) == (
            410,
            "inspection-removed",
        )
    problem = service.client.get(f"/v1/inspections/{gone}").json()
    assert problem["inspection_id"] == str(gone)
    assert "PLUMBLINE_RECORD_DAYS" in problem["detail"]
    assert problem_of(service.client.get("/v1/inspections/ffffffff-ffff-7fff-bfff-ffffffffffff"))[0] == 404
    newer = UUID(int=int((NOW - timedelta(days=10)).timestamp() * 1000) << 80 | 7 << 76 | 2 << 62)
    assert problem_of(service.client.get(f"/v1/inspections/{newer}")) == (404, "unknown-inspection")


@pytest.mark.parametrize("language", ["en", "de"])
def test_link_to_a_removed_inspection_opens_a_page_that_explains_it(
    removed: tuple[RunningService, UUID], language: str
) -> None:
    service, gone = removed
    response = service.client.get(f"/inspections/{gone}", headers=GERMAN | {"accept-language": language})
    assert response.status_code == 410
    words = {"en": "records of inspections of that time were removed", "de": "Datensätze ihrer Zeit wurden entfernt"}
    assert words[language] in response.text


def test_counts_of_removed_time_say_that_records_are_missing(removed: tuple[RunningService, UUID]) -> None:
    service, gone = removed
    summary, report = "/v1/inspections:summary", "/v1/products/widget/report"
    for path, params in ((summary, {"by": "day"}), (report, {}), ("/v1/reviews:rates", {"product": "widget"})):
        found = service.fetch(path, **period(401, 3), **params)
        assert datetime.fromisoformat(found["records_removed_until"]) == created_at(gone), path
        assert service.fetch(path, **period(398, 3), **params)["records_removed_until"] is None
    assert service.fetch(summary, **period(401, 3), product="nut")["records_removed_until"] is None
    with Client(f"http://127.0.0.1:{service.port}") as plumbline:
        start = NOW - timedelta(days=401)
        counted = plumbline.summary(since=start, until=start + timedelta(days=3))
        assert counted.records_removed_until is not None


def test_export_of_removed_time_says_that_records_are_missing(removed: tuple[RunningService, UUID]) -> None:
    service, gone = removed
    export, name = "/v1/inspections:export", "X-Plumbline-Records-Removed-Until"
    found = service.client.get(export, params=period(401, 3))
    assert found.status_code == 200
    assert datetime.fromisoformat(found.headers[name]) == created_at(gone)
    assert name not in service.client.get(export, params=period(398, 3)).headers
    assert name not in service.client.get(export, params={"product": "nut"}).headers


def test_report_as_a_page_and_as_csv_says_that_records_are_missing(removed: tuple[RunningService, UUID]) -> None:
    service, gone = removed

    def text(days: float, **params: Any) -> str:
        response = service.client.get("/v1/products/widget/report", params={**period(days, 3), **params})
        assert response.status_code == 200
        return response.text

    words = {"en": "were removed for their age. Counts, rates", "de": "wegen ihres Alters entfernt. Zahlen, Raten"}
    for language, expected in words.items():
        assert expected in text(401, format="html", language=language)
        assert expected not in text(398, format="html", language=language)
    (line,) = [row for row in text(401, format="csv").splitlines() if "records_removed_until" in row]
    assert f"{created_at(gone):%Y-%m-%d}" in line


def test_pages_say_that_records_are_missing(removed: tuple[RunningService, UUID]) -> None:
    service, _ = removed
    for path in ("/inspections", "/inspections:counts"):
        params = {"since": f"{NOW - timedelta(days=401):%Y-%m-%dT%H:%M}", "until": f"{NOW - OLD:%Y-%m-%dT23:59}"}
        page = service.client.get(path, headers=GERMAN, params=params).text
        assert "wegen ihres Alters entfernt, außer denen" in page, path
    assert "wegen ihres Alters" not in service.client.get("/inspections:counts", headers=GERMAN).text
    figures = service.client.get("/products/widget/report/figures", headers=GERMAN, params=period(401, 3)).text
    assert "wegen ihres Alters entfernt. Zahlen" in figures


def test_key_that_is_restricted_cannot_tell_a_removed_inspection_from_one_of_others(
    tiny_models: Path, tmp_path: Path
) -> None:
    kept, gone = add_before(tmp_path / "data", OLD + timedelta(days=1), OLD)
    with run_service(tiny_models, tmp_path / "data") as service:
        service.inspect()
        (piece,) = old_records(service.store.engine, "widget", NOW - timedelta(days=365))
        assert set(piece.removable) == {str(gone), str(kept)}
        remove_piece(service.store.engine, replace(piece, removable=(str(gone),)))
        created = service.client.post("/v1/access/keys", json={"name": "root", "scopes": ["admin"]})
        assert created.status_code == 201, "from now on, requests need a key"
        key = bearer(make_key(service.store.engine, "inspect", stations=["B"]))
        with httpx.Client(base_url=service.client.base_url) as client:
            removed, other = (client.get(f"/v1/inspections/{one}", headers=key) for one in (gone, kept))
        assert problem_of(removed) == problem_of(other) == (410, "inspection-removed")
