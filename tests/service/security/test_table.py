"""The table of attacks in docs/security.md names a test in every row, and every test of this folder."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
DOCUMENT = HERE.parents[2] / "docs" / "security.md"
_ROW = re.compile(r"^\| .* \| `([^`|]+\.py::test_\w+)` \|$", re.MULTILINE)
_TEST = re.compile(r"^def (test_\w+)", re.MULTILINE)
# These protect legitimate use against what was done about an attack.
NO_ATTACKS = {"test_dots_in_texts_are_no_nesting"}


def table() -> str:
    return DOCUMENT.read_text(encoding="utf-8").partition("\n## Attacks\n")[2].partition("\n## ")[0]


def test_every_attack_has_a_test_that_exists() -> None:
    rows = [
        line for line in table().splitlines() if line.startswith("| ") and not line.startswith(("| attack", "| **"))
    ]
    named = _ROW.findall(table())
    assert len(named) == len(rows) > 50
    for name in named:
        path, _, test = name.partition("::")
        assert test in _TEST.findall((HERE / path).read_text(encoding="utf-8")), name


def test_every_test_is_in_the_table() -> None:
    named = {name.partition("::")[2] for name in _ROW.findall(table())}
    for path in sorted(HERE.glob("test_*.py")):
        if path.name != Path(__file__).name:
            assert set(_TEST.findall(path.read_text(encoding="utf-8"))) <= named | NO_ATTACKS
