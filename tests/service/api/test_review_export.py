"""Export of labelled images, and proposals from reviewed inspections."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from plumbline_client import Client
from service.reviews.layout import folder_of_kind, is_test_image
from service.serving import review_export
from service.store.records import InspectionRecord
from service.store.retention import mark_removed
from tests.bundles import part
from tests.command_line import run
from tests.proposals import good_part, propose
from tests.running_service import BAD, RunningService, encode, run_service
from tests.service.api.test_reviews import inspect, report, review
from training.dataset import scan, scan_test


@pytest.fixture
def service(tiny_models: Path, tmp_path: Path) -> Iterator[RunningService]:
    with run_service(tiny_models, tmp_path / "data") as running:
        yield running


def export(service: RunningService, **params: Any) -> zipfile.ZipFile:
    response = service.client.get("/v1/reviews:export", params={"product": "widget"} | params)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/zip"
    archive = zipfile.ZipFile(io.BytesIO(response.content))
    assert archive.testzip() is None
    return archive


def manifest_of(archive: zipfile.ZipFile) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(archive.read("manifest.csv").decode(), newline="")))


@pytest.mark.slow
def test_export_is_a_data_set_for_training_and_evaluation(service: RunningService, tmp_path: Path) -> None:
    day, expected = datetime(2026, 3, 1, 8, tzinfo=UTC), Counter[str]()
    contents: dict[str, bytes] = {}
    for number in range(34):
        taken = {"captured_at": (day + timedelta(days=number % 3)).isoformat()}
        image = good_part(number)
        name = service.inspect(image, params=taken).json()["id"]
        review(service, name, "good")
        contents[name] = image
    for number, kind in enumerate(("Scratch", "scratch", "../etc", None)):
        image = encode(part(spot=(10 + number, 20, 8)))
        name = inspect(service, image)
        review(service, name, "defect", **({} if kind is None else {"kind": kind}))
        contents[name] = image
        expected[{"Scratch": "scratch", "../etc": "etc"}.get(str(kind), kind or "defect")] += 1
    review(service, inspect(service), "unsure")
    inspect(service)

    out = tmp_path / "set"
    done = run("reviews", "export", "--product", "widget", "--out", out, "--url", f"http://127.0.0.1:{service.port}")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("38 images in")
    found = scan(out, held_out_min=5)
    assert (found.grouped_by, found.duplicates) == ("date-in-name", ())
    test = scan_test(out)
    kinds = Counter(image.defect for image in test)
    assert {kind: count for kind, count in kinds.items() if kind != "good"} == expected
    assert len(found.train) + len(found.held_out) + kinds["good"] == 34
    assert kinds["good"] >= 1
    assert all(image.mask is None for image in test)
    for path in [*found.train, *found.held_out, *(image.path for image in test)]:
        date, _, name = path.stem.partition("_")
        assert path.read_bytes() == contents[name]
        stored = service.client.get(f"/v1/inspections/{name}").json()
        assert date == (stored["captured_at"] or stored["created_at"])[:10]
    assert sorted(path.name for path in out.iterdir()) == ["manifest.csv", "test", "train"]
    rows = list(csv.DictReader(io.StringIO((out / "manifest.csv").read_text(encoding="utf-8"), newline="")))
    assert {row["inspection_id"] for row in rows} == set(contents)
    assert all((out / row["file"]).is_file() for row in rows)
    again = run("reviews", "export", "--product", "widget", "--out", out, "--url", f"http://127.0.0.1:{service.port}")
    assert (again.exit_code, "not an empty folder" in again.stderr) == (2, True)


def test_export_lists_images_that_are_no_longer_stored(service: RunningService) -> None:
    kept, removed, lost = (inspect(service, good_part(number)) for number in range(3))
    for name in (kept, removed, lost):
        review(service, name, "good")
    mark_removed(service.store.engine, [UUID(removed)], datetime.now(UTC))
    for name in (removed, lost):
        service.store.files.unlink(UUID(name), "image/png")

    archive = export(service, test_share=0)
    rows = {row["inspection_id"]: row for row in manifest_of(archive)}
    assert {name: bool(row["file"]) for name, row in rows.items()} == {kept: True, removed: False, lost: False}
    assert rows[lost]["problem"] == "image no longer stored"
    assert archive.namelist() == [rows[kept]["file"], "manifest.csv"]
    assert rows[kept]["file"].startswith("train/good/")
    assert manifest_of(export(service, test_share=1))[0]["file"].startswith("test/good/")


def test_camera_buffers_are_exported_as_png(service: RunningService) -> None:
    buffer = {"X-Pixel-Format": "Mono8", "X-Width": "64", "X-Height": "64"}
    name = service.inspect(bytes([120]) * 4096, headers=buffer).json()["id"]
    review(service, name, "good")

    archive = export(service)
    (row,) = manifest_of(archive)
    assert row["file"].endswith(f"_{name}.png")
    assert archive.read(row["file"]).startswith(b"\x89PNG")


def test_export_is_selected_by_time_refused_when_empty_or_busy_and_makes_no_body_for_head(
    service: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = service.inspect(good_part(1)).json()
    second = service.inspect(good_part(2)).json()
    params = {"product": "widget"}
    refused = service.client.get("/v1/reviews:export", params=params)
    assert (refused.status_code, "nothing to export" in refused.json()["detail"]) == (422, True)
    for row in (first, second):
        review(service, row["id"], "defect", kind="=cmd()")
    (row,) = manifest_of(export(service, since=second["created_at"]))
    assert (row["inspection_id"], row["kind"], row["file"].split("/")[1]) == (second["id"], "'=cmd()", "cmd")
    (row,) = manifest_of(export(service, until=second["created_at"]))
    assert row["inspection_id"] == first["id"]
    head = service.client.head("/v1/reviews:export", params=params)
    assert (head.status_code, head.headers["content-type"]) == (200, "application/zip")
    for _ in range(review_export.MAX_EXPORTS + 1):
        export(service)
    monkeypatch.setattr(service.services.reviews._exporter._slots, "acquire", lambda **_: False)
    busy = service.client.get("/v1/reviews:export", params=params)
    assert (busy.status_code, busy.json()["type"]) == (503, "/problems#reviews-busy")
    monkeypatch.setattr(review_export, "MAX_IMAGES", 1)
    many = service.client.get("/v1/reviews:export", params=params)
    assert (many.status_code, "shorter periods" in many.json()["detail"]) == (422, True)


def test_export_has_one_image_in_memory_and_ends_when_the_client_disconnects(
    service: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        review(service, inspect(service, good_part(number)), "good")
    task = review_export.ExportTask("widget", None, None, 0.0)
    running = service.services.reviews.export(task)
    reads: list[str] = []
    original = service.store.files.image_of

    def read(record: InspectionRecord) -> bytes:
        reads.append(record.id)
        return original(record)

    monkeypatch.setattr(service.store.files, "image_of", read)
    pieces = running.pieces()
    next(pieces)
    assert len(reads) == 1, "the next image is read when the client has read this one"
    running.close()
    running.close()
    with service.client.stream("GET", "/v1/reviews:export", params={"product": "widget"}):
        pass
    for _ in range(review_export.MAX_EXPORTS + 1):
        export(service)


@pytest.mark.parametrize(
    ("kind", "folder"),
    [
        (None, "defect"),
        ("scratch", "scratch"),
        ("Deep Scratch / left", "deep_scratch_left"),
        ("../../etc/passwd", "etc_passwd"),
        ("good", "defect_good"),
        ("GOOD", "defect_good"),
        ("NUL", "defect_nul"),
        ("com1", "defect_com1"),
        ("...", "defect"),
        ("Kratzer groß", "kratzer_gross"),
        ("x" * 128, "x" * 64),
        ("傷", "傷"),
    ],
)
def test_names_of_kinds_are_valid_folders(kind: str | None, folder: str) -> None:
    assert folder_of_kind(kind) == folder


def test_split_is_that_of_the_content() -> None:
    shares = [is_test_image(str(number), 0.2) for number in range(2000)]

    assert sum(shares) / 2000 == pytest.approx(0.2, abs=0.03)
    assert not any(is_test_image(str(number), 0) for number in range(100))
    assert all(is_test_image(str(number), 1) for number in range(100))


def test_reviewed_false_rejects_join_a_proposal_and_defects_are_left_out(service: RunningService) -> None:
    passed = [inspect(service, encode(part(brightness=brightness))) for brightness in range(124, 132)]
    rejected, defective, disputed = (
        inspect(service, good_part(1)),
        inspect(service, BAD),
        inspect(service, good_part(2)),
    )
    review(service, rejected, "good")
    review(service, passed[0], "good")
    review(service, defective, "defect")
    review(service, disputed, "good", reviewer="Ada")
    review(service, disputed, "defect", reviewer="Bob")
    scores = {row["id"]: row["score"] for row in service.client.get("/v1/inspections").json()["items"]}
    chosen: dict[str, Any] = {"ids": [*passed, defective, disputed], "declared_good": True}

    plain = propose(service, target_false_reject_rate=0.1, inspections=chosen).json()
    assert plain["source"]["images"] == 10, "declared good by the author, whatever the label"
    assert (plain["source"]["reviewed_good"], plain["source"]["labelled_defect"]) == (0, [])
    joined = propose(service, target_false_reject_rate=0.1, inspections=chosen | {"include_reviewed_good": True})
    assert joined.status_code == 201, joined.text
    source = joined.json()["source"]
    assert (source["images"], source["reviewed_good"]) == (9, 1)
    assert source["labelled_defect"] == sorted([defective, disputed])
    assert joined.json()["thresholds"]["fail"] == scores[rejected]
    notes = " ".join(joined.json()["notes"])
    assert "1 of 9 images joined because reviews label them as good" in notes
    assert "2 inspections were left out" in notes

    with Client(f"http://127.0.0.1:{service.port}") as client:
        only = client.propose_thresholds(
            "widget", author="Ada", target_false_reject_rate=0.5, include_reviewed_good=True
        )
    assert (only.source.images, only.source.reviewed_good) == (2, 2)
    period = {"since": "2020-01-01T00:00:00Z", "until": "2020-01-02T00:00:00Z", "declared_good": True}
    assert propose(service, inspections=period | {"include_reviewed_good": True}).status_code == 422
    assert propose(service, inspections={"declared_good": True}).status_code == 422


@pytest.mark.slow
def test_reviews_on_the_command_line_and_with_the_client(service: RunningService, tmp_path: Path) -> None:
    name, other = inspect(service, BAD), inspect(service)
    at = ("--url", f"http://127.0.0.1:{service.port}")
    added = run("reviews", "add", name, "defect", "--kind", "dent", "--note", "deep", "--reviewer", "Ada", *at)
    assert (added.exit_code, added.stdout) == (0, "Review 1 by Ada: defect\n")
    assert run("reviews", "add", name, "wrong", *at).exit_code == 2
    run("reviews", "add", other, "good", "--reviewer", "Ada", *at)
    alone = run("reviews", "agreement", "--product", "widget", *at)
    assert "No two reviewers labelled the same inspection (reviewers so far: Ada)" in alone.stdout
    run("reviews", "add", name, "defect", "--reviewer", "Bob", *at)
    run("reviews", "add", other, "good", "--reviewer", "Bob", *at)
    agreement = run("reviews", "agreement", "--product", "widget", *at)
    assert ("Ada, Bob" in agreement.stdout, "alpha of all reviewers: 1.00" in agreement.stdout) == (True, True)
    assert "too few (fewer than 10)" in " ".join(agreement.stdout.split())
    rates = run("reviews", "rates", "--product", "widget", "--fail-threshold", "9", "--json", *at)
    assert [item["basis"] for item in json.loads(rates.stdout)["results"]] == ["decisions", "current", "proposed"]
    assert "as made" in run("reviews", "rates", "--product", "widget", *at).stdout
    queue = json.loads(run("reviews", "queue", "--product", "widget", "--json", *at).stdout)
    assert {item["inspection_id"] for item in queue["items"]} == {name, other}
    assert "2 of 2 inspections" in run("reviews", "queue", "--product", "widget", "--since", "2020-01-01", *at).stdout
    undone = run("reviews", "undo", name, "--reviewer", "Bob", *at)
    assert (undone.exit_code, undone.stdout) == (0, "The label of the inspection is now: defect\n")
    missing = run("reviews", "export", "--product", "gadget", "--out", tmp_path / "none", *at)
    assert (missing.exit_code, "There is no product 'gadget'" in missing.stderr) == (1, True)
    with Client(at[1]) as client:
        assert client.review(name, "unsure", reviewer="Eve", note="blurred").label == "unsure"
        assert client.undo_review(name, reviewer="Eve").label == "defect"
        assert [item.reviewer for item in client.reviews(name).items] == ["Eve", "Bob", "Ada"]
        assert [item.id for item in client.inspections(label="defect")] == [name]
        assert client.review_queue("widget", reviewer="Ada").total == 0
        assert client.review_rates("widget").results[0].miss.of == 1
        client.export_reviews("widget", tmp_path / "reviews.zip", test_share=0)
    assert len(zipfile.ZipFile(tmp_path / "reviews.zip").namelist()) == 3
    assert report(service, "agreement")["common"] == 1
    third = service.inspect(params={"part_id": "P-17", "station": "A2"}).json()["id"]
    table = run("reviews", "queue", "--product", "widget", *at).stdout
    (line,) = [line for line in table.splitlines() if third in line]
    assert ("P-17" in line, "A2" in line, "│" in table) == (True, True, False), "ids can be copied at 80 columns"
