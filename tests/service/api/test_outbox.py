"""Inspections reach a webhook; the outbox over the API, the client and the command line."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from plumbline_client import Client
from plumbline_client.schemas.outbox import InspectionEvent
from service import server
from service.integrations import worker as worker_module
from service.settings import Settings
from tests.command_line import run
from tests.running_service import BAD, GOOD, HttpService, RunningService, Serve
from tests.service.integrations.receivers import Receiver, Reply, receive, wait_for

SECRET = "a-secret-key-a-secret-key"
OUTBOX = "/v1/outbox"
DEAD = f"{OUTBOX}/dead-letters"
Connect = Callable[..., AbstractContextManager[RunningService]]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receive() as running:
        yield running


@pytest.fixture
def connect(serve: Serve, receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Connect:
    """Start a service that sends to the receiver."""
    for name, value in (("POLL_S", 0.1), ("MAINTENANCE_S", 0.1), ("CONFIRM_S", 0.02), ("GRACE_S", 0.3)):
        monkeypatch.setattr(worker_module, name, value)
    monkeypatch.setenv("MES_SECRET", SECRET)

    def start(options: str = "", **settings: Any) -> AbstractContextManager[RunningService]:
        file = tmp_path / "sinks.toml"
        file.write_text(
            f'[[sink]]\nname = "mes"\nkind = "webhook"\nurl = "{receiver.url}/path-secret"\n'
            f'secret = {{ env = "MES_SECRET" }}\nbackoff_base_s = 0.05\nbackoff_max_s = 0.1\n{options}\n',
            encoding="utf-8",
        )
        return serve(sinks=file, **settings)

    return start


def state(service: HttpService) -> dict[str, Any]:
    (found,) = service.client.get(OUTBOX).raise_for_status().json()["sinks"]
    sink: dict[str, Any] = found
    return sink


def bury(service: HttpService, receiver: Receiver, count: int = 1) -> list[dict[str, Any]]:
    """Send images whose messages the receiver refuses; return the dead letters, newest first."""
    receiver.replies = [Reply(400)] * count
    for _ in range(count):
        service.inspect().raise_for_status()
    wait_for(lambda: state(service)["dead_letters"] == count)
    items: list[dict[str, Any]] = service.client.get(DEAD).raise_for_status().json()["items"]
    return items


def test_webhook_receives_what_the_api_returns(connect: Connect, receiver: Receiver) -> None:
    with connect() as service:
        returned = service.inspect(BAD, params={"part_id": "4711", "station": "s1"}).json()
        receiver.wait_for(1)
        stored = service.client.get(f"/v1/inspections/{returned['id']}").json()
        (event,) = receiver.events()

        assert event["event_type"] == "inspection.created"
        assert event["inspection"] == stored
        parsed = InspectionEvent.model_validate(event)
        assert parsed.inspection is not None
        assert parsed.inspection.part_id == "4711"
        wait_for(lambda: state(service)["pending"] == 0)
        found = state(service)
        assert (found["name"], found["kind"], found["target"]) == (
            "mes",
            "webhook",
            f"http://127.0.0.1:{receiver.port}",
        )
        assert found["configured"]
        assert found["delivering"]
        assert found["delivered_at"] is not None
        metrics = service.client.get("/metrics").text
        assert 'inspection_outbox_delivered_total{sink="mes"} 1.0' in metrics


def test_invalid_image_is_an_event_and_filters_select(connect: Connect, receiver: Receiver) -> None:
    with connect('decisions = ["fail"]\ninclude = []') as service:
        service.inspect(GOOD).raise_for_status()
        failed = service.inspect(BAD).json()
        receiver.wait_for(1)

        assert failed["decision"] == "fail"
        assert receiver.inspections() == [failed["id"]]
        assert "regions" not in receiver.events()[0]["inspection"]


def test_errors_are_followed_by_success_in_order(connect: Connect, receiver: Receiver) -> None:
    receiver.replies = [Reply(500), Reply(503), Reply(500)]
    with connect() as service:
        sent = [service.inspect().json()["id"] for _ in range(4)]
        wait_for(lambda: len(dict.fromkeys(receiver.inspections())) == 4)

        assert list(dict.fromkeys(receiver.inspections())) == sent
        assert receiver.inspections()[:4] == [sent[0]] * 4
        first, second = receiver.events()[:2]
        assert first["event_id"] == second["event_id"]


@pytest.mark.slow
def test_slow_receiver_delays_neither_verdicts_nor_readiness_nor_the_stop(connect: Connect, receiver: Receiver) -> None:
    receiver.default = Reply(delay_s=30)
    with connect() as service:
        started = time.monotonic()
        for _ in range(5):
            service.inspect().raise_for_status()
        assert time.monotonic() - started < 5
        receiver.wait_for(1)
        assert service.client.get("/health/ready").status_code == 200
        stopping = time.monotonic()
    assert time.monotonic() - stopping < 6


def test_dead_letters_are_listed_sent_again_and_discarded(connect: Connect, receiver: Receiver) -> None:
    with connect() as service:
        items = bury(service, receiver, 3)
        assert [item["reason"] for item in items] == ["refused"] * 3
        assert items[0]["last_error"] == "the receiver returned status 400"
        assert items[0]["id"] > items[1]["id"] > items[2]["id"]

        page = service.client.get(DEAD, params={"limit": 2, "sink": "mes", "product": "widget"}).json()
        rest = service.client.get(DEAD, params={"cursor": page["next_cursor"]}).json()
        assert page["items"] + rest["items"] == items
        assert rest["next_cursor"] is None

        assert service.client.post(f"{DEAD}/{items[1]['id']}:resend").json() == {"count": 1}
        receiver.wait_for(4)
        assert receiver.inspections()[3] == items[1]["inspection_id"]
        assert service.client.post(f"{DEAD}/{items[0]['id']}:discard").json() == {"count": 1}
        wait_for(lambda: state(service)["dead_letters"] == 1)
        for action in ("resend", "discard"):
            gone = service.client.post(f"{DEAD}/{items[0]['id']}:{action}")
            assert (gone.status_code, gone.json()["type"].rpartition("#")[2]) == (404, "unknown-dead-letter")
        assert service.client.get(f"/v1/inspections/{items[0]['inspection_id']}").status_code == 200


def test_client_and_command_line_show_and_resend(connect: Connect, receiver: Receiver) -> None:
    with connect() as service, Client(f"http://127.0.0.1:{service.port}") as client:
        url = ("--url", f"http://127.0.0.1:{service.port}")
        items = bury(service, receiver, 4)
        assert client.outbox().sinks[0].dead_letters == 4
        assert [letter.id for letter in client.dead_letters(sink="mes", limit=2).items] == [
            items[0]["id"],
            items[1]["id"],
        ]

        shown = run("outbox", "list", *url)
        assert shown.exit_code == 0
        assert "mes" in shown.stdout
        assert "refused" in shown.stdout
        document = json.loads(run("outbox", "list", "--json", "--sink", "mes", *url).stdout)
        assert document["sinks"][0]["name"] == "mes"
        assert len(document["dead_letters"]) == 4

        assert "1 dead letter is pending" in run("outbox", "resend", str(items[3]["id"]), *url).stdout
        receiver.wait_for(5)
        assert "1 dead letter was deleted" in run("outbox", "discard", str(items[2]["id"]), *url).stdout
        assert "2 dead letters are pending" in run("outbox", "resend", "--sink", "mes", *url).stdout
        receiver.wait_for(7)
        assert receiver.inspections()[4:] == [items[index]["inspection_id"] for index in (3, 1, 0)]
        assert client.discard_dead_letters("mes", product="widget").count == 0
        assert client.resend_dead_letters("mes").count == 0
        missing = run("outbox", "resend", "999999", *url)
        assert missing.exit_code == 1
        assert "no dead letter with the id 999999" in missing.stderr


@pytest.mark.parametrize("arguments", [(), ("7", "--sink", "mes"), ("7", "--product", "p")])
@pytest.mark.parametrize("command", ["resend", "discard"])
def test_command_line_refuses_ambiguous_selections(command: str, arguments: tuple[str, ...]) -> None:
    assert run("outbox", command, *arguments).exit_code == 2


def test_resend_to_a_sink_without_configuration_is_refused(service: HttpService) -> None:
    response = service.client.post(f"{DEAD}:resend", params={"sink": "mes"})

    assert (response.status_code, response.json()["type"].rpartition("#")[2]) == (409, "sink-not-configured")
    assert service.client.get(OUTBOX).json() == {"sinks": []}
    assert service.client.post(f"{DEAD}:discard", params={"sink": "mes"}).json() == {"count": 0}


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", f"{DEAD}?limit=0"), ("GET", f"{DEAD}?cursor=x"), ("POST", f"{DEAD}:resend"), ("POST", f"{DEAD}/0:resend"),
     ("GET", f"{OUTBOX}?sink=mes")],
)  # fmt: skip
def test_invalid_parameters_are_refused(method: str, path: str, service: HttpService) -> None:
    assert service.client.request(method, path).status_code == 422


def test_secrets_are_in_no_response_and_no_log(connect: Connect, receiver: Receiver) -> None:
    receiver.replies = [Reply(500), Reply(400)]
    with capture_logs() as logs, connect() as service:
        service.inspect().raise_for_status()
        wait_for(lambda: state(service)["dead_letters"] == 1)
        texts = [service.client.get(path).text for path in (OUTBOX, DEAD, "/metrics")]

    assert {"delivering to sink", "sink does not accept messages", "message became a dead letter"} <= {
        entry["event"] for entry in logs
    }
    for text in (*texts, str(logs)):
        assert SECRET not in text
        assert "path-secret" not in text


def test_service_does_not_start_with_an_invalid_file(tiny_models: Path, tmp_path: Path) -> None:
    file = tmp_path / "sinks.toml"
    file.write_text('[[sink]]\nname = "mes"\nkind = "smtp"\n', encoding="utf-8")
    settings = Settings(models=tiny_models, data=tmp_path / "data", sinks=file, port=0)

    with capture_logs() as logs:
        assert not server.run(settings)
    (entry,) = logs
    assert (entry["event"], entry["log_level"]) == ("cannot start", "error")
    assert "sinks.toml is not valid: sink 'mes': " in entry["reason"]
    assert not (tmp_path / "data").exists()


def test_sink_test_sends_one_message(receiver: Receiver, tmp_path: Path) -> None:
    file = tmp_path / "sinks.toml"
    file.write_text(f'[[sink]]\nname = "mes"\nkind = "webhook"\nurl = "{receiver.url}"\n', encoding="utf-8")
    done = run("sink", "test", "mes", "--sinks", file)

    assert done.exit_code == 0, done.stderr
    assert "mes: delivered to http://127.0.0.1:" in done.stdout
    assert [event["event_type"] for event in receiver.events()] == ["test"]
    receiver.replies = [Reply(404)]
    refused = run("sink", "test", "mes", "--sinks", file)
    assert refused.exit_code == 1
    assert "the receiver returned status 404" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("mes",), "No sinks are configured"),
        (("other", "--sinks", "FILE"), "There is no sink 'other' in"),
        (("mes", "--sinks", "FILE"), "the environment variable UNSET_VARIABLE, which is not set"),
        (("mes", "--sinks", "/nonexistent.toml"), "cannot be read (No such file"),
    ],
)
def test_sink_test_explains_what_is_wrong(arguments: tuple[str, ...], expected: str, tmp_path: Path) -> None:
    file = tmp_path / "sinks.toml"
    file.write_text(
        '[[sink]]\nname = "mes"\nkind = "webhook"\nurl = "https://m.example"\nsecret = { env = "UNSET_VARIABLE" }\n',
        encoding="utf-8",
    )
    done = run("sink", "test", *(argument.replace("FILE", str(file)) for argument in arguments))

    assert done.exit_code == 2
    assert expected in done.stderr


def test_readiness_does_not_depend_on_a_receiver_that_is_gone(connect: Connect, receiver: Receiver) -> None:
    receiver.default = Reply(503)
    with connect() as service:
        service.inspect().raise_for_status()
        wait_for(lambda: state(service)["error"] is not None)
        assert httpx.get(f"http://127.0.0.1:{service.port}/health/ready").status_code == 200
        assert state(service)["pending"] == 1
