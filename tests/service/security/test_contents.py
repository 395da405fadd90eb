"""Attacks with values: many violations, extreme numbers and times, names that reach files and other programs."""

from __future__ import annotations

import csv
import io
import re
import time
from pathlib import Path
from typing import Any

import pytest

from service.cli.file_inspection import FileResult, write_results
from service.integrations.config import read_sinks
from service.integrations.errors import SinksInvalid
from service.integrations.topics import escape
from service.schemas.violations import MAX_LISTED
from service.serving.export_formats import CsvEncoder
from service.spreadsheets import guard_formulas
from tests.access import problem_of
from tests.running_service import GOOD, INSPECT
from tests.service.security.conftest import PNG, Target

JSON = {"content-type": "application/json"}
FIELDS = b"{" + b",".join(b'"nam%d":1' % number for number in range(8000)) + b"}"


@pytest.mark.parametrize(
    ("method", "path", "key", "body"),
    [
        ("POST", "/v1/access/login", "inspect", FIELDS),
        ("PUT", "/v1/products/widget/recipe", "engineer", FIELDS),
        ("POST", "/v2/models/widget/infer", "inspect", FIELDS),
        ("GET", "/v1/inspections?" + "&".join(f"part_i{number}=1" for number in range(4000)), "inspect", None),
        ("GET", "/health/live?" + "&".join(f"part_i{number}=1" for number in range(4000)), "inspect", None),
    ],
)
def test_thousands_of_wrong_fields_are_not_all_described(
    target: Target, method: str, path: str, key: str, body: bytes | None
) -> None:
    used = time.process_time()
    response = target.client.request(method, path, content=body, headers=target.keys[key] | JSON)
    assert time.process_time() - used < 1.0
    assert response.status_code in {400, 422}
    assert len(response.content) < 20_000
    errors = response.json().get("errors")
    assert errors is None or len(errors) == MAX_LISTED + 1


@pytest.mark.parametrize(
    "change",
    [
        {"retention": {"pass": {"count": 10**30}}},
        {"retention": {"pass": {"count": 2**63}}},
        {"retention": {"pass": {"days": 1e308}}},
        {"storage": {"max_bytes": 10**30}},
        {"expected_revision": 10**30},
        {"confirm_removal": 10**30},
        {"regions": {"max_count": 10**30}},
        {"pixels": {"width": 10**30}},
        {"quality": {"frozen_after": 10**30}},
    ],
)
def test_number_beyond_the_database_is_refused(target: Target, change: dict[str, Any]) -> None:
    """A count that SQLite cannot store would end the retention of all products."""
    body = change | {"reason": "attack"}
    response = target.client.put("/v1/products/widget/recipe", json=body, headers=target.keys["engineer"])
    assert response.status_code in {409, 422}, response.text


EXTREMES = ["9" * 40, "-1", "NaN", "%EF%B7%90", "..%2f.."]


def test_extreme_parameter_is_no_internal_error(target: Target) -> None:
    document = target.client.get("/openapi.json").json()
    keys = target.keys["engineer"]
    count = 0
    for path, operations in document["paths"].items():
        for parameter in operations.get("get", {}).get("parameters", ()):
            if parameter["in"] == "header":
                continue
            for text in EXTREMES:
                own = f"{{{parameter['name']}}}"
                url = re.sub(r"\{\w+\}", "widget", path.replace(own, text))
                query = f"?{parameter['name']}={text}" if parameter["in"] == "query" else ""
                # The body is not read: that of the stream of events has no end.
                with target.client.stream("GET", url + query, headers=keys) as response:
                    assert response.status_code < 500 or response.status_code == 503, (url, query)
                count += 1
    assert count > 150


@pytest.mark.parametrize("by", ["day", "hour", "station"])
@pytest.mark.parametrize(
    ("since", "until", "zone"),
    [
        ("0001-01-01T00:00:00Z", "0001-01-03T00:00:00Z", "America/New_York"),
        ("0001-01-01T00:00:00Z", "0001-01-03T00:00:00Z", "UTC"),
        ("9999-12-30T00:00:00Z", "9999-12-31T23:59:59Z", "Asia/Tokyo"),
        ("9999-12-30T00:00:00Z", "9999-12-31T23:59:59Z", "UTC"),
    ],
)
def test_summary_at_the_ends_of_time_is_no_internal_error(
    target: Target, by: str, since: str, until: str, zone: str
) -> None:
    query = {"by": by, "since": since, "until": until, "time_zone": zone}
    response = target.client.get("/v1/inspections:summary", params=query, headers=target.keys["inspect"])
    assert response.status_code in {200, 422}, response.text


@pytest.mark.parametrize(
    "zone", ["../../../etc/passwd", "/etc/localtime", "Europe", "..", "zone.tab", "Europe/Berlin/../Paris", "\u212aiev"]
)
def test_time_zone_reads_no_other_file(target: Target, zone: str) -> None:
    query = {"by": "station", "time_zone": zone}
    response = target.client.get("/v1/inspections:summary", params=query, headers=target.keys["inspect"])
    assert problem_of(response) == (422, "invalid-request")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/access/keys", {"name": "m", "scopes": ["inspect"], "id": "0" * 16}),
        ("POST", "/v1/access/keys", {"name": "m", "scopes": ["inspect"], "created_by": "kim"}),
        ("POST", "/v1/access/keys", {"name": "m", "scopes": ["inspect"], "secret_hash": "x"}),
        ("POST", "/v1/access/keys", {"name": "m", "scopes": ["inspect", "*"]}),
        ("POST", "/v1/access/accounts", {"name": "m", "role": "operator", "password": "x" * 20, "scopes": ["admin"]}),
        ("POST", "/v1/access/accounts/kim:role", {"role": "admin", "disabled_at": None}),
        ("POST", "/v1/access/accounts/kim:role", {"role": ["admin"]}),
        ("POST", "/v1/access/login", {"name": "kim", "password": "x" * 20, "role": "admin"}),
        ("POST", "/v1/access/login", {"name": {"$ne": ""}, "password": {"$ne": ""}}),
    ],
)
def test_field_that_a_client_may_not_set_is_refused(target: Target, method: str, path: str, body: Any) -> None:
    response = target.client.request(method, path, json=body, headers=target.keys["admin"])
    assert problem_of(response) == (422, "invalid-request")


