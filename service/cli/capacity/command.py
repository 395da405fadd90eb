"""The command `plumbline capacity`."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Annotated

import typer

from service.cli.capacity.model import KINDS, Capacity, Plant, capacity_of
from service.cli.console import OUT, refuse

_MIN = 1e-6


def capacity(
    cameras: Annotated[int, typer.Option(min=1, help="Number of cameras.")],
    rate: Annotated[float, typer.Option(min=_MIN, help="Images per second and camera, while the plant works.")] = 1.0,
    products: Annotated[int, typer.Option(min=1, help="Number of products.")] = 1,
    image: Annotated[str, typer.Option(help=f"Kind of image with measured costs: {', '.join(KINDS)}.")] = "1mp",
    cpu_ms: Annotated[
        float | None,
        typer.Option(min=_MIN, help="Processor time of an inspection, ms.", show_default="that of the kind"),
    ] = None,
    image_kb: Annotated[
        float | None, typer.Option(min=_MIN, help="Size of an image, kB.", show_default="that of the kind")
    ] = None,
    hours: Annotated[float, typer.Option(min=_MIN, max=24, help="Hours per day with images.")] = Plant.hours,
    keep_days: Annotated[float, typer.Option(min=0, help="Days that images and maps are kept.")] = Plant.keep_days,
    record_years: Annotated[
        float,
        typer.Option(min=0, help="Years of records that the disk has to hold; PLUMBLINE_RECORD_DAYS limits them."),
    ] = Plant.record_years,
    machines: Annotated[int, typer.Option(min=1, help="Machines that inspect.")] = Plant.machines,
    cores: Annotated[int, typer.Option(min=1, help="Cores of each.")] = Plant.cores,
    memory_gib: Annotated[float, typer.Option(min=1, help="Memory of each, GiB.")] = Plant.memory_gib,
    link_mbit: Annotated[float, typer.Option(min=_MIN, help="Network of each, Mbit/s.")] = Plant.link_mbit,
    database_cores: Annotated[int, typer.Option(min=1, help="Cores of the database server.")] = Plant.database_cores,
    database_gb: Annotated[float, typer.Option(min=_MIN, help="Disk of the database, GB.")] = Plant.database_gb,
    files_gb: Annotated[float, typer.Option(min=_MIN, help="Storage for images and maps, GB.")] = Plant.files_gb,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Estimate what a number of cameras needs: cores, memory, network, storage and database.

    The costs were measured on one machine with the shipped product; the page Scale of the documentation names the
    commands. Figures of your own images come from --cpu-ms and --image-kb. Nothing is connected to or changed.
    """
    if image not in KINDS:
        refuse(f"--image is {image!r}, expected one of {', '.join(KINDS)}.")
    costs = KINDS[image]
    if cpu_ms is not None:
        costs = replace(costs, service_cpu_ms=cpu_ms)
    if image_kb is not None:
        costs = replace(costs, image_bytes=round(image_kb * 1000))
    plant = Plant(
        cameras=cameras,
        rate=rate,
        products=products,
        image=costs,
        hours=hours,
        keep_days=keep_days,
        record_years=record_years,
        machines=machines,
        cores=cores,
        memory_gib=memory_gib,
        link_mbit=link_mbit,
        database_cores=database_cores,
        database_gb=database_gb,
        files_gb=files_gb,
    )
    found = capacity_of(plant)
    if as_json:
        needs = [asdict(need) | {"share": need.share} for need in found.needs]
        OUT.print_json(json.dumps(asdict(found) | {"needs": needs, "bottleneck": found.bottleneck.name}))
        return
    for line in describe(found):
        OUT.print(line, soft_wrap=True, highlight=False)


def describe(found: Capacity) -> list[str]:
    """Return the figures as lines of text."""
    lines = [f"{found.rate:g} images per second"]
    for need in found.needs:
        amounts = f"{need.needed:,.1f} of {need.available:,.0f} {need.unit}"
        lines.append(f"{need.name:<27} {amounts:>26} {100 * need.share:6.0f} %")
    growth = (
        f"{found.files_gb_per_day:,.1f} GB of files per day, {found.database_gb_per_year:,.1f} GB of records per year"
    )
    lines.append(f"Growth: {growth}, {found.wal_gb_per_day:,.2f} GB of write-ahead log per day.")
    lines.append(f"Machines that inspect: {found.machines}, and one more so that one may fail.")
    first = found.bottleneck
    if first.share > 1:
        lines.append(f"Not enough: {first.name}, {first.share:,.1f} times what there is.")
    else:
        lines.append(f"First bottleneck: {first.name}, at {1 / first.share:,.1f} times this load.")
    return lines
