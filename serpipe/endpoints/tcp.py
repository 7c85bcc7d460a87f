"""`tcp:` and `tcp-listen:`: plain TCP, with nothing between the bytes and the wire.

Theory of operation
-------------------
A client connects to each address a name has (RFC 8305, by trio) and keeps the first that answers; a listener stands on
every address its own name has, loopback unless told otherwise, and binds all of them before it says that it stands. Both
set TCP_NODELAY, since a serial protocol is made of small writes that must not wait for each other's acknowledgement, and
keep-alive, since a half-open connection would otherwise never be noticed. What comes from the far end is `bytes`; its
FIN is `Eof`, ours is sent by `send(Eof())`.
"""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass
from typing import Any, ClassVar

import trio

from serpipe._fdio import FdIO
from serpipe.endpoints.base import Caps, Context, Endpoint, EndpointSpec, FdEndpoint, Listener, ListenOptions
from serpipe.errors import BadValue, OpenFailed, TimedOut, leaves, open_failed
from serpipe.options import ADDRESS, DURATION, FLAG, TEXT, integer, opt, optional
from serpipe.registry import endpoint

LOOPBACK = "127.0.0.1"


def format_address(address: tuple[Any, ...]) -> str:
    """``127.0.0.1:4000`` or ``[::1]:4000``."""
    host, port = address[0], address[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def set_options(sock: trio.socket.SocketType | socket.socket, nodelay: bool, keepalive: float | str) -> None:
    """TCP_NODELAY and keep-alive: probes after `keepalive` seconds of silence, three of them, then the link is dead."""
    if nodelay:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if keepalive != "off":
        seconds = max(1, round(float(keepalive)))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (("TCP_KEEPIDLE", seconds), ("TCP_KEEPINTVL", seconds), ("TCP_KEEPCNT", 3)):
            if hasattr(socket, name):  # macOS spells the first one TCP_KEEPALIVE and does without
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class TcpEndpoint(FdEndpoint):
    """One connection."""

    caps = Caps(half_close=True, raw_fd=True)

    def __init__(self, name: str, sock: socket.socket) -> None:
        super().__init__(name, FdIO.of_socket(sock))
        self._sock = sock

    async def _send_eof(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            if error.errno != errno.ENOTCONN:  # the peer has closed already: there is nobody left to tell
                raise

    def gone(self) -> bool:
        try:
            return self._sock.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    async def aclose(self) -> None:
        """Close the connection. What the kernel still has to send goes out; what came unread is dropped."""
        if self._sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()
        await super().aclose()


@dataclass(frozen=True, kw_only=True)
class TcpOptions:
    """What a connection and a listener share."""

    nodelay: bool = opt(True, FLAG, "send small writes at once (TCP_NODELAY)")
    keepalive: float | str = opt(
        10.0, optional(DURATION, "off"), "probe a silent peer after this long, and give it up after three probes more"
    )


@endpoint("tcp", summary="a TCP connection", example="tcp:lab3:4000")
@dataclass(frozen=True, kw_only=True)
class Tcp(TcpOptions, EndpointSpec):
    """Connects to HOST:PORT over IPv4 or IPv6, trying each address that the name has.

    PORT alone means this machine. An IPv6 address stands in brackets, or in host=: tcp:5000,host=::1
    """

    caps: ClassVar[Caps] = Caps(half_close=True, raw_fd=True)

    address: tuple[str | None, int] = opt(None, ADDRESS, "where to connect", body=True, required=True)
    host: str | None = opt(None, TEXT, "the host, where it is not in the body; an IPv6 address needs no brackets here")
    bind: str | None = opt(None, TEXT, "connect from this local address")
    connect_timeout: float = opt(10.0, DURATION, "give up connecting after this long")

    def __post_init__(self) -> None:
        if self.host is not None and self.address[0] is not None:
            raise BadValue("the host stands before the port already", "host")

    @property
    def target(self) -> tuple[str, int]:
        """(host, port)."""
        return self.host or self.address[0] or LOOPBACK, self.address[1]

    def describe(self) -> str:
        """``tcp lab3:4000``."""
        return "tcp " + format_address(self.target)

    async def open(self, nursery: trio.Nursery, context: Context) -> TcpEndpoint:
        """Connect. Raises OpenFailed (refused, unresolved, unreachable), TimedOut."""
        name = self.describe()
        host, port = self.target
        stream = None
        try:
            with trio.move_on_after(self.connect_timeout):
                stream = await trio.open_tcp_stream(host, port, local_address=self.bind)
        except (OSError, ValueError) as error:
            raise _connect_failed(name, error) from error
        if stream is None:
            raise TimedOut(
                name,
                f"no answer within {self.connect_timeout:g} s",
                "the host is down or a firewall drops the packets; connect-timeout= waits longer",
            )
        sock = socket.socket(fileno=stream.socket.detach())
        try:
            peer = format_address(sock.getpeername())
            set_options(sock, self.nodelay, self.keepalive)
        except OSError as error:  # it accepted, and reset at once
            sock.close()
            raise open_failed(name, ConnectionResetError(errno.ECONNRESET, "")) from error
        made = TcpEndpoint(name, sock)
        made.title, made.where = f"tcp {peer}", peer
        return made


def _connect_failed(name: str, error: BaseException) -> OpenFailed:
    """trio wraps the failures of all the addresses; the reasons are in the leaves of the cause."""
    causes = [e for e in leaves(error.__cause__ or error) if isinstance(e, OSError)]
    if not causes:
        return OpenFailed(name, str(error))
    return open_failed(name, causes[0])


class TcpListener(Listener):
    """Stands on one or more addresses."""

    def __init__(self, name: str, listeners: list[trio.SocketListener], options: TcpOptions) -> None:
        self._listeners = listeners
        self._options = options
        self._to_clients, self._clients = trio.open_memory_channel[trio.SocketStream](0)
        self.name = name
        bound = [sock.socket.getsockname() for sock in listeners]
        self.where = format_address(bound[0])
        local = all(address[0] in (LOOPBACK, "::1") for address in bound)
        self.title = "listening on " + " ".join(map(format_address, bound)) + (" (this machine only)" if local else "")

    async def serve(self) -> None:
        """Accept on all addresses, until cancelled."""
        async with trio.open_nursery() as nursery:
            for listener in self._listeners:
                nursery.start_soon(self._accept_on, listener)

    async def _accept_on(self, listener: trio.SocketListener) -> None:
        while True:
            try:
                stream = await listener.accept()
            except trio.ClosedResourceError:
                return
            except OSError:
                # accept(2): out of descriptors or memory, or this one client's connection broke: accepting goes on
                await trio.sleep(0.1)
                continue
            try:
                await self._to_clients.send(stream)
            except (trio.ClosedResourceError, trio.BrokenResourceError):
                stream.socket.close()  # accepted, and there is nobody left to serve it
                return
            except BaseException:
                stream.socket.close()
                raise

    async def accept(self) -> Endpoint:
        """The next client."""
        while True:
            stream = await self._clients.receive()
            sock = socket.socket(fileno=stream.socket.detach())
            try:
                peer = format_address(sock.getpeername())
                set_options(sock, self._options.nodelay, self._options.keepalive)
            except OSError:  # gone before it was accepted
                sock.close()
                continue
            client = TcpEndpoint(f"client {peer}", sock)
            client.title = client.name
            client.where = peer
            return client

    async def aclose(self) -> None:
        """Stop listening; clients that were not accepted yet are dropped."""
        for listener in self._listeners:
            listener.socket.close()
        self._to_clients.close()
        await trio.lowlevel.checkpoint()


@endpoint("tcp-listen", summary="a TCP server, for one client or many", example="tcp-listen:4000")
@dataclass(frozen=True, kw_only=True)
class TcpListen(ListenOptions, TcpOptions, EndpointSpec):
    """Listens on PORT of this machine only, or on HOST:PORT.

    0.0.0.0 is every IPv4 address of this machine, [::] every IPv6 one, and host=* both. Port 0 takes a free one and
    prints it.
    """

    caps: ClassVar[Caps] = Caps(half_close=True, listens=True, raw_fd=True)

    address: tuple[str | None, int] = opt(None, ADDRESS, "where to listen", body=True, required=True)
    host: str | None = opt(None, TEXT, "the address, where it is not in the body")
    backlog: int = opt(128, integer(1, 65535), "clients that may wait to be accepted")

    def __post_init__(self) -> None:
        if self.host is not None and self.address[0] is not None:
            raise BadValue("the address stands before the port already", "host")

    @property
    def target(self) -> tuple[str, int]:
        """(address, port)."""
        return self.host or self.address[0] or LOOPBACK, self.address[1]

    def describe(self) -> str:
        """``tcp-listen 127.0.0.1:4000``."""
        return "tcp-listen " + format_address(self.target)

    async def listen(self, nursery: trio.Nursery, context: Context) -> TcpListener:
        """Bind and listen. Raises OpenFailed (in use, not permitted, not our address)."""
        host, port = self.target
        try:
            listeners = await trio.open_tcp_listeners(port, host=None if host == "*" else host, backlog=self.backlog)
        except PermissionError as error:
            cure = "ports below 1024 are for root: choose a higher one"
            raise OpenFailed(self.describe(), "permission denied", cure) from error
        except OSError as error:
            raise open_failed(self.describe(), error) from error
        listener = TcpListener(self.describe(), listeners, self)
        nursery.start_soon(listener.serve)
        return listener
