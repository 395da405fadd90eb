"""Values of options that more than one command has."""

import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from training.errors import InvalidOption


class Augmentation(StrEnum):
    """The values of `FitConfig.augment`."""

    NONE = "none"
    MILD = "mild"
    ROTATE = "rotate"


class Device(StrEnum):
    """The values of `FitConfig.device`."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Groups(StrEnum):
    """The values of `Request.groups`."""

    AUTO = "auto"
    FOLDER = "folder"
    DATE = "date"
    PREFIX = "prefix"
    NONE = "none"


BUNDLE_HELP = "models/PRODUCT/VERSION, or models/PRODUCT for its newest version."
EXCLUDE_HELP = "Good image to leave out, or a .txt file with one name per line; repeatable."
DEVICE_HELP = "Device that trains; auto: a CUDA GPU if there is one, else the CPU."


def method_options(given: Sequence[str]) -> dict[str, Any]:
    """Parse `NAME=VALUE` options of a method. A value that is not JSON is used as a text.

    Raises:
        InvalidOption: There is no name or no equals sign.
    """
    options: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise InvalidOption("--option", repr(text), "NAME=VALUE, for example width=4")
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    return options


def find_bundle(option: str, path: Path) -> Path:
    """Return the folder of a bundle.

    Args:
        option: The option or argument that names it, for the error.
        path: `models/PRODUCT/VERSION`, or `models/PRODUCT` for its newest version.

    Raises:
        InvalidOption: There is no bundle.
    """
    from service.bundle.bundle import newest_bundle
    from service.bundle.manifest import MANIFEST

    found = path if (path / MANIFEST).is_file() else newest_bundle(path) if path.is_dir() else None
    if found is None:
        raise InvalidOption(option, path, "a folder models/PRODUCT/VERSION with a manifest.json")
    return found


def prepare_output(path: Path, option: str = "--output", example: str = "report.html") -> None:
    """Create the folder of an output file, before work that may take long.

    Args:
        path: The file.
        option: The option that names it, for the error.
        example: A name of such a file, for the error.

    Raises:
        InvalidOption: The output is a folder.
        OSError: The folder cannot be created.
    """
    if path.is_dir():
        raise InvalidOption(option, path, f"a file, for example {example}")
    path.parent.mkdir(parents=True, exist_ok=True)
