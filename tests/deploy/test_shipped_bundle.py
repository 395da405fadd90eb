"""The product of `make demo`: small enough to ship, intact, and with correct decisions for the sample images."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from service.bundle.bundle import Bundle, newest_bundle
from service.inspection.inspector import Inspector
from service.recipes.quality_check import check_quality
from service.recipes.recipe import Recipe
from service.schemas.sections import InvalidReason

ROOT = Path(__file__).parents[2]
REPOSITORY = ROOT / "models"
SAMPLES = sorted((ROOT / "docs" / "samples").glob("*.jpg"))
LIMIT_BYTES = 20 * 10**6  # every clone of the repository downloads it


@pytest.fixture(scope="module")
def shipped() -> Path:
    folder = REPOSITORY / "washer"
    bundle = newest_bundle(folder) if folder.is_dir() else None
    assert bundle is not None, "no bundle is shipped: run `make demo-bundle`"
    return bundle


@pytest.fixture(scope="module")
def inspector(shipped: Path) -> Iterator[Inspector]:
    loaded = Inspector.load(shipped)
    yield loaded
    loaded.close()


def test_the_model_repository_is_small_and_holds_one_bundle(shipped: Path) -> None:
    files = [path for path in REPOSITORY.rglob("*") if path.is_file()]

    assert sum(path.stat().st_size for path in files) <= LIMIT_BYTES
    assert [path for path in files if shipped not in path.parents] == []


def test_calibration_certifies_one_percent_false_rejects(shipped: Path) -> None:
    recipe = Recipe.default(Bundle.load(shipped).card.scores)

    assert recipe.certified
    assert recipe.target_false_reject_rate == pytest.approx(0.01)


@pytest.mark.slow
def test_good_samples_pass_and_defective_ones_do_not(inspector: Inspector) -> None:
    criteria = Recipe.default(inspector.card.scores).criteria
    verdicts = {path.stem: str(inspector.inspect(path.read_bytes(), criteria).decision) for path in SAMPLES}

    assert len(verdicts) == 8
    assert {name for name, verdict in verdicts.items() if verdict == "pass"} == {"good-1", "good-2", "good-3"}


@pytest.mark.slow
@pytest.mark.parametrize("color", [cv2.IMREAD_COLOR, cv2.IMREAD_GRAYSCALE], ids=["color", "gray"])
@pytest.mark.parametrize("bits", [10, 12, 14])
def test_samples_of_fewer_bits_in_a_16_bit_file_are_rejected_unless_the_recipe_declares_them(
    inspector: Inspector, bits: int, color: int
) -> None:
    default = Recipe.default(inspector.card.scores)
    declared = default.model_copy(update={"pixels": default.pixels.model_copy(update={"bit_depth": bits})})
    for path in SAMPLES:
        eight = cv2.imread(str(path), color)
        assert eight is not None
        data = cv2.imencode(".png", eight.astype(np.uint16) << (bits - 8))[1].tobytes()
        undeclared = check_quality(inspector.read(data), inspector.quality_limits, default)
        assert InvalidReason.UNDER_EXPOSED in {violation.reason for violation in undeclared}, path.name
        image = inspector.read(data, declared.pixels.rules(None))
        assert check_quality(image, inspector.quality_limits, declared) == (), path.name
