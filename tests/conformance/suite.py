"""The API test suite: which tests run against each deployment.

They are all functions of `tests/conformance/cases`, which need several replicas or a product of their own, and those of
`tests/service/api` whose parameter `service` has the type `HttpService`. The latter are not written twice: there, they
run against a service in the same process, here against a deployment. The type checker makes sure that they use nothing
but HTTP.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.running_service import HttpService

_ROOT = Path(__file__).parent.parent.parent
_API = _ROOT / "tests" / "service" / "api"
_CASES = _ROOT / "tests" / "conformance" / "cases"


def collect_suite() -> dict[str, Callable[..., Any]]:
    """Return the tests by name.

    Raises:
        RuntimeError: Two of them have the same name.
    """
    found: dict[str, Callable[..., Any]] = {}
    chosen = [*_functions(_CASES, lambda _test: True), *_functions(_API, _needs_http_only)]
    for test in chosen:
        if test.__name__ in found:
            both = f"{found[test.__name__].__module__} and {test.__module__}"
            raise RuntimeError(f"{both} have a test with the name {test.__name__}. Rename one of them.")
        found[test.__name__] = test
    return found


def _needs_http_only(test: Callable[..., Any]) -> bool:
    # With `from __future__ import annotations`, the annotation is text.
    return test.__annotations__.get("service") in (HttpService, HttpService.__name__)


def _functions(folder: Path, is_chosen: Callable[[Callable[..., Any]], bool]) -> Iterator[Callable[..., Any]]:
    for path in sorted(folder.glob("*.py")):
        name = ".".join(path.relative_to(_ROOT).with_suffix("").parts)
        yield from filter(is_chosen, _tests_of(importlib.import_module(name)))


def _tests_of(module: ModuleType) -> Iterator[Callable[..., Any]]:
    for name, test in vars(module).items():
        if name.startswith("test_") and inspect.isfunction(test) and test.__module__ == module.__name__:
            yield test
