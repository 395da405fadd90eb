"""Access control of a running service: who sends a request."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from typing import TypeVar

import structlog
from sqlalchemy import Engine

from service.access import accounts, keys
from service.access.cache import CredentialCache, Identity
from service.access.changes import AccessChanges
from service.access.errors import (
    AccessNotConfigured,
    LoginFailed,
    NoSession,
    NotAuthenticated,
    TooManyLogins,
    WrongPassword,
)
from service.access.failed_logins import FailedLogins
from service.access.key_uses import KeyUses
from service.access.names import comparable
from service.access.principal import Role
from service.access.sessions import NewSession, SessionLimits, start_session, verify_session
from service.access.shared_throttle import make_throttle
from service.errors import PlumblineError
from service.settings import Settings
from service.store.access import delete_session, delete_sessions, has_credentials
from service.store.access_records import AccountRecord, KeyRecord
from service.store.audit import SERVICE, Actor, AuditEntry, record_change
from service.store.errors import StoreUnavailable

log = structlog.get_logger(__name__)

POLL_S = 0.5
_STOP_S = 5.0
_CHECK_THREADS = 2
# Each check of a password takes tens of MiB of memory and of milliseconds.
_LOGIN_THREADS = 2
_MAX_WAITING_LOGINS = 16
ResultT = TypeVar("ResultT")


class AccessControl:
    """Keys, accounts and sessions of a running service.

    As long as there is neither a key nor an account, no credentials are needed. A key or an account that another
    process creates, such as `plumbline key create`, is noticed within `POLL_S`.

    Args:
        settings: Host, and limits of log-ins and sessions.
        engine: The database.

    Attributes:
        is_required: Whether requests need credentials. It never becomes false again: revoking the last key does not
            open the service.
        changes: Changes by other processes.

    Raises:
        StoreUnavailable: The database cannot be read.
    """

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self.is_required = has_credentials(engine)
        self._settings = settings
        self._engine = engine
        self._cache = CredentialCache()
        self.changes = AccessChanges(engine, self._cache, self._require)
        self._limits = SessionLimits(
            timedelta(seconds=settings.session_idle_s), timedelta(seconds=settings.session_lifetime_s)
        )
        self._throttle = make_throttle(engine, settings.login_attempts, settings.login_window_s)
        self._failed_logins = FailedLogins(engine)
        # Apart from each other, so that a flood of wrong keys does not delay the keys that are in use.
        self._first_checks = ThreadPoolExecutor(_CHECK_THREADS, thread_name_prefix="access-first")
        self._checks = ThreadPoolExecutor(_CHECK_THREADS, thread_name_prefix="access")
        self._logins = ThreadPoolExecutor(_LOGIN_THREADS, thread_name_prefix="log-in")
        self._waiting_logins = 0
        self._key_uses = KeyUses(engine, self._checks)
        self._is_start_recorded = not self.is_insecure
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="access-watch", daemon=True)

    @property
    def is_insecure(self) -> bool:
        """Whether requests from the network are accepted without credentials (`PLUMBLINE_INSECURE`)."""
        return self._settings.insecure and not self.is_required

    def require_safe_binding(self) -> None:
        """Check that the service is not open to the network by mistake, and log how access is controlled.

        Raises:
            AccessNotConfigured: The host is not the loopback interface, there are no credentials, and
                `PLUMBLINE_INSECURE` is not set.
        """
        if self.is_insecure:
            log.warning(
                "access control is off: everyone who reaches the port may do everything (PLUMBLINE_INSECURE)",
                host=self._settings.host,
                remedy="Create a key with `plumbline key create`, and unset PLUMBLINE_INSECURE.",
            )
        elif self._settings.insecure:
            log.warning("PLUMBLINE_INSECURE has no effect: there are keys or accounts, so requests need credentials")
        elif not self.is_required and not self._settings.is_loopback:
            raise AccessNotConfigured(self._settings.host)

    def start(self) -> None:
        """Start to watch for the first key or account, and record a start without access control."""
        self._record_start()
        self._thread.start()

    def close(self) -> None:
        """Stop all threads."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_S)
        for executor in (self._first_checks, self._checks, self._logins):
            executor.shutdown()

    def require_local(self, *, is_local: bool) -> None:
        """Check that a request without credentials comes from this machine.

        A reverse proxy on this machine makes requests of others arrive from the loopback interface. The address that it
        reports shows them.

        Args:
            is_local: Whether the client is on this machine.

        Raises:
            NotAuthenticated: It comes from elsewhere.
        """
        if not self._settings.insecure and not is_local:
            raise NotAuthenticated(
                "The service has no API key and no account yet, so it accepts requests from its own machine only."
            )

    async def identify_key(self, key: str) -> Identity:
        """Return the identity of an API key.

        Raises:
            InvalidKey: It is not known, was revoked, or has expired.
            StoreUnavailable: The database cannot be read.
        """
        identity = await self._identify(f"key {key}", lambda known: keys.verify_key(self._engine, key, known))
        if identity.has_expired:
            assert identity.expires_at is not None
            raise keys.expired(identity.principal.name, identity.expires_at)
        return identity

    async def identify_session(self, token: str, *, is_background: bool = False) -> Identity:
        """Return the identity of a session.

        Args:
            token: The value of the session cookie.
            is_background: The request was sent by a page on its own, so it does not keep the session from ending.

        Raises:
            NotAuthenticated: There is no such session, or it has ended.
            StoreUnavailable: The database cannot be read.
        """
        # Cached apart from each other: a request of the person is recorded although the page was refreshed just before.
        name = f"{'background' if is_background else 'session'} {token}"
        return await self._identify(
            name, lambda _: verify_session(self._engine, token, self._limits, is_background=is_background)
        )

    async def log_in(self, name: str, password: str, client: str, sender: Actor) -> NewSession:
        """Check a password and start a session.

        Args:
            name: Name of the account.
            password: The password.
            client: Identity of the client, for the limit of attempts.
            sender: From where the request comes, for the audit log.

        Raises:
            LoginFailed: Name or password is wrong, or the account is disabled.
            TooManyLogins: There were too many attempts.
            StoreUnavailable: The database cannot be used.
        """
        session = await self._with_password(name, client, lambda: self._log_in(name, password, sender))
        if session is None:
            # The response does not wait for the entry: the time must not depend on whether there is such an account.
            self._logins.submit(self._failed_logins.record, name, sender)
            raise LoginFailed
        self._require("another process created an account")
        return session

    async def change_own_password(
        self, identity: Identity | None, current: str, new: str, client: str, actor: Actor
    ) -> None:
        """Set a new password for the account of a session, and end its other sessions.

        Args:
            identity: The verified session of the request.
            current: The current password.
            new: The new password.
            client: Identity of the client, for the limit of attempts.
            actor: The account.

        Raises:
            NoSession: The request has no session.
            WrongPassword: The current password is wrong.
            AccountRefused: The new password is too weak.
            TooManyLogins: There were too many attempts.
            StoreUnavailable: The database cannot be used.
        """
        if identity is None or identity.token_hash is None:
            raise NoSession
        name, session = identity.principal.name, identity.token_hash
        change = partial(accounts.change_own_password, self._engine, name, current, new, actor, kept_session=session)
        try:
            is_changed = await self._with_password(name, client, change)
        finally:
            self._cache.drop(identity.principal.id)
        if not is_changed:
            self._logins.submit(self._failed_logins.record, name, actor)
            raise WrongPassword

    async def log_out(self, identity: Identity | None, actor: Actor, *, everywhere: bool) -> None:
        """End the session of a request, or all sessions of its account.

        Raises:
            NoSession: The request has no session.
            StoreUnavailable: Nothing was ended.
        """
        if identity is None or identity.token_hash is None:
            raise NoSession
        token_hash, account = identity.token_hash, identity.principal.id
        if everywhere:
            end: Callable[[], object] = lambda: delete_sessions(self._engine, account, actor)  # noqa: E731
        else:
            end = lambda: delete_session(self._engine, token_hash)  # noqa: E731
        try:
            await asyncio.wrap_future(self._checks.submit(end))
        finally:
            self._cache.drop(account)

    def list_accounts(self) -> Sequence[AccountRecord]:
        """Return all accounts by name, disabled ones included.

        Raises:
            StoreUnavailable: The database cannot be read.
        """
        return accounts.all_accounts(self._engine)

    def create_account(self, name: str, role: Role, password: str, actor: Actor) -> AccountRecord:
        """Create an account. From then on, requests need credentials.

        Raises:
            AccountRefused, AccountExists: The name is not valid or taken, or the password is too weak.
            StoreUnavailable: It was not stored.
        """
        created = accounts.create_account(self._engine, name, role, password, actor)
        self._require("an account was created")
        return created

    def change_account(self, account: str, change: Callable[[Engine, str], AccountRecord]) -> AccountRecord:
        """Change an account. What it may do changes with its next request.

        Args:
            account: Its id or its name.
            change: A function of `service.access.accounts`; called with the database and the name of the account.

        Raises:
            UnknownAccount: There is no such account.
            AccountRefused, LastAdmin: The change is not possible.
            StoreUnavailable: Nothing was changed.
        """
        found = accounts.account_of(self._engine, account)
        try:
            return change(self._engine, found.name)
        finally:
            self._cache.drop(found.id)

    def create_key(self, grant: keys.Grant, actor: Actor) -> keys.NewKey:
        """Create a key. From then on, requests need credentials.

        Raises:
            InvalidGrant: The name is reserved, or scopes, restriction and expiry do not fit together.
            KeyExists: A valid key has the name.
            StoreUnavailable: It was not stored.
        """
        created = keys.create_key(self._engine, grant, actor)
        self._require("a key was created")
        return created

    def list_keys(self) -> list[KeyRecord]:
        """Return all keys, newest first.

        Raises:
            StoreUnavailable: The database cannot be read.
        """
        return list(keys.all_keys(self._engine))

    def revoke_key(self, key: str, actor: Actor) -> KeyRecord:
        """Revoke a key by its id or its name. It is refused from the next request on.

        Raises:
            UnknownKey: There is no such key, or several have the name.
            StoreUnavailable: It was not revoked.
        """
        record = keys.revoke(self._engine, key, actor)
        self._cache.drop(record.id)
        return record

    async def _identify(self, credential: str, check: Callable[[Identity | None], Identity]) -> Identity:
        digest = self._cache.digest(credential)
        identity = self._cache.get(digest)
        if identity is not None and not identity.has_expired:
            return identity
        known = self._cache.verified(digest)
        executor = self._first_checks if known is None else self._checks
        return await asyncio.wrap_future(executor.submit(self._check, digest, check, known))

    def _check(self, digest: bytes, check: Callable[[Identity | None], Identity], known: Identity | None) -> Identity:
        begun = self._cache.begin()
        try:
            identity = check(known)
        except StoreUnavailable:
            # Without the database nothing can be revoked either, and the metrics of a service in trouble are needed.
            if known is None or known.has_expired:
                raise
            identity = known
        except PlumblineError:
            self._cache.forget(digest)
            raise
        self._cache.put(begun, digest, identity)
        if identity.principal.kind == "key":
            self._key_uses.record(identity.principal.id)
        return identity

    async def _with_password(self, name: str, client: str, check: Callable[[], ResultT]) -> ResultT:
        """Count an attempt, and run the function that checks the password on a thread for log-ins.

        A true result of the function takes the attempt back.

        Raises:
            TooManyLogins: There were too many attempts, or too many passwords wait to be checked.
        """
        self._require_place()
        # Not on the threads that check passwords, and without a place: attempts over the limit delay nobody.
        await asyncio.wrap_future(self._first_checks.submit(self._count_login, comparable(name), client))
        self._require_place()  # others may have taken the last one
        self._waiting_logins += 1
        try:
            result = await asyncio.wrap_future(self._logins.submit(check))
            if result:
                await asyncio.wrap_future(self._logins.submit(self._throttle.succeed, comparable(name), client))
            return result
        finally:
            self._waiting_logins -= 1

    def _require_place(self) -> None:
        if self._waiting_logins >= _MAX_WAITING_LOGINS:
            raise TooManyLogins(1.0)

    def _count_login(self, name: str, client: str) -> None:
        # A new password of the account ends the limit.
        self._throttle.observe(name, accounts.password_hash_of(self._engine, name))
        self._throttle.count(name, client)

    def _log_in(self, name: str, password: str, sender: Actor) -> NewSession | None:
        account = accounts.check_password(self._engine, name, password)
        return None if account is None else start_session(self._engine, account, self._limits, sender)

    def _record_start(self) -> None:
        """Record a start without access control, unless it is recorded already."""
        if self._is_start_recorded:
            return
        try:
            entry = AuditEntry(SERVICE, "service:insecure-start", after={"host": self._settings.host})
            record_change(self._engine, entry)
            self._is_start_recorded = True
        except StoreUnavailable as error:
            log.debug("start without access control not recorded yet", reason=error.reason)

    def _require(self, why: str) -> None:
        if not self.is_required:
            self.is_required = True
            log.info("requests need credentials from now on", reason=why)

    def _watch(self) -> None:
        while not self.is_required and not self._stop.wait(POLL_S):
            try:
                self._record_start()
                if has_credentials(self._engine):
                    self._require("another process created a key or an account")
            except StoreUnavailable as error:
                log.debug("keys not read", reason=error.reason)
            except Exception:  # the thread must survive any error
                log.exception("keys not read")
