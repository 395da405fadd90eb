"""Access to the OPC UA server: what asyncua does not enforce itself.

asyncua accepts unencrypted channels even if only secure policies are configured, and requests of sessions that were
created but not activated. An activation that fails would still attach the connection to the session that it names. It
does not limit attempts to log in.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from asyncua import Server, ua
from asyncua.crypto.permission_rules import User, UserRole
from asyncua.crypto.security_policies import SecurityPolicyNone
from asyncua.server.binary_server_asyncio import BinaryServer, OPCUAProtocol
from asyncua.server.internal_server import InternalServer
from asyncua.server.uaprocessor import UaProcessor

from service.access.errors import TooManyLogins
from service.access.names import comparable
from service.access.throttle import LoginThrottle
from service.host_names import client_of_address
from service.integrations.opcua.options import OpcuaOptions

_Ids = ua.ObjectIds
_CLIENT: ContextVar[str] = ContextVar("client", default="")
"""Identity of the client whose request is processed; the library does not pass it on."""


def _requests(*codes: int) -> frozenset[ua.NodeId]:
    return frozenset(ua.NodeId(code) for code in codes)  # type: ignore[arg-type]  # takes numbers


_DISCOVERY = _requests(_Ids.GetEndpointsRequest_Encoding_DefaultBinary, _Ids.FindServersRequest_Encoding_DefaultBinary)
_ACTIVATE = _requests(_Ids.ActivateSessionRequest_Encoding_DefaultBinary)
_WITHOUT_ACTIVATION = (
    _DISCOVERY
    | _ACTIVATE
    | _requests(
        _Ids.CreateSessionRequest_Encoding_DefaultBinary,
        _Ids.CloseSessionRequest_Encoding_DefaultBinary,
        _Ids.CloseSecureChannelRequest_Encoding_DefaultBinary,
    )
)
# This server is no discovery server.
_REFUSED = _requests(
    _Ids.RegisterServerRequest_Encoding_DefaultBinary, _Ids.RegisterServer2Request_Encoding_DefaultBinary
)


class Users:
    """Decides which clients may activate a session.

    Args:
        options: User, password and trusted certificates.
        on_refused: Is called when a client is refused.
    """

    def __init__(self, options: OpcuaOptions, on_refused: Callable[[], None]) -> None:
        self._options = options
        self._on_refused = on_refused
        self._throttle = LoginThrottle(options.login_attempts, options.login_window_s)

    def get_user(
        self,
        iserver: InternalServer,  # noqa: ARG002 - the interface of asyncua
        username: str | None = None,
        password: str | None = None,
        certificate: Any = None,
    ) -> User | None:
        """Return the user of a session; None if the client is refused.

        Args:
            iserver: The server.
            username: Name of the user; None for an anonymous client.
            password: The password.
            certificate: Certificate (DER) of the client's secure channel, verified by it; None without security.

        Raises:
            BadTooManyOperations: The client tried too often. Whether the password is right is not examined.
        """
        options = self._options
        is_allowed = options.identity is None or certificate is not None
        if options.trusted is not None:
            is_allowed = is_allowed and certificate in options.trusted
        name, client = comparable(username or ""), _CLIENT.get()
        if options.user:
            try:
                self._throttle.count(name, client)
            except TooManyLogins as error:
                self._on_refused()
                raise ua.uaerrors.BadTooManyOperations from error
            is_name = hmac.compare_digest((username or "").encode(), options.user.encode())
            is_password = hmac.compare_digest((password or "").encode(), options.password.encode())
            is_allowed = is_allowed and is_name and is_password
        if not is_allowed:
            self._on_refused()
            return None
        self._throttle.succeed(name, client)
        return User(role=UserRole.User, name=username)


class _Processor(UaProcessor):
    """Checks every request before asyncua processes it."""

    is_security_required = False

    async def _process_message(self, typeid: ua.NodeId, requesthdr: Any, seqhdr: Any, body: Any) -> Any:
        if typeid in _REFUSED:
            raise ua.uaerrors.BadServiceUnsupported
        is_open = isinstance(self._connection.security_policy, SecurityPolicyNone)
        if self.is_security_required and is_open and typeid not in _DISCOVERY:
            raise ua.uaerrors.BadSecurityPolicyRejected
        _CLIENT.set(client_of_address(str(self.name[0])) if self.name else "")
        session = self.session
        if session is not None and not session.is_activated() and typeid not in _WITHOUT_ACTIVATION:
            raise ua.uaerrors.BadSessionNotActivated
        try:
            return await super()._process_message(typeid, requesthdr, seqhdr, body)  # type: ignore[no-untyped-call]
        except BaseException:
            if typeid in _ACTIVATE:
                self.session = session
            raise


class _Protocol(OPCUAProtocol):
    is_security_required = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self.processor is not None and self.transport is not None:
            # The task that uses the processor does not run before this method returns.
            processor = _Processor(self.iserver, self.transport, self.limits)
            processor.is_security_required = self.is_security_required
            processor.set_policies(self.policies)  # type: ignore[no-untyped-call]
            self.processor = processor


class _BinaryServer(BinaryServer):
    is_security_required = False

    def _make_protocol(self) -> OPCUAProtocol:
        protocol = _Protocol(self.iserver, self._policies, self.clients, self.closing_tasks, self.limits)
        protocol.is_security_required = self.is_security_required
        return protocol


class GuardedServer(Server):
    """An OPC UA server that enforces security.

    Args:
        options: The options.
        on_refused: Is called when a client may not activate a session.
    """

    def __init__(self, options: OpcuaOptions, on_refused: Callable[[], None]) -> None:
        super().__init__(user_manager=Users(options, on_refused))  # type: ignore[arg-type]  # has its interface
        self._options = options

    async def start(self) -> None:
        """Listen on the endpoint.

        Raises:
            OSError: The port cannot be used.
        """
        await self._setup_server_nodes()
        await self.iserver.start()
        server = _BinaryServer(self.iserver, self._options.host, self._options.port, self.limits)
        server.is_security_required = self._options.identity is not None
        server.set_policies(self._policies)
        self.bserver = server
        try:
            await server.start()
        except BaseException:
            self.bserver = None
            raise
