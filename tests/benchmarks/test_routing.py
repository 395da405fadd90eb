"""The simulation of the router: properties that hold for every plant, at small size."""

import dataclasses
import math

import pytest

from benchmarks.marked_section import with_section
from benchmarks.routing import POLICIES, SCALE, Plant, Policy, Simulation, describe, table

SMALL = Plant(
    products=200,
    replicas=4,
    memory_gib=80 * 0.04,  # of 40 MiB: 81 bundles, so the replicas together hold all products, and one alone does not
    bundle_mib=40.0,
    rate=30.0,
    seconds=60.0,
    death_s=math.inf,
    load_s=0.2,
)


def test_the_same_seed_gives_the_same_figures_and_another_one_others() -> None:
    first = Simulation(SMALL, "bounded load", seed=1).run()
    assert Simulation(SMALL, "bounded load", seed=1).run() == first
    assert Simulation(SMALL, "bounded load", seed=2).run() != first


def test_a_consistent_hash_finds_bundles_in_memory_more_often_than_the_others() -> None:
    found = {policy: Simulation(SMALL, policy).run() for policy in POLICIES}
    assert found["consistent hash"].hit_rate > 0.99
    assert found["consistent hash"].spilled == 0, "without deaths every product has one replica"
    for policy in ("random", "least connections"):
        assert found[policy].hit_rate < found["bounded load"].hit_rate
        assert found[policy].p99_s > found["consistent hash"].p99_s
    assert len({found[policy].images for policy in POLICIES}) == 1, "all policies get the same images"


@pytest.mark.parametrize("policy", POLICIES)
def test_a_memory_for_every_product_is_always_hit_and_every_image_ends(policy: Policy) -> None:
    plant = dataclasses.replace(SMALL, products=20, death_s=10.0, restart_s=3.0)
    simulation = Simulation(plant, policy)
    found = simulation.run()
    assert found.deaths > 0
    assert not any(replica.in_flight or replica.queue or replica.loading for replica in simulation.replicas)
    assert len(simulation._ended) > found.images > 0
    without_deaths = Simulation(dataclasses.replace(plant, death_s=math.inf), policy).run()
    assert without_deaths.hit_rate > 0.99, "rare products are loaded once per replica"
    assert without_deaths.deaths == without_deaths.repeated == 0
    assert found.hit_rate < without_deaths.hit_rate, "a replica that comes back has an empty memory"


def test_a_hot_product_overloads_its_replica_unless_the_load_is_bounded() -> None:
    hot = dataclasses.replace(SMALL, products=3, zipf=4.0, rate=60.0)
    alone, bounded = (Simulation(hot, policy).run() for policy in ("consistent hash", "bounded load"))
    assert alone.p50_s > 5.0, "60 images per second of 63 ms are more than two cores can do"
    assert bounded.spilled > 0.3
    assert bounded.p99_s < 1.0
    assert bounded.refused == 0 < alone.refused


def test_a_plant_with_little_load_has_the_latency_of_an_inspection() -> None:
    found = Simulation(dataclasses.replace(SMALL, products=1, rate=1.0), "random").run()
    assert found.hit_rate == 1.0
    assert 0.8 * SMALL.inspection_s <= found.p50_s <= 1.2 * SMALL.inspection_s


def test_the_table_has_a_place_in_the_documentation() -> None:
    found = Simulation(dataclasses.replace(SMALL, seconds=10.0), "random").run()
    content = describe(SMALL, 0, 0) + "\n" + table([("random", found)])
    assert content in with_section(SCALE.read_text(encoding="utf-8"), "routing", content)
