"""Fixtures of the tests of `plumbline watch`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import pytest

from service.cli.watching import requests
from tests.running_service import GOOD, RunningService


@pytest.fixture
def passed(service: RunningService) -> tuple[int, dict[str, Any]]:
    """The response to an image that passes."""
    return 201, service.inspect(GOOD).json()


@pytest.fixture
def quick() -> Iterator[None]:
    with patch.object(requests, "_FIRST_PAUSE_S", 0.05), patch.object(requests, "_LONGEST_PAUSE_S", 0.2):
        yield
