"""A symbolic link that is ours for as long as we live: made, moved and removed under a lock.

Theory of operation
-------------------
Beside the link ``NAME`` lies ``.NAME.lock``. Whoever holds its flock(2) owns the name, and the kernel gives the lock up
when its holder dies, however that happens. The file also says where the link was made to point. So a link is

* *ours* while we hold the lock;
* *another serpipe's* while somebody else does: an error that names the process;
* *left behind* where nobody does and it points where the lock file says: it is replaced, even if that device number
  belongs to somebody else by now;
* *foreign* in every other case, as any regular file is: never touched.

A new link is made by symlink(2), which fails where something is there already; an old one is replaced by rename(2). There
is no moment with half a link. The lock file is removed while it is still locked, and whoever gets the lock of a file that
no longer has the name (its inode tells) starts again: no two can hold the lock of one name.
"""

from __future__ import annotations

import os
import sys

from serpipe.errors import OpenFailed, open_failed

if sys.platform != "win32":
    import fcntl


class Link:
    """A locked name. `endpoint` is the word that messages begin with."""

    def __init__(self, endpoint: str, path: str) -> None:
        self.path = os.path.abspath(path)
        folder, name = os.path.split(self.path)
        self._lock_path = os.path.join(folder, f".{name}.lock")
        self._temporary = os.path.join(folder, f".{name}.{os.getpid()}.new")
        self._endpoint = endpoint
        self._fd = -1
        self._target: str | None = None

    @classmethod
    def claim(cls, endpoint: str, path: str) -> Link:
        """Lock the name. Raises OpenFailed where it is another's, or its folder will not take it; leaves nothing then."""
        link = cls(endpoint, path)
        if path.endswith("/"):
            raise OpenFailed(endpoint, "the link needs a name, and this is a folder", "add the name of the link")
        try:
            link._lock()
            try:
                link._inherit()
            except BaseException:
                link._unlock()
                raise
        except OSError as error:
            raise open_failed(endpoint, error) from None
        return link

    def _lock(self) -> None:
        while True:
            fd = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._names(fd):
                    self._fd = fd
                    return
            except BlockingIOError:
                pid = os.pread(fd, 4096, 0).partition(b"\n")[0].decode(errors="replace")
                os.close(fd)
                who = f"a running serpipe (process {pid})" if pid.isdigit() else "a running serpipe"
                text = f"the link belongs to {who}"
                raise OpenFailed(self._endpoint, text, "stop that one, or choose another path") from None
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)  # its last owner removed it between our open and our lock: it locks nothing any more

    def _names(self, fd: int) -> bool:
        """Whether the lock file still is the one at its path."""
        try:
            there, mine = os.stat(self._lock_path, follow_symlinks=False), os.fstat(fd)
        except FileNotFoundError:
            return False
        return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)

    def _inherit(self) -> None:
        """See what is at the path: nothing, a dead serpipe's link, or what must not be touched."""
        left = os.pread(self._fd, 16384, 0).decode(errors="surrogateescape").splitlines()[1:]
        try:
            target = os.readlink(self.path)
        except FileNotFoundError:
            return
        except OSError:
            kind = "folder" if os.path.isdir(self.path) else "file"
            raise OpenFailed(
                self._endpoint, f"there is a {kind} of that name", "remove it, or choose another path"
            ) from None
        if target not in left:
            text = f"there is a link of that name, to {target}, that is not serpipe's"
            raise OpenFailed(self._endpoint, text, "remove it, or choose another path")
        self._target = target

    def _record(self, *targets: str) -> None:
        data = "\n".join((str(os.getpid()), *targets, "")).encode(errors="surrogateescape")
        os.pwrite(self._fd, data, 0)
        os.ftruncate(self._fd, len(data))

    def point(self, target: str) -> None:
        """Make the link, or move it, to `target`. Raises OpenFailed where something foreign took the name."""
        try:
            if self._target is None:
                self._record(target)
                try:
                    os.symlink(target, self.path)
                except FileExistsError:
                    self._inherit()  # says whose it is
                    raise
            else:
                self._record(self._target, target)
                try:
                    os.unlink(self._temporary)
                except FileNotFoundError:
                    pass
                os.symlink(target, self._temporary)
                os.rename(self._temporary, self.path)
                self._record(target)
        except OSError as error:
            raise open_failed(self._endpoint, error) from None
        self._target = target

    def release(self) -> None:
        """Remove the link, if it still is the one that was made, and the lock. Idempotent, raises nothing."""
        if self._fd < 0:
            return
        try:
            if self._target is not None and os.readlink(self.path) == self._target:
                os.unlink(self.path)
        except OSError:
            pass  # removed or replaced by somebody, or its folder is gone: no longer ours
        self._unlock()

    def _unlock(self) -> None:
        try:
            if self._names(self._fd):
                os.unlink(self._lock_path)
        except OSError:
            pass  # what stays is a dead serpipe's, which the next one takes over
        os.close(self._fd)
        self._fd = -1
