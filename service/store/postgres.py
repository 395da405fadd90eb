"""Connections to a PostgreSQL server, what is required of it, and its errors in plain words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import URL, Connection, text

from service.store.advisory_locks import AdvisoryLock
from service.store.schema import session_name

OLDEST_MAJOR = 14
_ENCODING = "UTF8"
# Less than the second after which the server looks for deadlocks: the migration gives way, not an inspection.
_MIGRATION_LOCK_TIMEOUT_MS = 500

# A connection whose peer is gone fails after this time, instead of after the two hours of the operating system.
_KEEPALIVES = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}

# The session's own values, whatever the server, the database or the account has as defaults. Without the time zone,
# times near the end of the calendar could not be converted. A commit that does not wait for the disk could lose a
# returned verdict; a stricter value, for replication, is kept.
# Without just-in-time compilation: it takes 100 to 300 ms, and the server decides for it by an estimate, which is high
# for statements that read almost nothing, such as the few inspections whose clock was set.
_CONFIGURE = """
SELECT set_config('TimeZone', 'UTC', false),
       set_config('statement_timeout', %s, false),
       set_config('lock_timeout', %s, false),
       set_config('jit', 'off', false),
       set_config('synchronous_commit', CASE current_setting('synchronous_commit')
           WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, false)
