"""The capacity model: cores, memory, network, files and database from measured costs per inspection.

Every cost is a constant with the command that measured it; docs/scale.md shows them. They are those of two cores of one
machine: measure your own image with `python -m benchmarks.inspection_costs` where it matters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

UTILISATION = 0.6
"""Share of the cores that inspections use at most. Not measured: images at random times wait beyond it."""
COPIES = 2.0
"""Replicas in whose memory a bundle is on average, with a router that bounds the load (`benchmarks.routing`)."""
PROCESS_MIB = 317.6
"""A service with one bundle in memory (`python -m benchmarks.many_products --products 16`)."""
BUNDLE_MIB = 21.2
"""A further bundle in memory (the same command)."""
MIB, KIB = 2**20, 2**10
GB = 1e9
DAYS_PER_YEAR = 365


@dataclass(frozen=True)
class ImageCosts:
    """Costs of one inspection of a kind of image, of the shipped product `washer`.

    Attributes:
        description: The image.
        service_cpu_ms: Processor time of the service.
        image_bytes: The image as it is sent and stored.
        map_bytes: The anomaly map.
        source: The command that measured it.
    """

    description: str
    service_cpu_ms: float
    image_bytes: int
    map_bytes: int
    source: str


COSTS = "python -m benchmarks.inspection_costs --product washer"
KINDS: Mapping[str, ImageCosts] = {
    "1mp": ImageCosts("JPEG of 1024 x 1024 pixels", 59.5, 193_546, 9_344, COSTS),
    "1mp-int8": ImageCosts(
        "the same, int8",
        44.2,
        193_546,
        9_344,
        "python -m benchmarks.inspection_costs --product washer --models INT8 --rows 1000",
    ),
    "12mp": ImageCosts(
        "JPEG of 4096 x 3000 pixels, scaled decoding",
        73.8,
        2_143_210,
        9_344,
        f"{COSTS} --width 4096 --height 3000 --noise 2 --scaled --rows 1000 --count 100",
    ),
}
RESPONSE_BYTES = 2_776
"""Verdict as JSON with its HTTP head (the same command)."""
POSTGRES_CPU_MS = 4.45
"""Processor time of PostgreSQL per inspection, each with a commit of its own (the largest of the three runs)."""
ROW_BYTES = 632 + 1_220
"""Row and index entries of an inspection in PostgreSQL (the same command, 20,000 rows)."""
WAL_BYTES = 3_347
"""Write-ahead log per inspection, each with a commit of its own (the largest of the three runs)."""


@dataclass(frozen=True)
class Plant:
    """The load of one plant and what it has.

    Attributes:
        cameras: Number of cameras.
        rate: Images per second and camera, on average while the plant works.
        products: Number of products that are inspected.
        image: The costs of an image.
        hours: Hours per day in which images come.
        keep_days: Days that images and maps are kept.
        record_years: Years of records that the disk of the database has to hold, as PLUMBLINE_RECORD_DAYS limits them.
        machines: Number of machines that inspect.
        cores: Cores of each.
        memory_gib: Memory of each.
        link_mbit: Network of each, Mbit/s.
        database_cores: Cores of the database server.
        database_gb: Disk of the database, GB.
        files_gb: Storage for images and maps, GB.
    """

    cameras: int
    rate: float
    products: int
    image: ImageCosts
    hours: float = 24.0
    keep_days: float = 30.0
    record_years: float = 2.0
    machines: int = 1
    cores: int = 8
    memory_gib: float = 16.0
    link_mbit: float = 1000.0
    database_cores: int = 4
    database_gb: float = 500.0
    files_gb: float = 4000.0


@dataclass(frozen=True)
class Need:
    """What is needed of a resource.

    Attributes:
        name: The resource.
        needed: How much.
        available: How much there is.
        unit: The unit of both.
    """

    name: str
    needed: float
    available: float
    unit: str

    @property
    def share(self) -> float:
        """The needed share of what there is; above 1 it does not suffice."""
        return self.needed / self.available


@dataclass(frozen=True)
class Capacity:
    """What a plant needs.

    Attributes:
        rate: Images per second.
        machines: Machines that the cores and the memory of inspections need, without a spare one.
        needs: The resources.
        files_gb_per_day: Growth of images and maps.
        database_gb_per_year: Growth of the database.
        wal_gb_per_day: Write-ahead log, which replication and archives of PostgreSQL transfer.
    """

    rate: float
    machines: int
    needs: tuple[Need, ...]
    files_gb_per_day: float
    database_gb_per_year: float
    wal_gb_per_day: float

    @property
    def bottleneck(self) -> Need:
        """The resource that is used up first when the load grows."""
        return max(self.needs, key=lambda need: need.share)


def capacity_of(plant: Plant) -> Capacity:
    """Return what a plant needs."""
    image = plant.image
    rate = plant.cameras * plant.rate
    per_day = rate * 3600 * plant.hours
    cores = rate * image.service_cpu_ms / 1000 / UTILISATION
    # With one machine every bundle is in its memory once.
    copies = 1.0 if plant.machines == 1 else min(COPIES, plant.machines)
    bundles_gib = plant.products * BUNDLE_MIB * copies / KIB
    memory_gib = bundles_gib + plant.machines * PROCESS_MIB / KIB
    mbit = rate * (image.image_bytes + RESPONSE_BYTES) * 8 / 1e6
    files = per_day * (image.image_bytes + image.map_bytes) / GB
    rows = per_day * DAYS_PER_YEAR * ROW_BYTES / GB
    usable_gib = plant.memory_gib - PROCESS_MIB / KIB
    needs = (
        Need("processor of the machines", cores, plant.machines * plant.cores, "cores"),
        Need("memory of the machines", memory_gib, plant.machines * plant.memory_gib, "GiB"),
        Need("network to the machines", mbit, plant.machines * plant.link_mbit, "Mbit/s"),
        Need(
            "processor of the database",
            rate * POSTGRES_CPU_MS / 1000 / UTILISATION,
            plant.database_cores,
            "cores",
        ),
        Need("disk of the database", rows * plant.record_years, plant.database_gb, "GB"),
        Need("storage of images and maps", files * plant.keep_days, plant.files_gb, "GB"),
    )
    return Capacity(
        rate=rate,
        machines=max(1, math.ceil(cores / plant.cores), math.ceil(bundles_gib / usable_gib)),
        needs=needs,
        files_gb_per_day=files,
        database_gb_per_year=rows,
        wal_gb_per_day=per_day * WAL_BYTES / GB,
    )
