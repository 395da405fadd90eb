"""An upgrade under load: the last release and the present one on one database, and the way back."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from shutil import copytree
from typing import Any

import httpx
import pytest
from sqlalchemy import create_engine, text

from benchmarks.many_products import record_self_tests
from service.bundle.bundle import Bundle
from service.settings import Settings
from service.store.database import require_usable_schema
from service.store.schema import newest_revision
from service.store.store import Store
from tests.access import bearer
from tests.last_release import LastRelease
from tests.postgres import PostgresServer
from tests.running_service import GOOD, INSPECT
from tests.service.process.test_postgres import serving
from tests.service.process.test_replicas import change_recipe
from tests.service.process.test_serving import IMAGE, wait_for
from tests.service.store.test_store import make_row
from tests.serving import ROOT, ServiceProcess

CAMERAS = 4
# Far more than on an idle machine: it depends on the load. test_schema.py examines that a migration blocks nothing.
LONGEST_GAP_S = 60.0
LATER = "9999_later"
# The present release may have no migration that the last one lacks. So the newer program also has this one.
MIGRATION = '''
"""Add columns and a table, as a later release may."""

import sqlalchemy as sa
from alembic import op

revision = "{revision}"
down_revision = "{before}"
branch_labels = None
depends_on = None
kind = "expand"


def upgrade():
    for table in ("inspections", "recipes", "reviews", "audit_log", "idempotency_keys"):
        op.add_column(table, sa.Column("colour", sa.String(16), nullable=False, server_default="red"))
    op.create_table("colours", sa.Column("id", sa.Integer(), primary_key=True))
'''


@pytest.fixture(scope="module")
def last_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of the last release."""
    return LastRelease.read().unpack(tmp_path_factory.mktemp("last"))


@pytest.fixture(scope="module")
def next_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of the present version with one more migration."""
    folder = tmp_path_factory.mktemp("next")
    for package in ("service", "client/plumbline_client"):
        copytree(ROOT / package, folder / package)
    migration = folder / "service/store/migrations/versions" / f"{LATER}.py"
    migration.write_text(MIGRATION.format(revision=LATER, before=newest_revision()))
    return folder


@dataclass
class Line:
    """Cameras that send parts to any of the services, each with an idempotency key.

    A part is sent again, to the next service, after a 503 or a lost connection. Every third one is sent once more after
    its answer.

    Attributes:
        targets: URLs of the services.
        headers: Headers of each request.
        answers: Identifiers of inspections, by part.
        statuses: How often each status was returned.
        lost: Connections that were lost or refused.
        longest_s: The longest time from the first attempt to the answer for a part.
    """

    targets: list[str]
    headers: dict[str, str]
    answers: dict[str, list[str]] = field(default_factory=dict)
    statuses: Counter[int] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    longest_s: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stop: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Send parts during the block; an error of a camera is raised at its end."""
        with ThreadPoolExecutor(CAMERAS) as pool:
            cameras: list[Future[None]] = [pool.submit(self._send, number) for number in range(CAMERAS)]
            try:
                yield
            finally:
                self._stop.set()
            for camera in cameras:
                camera.result()

    def goes_on(self, count: int = 20) -> None:
        """Wait for further answers."""
        before = len(self.answers)
        wait_for(lambda: len(self.answers) >= before + count, 60)

    def _send(self, number: int) -> None:
        with httpx.Client(headers=self.headers, timeout=60) as client:
            count = 0
            while not self._stop.is_set():
                count += 1
                part = f"{number}-{count}"
                for turn in range(2 if count % 3 == 0 else 1):
                    self._send_part(client, part, number + count + turn)
                self._stop.wait(0.1)

    def _send_part(self, client: httpx.Client, part: str, turn: int) -> None:
        started = time.monotonic()
        while not self._stop.is_set():
            target, turn = self.targets[turn % len(self.targets)], turn + 1
            headers = IMAGE | {"Idempotency-Key": part}
            try:
                answer = client.post(target + INSPECT, params={"part_id": part}, content=GOOD, headers=headers)
            except httpx.TransportError as error:
                with self._lock:
                    self.lost[type(error).__name__] += 1
                self._stop.wait(0.05)
                continue
            with self._lock:
                self.statuses[answer.status_code] += 1
            if answer.status_code == 503:
                assert "retry-after" in answer.headers
                self._stop.wait(0.05)
                continue
            with self._lock:
                self.answers.setdefault(part, []).append(answer.json()["id"])
                self.longest_s = max(self.longest_s, time.monotonic() - started)
            return


def revision_of(url: str) -> str:
    engine = create_engine(url)
    with engine.connect() as connection:
        found: str = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one()
    engine.dispose()
    return found


def modules_of(program: Path) -> list[Path]:
    """Return from where a program imports its packages."""
    code = "import service, plumbline_client as c; print(*service.__path__, *c.__path__, sep='\\n')"
    path = {"PYTHONPATH": os.pathsep.join([str(program), str(program / "client")])}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=program, env=os.environ | path, capture_output=True, check=True, text=True)
    return [Path(line) for line in done.stdout.splitlines()]


def agree(one: Any, other: Any) -> bool:
    """Return whether two JSON values are equal, apart from fields that one of them lacks."""
    if isinstance(one, dict) and isinstance(other, dict):
        return all(agree(one[name], other[name]) for name in one.keys() & other.keys())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(agree, one, other))
    return bool(one == other)


