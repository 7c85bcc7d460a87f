"""Non-blocking reads and writes on a file descriptor or a socket: the one loop under every endpoint.

Theory of operation
-------------------
trio's own streams take a full checkpoint for each call (3.4 us) and turn a pty's EIO into a broken resource. Here a read
or write is tried first and waited for only on EAGAIN; a checkpoint is taken every `TURNS` calls, so that other tasks and
cancellation get in. A read that is cancelled has taken nothing. A write that is cancelled, or cut short by `discard()`,
leaves what it had not yet handed to the kernel in `unsent`.

Descriptors that are shared with other processes (a terminal on stdin, a pipe on stdout) must not be made non-blocking:
the flag belongs to the open file description, and the parent shell would get EAGAIN. `own_description()` reopens
them through /proc/self/fd, which gives a description of our own; where that cannot be done, and for regular files, which
no poll ever reports as busy, the calls go through a worker thread (`Threaded`).
"""

from __future__ import annotations

import errno
import os
import select
import socket
import stat
import threading
from collections import deque
from collections.abc import Callable

import trio

TURNS = 32
LEAST, MOST = 65536, 262144
"""Bytes that one read asks for."""


class FdIO:
    """Non-blocking bytes in and out of one descriptor. Does not own it: whoever made the fd closes it.

    One reader task and one writer task at a time; a second raises `trio.BusyResourceError`.
    """

    def __init__(self, fd: int, read: Callable[[int], bytes], write: Callable[[memoryview], int]) -> None:
        self.fd = fd
        self._read = read
        self._write = write
        self._turn = 0
        self._size = LEAST
        self._rest = memoryview(b"")
        self._wait_write: trio.CancelScope | None = None
        self.eof = False

    @classmethod
    def of_fd(cls, fd: int) -> FdIO:
        """Over a descriptor that is, or may be made, non-blocking."""
        os.set_blocking(fd, False)
        return cls(fd, lambda size: os.read(fd, size), lambda data: os.write(fd, data))

    @classmethod
    def of_socket(cls, sock: socket.socket) -> FdIO:
        """Over a connected socket."""
        sock.setblocking(False)
        return cls(sock.fileno(), sock.recv, sock.send)

    def take(self) -> bytes | None:
        """What can be read at once: bytes, b"" at the end, None when nothing is there yet. Raises OSError."""
        try:
            data = self._read(self._size)
        except (BlockingIOError, InterruptedError):
            return None
        # a bulk transfer is read in larger pieces; a quiet line does not pay for a buffer it never fills
        if len(data) == self._size:
            self._size = min(2 * self._size, MOST)
        elif len(data) < LEAST < self._size:
            self._size = LEAST
        return data

    async def wait_readable(self) -> None:
        """Until `take()` has something to say. Cancellation loses nothing."""
        await trio.lowlevel.wait_readable(self.fd)

    def broken(self) -> OSError | None:
        """The error that waits behind what can still be read: a connection that was reset. Nothing is read."""
        poll = select.poll()
        poll.register(self.fd, 0)
        events = dict(poll.poll(0)).get(self.fd, 0)
        if events & select.POLLERR and events & select.POLLHUP:
            return ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        return None

    async def breathe(self) -> None:
        """A checkpoint every so many calls, for loops that never have to wait."""
        self._turn += 1
        if self._turn >= TURNS:
            self._turn = 0
            await trio.lowlevel.checkpoint()

    @property
    def unsent(self) -> int:
        """Bytes that `write_all` holds and the kernel has not taken."""
        return len(self._rest)

    async def write_all(self, data: bytes) -> None:
        """Until the kernel has taken it all, or `discard()` dropped the rest. Raises OSError, Cancelled."""
        self._rest = memoryview(data)  # before the checkpoint: discard() and a cancellation there must find it
        await self.breathe()
        while self._rest:
            try:
                self._rest = self._rest[self._write(self._rest) :]
            except (BlockingIOError, InterruptedError):
                with trio.CancelScope() as self._wait_write:
                    await trio.lowlevel.wait_writable(self.fd)
                self._wait_write = None

    def discard(self) -> int:
        """Drop what a `write_all` in progress still holds; it returns at once. How many bytes were dropped."""
        dropped = len(self._rest)
        self._rest = memoryview(b"")
        if self._wait_write is not None:
            self._wait_write.cancel()
        return dropped


