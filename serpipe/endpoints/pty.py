"""``pty:`` a pseudo-terminal that a program opens as if it were the serial port at the other end.

Theory of operation
-------------------
We hold the master, the program opens the slave ``/dev/pts/N`` (pty(7)), mostly through a symbolic link that we make.
Packet mode (TIOCPKT, ioctl_tty(2)) puts a status byte before what the master reads, and EXTPROC in the slave's c_lflag
makes the kernel tell each tcsetattr(3) by it. The rest of this file is what follows from what a pty does not tell:

*Settings.* The slave's termios shows the truth: what the port reported, with what was asked of it and is not answered
yet. What a program sets is found by comparing (`_look`) and becomes one SetLine with the fields that differ from that
truth. An opening alone changes no termios and so asks for nothing. When an answer comes, the truth is put back into
the termios (`_show`); since `_look` compares with what was put, this does not come back as a wish of the program. A
tcsetattr that falls into the 2 us between the last get and the put would be undone; nothing can close that gap.
A program that sets c_lflag to 0 takes EXTPROC away. It is armed again 50 ms after the last change, and at once when
the program closes; until then, and as the complete fallback, the ticker compares every 20 ms. TIOCSLCKTRMIOS could lock
the flag for root, but then ``stty sane`` fails, and root would get another pty than everybody else.

*Order.* Status overtakes data in the kernel. A reader that is prompt meets them in the order they happened, or nearly; for
one that was held up by back-pressure the ticker keeps count of the bytes that were queued while the settings were still
the old ones (FIONREAD, so 4095 at most): these go out before the new settings, and these only are dropped by
tcflush(TCOFLUSH). Bytes of unknown age count as newer than the flush: programs flush before they send a command, and a
lost command is worse than a late byte.

*Open and closed.* No slave is held open: POLLHUP then says that nobody has it open, and nothing else says so reliably.
While closed, POLLHUP would wake a poll for ever, so we wait for inotify on the slave instead; a program that opens, sets
and closes within a millisecond has left its status byte, which is then read. Each time something needs a slave (to
count or drop what was not read), it is opened for a moment (TIOCGPTPEER) and the events this makes are taken away.

*Bytes for the program.* While closed they are dropped or wait (`idle`). The kernel would take some 18 KB for whoever opens
next, so nothing is written while POLLHUP stands, and what a program has left unread is dropped when it closes
(``idle=drop``), as a serial driver does. Under ``idle=wait`` what follows an opening waits 30 ms: programs flush when
they open.

*The exclusive lock* (TIOCEXCL) of a program that died stays for the life of a pty: everybody but root gets EBUSY, we
included. As root it is taken off. Else a new pty is made and the link moved to it; without a link it can only be said.
"""

from __future__ import annotations

import errno
import os
import select
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import trio

from serpipe import _inotify, _ticker
from serpipe._fdio import TURNS
from serpipe._link import Link
from serpipe.endpoints.base import Caps, Context, Endpoint, EndpointSpec
from serpipe.errors import BadValue, OpenFailed, open_failed
from serpipe.events import (
    BreakReport,
    Failed,
    Flow,
    Line,
    LineReport,
    Parity,
    Purge,
    PurgeDone,
    Report,
    Request,
    SetBreak,
    SetLine,
    SetModem,
)
from serpipe.options import DURATION, FLAG, MODE, PATH, Kind, choice, opt
from serpipe.protocol.line import BAUD, BYTESIZE, PARITY, format_line
from serpipe.registry import endpoint

if sys.platform != "win32":
    import fcntl
    import termios

    from serpipe import _termios2
    from serpipe._termios2 import Termios

    _EXTPROC = _termios2.EXTPROC if sys.platform == "linux" else 0
    """Elsewhere the bit is another, and untried: the ticker alone sees the settings there."""

