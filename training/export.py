"""torch -> ONNX -> check -> run -> compare, in one function: a graph that was not run and compared is not exported.

The comparison uses the service's own session and the service's own definition of a difference, at several batch sizes,
on good images, on pseudo-anomalous ones, and on images that flip every choice which depends on data: a branch that
was frozen while tracing shows only there.
"""

import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from service.bundle.golden import GoldenSample, parity_difference
from service.bundle.manifest import ManifestDraft, Parity, graph_metadata
from service.inspection.runtime.session import GraphOutput, GraphSession, SessionOptions
from training.errors import ExportFailed, ExportParityFailed
from training.synthetic_anomalies import synthetic_anomaly

OPSET = 18  # the dynamo exporter's native one; older ones go through a converter
TOLERANCE = 1e-3  # relative; also what a server's self-test may find (see METHODS: other providers reach 1e-4)
BATCH_SIZES = (1, 3, 8)
GOLDEN_EACH = 3  # good and pseudo-anomalous golden samples, each
_EXAMPLE_BATCH = 2  # the exporter takes a batch of 1 for a constant

UInt8Images = NDArray[np.uint8]


@dataclass(frozen=True)
class Probes:
    """Prepared images to compare on, each uint8 [K, H, W, 3] RGB of the graph's input size.

    Attributes:
        good: Held-out good images, at least one.
        pseudo: The same kind with painted defects, at least one.
        flipping: Images that flip data-dependent choices; may be empty.
    """

    good: UInt8Images
    pseudo: UInt8Images
    flipping: UInt8Images

    @classmethod
    def draw(cls, good: UInt8Images, flipping: UInt8Images, seed: int, count: int = 8) -> "Probes":
        """Up to `count` good images and as many with painted defects, drawn by the seed alone."""
        rng = np.random.default_rng(seed)
        chosen = good[np.sort(rng.permutation(len(good))[:count])]
        painted = [np.rint(synthetic_anomaly(image, rng)[0] * 255).astype(np.uint8) for image in chosen]
        return cls(chosen, np.stack(painted), flipping)

    def named(self) -> Mapping[str, UInt8Images]:
        kinds = {"good": self.good, "pseudo-anomalous": self.pseudo, "branch-flipping": self.flipping}
        return {name: images for name, images in kinds.items() if len(images)}


@dataclass(frozen=True)
class Exported:
    """A graph that was compared with torch.

    Attributes:
        model: The ONNX file's bytes, without the manifest's essentials: `with_metadata` adds them.
        parity: The certificate.
        golden: Samples with torch's answers.
        map_hw: Height and width of the anomaly map.
    """

    model: bytes
    parity: Parity
    golden: tuple[GoldenSample, ...]
    map_hw: tuple[int, int]


def export(method: nn.Module, probes: Probes) -> Exported:
    """Export a trained method as one self-contained graph and prove that it computes the same.

    Args:
        method: Maps `image` uint8 [N, H, W, 3] to (`anomaly_map` float32 [N, h, w], `score_gain` float32 [N] or None).
        probes: What to compare on.

    Raises:
        ExportFailed: The exporter or ONNX's checker refuses the network.
        ExportParityFailed: A probe's map or gain differs by more than `TOLERANCE`.
    """
    method = method.cpu().eval()
    with torch.inference_mode():
        has_gain = method(torch.from_numpy(probes.good[:1]))[1] is not None
    model = to_onnx(_Graph(method), probes.good, ["anomaly_map", "score_gain"][: 1 + has_gain])
    session = GraphSession(model, SessionOptions(provider="cpu"))
    measured = 0.0
    golden: list[GoldenSample] = []
    for name, images in probes.named().items():
        expected = _run_torch(method, images)
        for batch_size in BATCH_SIZES:
            difference = _difference(expected, _run_graph(session, images, batch_size))
            if not difference <= TOLERANCE:
                raise ExportParityFailed(f"{name} images at batch size {batch_size}", difference, TOLERANCE)
            measured = max(measured, difference)
        if images is not probes.flipping:
            golden += _golden(images, expected)
    parity = Parity(tolerance=TOLERANCE, measured=measured, provider=session.provider)
    return Exported(model, parity, tuple(golden), golden[0].anomaly_map.shape)


