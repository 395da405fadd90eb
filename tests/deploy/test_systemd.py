"""The systemd units are valid, confined, and give the programs time to stop."""

import re
import shutil
import subprocess
from inspect import signature
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from plumbline_client import Client
from service.cli.main import app
from service.cli.options import CLIENT_VARIABLES
from service.server import EXIT_GRACE_S
from service.settings import PREFIX, Settings

FOLDER = Path(__file__).parents[2] / "deploy" / "systemd"
UNIT, WATCH = FOLDER / "plumbline.service", FOLDER / "plumbline-watch@.service"
WORKER = FOLDER / "plumbline-train-worker.service"
RAY, RAY_APPLICATION = FOLDER / "plumbline-ray.service", FOLDER / "plumbline-ray-application.service"
DOCS = FOLDER.parents[1] / "docs"
TEXT = UNIT.read_text(encoding="utf-8")
# `systemd-analyze security` rates from 0 (confined) to 10.
MOST_EXPOSURE = 2.0


@pytest.fixture(params=[UNIT, WATCH, WORKER, RAY, RAY_APPLICATION], ids=lambda path: path.name)
def unit(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A unit with a program that exists on this machine."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed: run `make system-deps` (Debian package systemd)")
    source: Path = request.param
    copy = tmp_path / source.name.replace("@", "@washer")
    text = source.read_text(encoding="utf-8")
    copy.write_text(re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/true", text), encoding="utf-8")
    return copy


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60, check=False)


def test_unit_is_valid(unit: Path) -> None:
    done = analyze("verify", unit)

    assert done.returncode == 0, done.stderr
    assert unit.name not in done.stderr


def test_unit_is_confined(unit: Path) -> None:
    done = analyze("security", "--offline=true", unit)

    (exposure,) = re.findall(r"Overall exposure level[^:]*: ([0-9.]+)", done.stdout)
    assert float(exposure) <= MOST_EXPOSURE


def test_unit_gives_the_service_time_to_stop() -> None:
    settings = Settings.model_fields
    (timeout_s,) = re.findall(r"(?m)^TimeoutStopSec=(\d+)$", TEXT)
    guide = (FOLDER.parents[1] / "docs" / "how-to" / "replicas.md").read_text(encoding="utf-8")
    (delay_s,) = re.findall(r"(?m)^PLUMBLINE_SHUTDOWN_DELAY_S=(\d+)$", guide)

    assert int(delay_s) >= settings["shutdown_delay_s"].default
    assert int(timeout_s) > int(delay_s) + settings["shutdown_timeout_s"].default + EXIT_GRACE_S


def test_environment_file_of_a_replica_has_settings_that_fit_the_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    guide = (FOLDER.parents[1] / "docs" / "how-to" / "replicas.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"(?ms)^## Environment file\n+```text\n(.*?)^```", guide)
    lines = [line for line in block.splitlines() if line and not line.startswith("#")]
    given = dict(line.split("=", 1) for line in lines)

    assert not any(set(value) & set("\"' ") for value in given.values())
    assert {name for name in given if not name.startswith(PREFIX)} == {
        "AWS_CA_BUNDLE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "FORWARDED_ALLOW_IPS",
    }  # fmt: skip
    for name, value in given.items():
        assert not name.startswith(PREFIX) or name.removeprefix(PREFIX).lower() in Settings.model_fields, name
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.bundle_memory_bytes is not None
    (state,) = re.findall(r"(?m)^StateDirectory=(.+)$", TEXT)
    assert [str(settings.models), str(settings.data)] == [f"/var/lib/{name}" for name in state.split()]


def test_every_setting_of_the_unit_is_a_setting_of_the_service() -> None:
    names = set(re.findall(rf"\b({PREFIX}[A-Z_]+)=", TEXT)) - {f"{PREFIX}NAME"}

    assert names
    assert names <= {PREFIX + field.upper() for field in Settings.model_fields}


def test_watch_unit_runs_the_command_and_gives_it_time_to_complete_an_image() -> None:
    text = WATCH.read_text(encoding="utf-8")
    (timeout_s,) = re.findall(r"(?m)^TimeoutStopSec=(\d+)$", text)
    (command,) = re.findall(r"(?m)^ExecStart=/opt/plumbline/bin/plumbline (.+) \$WATCH_OPTIONS$", text)
    words = command.replace("%i", "washer").split()
    parameters = {name for item in get_command(app).commands[words[0]].params for name in item.opts}  # type: ignore[attr-defined]

    assert int(timeout_s) > signature(Client).parameters["timeout_s"].default
    assert words == ["watch", "/srv/plumbline/washer", "--product", "washer"]
    assert {"--product", "--json"} <= parameters
    named = set(re.findall(rf"\b({PREFIX}[A-Z_]+)\b", text)) - {f"{PREFIX}NAME"}
    assert named == CLIENT_VARIABLES


def test_units_of_ray_read_the_settings_and_use_the_folders_of_the_service() -> None:
    text = RAY.read_text(encoding="utf-8")
    (state,) = re.findall(r"(?m)^StateDirectory=.+$", TEXT)
    (folders,) = re.findall(r"(?m)^Environment=(PLUMBLINE_MODELS=\S+ PLUMBLINE_DATA=\S+)", TEXT)

    assert state in text
    assert folders in text
    assert "\nEnvironmentFile=/etc/plumbline/plumbline.env\n" in text
    # The same user owns the folders, and two programs must not use them by mistake.
    assert f"\nUser={UNIT.stem}\n" in text
    assert f"\nConflicts={UNIT.name}\n" in text
    assert f"WantedBy={RAY.name}" in RAY_APPLICATION.read_text(encoding="utf-8")


def test_processes_of_ray_fit_the_connections_that_the_guide_names() -> None:
    guide = (DOCS / "how-to" / "ray.md").read_text(encoding="utf-8")
    (pool,) = map(int, re.findall(r"(?m)^Environment=PLUMBLINE_DATABASE_POOL_SIZE=(\d+)$", RAY.read_text()))
    (application,) = yaml.safe_load((FOLDER.parent / "ray" / "serve.yaml").read_text())["applications"]
    ingress, inspector = application["deployments"]
    processes = ingress["num_replicas"], inspector["autoscaling_config"]["max_replicas"]
    most = pool * sum(processes)

    assert f"`PLUMBLINE_DATABASE_POOL_SIZE={pool}`" in guide
    assert f"{processes[0]} + {processes[1]} processes have\n      at most {most} connections" in guide
    (limit,) = map(int, re.findall(r"`max_connections` of the server, which is 100 by default, to (\d+)", guide))
    assert most + 10 < limit


def test_no_guide_reads_the_environment_file_in_a_shell() -> None:
    """An unquoted `&` in the URL of the database would end the command there, and leave the variable empty."""
    pages = {page: page.read_text(encoding="utf-8") for page in DOCS.rglob("*.md")}

    assert sum("/etc/plumbline/plumbline.env" in text for text in pages.values()) > 2
    assert [page.name for page, text in pages.items() if re.search(r"(?m)(?:\.|source) /etc/plumbline/", text)] == []