class Threaded:
    """The same interface over blocking calls in worker threads: regular files, odd devices, shared descriptors.

    A cancelled wait leaves its thread reading; what that still brings is kept for the next `take`, so nothing is lost
    while this process goes on. A cancelled write leaves an unknown part of its piece written.
    """

    PIECE = 65536

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._kept: deque[bytes | OSError] = deque()
        self._arrived: trio.Event | None = None
        self._rest = memoryview(b"")

    def take(self) -> bytes | None:
        """What a thread has read: bytes, b"" at the end, None before anything is there. Raises OSError."""
        if not self._kept:
            return None
        got = self._kept.popleft()
        if isinstance(got, OSError):
            raise got
        return got

    async def wait_readable(self) -> None:
        """Until `take()` has something to say."""
        if self._arrived is not None:
            await self._arrived.wait()
            return
        if self._kept:  # its thread ended between take() and here
            await trio.lowlevel.checkpoint()
            return
        arrived = self._arrived = trio.Event()
        token = trio.lowlevel.current_trio_token()
        gate = threading.Lock()  # whoever has it first decides: the thread reads, or the cancellation came before it
        state = "new"

        def read() -> None:
            nonlocal state
            with gate:
                if state == "off":
                    return
                state = "reading"
            try:
                self._kept.append(os.read(self.fd, MOST))
            except OSError as error:
                self._kept.append(error)
            self._arrived = None
            try:
                token.run_sync_soon(arrived.set)
            except trio.RunFinishedError:
                pass

        try:
            await trio.to_thread.run_sync(read, abandon_on_cancel=True)
        except trio.Cancelled:
            with gate:
                if state == "new":
                    state = "off"
                    self._arrived = None
            raise

    def broken(self) -> OSError | None:
        """A file does not break unseen."""
        return None

    async def breathe(self) -> None:
        """Every read was a checkpoint already."""

    @property
    def unsent(self) -> int:
        """Bytes that `write_all` holds and no thread has begun to write."""
        return max(0, len(self._rest) - self.PIECE)

    async def write_all(self, data: bytes) -> None:
        """Until everything is written, or `discard()` dropped the rest. Raises OSError."""
        self._rest = memoryview(data)
        while self._rest:
            piece = self._rest[: self.PIECE]
            written = await trio.to_thread.run_sync(os.write, self.fd, piece, abandon_on_cancel=True)
            self._rest = self._rest[written:]

    def discard(self) -> int:
        """Drop what a `write_all` in progress has not begun to write; how many bytes."""
        dropped = self.unsent
        self._rest = self._rest[: self.PIECE]
        return dropped


def own_description(fd: int, flags: int) -> int | None:
    """A new non-blocking descriptor for the terminal or pipe behind `fd` with a file description of its own.

    None where there is no such thing: a regular file (its offset would be another), a socket (ENXIO), another user's
    terminal (EACCES), a system without /proc.
    """
    try:
        mode = os.fstat(fd).st_mode
        if not (stat.S_ISFIFO(mode) or (stat.S_ISCHR(mode) and os.isatty(fd))):
            return None
        return os.open(f"/proc/self/fd/{fd}", flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return None


def writable_now(fd: int) -> bool:
    """Whether a write to `fd` would be taken at once; True where the system cannot tell (regular files)."""
    poll = select.poll()
    try:
        poll.register(fd, select.POLLOUT)
        return bool(poll.poll(0))
    except OSError:
        return True


class SideSink:
    """Where a stage writes beside the stream: a file, or the stderr that this process shares with its shell.

    `write` returns when the bytes are out, and only then does what they tell of go on: who has had an answer finds it in
    the dump. The chain that wrote waits, and no other. Several lanes may write at the same time; each one's bytes stay
    together.

    A regular file is written by plain calls: the page cache takes a row in a few microseconds, and a worker thread for
    each would cost sixty times that. A terminal or a pipe can stall, and is waited for.
    """

    def __init__(self, fd: int, name: str, *, close: bool = False) -> None:
        self.name = name
        self._fd = fd
        self._close = [fd] if close else []
        self._io: FdIO | Threaded | None = None
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            own = own_description(fd, os.O_WRONLY)
            if own is not None:
                self._close.append(own)
                self._io = FdIO.of_fd(own)
            else:
                self._io = Threaded(fd)
        self._lock = trio.Lock()
        self._waiting = bytearray()

    async def write(self, data: bytes) -> None:
        """All of it. Raises OSError (a full disk, a closed pipe)."""
        if self._io is None:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._fd, rest) :]
            return
        self._waiting += data
        async with self._lock:
            if self._waiting:  # else whoever had the lock wrote ours with theirs
                together = bytes(self._waiting)
                self._waiting.clear()
                try:
                    await self._io.write_all(together)
                except trio.Cancelled:  # what other lanes gave us is still theirs to be written
                    self._waiting[:0] = together[len(together) - self._io.unsent :]
                    raise

    def close(self) -> None:
        """Close what belongs to this sink alone."""
        for fd in self._close:
            os.close(fd)
        self._close.clear()