def with_metadata(model: bytes, draft: ManifestDraft) -> bytes:
    """The graph with the manifest's essentials as its `metadata_props`."""
    graph = onnx.load_model_from_string(model)
    onnx.helper.set_model_props(graph, dict(graph_metadata(draft)))
    return bytes(graph.SerializeToString(deterministic=True))


class _Graph(nn.Module):
    """Leaves out the gain where the method has none: a graph has no None."""

    def __init__(self, method: nn.Module) -> None:
        super().__init__()
        self.method = method

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        anomaly_map, gain = self.method(image)
        return (anomaly_map,) if gain is None else (anomaly_map, gain)


def to_onnx(network: nn.Module, example: UInt8Images, outputs: Sequence[str]) -> bytes:
    """One self-contained, checked graph with a dynamic batch; nothing is compared yet.

    Args:
        network: Takes uint8 [N, H, W, 3] and returns a tuple of tensors whose first axis is N.
        example: uint8 [K, H, W, 3], at least one image.
        outputs: The outputs' names.

    Raises:
        ExportFailed: The exporter or ONNX's checker refuses the network.
    """
    batch = torch.from_numpy(np.repeat(example[:1], _EXAMPLE_BATCH, axis=0))
    try:
        with torch.no_grad(), _quiet_exporter():
            program = torch.onnx.export(
                network,
                (batch,),
                dynamo=True,
                opset_version=OPSET,
                input_names=["image"],
                output_names=list(outputs),
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                external_data=False,
                verbose=False,
            )
        if program is None:  # only where a file was asked for
            raise RuntimeError("the exporter returned nothing")
        graph = program.model_proto
        _strip(graph)
        onnx.checker.check_model(graph, full_check=True)
    except Exception as error:  # the exporter raises whatever its passes raise
        raise ExportFailed(_first_line(error)) from error
    return bytes(graph.SerializeToString(deterministic=True))


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """The exporter warns about its own internals and prints progress; nobody who trains a product can act on it."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _strip(model: onnx.ModelProto) -> None:
    """Remove what the exporter notes at every node: source paths of the training machine, and half of a small file."""
    del model.metadata_props[:]
    model.doc_string = ""
    for graph in (model.graph, *model.functions):
        del graph.metadata_props[:]
        graph.doc_string = ""
        for item in (*graph.node, *graph.value_info):
            del item.metadata_props[:]
            item.doc_string = ""
    # Initializers, inputs and outputs carry notes too.
    for item in (*model.graph.initializer, *model.graph.input, *model.graph.output):
        del item.metadata_props[:]
        item.doc_string = ""


def _run_torch(method: nn.Module, images: UInt8Images) -> GraphOutput:
    with torch.inference_mode():
        answers = [method(torch.from_numpy(images[index : index + 1])) for index in range(len(images))]
    maps = torch.cat([anomaly_map for anomaly_map, _ in answers]).numpy()
    gains = [gain for _, gain in answers if gain is not None]
    return GraphOutput(maps, torch.cat(gains).numpy() if gains else None)


def _run_graph(session: GraphSession, images: UInt8Images, batch_size: int) -> GraphOutput:
    """Every image in a full batch: the last one is filled up from the front, and the filling dropped."""
    padded = np.resize(images, (-(-len(images) // batch_size) * batch_size, *images.shape[1:]))
    outputs = [session.run(padded[start : start + batch_size]) for start in range(0, len(padded), batch_size)]
    gains = [output.gains for output in outputs if output.gains is not None]
    maps = np.concatenate([output.maps for output in outputs])[: len(images)]
    return GraphOutput(maps, np.concatenate(gains)[: len(images)] if gains else None)


def _difference(expected: GraphOutput, actual: GraphOutput) -> float:
    """The worst image's relative difference, map and gain."""
    worst = max(parity_difference(e, a) for e, a in zip(expected.maps, actual.maps, strict=True))
    if expected.gains is None:
        return worst
    gains: Sequence[float] = [] if actual.gains is None else list(actual.gains)
    return max(worst, *(parity_difference(e, a) for e, a in zip(expected.gains, gains, strict=True)))


def _golden(images: UInt8Images, expected: GraphOutput) -> list[GoldenSample]:
    gains = [None] * len(images) if expected.gains is None else [float(gain) for gain in expected.gains]
    samples = zip(images, expected.maps, gains, strict=True)
    return [GoldenSample(image, anomaly_map, gain) for image, anomaly_map, gain in list(samples)[:GOLDEN_EACH]]


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
