"""One owner per serial port: flock(2), the UUCP lock file and TIOCEXCL, and who the owner is.

Theory of operation
-------------------
Three customs exist, and a program may follow any of them, so all are kept:

* flock(2) on the open device (picocom, tio, pySerial's `exclusive`): it ends with the process, and cannot be stale;
* the UUCP lock file ``/var/lock/LCK..ttyUSB0`` (minicom, ser2net; Filesystem Hierarchy Standard 3.0, section 5.9): it
  holds the owner's pid as ten characters and a newline, in older programs as a binary int. A dead owner's file is
  replaced. Where the folder cannot be written, what stands in it is still respected;
* TIOCEXCL, which the kernel enforces against everybody but root. It belongs to the tty and not to the descriptor, and
  a real tty loses it at its last close. A pty does not: it would outlive a program that dies, so a pty never gets it.

flock is taken first. So two of us never race for a lock file, and one with our own pid that stands there nevertheless
is a left-over of a process before us that had the same number.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import struct
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from serpipe import _termios2 as termios2

LOCK_FOLDER = "/var/lock"
_PTY_MAJORS = range(136, 144)


class Holder(NamedTuple):
    """A process that has a port open."""

    pid: int
    name: str

    def __str__(self) -> str:
        who = "this process" if self.pid == os.getpid() else self.name or "a process"
        return f"{who} (pid {self.pid})"


class Busy(Exception):
    """Somebody else has the port; `holders` are those that could be found out."""

    def __init__(self, holders: list[Holder]) -> None:
        super().__init__("in use by " + " and ".join(map(str, holders)) if holders else "in use by another program")
        self.holders = holders


def _program(pid: int) -> str:
    """The name of a running program; "" where it cannot be known."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _identity(status: os.stat_result) -> tuple[int, ...]:
    """What makes two descriptors the same tty: ptys of two devpts mounts share their device numbers."""
    if os.major(status.st_rdev) in _PTY_MAJORS:
        return status.st_dev, status.st_ino
    return (status.st_rdev,)


def holders(paths: Iterable[str]) -> dict[str, list[Holder]]:
    """Who has each of these devices open, as far as /proc shows it to this user; takes some ms."""
    wanted: defaultdict[tuple[int, ...], list[str]] = defaultdict(list)
    for path in paths:
        with contextlib.suppress(OSError):
            wanted[_identity(os.stat(path))].append(path)
    found: dict[str, list[Holder]] = {}
    if not wanted or not os.path.isdir("/proc/self/fd"):
        return found
    for pid in filter(str.isdigit, os.listdir("/proc")):
        folder = f"/proc/{pid}/fd"
        try:
            descriptors = os.listdir(folder)
        except OSError:  # another user's, or gone
            continue
        seen = set()
        for fd in descriptors:
            with contextlib.suppress(OSError):
                if os.readlink(f"{folder}/{fd}").startswith("/dev/"):
                    seen.add(_identity(os.stat(f"{folder}/{fd}")))
        for identity in seen & wanted.keys():
            for path in wanted[identity]:
                found.setdefault(path, []).append(Holder(int(pid), _program(int(pid))))
    return found


def _flock_owner(fd: int) -> list[Holder]:
    """Who holds the flock on this open device, by /proc/locks (proc(5))."""
    status = os.fstat(fd)
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    try:
        locks = Path("/proc/locks").read_text()
    except OSError:
        return []
    pids = re.findall(rf"^\d+: FLOCK +\S+ +\S+ +(\d+) {re.escape(place)} ", locks, re.M)
    return [Holder(int(pid), _program(int(pid))) for pid in pids]


def _others(path: str) -> list[Holder]:
    return [h for h in holders([path]).get(path, []) if h.pid != os.getpid()]


def busy(path: str) -> Busy:
    """The Busy that names whoever has this device open."""
    return Busy(_others(path))


def lock_file(path: str) -> str:
    """The UUCP lock file of a device: that of the node itself, whatever link it was reached by."""
    return os.path.join(LOCK_FOLDER, "LCK.." + os.path.basename(os.path.realpath(path)))


def _owner(file: str) -> int | None:
    """The pid in a lock file; None where there is no file, or no pid in it."""
    try:
        with open(file, "rb") as opened:
            content = opened.read(64)
    except OSError:
        return None
    if match := re.match(rb"\s*(\d+)\s", content + b"\n"):
        return int(match[1])
    return int(struct.unpack("i", content)[0]) if len(content) == 4 else None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


class PortLock:
    """What holds a port for us. `release()` gives back all of it, and is idempotent."""

    def __init__(self) -> None:
        self.file: str | None = None
        """The UUCP lock file, where one could be made."""
        self._fd: int | None = None
        self._exclusive = False

    @classmethod
    def take(cls, fd: int, path: str) -> PortLock:
        """Lock the device open at `fd`. Raises Busy, and then holds nothing."""
        lock = cls()
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(_flock_owner(fd) or _others(path)) from None
        lock._fd = fd
        try:
            lock._make_file(lock_file(path))
        except BaseException:
            lock.release()
            raise
        return lock

    def _make_file(self, file: str) -> None:
        for _ in range(2):
            owner = _owner(file)
            if owner is not None and owner > 0 and owner != os.getpid() and _alive(owner):
                raise Busy([Holder(owner, _program(owner))])
            try:
                self._link(file)
            except FileExistsError:
                with contextlib.suppress(OSError):
                    os.unlink(file)
            except OSError:  # no such folder, or it is not ours to write
                return
            else:
                self.file = file
                return

    def _link(self, file: str) -> None:
        """Make the file with its content in one step, so that nobody reads it half written."""
        fd, name = tempfile.mkstemp(prefix="LTMP.", dir=os.path.dirname(file))
        try:
            with open(fd, "w") as opened:
                opened.write(f"{os.getpid():10d}\n")
                os.fchmod(fd, 0o644)
            os.link(name, file)
        finally:
            os.unlink(name)

    def exclude(self) -> None:
        """Set TIOCEXCL as well. For a UART only, never for a pty; see the module's text."""
        if self._fd is not None:
            with contextlib.suppress(OSError):
                termios2.set_exclusive(self._fd, True)
                self._exclusive = True

    def release(self) -> None:
        """Give it back. The device must still be open; the lock file goes only if it still is ours."""
        if self._exclusive and self._fd is not None:
            self._exclusive = False
            with contextlib.suppress(OSError):
                termios2.set_exclusive(self._fd, False)
        if self.file is not None:
            file, self.file = self.file, None
            with contextlib.suppress(OSError):
                if _owner(file) == os.getpid():
                    os.unlink(file)
        if self._fd is not None:
            fd, self._fd = self._fd, None
            with contextlib.suppress(OSError):
                fcntl.flock(fd, fcntl.LOCK_UN)
