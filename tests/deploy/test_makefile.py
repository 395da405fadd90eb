"""What make would do, without doing it."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def commands(*arguments: str) -> list[str]:
    make = shutil.which("make")
    if make is None:
        pytest.skip("make is not installed")
    done = subprocess.run(
        [make, "--dry-run", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.splitlines()


def removed(*arguments: str) -> set[str]:
    return {word for line in commands(*arguments) if line.startswith("rm ") for word in line.split()[2:]}


def test_clean_keeps_trained_models() -> None:
    assert ".venv" in removed("clean")
    assert not {"runs", "models", "data"} & removed("clean")
    assert removed("clean-runs") == {"runs"}


@pytest.mark.parametrize(("target", "module"), [("demo", "service.cli.demo"), ("demo-train", "training.demo.elpv")])
def test_port_of_the_demo_can_be_chosen(target: str, module: str) -> None:
    (with_port,) = [line for line in commands(target, "PORT=8123") if module in line]
    (without,) = [line for line in commands(target) if module in line]

    assert with_port.split()[-2:] == ["--port", "8123"]
    assert "--port" not in without


def test_boms_and_audit_cover_what_the_images_install() -> None:
    for target, program in (("sbom", "cyclonedx-py"), ("audit", "pip-audit")):
        text = "\n".join(commands(target))
        assert program in text
        assert "requirements/$variant.txt" in text
        assert "cpu cuda" in text
