"""When a file is opened and closed by somebody: inotify(7) for one path, and a look every 50 ms where there is none.

Theory of operation
-------------------
Nothing on a pty's master says that its slave was opened. inotify does, within some 30 us, also for an opening through a
symbolic link, and it costs nothing while nothing happens. Equal events that wait together are merged, so they say *that*
something happened, never how often: whoever is told looks at the state itself. The events of an opening that the caller
makes are told like any other; it takes them away by `take()`.

Python has no inotify of its own: it is called through ctypes. `watch()` gives a `Watch` where that works, else (another
system, no instance left of the 128 that a user has) a `Look`, which only keeps time.
"""

from __future__ import annotations

import os
import struct
import sys
from typing import Any

import trio

OPENED, CLOSED = 0x20, 0x18
"""IN_OPEN; IN_CLOSE_WRITE or IN_CLOSE_NOWRITE."""
_OVERFLOW = 0x4000
_HEADER = struct.Struct("iIII")

LOOK_EVERY = 0.05
"""Seconds between two looks where there is no inotify."""


class Watch:
    """The openings and closings of one file. Raises OSError (ENOENT, EMFILE, ENOSYS)."""

    def __init__(self, path: str) -> None:
        import ctypes

        libc: Any = ctypes.CDLL(None, use_errno=True)
        try:
            self.fd: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
            added = -1 if self.fd < 0 else libc.inotify_add_watch(self.fd, os.fsencode(path), OPENED | CLOSED)
        except AttributeError:
            raise OSError("no inotify") from None
        if added < 0:
            code = ctypes.get_errno()
            if self.fd >= 0:
                os.close(self.fd)
            raise OSError(code, os.strerror(code), path)

    def take(self) -> int:
        """What happened since the last call, OPENED and CLOSED joined; 0 for nothing."""
        try:
            data = os.read(self.fd, 4096)
        except BlockingIOError:
            return 0
        told = at = 0
        while at < len(data):
            _, mask, _, length = _HEADER.unpack_from(data, at)
            told |= OPENED | CLOSED if mask & _OVERFLOW else mask
            at += _HEADER.size + length
        return told & (OPENED | CLOSED)

    async def wait(self) -> None:
        """Until `take()` may have something. Raises ClosedResourceError when it is closed meanwhile."""
        await trio.lowlevel.wait_readable(self.fd)

    def close(self) -> None:
        """Give the descriptor back; wakes who waits. In a trio run only."""
        trio.lowlevel.notify_closing(self.fd)
        os.close(self.fd)


class Look:
    """What stands for a `Watch` where there is none: it never tells, and wakes its waiter every `LOOK_EVERY`."""

    def take(self) -> int:
        """Nothing is known."""
        return 0

    async def wait(self) -> None:
        """Until it is time to look again."""
        await trio.sleep(LOOK_EVERY)

    def close(self) -> None:
        """Nothing to give back."""


def watch(path: str) -> Watch | Look:
    """The best there is for this path on this system."""
    if sys.platform == "linux":
        try:
            return Watch(path)
        except OSError:
            pass  # no instance left, or a kernel without it: the look is slower and as complete
    return Look()
