"""`plumbline-train export`."""

import shlex
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from training.cli.console import console, one_line_errors, shown
from training.cli.options import BUNDLE_HELP, find_bundle
from training.cli.progress import ProgressBars

if TYPE_CHECKING:
    from training.conversion import Converted


class Precision(StrEnum):
    """The precisions that an fp32 bundle can be converted to."""

    INT8 = "int8"
    FP16 = "fp16"


class Provider(StrEnum):
    """The execution providers that a bundle can be calibrated on."""

    CPU = "cpu"
    OPENVINO = "openvino"
    CUDA = "cuda"
    TENSORRT = "tensorrt"


def export_command(
    bundle: Annotated[Path, typer.Option(help=BUNDLE_HELP)],
    data: Annotated[
        Path, typer.Option(help="The folder that the bundle was trained on: its good images are needed again.")
    ],
    precision: Annotated[
        Precision, typer.Option(help="Precision of the new bundle. int8: for CPUs; fp16: for GPUs.")
    ] = Precision.INT8,
    provider: Annotated[
        Provider, typer.Option(help="Execution provider that will serve the bundle; it is calibrated on it.")
    ] = Provider.CPU,
    models: Annotated[
        Path | None, typer.Option(help="Model repository of the new bundle.", show_default="that of the bundle")
    ] = None,
    evaluate: Annotated[
        bool, typer.Option(help="Measure both bundles on the test split of --data, if it has one.")
    ] = True,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads.", show_default="the container's quota")
    ] = None,
) -> None:
    """Convert an fp32 bundle to a lower precision and write it as a new, faster version, certified anew.

    The networks compute in int8 or fp16; distances, memory banks and smoothing stay float32. The new graph is
    calibrated on the held-out images of the bundle and refused if it detects less: if the image AUROC on the test split
    falls by more than 0.3 points, or the AUROC on synthetic anomalies by more than 1 point.
    """
    with one_line_errors(), ProgressBars() as bars:
        from service.bundle.bundle import Bundle
        from training.certification import TestSplit
        from training.conversion import Request, convert
        from training.dataset import scan_test
        from training.pipeline import inspector_options

        source = Bundle.load(find_bundle("--bundle", bundle))
        test = TestSplit(data, scan_test(data)) if evaluate and (data / "test").is_dir() else None
        repository = models or source.path.resolve().parents[1]
        request = Request(source, data, repository, precision.value, test)
        converted = convert(request, inspector_options(threads, provider.value), bars)
    _report(source.version, converted)


def _report(version: str, converted: "Converted") -> None:
    bundle = converted.bundle
    (old_sanity, new_sanity), evaluations = converted.sanity, converted.evaluations
    lines = {
        "Bundle": str(bundle.path),
        "Made from": f"{version} (fp32)",
        "Sanity": f"AUROC on synthetic anomalies: images {old_sanity.image_auroc:.3f} -> {new_sanity.image_auroc:.3f}, "
        f"pixels {old_sanity.pixel_auroc:.3f} -> {new_sanity.pixel_auroc:.3f}",
    }
    if evaluations is not None:
        old, new = (evaluation.figures for evaluation in evaluations)
        names = [name for name in ("image_auroc", "pixel_auroc", "aupro") if name in old]
        lines["Test split"] = ", ".join(f"{name} {old[name]:.4f} -> {new[name]:.4f}" for name in names)
    lines["Serve"] = f"plumbline serve --models {shlex.quote(str(bundle.path.parents[1]))}"
    for title, text in lines.items():
        console.print(f"[bold]{title:<12}[/] {shown(text)}", soft_wrap=True)
