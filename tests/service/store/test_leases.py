"""Jobs that one of several processes does. `test_outbox` has the leases of sinks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, create_engine, text

from service.store.advisory_locks import job_lock
from service.store.leases import Leases


@pytest.fixture
def engine(postgres_url: str) -> Iterator[Engine]:
    engine = create_engine(postgres_url)
    yield engine
    engine.dispose()


@pytest.mark.slow
def test_server_looks_for_a_machine_that_does_not_respond(engine: Engine) -> None:
    leases = Leases(engine, job_lock)
    assert leases.hold(["a job"]) == {"a job"}
    connection = leases._connection
    assert connection is not None
    limits = [
        int(str(connection.scalar(text(f"SELECT current_setting('tcp_keepalives_{name}')"))).removesuffix("s"))
        for name in ("idle", "interval", "count")
    ]
    # Until the server ends the session of a machine that is gone, and until another process asks again.
    assert 0 < limits[0] + limits[1] * limits[2] + 3 < 10
    leases.release()
