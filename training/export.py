"""Export from PyTorch to ONNX, with a comparison of the two.

A graph is exported only after it was run and compared with the trained network. The comparison uses the service's
session and the service's definition of a difference, on good images, on images with synthetic anomalies, and on images
that change every data-dependent choice of the graph: a choice that tracing made constant is detected only there. Some
of each are also compared in batches of other sizes.
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
from service.bundle.manifest import Explanation, ManifestDraft, Parity, graph_metadata
from service.inspection.explanation.graph import ExplainedGraph
from service.inspection.runtime.session import GraphOutput, GraphSession, SessionOptions
from training.errors import ExportFailed, ExportParityFailed
from training.explanation import find_explanation
from training.graph_file import strip
from training.parallel import in_parallel
from training.synthetic_anomalies import synthetic_anomaly
from training.taps import recording

_log = logging.getLogger(__name__)
OPSET = 18  # the native opset of the dynamo exporter; lower ones need a conversion
TOLERANCE = 1e-3  # relative; also the tolerance of the service's self-test, where other providers reach 1e-4
BATCH_SIZES = (1, 3, 8)
PROBES = 8  # good images to compare on
GOLDEN_EACH = 3  # golden samples of good images, and as many with synthetic anomalies
_EXAMPLE_BATCH = 2  # the exporter treats a batch dimension of 1 as a constant

UInt8Images = NDArray[np.uint8]


@dataclass(frozen=True)
class Probes:
    """Prepared images to compare on, each uint8 `[K, H, W, 3]`, RGB, of the graph's input size.

    Attributes:
        good: Held-out good images, at least one.
        synthetic: Good images with synthetic anomalies, at least one.
        flipping: Images that change data-dependent choices; may be empty.
    """

    good: UInt8Images
    synthetic: UInt8Images
    flipping: UInt8Images

    @classmethod
    def draw(cls, good: UInt8Images, flipping: UInt8Images, seed: int, count: int = PROBES) -> "Probes":
        """Draw up to `count` good images and add synthetic anomalies to copies of them.

        Args:
            good: uint8 `[N, H, W, 3]`, held-out good images, at least one.
            flipping: uint8 `[K, H, W, 3]`, see `Method.branch_flipping_inputs`.
            seed: Seed of the selection and of the synthetic anomalies.
            count: Largest number of good images.
        """
        rng = np.random.default_rng(seed)
        chosen = good[np.sort(rng.permutation(len(good))[:count])]
        synthetic = [np.rint(synthetic_anomaly(image, rng)[0] * 255).astype(np.uint8) for image in chosen]
        return cls(chosen, np.stack(synthetic), flipping)

    def named(self) -> Mapping[str, UInt8Images]:
        """Return the non-empty groups of images by their names in error messages."""
        groups = {"good": self.good, "synthetic-anomaly": self.synthetic, "branch-flipping": self.flipping}
        return {name: images for name, images in groups.items() if len(images)}


@dataclass(frozen=True)
class Exported:
    """A graph that was compared with the trained network.

    Attributes:
        model: Content of the ONNX file, without metadata; `with_metadata` adds it.
        parity: The result of the comparison.
        golden: Sample inputs with PyTorch's outputs.
        map_hw: Height and width of the anomaly map, cells.
        explanation: The tensors that explain the map; None if the network has none.
    """

    model: bytes
    parity: Parity
    golden: tuple[GoldenSample, ...]
    map_hw: tuple[int, int]
    explanation: Explanation | None


def export(method: nn.Module, probes: Probes) -> Exported:
    """Export a trained method as one self-contained graph and compare it with the method, both on the CPU.

    Args:
        method: Maps `image` uint8 `[N, H, W, 3]` to (`anomaly_map` float32 `[N, h, w]`, `score_gain` float32 `[N]` or
            None).
        probes: Images to compare on.

    Raises:
        ExportFailed: The exporter or ONNX's checker rejects the network.
        ExportParityFailed: The map or the gain of a probe differs by more than `TOLERANCE`.
    """
    method = method.cpu().eval()
    example = torch.from_numpy(probes.good[:1])
    with torch.inference_mode():
        has_gain = method(example)[1] is not None
    found = find_explanation(method, example)
    with recording({} if found is None else found.modules) as seen:
        network = _Graph(method, seen, () if found is None else tuple(found.modules))
        model = to_onnx(network, probes.good, ["anomaly_map", "score_gain"][: 1 + has_gain], network.inner)
    explanation = None if found is None else found.explanation
    if explanation is not None and (problem := explanation_problem(model, explanation, probes.good[0])):
        _log.warning("The bundle will not explain its anomaly maps: %s", problem)
        explanation = None
    session = GraphSession(model, SessionOptions(provider="cpu"))
    measured = 0.0
    golden: list[GoldenSample] = []
    for name, images in probes.named().items():
        expected = _run_torch(method, images)
        for batch_size in BATCH_SIZES:
            # A choice that tracing made constant shows at any batch size, so all images are compared one by one only; a
            # batch size that tracing made constant shows in a single batch of another size.
            count = len(images) if batch_size == 1 else min(batch_size, len(images))
            difference = _difference(_first(expected, count), _run_graph(session, images[:count], batch_size))
            if not difference <= TOLERANCE:
                raise ExportParityFailed(f"{name} images at batch size {batch_size}", difference, TOLERANCE)
            measured = max(measured, difference)
        if images is not probes.flipping:
            golden += _golden(images, expected)
    parity = Parity(tolerance=TOLERANCE, measured=measured, provider=session.provider)
    return Exported(model, parity, tuple(golden), golden[0].anomaly_map.shape, explanation)


def golden_differences(
    session: GraphSession, golden: Sequence[GoldenSample], batch_sizes: Sequence[int]
) -> list[float]:
    """Return the largest relative difference of a graph's results from the golden samples for every batch size."""
    gains = [sample.score_gain for sample in golden if sample.score_gain is not None]
    maps = np.stack([sample.anomaly_map for sample in golden])
    expected = GraphOutput(maps, np.array(gains, np.float32) if gains else None)
    images = np.stack([sample.image for sample in golden])
    return [_difference(expected, _run_graph(session, images, size)) for size in batch_sizes]


