"""The API test suite against two replicas behind HAProxy with PostgreSQL and S3."""

import pytest

from tests.conformance.suite import collect_suite

DEPLOYMENT = "postgres"
pytestmark = pytest.mark.slow

globals().update(collect_suite())