def read(client: httpx.Client, path: str) -> Any:
    response = client.get(path)
    assert response.status_code == 200, response.text
    return response.json()


def use_both(old: ServiceProcess, new: ServiceProcess, headers: dict[str, str]) -> None:
    """Change something through each service, and check that the other one uses it."""
    with ExitStack() as stack:
        clients = [
            stack.enter_context(httpx.Client(base_url=one.url, headers=headers, timeout=60)) for one in (old, new)
        ]
        for number, (changing, other) in enumerate((clients, clients[::-1])):
            revision = change_recipe(changing, 11.0 + number)
            for judging in (changing, other):
                assert judging.post(INSPECT, content=GOOD, headers=IMAGE).json()["recipe_revision"] == revision
            verdict = changing.post(INSPECT, content=GOOD, headers=IMAGE).json()
            assert agree(read(other, verdict["links"]["self"]), verdict)
            review = other.post(f"/v1/inspections/{verdict['id']}:review", json={"label": "good"})
            assert review.status_code == 201, review.text
            assert read(changing, verdict["links"]["self"])["label"] == "good"
            replay = other.post(f"/v1/inspections/{verdict['id']}:replay")
            assert replay.json()["outcome"] == "same", replay.text
        for path in ("/v1/products/widget/recipe/revisions", "/v1/products/widget/bundles", "/v1/audit"):
            first, second = (read(client, path) for client in clients)
            assert agree(first, second), path


def inspections_by_part(client: httpx.Client) -> dict[str, list[str]]:
    """Return the identifiers of all inspections of parts that cameras sent."""
    found: dict[str, list[str]] = {}
    path: str | None = "/v1/inspections?limit=500"
    while path is not None:
        page = read(client, path)
        for item in page["items"]:
            if item["part_id"] is not None:
                found.setdefault(item["part_id"], []).append(item["id"])
        cursor = page["next_cursor"]
        path = None if cursor is None else f"/v1/inspections?limit=500&cursor={cursor}"
    return found


def assert_stored_once(service: ServiceProcess, line: Line) -> None:
    """Check that each part that was answered has one inspection, whichever services its requests reached."""
    with httpx.Client(base_url=service.url, headers=line.headers, timeout=60) as client:
        stored = inspections_by_part(client)
        assert {part: stored[part] for part in line.answers} == {
            part: sorted(set(ids)) for part, ids in line.answers.items()
        }
        assert any(len(ids) > 1 for ids in line.answers.values()), "some parts were answered twice, by one inspection"
        assert max(map(len, stored.values())) == 1
        for ids in list(line.answers.values())[-5:]:
            verdict = read(client, f"/v1/inspections/{ids[0]}")
            for artefact in ("image", "map"):
                assert client.get(verdict["links"][artefact]).status_code == 200


@pytest.mark.may_skip(reason="a checkout without history does not contain the last release")
@pytest.mark.slow
def test_releases_work_side_by_side_during_an_upgrade_and_on_the_way_back(
    tiny_bundle: Bundle,
    tiny_models: Path,
    tmp_path: Path,
    postgres: PostgresServer,
    last_release: Path,
    next_release: Path,
) -> None:
    data = tmp_path / "data"
    record_self_tests([tiny_bundle], data, Settings(provider="cpu"))
    for program in (last_release, next_release):
        assert all(module.is_relative_to(program) for module in modules_of(program)), modules_of(program)
    with ExitStack() as stack:
        url = stack.enter_context(postgres.database())
        old = stack.enter_context(serving(tiny_models, data, url, last_release))
        assert revision_of(url) == LastRelease.read().revision
        wanted = {"name": "line", "scopes": ["inspect", "review", "engineer", "admin"]}
        key = httpx.post(f"{old.url}/v1/access/keys", json=wanted).json()["key"]
        line = Line([old.url], bearer(key))
        with line.running():
            line.goes_on()
            new = stack.enter_context(serving(tiny_models, data, url, next_release))  # migrates
            assert revision_of(url) == LATER
            line.goes_on()
            line.targets = [old.url, new.url]
            line.goes_on()
            use_both(old, new, line.headers)

            # The way back: the old programs, which kept running, go on without the new ones.
            assert new.terminate() == 0
            line.targets = [old.url]
            line.goes_on()

            new = stack.enter_context(serving(tiny_models, data, url, next_release))
            line.targets = [old.url, new.url]
            line.goes_on()
            assert old.terminate() == 0
            line.targets = [new.url]
            line.goes_on()
        assert set(line.statuses) <= {200, 201, 503}, line.statuses
        assert line.lost.total() <= 20 * CAMERAS, line.lost
        assert line.longest_s < LONGEST_GAP_S, line.longest_s
        assert_stored_once(new, line)

        # The present version lacks the migration, and works with the tables nevertheless, also after a start.
        store = Store.open(url, data)
        store.writer.write(make_row())
        assert require_usable_schema(store.engine).is_newer
        with store.engine.connect() as connection:
            colours = connection.execute(text("SELECT colour, count(*) FROM inspections GROUP BY colour")).all()
        store.close()
        assert [(colour, count > len(line.answers)) for colour, count in colours] == [("red", True)]
