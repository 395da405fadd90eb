"""The API test suite against two replicas on Ray Serve."""

import pytest

from tests.conformance.suite import collect_suite

DEPLOYMENT = "ray"
pytestmark = pytest.mark.slow

globals().update(collect_suite())
