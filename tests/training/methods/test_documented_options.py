"""docs/methods.md lists every option of every method with its default."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from training.config import FitConfig
from training.methods import METHODS
from training.methods.drd import DrdOptions
from training.methods.dual_teacher import DualTeacherOptions
from training.methods.nnet import NNetOptions
from training.methods.rstpm import RstpmOptions

TEXT = (Path(__file__).parents[3] / "docs" / "methods.md").read_text(encoding="utf-8")
OPTIONS = {"N-Net": NNetOptions, "DRD": DrdOptions, "RSTPM": RstpmOptions, "Dual teacher": DualTeacherOptions}
NAMES = {"N-Net": "nnet", "DRD": "drd", "RSTPM": "rstpm", "Dual teacher": "dual_teacher"}


def section(title: str) -> str:
    return re.split(r"^## ", TEXT.split(f"\n## {title}\n")[1], flags=re.MULTILINE)[0]


def table(text: str, first_column: str) -> dict[str, Any]:
    rows = text.split(f"| {first_column} | default |")[1].split("\n\n")[0].splitlines()[2:]
    return {name.strip(" `"): value(default.strip(" `")) for _, name, default, *_ in (row.split("|") for row in rows)}


def value(text: str) -> Any:
    return 2 / 3 if text == "2/3" else json.loads(text)


@pytest.mark.parametrize("title", sorted(OPTIONS))
def test_options_and_defaults_are_documented(title: str) -> None:
    defaults = {field.name: field.default for field in dataclasses.fields(OPTIONS[title])}
    assert table(section(title), "option") == json.loads(json.dumps(defaults))


@pytest.mark.parametrize("title", sorted(OPTIONS))
def test_recommended_settings_are_documented(title: str) -> None:
    settings = section(title).split("Recommended settings: ")[1].split(".\n")[0]
    documented = {name: value(default) for name, default in re.findall(r"`(\w+) = ([^`]+)`", settings)}
    assert documented == METHODS[NAMES[title]].recommended


def test_settings_of_synthetic_anomalies_are_documented() -> None:
    documented = table(section("Shared parts"), "setting")
    assert documented == {name: getattr(FitConfig(), name) for name in documented}


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_has_a_figure(name: str) -> None:
    figure = f"images/methods/{name}.svg"
    assert f"]({figure})" in TEXT
    assert (Path(__file__).parents[3] / "docs" / figure).exists()
