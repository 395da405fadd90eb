"""The limit of a request body is the one that its route declares."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.types import Receive, Scope, Send

from service.api.http.body_limit import BUNDLE, IMAGE, IMAGES, RECIPE, BodyLimit, BodyLimitMiddleware
from service.api.routers import ROUTERS
from service.serving.memory_budget import MemoryBudget
from service.settings import Settings
from tests.problems import assert_problem
from tests.running_service import Serve

LIMITS = {"max_body_bytes": 2000, "max_call_bytes": 3000, "max_bundle_bytes": 4000}


async def no_app(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError("not called")


@pytest.mark.parametrize(
    ("method", "path", "media_type", "expected"),
    [
        ("POST", "/v1/products/widget/inspections", "image/png", IMAGE),
        ("POST", "/v1/products/widget/inspections:batch", "application/zip", IMAGES),
        ("POST", "/v1/products/widget/inspections:batch", "application/json", IMAGE),
        ("POST", "/v1/products/widget/thresholds:propose", "application/zip", IMAGES),
        ("POST", "/v1/products/widget/thresholds:propose", "application/json; charset=utf-8", IMAGE),
        ("POST", "/v1/products/widget/bundles", "application/zip", BUNDLE),
        ("GET", "/v1/products/widget/bundles", "application/zip", IMAGE),
        ("POST", "/v1/products/widget/bundles/0123456789ab:activate", "application/json", IMAGE),
        ("PUT", "/v1/products/widget/recipe", "application/toml", RECIPE),
        ("PUT", "/nowhere", "application/zip", IMAGE),
    ],
)
def test_limit_is_that_of_the_matched_route(
    tmp_path: Path, method: str, path: str, media_type: str, expected: BodyLimit
) -> None:
    middleware = BodyLimitMiddleware(
        no_app, Settings(models=tmp_path / "m", data=tmp_path / "d"), ROUTERS, MemoryBudget(1)
    )
    headers = [(b"content-type", media_type.encode())]
    scope = {"type": "http", "method": method, "path": path, "headers": headers, "root_path": ""}
    assert middleware._find_limit(scope) is expected


def test_limit_is_the_smaller_of_setting_and_declaration(tmp_path: Path) -> None:
    settings = Settings(models=tmp_path / "m", data=tmp_path / "d", max_body_bytes=2**21)
    assert (IMAGE.size(settings), RECIPE.size(settings)) == (2**21, 2**20)
    assert RECIPE.size(Settings(models=tmp_path / "m", data=tmp_path / "d", max_body_bytes=2000)) == 2000


@pytest.mark.slow
@pytest.mark.parametrize("is_chunked", [False, True])
@pytest.mark.parametrize(
    ("method", "path", "limit", "slug"),
    [
        ("POST", "inspections", 2000, "body-too-large"),
        ("POST", "inspections:batch", 3000, "body-too-large"),
        ("POST", "bundles", 4000, "bundle-too-large"),
    ],
)
def test_stated_and_real_length_are_limited(
    serve: Serve, method: str, path: str, limit: int, slug: str, is_chunked: bool
) -> None:
    with serve(**LIMITS) as service:
        for size, is_refused in ((limit, False), (limit + 1, True)):
            data = b"x" * size
            response = service.client.request(
                method,
                f"/v1/products/widget/{path}",
                content=iter([data]) if is_chunked else data,
                headers={
                    "content-type": "application/octet-stream" if path != "inspections:batch" else "application/zip"
                },
            )
            if is_refused:
                assert_problem(response, 413, slug)
            else:
                assert response.status_code != 413, response.text
