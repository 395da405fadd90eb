"""The configuration files for Ray Serve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from ray.serve.schema import ServeDeploySchema

from service.ray_serve.application import build
from service.ray_serve.arguments import Arguments
from service.ray_serve.ingress import ingress_settings
from service.settings import Settings
from tests.ray_serve import CORES, configuration

FOLDER = Path(__file__).parent.parent.parent / "deploy" / "ray"
FILES = sorted(FOLDER.glob("*.yaml"))


def test_there_is_a_configuration_for_cpus_and_one_for_gpus() -> None:
    assert [file.name for file in FILES] == ["serve-gpu.yaml", "serve.yaml"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_ray_accepts_the_configuration(file: Path) -> None:
    text: dict[str, Any] = yaml.safe_load(file.read_text())
    schema = ServeDeploySchema.model_validate(text)
    # Ray ignores what it does not know, such as a misspelt name.
    assert set(text) <= set(ServeDeploySchema.model_fields)
    (application,), (given,) = schema.applications, text["applications"]
    assert set(given) <= set(type(application).model_fields)
    for deployment, options in zip(application.deployments, given["deployments"], strict=True):
        assert set(options) <= set(type(deployment).model_fields)
    assert application.import_path == f"{build.__module__}:{build.__name__}"
    application_of = build(given["args"])
    names = {deployment["name"] for deployment in given["deployments"]}
    inspector = application_of._bound_deployment.init_args[0]
    assert names == {application_of._bound_deployment.name, inspector._bound_deployment.name}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_queue_of_the_service_limits_requests_and_not_that_of_ray(file: Path) -> None:
    (application,) = yaml.safe_load(file.read_text())["applications"]
    ingress, inspector = application["deployments"]
    assert ingress["max_ongoing_requests"] > Settings().queue_limit
    # Otherwise no run of a product in demand ever leaves the replica that opened its graph first.
    assert inspector["max_ongoing_requests"] < application["args"]["runs_per_graph"]
    assert inspector["autoscaling_config"]["target_ongoing_requests"] < inspector["max_ongoing_requests"]


def test_unknown_arguments_are_refused() -> None:
    with pytest.raises(ValidationError):
        build({"graphs": 3})


def test_a_key_is_required_unless_the_proxy_is_on_the_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLUMBLINE_HOST", "127.0.0.1")  # Ray's proxy does not follow it
    assert not ingress_settings(Arguments()).is_loopback
    assert ingress_settings(Arguments(loopback_only=True)).is_loopback


def test_the_configuration_of_the_tests_is_the_shipped_one_on_two_cores() -> None:
    config = configuration(8000, ingresses=2, inspectors=2)
    ServeDeploySchema.model_validate(config)
    ingress, inspector = config["applications"][0]["deployments"]
    assert (ingress["name"], ingress["num_replicas"], inspector["name"]) == ("Ingress", 2, "Inspector")
    assert inspector["autoscaling_config"].items() >= {"min_replicas": 2, "max_replicas": 2}.items()
    # One that autoscaling adds has to fit, too.
    reserved = 2 * ingress["ray_actor_options"]["num_cpus"] + 3 * inspector["ray_actor_options"]["num_cpus"]
    assert reserved < CORES