"""


@dataclass(frozen=True)
class DatabaseOptions:
    """Limits of the connections to a database server.

    Attributes:
        pool_size: Most connections of this process.
        connect_timeout_s: Seconds that a connection may take, and that a thread waits for a free one.
        statement_timeout_s: Seconds that a statement may take.
        lock_timeout_s: Seconds that a statement may wait for a lock.
    """

    pool_size: int = 20
    connect_timeout_s: int = 5
    statement_timeout_s: float = 30.0
    lock_timeout_s: float = 5.0

    def connect_args(self, url: URL) -> dict[str, Any]:
        """Return the parameters of a connection. Those in the query of the URL have priority."""
        own = {
            "connect_timeout": self.connect_timeout_s,
            "application_name": session_name(),
            "client_encoding": "utf8",
            **_KEEPALIVES,
        }
        return {name: value for name, value in own.items() if name not in url.query}

    def configure(self, connection: Any, _record: Any = None) -> None:
        """Set the values of a new session.

        Args:
            connection: The connection of psycopg.
            _record: The entry of the pool.
        """
        timeouts = [str(round(1000 * seconds)) for seconds in (self.statement_timeout_s, self.lock_timeout_s)]
        # In autocommit mode: the pool rolls connections back, which would revert the values.
        connection.autocommit = True
        connection.execute(_CONFIGURE, timeouts)
        connection.autocommit = False


@dataclass(frozen=True)
class Server:
    """What a connection reports about the server and the database.

    Attributes:
        version: The version, such as "15.18".
        version_number: The version as a number, such as 150018.
        encoding: Encoding of the database.
        is_standby: Whether it only replicates another server.
        is_read_only: Whether transactions of this user only read.
        is_durable: Whether commits survive a power failure of the server.
        time_zone: Time zone of the session.
        may_create: Whether the user may create tables, which migrations do.
    """

    version: str
    version_number: int
    encoding: str
    is_standby: bool
    is_read_only: bool
    is_durable: bool
    time_zone: str
    may_create: bool

    @classmethod
    def of(cls, connection: Connection) -> Server:
        """Ask the server."""
        query = """
            SELECT current_setting('server_version'), current_setting('server_version_num')::int,
                   pg_encoding_to_char(encoding), pg_is_in_recovery(),
                   current_setting('default_transaction_read_only') = 'on', current_setting('fsync') = 'on',
                   current_setting('TimeZone'),
                   coalesce(has_schema_privilege(current_schema(), 'CREATE'), false)
            FROM pg_database WHERE datname = current_database()
        """
        return cls(*connection.execute(text(query)).one())

    def problems(self) -> Iterator[str]:
        """Yield why the database cannot be used, in words that follow the name of the database."""
        if self.version_number < OLDEST_MAJOR * 10_000:
            yield f"is on PostgreSQL {self.version}, and version {OLDEST_MAJOR} or newer is needed"
        if self.encoding != _ENCODING:
            yield f"has the encoding {self.encoding}; create it with ENCODING 'UTF8' TEMPLATE template0"

    def write_problems(self) -> Iterator[str]:
        """Yield why nothing can be written, in words that follow the name of the database."""
        if self.is_standby:
            yield "is on a standby server, which can only be read; use the address of the primary server"
        elif self.is_read_only:
            yield "is read-only for this user (default_transaction_read_only)"

    def warnings(self) -> Iterator[str]:
        """Yield what works and should be changed nevertheless."""
        if not self.may_create:
            yield (
                "the user may not create tables, which this or a later version does when it starts; run GRANT USAGE, "
                "CREATE ON SCHEMA public TO the user, or make the user the owner of the database"
            )
        if not self.is_durable:
            yield "the server runs with fsync=off, so a power failure can destroy the database"
        if self.time_zone != "UTC":
            yield (
                f"sessions have the time zone {self.time_zone} although UTC was set: a connection pooler between "
                "service and server discards the settings of sessions; use session pooling, or no pooler"
            )


def lock_for_migration(connection: Connection) -> None:
    """Make other processes that open the same database wait until this transaction ends.

    A migration of many rows takes longer than other statements may take. Its statements wait only briefly for a lock,
    because the statements of running services wait behind them.
    """
    connection.execute(text("SET LOCAL statement_timeout = 0"))
    connection.execute(text("SET LOCAL lock_timeout = 0"))
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": AdvisoryLock.MIGRATION.value})
    connection.execute(text(f"SET LOCAL lock_timeout = {_MIGRATION_LOCK_TIMEOUT_MS}"))


# By SQLSTATE; by its first two characters, the class, if there is no entry for all five.
_REASONS = {
    "08": "the connection to the server was lost",
    "22": "a value does not fit its column",
    "25006": "it is read-only",
    "28": "the server refuses the user or the password",
    "3D000": "the server has no such database",
    "40": "concurrent changes conflict",
    "42501": "the user lacks a permission",
    "42": "its tables do not fit this version",
    "53100": "the disk of the server is full",
    "53300": "the server accepts no more connections",
    "53": "the server has too few resources",
    "55P03": "it is locked by another transaction",
    "57014": "the statement took longer than PLUMBLINE_DATABASE_STATEMENT_TIMEOUT_S",
    "57": "the server is stopping or starting",
    "58": "the disk of the server reports an error",
    "XX001": "it is damaged",
    "XX002": "it is damaged",
    "XX": "the server reports an internal error",
}

# A refused connection has no SQLSTATE. These are words of libpq and of servers that report in English.
_CONNECTION_REASONS = (
    ("could not translate host name", "the name of the server cannot be resolved"),
    ("failed to resolve host", "the name of the server cannot be resolved"),
    ("name or service not known", "the name of the server cannot be resolved"),
    ("connection refused", "no server listens there"),
    ("timeout expired", "the server does not respond"),
    ("connection timeout", "the server does not respond"),
    ("timed out", "the server does not respond"),
    ("authentication failed", "the server refuses the user or the password"),
    ("no password supplied", "the server requires a password"),
    ("no pg_hba.conf entry", "the server does not allow this user to connect from here (pg_hba.conf)"),
    ("too many clients", "the server accepts no more connections"),
    ("too many connections", "the server accepts no more connections"),
    ("remaining connection slots", "the server accepts no more connections"),
    ("the database system is", "the server is stopping or starting"),
    ("does not exist", "the server has no such database or user"),
    ("certificate", "the certificate of the server is not accepted"),
)


def reason_of_server(error: Any, *, is_disconnected: bool) -> str:
    """Return why the server failed.

    Args:
        error: The error of psycopg.
        is_disconnected: Whether the connection cannot be used any more.
    """
    state = getattr(error, "sqlstate", None)
    if state is not None:
        return _REASONS.get(state) or _REASONS.get(state[:2], "it reports an error; see the log")
    message = str(error).lower()
    for words, reason in _CONNECTION_REASONS:
        if words in message:
            return reason
    if is_disconnected:
        return _REASONS["08"]
    if type(error).__name__ == "DataError":  # a value that psycopg does not even send
        return _REASONS["22"]
    return "the server does not respond or refuses the connection; see the log"
