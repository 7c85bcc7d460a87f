"""Bytes from one descriptor to another inside the kernel, through a pipe (splice(2)).

Theory of operation: `splice` moves up to a pipe full from the source into a pipe of our own, then from there to the sink,
and waits only on EAGAIN. The bytes never come to this process: a third of the CPU time of reading and writing them.
Where the kernel cannot splice from or to a descriptor it says EINVAL before anything has moved, and the caller goes on by
reading and writing.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Awaitable, Callable

import trio

from serpipe._fdio import FdIO

PIPE_SIZE = 1 << 20


class Unspliceable(Exception):
    """The kernel will not; nothing has been moved that is not delivered."""


class SinkFailed(Exception):
    """The sink failed with `error`."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error)
        self.error = error


async def splice(source: FdIO, sink: FdIO, moved: Callable[[int], None], wait: Callable[[], Awaitable[bool]]) -> bool:
    """Until the source's end (True), or until `wait()`, which waits for the source, says False.

    `moved` hears of every piece: positive when it was taken from the source, negative when the sink has it. Raises
    Unspliceable, SinkFailed, and the source's OSError; cancelled, what was taken and not delivered is lost.
    """
    read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        try:
            fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        except OSError:  # an unprivileged user's pipe pages are used up: a small pipe does
            pass
        while True:
            await source.breathe()
            try:
                taken = os.splice(source.fd, write, PIPE_SIZE)
            except BlockingIOError:
                if not await wait():
                    return False
                continue
            except OSError as error:
                if error.errno in (errno.EINVAL, errno.ENOSYS):
                    raise Unspliceable from error
                raise
            if not taken:
                return True
            moved(taken)
            await _deliver(read, sink.fd, taken, moved)
    finally:
        os.close(read)
        os.close(write)


async def _deliver(pipe: int, sink: int, count: int, moved: Callable[[int], None]) -> None:
    while count:
        try:
            gone = os.splice(pipe, sink, count)
        except BlockingIOError:
            await trio.lowlevel.wait_writable(sink)
            continue
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS):
                raise SinkFailed(error) from error
            data = os.read(pipe, count)  # this sink cannot be spliced to: what is in the pipe is written
            try:
                gone = os.write(sink, data)
                while gone < len(data):
                    await trio.lowlevel.wait_writable(sink)
                    gone += os.write(sink, data[gone:])
            except OSError as broken:
                raise SinkFailed(broken) from broken
            moved(-gone)
            raise Unspliceable from error
        count -= gone
        moved(-gone)
