"""`plumbline-train check-images`."""

from pathlib import Path
from typing import Annotated

import typer

from training.cli.console import console, one_line_errors, shown
from training.cli.options import EXCLUDE_HELP, prepare_output
from training.cli.progress import ProgressBars
from training.config import FitConfig
from training.errors import InvalidOption


def check_images_command(
    data: Annotated[Path, typer.Option(help="MVTec-layout folder, or a folder of good images.")],
    out: Annotated[Path, typer.Option(help="The HTML file of the contact sheet.")] = Path("check-images.html"),
    names: Annotated[
        Path | None,
        typer.Option(help="Also write the names of the suspected images to this .txt file, for fit --exclude."),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(help=EXCLUDE_HELP, metavar="NAME"),
    ] = None,
    teacher: Annotated[str | None, typer.Option(help="Frozen network.", show_default="the default method's")] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
) -> None:
    """Find good images that may show a defect: compare each with all others and write a contact sheet.

    Nothing is changed. Look at the suspected images, and leave defective ones out with `fit --exclude`.
    """
    with one_line_errors(), ProgressBars() as bars:
        import torch

        from training.coarse_features import CoarseFeatures
        from training.dataset import find_good
        from training.exclusion import LIST_SUFFIX, find_excluded, read_names
        from training.files import write_text
        from training.image_check.check import check_images, relative_name
        from training.image_check.sheet import shown_images, write_sheet
        from training.methods import fit_config
        from training.teachers import load_teacher

        torch.set_num_threads(threads)
        if names is not None and names.suffix != LIST_SUFFIX:
            raise InvalidOption("--names", names, f"a file NAME{LIST_SUFFIX}")
        for option, path in (("--out", out), ("--names", names)):
            if path is not None:
                prepare_output(path, option, "check-images.html" if option == "--out" else "suspected.txt")
        network = load_teacher(teacher or fit_config(FitConfig.method).teachers[0])
        folder, images = find_good(data)
        excluded = find_excluded(read_names(exclude or ()), images, folder)
        images = [path for path in images if path not in excluded]
        checking = bars.stage("check the good images", len(images))
        check = check_images(CoarseFeatures(network), images, lambda done: checking(done, ""))
        drawing = bars.stage("draw the contact sheet", shown_images(check))
        write_sheet(check, folder, out, lambda done: drawing(done, ""))
        suspected = [relative_name(path, folder) for path in check.suspected]
        if names is not None:
            write_text(names, "".join(f"{name}\n" for name in suspected))
    console.print(f"{len(images)} good images, {len(suspected)} suspected" + (":" if suspected else "."))
    for name in suspected:
        console.print(f"  {shown(name)}", soft_wrap=True)
    console.print(f"Contact sheet: {shown(out)}", soft_wrap=True)
