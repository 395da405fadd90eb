"""Part id, lot and station in file names."""

from __future__ import annotations

import re

from service.inspection.image_files import console_text

GROUPS = ("part_id", "lot", "station")


class NamePattern:
    """A regular expression with the groups `part_id`, `lot` and `station` that is searched for in file names.

    Args:
        pattern: The regular expression, in Python's syntax.

    Raises:
        ValueError: It is not a regular expression, or it has other groups or none.
    """

    def __init__(self, pattern: str) -> None:
        try:
            self._pattern = re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{pattern!r} is not a regular expression: {error}.") from error
        names = set(self._pattern.groupindex)
        if not names or names - set(GROUPS):
            given = ", ".join(sorted(names)) or "none"
            raise ValueError(
                f"{pattern!r} must have at least one of the groups (?P<part_id>...), (?P<lot>...), (?P<station>...) "
                f"and no other named groups. It has: {given}."
            )

    def fields(self, name: str) -> dict[str, str] | None:
        """Return the metadata in a name relative to the watched folder; None if the pattern does not occur in it."""
        # Control characters and bytes that are not UTF-8 are escaped: the service accepts neither in metadata.
        found = self._pattern.search(console_text(name))
        return None if found is None else {group: text for group, text in found.groupdict().items() if text}
