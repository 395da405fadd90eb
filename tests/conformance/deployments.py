"""The deployments that the API test suite runs against.

To add one: write a context manager that starts it and yields its `Addresses`, add it to `DEPLOYMENTS`, and add a module
`test_<name>.py` as those that are there.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from plumbline_client import Client
from service.access.principal import SCOPES
from service.bundle.archive import write_archive
from service.bundle.bundle import Bundle
from service.deployment.passed_tests import SELF_TESTS
from tests.postgres import PostgresServer, migrated_database
from tests.proxy import proxy_process
from tests.ray_serve import RayService, ray_serve_process
from tests.running_service import HttpService, shared_self_tests
from tests.s3 import S3Server
from tests.serving import service_process

SETTINGS = {
    "provider": "cpu",
    "threads": "1",
    # That of the fixture `service` of the tests that run in one process.
    "max_body_bytes": "100000",
    "login_attempts": "1000",
}
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "not-a-secret", "AWS_SECRET_ACCESS_KEY": "not-a-secret"}
TIMEOUT_S = 60.0
WHO: dict[str, Any] = {"author": "Ada", "reason": "test"}


@dataclass(frozen=True)
class Addresses:
    """Where a deployment is reached.

    Attributes:
        url: Base URL for clients.
        replicas: Base URLs of the replicas. If only the balancer can be reached, its URL as often as makes it probable
            that every replica gets a request.
        metrics: Base URLs whose `/metrics` can be read.
        ray: The application if Ray Serve runs it.
    """

    url: str
    replicas: Sequence[str]
    metrics: Sequence[str]
    ray: RayService | None = None


@dataclass(frozen=True)
class Parts:
    """What a deployment is started with.

    Attributes:
        folder: An empty folder.
        widget: The bundle of the product "widget", which is in force when the tests begin.
        fixture: Returns a fixture of the test run, such as a database server, by its name.
    """

    folder: Path
    widget: Bundle
    fixture: Callable[[str], Any]

    def models(self) -> Path:
        """Return a model repository with the product "widget"."""
        folder = self.folder / "models"
        shutil.copytree(self.widget.path, folder / "widget" / self.widget.version)
        return folder

    def data(self, name: str = "data") -> Path:
        """Return a data folder. Self-tests that passed in this test run are not repeated."""
        folder = self.folder / name
        folder.mkdir()
        (folder / SELF_TESTS).symlink_to(shared_self_tests())
        return folder


Start = Callable[[Parts], AbstractContextManager[Addresses]]


@contextmanager
def sqlite_and_files(parts: Parts) -> Iterator[Addresses]:
    """Run one process with SQLite, and files in its data folder."""
    with service_process(parts.models(), parts.data(), SETTINGS) as service:
        service.wait_until(200)
        yield Addresses(service.url, [service.url], [service.url])


@contextmanager
def postgres_and_s3(parts: Parts) -> Iterator[Addresses]:
    """Run two replicas behind HAProxy with PostgreSQL, and images and bundles in S3. Each has a bundle cache."""
    with ExitStack() as stack:
        settings = stack.enter_context(shared_state(parts))
        replicas = [
            stack.enter_context(
                service_process(parts.folder / f"cache-{name}", parts.data(f"data-{name}"), settings, CREDENTIALS)
            )
            for name in "ab"
        ]
        add_widget(replicas[0].url, parts)
        for replica in replicas:
            replica.wait_until(200)
        urls = [replica.url for replica in replicas]
        proxy = stack.enter_context(proxy_process([urlsplit(url).netloc for url in urls]))
        proxy.wait_for_replicas(len(urls))
        yield Addresses(proxy.url, urls, urls)


@contextmanager
def ray_serve(parts: Parts) -> Iterator[Addresses]:
    """Run two replicas of each deployment on Ray Serve, with PostgreSQL, and images and bundles in S3."""
    with shared_state(parts) as settings:
        cache = parts.folder / "cache"
        with ray_serve_process(cache, parts.data(), settings, CREDENTIALS, ingresses=2, inspectors=2) as ray:
            add_widget(ray.url, parts)
            ray.wait_until_ready()
            # Its proxy chooses a replica at random.
            yield Addresses(ray.url, [ray.url] * 6, [ray.url], ray)


@contextmanager
def shared_state(parts: Parts) -> Iterator[dict[str, str]]:
    """Yield the settings of replicas that share a new database and a new bucket."""
    postgres: PostgresServer = parts.fixture("postgres")
    s3: S3Server = parts.fixture("s3")
    bucket = s3.bucket()
    with migrated_database(postgres) as url:
        yield SETTINGS | {
            "database_url": url,
            "database_pool_size": "8",
            "artefacts_url": f"s3://{bucket}/images",
            "bundle_store": f"s3://{bucket}/bundles",
            "s3_endpoint_url": s3.url,
        }


def add_widget(url: str, parts: Parts) -> None:
    """Upload and activate the bundle of "widget" at a service with an empty bundle store."""
    with Client(url) as plumbline:
        plumbline.upload_bundle("widget", archived(parts.widget), create_product=True)
        plumbline.activate_bundle("widget", parts.widget.version, **WHO)


DEPLOYMENTS: Mapping[str, Start] = {"sqlite": sqlite_and_files, "postgres": postgres_and_s3, "ray": ray_serve}


@dataclass(frozen=True)
class Deployment:
    """A running deployment. All clients send a key with all scopes.

    Attributes:
        addresses: Where it is reached.
        service: The deployment as its clients reach it.
        replicas: Each replica.
        key: The key.
    """

    addresses: Addresses
    service: HttpService
    replicas: Sequence[HttpService]
    key: str
    _numbers: count[int]

    @property
    def headers(self) -> dict[str, str]:
        """The header that sends the key."""
        return key_header(self.key)

    def new_name(self, start: str = "part") -> str:
        """Return a name that was not used in this deployment, for a product, a part or a station."""
        return f"{start}-{next(self._numbers)}"


def key_header(key: str) -> dict[str, str]:
    """Return the header that sends a key. Not `Authorization`, which some tests send themselves."""
    return {"x-api-key": key}


@contextmanager
def running(start: Start, parts: Parts) -> Iterator[Deployment]:
    """Run a deployment until the end of the block, and create its first key."""
    with ExitStack() as stack:
        addresses = stack.enter_context(start(parts))
        created = httpx.post(
            f"{addresses.url}/v1/access/keys", json={"name": "suite", "scopes": list(SCOPES)}, timeout=TIMEOUT_S
        )
        assert created.status_code == 201, created.text
        key = created.json()["key"]

        def connect(url: str) -> HttpService:
            client = httpx.Client(base_url=url, headers=key_header(key), timeout=TIMEOUT_S)
            return HttpService(stack.enter_context(client))

        replicas = [connect(url) for url in addresses.replicas]
        yield Deployment(addresses, connect(addresses.url), replicas, key, count(1))


def archived(bundle: Bundle) -> bytes:
    """Return the archive that uploads a bundle."""
    archive = io.BytesIO()
    write_archive(bundle, archive)
    return archive.getvalue()
