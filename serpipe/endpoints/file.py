"""`file:`: a file to read, to write, or both.

Theory of operation
-------------------
At the left end a file is read, at the right end it is written, and `rw` does both. No poll ever says that a regular file
is busy, so it is read and written in large pieces by worker threads, and a slow disk stops one chain and not the loop.
Writing creates; what a file already holds is never overwritten by accident: `append` or `truncate` must say so. `follow`
goes on at the end of the file as `tail -F` does, through truncation and replacement of the file under its name.

Opening a FIFO waits for its other end, in a thread; once it stands it is read and written like any pipe.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import ClassVar

import trio

from serpipe import _ticker
from serpipe._fdio import FdIO, Threaded
from serpipe.endpoints.base import Caps, Context, EndpointSpec, FdEndpoint, Note, Side
from serpipe.errors import BadValue, OpenFailed, open_failed
from serpipe.options import FLAG, MODE, PATH, opt
from serpipe.registry import endpoint


class FileEndpoint(FdEndpoint):
    """One opening of a file."""

    def __init__(self, path: str, fd: int, *, reads: bool, follow: bool, note: Note) -> None:
        regular = stat.S_ISREG(os.fstat(fd).st_mode)
        plain = regular or stat.S_ISBLK(os.fstat(fd).st_mode)
        super().__init__(f"file {path}", Threaded(fd) if plain or not _pollable(fd) else FdIO.of_fd(fd))
        self._path = path
        self._fd = fd
        self._follow = follow and regular
        self._reads = reads
        self._note = note
        self._at_end = False

    def _take(self) -> bytes | None:
        if not self._reads:
            return None
        data = self.io.take()
        if data == b"" and self._follow:
            self._at_end = True
            return None
        return data

    async def _wait(self) -> None:
        if not self._reads:
            await trio.sleep_forever()
        while self._at_end:
            await trio.sleep(_ticker.PERIOD)
            self._at_end = not self._has_more()
        await super()._wait()

    def _has_more(self) -> bool:
        here = os.fstat(self._fd)
        offset = os.lseek(self._fd, 0, os.SEEK_CUR)
        if here.st_size > offset:
            return True
        if here.st_size < offset:
            self._note(f"{self.name}: was truncated; reading it from its beginning", 0)
            os.lseek(self._fd, 0, os.SEEK_SET)
            return here.st_size > 0
        try:
            named = os.stat(self._path)
            if (named.st_dev, named.st_ino) == (here.st_dev, here.st_ino):
                return False
            new = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # replaced files are gone for a moment: the next look finds the new one
            return False
        self._note(f"{self.name}: was replaced; reading the new one", 0)
        os.dup2(new, self._fd, inheritable=False)
        os.close(new)
        return True

    async def aclose(self) -> None:
        """Close it. A read still in its thread keeps the description alive until it returns."""
        if self._fd >= 0:
            if isinstance(self.io, FdIO):
                trio.lowlevel.notify_closing(self._fd)
            os.close(self._fd)
            self._fd = -1
        await super().aclose()


def _pollable(fd: int) -> bool:
    mode = os.fstat(fd).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or (stat.S_ISCHR(mode) and os.isatty(fd))


@endpoint("file", summary="a file, read at the left end and written at the right", example="file:notes.txt")
@dataclass(frozen=True, kw_only=True)
class File(EndpointSpec):
    """Reads the file at the left end of a chain and writes it at the right one; `rw` does both.

    Writing creates the file. One that exists needs `append` or `truncate`, so that nothing is overwritten by accident;
    with `rw` it is read and overwritten from its beginning.
    """

    path: str = opt(None, PATH, "the file", body=True, required=True)
    append: bool = opt(False, FLAG, "write behind what an existing file holds")
    truncate: bool = opt(False, FLAG, "empty an existing file first")
    follow: bool = opt(False, FLAG, "at its end wait for more, through truncation and replacement (tail -F)")
    rw: bool = opt(False, FLAG, "read and write, at either end")
    mode: int | None = opt(None, MODE, "the mode of a file that is created", shown_default="666 less umask")

    caps: ClassVar[Caps] = Caps()

    def __post_init__(self) -> None:
        if self.append and self.truncate:
            raise BadValue("append keeps what the file holds and truncate drops it: one of them", "truncate")

    def caps_in(self, side: Side) -> Caps:
        """A source at the left, a sink at the right; a sink is held for all the clients of a listener."""
        reads, writes = self.rw or side == "left", self.rw or side == "right"
        return Caps(reads=reads, writes=writes, held=writes)

    def describe(self) -> str:
        """``file PATH``."""
        return f"file {self.path}"

    def _flags(self, context: Context) -> int:
        caps = self.caps_in(context.side)
        if not caps.writes:
            return os.O_RDONLY
        flags = os.O_RDWR if caps.reads else os.O_WRONLY
        if self.append:
            return flags | os.O_CREAT | os.O_APPEND
        if self.truncate:
            return flags | os.O_CREAT | os.O_TRUNC
        if self.rw:  # to be changed in place is what it is opened for
            return flags | os.O_CREAT
        try:
            if not stat.S_ISREG(os.stat(self.path).st_mode):  # a FIFO or a device holds nothing to be overwritten
                return flags
        except FileNotFoundError:
            pass
        return flags | os.O_CREAT | os.O_EXCL

    async def open(self, nursery: trio.Nursery, context: Context) -> FileEndpoint:
        """Open it. Raises OpenFailed. A FIFO waits here for its other end; cancelled, its thread is left to that."""
        mode = self.mode if self.mode is not None else 0o666
        try:
            flags = self._flags(context) | os.O_CLOEXEC
            fd = await trio.to_thread.run_sync(os.open, self.path, flags, mode, abandon_on_cancel=True)
        except FileExistsError as error:
            raise OpenFailed(
                self.describe(), "exists already", "append writes behind what it holds, truncate empties it first"
            ) from error
        except OSError as error:
            raise open_failed(self.describe(), error) from error
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            os.close(fd)
            raise OpenFailed(self.describe(), "is a folder", "name a file in it")
        reads = self.caps_in(context.side).reads
        return FileEndpoint(self.path, fd, reads=reads, follow=self.follow, note=context.note)
