"""The systemd units are valid, confined, and give the programs time to stop."""

import re
import shutil
import subprocess
from inspect import signature
from pathlib import Path

import pytest
from typer.main import get_command

from plumbline_client import Client
from service.cli.main import app
from service.cli.options import CLIENT_VARIABLES
from service.settings import PREFIX, Settings

FOLDER = Path(__file__).parents[2] / "deploy" / "systemd"
UNIT, WATCH = FOLDER / "plumbline.service", FOLDER / "plumbline-watch@.service"
WORKER = FOLDER / "plumbline-train-worker.service"
TEXT = UNIT.read_text(encoding="utf-8")
# `systemd-analyze security` rates from 0 (confined) to 10.
MOST_EXPOSURE = 2.0


@pytest.fixture(params=[UNIT, WATCH, WORKER], ids=lambda path: path.name)
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

    assert int(timeout_s) > settings["shutdown_delay_s"].default + settings["shutdown_timeout_s"].default


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
