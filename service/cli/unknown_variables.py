"""Environment variables that look like settings and are none."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from service.settings import PREFIX, Settings

_TEST_PREFIX = f"{PREFIX}TEST_"


@dataclass(frozen=True)
class UnknownVariable:
    """An environment variable that looks like a setting and is none.

    Attributes:
        name: Its name.
        nearest: The variable of a setting with a similar name, or None.
    """

    name: str
    nearest: str | None

    @property
    def detail(self) -> str:
        """Return what is wrong."""
        return f"{self.name} is not a setting" + (f" (did you mean {self.nearest}?)" if self.nearest else "")

    @property
    def remedy(self) -> str:
        """Return what to do about it."""
        return "Check its spelling, or unset it."


def unknown_variables(environment: Iterable[str], others: Iterable[str] = ()) -> list[UnknownVariable]:
    """Return the variables with the prefix of settings that are not read, sorted by name.

    pydantic-settings ignores unknown variables, so a misspelt one would have no effect and no message.

    Args:
        environment: Names of environment variables.
        others: Variables with the prefix that are read, although they are not settings.
    """
    names = [name.upper() for name in Settings.model_fields] + [name.removeprefix(PREFIX) for name in others]
    known = {f"{PREFIX}{name}" for name in names}
    unknown = []
    for name in sorted(environment):
        upper = name.upper()
        if upper.startswith(PREFIX) and upper not in known and not upper.startswith(_TEST_PREFIX):
            # Compared without the prefix, which would make any two names similar.
            nearest = difflib.get_close_matches(upper.removeprefix(PREFIX), names, 1)
            unknown.append(UnknownVariable(name, f"{PREFIX}{nearest[0]}" if nearest else None))
    return unknown
