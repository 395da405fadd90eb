"""Plumbline as a contestant: `Inspector` in this process, or a service over HTTP. Both apply the default recipe.

Over HTTP an image is posted, and its map is fetched in a second request on the same connection; the service stores
both, which none of the other contestants does.
"""

import http.client
import io
import json
import sys
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.inferencers.lines import Answer, Inspect, claim_output, serve
from service.bundle.bundle import bundle_folders
from service.inspection.decision import Decision
from service.inspection.inspector import Inspector, InspectorOptions
from service.inspection.runtime.configure import configure
from service.inspection.runtime.session import SessionOptions
from service.recipes.recipe import Recipe
from tests.serving import service_process

_TIMEOUT_S = 60.0


def in_process(bundle: Path) -> Inspect:
    """Return the decision core with a bundle, as the service uses it."""
    inspector = Inspector.load(bundle, InspectorOptions(session=SessionOptions(provider="cpu")))
    recipe = Recipe.default(inspector.card.scores)

    def inspect(data: bytes) -> Answer:
        inspection = inspector.inspect(data, recipe.criteria)
        height, width = inspection.anomaly_map.shape
        return Answer(inspection.score, inspection.decision is Decision.FAIL, (height, width))

    return inspect


class HttpClient:
    """Connections to a service, one per calling thread.

    Args:
        url: Base URL of the service.
        product: Product to inspect.
    """

    def __init__(self, url: str, product: str) -> None:
        self._host = url.removeprefix("http://")
        self._path = f"/v1/products/{product}/inspections"
        self._local = threading.local()

    def inspect(self, data: bytes) -> Answer:
        """Post an image and fetch its map.

        Raises:
            RuntimeError: The image was not inspected; the message is the service's.
        """
        verdict = json.loads(self._send("POST", self._path, data))
        if verdict["score"] is None:
            raise RuntimeError(f"The image is rejected: {verdict['invalid_reasons']}")
        map_data = self._send("GET", f"/v1/inspections/{verdict['id']}/map")
        height, width = np.load(io.BytesIO(map_data), allow_pickle=False).shape
        return Answer(verdict["score"], verdict["decision"] == "fail", (height, width))

    def _send(self, method: str, path: str, body: bytes | None = None) -> bytes:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = http.client.HTTPConnection(self._host, timeout=_TIMEOUT_S)
        connection.request(method, path, body, {"content-type": "image/jpeg"} if body else {})
        response = connection.getresponse()
        content: bytes = response.read()
        if response.status >= 300:
            raise RuntimeError(f"{response.status}: {content.decode(errors='replace')}")
        return content


def main(
    models: Annotated[Path, typer.Option(help="Model repository with the product.")],
    product: Annotated[str, typer.Option()],
    over_http: Annotated[bool, typer.Option("--over-http", help="Start a service and use it.")] = False,
) -> None:
    """Answer requests with a bundle of Plumbline."""
    replies = claim_output()
    configure()
    if not over_http:
        serve(in_process(bundle_folders((models / product).absolute())[0]), sys.stdin, replies)
        return
    with ExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory()))
        service = running.enter_context(service_process(models.absolute(), folder, {"provider": "cpu"}))
        service.wait_until(200)
        serve(HttpClient(service.url, product).inspect, sys.stdin, replies)


if __name__ == "__main__":
    typer.run(main)
