"""anomalib's inferencers as contestants. Only the environment of `benchmarks.peers` can run this module.

`export` writes a PatchCore that `benchmarks.peers` has trained in the files of both inferencers, with anomalib's own
export. Its threshold is the highest score of the held-out good images, which anomalib would select on labelled images.
The images are decoded by OpenCV, resized as in training, in 8 bits, and given to `predict` as an array: anomalib's own
resizing is slower, and the memory bank has not seen its results.
"""

import logging
import os
import sys
import warnings
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, cast

import cv2
import numpy as np
import torch
import typer
from anomalib.deploy import OpenVINOInferencer, TorchInferencer
from anomalib.models import Patchcore
from anomalib.post_processing import PostProcessor

from benchmarks.inferencers.lines import Answer, Inspect, claim_output, serve
from benchmarks.peers.models import LAYERS, Images
from benchmarks.peers.results import Result, network_path, result_path
from service.bundle.arrays import UInt8Image
from service.bundle.manifest import InputGeometry
from service.inspection.preparation import prepare
from training.dataset import load_prepared, scan
from training.export import OPSET
from training.pixels import to_pixels
from training.teachers import load_teacher

app = typer.Typer(add_completion=False)


class Runtime(StrEnum):
    """An inferencer of anomalib."""

    TORCH = "torch"
    OPENVINO = "openvino"


def load_patchcore(peers: Path, category: str) -> tuple[Patchcore, Result]:
    """Return anomalib's Lightning module with the parameters of a trained PatchCore, and its result.

    Args:
        peers: Folder of `benchmarks.peers`.
        category: Name of the data set's folder.
    """
    result = Result.read(result_path(peers, category, "patchcore"))
    teacher = load_teacher(result.settings["teacher"])
    module = Patchcore(
        backbone=cast("str", teacher),
        layers=LAYERS[1:],
        pre_processor=False,
        post_processor=PostProcessor(),
        evaluator=False,
        visualizer=False,
    )
    state = torch.load(network_path(peers, category, "patchcore"), weights_only=True)
    module.model.memory_bank = torch.empty_like(state["memory_bank"])
    module.model.load_state_dict(state)
    return module.eval(), result


@torch.inference_mode()
def set_thresholds(module: Patchcore, images: Images) -> None:
    """Set the thresholds to the largest values of good images, with a range in which anomalib clamps no score.

    Args:
        module: The module; its post-processor is changed.
        images: uint8 `[N, H, W, 3]`, good images that the memory bank does not contain.
    """
    outputs = [module.model(to_pixels(torch.from_numpy(image[None]))) for image in images]
    processor = module.post_processor
    for kind, values in (
        ("image", torch.stack([output.pred_score.max() for output in outputs])),
        ("pixel", torch.stack([output.anomaly_map.max() for output in outputs])),
    ):
        highest = values.max()
        getattr(processor, f"_{kind}_threshold").copy_(highest)
        # anomalib clamps to the range of its validation images, above which defective images could not be ranked.
        getattr(processor, f"{kind}_min").copy_(-9 * highest)
        getattr(processor, f"{kind}_max").copy_(11 * highest)


@app.command()
def export(
    peers: Annotated[Path, typer.Option(help="Folder of benchmarks.peers.")],
    data: Annotated[Path, typer.Option(help="Folder that contains folders in the MVTec layout.")],
    category: Annotated[str, typer.Option()],
    out: Annotated[Path, typer.Option(help="Folder for the exported files.")],
) -> None:
    """Export a trained PatchCore for both inferencers."""
    module, result = load_patchcore(peers, category)
    size = result.settings["input_size"]
    found = scan(data / category, seed=result.settings["seed"])
    set_thresholds(module, load_prepared(found.held_out, InputGeometry(height=size, width=size)))
    module.to_torch(out)
    # PatchCore's search fixes the batch size at export, so its axis must not be dynamic.
    onnx_kwargs: dict[str, Any] = {"dynamic_axes": {}, "dynamic_shapes": None, "opset_version": OPSET}
    module.to_openvino(out, input_size=(size, size), onnx_kwargs=onnx_kwargs)


@app.command()
def run(
    runtime: Annotated[Runtime, typer.Argument()],
    exported: Annotated[Path, typer.Option(help="Folder of export.")],
    input_size: Annotated[int, typer.Option()],
    threads: Annotated[int, typer.Option(min=1)],
) -> None:
    """Answer requests with an inferencer."""
    replies = claim_output()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    cv2.setNumThreads(1)
    os.environ["TRUST_REMOTE_CODE"] = "1"  # the file was written by `export` above
    inferencer: Any
    if runtime is Runtime.TORCH:
        inferencer = TorchInferencer(exported / "weights" / "torch" / "model.pt", device="cpu")
    else:
        config = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        inferencer = OpenVINOInferencer(exported / "weights" / "openvino" / "model.xml", device="CPU", config=config)
    serve(_inspector(inferencer, input_size), sys.stdin, replies)


def _inspector(inferencer: Any, input_size: int) -> Inspect:
    geometry = InputGeometry(height=input_size, width=input_size)

    @torch.inference_mode()
    def inspect(data: bytes) -> Answer:
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if bgr is None:
            raise ValueError("not an image")
        image: UInt8Image = prepare(np.ascontiguousarray(bgr[..., ::-1], np.uint8), geometry)
        output = inferencer.predict(image)
        score, defective = np.asarray(output.pred_score).reshape(-1)[0], np.asarray(output.pred_label).reshape(-1)[0]
        height, width = np.asarray(output.anomaly_map).shape[-2:]
        return Answer(float(score), bool(defective), (height, width))

    return inspect


if __name__ == "__main__":
    app()
