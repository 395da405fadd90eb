"""Requirements on every method: training, detection, determinism, export as one graph, and serving."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import torch
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from onnx import numpy_helper

from service.app import create_app
from service.bundle.card import CalibrationCard, CalibrationGroup
from service.bundle.manifest import InputGeometry, ManifestDraft, ScoreRule, TrainingRecord
from service.bundle.writer import write_bundle
from service.inspection.runtime.session import GraphSession, SessionOptions
from service.inspection.scoring import image_score
from service.settings import Settings
from training import metrics
from training.config import FitConfig
from training.export import BATCH_SIZES, Exported, Probes, export, with_metadata
from training.fit import Progress, fit
from training.methods import METHODS, fit_config
from training.methods.base import Method

SIZE = 96
RULE = ScoreRule(fraction=0.01)
# The loss starts low, because all outputs start at the mean feature; a tenth of it takes longer to reach.
OVERFITTING: dict[str, dict[str, Any]] = {"dual_teacher": {"iterations": 800, "lr": 5e-3}}
EVERY_METHOD = pytest.mark.parametrize("name", sorted(METHODS))


def fabric(seed: int, *, blot: bool = False, noise: float = 5.0) -> NDArray[np.uint8]:
    """Return a woven texture, uint8 [SIZE, SIZE, 3]: two sine waves of random phase with noise, optionally a blot."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE, :SIZE]
    weave = np.sin(2 * np.pi * x / 8 + rng.uniform(0, 6)) * np.sin(2 * np.pi * y / 8 + rng.uniform(0, 6))
    image = 120 + 45 * weave[..., None] + rng.normal(0, noise, (SIZE, SIZE, 3))
    image = np.asarray(np.clip(image, 0, 255), np.uint8)
    if blot:
        centre = (int(rng.integers(16, SIZE - 16)), int(rng.integers(16, SIZE - 16)))
        cv2.ellipse(image, centre, (8, 5), float(rng.uniform(0, 180)), 0, 360, (60, 70, 110), -1)
    return image


def fabrics(count: int, first: int, *, blot: bool = False) -> NDArray[np.uint8]:
    return np.stack([fabric(first + number, blot=blot) for number in range(count)])


