"""Simulate how a router divides the images of many products between replicas with bounded bundle memories.

    python -m benchmarks.routing
    python -m benchmarks.routing --products 1000 --replicas 4 --rate 40 --write

A discrete-event simulation, because ten thousand products on twenty machines are not at hand. Products are drawn with
Zipf probabilities. A replica has a number of cores, a queue and the bundles that fit into its memory, least recently
used first to leave. An image whose bundle is not in memory loads it on a core; others of the same product wait for it.
Replicas die, lose memory and queue, and come back; clients send what was lost again. An image that waits longer than
the queue deadline is refused with 503.

Policies:

- `random`: any replica that is alive;
- `least connections`: the one with the fewest images in flight;
- `consistent hash`: the next one on a ring after the product's place;
- `bounded load`: the same, passing over replicas with more than a factor times the mean of the images in flight
  (HAProxy's `hash-balance-factor`).

The costs are constants with their sources; options change them. Clients, network and proxy cost nothing here.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from bisect import bisect
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer

from benchmarks.marked_section import write_section

Policy = Literal["random", "least connections", "consistent hash", "bounded load"]
POLICIES: tuple[Policy, ...] = get_args(Policy)
SCALE = Path(__file__).resolve().parents[1] / "docs" / "scale.md"

INSPECTION_S = 0.063
"""Processor time of an inspection of 1024 x 1024 pixels: the middle of 57 to 69 ms (docs/benchmarks.md, Throughput at
saturation: `python -m benchmarks.saturation --product washer`)."""
LOAD_S = 0.34
"""Processor time to load a bundle that passed its self-test before: 5.4 times that of an inspection, the ratio that
`python -m benchmarks.many_products --products 16` measured ((1252 - 196) / 196 ms, both under the same other load)."""
BUNDLE_MIB = 31.2
"""Memory of a further bundle (the same command)."""
DEADLINE_S = 10.0
"""Default of PLUMBLINE_QUEUE_DEADLINE_S."""
RETRY_S = 1.0
"""Pause of a client after a connection that broke."""
POINTS = 100  # of each replica on the ring
FACTORS = (1.25, 2.0, 4.0)  # 1.25 is what HAProxy's documentation suggests
SPREAD = 0.2  # processor times are drawn from the mean +- this share


@dataclass(frozen=True)
class Plant:
    """What is simulated.

    Attributes:
        products: Number of products.
        zipf: Exponent of their frequencies: the n-th product has a weight of n^-zipf.
        replicas: Number of replicas.
        cores: Cores of each.
        memory_gib: Memory of each for bundles.
        rate: Images per second of all clients, at random times.
        seconds: Simulated time; the first fifth is not counted.
        death_s: Mean time between deaths, over all replicas; infinity for none.
        restart_s: Time until a dead replica is ready again, with no bundle in memory.
        factor: Bound of the load, relative to the mean of the images in flight.
        inspection_s: Processor time of an inspection.
        load_s: Processor time of loading a bundle.
        bundle_mib: Memory of a bundle.
    """

    products: int = 10_000
    zipf: float = 1.0
    replicas: int = 20
    cores: int = 2
    memory_gib: float = 16.0
    rate: float = 350.0
    seconds: float = 300.0
    death_s: float = 60.0
    restart_s: float = 20.0
    factor: float = 1.25
    inspection_s: float = INSPECTION_S
    load_s: float = LOAD_S
    bundle_mib: float = BUNDLE_MIB

    @property
    def capacity(self) -> int:
        """Number of bundles in the memory of a replica."""
        return max(1, int(self.memory_gib * 1024 / self.bundle_mib))


@dataclass(frozen=True)
class Figures:
    """The result of a simulation.

    Attributes:
        images: Images that were counted.
        hit_rate: Share of these whose bundle was in memory when their turn came.
        spilled: Share that was not sent to the first replica of its product.
        refused: Share that waited too long.
        p50_s: Median of the latency of the others.
        p99_s: 99th percentile of it.
        deaths: Replicas that died.
        repeated: Share that was sent again because its replica died.
    """

    images: int
    hit_rate: float
    spilled: float
    refused: float
    p50_s: float
    p99_s: float
    deaths: int
    repeated: float


@dataclass(eq=False)
class _Image:
    product: int
    sent_at: float
    hit: bool = True
    spilled: bool = False
    repeats: int = 0


@dataclass(eq=False)
class _Replica:
    number: int
    free: int
    capacity: int
    alive: bool = True
    life: int = 0  # events of an earlier life do not count
    queue: deque[_Image] = field(default_factory=deque)
    memory: OrderedDict[int, None] = field(default_factory=OrderedDict)
    loading: dict[int, list[_Image]] = field(default_factory=dict)
    in_flight: dict[_Image, None] = field(default_factory=dict)

    def keep(self, product: int) -> None:
        """Put a bundle into the memory; the one that was used least recently leaves."""
        self.memory[product] = None
        self.memory.move_to_end(product)
        if len(self.memory) > self.capacity:
            self.memory.popitem(last=False)


class Simulation:
    """One plant with one policy.

    Args:
        plant: What is simulated.
        policy: How the router chooses a replica.
        seed: Seed of all random numbers. Arrivals, products and deaths do not depend on the policy.
    """

    def __init__(self, plant: Plant, policy: Policy, seed: int = 0) -> None:
        self.plant, self.policy = plant, policy
        self._arrivals, self._costs = random.Random(f"{seed} arrivals"), random.Random(f"{seed} costs")
        self._choices, self._fate = random.Random(f"{seed} choices"), random.Random(f"{seed} fate")
        self.replicas = [_Replica(number, plant.cores, plant.capacity) for number in range(plant.replicas)]
        weights = [1 / (rank + 1) ** plant.zipf for rank in range(plant.products)]
        self._weights = list(itertools.accumulate(weights))
        self._orders = _orders(plant, random.Random(f"{seed} ring"))
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._numbers = itertools.count()
        self._ended: list[tuple[_Image, float | None]] = []
        self._deaths = 0

    def run(self) -> Figures:
        """Simulate and return the figures."""
        self._fill_memories()
        plant = self.plant
        self._later(0.0, self._arrive)
        if math.isfinite(plant.death_s):
            self._later(self._fate.expovariate(1 / plant.death_s), self._die)
        while self._events:
            now, _, action, given = heapq.heappop(self._events)
            action(now, *given)
        return self._figures()

    def _later(self, moment: float, action: Callable[..., None], *given: Any) -> None:
        heapq.heappush(self._events, (moment, next(self._numbers), action, given))

    def _draw(self) -> int:
        return bisect(self._weights, self._arrivals.random() * self._weights[-1])

    def _fill_memories(self) -> None:
        """Fill the memories as many images one by one would, so that the simulation does not begin with empty ones."""
        for _ in range(20 * self.plant.products):
            image = _Image(self._draw(), 0.0)
            self._choose(image).keep(image.product)

    def _arrive(self, now: float) -> None:
        self._dispatch(now, _Image(self._draw(), now))
        following = now + self._arrivals.expovariate(self.plant.rate)
        if following < self.plant.seconds:
            self._later(following, self._arrive)

    def _choose(self, image: _Image) -> _Replica:
        """Return the replica that the router sends an image to. At least one is alive."""
        replicas = self.replicas
        if self.policy in ("random", "least connections"):
            alive = [replica for replica in replicas if replica.alive]
            if self.policy == "random":
                return self._choices.choice(alive)
            fewest = min(len(replica.in_flight) for replica in alive)
            return self._choices.choice([replica for replica in alive if len(replica.in_flight) == fewest])
        order = [replicas[number] for number in self._orders[image.product]]
        alive = [replica for replica in order if replica.alive]
        chosen = alive[0]
        if self.policy == "bounded load":
            total = sum(len(replica.in_flight) for replica in alive) + 1
            bound = math.ceil(self.plant.factor * total / len(alive))
            chosen = next(replica for replica in alive if len(replica.in_flight) < bound)
        image.spilled = chosen is not order[0]
        return chosen

    def _dispatch(self, now: float, image: _Image) -> None:
        replica = self._choose(image)
        replica.in_flight[image] = None
        replica.queue.append(image)
        self._start(now, replica)

    def _start(self, now: float, replica: _Replica) -> None:
        """Start what the free cores of a replica can do."""
        while replica.free and replica.queue:
            image = replica.queue.popleft()
            product = image.product
            if now - image.sent_at > DEADLINE_S:
                self._end(replica, image, None)
            elif product in replica.memory:
                replica.keep(product)
                self._infer(now, replica, image)
            elif product in replica.loading:
                image.hit = False
                replica.loading[product].append(image)
            else:
                image.hit = False
                replica.loading[product] = []
                replica.free -= 1
                self._later(now + self._cost(self.plant.load_s), self._loaded, replica, replica.life, image)

    def _infer(self, now: float, replica: _Replica, image: _Image) -> None:
        replica.free -= 1
        self._later(now + self._cost(self.plant.inspection_s), self._inferred, replica, replica.life, image)

    def _cost(self, mean: float) -> float:
        return mean * self._costs.uniform(1 - SPREAD, 1 + SPREAD)

    def _loaded(self, now: float, replica: _Replica, life: int, image: _Image) -> None:
        if life != replica.life:
            return
        replica.keep(image.product)
        replica.free += 1
        replica.queue.extendleft(reversed([image, *replica.loading.pop(image.product)]))
        self._start(now, replica)

    def _inferred(self, now: float, replica: _Replica, life: int, image: _Image) -> None:
        if life != replica.life:
            return
        replica.free += 1
        self._end(replica, image, now)
        self._start(now, replica)

    def _end(self, replica: _Replica, image: _Image, moment: float | None) -> None:
        del replica.in_flight[image]
        self._ended.append((image, moment))

    def _die(self, now: float) -> None:
        alive = [replica for replica in self.replicas if replica.alive]
        if len(alive) > 1:
            self._deaths += 1
            replica = self._fate.choice(alive)
            lost = list(replica.in_flight)
            replica.alive = False
            replica.life += 1
            replica.free = self.plant.cores
            for holder in (replica.queue, replica.memory, replica.loading, replica.in_flight):
                holder.clear()
            for image in lost:
                image.repeats += 1
                self._later(now + RETRY_S, self._dispatch, image)
            self._later(now + self.plant.restart_s, self._restart, replica)
        following = now + self._fate.expovariate(1 / self.plant.death_s)
        if following < self.plant.seconds:
            self._later(following, self._die)

    def _restart(self, _now: float, replica: _Replica) -> None:
        replica.alive = True

    def _figures(self) -> Figures:
        counted = [(image, end) for image, end in self._ended if image.sent_at >= self.plant.seconds / 5]
        latencies = sorted(end - image.sent_at for image, end in counted if end is not None)
        return Figures(
            images=len(counted),
            hit_rate=_share(image.hit for image, _ in counted),
            spilled=_share(image.spilled for image, _ in counted),
            refused=_share(end is None for _, end in counted),
            p50_s=latencies[len(latencies) // 2],
            p99_s=latencies[int(0.99 * len(latencies))],
            deaths=self._deaths,
            repeated=_share(image.repeats > 0 for image, _ in counted),
        )


def _share(truths: Iterable[bool]) -> float:
    values = list(truths)
    return sum(values) / len(values)


def _orders(plant: Plant, rng: random.Random) -> list[list[int]]:
    """Return the replicas in the order of the ring from the place of each product on."""
    ring = sorted((rng.random(), number) for number in range(plant.replicas) for _ in range(POINTS))
    numbers = [number for _, number in ring]
    places = [place for place, _ in ring]
    orders = []
    for _ in range(plant.products):
        start = bisect(places, rng.random())
        orders.append(list(dict.fromkeys(itertools.chain(numbers[start:], numbers[:start]))))
    return orders


def table(rows: Sequence[tuple[str, Figures]]) -> str:
    """Format results as Markdown."""
    head = ["policy", "hits %", "spilled %", "refused %", "p50 ms", "p99 ms", "sent again %"]
    lines = [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
    for name, found in rows:
        spilled = f"{100 * found.spilled:.2f}" if "hash" in name or "bounded" in name else "–"
        shares = [f"{100 * found.hit_rate:.2f}", spilled, f"{100 * found.refused:.2f}"]
        times = [f"{1000 * found.p50_s:.0f}", f"{1000 * found.p99_s:.0f}", f"{100 * found.repeated:.3f}"]
        lines.append(f"| {' | '.join([name, *shares, *times])} |")
    return "\n".join(lines) + "\n"


def describe(plant: Plant, seed: int, deaths: int) -> str:
    """Return what was simulated, in words."""
    load = plant.rate * plant.inspection_s / (plant.replicas * plant.cores)
    return (
        f"{plant.products:,} products (Zipf {plant.zipf:g}), {plant.replicas} replicas of {plant.cores} cores with "
        f"memory for {plant.capacity} bundles each ({plant.memory_gib:g} GiB of {plant.bundle_mib:g} MiB), "
        f"{plant.rate:g} images per second for {plant.seconds:g} s ({100 * load:.0f} % of the cores without loading), "
        f"{1000 * plant.inspection_s:.0f} ms per inspection, {plant.load_s:g} s to load a bundle, {deaths} deaths, "
        f"each for {plant.restart_s:g} s, seed {seed}.\n"
    )


def main(
    products: Annotated[int, typer.Option(min=1)] = Plant.products,
    zipf: Annotated[float, typer.Option(min=0)] = Plant.zipf,
    replicas: Annotated[int, typer.Option(min=1)] = Plant.replicas,
    cores: Annotated[int, typer.Option(min=1)] = Plant.cores,
    memory_gib: Annotated[float, typer.Option(help="Memory for bundles, per replica.")] = Plant.memory_gib,
    rate: Annotated[float, typer.Option(help="Images per second.")] = Plant.rate,
    seconds: Annotated[float, typer.Option(min=1, help="Simulated time.")] = Plant.seconds,
    death_s: Annotated[float, typer.Option(help="Mean time between deaths.")] = Plant.death_s,
    restart_s: float = Plant.restart_s,
    factor: Annotated[list[float] | None, typer.Option(help="Bounds of the load, times the mean; repeatable.")] = None,
    inspection_s: float = INSPECTION_S,
    load_s: float = LOAD_S,
    bundle_mib: float = BUNDLE_MIB,
    seed: int = 0,
    *,
    write: Annotated[bool, typer.Option("--write", help="Write the table into docs/scale.md.")] = False,
) -> None:
    """Simulate every policy and print one table."""
    plant = Plant(
        products=products,
        zipf=zipf,
        replicas=replicas,
        cores=cores,
        memory_gib=memory_gib,
        rate=rate,
        seconds=seconds,
        death_s=death_s,
        restart_s=restart_s,
        inspection_s=inspection_s,
        load_s=load_s,
        bundle_mib=bundle_mib,
    )
    results = []
    for policy in POLICIES:
        for bound in (factor or FACTORS) if policy == "bounded load" else (plant.factor,):
            name = f"{policy}, {bound:g} times the mean" if policy == "bounded load" else policy
            results.append((name, Simulation(replace(plant, factor=bound), policy, seed).run()))
    text = f"{describe(plant, seed, results[0][1].deaths)}\n{table(results)}"
    typer.echo(text)
    if write:
        write_section("routing", text, SCALE)


if __name__ == "__main__":
    typer.run(main)
