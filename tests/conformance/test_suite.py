"""The suite contains the tests that it should."""

from __future__ import annotations

from tests.conformance.suite import collect_suite
from tests.service.api import test_health, test_inspections

LEAST_SHARED = 100
"""Lower bound of the API tests that are shared. Raise it as their number grows."""


def test_suite_has_its_own_cases_and_the_api_tests_that_need_http_only() -> None:
    suite = collect_suite()
    modules = {test.__module__ for test in suite.values()}
    own = {"access", "bundles", "inspections", "operation", "recipes", "reviews", "streams"}
    assert {f"tests.conformance.cases.{name}" for name in own} <= modules
    shared = test_inspections.test_defective_part_fails_with_the_location_of_the_defect
    assert suite[shared.__name__] is shared
    # They are chosen by the text of an annotation: if its name changed, few or none would be left.
    assert sum(test.__module__.startswith("tests.service.api.") for test in suite.values()) >= LEAST_SHARED
    # It stops and starts a service.
    assert test_health.test_broken_bundle_is_reported_and_does_not_affect_other_products.__name__ not in suite
