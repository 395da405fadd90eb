"""Fixtures that more than one room's tests need."""

pytest_plugins = ["tests.strict_skips"]
