"""A product that is built in seconds: synthetic images of plates and an untrained network."""

from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from service.bundle.bundle import Bundle
from service.bundle.manifest import InputGeometry, ManifestDraft, ScoreRule, TrainingRecord
from service.bundle.writer import write_bundle
from service.inspection.inspector import Measurer
from service.inspection.runtime.session import GraphSession
from tests.training.small_method import SmallMethod
from training.calibrate import calibrate
from training.dataset import load_prepared, scan
from training.export import Probes, export, with_metadata
from training.pipeline import inspector_options

SIZE = 64


def plate(seed: int, spots: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Draw a plain, slightly noisy plate of 80 x 72 pixels and the mask of its bright spots."""
    rng = np.random.default_rng(seed)
    image = (rng.normal(110, 4, (72, 80, 3)) + rng.uniform(-5, 5)).clip(0, 255)
    mask = np.zeros(image.shape[:2], bool)
    for _ in range(spots):
        y, x = rng.integers(5, 60, 2)
        mask[y : y + 7, x : x + 7] = True
    image[mask] = rng.integers(0, 255, (int(mask.sum()), 3))
    return image.astype(np.uint8), mask


def write_plates(root: Path, *, masks: bool = True) -> Path:
    """Write an MVTec-layout folder: 40 training images; 8 good, 6 one-spot and 4 three-spot test images."""
    for folder, count, spots, first in (
        ("train/good", 40, 0, 0),
        ("test/good", 8, 0, 100),
        ("test/spot", 6, 1, 200),
        ("test/spots", 4, 3, 300),
    ):
        for number in range(count):
            image, mask = plate(first + number, spots)
            _write(root / folder / f"{number:03d}.png", image)
            if spots and masks:
                defect = folder.split("/")[1]
                _write(root / "ground_truth" / defect / f"{number:03d}_mask.png", mask.astype(np.uint8) * 255)
    return root


def build_bundle(data: Path, models: Path) -> Bundle:
    """Run the training pipeline without the training."""
    found = scan(data)
    geometry = InputGeometry(height=SIZE, width=SIZE)
    held_out = load_prepared(found.held_out, geometry)
    exported = export(SmallMethod(), Probes.draw(held_out, held_out[:0], seed=0, count=3))
    draft = ManifestDraft(
        product="plate",
        method="small",
        teachers=["none"],
        input=geometry,
        map_height=exported.map_hw[0],
        map_width=exported.map_hw[1],
        score_rule=ScoreRule(fraction=0.01),
        parity=exported.parity,
        training=TrainingRecord(
            images=len(found.train),
            held_out=len(found.held_out),
            fingerprint=found.fingerprint,
            seed=0,
            iterations=0,
            seconds=0.0,
            config={},
        ),
        libraries={},
        git_revision=None,
        created_at=datetime.now(UTC),
    )
    model = with_metadata(exported.model, draft)
    options = inspector_options(threads=1, provider="cpu")
    measurer = Measurer(GraphSession(model, options.session), geometry, draft.score_rule, options)
    try:
        card = calibrate(measurer, found.held_out, found.sessions, found.grouped_by)
    finally:
        measurer.close()
    return write_bundle(models, draft=draft, model=model, card=card, golden=exported.golden, images=found.hashes)


def _write(path: Path, image: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)
