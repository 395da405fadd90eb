"""A first bundle that hardly finds anything does not keep a job from its whole training."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from plumbline_client.schemas.training import TrainingVersion
from training.errors import WeakBundle
from training.pipeline import Request
from training.worker import job as module
from training.worker.job import JobOptions
from training.worker.stop import StopRequest


class FakeHeartbeat:
    """Calls at once what is persistent, and keeps the versions."""

    def __init__(self) -> None:
        self.versions: list[TrainingVersion] = []

    def begin(self, variant: str) -> None:
        """Do nothing."""

    def persist(self, call: Any) -> Any:
        """Call it."""
        return call()

    def stage(self, *_: object) -> Any:
        """Ignore the progress."""
        return lambda *_: None

    def add_version(self, version: TrainingVersion) -> None:
        """Keep it."""
        self.versions.append(version)


@pytest.mark.parametrize(("variants", "made"), [(["quick", "full"], ["full"]), (["quick"], [])])
def test_weak_first_bundle(
    variants: list[str], made: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[Request] = []

    def train(request: Request, *_: object) -> SimpleNamespace:
        requests.append(request)
        if len(requests) == 1:
            raise WeakBundle(["it guesses"])
        return SimpleNamespace(bundle=SimpleNamespace(version="0123456789ab"))

    monkeypatch.setattr(module, "continue_or_restart", train)
    monkeypatch.setattr(module, "_download", lambda *_: None)
    monkeypatch.setattr(module, "upload", lambda *_: "0123456789ab")
    monkeypatch.setattr(module, "deploy", lambda *_: "active")
    job: Any = SimpleNamespace(product="plate", id="1", variants=variants, versions=[])
    options: Any = JobOptions(tmp_path, dict.fromkeys(["quick", "full"], None))  # type: ignore[arg-type]
    heartbeat: Any = FakeHeartbeat()
    client: Any = None

    def work() -> None:
        module._make_bundles(client, job, options, heartbeat, StopRequest(), tmp_path)

    if made:
        work()
    else:
        with pytest.raises(WeakBundle):
            work()
    assert [version.variant for version in heartbeat.versions] == made
    assert [request.checked for request in requests] == [False, True][: len(variants)]