def with_metadata(model: bytes, draft: ManifestDraft) -> bytes:
    """Return the graph with the essentials of the manifest as its `metadata_props`."""
    graph = onnx.load_model_from_string(model)
    onnx.helper.set_model_props(graph, dict(graph_metadata(draft)))
    return bytes(graph.SerializeToString(deterministic=True))


class _Graph(nn.Module):
    """Omits the gain if the method has none: a graph cannot return None. Adds the tensors that explain the map.

    Args:
        method: The method.
        seen: Receives those tensors while the method runs.
        inner: Their names.
    """

    def __init__(self, method: nn.Module, seen: Mapping[str, Tensor], inner: tuple[str, ...]) -> None:
        super().__init__()
        self.method = method
        self.seen = seen
        self.inner = inner

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        anomaly_map, gain = self.method(image)
        outputs = (anomaly_map,) if gain is None else (anomaly_map, gain)
        return (*outputs, *(self.seen[name] for name in self.inner))


def to_onnx(network: nn.Module, example: UInt8Images, outputs: Sequence[str], inner: Sequence[str] = ()) -> bytes:
    """Export a network as one self-contained, checked graph with a dynamic batch dimension, without a comparison.

    Args:
        network: Maps uint8 `[N, H, W, 3]` to a tuple of tensors whose first dimension is N.
        example: uint8 `[K, H, W, 3]`, at least one image.
        outputs: Names of the outputs.
        inner: Names of further tensors of the tuple. They keep these names inside of the graph and are no outputs, so
            that they cost no time.

    Returns:
        The serialised ONNX model.

    Raises:
        ExportFailed: The exporter or ONNX's checker rejects the network.
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
                output_names=[*outputs, *inner],
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                external_data=False,
                verbose=False,
            )
        if program is None:  # only if a file name is given
            raise RuntimeError("the exporter returned nothing")
        graph = program.model_proto
        strip(graph)
        _hide(graph, inner)
        _flush_subnormal(graph)
    except Exception as error:  # the exporter passes on the exceptions of its passes, of any type
        _log.debug("The exporter raised an exception.", exc_info=error)
        raise ExportFailed("the ONNX exporter cannot convert the forward method") from error
    try:
        onnx.checker.check_model(graph, full_check=True)
    except Exception as error:  # the checker and the shape inference raise exceptions of different types
        _log.debug("The checker raised an exception.", exc_info=error)
        raise ExportFailed("the exported graph is not a valid ONNX graph") from error
    return bytes(graph.SerializeToString(deterministic=True))


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Suppress the exporter's warnings and progress, which concern its internals and need no action by users."""
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


