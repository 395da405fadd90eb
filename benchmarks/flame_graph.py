"""Record where the processor time of a service goes, with py-spy (https://github.com/benfred/py-spy).

    pip install py-spy
    python -m benchmarks.flame_graph --product washer --output flame.svg

Starts a service, inspects one image again and again for `--clients` clients in a process of their own, and samples the
stacks of all threads that use the processor. Prints JSON: the share of each function, without the functions that it
calls. Time in a library such as ONNX Runtime counts for the function that calls it; threads of a library's own, such as
the second thread of the graph, have no Python stack and are not counted. `--output` writes a flame graph as well.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.load import Group, RunningLoad, good_jpeg, inspection_head, require_judged
from tests.serving import service_process

_WARM_UP_S = 2.0
_FRAME = re.compile(r"^(?P<function>.*) \((?P<file>[^()]*?)(:\d+)?\)$")


def self_shares(stacks: str) -> dict[str, float]:
    """Return the share of the samples by the function at the top of the stack, largest first.

    Args:
        stacks: Lines as py-spy writes them in the format "raw": frames, separated by ";", and the number of samples.
    """
    counts: Counter[str] = Counter()
    for line in stacks.splitlines():
        frames, _, count = line.rpartition(" ")
        counts[short_name(frames.rpartition(";")[2])] += int(count)
    total = sum(counts.values())
    return {name: count / total for name, count in counts.most_common()}


def short_name(frame: str) -> str:
    """Return the last two parts of the file of a frame, and its function, without the line."""
    found = _FRAME.match(frame)
    if found is None:
        return frame
    return f"{'/'.join(Path(found['file']).parts[-2:])}: {found['function']}"


def main(
    product: Annotated[str, typer.Option(help="Product to inspect.")] = "washer",
    models: Annotated[Path, typer.Option(help="Model repository.")] = Path("models"),
    image: Annotated[Path | None, typer.Option(help="JPEG to post; a golden sample of the bundle by default.")] = None,
    clients: Annotated[int, typer.Option(min=1, help="Number of clients.")] = 1,
    seconds: Annotated[int, typer.Option(min=1, help="Seconds to record.")] = 20,
    rate: Annotated[int, typer.Option(min=1, help="Samples per second.")] = 200,
    rows: Annotated[int, typer.Option(min=1, help="Functions to print.")] = 40,
    output: Annotated[Path | None, typer.Option(help="File of the flame graph, SVG.")] = None,
) -> None:
    """Record the stacks of a service under load."""
    program = shutil.which("py-spy")
    if program is None:
        raise typer.BadParameter("py-spy is not on the PATH; install it with pip install py-spy")
    body = image.read_bytes() if image else good_jpeg(models, product)
    with (
        tempfile.TemporaryDirectory() as folder,
        service_process(models.absolute(), Path(folder), {"provider": "cpu"}) as service,
    ):
        service.wait_until(200)
        require_judged(service, product, body)
        recordings = 1 if output is None else 2
        load = RunningLoad(
            int(service.url.rpartition(":")[2]),
            inspection_head(product, body),
            body,
            [Group("clients", clients, 1, obeys=True)],
            _WARM_UP_S,
            recordings * (seconds + 3.0),
        )
        load.wait_for("begin")
        raw = Path(folder) / "stacks.txt"
        for form, path in (("raw", raw), ("flamegraph", output)):
            if path is not None:
                record = ["py-spy", "record", "--pid", str(service.process.pid), "--nonblocking", "--format", form]
                timing = ["--duration", str(seconds), "--rate", str(rate), "--output", str(path)]
                # The graph shows the command, so the path of the program is not part of it.
                subprocess.run([*record, *timing], executable=program, check=True, capture_output=True)
        load.wait_for("end")
        load.result()
        shares = self_shares(raw.read_text())
    report = {
        "product": product,
        "clients": clients,
        "image_bytes": len(body),
        "share": {name: round(share, 4) for name, share in list(shares.items())[:rows]},
    }
    typer.echo(json.dumps(report, indent=2))


if __name__ == "__main__":
    typer.run(main)
