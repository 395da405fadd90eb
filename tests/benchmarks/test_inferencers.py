"""The protocol of the inferencers' processes, what is left out, and the table; no other product is needed."""

import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.inferencers.__main__ import measure_accuracy, measure_time, write_jpegs
from benchmarks.inferencers.contestant import Contestant, ContestantFailed
from benchmarks.inferencers.contestants import (
    ANOMALIB_OPENVINO,
    ANOMALIB_TORCH,
    NAMES,
    PLUMBLINE,
    ROBOFLOW,
    Missing,
    Setup,
    started,
)
from benchmarks.inferencers.lines import Answer, serve
from benchmarks.inferencers.table import markdown, read_results, write_results
from benchmarks.peers.environment import ROOT
from training.dataset import TestImage

# The score is the first byte; a file that begins with 255 ends the process.
SCRIPT = """
import sys
from benchmarks.inferencers.lines import Answer, claim_output, serve

replies = claim_output()
print("a library prints this")

def inspect(data):
    if data[0] == 255:
        raise ValueError("not an image")
    return Answer(float(data[0]), data[0] > 5, (2, 3))

serve(inspect, sys.stdin, replies)
"""


@pytest.fixture
def contestant(tmp_path: Path) -> Iterator[Contestant]:
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    with Contestant("first byte", [sys.executable, "-c", SCRIPT], tmp_path, variables, callers=(1, 2)) as running:
        yield running


def image_file(folder: Path, first_byte: int) -> Path:
    path = folder / f"{first_byte}.img"
    path.write_bytes(bytes([first_byte, 0]))
    return path


def test_what_libraries_print_is_no_reply(contestant: Contestant, tmp_path: Path) -> None:
    contestant.wait_ready()

    reply = contestant.inspect(image_file(tmp_path, 7))

    assert (reply["score"], reply["defective"], reply["map_hw"]) == (7.0, True, [2, 3])


def test_a_process_that_ends_is_an_error(contestant: Contestant, tmp_path: Path) -> None:
    contestant.wait_ready()

    with pytest.raises(ContestantFailed, match="first byte ended with code 1"):
        contestant.inspect(image_file(tmp_path, 255))


def test_accuracy_is_that_of_the_scores_and_verdicts(contestant: Contestant, tmp_path: Path) -> None:
    bytes_by_defect = {"good": (1, 6), "scratch": (4, 8)}
    images = [
        TestImage(image_file(tmp_path, first), defect, None)
        for defect, firsts in bytes_by_defect.items()
        for first in firsts
    ]

    figures = measure_accuracy(contestant, images)

    # Three of the four pairs are in the right order; 6 is a false reject and 4 is missed.
    assert figures == {
        "image_auroc": 0.75,
        "good": 2,
        "good_failed": 1,
        "defective": 2,
        "defective_not_failed": 1,
    }


def test_every_number_of_callers_is_counted(contestant: Contestant, tmp_path: Path) -> None:
    figures = measure_time([contestant], [image_file(tmp_path, 1), image_file(tmp_path, 9)], rounds=5, for_s=0.05)

    (row,) = figures.values()
    assert row["rounds"] == 5
    assert row["map_hw"] == [2, 3]
    assert set(row["images_per_second"]) == {"1", "2"}
    assert all(rate > 0 for rate in row["images_per_second"].values())


def test_callers_run_at_the_same_time(tmp_path: Path) -> None:
    inside = threading.Barrier(2)

    def inspect(_: bytes) -> Answer:
        inside.wait(30)  # raises unless another caller arrives
        return Answer(0.0, False, (1, 1))

    replies = io.StringIO()
    request = {"file": str(image_file(tmp_path, 1)), "callers": 2, "for_s": 0}
    serve(inspect, [json.dumps(request)], replies)

    assert json.loads(replies.getvalue().splitlines()[1])["images"] == 2


def test_timed_images_are_large_and_half_of_them_good(tmp_path: Path) -> None:
    images = []
    for defect, value in (("scratch", 200), ("good", 10), ("good", 20), ("good", 30), ("dent", 210), ("dent", 220)):
        path = tmp_path / f"{value}.png"
        cv2.imwrite(str(path), np.full((40, 50, 3), value, np.uint8))
        images.append(TestImage(path, defect, None))
    out = tmp_path / "jpegs"
    out.mkdir()

    files = write_jpegs(images, out)

    pixels = [cv2.imread(str(file)) for file in files]
    assert [image is not None and image.shape for image in pixels] == [(1024, 1024, 3)] * 4
    assert [round(float(image.mean())) for image in pixels if image is not None] == [10, 20, 200, 210]


def setup(tmp_path: Path, roboflow: Path | None = None) -> Setup:
    return Setup(
        data=tmp_path,
        models=str(tmp_path / "{category}-models"),
        peers=tmp_path,
        exported=tmp_path / "exported",
        environment=tmp_path / "environment",
        roboflow=roboflow,
        threads=1,
    )


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (PLUMBLINE, "nut-models has no product nut: run plumbline-train compare"),
        (ANOMALIB_TORCH, "nut-patchcore.pt does not exist: run python -m benchmarks.peers"),
        (ANOMALIB_OPENVINO, "nut-patchcore.pt does not exist: run python -m benchmarks.peers"),
        (ROBOFLOW, "pass the interpreter of an environment with inference-cpu"),
    ],
)
def test_a_missing_model_or_package_is_named(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(Missing, match=reason), started(setup(tmp_path), name, "nut"):
        pass


def test_an_interpreter_without_roboflows_package_is_named(tmp_path: Path) -> None:
    # Without site-packages, so that it is missing even if the tests' environment has it.
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    python.chmod(0o755)

    with (
        pytest.raises(Missing, match="cannot import inference_models"),
        started(setup(tmp_path, python), ROBOFLOW, "nut"),
    ):
        pass


def test_parts_of_the_results_are_joined_in_the_table(tmp_path: Path) -> None:
    write_results(tmp_path, "nut", {PLUMBLINE: {"image_auroc": 0.98765}})
    timing = {"median_ms": 12.34, "p95_ms": 20, "images_per_second": {"1": 81.0}}
    write_results(tmp_path, "nut", {PLUMBLINE: timing, ROBOFLOW: timing})

    lines = markdown({"nut": read_results(tmp_path, "nut")}, NAMES).splitlines()

    assert lines[0] == (
        "| category | inferencer | image AUROC % | ms, median | ms, p95 | images/s, 1 caller | images/s, 4 callers |"
    )
    assert lines[2:] == [
        "| nut | Plumbline, in process | 98.77 | 12.3 | 20.0 | 81.0 | – |",
        "| nut | Roboflow inference | – | 12.3 | 20.0 | 81.0 | – |",
    ]


def test_the_protocol_needs_no_package_of_plumbline() -> None:
    """Roboflow's environment has none."""
    code = "import sys, benchmarks.inferencers.lines as _; print({'service', 'training', 'numpy'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "set()"
