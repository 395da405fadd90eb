"""A worker with fake sinks, for tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from service.api.mapping import to_inspection
from service.integrations.config import SinkConfig, WebhookConfig
from service.integrations.delivery import Attempt, Event, Sink
from service.integrations.events import Render
from service.integrations.start import Integrations
from service.monitoring.clock import Clock
from service.monitoring.metrics import Metrics
from service.settings import Settings
from service.store.outbox import DeadLetterFilter, Outbox
from service.store.records import InspectionRecord
from service.store.store import Store
from tests.service.store.test_store import make_row

UNAVAILABLE = Attempt("unavailable", "the connection failed")
REJECTED = Attempt("rejected", "the receiver returned status 500")
REFUSED = Attempt("refused", "the receiver returned status 400")


def config(name: str = "mes", **changes: Any) -> WebhookConfig:
    values = {"kind": "webhook", "url": "http://127.0.0.1:9/", "backoff_base_s": 0.02, "backoff_max_s": 0.05}
    return WebhookConfig.model_validate({"name": name} | values | changes)


class Running:
    """A worker with fake sinks."""

    def __init__(self, store: Store, *sinks: tuple[SinkConfig, Sink], **settings: Any) -> None:
        self.store = store
        self.metrics = Metrics()
        self.outbox = Outbox(store.engine)
        chosen = Settings(data=store.data, **settings)
        self.clock = Clock()
        self.integrations = Integrations(chosen, store, sinks, Render(to_inspection), self.metrics.outbox, self.clock)

    def write(self, **changes: Any) -> InspectionRecord:
        record = make_row(**changes)
        self.store.writer.write(record)
        return record

    def pending(self, sink: str = "mes") -> int:
        backlog = self.outbox.backlogs().get(sink)
        return 0 if backlog is None else backlog.pending

    def dead(self, sink: str = "mes") -> list[str]:
        found = self.outbox.dead_letters(DeadLetterFilter(sink), before=None, limit=100)
        return [letter.inspection_id for letter in reversed(found)]

    def sample(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, {"sink": "mes"} | labels)


@contextmanager
def deliver(store: Store, *sinks: tuple[SinkConfig, Sink], **settings: Any) -> Iterator[Running]:
    running = Running(store, *sinks, **settings)
    running.integrations.start()
    try:
        yield running
    finally:
        running.integrations.close()


def inspection_of(event: Event) -> str:
    identifier: str = json.loads(event.body)["inspection"]["id"]
    return identifier


def failing_until(condition: Callable[[], bool], attempt: Attempt) -> Callable[[Event], Attempt]:
    return lambda _event: Attempt("delivered") if condition() else attempt