_TIOCGPTN, _TIOCSPTLCK, _TIOCGPTPEER = 0x80045430, 0x40045431, 0x5441
_FLUSHREAD, _FLUSHWRITE = 0x01, 0x02
_NOSTOP, _DOSTOP, _IOCTL = 0x10, 0x20, 0x40
_PACKET = 8192
"""More than a read of the master ever gives (4095 in packet mode)."""
_AT_FIRST = Line(9600, 8, "none", 1.0, "none", "none")
"""What is shown until the port has said what it has."""
_CMSPAR = 0o10000000000
_SETTLED = 0.05
"""Seconds without a change before EXTPROC is armed again."""
_OPENING = 0.03
"""Seconds in which a program that has just opened may flush, before it is given what waited for it."""
_BREAK = 0.25
"""Seconds of a break, as tcsendbreak(3) makes it."""


def _account(what: str) -> Kind:
    """A user or group by name or number."""

    def parse(text: str) -> int:
        if text.isascii() and text.isdigit() and int(text) < 2**32 - 1:
            return int(text)
        try:
            if what == "user":
                import pwd

                return pwd.getpwnam(text).pw_uid
            import grp

            return grp.getgrnam(text).gr_gid
        except (KeyError, ImportError):
            raise BadValue(f"there is no {what} {text!r} on this machine") from None

    return Kind(what.upper(), parse, f"the name or number of a {what}")


_LINE_SWITCH = choice("on", "off", "keep")


def _nothing() -> None:
    """No ticker runs."""


@endpoint("pty", summary="a pseudo-terminal: a serial port for the programs of this machine", example="pty:~/dev/lab3")
@dataclass(frozen=True, kw_only=True)
class Pty(EndpointSpec):
    """A pseudo-terminal, reached through a symbolic link of your choice, that stands for the port at the other end.

    Programs open and close it as they like. It shows the settings of the far port (`stty -F PATH`), and what a program
    sets there, rate, stop bits and flow control, is asked of that port; opening alone sets nothing. A tcflush(3)
    becomes a purge. A link that a dead serpipe left is replaced; a file, or a link of somebody else's, never is.

    No pty carries parity, 7 data bits, breaks, or modem lines: TIOCMGET fails on every pty. The options bytesize,
    parity, dtr, rts, lines, break-rate and break stand in for them.

    A kernel lets a change of settings overtake bytes written just before it; a program that cares drains, and waits a
    few milliseconds.
    """

    link: str | None = opt(
        None, PATH, "the symbolic link to make to it", body=True, shown_default="none; its path is shown"
    )
    mode: int | None = opt(None, MODE, "permissions of the device", shown_default="the system's")
    user: int | None = opt(None, _account("user"), "owner of the device", shown_default="you")
    group: int | None = opt(None, _account("group"), "group of the device", shown_default="the system's")
    idle: Literal["drop", "wait"] | None = opt(
        None,
        choice("drop", "wait"),
        "bytes that come while no program has it open: drop them, or wait for one",
        shown_default="drop where the other end is a port, else wait",
    )
    drain: float = opt(10.0, DURATION, "at the end, how long a program that reads nothing is waited for")
    eof: bool = opt(False, FLAG, "end when the last program closes it")
    lines: Literal["keep", "follow"] = opt(
        "keep", choice("keep", "follow"), "DTR and RTS: keep them as they are, or follow: on at open, off at last close"
    )
    dtr: Literal["on", "off", "keep"] | None = opt(
        None,
        _LINE_SWITCH,
        "DTR at the first open (lines=follow: at each); keep never touches it",
        shown_default="as lines",
    )
    rts: Literal["on", "off", "keep"] | None = opt(None, _LINE_SWITCH, "RTS, likewise", shown_default="as lines")
    bytesize: int | None = opt(
        None, BYTESIZE, "data bits asked of the port at the first open", shown_default="as found"
    )
    parity: Parity | None = opt(None, PARITY, "parity asked of the port at the first open", shown_default="as found")
    break_rate: int | None = opt(
        None, BAUD, "a program that sets this rate sends a break of 250 ms instead", shown_default="none"
    )
    break_: Literal["drop", "nul", "mark"] = opt(
        "drop",
        choice("drop", "nul", "mark"),
        "how a break from the port is shown: not, as a NUL byte, or as FF 00 00 with FF doubled (PARMRK of termios(3))",
    )

    caps = Caps(role="controller", held=True)

    def describe(self) -> str:
        """The word: ``pty:PATH``."""
        return f"pty:{self.link or ''}"

    async def open(self, nursery: trio.Nursery, context: Context) -> PtyEndpoint:
        """Make it. Raises OpenFailed, also where `link` is somebody else's; nothing is left behind then."""
        if sys.platform == "win32":
            raise OpenFailed(
                "pty", "needs Linux or macOS", "a com0com pair and serial:, or rfc2217-listen:, do its work"
            )
        await trio.lowlevel.checkpoint()
        # No checkpoint from here on: what is made has an owner before anybody can cancel.
        pty = PtyEndpoint(self, context)
        nursery.start_soon(pty.run)
        return pty


