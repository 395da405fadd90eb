"""Roboflow's `inference` as a contestant: its PatchCore from a folder. It runs in an environment of its own.

The ImageNet weights of its backbone (Wide ResNet-50-2) come with the package that Roboflow's training writes, and
cannot be downloaded by this benchmark. The backbone therefore has random weights, and the memory bank random patches:
the work is the same, the scores mean nothing.
"""

import json
import sys
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import torch
import typer
from inference_models import AutoModel
from torchvision.models import wide_resnet50_2

from benchmarks.inferencers.lines import Answer, claim_output, serve

_CHANNELS = 1024  # of a patch, see `EMBEDDING_DIMENSION` of its PatchCore


def write_package(folder: Path, input_size: int, entries: int) -> None:
    """Write a model package with random parameters.

    Args:
        folder: Existing folder to write to.
        input_size: Side length of the network's input in pixels.
        entries: Patches in the memory bank.
    """
    generator = torch.Generator().manual_seed(0)
    bank = torch.randn(entries, _CHANNELS, generator=generator)
    state = {"backbone": wide_resnet50_2(weights=None).state_dict(), "memory_bank": bank}
    torch.save({"state": state}, folder / "weights.pth")
    config = {
        "architecture": "patchcore",
        "image_size": input_size,
        "batch_size": 1,
        "neighbors": 1,
        "feature_layer": 1,
        "top_k": 1,
    }
    manifest = {
        "schema_version": 1,
        "config": config,
        "calibration": {"threshold": 1.0, "scale": 1.0},
        "class_names": ["normal", "anomalous"],
        "preprocessing": "rgb-stretch-bilinear-imagenet-v1",
    }
    (folder / "inference_config.json").write_text(json.dumps(manifest))
    kind = {"model_architecture": "patchcore", "task_type": "classification", "backend_type": "torch"}
    (folder / "model_config.json").write_text(json.dumps(kind))


def main(
    package: Annotated[Path, typer.Option(help="Empty folder for the model package.")],
    input_size: Annotated[int, typer.Option()],
    entries: Annotated[int, typer.Option(help="Patches in the memory bank.")],
    threads: Annotated[int, typer.Option(min=1)],
) -> None:
    """Answer requests with Roboflow's PatchCore."""
    replies = claim_output()
    torch.set_num_threads(threads)
    write_package(package, input_size, entries)
    model = AutoModel.from_pretrained(str(package), device=torch.device("cpu"))

    def inspect(data: bytes) -> Answer:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        prediction = model(image, include_anomaly_map=True)
        found = prediction.images_metadata[0]
        height, width = found["anomaly_map"].shape
        return Answer(found["anomaly_score"], found["is_anomalous"], (height, width))

    serve(inspect, sys.stdin, replies)


if __name__ == "__main__":
    typer.run(main)
