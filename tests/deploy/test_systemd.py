"""The systemd unit is valid, confined, and gives the service time to stop."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from service.settings import PREFIX, Settings

UNIT = Path(__file__).parents[2] / "deploy" / "systemd" / "plumbline.service"
TEXT = UNIT.read_text(encoding="utf-8")
# `systemd-analyze security` rates from 0 (confined) to 10.
MOST_EXPOSURE = 2.0


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with a program that exists on this machine."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed: run `make system-deps` (Debian package systemd)")
    copy = tmp_path / UNIT.name
    copy.write_text(re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/true", TEXT), encoding="utf-8")
    return copy


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60, check=False)


def test_unit_is_valid(unit: Path) -> None:
    done = analyze("verify", unit)

    assert done.returncode == 0, done.stderr
    assert UNIT.name not in done.stderr


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
