"""Settings of a run from a TOML file: what a command line is too short for."""

from __future__ import annotations

import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

from training.checked_fields import checked
from training.config import FitConfig
from training.errors import InvalidFitConfig, InvalidSettings
from training.methods import fit_config

# Given with the command, because a comparison varies them or a machine decides them.
_NOT_HERE = frozenset({"seed", "threads", "checkpoint_seconds"})


def read_settings(path: Path, **chosen: Any) -> FitConfig:
    """Reads settings of `FitConfig` by their names, `options` as a table; what is missing is the method's own.

    Args:
        path: a TOML file, for instance `configs/papers/drd.toml`.
        chosen: settings that win over the file's; None stands for "not chosen".

    Raises:
        InvalidSettings: the file cannot be read, is no TOML, or holds a name or a value that is no setting.
        UnknownMethod, InvalidFitConfig: what it says cannot be run.
    """
    try:
        text = path.read_bytes().decode()
        given = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidSettings(path, str(error)) from error
    known = {field.name for field in fields(FitConfig)} - _NOT_HERE
    if unknown := sorted(set(given) - known):
        raise InvalidSettings(path, f"{', '.join(unknown)} is no setting; choose from {', '.join(sorted(known))}")
    try:
        settings = checked(FitConfig, given, "setting")
    except InvalidFitConfig as error:
        raise InvalidSettings(path, str(error).rstrip(".")) from error
    if "teacher_weights" in settings:
        settings["teacher_weights"] = tuple(path.parent / file for file in settings["teacher_weights"])
    return fit_config(**(settings | {name: value for name, value in chosen.items() if value is not None}))
