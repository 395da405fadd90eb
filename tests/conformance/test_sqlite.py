"""The API test suite against one service with SQLite and files."""

import pytest

from tests.conformance.suite import collect_suite

DEPLOYMENT = "sqlite"
pytestmark = pytest.mark.slow

globals().update(collect_suite())