class _Master:
    """The master's descriptor and what is done to it. Nothing here waits. Raises OSError."""

    def __init__(self, mode: int | None, user: int | None, group: int | None) -> None:
        """Make a pty. Its slave gets owner, mode and settings while it still cannot be opened."""
        spare: int | None = None
        self.watch: _inotify.Watch | _inotify.Look = _inotify.Look()
        self.fd = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC) if sys.platform == "linux" else -1
        try:
            if self.fd >= 0:
                number = struct.unpack("I", fcntl.ioctl(self.fd, _TIOCGPTN, b"\0\0\0\0"))[0]
                self.path = f"/dev/pts/{number}"
            else:
                self.fd, spare = os.openpty()
                self.path = os.ttyname(spare)
            if user is not None or group is not None:
                os.chown(self.path, -1 if user is None else user, -1 if group is None else group)
            if mode is not None:
                os.chmod(self.path, mode)
            self.watch = _inotify.watch(self.path)
            self._arm()
            if spare is None:
                fcntl.ioctl(self.fd, _TIOCSPTLCK, struct.pack("i", 0))
            os.set_blocking(self.fd, False)
            self._poll = select.poll()
            self._poll.register(self.fd, select.POLLPRI)
            with self.slave():
                pass  # POLLHUP stands from the first close on
        except BaseException:
            self.close()
            raise
        finally:
            if spare is not None:
                os.close(spare)

    def _arm(self) -> None:
        """Raw, 9600 8N1, as a serial port is found; packet mode and EXTPROC."""
        blank = _termios2.raw(_termios2.get(self.fd))
        blank = replace(blank, iflag=0, cflag=blank.cflag | termios.HUPCL, lflag=blank.lflag | _EXTPROC)
        _termios2.put(self.fd, _termios2.with_line(blank, _AT_FIRST))
        fcntl.ioctl(self.fd, termios.TIOCPKT, struct.pack("i", 1))

    @contextmanager
    def slave(self) -> Iterator[int]:
        """The slave, open for a moment. Openings and closings told meanwhile are forgotten: look at `hung` after."""
        flags = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            fd = fcntl.ioctl(self.fd, _TIOCGPTPEER, flags)
        except OSError as error:
            if error.errno not in (errno.ENOTTY, errno.EINVAL):
                raise
            fd = os.open(self.path, flags)
        try:
            yield fd
        finally:
            os.close(fd)
            self.watch.take()

    def hung(self) -> bool:
        """Whether nobody has the slave open."""
        return any(events & select.POLLHUP for _, events in self._poll.poll(0))

    def told(self) -> bool:
        """Whether a status byte waits to be read."""
        return any(events & select.POLLPRI for _, events in self._poll.poll(0))

    def unread(self) -> int | None:
        """Bytes the program has not read, counted up to 4095; None where an exclusive lock keeps us out."""
        try:
            with self.slave() as fd:
                poll = select.poll()
                poll.register(fd, select.POLLIN)
                poll.poll(0)  # moves what is on its way into the queue that FIONREAD counts
                return _termios2.unread(fd)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            return None

    def last_read(self) -> float:
        """When something was last read; Linux says it to 8 s. 0.0 where the device has no path that we can see."""
        try:
            return os.stat(self.path).st_atime
        except OSError:
            return 0.0

    def drop_unread(self) -> int:
        """Drop what the program has not read. The status that was told meanwhile, without that of this flush."""
        with self.slave() as fd:
            before = self._status()
            _termios2.flush(fd, rx=True, tx=False)
            return before | self._status() & ~_FLUSHREAD

    def _status(self) -> int:
        try:
            return os.read(self.fd, 1)[0]  # one byte is the status, 0 where there is none: data is never taken
        except OSError:
            return 0  # nothing to read, or nobody that has it open either

    def put(self, t: Termios) -> int:
        """Set the termios. The status that was told meanwhile, without that of this change."""
        before = self._status()
        _termios2.put(self.fd, t)
        return before | self._status() & ~_IOCTL

    def unlock(self) -> None:
        """Take a dead program's exclusive lock off. Raises OSError(EBUSY) where only root could."""
        with self.slave() as fd:
            fcntl.ioctl(fd, termios.TIOCNXCL)

    def close(self) -> None:
        """Wake who waits, and close."""
        self.watch.close()
        trio.lowlevel.notify_closing(self.fd)
        os.close(self.fd)


