"""The product of `make demo`: small enough to ship, intact, and with correct decisions for the sample images."""

from pathlib import Path

import pytest

from service.bundle.bundle import Bundle, newest_bundle
from service.inspection.inspector import Inspector
from service.recipes.recipe import Recipe

ROOT = Path(__file__).parents[2]
REPOSITORY = ROOT / "models"
SAMPLES = sorted((ROOT / "docs" / "samples").glob("*.jpg"))
LIMIT_BYTES = 15 * 10**6  # every clone of the repository downloads it


@pytest.fixture(scope="module")
def shipped() -> Path:
    folder = REPOSITORY / "washer"
    bundle = newest_bundle(folder) if folder.is_dir() else None
    assert bundle is not None, "no bundle is shipped: run `make demo-bundle`"
    return bundle


def test_the_model_repository_is_small_and_holds_one_bundle(shipped: Path) -> None:
    files = [path for path in REPOSITORY.rglob("*") if path.is_file()]

    assert sum(path.stat().st_size for path in files) <= LIMIT_BYTES
    assert [path for path in files if shipped not in path.parents] == []


def test_calibration_certifies_one_percent_false_rejects(shipped: Path) -> None:
    recipe = Recipe.default(Bundle.load(shipped).card.scores)

    assert recipe.certified
    assert recipe.target_false_reject_rate == pytest.approx(0.01)


@pytest.mark.slow
def test_good_samples_pass_and_defective_ones_do_not(shipped: Path) -> None:
    inspector = Inspector.load(shipped)
    try:
        criteria = Recipe.default(inspector.card.scores).criteria
        verdicts = {path.stem: str(inspector.inspect(path.read_bytes(), criteria).decision) for path in SAMPLES}
    finally:
        inspector.close()

    assert len(verdicts) == 8
    assert {name for name, verdict in verdicts.items() if verdict == "pass"} == {"good-1", "good-2", "good-3"}