def test_author_of_a_change_is_the_key(target: Target) -> None:
    body = {"author": "kim", "reason": "forged", "regions": {"min_area_px": 3}}
    headers = target.keys["engineer"] | {"x-request-id": "forged"}
    changed = target.client.put("/v1/products/widget/recipe", json=body, headers=headers)
    assert changed.json()["author"] == "engineer-inspect"
    newest = target.client.get("/v1/audit", params={"limit": 1}, headers=target.keys["admin"]).json()["items"][0]
    assert (newest["actor"], newest["note"]) == ("engineer-inspect", "forged")


def test_review_in_the_name_of_somebody_else_is_refused(target: Target) -> None:
    sent = target.client.post(INSPECT, content=GOOD, headers=target.keys["station"] | PNG).json()
    path = f"/v1/inspections/{sent['id']}"
    for action, body in (("review", {"label": "good", "reviewer": "kim"}), ("undo-review", {"reviewer": "kim"})):
        response = target.client.post(f"{path}:{action}", json=body, headers=target.keys["station"])
        assert problem_of(response) == (422, "invalid-request")


def test_foreign_and_unknown_id_have_the_same_response(target: Target) -> None:
    ids = (target.foreign, "01890a5d-ac96-774b-bcce-b302099a8057")
    for suffix in ("", "/image", "/map", "/reviews"):
        answers = [target.client.get(f"/v1/inspections/{name}{suffix}", headers=target.keys["gadget"]) for name in ids]
        texts = [re.sub("|".join(ids) + r"|urn:\S+", "", response.text) for response in answers]
        assert texts[0] == texts[1]
        assert {response.status_code for response in answers} == {404}


def test_foreign_and_unknown_product_have_the_same_response(target: Target) -> None:
    for path in ("/v1/products/{}/recipe", "/v2/models/{}", "/v1/inspections?product={}"):
        answers = [target.client.get(path.format(name), headers=target.keys["gadget"]) for name in ("widget", "ghosts")]
        texts = [re.sub(r"widget|ghosts|urn:[^\"]+", "", response.text) for response in answers]
        assert texts[0] == texts[1]
        assert {response.status_code for response in answers} == {403}


@pytest.mark.parametrize(("key", "query"), [("gadget", ""), ("station", "?station=B2")])
def test_lookout_endpoint_is_restricted(target: Target, key: str, query: str) -> None:
    path = "/2020-11-20/projects/widget/models/active/detect"
    headers = target.keys[key] | PNG
    assert target.client.post(path + query, content=GOOD, headers=headers).status_code == 403


FORMULAS = {
    "=1+1": "'=1+1",
    "@SUM(A1)": "'@SUM(A1)",
    "\uff1d1+1": "'\uff1d1+1",
    "a;=1+1": "a;'=1+1",
    "a\n=1+1": "a\n'=1+1",
    "\t=1": "'\t'=1",
    "part-7;lot-3": "part-7;lot-3",
    '{"a": -1}': '{"a": -1}',
}


@pytest.mark.parametrize("text", FORMULAS)
def test_formula_is_harmless_in_every_table(tmp_path: Path, text: str) -> None:
    assert guard_formulas(text) == FORMULAS[text]
    exported = CsvEncoder({"part_id": "text"}).encode([{"part_id": text}]).decode()
    assert list(csv.reader(io.StringIO(exported, newline="")))[1] == [FORMULAS[text]]
    write_results([FileResult(Path(text))], tmp_path / "results.csv")
    with (tmp_path / "results.csv").open(encoding="utf-8", newline="") as file:
        assert next(csv.DictReader(file))["file"] == FORMULAS[text]


@pytest.mark.parametrize(
    "character", ["\x00", "\x1f", "\x85", "\ufdd0", "\ufffe", "\uffff", "\U0010ffff", "/", "+", "#", "%"]
)
def test_topic_contains_no_character_that_ends_the_connection_to_the_broker(character: str) -> None:
    escaped = escape(f"a{character}b")
    assert re.fullmatch(r"a(%[0-9A-F]{2})+b", escaped)
    assert escaped != escape(f"a%{ord(character):02X}b")


@pytest.mark.parametrize("text", ["9" * 400, "9" * 10_000, "0x" + "f" * 10_000, "1e999", "[" * 5000, "{a=" * 5000])
@pytest.mark.parametrize("option", ["port", "timeout_s", "max_attempts", "name"])
def test_number_or_depth_in_the_sinks_file_is_explained(tmp_path: Path, option: str, text: str) -> None:
    path = tmp_path / "sinks.toml"
    path.write_text(f'[[sink]]\nkind = "mqtt"\nhost = "h"\nsite = "s"\nclient_id = "c"\n{option} = {text}\n')
    with pytest.raises(SinksInvalid) as refused:
        read_sinks(path)
    assert "9" * 300 not in str(refused.value)