def _hide(model: onnx.ModelProto, names: Sequence[str]) -> None:
    """Make outputs of a graph to inner tensors."""
    kept = [output for output in model.graph.output if output.name not in names]
    del model.graph.output[:]
    model.graph.output.extend(kept)


def explanation_problem(model: bytes, explanation: Explanation, image: UInt8Images) -> str | None:
    """Return why the service would refuse to explain a map, as a sentence; None if the contributions add up to it.

    Args:
        model: The graph.
        explanation: The tensors that explain its map.
        image: uint8 `[H, W, 3]`, RGB, of the graph's input size.
    """
    try:
        graph = ExplainedGraph(model, explanation, SessionOptions(provider="cpu", threads=1))
        try:
            explained = graph.run(image)
        finally:
            graph.close()
    except ValueError as error:
        return str(error)
    difference = parity_difference(explained.anomaly_map, explained.contributions.sum(axis=0))
    if difference <= TOLERANCE:
        return None
    return f"what its sources contribute differs from it by {difference:.1e}, because it is not linear in them."


def _flush_subnormal(model: onnx.ModelProto) -> None:
    """Set subnormal float32 weights to zero.

    Weight decay can leave them where a channel is unused. Multiplying them takes a CPU tens of times as long as other
    numbers, and they are too small to change a result. ONNX Runtime's `session.set_denormal_as_zero` is not used: it
    applies to the threads of its pool but not to the thread that starts a run, so the last bit of a result could
    depend on which of them computed it.
    """
    smallest = np.finfo(np.float32).smallest_normal
    for item in model.graph.initializer:
        if item.data_type != onnx.TensorProto.FLOAT:
            continue
        values = onnx.numpy_helper.to_array(item)
        subnormal = (values != 0) & (np.abs(values) < smallest)
        if subnormal.any():
            item.CopyFrom(onnx.numpy_helper.from_array(np.where(subnormal, np.float32(0), values), item.name))


def _run_torch(method: nn.Module, images: UInt8Images) -> GraphOutput:
    outputs = list(in_parallel(method, (torch.from_numpy(images[index : index + 1]) for index in range(len(images)))))
    maps = torch.cat([anomaly_map for anomaly_map, _ in outputs]).numpy()
    gains = [gain for _, gain in outputs if gain is not None]
    return GraphOutput(maps, torch.cat(gains).numpy() if gains else None)


def _run_graph(session: GraphSession, images: UInt8Images, batch_size: int) -> GraphOutput:
    """Run every image in a full batch; the last batch is padded with the first images, whose outputs are dropped."""
    padded = np.resize(images, (-(-len(images) // batch_size) * batch_size, *images.shape[1:]))
    outputs = [session.run(padded[start : start + batch_size]) for start in range(0, len(padded), batch_size)]
    gains = [output.gains for output in outputs if output.gains is not None]
    maps = np.concatenate([output.maps for output in outputs])[: len(images)]
    return GraphOutput(maps, np.concatenate(gains)[: len(images)] if gains else None)


def _first(output: GraphOutput, count: int) -> GraphOutput:
    return GraphOutput(output.maps[:count], None if output.gains is None else output.gains[:count])


def _difference(expected: GraphOutput, actual: GraphOutput) -> float:
    """Return the largest relative difference of any image's map or gain."""
    worst = max(parity_difference(e, a) for e, a in zip(expected.maps, actual.maps, strict=True))
    if expected.gains is None:
        return worst
    gains: Sequence[float] = [] if actual.gains is None else list(actual.gains)
    return max(worst, *(parity_difference(e, a) for e, a in zip(expected.gains, gains, strict=True)))


def _golden(images: UInt8Images, expected: GraphOutput) -> list[GoldenSample]:
    gains = [None] * len(images) if expected.gains is None else [float(gain) for gain in expected.gains]
    samples = zip(images, expected.maps, gains, strict=True)
    return [GoldenSample(image, anomaly_map, gain) for image, anomaly_map, gain in list(samples)[:GOLDEN_EACH]]
