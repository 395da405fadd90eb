"""Forms are read in memory, with limits on everything that a client controls."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tests.problems import assert_problem
from tests.running_service import GOOD, INSPECT, HttpService, RunningService

BOUNDARY = "frontier"


def form_part(name: str, content: bytes, *, filename: str | None = None, header: bytes = b"") -> bytes:
    disposition = f'Content-Disposition: form-data; name="{name}"' + (f'; filename="{filename}"' if filename else "")
    return f"--{BOUNDARY}\r\n{disposition}\r\n".encode() + header + b"\r\n" + content + b"\r\n"


IMAGE = form_part("image", GOOD, filename="a.png")
END = f"--{BOUNDARY}--\r\n".encode()


def post(service: HttpService, body: bytes, boundary: str = f"; boundary={BOUNDARY}") -> tuple[int, str]:
    response = service.client.post(INSPECT, content=body, headers={"content-type": f"multipart/form-data{boundary}"})
    return response.status_code, response.json().get("detail", "")


@pytest.mark.parametrize(
    "body",
    [
        IMAGE + END,
        form_part("image", GOOD) + END,  # a client that sends no file name
        form_part("lot", b"L") + IMAGE + form_part("part_id", "Größe 7".encode()) + END,
        form_part("image", GOOD, filename="a.png", header=b"Content-Type: text/plain\r\n") + END,
    ],
)
def test_form_with_an_image_is_inspected(service: HttpService, body: bytes) -> None:
    assert post(service, body) == (201, "")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (END, "no image"),
        (form_part("photo", b"x") + END, "Other fields: photo"),
        (form_part("image", b"", filename="a.png") + END, "no image"),
        (IMAGE + IMAGE + END, "twice"),
        (IMAGE, "cut off"),
        (IMAGE[: len(IMAGE) // 2], "cut off"),
        (b"no form at all", "cannot be read"),
        (b"".join(form_part(f"f{number}", b"x") for number in range(20)) + IMAGE + END, "more than 16 parts"),
        (form_part("lot", b"x" * 2000) + IMAGE + END, "longer than 1024 bytes"),
        (form_part("image", GOOD, header=b"X-Padding: " + b"x" * 3000 + b"\r\n") + END, "bytes of headers"),
        (form_part("lot", b"\xff\xfe") + IMAGE + END, "not UTF-8"),
        (form_part("lot", b"a\nb") + IMAGE + END, "lot"),
        (form_part("colour", b"red") + IMAGE + END, "colour"),
        (form_part("captured_at", b"yesterday") + IMAGE + END, "captured_at"),
        (f"--{BOUNDARY}\r\nContent-Type: image/png\r\n\r\nx\r\n".encode() + END, "no name"),
    ],
)
def test_other_forms_are_refused_with_the_reason(service: HttpService, body: bytes, reason: str) -> None:
    status, detail = post(service, body)
    assert status == 422
    assert reason in detail


def test_form_without_a_boundary_is_refused(service: HttpService) -> None:
    assert post(service, IMAGE + END, boundary="") == (
        422,
        "The Content-Type of the form has no boundary. Let the HTTP library set the header.",
    )


def test_form_field_overrides_the_query(service: HttpService) -> None:
    headers = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
    body = form_part("part_id", b"form") + IMAGE + END
    response = service.client.post(f"{INSPECT}?part_id=query&lot=query", content=body, headers=headers)
    assert (response.json()["part_id"], response.json()["lot"]) == ("form", "query")


def test_uploads_use_no_temporary_file(
    service: RunningService, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Inspections work even if the temporary folder is missing or full.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    assert post(service, IMAGE + END) == (201, "")


def test_boundary_that_is_too_long_is_refused(service: HttpService) -> None:
    response = service.client.post(
        INSPECT, content=b"x", headers={"content-type": f"multipart/form-data; boundary={'b' * 5000}"}
    )
    assert_problem(response, 422, "invalid-request")


def test_time_outside_the_calendar_is_refused(service: HttpService) -> None:
    response = service.inspect(params={"captured_at": "0001-01-01T00:00:00+14:00"})
    assert_problem(response, 422, "invalid-request")
