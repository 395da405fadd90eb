"""Write the costs of the capacity model and three worked plants into docs/scale.md.

    python -m benchmarks.capacity [--write]

The model is that of `plumbline capacity`, whose options each plant states.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated

import typer

from benchmarks.marked_section import write_section
from benchmarks.routing import SCALE
from service.cli.capacity import model
from service.cli.capacity.model import KINDS, Plant, capacity_of

ONE = KINDS["1mp"]
PLANTS: Mapping[str, Plant] = {
    "8 cameras, one line PC": Plant(8, 1.0, 5, ONE, hours=16, machines=1, cores=4, database_cores=4, database_gb=500),
    "200 cameras, one site": Plant(
        200, 0.5, 300, ONE, hours=16, keep_days=7, machines=2, cores=16, memory_gib=64,
        database_cores=8, database_gb=4000, files_gb=20_000,
    ),
    "400 cameras, each of five plants": Plant(
        400, 0.5, 2000, ONE, hours=24, keep_days=3, record_years=0.5, machines=4, cores=16, memory_gib=64,
        database_cores=8, database_gb=4000, files_gb=20_000,
    ),
}  # fmt: skip
"""Machines as a plant might have them; the costs are measured, the machines are assumptions."""


def costs() -> str:
    """Return the measured costs as Markdown."""
    rows = [
        ("cost of one inspection", "value", "command"),
        *(
            (f"service, {kind.description}", f"{kind.service_cpu_ms:g} ms of processor time", kind.source)
            for kind in KINDS.values()
        ),
        *(
            (f"image file, {KINDS[name].description}", f"{KINDS[name].image_bytes:,} bytes", "the same")
            for name in ("1mp", "12mp")
        ),
        ("map file", f"{ONE.map_bytes:,} bytes", "the same"),
        ("response", f"{model.RESPONSE_BYTES:,} bytes", "the same"),
        ("PostgreSQL", f"{model.POSTGRES_CPU_MS:g} ms of processor time", "the same, largest of the three runs"),
        ("write-ahead log", f"{model.WAL_BYTES:,} bytes", "the same, largest of the three runs"),
        ("record with its index entries", f"{model.ROW_BYTES:,} bytes", model.COSTS),
        ("further bundle in memory", f"{model.BUNDLE_MIB:g} MiB", "python -m benchmarks.many_products --products 16"),
        ("service with one bundle", f"{model.PROCESS_MIB:g} MiB", "the same"),
    ]
    lines = [f"| {' | '.join(rows[0])} |", "|---|---|---|"]
    for name, value, command in rows[1:]:
        shown = f"`{command}`" if command.startswith("python") else command
        lines.append(f"| {name} | {value} | {shown} |")
    return "\n".join(lines)


def arguments(plant: Plant) -> list[str]:
    """Return the arguments of `plumbline` that calculate a plant: those that differ from the defaults.

    The image is left out: the plants have images of the default kind.
    """
    words = ["capacity"]
    for field in fields(plant):
        value = getattr(plant, field.name)
        if field.name != "image" and value != field.default:
            words += [f"--{field.name.replace('_', '-')}", f"{value:g}"]
    return words


def plants() -> str:
    """Return the worked plants as Markdown."""
    found = {name: capacity_of(plant) for name, plant in PLANTS.items()}
    lines = [f"- {name}: `plumbline {' '.join(arguments(plant))}`" for name, plant in PLANTS.items()]
    lines += ["", f"| | {' | '.join(found)} |", f"|---|{'---|' * len(found)}"]

    def row(name: str, cells: list[str]) -> None:
        lines.append(f"| {name} | {' | '.join(cells)} |")

    row("load", [f"{item.rate:g} images per second, {PLANTS[name].hours:g} h per day" for name, item in found.items()])
    row("products", [f"{plant.products:,}" for plant in PLANTS.values()])
    row("machines", [f"{plant.machines} of {plant.cores} cores, {plant.memory_gib:g} GiB" for plant in PLANTS.values()])
    for number, first in enumerate(next(iter(found.values())).needs):
        needs = [item.needs[number] for item in found.values()]
        row(first.name, [f"{n.needed:,.1f} of {n.available:,g} {n.unit} ({100 * n.share:.0f} %)" for n in needs])
    row(
        "files",
        [
            f"{item.files_gb_per_day:,.0f} GB per day, kept {PLANTS[name].keep_days:g} days"
            for name, item in found.items()
        ],
    )
    row(
        "records",
        [
            f"{item.database_gb_per_year:,.0f} GB per year, disk for {PLANTS[name].record_years:g} years"
            for name, item in found.items()
        ],
    )
    row("write-ahead log", [f"{item.wal_gb_per_day:,.1f} GB per day" for item in found.values()])
    row("machines needed, and a spare one", [f"{item.machines} + 1" for item in found.values()])
    row(
        "**first bottleneck**",
        [f"**{item.bottleneck.name}**, at {1 / item.bottleneck.share:.1f} times the load" for item in found.values()],
    )
    return "\n".join(lines)


def main(
    *, write: Annotated[bool, typer.Option("--write", help="Write the tables into docs/scale.md.")] = False
) -> None:
    """Print both tables."""
    for name, content in (("costs", costs()), ("plants", plants())):
        typer.echo(content + "\n")
        if write:
            write_section(name, content, SCALE)


if __name__ == "__main__":
    typer.run(main)