class _Shown(NamedTuple):
    """The part of a termios that a program and a port talk about."""

    baud: int
    two_stops: bool
    flow: Flow | None
    flow_in: Flow | None

    @classmethod
    def by(cls, t: Termios) -> _Shown:
        line = _termios2.line_of(t)
        return cls(t.ospeed, bool(t.cflag & termios.CSTOPB), line.flow, line.flow_in)


def _overlaid(line: Line, newer: Line) -> Line:
    """`line` with what `newer` says. A flow without a flow_in says both."""
    merged = newer.over(line)
    return merged if newer.flow is None else replace(merged, flow_in=newer.flow_in)


def _showable(flow: Flow | None) -> Flow:
    """What a tty can show of it: it knows nothing of flow control by DSR, DTR and DCD."""
    return flow if flow in ("rtscts", "xonxoff") else "none"


class PtyEndpoint(Endpoint):
    """One pty. `where` is the path that programs open."""

    caps = Caps(role="controller", held=True)

    def __init__(self, spec: Pty, context: Context) -> None:
        super().__init__(spec.describe())
        self.spec = spec
        self._note = context.note
        self._said: set[str] = set()
        self._drops = (spec.idle or ("drop" if context.faces == "port" else "wait")) == "drop"
        self._is_open = False
        self._was_open = False
        self._locked_out = False
        self._opened_at = 0.0
        self._exhausted = False
        """Everything was read and nobody has it open: to wait on the descriptor would be to spin."""
        self._untick = _nothing
        self._running: trio.CancelScope | None = None
        # towards the port
        self._port = _AT_FIRST
        self._reported = False
        self._asked: dict[int, Request] = {}
        self._look_due = False
        self._flushed = 0
        self._older = 0
        """Bytes in the kernel known to be older than any change that was not acted on yet."""
        self._cleared: tuple[Termios, float] | None = None
        self._raised = False
        self._break_ends: float | None = None
        self._turn = 0
        # towards the program
        self._rest = memoryview(b"")
        self._kept_for_later = False
        self._write_wait: trio.CancelScope | None = None
        self.dropped = 0
        """Bytes that came while nobody had it open."""

        self._link = Link.claim(self.name, spec.link) if spec.link is not None else None
        try:
            self._master = self._make()
            try:
                if self._link is not None:
                    self._link.point(self._master.path)
            except BaseException:
                self._master.close()
                raise
        except BaseException as error:
            if self._link is not None:
                self._link.release()
            if isinstance(error, OSError):
                raise self._not_made(error) from None
            raise
        self._shown = _Shown.by(_termios2.get(self._master.fd))
        self.where = self._link.path if self._link is not None else self._master.path
        if self._link is None:
            self.name = self.title = f"pty:{self.where}"
        else:
            self.title = f"{self.name} ({self._master.path})"

    def _make(self) -> _Master:
        return _Master(self.spec.mode, self.spec.user, self.spec.group)

    def _not_made(self, error: OSError) -> OpenFailed:
        if error.errno in (errno.ENOSPC, errno.EAGAIN):
            return OpenFailed(self.name, "no pty is left", "close programs that hold some, or raise kernel.pty.max")
        if error.errno == errno.EPERM:
            text = "the device cannot be given to that user or group"
            return OpenFailed(self.name, text, "only root can, or a member of the group; mode= may do")
        return open_failed(self.name, error)

    def _say(self, text: str, level: int) -> None:
        """Note it, once."""
        if text not in self._said:
            self._said.add(text)
            self._note(f"{self.name}: {text}", level)

    # opened and closed

    async def run(self) -> None:
        """Watch it being opened and closed, until `aclose()`."""
        with trio.CancelScope() as self._running:
            while not self._closed:
                try:
                    await self._master.watch.wait()
                except trio.ClosedResourceError:
                    await trio.lowlevel.checkpoint()  # it was exchanged, or this is the end
                    continue
                self._see()
                self._exhausted = False  # who opens and closes between two looks has left something to read
                self._wake()

    def _see(self) -> None:
        """Learn whether somebody has it open, and act on what changed."""
        if self._closed:
            return
        opened = bool(self._master.watch.take() & _inotify.OPENED)
        hung = self._master.hung()
        if not self._is_open and (opened or not hung):
            self._on_open()
        if self._is_open and hung:
            self._on_close()
            if not self._master.hung():  # again, while we were at it
                self._on_open()
        if self._exhausted and (opened or not hung):
            self._exhausted = False
            self._wake()

    def _wake(self) -> None:
        if self._wakeup is not None:
            self._wakeup.cancel()

    def _wake_writer(self) -> None:
        if self._write_wait is not None:
            self._write_wait.cancel()

    def _on_open(self) -> None:
        first = not self._was_open
        self._is_open = self._was_open = True
        self._opened_at = trio.current_time()
        self._exhausted = False
        self._untick = _ticker.subscribe(self._tick)
        if first:
            wanted = Line(bytesize=self.spec.bytesize, parity=self.spec.parity)
            if self._reported:
                wanted = Line(
                    bytesize=wanted.bytesize if wanted.bytesize != self._port.bytesize else None,
                    parity=wanted.parity if wanted.parity != self._port.parity else None,
                )
            if wanted:
                self._ask(SetLine.of(wanted))
        if (first or self.spec.lines == "follow") and not self._raised and self._shown.baud:
            self._raised = self.spec.lines == "follow"
            self._ask_modem(self._at_open(self.spec.dtr), self._at_open(self.spec.rts))
        self._wake()
        self._wake_writer()

    def _on_close(self) -> None:
        self._is_open = False
        self._untick()
        self._look_due = True  # a program that had taken EXTPROC away may have set something last
        self._rearm(_termios2.get(self._master.fd))
        try:
            self._master.unlock()
            if self._drops:
                self._status(self._master.drop_unread())
        except OSError as error:
            self._locked_out = error.errno == errno.EBUSY
        self._wake()
        self._wake_writer()

    def _at_open(self, wanted: str | None) -> bool | None:
        if wanted is None:
            return True if self.spec.lines == "follow" else None
        return {"on": True, "off": False}.get(wanted)

    def _lines_down(self) -> None:
        """The last close, after the last byte: what HUPCL means (termios(3))."""
        self._raised = False
        if _termios2.get(self._master.fd).cflag & termios.HUPCL:
            self._ask_both(False)

    def _ask_both(self, up: bool) -> None:
        """Both lines, but for one that is to be kept."""
        self._ask_modem(None if self.spec.dtr == "keep" else up, None if self.spec.rts == "keep" else up)

    def _ask_modem(self, dtr: bool | None, rts: bool | None) -> None:
        if dtr is not None or rts is not None:
            self._ask(SetModem(dtr=dtr, rts=rts))

    def _exchange(self) -> None:
        """Go on with a new pty, since a program that is gone has locked everybody out of this one."""
        self._locked_out = False
        old = self._master
        if self._link is None:
            text = f"a program left its exclusive lock on {old.path}, which only root can open now"
            self._say(f"{text}; with a link (pty:PATH) it would be exchanged", 0)
            return
        try:
            new = self._make()
        except OSError:
            return  # no pty to be had: the old one still serves root
        try:
            _termios2.put(new.fd, _termios2.get(old.fd))
            self._link.point(new.path)
        except (OSError, OpenFailed):
            new.close()
            return
        self._say(f"a program left its exclusive lock on {old.path}: the link goes to {new.path} now", 1)
        self._master = new
        self._shown = _Shown.by(_termios2.get(new.fd))
        self.title = f"{self.name} ({new.path})"
        old.close()

    # what the program sets

    def _tick(self) -> None:
        """Every 20 ms while open: see what no event told."""
        self._see()
        if not self._is_open:
            return
        fd = self._master.fd
        queued = _termios2.unread(fd)
        t = _termios2.get(fd)
        if _Shown.by(t) != self._shown:
            self._look_due = True
            self._wake()
        elif not (self._look_due or self._flushed or self._master.told()):
            self._older = queued
        if t.lflag & _EXTPROC == _EXTPROC:
            self._cleared = None
        elif self._cleared is None or self._cleared[0] != t:
            self._cleared = (t, trio.current_time())
        elif trio.current_time() - self._cleared[1] >= _SETTLED:
            self._rearm(t)

    def _rearm(self, t: Termios) -> None:
        """Set EXTPROC where a program took it away; not if it is changing things at this moment."""
        self._cleared = None
        if t.lflag & _EXTPROC != _EXTPROC:
            armed = replace(t, lflag=t.lflag | _EXTPROC)
            if _termios2.get(self._master.fd) == t:
                self._status(self._master.put(armed))

    def _ask(self, request: Request) -> None:
        self._asked[request.ref] = request
        self.post(request)

    @property
    def _expected(self) -> Line:
        """The port's settings as they will be when it has done all that was asked."""
        line = self._port
        for request in self._asked.values():
            if type(request) is SetLine:
                line = _overlaid(line, request.line)
        return line

    def _look(self) -> None:
        """Compare the termios with what it was made to show; ask the port for what the program changed."""
        self._look_due = False
        t = _termios2.get(self._master.fd)
        now, before = _Shown.by(t), self._shown
        if t.cflag & (termios.PARODD | _CMSPAR):
            self._say("a program asked for a parity, which no pty carries: give parity= here", 0)
        if now == before:
            return
        self._shown = now
        expected = self._expected
        wanted = Line()
        if now.baud != before.baud:
            if not now.baud:
                self._ask_both(False)  # B0 hangs up (termios(3))
            elif now.baud == self.spec.break_rate:
                self._start_break()
            else:
                if not before.baud:
                    self._raised = self.spec.lines == "follow"
                    self._ask_both(True)
                if now.baud != expected.baud:
                    wanted = replace(wanted, baud=now.baud)
        if now.two_stops != before.two_stops and now.two_stops != ((expected.stopbits or 1) > 1):
            two = 1.5 if expected.bytesize == 5 else 2.0
            wanted = replace(wanted, stopbits=two if now.two_stops else 1.0)
        if (now.flow, now.flow_in) != (before.flow, before.flow_in):
            flow, flow_in = expected.flow, expected.flow_in or expected.flow
            if (now.flow, now.flow_in) == (flow, flow_in):
                pass
            elif now.flow == now.flow_in:
                wanted = replace(wanted, flow=now.flow)
            elif now.flow == flow:
                wanted = replace(wanted, flow_in=now.flow_in)
            else:
                wanted = replace(wanted, flow=now.flow, flow_in=now.flow_in)
        if wanted:
            self._ask(SetLine.of(wanted))

    def _start_break(self) -> None:
        if self._break_ends is None:
            self._ask(SetBreak(on=True))
            self._break_ends = trio.current_time() + _BREAK

    def _show(self) -> None:
        """Make the termios show the port's settings, and what was asked of it, whatever it shows now."""
        fd = self._master.fd
        for _ in range(8):
            t = _termios2.get(fd)
            if _Shown.by(t) != self._shown:
                self._look()  # what a program has just set is a wish, and not ours to undo
                continue
            wanted = replace(self._expected, bytesize=None, parity=None)
            wanted = replace(wanted, flow=_showable(wanted.flow), flow_in=_showable(wanted.flow_in or wanted.flow))
            if (
                not t.ospeed or self._break_ends is not None
            ):  # hung up; or stty(1), which looks whether its rate is there
                wanted = replace(wanted, baud=None)
            new = _termios2.with_line(t, wanted)
            if _Shown.by(new) == self._shown:
                return
            if _termios2.get(fd) != t:
                continue
            try:
                told = self._master.put(new)
            except OSError:
                self._say(f"this system's ptys cannot show {format_line(wanted)}", 1)
                return
            self._shown = _Shown.by(new)
            self._status(told)
            if _Shown.by(_termios2.get(fd)) != self._shown:  # at once after ours, and told together with it
                self._look_due = True
                self._wake()
            return

    # receiving: what the program writes and does

    async def _breathe(self) -> None:
        self._turn += 1
        if self._turn >= TURNS:
            self._turn = 0
            await trio.lowlevel.checkpoint()
        else:
            await trio.lowlevel.checkpoint_if_cancelled()

    def _take(self) -> bytes | None:
        if self._break_ends is not None:  # the bytes written after the break wait for its end
            if trio.current_time() < self._break_ends:
                return None
            self._break_ends = None
            self._ask(SetBreak(on=False))
            self._show()  # the rate that was not meant as one goes
            return None
        if not self._is_open:
            self._see()
        while not self._posted:  # what is posted on the way comes before the bytes that are not read yet
            due = self._look_due or bool(self._flushed)
            if due and not self._older:
                self._act()
                continue
            try:
                packet = os.read(self._master.fd, 1 + (self._older if due else _PACKET))
            except BlockingIOError:
                if not self._older:
                    return None
                self._older = 0
                continue
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                packet = b""
            if not packet:
                self._older = 0
                if self._all_read():
                    return b"" if self.spec.eof and self._was_open else None
                continue
            if packet[0]:
                self._status(packet[0])
                continue
            if not self._was_open:  # without inotify, by a program that has closed it again
                self._on_open()
            data = packet[1:]
            self._older = max(0, self._older - len(data))
            return data
        return None

    def _all_read(self) -> bool:
        """Nobody has it open, and all was read and acted on; False where that is no longer so."""
        self._see()
        if self._look_due or self._flushed or not self._master.hung():
            return False
        if self._raised:
            self._lines_down()
        if self._locked_out:
            self._exchange()
        self._exhausted = True
        return True

    async def _wait(self) -> None:
        if self._posted:
            return
        if self._break_ends is not None:
            await trio.sleep_until(self._break_ends)
        elif self._exhausted:
            await trio.sleep_forever()  # `_wake()` ends it
        else:
            try:
                await trio.lowlevel.wait_readable(self._master.fd)
            except trio.ClosedResourceError:
                pass  # exchanged, or closed, which `receive()` sees

    def _status(self, bits: int) -> None:
        """Take a status byte of packet mode (ioctl_tty(2), TIOCPKT)."""
        if bits & (_IOCTL | _DOSTOP | _NOSTOP):
            self._look_due = True
        if bits & _FLUSHREAD and not self._kept_for_later:
            self.discard()
        if bits & _FLUSHWRITE:
            while self._older:
                try:
                    packet = os.read(self._master.fd, 1 + self._older)
                except OSError:
                    self._older = 0
                    break
                if packet[0]:
                    bits |= packet[0]
                self._older -= min(self._older, len(packet) - 1)
        self._flushed |= bits & (_FLUSHREAD | _FLUSHWRITE)
        if self._look_due or self._flushed:
            self._wake()

    def _act(self) -> None:
        """Ask for what the status bytes told: a tcsetattr with TCSAFLUSH flushes first."""
        if self._flushed:
            rx, tx = bool(self._flushed & _FLUSHREAD), bool(self._flushed & _FLUSHWRITE)
            self._flushed = 0
            self._ask(Purge(rx=rx, tx=tx))
        if self._look_due:
            self._look()

    # sending: what the program reads

    async def _send_bytes(self, data: bytes) -> None:
        await self._write(data.replace(b"\xff", b"\xff\xff") if self.spec.break_ == "mark" else data)

    async def _write(self, data: bytes) -> None:
        """Until the kernel has it all, nobody is there to get it, or `discard()`."""
        self._rest = memoryview(data)  # before the checkpoint: a discard() there must find it
        await self._breathe()
        try:
            while self._rest:
                self._see()
                if self._closed:
                    raise trio.ClosedResourceError
                if not self._is_open and self._drops:
                    self.dropped += self.discard()
                    break
                settled = self._opened_at + _OPENING
                self._kept_for_later = not self._drops and (not self._is_open or trio.current_time() < settled)
                try:
                    if not self._kept_for_later:
                        self._rest = self._rest[os.write(self._master.fd, self._rest) :]
                        continue
                except BlockingIOError:
                    pass
                with trio.CancelScope() as self._write_wait:
                    if not self._is_open:
                        await trio.sleep_forever()  # `_wake_writer()` ends it
                    elif self._kept_for_later:
                        await trio.sleep_until(settled)
                    else:
                        try:
                            await trio.lowlevel.wait_writable(self._master.fd)
                        except trio.ClosedResourceError:
                            pass  # exchanged, or closed
                self._write_wait = None
        finally:
            self._kept_for_later = False

    def discard(self) -> int:
        """Drop what `send()` still holds; how many bytes."""
        dropped = len(self._rest)
        self._rest = memoryview(b"")
        self._wake_writer()
        return dropped

    async def _send_eof(self) -> None:
        """Until the program has read everything, or reads nothing for `drain` seconds, or is not there (idle=drop)."""
        before: object = None
        since = trio.current_time()
        while True:
            self._see()
            if self._closed:
                raise trio.ClosedResourceError
            if not self._is_open and self._drops:
                return
            left = self._master.unread()
            self._see()
            self._exhausted = False  # what was told while we had it open ourselves is forgotten: read, to be sure
            self._wake()
            if left == 0:
                return
            # Above 4095 bytes the count stands still while the program reads; then the time of its last read moves.
            now = (left, self._master.last_read())
            if now != before:
                before, since = now, trio.current_time()
            if trio.current_time() - since >= self.spec.drain:
                count = "bytes" if left is None else f"at least {left} bytes"
                self._say(f"{count} were not read by any program within {self.spec.drain:g} s, and are lost", 0)
                return
            await trio.sleep(_ticker.PERIOD)

    async def _report(self, report: Report) -> None:
        asked = self._asked.get(report.answers) if report.answers is not None else None
        if isinstance(report, LineReport):
            self._look()  # against the settings that the program knew
            self._told(report)
            self._forget(report)
            self._show()
        elif isinstance(report, Failed):
            self._look()
            if isinstance(report.in_force, LineReport):
                self._told(report.in_force)
            self._forget(report)
            if asked is not None:
                self._say_failed(asked, report)
            self._show()
        elif isinstance(report, PurgeDone):
            self._forget(report)
            if report.rx and self._drops and self._is_open:
                # what the program has not read is older than the purge, and goes with the rest
                try:
                    self._status(self._master.drop_unread())
                except OSError:
                    pass  # an exclusive lock keeps us out
                self._see()
        elif isinstance(report, BreakReport):
            if report.on and self.spec.break_ != "drop":
                try:
                    await self._write(b"\0" if self.spec.break_ == "nul" else b"\xff\0\0")
                except OSError as error:
                    self._lost(error)
        else:
            self._forget(report)

    def _told(self, report: LineReport) -> None:
        self._reported = True
        self._port = _overlaid(self._port, report.values)

    def _forget(self, report: Report) -> None:
        if report.answers is not None:
            self._asked.pop(report.answers, None)

    def _say_failed(self, asked: Request, report: Failed) -> None:
        names = {SetModem: "DTR and RTS", SetBreak: "a break", Purge: "a purge"}
        what, stays = names.get(type(asked), "a request"), ""
        if isinstance(asked, SetLine):
            what = format_line(asked.line)
            stays = f"; {format_line(self._port)} stays in force" if self._reported else ""
        self._say(f"the port did not take {what} ({report.text or report.why}){stays}", 0)

    async def aclose(self) -> None:
        """Remove the link, if still ours, and close the master at once; see `_send_eof` for what is waited for before."""
        if not self._closed:
            self._closed = True
            self._untick()
            if self._link is not None:
                self._link.release()
            self._master.close()
            if self._running is not None:
                self._running.cancel()
            self._wake_writer()
            if self.dropped:
                self._say(f"{self.dropped} bytes came while no program had it open, and were dropped", 1)
        await super().aclose()
