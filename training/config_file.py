"""Settings of a training run from a TOML file."""

from __future__ import annotations

import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

from service.recipes.toml_file import toml_problem
from service.schemas.violations import suggestion
from training.config import FitConfig, checked
from training.errors import InvalidFitConfig, InvalidSettings
from training.methods import fit_config

# These belong to the command: a comparison varies the seed, the others depend on the machine.
_COMMAND_ONLY = frozenset({"seed", "device", "threads", "checkpoint_seconds"})


def read_settings(path: Path, **chosen: Any) -> FitConfig:
    """Read the settings of a run from a TOML file.

    Keys are the field names of `FitConfig`, `options` is a table. Missing settings have the method's defaults.

    Args:
        path: A TOML file, for example `configs/papers/drd.toml`.
        chosen: Settings that override the file's; None stands for "not chosen".

    Raises:
        InvalidSettings: The file cannot be read, is not TOML, or holds an unknown name or a value of the wrong type.
        UnknownMethod: The method is not registered.
        InvalidFitConfig: A setting is out of range.
    """
    try:
        text = path.read_bytes().decode()
        given = tomllib.loads(text)
    except OSError as error:
        raise InvalidSettings(path, f"it cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidSettings(path, f"it is not TOML: {toml_problem(error)}") from error
    known = {field.name for field in fields(FitConfig)} - _COMMAND_ONLY
    if unknown := sorted(set(given) - known):
        reason = f"{', '.join(unknown)} is not a setting; choose from {', '.join(sorted(known))}"
        raise InvalidSettings(path, f"{reason} {suggestion(unknown[0], known)}".rstrip())
    try:
        settings = checked(FitConfig, given, "setting")
    except InvalidFitConfig as error:
        raise InvalidSettings(path, str(error).rstrip(".")) from error
    if "teacher_weights" in settings:
        settings["teacher_weights"] = tuple(path.parent / file for file in settings["teacher_weights"])
    return fit_config(**(settings | {name: value for name, value in chosen.items() if value is not None}))
