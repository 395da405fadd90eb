"""`plumbline capacity`: the figures follow from the costs, and the first bottleneck is the one that is used most."""

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from benchmarks.capacity import PLANTS, arguments, costs, plants
from benchmarks.routing import SCALE
from service.cli.capacity.model import BUNDLE_MIB, KINDS, ROW_BYTES, UTILISATION, Plant, capacity_of
from service.cli.main import app

PLANT = Plant(cameras=10, rate=2.0, products=4, image=KINDS["1mp"], hours=10.0)


def shares(plant: Plant) -> dict[str, float]:
    return {need.name: need.share for need in capacity_of(plant).needs}


def test_figures_follow_from_the_costs() -> None:
    found = capacity_of(PLANT)
    needed = {need.name: need.needed for need in found.needs}
    image = KINDS["1mp"]
    assert found.rate == 20
    assert needed["processor of the machines"] == pytest.approx(20 * image.service_cpu_ms / 1000 / UTILISATION)
    per_day = 20 * 3600 * 10
    assert found.files_gb_per_day == pytest.approx(per_day * (image.image_bytes + image.map_bytes) / 1e9)
    assert needed["disk of the database"] == pytest.approx(per_day * 365 * ROW_BYTES / 1e9 * PLANT.record_years)
    assert needed["storage of images and maps"] == pytest.approx(30 * found.files_gb_per_day)


def test_twice_the_cameras_need_twice_of_everything_but_memory() -> None:
    once, twice = shares(PLANT), shares(replace(PLANT, cameras=20))
    memory = "memory of the machines"
    assert twice[memory] == once[memory]
    assert {name: share / once[name] for name, share in twice.items() if name != memory} == pytest.approx(
        dict.fromkeys(once.keys() - {memory}, 2.0)
    )


def test_machines_follow_from_processor_and_memory() -> None:
    assert capacity_of(PLANT).machines == 1
    assert capacity_of(replace(PLANT, cameras=80, cores=4)).machines == 4, "80 x 2 x 59.5 ms are 15.9 cores at 60 %"
    many = replace(PLANT, products=2800, memory_gib=16.0)
    assert capacity_of(many).machines == 4, f"2,800 bundles of {BUNDLE_MIB} MiB do not fit into three times 16 GiB"
    copies = {need.name: need.needed for need in capacity_of(replace(many, machines=4)).needs}
    assert copies["memory of the machines"] > 2 * 2800 * BUNDLE_MIB / 1024, "each bundle is in the memory of two"


@pytest.mark.parametrize(
    ("changed", "bottleneck"),
    [
        ({"record_years": 100.0}, "disk of the database"),
        ({"keep_days": 10_000.0}, "storage of images and maps"),
        ({"cores": 1, "record_years": 0.0}, "processor of the machines"),
        ({"products": 1000, "record_years": 0.0, "keep_days": 0.0}, "memory of the machines"),
        ({"link_mbit": 1.0}, "network to the machines"),
    ],
)
def test_the_resource_that_is_used_most_is_the_bottleneck(changed: dict[str, float], bottleneck: str) -> None:
    assert capacity_of(replace(PLANT, **changed)).bottleneck.name == bottleneck  # type: ignore[arg-type]


def test_command_prints_text_and_json() -> None:
    runner = CliRunner()
    text = runner.invoke(app, ["capacity", "--cameras", "8", "--rate", "0.5", "--record-years", "1"])
    assert text.exit_code == 0, text.output
    assert "4 images per second" in text.output
    assert "First bottleneck:" in text.output
    options = ["--cameras", "8", "--cpu-ms", "5000", "--image-kb", "50", "--json"]
    found = json.loads(runner.invoke(app, ["capacity", *options]).stdout)
    needs = {need["name"]: need for need in found["needs"]}
    assert needs["processor of the machines"]["needed"] == pytest.approx(40 / UTILISATION)
    assert found["bottleneck"] == "processor of the machines"
    assert "Not enough" in runner.invoke(app, ["capacity", *options[:-1]]).output
    refused = runner.invoke(app, ["capacity", "--cameras", "8", "--image", "huge"])
    assert refused.exit_code == 2
    assert "expected one of 1mp" in refused.stderr


def test_the_documentation_shows_the_figures_of_the_model() -> None:
    document = SCALE.read_text(encoding="utf-8")
    assert costs().strip() in document
    assert plants().strip() in document
    assert all(name in document for name in PLANTS)


@pytest.mark.parametrize("name", PLANTS)
def test_the_command_of_a_worked_plant_calculates_it(name: str) -> None:
    output = CliRunner().invoke(app, [*arguments(PLANTS[name]), "--json"])
    assert output.exit_code == 0, output.output
    found = capacity_of(PLANTS[name])
    assert [need["needed"] for need in json.loads(output.stdout)["needs"]] == [need.needed for need in found.needs]
    assert json.loads(output.stdout)["machines"] == found.machines