def config_of(name: str, **changes: object) -> FitConfig:
    """Return the default settings with a small image and few steps."""
    config = fit_config(name, input_size=SIZE, iterations=120, pseudo_pool=48, seed=3, threads=1)
    return dataclasses.replace(config, **changes)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Trained:
    """A method trained on the fabric, and its graph."""

    config: FitConfig
    method: Method
    exported: Exported
    losses: list[float]

    def maps(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.concatenate(
                [self.method(torch.from_numpy(images[i : i + 1]))[0].numpy() for i in range(len(images))]
            )


Train = Callable[[str], Trained]


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Train each method once for all tests of this module."""
    done: dict[str, Trained] = {}

    def trained(name: str) -> Trained:
        if name not in done:
            config, losses = config_of(name), list[float]()
            method = fit(
                fabrics(24, 0),
                fabrics(8, 100),
                config,
                tmp_path_factory.mktemp(name),
                on_progress=lambda progress: losses.append(progress.losses["loss"]),
            )
            probes = Probes.draw(fabrics(8, 200), method.branch_flipping_inputs(fabrics(2, 300)), seed=0)
            done[name] = Trained(config, method, export(method, probes), losses)
        return done[name]

    return trained


@pytest.mark.slow
@EVERY_METHOD
def test_loss_falls_tenfold_on_eight_images(name: str, tmp_path: Path) -> None:
    losses: list[float] = []
    # Only the distillation loss: the loss of synthetic images cannot reach 0, because the covered pixels are unknown.
    longer = OVERFITTING.get(name, {"iterations": 200})
    config = config_of(name, pseudo_share=0.0, ema_decay=0.9, input_size=64, **longer)
    images = np.stack([fabric(seed, noise=0.0) for seed in range(8)])[:, :64, :64]  # noise cannot be learnt

    def has_fallen(progress: Progress) -> bool:
        losses.append(progress.losses.get("distil", np.inf))
        return losses[-1] < losses[0] / 10

    with suppress(KeyboardInterrupt):  # ends the training as soon as the loss has fallen
        fit(images, images[:2], config, tmp_path, should_stop=has_fallen)
    assert losses[-1] < losses[0] / 10


@pytest.mark.slow
@EVERY_METHOD
def test_graph_explains_its_map(name: str, train: Train) -> None:
    explanation = train(name).exported.explanation  # the export checks that the contributions add up
    assert explanation is not None
    assert [bank.name for bank in explanation.banks] == ["query_reduced", "query_full"]
    assert len(explanation.sources) == {"nnet": 6, "dual_teacher": 9, "drd": 5, "rstpm": 5}[name]


@pytest.mark.slow
@EVERY_METHOD
def test_blots_are_detected_and_localised(name: str, train: Train) -> None:
    trained = train(name)
    good, bad = trained.maps(fabrics(20, 400)), trained.maps(fabrics(20, 500, blot=True))
    scores = np.array([image_score(anomaly_map, RULE) for anomaly_map in (*good, *bad)])
    assert metrics.auroc(scores, np.repeat([False, True], 20)) > 0.95
    # The difference to the same seeds without the blot is its mask.
    clean = fabrics(20, 500)
    hits = 0
    for number, anomaly_map in enumerate(bad):
        changed = np.abs(fabrics(20, 500, blot=True)[number].astype(int) - clean[number]).max(2) > 10
        row, column = np.unravel_index(int(anomaly_map.argmax()), anomaly_map.shape)
        cell = SIZE // anomaly_map.shape[0]
        window = changed[max(0, (row - 2) * cell) : (row + 3) * cell, max(0, (column - 2) * cell) : (column + 3) * cell]
        hits += bool(window.any())
    assert hits >= 18


@pytest.mark.slow
@EVERY_METHOD
def test_same_seed_gives_the_same_maps(name: str, tmp_path: Path) -> None:
    config = config_of(name, iterations=4, batch_size=4, pseudo_pool=4)
    first, again = (fit(fabrics(6, 0), fabrics(2, 100), config, tmp_path / run) for run in ("a", "b"))
    images = torch.from_numpy(fabrics(2, 400))
    with torch.inference_mode():
        assert torch.equal(first(images)[0], again(images)[0])


@pytest.mark.slow
@EVERY_METHOD
def test_graph_equals_torch_at_every_batch_size_and_on_branch_flipping_inputs(name: str, train: Train) -> None:
    trained = train(name)
    assert trained.exported.parity.measured < 2e-4
    session = GraphSession(trained.exported.model, SessionOptions(provider="cpu"))
    images = trained.method.branch_flipping_inputs(fabrics(4, 300))
    expected = trained.maps(images)
    for batch_size in BATCH_SIZES:
        actual = session.run(images[:batch_size]).maps
        np.testing.assert_allclose(actual, expected[:batch_size], atol=2e-4 * np.abs(expected).max())


@pytest.mark.slow
@EVERY_METHOD
def test_calibration_constants_are_inside_the_graph(name: str, train: Train) -> None:
    trained = train(name)
    graph = onnx.load_model_from_string(trained.exported.model).graph
    constants = np.concatenate(
        [numpy_helper.to_array(tensor).ravel() for tensor in graph.initializer if tensor.data_type == 1]
    )
    spread = trained.method.get_buffer("fusion.spread")
    assert not torch.equal(spread, torch.ones_like(spread))
    # Exporters fold constants: either the spread or the weight divided by it is present.
    folded = trained.method.get_buffer("fusion.weights") / spread
    for raw, divided in zip(spread.tolist(), folded.tolist(), strict=True):
        assert np.isclose(constants, raw, rtol=1e-4).any() or np.isclose(constants, divided, rtol=1e-4).any()
    assert [value.name for value in graph.input] == ["image"]


@pytest.mark.slow
@EVERY_METHOD
def test_bundle_is_served_over_http(name: str, train: Train, tmp_path: Path) -> None:
    trained = train(name)
    held_out = trained.maps(fabrics(30, 600))
    scores = sorted(image_score(anomaly_map, RULE) for anomaly_map in held_out)
    height, width = trained.exported.map_hw
    draft = ManifestDraft(
        product="fabric",
        method=name,
        teachers=trained.method.teachers,
        input=InputGeometry(height=SIZE, width=SIZE),
        map_height=height,
        map_width=width,
        score_rule=RULE,
        parity=trained.exported.parity,
        training=TrainingRecord(
            images=24, held_out=30, fingerprint="0" * 64, seed=3, iterations=120, seconds=1.0, config={}
        ),
        libraries={},
        git_revision=None,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    card = CalibrationCard(
        provider="cpu",
        scores=scores,
        groups=[CalibrationGroup(name="all", count=30)],
        grouped_by="none",
        map_median=float(np.median(held_out)),
        map_q99=float(np.quantile(held_out, 0.99)),
    )
    model = with_metadata(trained.exported.model, draft)
    write_bundle(tmp_path / "models", draft=draft, model=model, card=card, golden=trained.exported.golden)
    settings = Settings(models=tmp_path / "models", data=tmp_path / "data")
    with TestClient(create_app(settings), base_url="http://127.0.0.1", client=("127.0.0.1", 50000)) as client:
        while client.get("/health/ready").json()["status"] == "loading":
            pass
        image = cv2.imencode(".png", fabric(501, blot=True)[..., ::-1])[1].tobytes()
        response = client.post("/v1/products/fabric/inspections", content=image, headers={"Content-Type": "image/png"})
        assert response.status_code == 201, response.text
        assert (response.json()["decision"], response.json()["bundle"]["method"]) == ("fail", name)


def test_every_method_is_registered_under_its_name() -> None:
    assert all(name == method.name for name, method in METHODS.items())


@EVERY_METHOD
def test_recommended_settings_exist(name: str) -> None:
    fields = {field.name for field in dataclasses.fields(FitConfig)}
    assert METHODS[name].recommended.keys() <= fields - {"method", "seed"}
