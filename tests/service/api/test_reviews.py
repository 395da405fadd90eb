"""Reviews over HTTP: labels, history, queue, agreement, rates and the filter of lists."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from service.access.principal import Principal
from service.serving import review_evaluation
from service.store import reviews as stored_reviews
from service.store.ids import new_id
from service.store.records import ShadowRecord
from service.store.retention import mark_removed
from service.store.shadows import add_shadow_verdicts
from tests.bundles import part
from tests.running_service import BAD, GOOD, RunningService, Serve, encode, run_service
from tests.service.api.test_health import value

REVIEWED = {"product": "widget"}


@pytest.fixture
def service(tiny_models: Path, tmp_path: Path) -> Iterator[RunningService]:
    with run_service(tiny_models, tmp_path / "data") as running:
        yield running


def review(service: RunningService, inspection_id: str, label: str, **fields: Any) -> httpx.Response:
    return service.client.post(f"/v1/inspections/{inspection_id}:review", json={"label": label} | fields)


def undo(service: RunningService, inspection_id: str, **fields: Any) -> httpx.Response:
    return service.client.post(f"/v1/inspections/{inspection_id}:undo-review", json=fields)


def history(service: RunningService, inspection_id: str) -> dict[str, Any]:
    response = service.client.get(f"/v1/inspections/{inspection_id}/reviews")
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def report(service: RunningService, name: str, **params: Any) -> dict[str, Any]:
    response = service.client.get(f"/v1/reviews:{name}", params=REVIEWED | params)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def label_of(service: RunningService, inspection_id: str) -> str | None:
    found: str | None = service.client.get(f"/v1/inspections/{inspection_id}").json()["label"]
    return found


def inspect(service: RunningService, image: bytes = GOOD) -> str:
    found: str = service.inspect(image).json()["id"]
    return found


def faint(brightness: int) -> bytes:
    return encode(part(brightness=brightness))


def test_label_follows_from_the_current_reviews_of_all_reviewers(service: RunningService) -> None:
    name = inspect(service, BAD)
    assert label_of(service, name) is None
    first = review(service, name, "defect", kind="scratch", note="left edge", reviewer="Ada")
    assert first.status_code == 201, first.text
    assert {key: first.json()[key] for key in ("reviewer", "label", "kind", "note", "state", "withdrawn_at")} == {
        "reviewer": "Ada", "label": "defect", "kind": "scratch", "note": "left edge", "state": "current",
        "withdrawn_at": None,
    }  # fmt: skip
    assert (label_of(service, name), history(service, name)["kind"]) == ("defect", "scratch")
    review(service, name, "unsure", reviewer="Bob")
    assert label_of(service, name) == "defect"
    review(service, name, "good", reviewer="Bob")
    assert label_of(service, name) == "disputed"
    review(service, name, "good", reviewer="Ada")
    assert label_of(service, name) == "good"

    found = history(service, name)
    assert [(item["reviewer"], item["label"], item["state"]) for item in found["items"]] == [
        ("Ada", "good", "current"),
        ("Bob", "good", "current"),
        ("Bob", "unsure", "replaced"),
        ("Ada", "defect", "replaced"),
    ]
    about = {"product": "widget", "decision": "fail"}
    assert value(service, "inspection_reviews_total", label="good", **about) == 2
    assert value(service, "inspection_reviews_total", label="defect", **about) == 1
    assert value(service, "inspection_reviews_total", label="good", product="widget", decision="pass") == 0


def test_own_newest_review_is_withdrawn_and_stays_in_the_history(service: RunningService) -> None:
    name = inspect(service)
    review(service, name, "good", reviewer="Ada")
    review(service, name, "unsure", reviewer="Bob")
    newest = review(service, name, "defect", reviewer="Ada").json()

    undone = undo(service, name, reviewer="Ada", review_id=newest["id"])
    assert (undone.status_code, undone.json()["label"]) == (200, "good"), "the review before it is current again"
    again = undo(service, name, reviewer="Ada", review_id=newest["id"])
    assert again.json() == undone.json(), "repeating the request changes nothing"
    assert [(item["reviewer"], item["state"]) for item in undone.json()["items"]] == [
        ("Ada", "withdrawn"),
        ("Bob", "current"),
        ("Ada", "current"),
    ]
    assert undone.json()["items"][0]["withdrawn_at"] is not None
    assert undo(service, name, reviewer="Ada").json()["label"] == "unsure"
    assert undo(service, name, reviewer="Bob").json()["label"] is None
    assert label_of(service, name) is None
    refused = undo(service, name, reviewer="Ada")
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems#no-review-to-withdraw")
    review(service, name, "good", reviewer="Ada")
    other = undo(service, name, reviewer="Ada", review_id=2)
    assert other.status_code == 409, "the review of Bob"
    assert label_of(service, name) == "good"


def test_double_click_stores_one_review(service: RunningService, monkeypatch: pytest.MonkeyPatch) -> None:
    name = inspect(service)
    with ThreadPoolExecutor(8) as pool:
        sent = list(pool.map(lambda _: review(service, name, "defect", kind="dent", reviewer="Ada"), range(8)))
    assert sorted(response.status_code for response in sent) == [200] * 7 + [201]
    assert len({response.json()["id"] for response in sent}) == 1
    assert review(service, name, "defect", kind="scratch", reviewer="Ada").status_code == 201
    assert review(service, name, "defect", kind="scratch", reviewer="Bob").status_code == 201
    monkeypatch.setattr(stored_reviews, "REPEAT_S", 0.0)
    assert review(service, name, "defect", kind="scratch", reviewer="Bob").status_code == 201, "later, it is a new one"


def test_simultaneous_reviews_of_one_inspection_are_all_counted(service: RunningService) -> None:
    name = inspect(service)
    with ThreadPoolExecutor(8) as pool:
        sent = pool.map(
            lambda number: review(service, name, "good" if number else "defect", reviewer=f"R{number}"), range(8)
        )
        assert {response.status_code for response in sent} == {201}
    assert (label_of(service, name), len(history(service, name)["items"])) == ("disputed", 8)


@pytest.mark.parametrize(
    "fields",
    [
        {"label": "bad"},
        {"label": "good", "kind": "scratch"},
        {"label": "defect", "kind": ""},
        {"label": "defect", "kind": "a\nb"},
        {"label": "good", "reviewer": "plumbline"},
        {"label": "good", "colour": "red"},
        {},
    ],
)
def test_review_that_is_not_valid_is_refused(service: RunningService, fields: dict[str, Any]) -> None:
    name = inspect(service)
    response = service.client.post(f"/v1/inspections/{name}:review", json=fields)

    assert (response.status_code, response.json()["type"]) == (422, "/problems#invalid-request")
    assert history(service, name)["items"] == []


def test_unknown_inspections_and_products_are_refused(service: RunningService) -> None:
    unknown = str(new_id())
    for response in (
        review(service, unknown, "good"),
        undo(service, unknown),
        service.client.get(f"/v1/inspections/{unknown}/reviews"),
        review(service, "something", "good"),
    ):
        assert (response.status_code, response.json()["type"]) == (404, "/problems#unknown-inspection")
    for name in ("queue", "kinds", "agreement", "rates", "export"):
        response = service.client.get(f"/v1/reviews:{name}", params={"product": "gadget"})
        assert (response.status_code, response.json()["type"]) == (404, "/problems#unknown-product"), name
        assert service.client.get(f"/v1/reviews:{name}").status_code == 422


def test_reviewer_is_the_authenticated_name(service: RunningService, monkeypatch: pytest.MonkeyPatch) -> None:
    name = inspect(service)
    assert review(service, name, "good").json()["reviewer"] == "local"
    principal = Principal("account", "1", "Grace", frozenset({"review", "inspect"}))
    monkeypatch.setattr("service.api.deps.principal_of", lambda _: principal)
    assert review(service, name, "defect").json()["reviewer"] == "Grace"
    assert review(service, name, "defect", reviewer="Grace").status_code == 200
    refused = review(service, name, "defect", reviewer="Ada")
    assert refused.status_code == 422
    assert "authenticated as 'Grace'" in refused.json()["detail"]
    assert undo(service, name, reviewer="local").status_code == 422, "the review of another reviewer"
    assert report(service, "queue")["reviewer"] == "Grace"
    assert undo(service, name).json()["label"] == "good"


def test_lists_are_filtered_by_label(service: RunningService) -> None:
    names = [inspect(service) for _ in range(5)]
    for name, label in zip(names, ("good", "defect", "good", "good"), strict=False):
        review(service, name, label)

    def listed(**params: Any) -> list[tuple[str, str | None]]:
        items = service.client.get("/v1/inspections", params=params).json()["items"]
        return [(item["id"], item["label"]) for item in items]

    expected = [(names[3], "good"), (names[2], "good"), (names[0], "good")]
    assert listed(label="good") == listed(label="good", product="widget", decision="pass") == expected
    page = service.client.get("/v1/inspections", params={"label": "good", "limit": 2}).json()
    assert listed(label="good", cursor=page["next_cursor"]) == expected[2:]
    assert listed(label="defect", product="widget") == [(names[1], "defect")]
    assert listed(label="disputed") == []
    assert [label for _, label in listed()] == [None, "good", "good", "defect", "good"]
    assert service.client.get("/v1/inspections", params={"label": "bad"}).status_code == 422


def test_queue_has_all_reviews_then_the_sample_then_disagreements_with_the_shadow(service: RunningService) -> None:
    images = [faint(brightness) for brightness in range(60, 100)] + [BAD]
    first = service.inspect(images[0]).json()
    scores = sorted(service.inspect(image).json()["score"] for image in images)
    recipe = {"author": "Ada", "reason": "test", "fail_threshold": scores[-3], "review_threshold": scores[-8]}
    assert service.client.put("/v1/products/widget/recipe", json=recipe).status_code == 200
    made = [service.inspect(image).json() for image in images]
    since = made[0]["created_at"]
    by_decision = {name: {row["id"] for row in made if row["decision"] == name} for name in ("pass", "review", "fail")}
    assert len(by_decision["review"]) == 5
    everything = report(service, "queue", since=since, pass_sample=8, fail_sample=1)
    chosen = {item["inspection_id"] for item in everything["items"]}
    disagreed = min(by_decision["pass"] - chosen)
    shadow = {"bundle_digest": "e" * 64, "bundle_version": "e" * 12, "decision": "fail", "score": 9.0, "p_value": 0.01}
    rest = {"fail_threshold": 1.0, "review_threshold": 0.5, "provider": "cpu", "infer_ms": 1.0}
    add_shadow_verdicts(service.store.engine, [ShadowRecord(inspection_id=disagreed, **shadow, **rest)])  # type: ignore[arg-type]

    found = report(service, "queue", since=since, pass_sample=8, fail_sample=1, limit=500)
    reasons = [tuple(item["reasons"]) for item in found["items"]]
    assert reasons[:5] == [("review",)] * 5
    assert reasons[-1] == ("shadow",)
    assert set(reasons[5:-1]) == {("sample",)}
    assert {item["inspection_id"] for item in found["items"][:5]} == by_decision["review"]
    assert all(item["inclusion_probability"] == 1 for item in found["items"][:5])
    assert (found["items"][-1]["inspection_id"], found["items"][-1]["inclusion_probability"]) == (disagreed, None)
    strata = [item for item in found["strata"] if item["decision"] == "pass"]
    assert [item["sampled"] for item in strata] == [3, 3, 3, 1]
    assert sum(item["inspections"] for item in found["strata"]) == found["inspections"] == len(made)
    for item in found["items"]:
        if item["reasons"] == ["sample"]:
            (stratum,) = [
                one
                for one in found["strata"]
                if one["decision"] == item["decision"] and one["score_low"] <= item["score"] <= one["score_high"]
            ]
            assert item["inclusion_probability"] == stratum["inclusion_probability"]
    assert found["total"] == len(found["items"])
    assert report(service, "queue", since=since, pass_sample=8, fail_sample=1, limit=500)["items"] == found["items"]
    assert first["id"] not in {item["inspection_id"] for item in found["items"]}, "before the period"


def test_queue_is_read_page_by_page(service: RunningService) -> None:
    for _ in range(7):
        inspect(service)
    everything = [item["inspection_id"] for item in report(service, "queue")["items"]]
    first = report(service, "queue", limit=3)
    assert [item["inspection_id"] for item in first["items"]] == everything[:3]
    for name in everything[:2]:
        review(service, name, "good")
    review(service, everything[2], "good")
    following = report(service, "queue", limit=3, after=everything[2])
    assert [item["inspection_id"] for item in following["items"]] == everything[3:6], "after an item that was reviewed"
    assert following["total"] == 4
    last = report(service, "queue", after=everything[-1])
    assert (last["items"], last["total"]) == ([], 4)
    again = report(service, "queue", after=str(new_id()))
    assert [item["inspection_id"] for item in again["items"]] == everything[3:], "from the start after an unknown one"


def test_kinds_of_defects_are_listed_by_frequency(service: RunningService) -> None:
    names = [inspect(service, BAD) for _ in range(4)]
    assert report(service, "kinds") == {"product": "widget", "items": []}
    for name, kind in zip(names, ("dent", "scratch", "scratch", "burr"), strict=True):
        review(service, name, "defect", kind=kind)
    review(service, names[0], "defect", reviewer="Ada")
    undo(service, names[3])
    assert report(service, "kinds")["items"] == [{"kind": "scratch", "reviews": 2}, {"kind": "dent", "reviews": 1}]


def test_queue_omits_what_the_reviewer_has_reviewed_and_what_has_no_image(service: RunningService) -> None:
    names = {inspect(service) for _ in range(4)}
    mine, withdrawn, removed, _ = sorted(names)
    review(service, mine, "good", reviewer="Ada")
    review(service, withdrawn, "good", reviewer="Ada")
    undo(service, withdrawn, reviewer="Ada")
    mark_removed(service.store.engine, [UUID(removed)], datetime.now(UTC))

    def queued(reviewer: str) -> dict[str, str | None]:
        items = report(service, "queue", reviewer=reviewer)["items"]
        return {item["inspection_id"]: item["label"] for item in items}

    assert set(queued("Ada")) == names - {mine, removed}
    assert set(queued("Bob")) == names - {removed}
    assert queued("Bob")[mine] == "good"


def test_agreement_of_reviewers(service: RunningService) -> None:
    names = [inspect(service) for _ in range(4)]
    for name, ada, bob in zip(
        names, ("good", "good", "defect", "defect"), ("good", "defect", "defect", None), strict=True
    ):
        review(service, name, ada, reviewer="Ada")
        if bob is not None:
            review(service, name, "unsure", reviewer="Bob")
            review(service, name, bob, reviewer="Bob")

    found = report(service, "agreement")
    assert [(item["reviewer"], item["reviews"], item["labels"]["defect"]) for item in found["reviewers"]] == [
        ("Ada", 4, 2),
        ("Bob", 3, 2),
    ]
    (pair,) = found["pairs"]
    assert (pair["first"], pair["second"], pair["inspections"]) == ("Ada", "Bob", 3)
    assert (pair["agreement"], pair["kappa"]) == (pytest.approx(2 / 3), pytest.approx(0.4))
    assert pair["kappa_low"] < 0.4 < pair["kappa_high"]
    assert pair["counts"]["good"] == {"good": 1, "defect": 1, "unsure": 0}
    assert (found["common"], found["is_cut"]) == (3, False)
    assert found["alpha"] == pytest.approx(1 - 2 / (6 - (3 * 2 + 3 * 2) / 5))


def test_rates_at_the_decisions_the_current_and_the_proposed_thresholds(service: RunningService) -> None:
    limit = {"author": "Ada", "reason": "test", "quality": {"min_brightness": 10}}
    assert service.client.put("/v1/products/widget/recipe", json=limit).status_code == 200
    rows = [service.inspect(image).json() for image in [GOOD, BAD, GOOD, BAD, BAD, encode(part(brightness=0))]]
    for row, label in zip(rows, ("good", "defect", "defect", "good", "unsure", "defect"), strict=True):
        review(service, row["id"], label)

    decisions, current = report(service, "rates")["results"]
    assert (decisions["basis"], current["basis"]) == ("decisions", "current")
    assert decisions["confusion"] == {
        "good": {"pass": 1, "fail": 1},
        "defect": {"pass": 1, "fail": 1, "invalid": 1},
        "unsure": {"fail": 1},
    }
    assert (decisions["miss"]["count"], decisions["miss"]["of"]) == (1, 2)
    assert decisions["false_reject"]["rate"] == pytest.approx((3 / 2) / (3 / 2 + 1), abs=1e-9), "weighted by 3/2 and 1"
    assert decisions["miss"]["low"] < decisions["miss"]["rate"] < decisions["miss"]["high"]
    assert "invalid" not in current["confusion"]["defect"]
    high = rows[1]["score"] + 1
    *_, proposed = report(service, "rates", fail_threshold=high, review_threshold=high)["results"]
    assert proposed["thresholds"] == {"fail": high, "review": high, "bundle_version": rows[0]["bundle"]["version"]}
    assert (proposed["false_reject"]["rate"], proposed["miss"]["rate"]) == (0, 1)
    *_, one = report(service, "rates", fail_threshold=high)["results"]
    assert one["thresholds"]["review"] == rows[0]["thresholds"]["review"]
    wrong = service.client.get("/v1/reviews:rates", params=REVIEWED | {"fail_threshold": 0.1, "review_threshold": 0.2})
    assert (wrong.status_code, "above the fail threshold" in wrong.json()["detail"]) == (422, True)
    backwards = {"since": rows[0]["created_at"], "until": "2020-01-01T00:00:00Z"}
    assert service.client.get("/v1/reviews:rates", params=REVIEWED | backwards).status_code == 422
    empty = report(service, "rates", since="2020-01-01T00:00:00Z", until="2020-01-02T00:00:00Z")
    assert (empty["inspections"], empty["results"][0]["miss"]["rate"]) == (0, None)
    assert (empty["results"][0]["miss"]["low"], empty["results"][0]["miss"]["high"]) == (0, 1)


def test_evaluations_are_limited_in_number(service: RunningService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(review_evaluation, "_WAIT_S", 0.0)
    inspect(service)
    with ExitStack() as held:
        for _ in range(review_evaluation.MAX_EVALUATIONS):
            held.enter_context(service.services.reviews.evaluation.slot())
        for name in ("queue", "agreement", "rates"):
            busy = service.client.get(f"/v1/reviews:{name}", params=REVIEWED)
            assert (busy.status_code, busy.json()["type"]) == (503, "/problems#reviews-busy")
    for _ in range(review_evaluation.MAX_EVALUATIONS + 1):
        report(service, "queue")


def test_reviews_survive_a_restart(serve: Serve) -> None:
    with serve() as service:
        name = inspect(service)
        review(service, name, "defect", kind="dent", reviewer="Ada")
    with serve() as service:
        assert (label_of(service, name), history(service, name)["kind"]) == ("defect", "dent")
