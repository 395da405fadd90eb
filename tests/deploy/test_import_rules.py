"""The import rules in pyproject.toml name every room of the service, so that a new one cannot slip past them."""

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# What the rule's sources may use, and so must not be in its list.
ALLOWED = {
    "training": {
        "service.bundle",
        "service.bundle_graph",
        "service.bundle_writer",
        "service.errors",
        "service.inspection",
        "service.recipe",
        "service.recipe_parts",
    },
    "service.inspection": {"service.bundle", "service.bundle_graph", "service.errors", "service.inspection"},
}


def rooms() -> set[str]:
    files = {f"service.{path.stem}" for path in (ROOT / "service").glob("*.py") if path.stem != "__init__"}
    return files | {f"service.{path.parent.name}" for path in (ROOT / "service").glob("*/__init__.py")}


@pytest.mark.parametrize("source", ALLOWED)
def test_every_room_is_either_allowed_or_forbidden(source: str) -> None:
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    (rule,) = [rule for rule in linter["contracts"] if rule["source_modules"] == [source]]
    forbidden = {module for module in rule["forbidden_modules"] if module.startswith("service.")}

    assert forbidden == rooms() - ALLOWED[source]
