"""The documents and topics that receivers see."""

from __future__ import annotations

import json
from typing import Any

import pytest

from service.api.mapping import to_inspection
from service.integrations.config import WebhookConfig
from service.integrations.events import Render, inspection_event
from service.integrations.topics import escape, status_topic, verdict_topic
from service.schemas.outbox import InspectionEvent
from service.store.outbox import OutboxMessage
from tests.service.store.test_store import make_row

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def document(**options: Any) -> dict[str, Any]:
    record = make_row(station="s1", traceparent=TRACEPARENT)
    message = OutboxMessage(
        id=1, sink="mes", product="widget", inspection_id=record.id, event_id="e1", created_at=record.created_at,
        attempts=0, rejections=0, next_attempt_at=None, last_error=None, dead_at=None, dead_reason=None,
    )  # fmt: skip
    config = WebhookConfig.model_validate({"name": "mes", "kind": "webhook", "url": "https://m.example"} | options)
    event = inspection_event(message, record, Render(to_inspection), config)
    assert (event.id, event.type, event.product, event.station) == ("e1", "inspection.created", "widget", "s1")
    assert event.traceparent == TRACEPARENT
    found: dict[str, Any] = json.loads(event.body)
    assert found["inspection"]["id"] == record.id
    return found


def test_event_has_the_inspection_of_the_api() -> None:
    found = document()
    parsed = InspectionEvent.model_validate(found)

    assert parsed.event_id == "e1"
    assert parsed.inspection is not None
    assert parsed.inspection.regions[0].area_px == 5
    assert parsed.created_at == parsed.inspection.created_at
    assert found["inspection"]["links"]["heatmap"].startswith("/v1/inspections/")


def test_links_are_absolute_with_a_base_url() -> None:
    links = document(base_url="https://line3.example/plumbline/")["inspection"]["links"]

    assert links["heatmap"].startswith("https://line3.example/plumbline/v1/inspections/")
    assert all(link.startswith("https://line3.example/plumbline/v1/") for link in links.values())


@pytest.mark.parametrize(
    ("include", "missing"), [(["links"], {"regions"}), (["regions"], {"links"}), ([], {"regions", "links"})]
)
def test_parts_that_are_not_included_are_left_out(include: list[str], missing: set[str]) -> None:
    complete, found = document()["inspection"], document(include=include)["inspection"]

    assert complete.keys() - found.keys() == missing


@pytest.mark.parametrize(
    ("level", "escaped"),
    [
        ("station 3", "station 3"),
        ("größe", "größe"),
        ("a/b", "a%2Fb"),
        ("+", "%2B"),
        ("#", "%23"),
        ("100%", "100%25"),
        ("a%2Fb", "a%252Fb"),
        ("-", "%2D"),
        ("a-b", "a-b"),
        ("\x00\n\x7f", "%00%0A%7F"),
        ("$SYS", "$SYS"),
    ],
)
def test_characters_with_a_meaning_in_topics_are_escaped(level: str, escaped: str) -> None:
    assert escape(level) == escaped


def test_topics_have_the_documented_levels() -> None:
    assert verdict_topic("plumbline", "plant/1", "st+1", "washer") == "plumbline/plant%2F1/st%2B1/washer/verdict"
    assert verdict_topic("a/b", "plant", None, "washer") == "a/b/plant/-/washer/verdict"
    assert status_topic("plumbline", "plant", "line#3") == "plumbline/plant/line%233/status"
