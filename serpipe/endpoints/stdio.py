"""`stdio:` (also `-`): this process's own standard input and output.

Theory of operation
-------------------
Both descriptors are shared with the shell that started us, so their flags are never changed: terminals and pipes are
opened again through /proc/self/fd, sockets are used with MSG_DONTWAIT, everything else is read and written by worker
threads. A standard input that is /dev/null or closed is no input at all, and not an end: `serpipe - tcp:...` under a
service manager goes on. Sending Eof closes the standard output, so that a reader behind a pipe sees the end.
"""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from dataclasses import dataclass
from typing import ClassVar

import trio

from serpipe._fdio import FdIO, Threaded, own_description
from serpipe.endpoints.base import Caps, Context, Endpoint, EndpointSpec
from serpipe.errors import EndpointLost, describe_os_error
from serpipe.registry import endpoint


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _takes_output(fd: int) -> bool:
    """Whether `fd` can be written; where standard output was closed, the command line has put a read-only one there."""
    return _is_open(fd) and fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY


def is_no_input(fd: int) -> bool:
    """Whether nothing can ever be read from `fd`: it is closed, or /dev/null."""
    if not _is_open(fd):
        return True
    found = os.fstat(fd)
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == os.stat(os.devnull).st_rdev


class StdioEndpoint(Endpoint):
    """Standard input to read, standard output to write."""

    caps = Caps(half_close=True)

    def __init__(self, stdin: int | None, stdout: int | None) -> None:
        super().__init__("stdio")
        self._own: list[int] = []
        self._sockets: list[socket.socket] = []
        self._in = self._io(stdin, os.O_RDONLY) if stdin is not None and not is_no_input(stdin) else None
        self.silent = self._in is None
        self._out = self._io(stdout, os.O_WRONLY) if stdout is not None and _takes_output(stdout) else None
        self._stdout = stdout

    def _io(self, fd: int, flags: int) -> FdIO | Threaded:
        own = own_description(fd, flags)
        if own is not None:
            self._own.append(own)
            return FdIO.of_fd(own)
        if stat.S_ISSOCK(os.fstat(fd).st_mode):
            sock = socket.socket(fileno=os.dup(fd))
            self._sockets.append(sock)
            dontwait = socket.MSG_DONTWAIT
            return FdIO(sock.fileno(), lambda size: sock.recv(size, dontwait), lambda data: sock.send(data, dontwait))
        return Threaded(fd)

    def _take(self) -> bytes | None:
        return self._in.take() if self._in is not None else None

    async def _wait(self) -> None:
        if self._in is None:
            await trio.sleep_forever()
        else:
            await self._in.wait_readable()

    async def _send_bytes(self, data: bytes) -> None:
        if self._out is None:
            raise EndpointLost("stdio", "standard output is closed")
        try:
            await self._out.write_all(data)
        except OSError as error:
            cause, cure = describe_os_error(error)
            raise EndpointLost("stdio", f"standard output: {cause}", cure) from error

    async def _send_eof(self) -> None:
        if self._out is None or self._stdout is None:
            return
        for sock in self._sockets:
            if sock.fileno() == self._out.fd:
                sock.shutdown(socket.SHUT_WR)
        if self._out.fd in self._own:
            self._drop(self._out.fd)
        self._out = None
        # the name stays taken, by /dev/null, so that no later file becomes descriptor 1 and gets what is printed
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self._stdout)
        os.close(null)

    def _drop(self, fd: int) -> None:
        self._own.remove(fd)
        trio.lowlevel.notify_closing(fd)
        os.close(fd)

    def discard(self) -> int:
        return self._out.discard() if self._out is not None else 0

    async def aclose(self) -> None:
        """Close what was opened again; the process's own descriptors are left as they were."""
        for fd in list(self._own):
            self._drop(fd)
        for sock in self._sockets:
            if sock.fileno() >= 0:
                trio.lowlevel.notify_closing(sock)
                sock.close()
        await super().aclose()


@endpoint("stdio", summary="this process's standard input and output", example="-")
@dataclass(frozen=True, kw_only=True)
class Stdio(EndpointSpec):
    """Reads standard input and writes standard output; `-` is the short form.

    A standard input that is closed, or /dev/null, is no input at all, and does not end the chain.
    """

    caps: ClassVar[Caps] = Caps(half_close=True, held=True)

    def describe(self) -> str:
        """``stdio``."""
        return "stdio"

    async def open(self, nursery: trio.Nursery, context: Context) -> StdioEndpoint:
        """Never fails: what is closed gives nothing, or is an error when it is written."""
        return StdioEndpoint(0 if context.reads else None, 1 if context.writes else None)
