"""Texts in CSV files that people open with a spreadsheet program."""

from __future__ import annotations

import re

# A cell with one of these characters first is read as a formula. The last four are their full-width forms, which some
# programs treat alike. Where the list separator is a semicolon, as in German, a program splits a cell of a file with
# commas at semicolons and line breaks, also within quotes.
_SIGNS = "=+\\-@\uff1d\uff0b\uff0d\uff20"
_FORMULA = re.compile(rf"\A(?=[{_SIGNS}\t\r\n])|(?<=[;\t\r\n])(?=[{_SIGNS}])")


def guard_formulas(text: str) -> str:
    """Return a text that a spreadsheet program does not run as a formula: with an apostrophe before what begins one."""
    return _FORMULA.sub("'", text)
