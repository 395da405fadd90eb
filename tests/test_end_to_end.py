"""End-to-end test as a user works: command line, files, a real service process, HTTP.

A small network on small images: the tests check that the parts work together and that scores separate, not how good the
method is at its full size (docs/benchmarks.md has that).
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from plumbline_client import Client
from service.bundle.bundle import Bundle, newest_bundle
from service.cli.demo import running_service
from training.cli.main import app as training_app
from training.dataset import scan_test
from training.demo.part import write_dataset
from training.masks import read_mask
from training.metrics import PixelScores, auroc

BIN = Path(sys.executable).parent
TRAINING_TIMEOUT_S = 600
# Several trainings in succession on any machine; the limit is for a test that hangs.
pytestmark = pytest.mark.timeout(1200)
SMALL = ("--input-size", "128", "--batch-size", "4", "--iterations", "60")


@dataclass(frozen=True)
class Product:
    """A trained product and the images that it was trained on."""

    name: str
    data: Path
    models: Path
    output: str

    @property
    def bundle(self) -> Path:
        path = newest_bundle(self.models / self.name)
        assert path is not None
        return path


def fit_command(name: str, data: Path, models: Path, *options: str) -> list[str]:
    required = {"--data": data, "--product": name, "--models": models, "--run-dir": models.parent / f"run-{name}"}
    return [str(BIN / "plumbline-train"), "fit", *(str(part) for pair in required.items() for part in pair), *options]


def fit(name: str, data: Path, models: Path, *options: str) -> Product:
    """Run `plumbline-train fit` as a process."""
    command = fit_command(name, data, models, *options)
    result = subprocess.run(command, capture_output=True, text=True, timeout=TRAINING_TIMEOUT_S, check=False)
    assert result.returncode == 0, result.stderr
    return Product(name, data, models, result.stdout)


@pytest.fixture(scope="module")
def washer(tmp_path_factory: pytest.TempPathFactory) -> Product:
    """Train on 40 synthetic washers; 4 good ones and 4 of each defect are for testing."""
    folder = tmp_path_factory.mktemp("washer")
    write_dataset(folder / "parts", train=40, test=4, seed=0, size_px=160)
    return fit("washer", folder / "parts", folder / "models", *SMALL)


@pytest.fixture
def served(washer: Product, tmp_path: Path) -> Iterator[Client]:
    with running_service(washer.models, tmp_path, 0) as service:
        service.wait_until_ready()
        with Client(service.url) as client:
            yield client


@pytest.mark.slow
def test_training_reports_the_bundle_and_its_guarantee(washer: Product) -> None:
    assert washer.bundle.as_posix() in washer.output.replace("\n", "")
    assert "≤ 9.1 % on average, ≤ 26 % with 95 % confidence (n = 10)" in washer.output
    assert "plumbline serve --models" in washer.output
    assert "plumbline-train evaluate --bundle" in washer.output
    bundle = Bundle.load(washer.bundle)
    assert (bundle.manifest.training.images, bundle.manifest.training.held_out) == (30, 10)
    assert bundle.manifest.parity.measured <= 1e-3


@pytest.mark.slow
def test_scores_over_http_separate_good_from_defective(washer: Product, served: Client) -> None:
    """Use the defects that half a minute of training at 128 pixels finds; fine scratches need the full size."""
    images = [image for image in scan_test(washer.data) if image.defect in ("good", "missing_hole", "stain")]
    verdicts = [served.inspect("washer", image.path.read_bytes()) for image in images]
    scores = np.array([verdict.score for verdict in verdicts])
    defective = np.array([image.defective for image in images])
    pixels = PixelScores()
    for image, verdict in zip(images, verdicts, strict=True):
        pixels.add(served.anomaly_map(verdict.id), read_mask(image.mask, (160, 160)))

    assert auroc(scores, defective) > 0.85
    assert pixels.figures().auroc > 0.85
    for verdict in verdicts:
        assert verdict.score is not None
        assert (verdict.decision == "fail") == (verdict.score > verdict.thresholds.fail)
        assert bool(verdict.regions) == (verdict.decision != "pass")


@pytest.mark.slow
def test_heatmap_and_map_of_an_inspection_are_served_later(washer: Product, served: Client) -> None:
    worst = max(
        (
            served.inspect("washer", image.path.read_bytes(), part_id=image.path.stem)
            for image in scan_test(washer.data)
        ),
        key=lambda verdict: verdict.score or 0.0,
    )

    later = served.inspection(worst.id)
    heatmap = cv2.imdecode(np.frombuffer(served.heatmap(worst.id, "png"), np.uint8), cv2.IMREAD_COLOR)
    anomaly_map = served.anomaly_map(worst.id)

    assert later == worst
    assert heatmap is not None
    assert heatmap.shape == (160, 160, 3)
    assert anomaly_map.dtype == np.float32
    assert anomaly_map.shape == (Bundle.load(washer.bundle).manifest.map_height,) * 2
    assert worst.score <= anomaly_map.max() * (1 + 1e-6)
    # The highest score of the defective parts must be above the scores of good ones.
    assert worst.decision != "pass"
    for region in worst.regions:
        x, y, width, height = region.bbox
        assert 0 <= x < x + width <= 160
        assert 0 <= y < y + height <= 160


@pytest.mark.slow
def test_records_persist_over_a_restart(washer: Product, tmp_path: Path) -> None:
    image = scan_test(washer.data)[0].path.read_bytes()
    with running_service(washer.models, tmp_path, 0) as service:
        service.wait_until_ready()
        with Client(service.url) as client:
            before = client.inspect("washer", image, part_id="4711")
            map_before = client.anomaly_map(before.id)

    with running_service(washer.models, tmp_path, 0) as service:
        service.wait_until_ready()
        with Client(service.url) as client:
            assert client.inspection(before.id) == before
            np.testing.assert_array_equal(client.anomaly_map(before.id), map_before)
            again = client.inspect("washer", image)
    assert again.score == pytest.approx(before.score, rel=1e-6)


@pytest.mark.slow
def test_evaluate_and_the_service_agree(washer: Product, served: Client, tmp_path: Path) -> None:
    """Compare the report with HTTP: the same code judges, so an image has the same score in both."""
    command: list[str | Path] = [BIN / "plumbline-train", "evaluate", "--bundle", washer.bundle, "--data", washer.data]
    result = subprocess.run([*command, "--out", tmp_path / "report"], capture_output=True, text=True, check=False)

    assert result.returncode == 0, result.stderr
    assert "AUPRO" in result.stdout
    assert (tmp_path / "report" / "report.html").stat().st_size > 50_000
    evaluated = httpx.Response(200, content=(tmp_path / "report" / "evaluation.json").read_bytes()).json()
    for image in evaluated["images"][::5]:
        verdict = served.inspect("washer", Path(image["path"]).read_bytes())
        assert verdict.score == pytest.approx(image["score"], rel=1e-5)
        assert verdict.decision == image["decision"]


@pytest.mark.slow
def test_resumed_training_gives_the_same_network_as_an_uninterrupted_one(tmp_path: Path) -> None:
    """Kill a training process. The other two trainings run in this process, which saves the start of theirs."""
    write_dataset(tmp_path / "parts", train=20, test=0, seed=0, size_px=128)
    small = ("--input-size", "64", "--batch-size", "4", "--iterations", "8")
    options = (*small, "--checkpoint-seconds", "0", "--allow-weak")
    killed = fit_command("washer", tmp_path / "parts", tmp_path / "killed" / "models", *options)
    unbroken = fit_command("washer", tmp_path / "parts", tmp_path / "unbroken" / "models", *options)

    kill_after_a_checkpoint(killed, tmp_path / "killed" / "run-washer" / "checkpoint.pt")
    for command in ([*killed, "--resume"], unbroken):
        done = CliRunner().invoke(training_app, command[1:])
        assert done.exit_code == 0, done.output

    (resumed_bundle,) = (tmp_path / "killed" / "models" / "washer").iterdir()
    (unbroken_bundle,) = (tmp_path / "unbroken" / "models" / "washer").iterdir()
    assert network(resumed_bundle) == network(unbroken_bundle)
    assert Bundle.load(resumed_bundle).card == Bundle.load(unbroken_bundle).card


@pytest.mark.slow
@pytest.mark.real_data
def test_real_hazelnuts(tmp_path: Path) -> None:
    folder = os.environ.get("PLUMBLINE_TEST_DATA")
    if not folder:
        pytest.skip("PLUMBLINE_TEST_DATA is not set; point it to a folder of MVTec-layout data sets (hazelnut_mini)")
    data = Path(folder) / "hazelnut_mini"
    if not data.is_dir():
        pytest.skip(f"{data} does not exist; put the hazelnut_mini data set there")
    hazelnut = fit("hazelnut", data, tmp_path / "models", *SMALL)

    with running_service(hazelnut.models, tmp_path / "service", 0) as service:
        service.wait_until_ready()
        with httpx.Client(base_url=service.url, timeout=60) as client:
            images = scan_test(data)
            verdicts = [post(client, image.path) for image in images]
            heatmap = client.get(verdicts[0]["links"]["heatmap"], headers={"Accept": "image/png"})
            anomaly_map = np.load(BytesIO(client.get(verdicts[0]["links"]["map"]).content))
    scores = np.array([verdict["score"] for verdict in verdicts])
    assert auroc(scores, np.array([image.defective for image in images])) > 0.7
    assert heatmap.content.startswith(b"\x89PNG")
    assert anomaly_map.dtype == np.float32


def post(client: httpx.Client, path: Path) -> Any:
    """Send an image as curl does and return the JSON of the response."""
    media_type = "image/jpeg" if path.suffix == ".jpg" else "image/png"
    response = client.post(
        "/v1/products/hazelnut/inspections", content=path.read_bytes(), headers={"Content-Type": media_type}
    )
    assert response.is_success, response.text
    return response.json()


def kill_after_a_checkpoint(command: list[str], checkpoint: Path) -> None:
    """Start a training and kill it after its first checkpoint."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + TRAINING_TIMEOUT_S
        while not checkpoint.exists():
            assert process.poll() is None, "the training ended before it was killed"
            assert time.monotonic() < deadline, "no checkpoint was written"
            time.sleep(0.01)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL


def network(bundle: Path) -> bytes:
    """Return the graph with all weights, without the metadata (which contain the git revision)."""
    model = onnx.load_model_from_string(Bundle.load(bundle).read_model())
    return bytes(model.graph.SerializeToString(deterministic=True))
