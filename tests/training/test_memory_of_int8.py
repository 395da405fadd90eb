"""The memory of a loaded int8 bundle, and its estimate."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from service.bundle.bundle import Bundle, newest_bundle
from service.bundle.golden import GoldenSample
from service.bundle.manifest import ManifestDraft
from service.bundle.writer import write_bundle
from service.deployment.memory_limits import memory_bytes
from service.inspection.runtime.session import GraphSession, SessionOptions
from tests.loaded_bundles import measure_growth
from training.export import with_metadata
from training.quantisation import quantise

MODELS = Path(__file__).parents[2] / "models"
CPU = SessionOptions(provider="cpu", threads=2)


def write_int8_bundle(source: Bundle, models: Path) -> Bundle:
    """Write a bundle with the graph of another one in int8. Its thresholds are meaningless."""
    images = [sample.image for sample in source.golden[:2]]
    values = source.manifest.model_dump(exclude={"files"}) | {"precision": "int8", "explanation": None}
    draft = ManifestDraft.model_validate(values)
    model = with_metadata(quantise(source.read_model(), np.stack(images), version=source.version, seed=0), draft)
    session, golden = GraphSession(model, CPU), []
    for image in images:
        output = session.run(image[None])
        golden.append(GoldenSample(image, output.maps[0], None if output.gains is None else float(output.gains[0])))
    return write_bundle(models, draft=draft, model=model, card=source.card, golden=golden)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the resident memory from /proc")
def test_estimate_is_the_memory_of_a_further_int8_bundle(tmp_path: Path) -> None:
    path = newest_bundle(MODELS / "washer")
    assert path is not None
    bundle = write_int8_bundle(Bundle.load(path), tmp_path)

    growth = measure_growth(bundle.path)

    # Measurements of one bundle differ by a tenth, and the overhead is the same number for all bundles.
    assert memory_bytes(bundle.manifest) == pytest.approx(growth.further_bytes, rel=0.2)
