"""`fit --quick-first`: the first bundle, then the training in full."""

from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner, Result

from training.cli.main import app
from training.errors import WeakBundle
from training.methods.nnet import NNet
from training.pipeline import Request

runner = CliRunner()


@dataclass
class RecordedTraining:
    """Stands in for `training.pipeline.train`: keeps the requests, and fails as told."""

    fails: tuple[Exception | None, ...] = ()
    requests: list[Request] = field(default_factory=list)

    def __call__(self, request: Request, *_: object) -> SimpleNamespace:
        self.requests.append(request)
        failure = self.fails[len(self.requests) - 1] if self.fails else None
        if failure is not None:
            raise failure
        return SimpleNamespace(bundle=SimpleNamespace(path=request.models / f"version-{len(self.requests)}"))

    def run(self, monkeypatch: pytest.MonkeyPatch, *options: str) -> Result:
        monkeypatch.setattr("training.pipeline.train", self)
        monkeypatch.setattr("training.cli.fit._report", lambda *_: None)
        return runner.invoke(app, ["fit", "--data", "parts", "--product", "plate", *options])


def test_quick_first_trains_in_full_after_the_first_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    training = RecordedTraining()
    result = training.run(monkeypatch, "--quick-first", "--iterations", "90", "--seed", "3")
    assert result.exit_code == 0, result.output
    first, full = training.requests
    assert first.config.options == NNet.quick
    assert (full.config.options, full.config.iterations, full.config.threads) == ({}, 90, 1)
    assert (first.checked, full.checked) == (False, True)
    assert (first.precedes_full, full.precedes_full) == (True, False)
    same = {"config": full.config, "checked": True, "precedes_full": False}
    assert replace(first, **same) == full  # type: ignore[arg-type]
    assert (first.config.seed, first.config.input_size) == (3, full.config.input_size)
    assert "version-1" in result.stderr


def test_resumed_training_does_not_make_the_first_bundle_again(monkeypatch: pytest.MonkeyPatch) -> None:
    training = RecordedTraining()
    assert training.run(monkeypatch, "--quick-first", "--resume").exit_code == 0
    (full,) = training.requests
    assert (full.config.options, full.resume, full.checked) == ({}, True, False)


def test_weak_first_bundle_does_not_end_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    training = RecordedTraining(fails=(WeakBundle(["it guesses"]), None))
    result = training.run(monkeypatch, "--quick-first")
    assert result.exit_code == 0, result.output
    assert len(training.requests) == 2
    assert "it guesses" in result.stderr
