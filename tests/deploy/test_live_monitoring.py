"""Every expression of the dashboards and rules has data in a real Prometheus that scraped a real, loaded service.

Prometheus reads the configuration of the repository with another target, key and interval. The service has two bundles,
one of them in shadow deployment, three stations, all decisions, refused images, a recipe change, reviews, training
jobs, and a sink with a receiver that fails.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.access import bearer
from tests.bundles import part, tiny_quality, write_tiny_bundle
from tests.command_line import run
from tests.deploy.monitoring import alerts, dashboard_queries, dashboard_variables, operands, rules
from tests.deploy.prometheus import INTERVAL_S, Prometheus, config_for, run_prometheus
from tests.running_service import BAD, GOOD, INSPECT, encode
from tests.service.integrations.receivers import Receiver, Reply, receive
from tests.serving import service_process

pytestmark = pytest.mark.slow

PRODUCT = "/v1/products/widget"
QUALITY = tiny_quality(brightness=(100.0, 160.0))
TOO_DARK = encode(part(brightness=10))
CORRUPT = GOOD[: len(GOOD) // 2]
# Grafana uses four scrape intervals at least.
RATE_INTERVAL = f"{4 * INTERVAL_S:g}s"
# This machine has no GPU: the condition "ran on CUDA before" is evaluated with the provider that it has.
ON_THIS_MACHINE = {'provider="cuda"': 'provider="cpu"'}
WHO = {"author": "Ada", "reason": "test"}
DEADLINE_S = 25.0


def needs_review() -> bytes:
    """Return an image with a score between the review and the fail threshold, 0.057 and 0.059."""
    image = part(brightness=142)
    image[::2] = 143
    return encode(image)


PNG = {"content-type": "image/png"}


@dataclass
class Load:
    """Sends images, recipe changes and reviews until it is stopped."""

    client: httpx.Client
    stopped: threading.Event = field(default_factory=threading.Event)
    failures: list[str] = field(default_factory=list)
    decisions: set[str] = field(default_factory=set)

    def run(self) -> None:
        try:
            review = needs_review()
            while not self.stopped.is_set():
                for station in ("A", "B"):
                    for image in (GOOD, GOOD, GOOD, GOOD, review):
                        self.inspect(image, station=station)
                self.inspect(GOOD)
                self.inspect(TOO_DARK, station="B")
                self.inspect(CORRUPT, station="B", expected=422)
                self.train()
                self.client.post(
                    f"{INSPECT}:try", content=GOOD, headers={"content-type": "image/png"}
                ).raise_for_status()
                for label in ("good", "defect"):
                    failed = self.inspect(BAD, station="A")
                    self.post(f"/v1/inspections/{failed['id']}:review", {"label": label}, 201)
        except Exception as error:  # noqa: BLE001 - reported by the test, which waits for data otherwise
            self.failures.append(repr(error))

    def train(self) -> None:
        """Queue a training job and end it, as a worker does that needs no time."""
        files = [
            ("image", (f"{number}.png", encode(part(brightness=130 + number)), "image/png")) for number in range(8)
        ]
        self.client.post(f"{PRODUCT}/good-images", files=files).raise_for_status()
        claim = self.post("/v1/training-jobs:claim", {"worker": "tester"}, 200)
        job, end = claim["job"]["id"], {"claim": claim["claim"], "outcome": "succeeded"}
        self.post(f"{PRODUCT}/training-jobs/{job}:finish", end, 200)

    def inspect(self, image: bytes, station: str | None = None, expected: int = 201) -> dict[str, Any]:
        params = {"station": station} if station else {}
        response = self.client.post(INSPECT, content=image, params=params, headers=PNG)
        assert response.status_code == expected, response.text
        document: dict[str, Any] = response.json()
        self.decisions.add(document.get("decision", "refused"))
        return document

    def post(self, path: str, document: dict[str, Any], expected: int = 200) -> dict[str, Any]:
        response = self.client.post(path, json=document)
        assert response.status_code == expected, response.text
        found: dict[str, Any] = response.json()
        return found


@contextmanager
def loaded(client: httpx.Client) -> Iterator[Load]:
    load = Load(client)
    thread = threading.Thread(target=load.run)
    thread.start()
    try:
        yield load
    finally:
        load.stopped.set()
        thread.join()


def write_sinks(path: Path, delivered: Receiver, failing: Receiver) -> None:
    options = 'kind = "webhook"\nbackoff_base_s = 0.01\nbackoff_max_s = 0.02\nmax_attempts = 2'
    sinks = {"mes": delivered, "broken": failing}
    text = [f'[[sink]]\nname = "{name}"\nurl = "{receiver.url}"\n{options}\n' for name, receiver in sinks.items()]
    path.write_text("\n".join(text), encoding="utf-8")


def make_key(path: Path, *scopes: str) -> str:
    options = [option for scope in scopes for option in ("--scope", scope)]
    created = run("key", "create", path.stem, *options, "--output", path, "--create-database")
    assert created.exit_code == 0, created.output
    return path.read_text(encoding="utf-8").strip()


@dataclass(frozen=True)
class Running:
    """A loaded service and the Prometheus that scrapes it."""

    prometheus: Prometheus
    load: Load

    def wait_for(self, checks: dict[str, Callable[[], str | None]]) -> None:
        """Repeat the checks that return a complaint until none does, or the time is over."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            found = {name: check() for name, check in checks.items()}
            complaints = {name: text for name, text in found.items() if text is not None}
            if not complaints:
                return
            assert time.monotonic() < deadline, "\n".join(f"{name}: {text}" for name, text in complaints.items())
            assert not self.load.failures, self.load.failures
            checks = {name: checks[name] for name in complaints}
            time.sleep(INTERVAL_S)

    def complaint(self, expression: str, labels: tuple[str, ...] = ()) -> str | None:
        """Return why the result of an expression is not usable; None if it is."""
        samples = [sample for sample in self.prometheus.samples(expression) if not math.isnan(sample[1])]
        if not samples:
            return f"no data: {expression}"
        missing = {label for label in labels if not any(label in found for found, _ in samples)}
        return f"the legend shows {missing}, which no series has: {expression}" if missing else None


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("monitoring")
    models, data = folder / "models", folder / "data"
    first, second = write_tiny_bundle(models, quality=QUALITY), write_tiny_bundle(models, quality=QUALITY, gain=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLUMBLINE_DATA", str(data))
        scrape_key = folder / "prometheus.key"
        make_key(scrape_key, "inspect")
        key = make_key(folder / "tester.key", "inspect", "review", "engineer", "admin")
    with receive() as delivered, receive() as failing:
        failing.default = Reply(500)
        write_sinks(folder / "sinks.toml", delivered, failing)
        settings = {"provider": "cpu", "sinks": str(folder / "sinks.toml"), "retention_interval_s": "1"}
        with service_process(models, data, settings) as service:
            config = config_for(folder / "prometheus", service.url.removeprefix("http://"), scrape_key)
            with (
                run_prometheus(config, folder / "tsdb") as prometheus,
                httpx.Client(base_url=service.url, headers=bearer(key), timeout=30) as client,
            ):
                service.wait_until(200)
                for change in (f"{second.version}:activate", f"{first.version}:activate", f"{second.version}:shadow"):
                    client.post(f"{PRODUCT}/bundles/{change}", json=WHO).raise_for_status()
                change_recipe(client)
                with loaded(client) as load:
                    yield Running(prometheus, load)


def change_recipe(client: httpx.Client) -> None:
    client.put(f"{PRODUCT}/recipe", json={"heatmap": {"low": 0.001}, **WHO}).raise_for_status()


def test_prometheus_scrapes_the_service_with_its_key(running: Running) -> None:
    running.wait_for({"up": lambda: running.complaint('up{job="plumbline"} == 1')})


@pytest.mark.parametrize(
    ("expression", "labels", "expected"),
    [
        ('inspection_requests_total{product="ghost"}', (), "no data"),
        ("inspection_queue_depth * NaN", (), "no data"),
        ("inspection_queue_depth", ("station",), "station"),
    ],
)
def test_missing_data_and_missing_labels_are_found(
    running: Running, expression: str, labels: tuple[str, ...], expected: str
) -> None:
    running.wait_for({"data": lambda: running.complaint("inspection_queue_depth")})
    assert expected in (running.complaint(expression, labels) or "")


def test_every_expression_of_the_dashboards_has_data_and_the_labels_of_its_legend(running: Running) -> None:
    checks: dict[str, Callable[[], str | None]] = {}
    for query in dashboard_queries(single="widget"):
        text = query.inserted(__rate_interval=RATE_INTERVAL)
        checks[query.where] = lambda text=text, labels=query.labels: running.complaint(text, labels)  # type: ignore[misc]
    assert len(checks) > 80

    running.wait_for(checks)
    assert running.load.decisions == {"pass", "review", "fail", "invalid", "refused"}


def test_every_variable_of_the_dashboards_has_values(running: Running) -> None:
    running.wait_for(
        {
            variable.where: lambda variable=variable: (  # type: ignore[misc]
                None
                if running.prometheus.values(variable.series.replace("$product", "widget"), variable.label)
                else "no values"
            )
            for variable in dashboard_variables()
        }
    )
    stations = running.prometheus.values("inspection_station_requests_total", "station")
    assert set(stations) == {"A", "B", "default"}


def test_every_recorded_series_and_every_operand_of_an_alert_has_data(running: Running) -> None:
    checks: dict[str, Callable[[], str | None]] = {}
    for rule in rules():
        parts = [rule["record"]] if "record" in rule else operands(rule["expr"])
        for text in parts:
            for absent, present in ON_THIS_MACHINE.items():
                text = text.replace(absent, present)
            checks[f"{rule.get('alert', 'recorded')}: {text}"] = lambda text=text: running.complaint(text)  # type: ignore[misc]
    assert len(checks) > 60

    running.wait_for(checks)


def test_prometheus_evaluates_every_rule_without_an_error(running: Running) -> None:
    evaluated = [rule for group in running.prometheus.get("rules")["groups"] for rule in group["rules"]]

    assert {rule["name"] for rule in evaluated} == {rule.get("alert") or rule["record"] for rule in rules()}
    assert [rule for rule in evaluated if rule["health"] != "ok"] == []


def test_alert_reaches_prometheus_with_its_texts(running: Running) -> None:
    """The receiver fails, so messages are given up: an alert that fires in the real Prometheus."""

    def firing() -> str | None:
        names = [alert["labels"]["alertname"] for alert in running.prometheus.get("alerts")["alerts"]]
        return None if "PlumblineDeadLetters" in names else f"only {names}"

    running.wait_for({"alert": firing})
    (alert,) = [
        alert for alert in running.prometheus.get("alerts")["alerts"]
        if alert["labels"]["alertname"] == "PlumblineDeadLetters"
    ]  # fmt: skip
    assert alert["labels"]["sink"] == "broken"
    assert set(alert["annotations"]) == set(alerts()[0]["annotations"])
    assert "<no value>" not in str(alert["annotations"])
