"""`serial:`, a serial port of this machine.

Theory of operation
-------------------
The port is opened raw, otherwise as it was found, and at the end put back as it was found. What it is driven by is a
`Driver` (_serial_driver.py), a handful of plain calls, so all the rules below are tested on a recording one as well
as on ptys.

*Order to the wire.* A change of settings, or of the break, first lets the bytes before it go: it waits until the
kernel has taken them, until TIOCOUTQ is 0, then in tcdrain(3), and where a USB adapter hides a FIFO of its own, until
what was written can have left at the line's rate. Then what was received under the old setting is handed over, the
change is made, read back and answered. A change of DTR or RTS waits only until the bytes are written, as in a program
with the port open. A setting already in force is answered and touches nothing: no drain, no ioctl that sets.

*One deadline*, the line time of what is queued and `GRACE`, covers writing and draining together, since flow control
may hold bytes for ever and a control (``flow=none``) is how a user frees them. As one pump serves both, bytes must
not hold up the control behind them either. So a `send` of bytes that passes its deadline parks the rest: it returns,
and a task of the port's own goes on writing. Later bytes queue behind the parked ones, and wait while more than
`PARK_SIZE` is parked: that is the bound, and behind it a control does wait. A control that finds parked bytes which
have not moved for `GRACE` overtakes at once, and says so. A break cannot overtake: the kernel itself waits for the
transmitter (tty_ioctl(4), TIOCSBRK), so it fails with `timeout`.

*Modem lines* are looked at by one task, `_watch`, which is woken by the process's ticker: when the driver's counters
(TIOCGICOUNT: cheap, and they catch a pulse between two looks) have changed, or every tick where the driver has none,
and every `LEVELS_EVERY` ticks in any case. TIOCMGET is a round trip on USB and is made in a thread. A wait for the
next edge (TIOCMIWAIT) would take the ticker's place in that task and change nothing else.

*Errors and breaks* come in their place in the stream, marked by PARMRK, and are unmarked here. A mark does not say
whether parity or framing was wrong: without parity it is framing, with it the counters tell. Lost characters
(overrun, buffer) have no place and come as counted.

*A pty* as the device has no lines, no break, no baud clock, and always 8 bits without parity. These are remembered,
answered as asked and marked virtual; CTS, DSR and CD read on. Any other driver without lines is treated likewise.

*The end.* A device that goes is a `Hangup` with its reason, then EndpointLost, on both ways in. Closing waits for
unsent bytes for `CLOSE_WAIT` at most and drops, and counts, the rest; ends the break; restores settings and lines;
gives back the locks. A line is not raised for the instant before a close that drops it (HUPCL): boards reset on such
a pulse. All of it is shielded from cancellation; what waits in the kernel is left to its thread after `CLOSE_BOUND`.
An open that waits in the kernel for another program's close (30 s at most) cannot be cancelled.
"""

from __future__ import annotations

import errno
import functools
import grp
import os
import re
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, TypeAlias, TypeVar, cast

import trio

from serpipe import __version__, _ticker
from serpipe import _serial_find as find
from serpipe._serial_driver import CTS, DCD, DSR, DTR, NO_LINES, RI, RTS, Driver, open_driver
from serpipe._serial_lock import Busy
from serpipe._termios2 import Counters
from serpipe.endpoints.base import Caps, Context, Endpoint, EndpointSpec, Note
from serpipe.errors import BadValue, EndpointLost, OpenFailed, describe_os_error, open_failed
from serpipe.events import (
    BreakReport,
    Drain,
    Drained,
    ErrorReport,
    Event,
    Failed,
    GetModem,
    GetSignature,
    Hangup,
    Line,
    LineReport,
    ModemLine,
    ModemReport,
    Opened,
    OutputReport,
    Purge,
    PurgeDone,
    Report,
    Request,
    SetBreak,
    SetLine,
    SetModem,
    Signature,
)
from serpipe.options import FLAG, Kind, choice, opt
from serpipe.protocol.line import LineOptions, format_line
from serpipe.protocol.parmrk import BREAK, Bad, Unmarker
from serpipe.registry import endpoint

T = TypeVar("T")

GRACE = 1.0
"""Seconds beyond the line time of what is queued that a control waits before it overtakes."""
PARK_SIZE = 65536
"""Bytes parked, at which a further `send` of bytes waits."""
HIDDEN_FIFO = 1024
"""Bytes that a USB adapter may hold without its driver knowing; those with larger FIFOs (FTDI) have drivers that ask."""
HAND_OVER = 262144
"""Bytes received and not yet taken, at which a change of settings leaves the rest in the kernel (law 8)."""
LEVELS_EVERY = 10
"""Ticks after which the modem lines are looked at though the counters stand still: some drivers do not keep them."""
NEWS_LIMIT = 1024
"""Events not yet taken, at which no news of lines and errors is added; what they count is told later."""
CLOSE_WAIT = 2.0
"""Seconds that `aclose` waits for bytes that are not yet sent."""
CLOSE_BOUND = 5.0
"""Seconds after which a close that waits in the kernel is left to its thread."""
TURNS = 32
BAUD_TOLERANCE = 0.02

_GONE = (errno.EIO, errno.ENODEV, errno.ENXIO, errno.EBADF)
_FLOWS = ("none", "rtscts", "xonxoff")
_PARITIES = ("none", "odd", "even", "mark", "space")
_INPUTS: tuple[tuple[ModemLine, int], ...] = (("cts", CTS), ("dsr", DSR), ("ri", RI), ("dcd", DCD))
_READY = CTS | DSR | DCD


def _wish(now: Line, asked: Line) -> Line:
    """What of `asked` has to be changed, and can be on a tty; see `_termios2.with_line` for what cannot."""
    flow_in = asked.flow_in or asked.flow
    flow = asked.flow if asked.flow in _FLOWS else None
    outbound = flow or now.flow
    if flow_in not in _FLOWS or (flow_in == "rtscts") != (outbound == "rtscts"):
        flow_in = None
    size = asked.bytesize if asked.bytesize in (5, 6, 7, 8) else None
    stop = asked.stopbits if asked.stopbits in (1, 1.5, 2) else None
    if stop in (1.5, 2) and (stop == 1.5) != ((size or now.bytesize) == 5):
        stop = None
    baud = asked.baud if asked.baud is not None and 0 < asked.baud < 2**32 else None
    parity = asked.parity if asked.parity in _PARITIES else None
    wish = now.changes(Line(baud, size, parity, stop, flow, flow_in))
    if wish.flow is not None or wish.flow_in is not None:
        wish = replace(wish, flow=outbound, flow_in=flow_in or (None if flow else now.flow_in))
    return wish


def _near(asked: int, got: int | None) -> bool:
    return got is not None and abs(asked - got) <= asked * BAUD_TOLERANCE


def _unmet(asked: Line, now: Line) -> list[str]:
    """The fields asked for that are not in force; a rate counts as met within 2 %."""
    names = [f.name for f in fields(Line) if getattr(asked, f.name) not in (None, getattr(now, f.name))]
    if asked.baud is not None and "baud" in names and _near(asked.baud, now.baud):
        names.remove("baud")
    return names


@dataclass(frozen=True, slots=True)
class Start:
    """How a port is to be when it is opened; None leaves a thing as it is."""

    line: Line = field(default_factory=Line)
    dtr: bool | None = None
    rts: bool | None = None
    hupcl: bool | None = None
    exclusive: bool = True


class SerialPort(Endpoint):
    """One open port. Made by `open_port`."""

    caps = Caps(role="port", held=True)

    def __init__(self, name: str, driver: Driver, start: Start, *, note: Note, reads: bool = True) -> None:
        super().__init__(name)
        self.where = driver.path
        self._driver = driver
        self._start = start
        self._note = note
        self._reads = reads
        self._turn = 0
        # what it is
        self._lines = False
        """It has modem lines."""
        self._found_lines = 0
        self._moved_lines = 0
        """The lines that we have set."""
        self._outputs = DTR | RTS
        """DTR and RTS, where only memory keeps them."""
        self._break = False
        self._memory = Line()
        """What a pty was told and cannot do."""
        self._line = Line()
        """The settings in force when last looked at."""
        self._near_baud: tuple[int, int] | None = None
        """A rate asked for, and what the driver made of it."""
        self._marks: Unmarker | None = None
        self._lack_said = False
        self._mutex = threading.Lock()
        """Held by every call of a worker thread but those that may wait for output."""
        self._back = False
        """Put back as found: nothing may be changed any more."""
        self._gone: OSError | None = None
        self._hangup_said = False
        # sending
        self._rest = memoryview(b"")
        """What a `send` in progress has not handed on."""
        self._parked: deque[memoryview] = deque()
        self._parked_size = 0
        self._moved_at = 0.0
        """When parked bytes last moved."""
        self._moved = trio.Event()
        self._due = 0.0
        """When all that was written can have left at the line's rate."""
        self._sender: trio.CancelScope | None = None
        """The wait of the `send` in progress."""
        self._writer: trio.CancelScope | None = None
        """The task that writes what is parked."""
        self._control: trio.CancelScope | None = None
        """The wait of the control in progress."""
        self._control_waits = False
        """It waits until all has left, and not only until it is written."""
        self._draining = False
        # modem lines
        self._look = trio.Event()
        self._ticks = 0
        self._counts: Counters | None = None
        self._levels = _READY
        self._watching = trio.CancelScope()
        self._watch_ended: trio.Event | None = None
        self._nursery: trio.Nursery

    # opening

    def _begin(self) -> None:
        """Take stock and make the port what it shall be. Blocks. Raises OSError, OpenFailed; then `_put_back` is due."""
        driver, start = self._driver, self._start
        try:
            self._found_lines = driver.modem()
            self._lines = True
        except OSError as error:
            if error.errno not in NO_LINES:
                raise
        if start.dtr is not None or start.rts is not None:
            self._set_outputs(start.dtr, start.rts)
        if driver.prepare(start.hupcl):
            self._marks = Unmarker()
        wish = _wish(self._in_force(), start.line)
        if wish:
            try:
                self._apply(wish)
            except OSError as error:
                if error.errno in _GONE:
                    raise
                raise OpenFailed(self.name, f"refuses {format_line(wish)}: {describe_os_error(error)[0]}") from error
        self._line = self._in_force()
        unmet = _unmet(start.line, self._line)
        if unmet:
            asked = ", ".join(f"{name.replace('_', '-')}={getattr(start.line, name)}" for name in unmet)
            raise OpenFailed(self.name, f"the driver refuses {asked}", f"in force would be {format_line(self._line)}")

    def _stand(self, nursery: trio.Nursery) -> None:
        """It is open: say what it is, and begin to watch its lines."""
        self._nursery = nursery
        found = "" if self._start.line else " (as found)"
        self.title = f"{self.name} {format_line(self._line)}{found}"
        if not (self._lines or self._start.dtr is self._start.rts is None) or self._line != self._driver.line():
            self._say_lack()
        self._counts = self._driver.counters() if self._lines else None
        levels = self._found_lines if self._lines else _READY
        self._levels = levels & (CTS | DSR | RI | DCD)
        self.post(Opened(peer=self.name))
        self.post(self._line_report())
        self.post(self._output_report(self._first_outputs))
        self.post(self._modem_report(self._levels))
        if self._lines:
            self._watch_ended = trio.Event()
            nursery.start_soon(self._watch)

    @property
    def _first_outputs(self) -> int:
        if not self._lines:
            return self._outputs
        return self._found_lines & ~self._moved_lines | self._outputs & self._moved_lines

    async def _call(self, function: Callable[..., T], *args: Any) -> T:
        """Make a call of the driver where it may be made; it is never abandoned. Raises what it raises."""

        def work() -> T:
            with self._mutex:
                if self._back:
                    raise trio.ClosedResourceError
                return function(*args)

        if self._driver.quick:
            return work()
        return await trio.to_thread.run_sync(work)

    # what is in force

    def _in_force(self) -> Line:
        """The settings by the driver's word, with what only memory has."""
        line = self._memory.over(self._driver.line())
        if line.stopbits in (1.5, 2):  # one bit means both, by the size
            line = replace(line, stopbits=1.5 if line.bytesize == 5 else 2.0)
        return line

    def _apply(self, wish: Line) -> None:
        """Change settings, and remember those that a pty has not. Blocks. Raises OSError."""
        if self._driver.pty:
            self._memory = Line(bytesize=wish.bytesize, parity=wish.parity).over(self._memory)
            wish = replace(wish, bytesize=None, parity=None)
        if wish:
            self._driver.set_line(wish)

    def _set_outputs(self, dtr: bool | None, rts: bool | None) -> int:
        """Set DTR and RTS, on the wire or in memory; what is in force then. Blocks. Raises OSError."""
        on = (DTR if dtr else 0) | (RTS if rts else 0)
        off = (DTR if dtr is False else 0) | (RTS if rts is False else 0)
        if self._lines and (on or off):
            self._driver.set_modem(on, off)
            self._moved_lines |= on | off
        self._outputs = (self._outputs | on) & ~off
        return self._driver.modem() if self._lines else self._outputs

    def _line_report(self, requested: Line | None = None) -> LineReport:
        virtual = bool(self._memory) and self._line != self._driver.line()
        return LineReport(values=self._line, requested=requested, virtual=virtual)

    def _output_report(self, bits: int) -> OutputReport:
        return OutputReport(dtr=bool(bits & DTR), rts=bool(bits & RTS), break_=self._break, virtual=not self._lines)

    def _modem_report(self, bits: int, changed: frozenset[ModemLine] = frozenset()) -> ModemReport:
        levels = {name: bool(bits & bit) for name, bit in _INPUTS}
        return ModemReport(**levels, changed=changed, virtual=not self._lines)

    def _say_lack(self) -> None:
        if self._lack_said:
            return
        self._lack_said = True
        lacks = "is a pty: no modem lines, no break, always 8 bits without parity; these" if self._driver.pty else ""
        lacks = lacks or "has no modem lines; they"
        self._note(f"{self.name} {lacks} are remembered, and answered as virtual", 0)

    # receiving

    async def _breathe(self) -> None:
        self._turn += 1
        if self._turn % TURNS:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await trio.lowlevel.checkpoint()

    def _read(self) -> list[Event]:
        """What is there to be read, in order; nothing where nothing is. Raises OSError where the device is gone."""
        data = self._driver.read()
        if data:
            return self._unmarked(data) if self._marks is not None else [data]
        if data is not None and self._driver.gone():
            raise self._gone or OSError(errno.EIO, os.strerror(errno.EIO))
        if self._gone is not None:
            raise self._gone
        return []

    def _unmarked(self, data: bytes) -> list[Event]:
        assert self._marks is not None
        pieces = self._marks.feed(data)
        counts = self._driver.counters() if any(type(piece) is Bad for piece in pieces) else None
        events: list[Event] = []
        for piece in pieces:
            if piece is BREAK:
                events.append(BreakReport())
            elif isinstance(piece, Bad):
                events += (piece.data, self._error_report(len(piece.data), counts))
            else:
                events.append(piece)
        return events

    def _take(self) -> bytes | None:
        events = self._read()
        first = events.pop(0) if events and type(events[0]) is bytes else None
        for event in events:
            self.post(event)
        return cast(bytes | None, first)

    def _error_report(self, count: int, counts: Counters | None) -> ErrorReport:
        """Parity or framing: by the settings, else by which counter has grown."""
        parity = 0
        if self._line.parity != "none":
            parity = count
            if counts is not None and self._counts is not None:
                parity = min(count, _grown(counts.parity, self._counts.parity))
                self._counts = self._counts._replace(parity=self._counts.parity + parity)
        return ErrorReport(parity=parity, framing=count - parity)

    async def _wait(self) -> None:
        if not self._posted:
            await self._driver.wait_readable()

    def _hand_over(self) -> None:
        """Post what was received until now, before a change of settings takes hold."""
        if not self._reads:
            return
        held = sum(len(event) for event in self._posted if type(event) is bytes)
        while held < HAND_OVER and (events := self._read()):
            for event in events:
                self.post(event)
                held += len(event) if type(event) is bytes else 0

    # the end of the device

    def _reason(self) -> str:
        return self._driver.gone() or (describe_os_error(self._gone)[0] if self._gone is not None else "")

    def _fail(self, error: OSError) -> None:
        """The device is gone: whoever receives is told, after what is still there to be read."""
        self._gone = self._gone or error
        self._watching.cancel()
        self._moved.set()
        if self._wakeup is not None:
            self._wakeup.cancel()

    def _lost_error(self, error: OSError) -> EndpointLost:
        self._fail(error)
        return EndpointLost(self.name, self._reason())

    def _lost(self, error: OSError) -> None:
        """Hangup the first time, EndpointLost from then on."""
        lost = self._lost_error(error)
        if self._hangup_said:
            raise lost from error
        self._hangup_said = True
        self.post(Hangup(reason=self._reason()))

    # sending

    def _write(self, data: memoryview) -> int:
        count = self._driver.write(data)
        if count and self._driver.hides_fifo:
            self._due = max(self._due, trio.current_time()) + self._line.line_time(count)
        return count

    def _deadline(self, more: int = 0) -> float:
        queued = self._parked_size + more + self._driver.unsent()
        return trio.current_time() + self._line.line_time(queued) + GRACE

    async def _send_bytes(self, data: bytes) -> None:
        self._rest = memoryview(data)  # before the checkpoint: a discard() there must find it
        await self._breathe()
        if self._parked:
            while self._rest and self._parked_size >= PARK_SIZE:
                await self._pause(self._moved.wait)
            self._park()
            return
        try:
            self._rest = self._rest[self._write(self._rest) :]
            if self._rest:
                deadline = self._deadline(len(self._rest))
                while self._rest and trio.current_time() < deadline:
                    await self._pause(self._driver.wait_writable, deadline)
                    self._rest = self._rest[self._write(self._rest) :] if self._rest else self._rest
                self._park()
        except OSError as error:
            if self._closed:
                raise trio.ClosedResourceError from None
            raise self._lost_error(error) from error

    async def _pause(self, wait: Callable[[], Any], deadline: float = float("inf")) -> None:
        """Wait, as long as nobody discards or closes. Raises ClosedResourceError, EndpointLost."""
        with trio.move_on_at(deadline) as self._sender:
            await wait()
        self._sender = None
        if self._closed:
            raise trio.ClosedResourceError
        if self._gone is not None:
            raise self._lost_error(self._gone)

    def _park(self) -> None:
        """Leave what is left of this `send` to the writer."""
        rest, self._rest = self._rest, memoryview(b"")
        if not rest:
            return
        self._parked.append(rest)
        self._parked_size += len(rest)
        if self._writer is None:
            self._moved_at = trio.current_time()
            self._writer = trio.CancelScope()
            self._nursery.start_soon(self._write_parked, self._writer)

    async def _write_parked(self, scope: trio.CancelScope) -> None:
        """The writer: until nothing is parked, or it is told to stop."""
        try:
            with scope:
                while self._parked:
                    await self._driver.wait_writable()
                    self._move()
        except OSError as error:
            self._fail(error)
        finally:
            if self._writer is scope:
                self._writer = None

    def _move(self) -> None:
        """Write one piece of what is parked."""
        head = self._parked.popleft()
        count = self._write(head)
        if count < len(head):
            self._parked.appendleft(head[count:])
        if count:
            self._parked_size -= count
            self._moved_at = trio.current_time()
            self._moved.set()
            self._moved = trio.Event()

    @property
    def unsent(self) -> int:
        """Bytes accepted that the kernel has not taken."""
        return len(self._rest) + self._parked_size

    def discard(self) -> int:
        """Drop what is parked, what a `send` in progress holds, or what its control waits for; how many bytes."""
        dropped = self.unsent
        self._rest = memoryview(b"")
        self._parked.clear()
        self._parked_size = 0
        if self._writer is not None:
            self._writer.cancel()
            self._writer = None
        if self._control_waits:
            try:
                dropped += self._driver.unsent()
                self._driver.flush(rx=False, tx=True)
            except OSError:
                pass  # it is gone, and so are its bytes
        self._due = 0.0
        self._moved.set()
        self._moved = trio.Event()
        if self._sender is not None:
            self._sender.cancel()
        return dropped

    async def _send_eof(self) -> None:
        try:
            gone = await self._settled(drain=True)
        except OSError as error:
            if self._closed:
                raise trio.ClosedResourceError from None
            raise self._lost_error(error) from error
        if not gone:
            self._note(f"{self.name}: {self._queued()} bytes are still unsent: flow control holds them", 0)

    def _queued(self) -> int:
        return self._parked_size + self._driver.unsent()

    async def _settled(self, *, drain: bool, closing: bool = False, limit: float = float("inf")) -> bool:
        """Wait until earlier bytes are written and, with `drain`, have left. False where the deadline came first.

        Raises OSError, ClosedResourceError.
        """
        now = trio.current_time()
        stalled = self._parked and now - self._moved_at > GRACE
        self._control_waits = drain
        try:
            with trio.move_on_at(now if stalled else min(self._deadline(), now + limit)) as scope:
                self._control = None if closing else scope
                while self._parked:
                    if self._gone is not None:
                        raise self._gone
                    await self._moved.wait()
                if drain:
                    await self._drained()
        finally:
            self._control_waits = False
            self._control = None
        if self._closed and not closing:
            raise trio.ClosedResourceError
        return not scope.cancelled_caught

    async def _drained(self) -> None:
        """Until what the kernel has taken has left: TIOCOUTQ, tcdrain, and the line time of a FIFO that is hidden."""
        pause = 0.0005
        while left := self._driver.unsent():
            await trio.sleep(min(max(pause, self._line.line_time(left) / 2), 0.02))
            pause *= 2
        if self._driver.quick:
            self._driver.drain()
        else:
            while self._draining:  # noqa: ASYNC110  a thread says it: one whose deadline passed may still be waiting
                await trio.sleep(0.01)
            await trio.to_thread.run_sync(self._drain, abandon_on_cancel=True)
        if self._driver.hides_fifo:
            hidden = trio.current_time() + self._line.line_time(HIDDEN_FIFO)
            await trio.sleep_until(min(self._due, hidden))

    def _drain(self) -> None:
        self._draining = True
        try:
            if not self._back:  # abandoned before it began
                self._driver.drain()
        finally:
            self._draining = False

    async def _let_go(self, request: Request, *, drain: bool) -> bool:
        """Let the bytes before a request go; where it has to overtake them, say so."""
        if await self._settled(drain=drain):
            return True
        word = type(request).__name__
        self._note(f"{self.name}: {word} overtakes {self._queued()} bytes that flow control holds", 0)
        return False

    # requests

    async def _request(self, request: Request) -> None:
        await self._breathe()
        try:
            report = await self._carry_out(request)
        except OSError as error:
            if self._closed:
                raise trio.ClosedResourceError from None
            text = describe_os_error(error)[0]
            if error.errno in _GONE:
                self.answer(request, Failed(why="lost", text=text))
                raise self._lost_error(error) from error
            report = Failed(why="refused", text=text)
        if self._closed:
            raise trio.ClosedResourceError
        self.answer(request, report)

    async def _carry_out(self, request: Request) -> Report:
        match request:
            case SetLine():
                return await self._set_line(request)
            case SetModem():
                return await self._set_modem(request)
            case SetBreak():
                return await self._set_break(request)
            case GetModem():
                if not self._lines:
                    return self._modem_report(_READY)
                bits = await self._call(self._driver.modem)
                self._news(bits, self._driver.counters())
                return self._modem_report(bits)
            case Purge():
                return await self._purge(request)
            case Drain():
                if await self._settled(drain=True):
                    return Drained()
                return Failed(why="timeout", text=f"flow control holds {self._queued()} bytes")
            case GetSignature():
                return Signature(text=f"serpipe {__version__} {self._driver.path}".encode())
            case _:
                return Failed(why="unsupported", text=f"{type(request).__name__} is nothing a port can do")

    async def _set_line(self, request: SetLine) -> Report:
        asked = request.line
        before = self._line = self._in_force()
        wish = _wish(before, asked)
        if wish.baud is not None and self._near_baud == (wish.baud, before.baud):
            wish = replace(wish, baud=None)
        text = f"{self.name} stays at {format_line(before)}"
        if wish:
            await self._let_go(request, drain=True)
            self._hand_over()
            try:
                await self._call(self._apply, wish)
            except OSError as error:
                if error.errno in _GONE:
                    raise
                text = describe_os_error(error)[0]
            self._line = self._in_force()
            self._due = 0.0
            self._moved_at = trio.current_time()  # what flow control held may go now: it is not stalled before it tried
            if asked.baud is not None and self._line.baud is not None and _near(asked.baud, self._line.baud):
                self._near_baud = (asked.baud, self._line.baud)
            if self._line != self._driver.line():
                self._say_lack()
        report = self._line_report(asked or None)
        named = [f.name for f in fields(Line) if getattr(asked, f.name) is not None]
        if asked and self._line == before and len(_unmet(asked, self._line)) == len(named):
            return Failed(why="refused", in_force=report, text=text, virtual=report.virtual)
        return report

    async def _set_modem(self, request: SetModem) -> Report:
        if request.dtr is None and request.rts is None:
            return self._output_report(await self._call(self._set_outputs, None, None))
        await self._let_go(request, drain=False)
        if not self._lines:
            self._say_lack()
        try:
            return self._output_report(await self._call(self._set_outputs, request.dtr, request.rts))
        except OSError as error:
            if error.errno in _GONE:
                raise
            in_force = self._output_report(await self._call(self._set_outputs, None, None))
            return Failed(why="refused", in_force=in_force, text=describe_os_error(error)[0])

    async def _set_break(self, request: SetBreak) -> Report:
        if request.on not in (None, self._break):
            on = bool(request.on)
            if self._driver.pty:
                await self._let_go(request, drain=True)
                self._say_lack()
            elif on and not await self._settled(drain=True):
                text = f"flow control holds {self._queued()} bytes, and a break goes only behind them"
                return Failed(why="timeout", in_force=await self._outputs_now(), text=text)
            else:
                if not on:
                    await self._let_go(request, drain=True)
                try:
                    await self._call(self._driver.set_break, on)
                except OSError as error:
                    if error.errno in _GONE:
                        raise
                    text = describe_os_error(error)[0]
                    return Failed(why="unsupported", in_force=await self._outputs_now(), text=text)
            self._break = on
        report = await self._outputs_now()
        return replace(report, virtual=True) if self._driver.pty else report

    async def _outputs_now(self) -> OutputReport:
        return self._output_report(await self._call(self._set_outputs, None, None))

    async def _purge(self, request: Purge) -> Report:
        if request.tx:
            self.discard()
        await self._call(functools.partial(self._driver.flush, rx=request.rx, tx=request.tx))
        if request.rx:
            self._posted = deque(event for event in self._posted if type(event) is not bytes)
            if self._marks is not None:
                self._marks.reset()
        return PurgeDone(rx=request.rx, tx=request.tx)

    # modem lines

    def _tick(self) -> None:
        """Called by the ticker: is it worth a look?"""
        self._ticks += 1
        try:
            counts = self._driver.counters()
        except OSError as error:
            if error.errno in _GONE:
                self._fail(error)
            return
        if counts is None or counts != self._counts or self._ticks % LEVELS_EVERY == 0:
            self._look.set()

    async def _watch(self) -> None:
        """Look at the lines when there may be news, until the port closes or is gone."""
        assert self._watch_ended is not None
        unsubscribe = _ticker.subscribe(self._tick)
        try:
            with self._watching:
                while True:
                    await self._look.wait()
                    self._look = trio.Event()
                    try:
                        bits = await self._call(self._driver.modem)
                        self._news(bits, self._driver.counters())
                    except OSError as error:
                        if error.errno in _GONE:  # else a USB message that went wrong: the next look tells
                            self._fail(error)
        except trio.ClosedResourceError:
            pass
        finally:
            unsubscribe()
            self._watch_ended.set()

    def _news(self, bits: int, counts: Counters | None) -> None:
        """Post what has changed since the last look."""
        if len(self._posted) >= NEWS_LIMIT:
            return
        levels = bits & (CTS | DSR | RI | DCD)
        changed: set[ModemLine] = {name for name, bit in _INPUTS if (levels ^ self._levels) & bit}
        if counts is not None and self._counts is not None:
            old = self._counts
            changed |= {name for name, _ in _INPUTS if getattr(counts, name) != getattr(old, name)}
            errors = ErrorReport(
                overrun=_grown(counts.overrun, old.overrun),
                buffer=_grown(counts.buffer, old.buffer),
                parity=0 if self._marks is not None else _grown(counts.parity, old.parity),
                framing=0 if self._marks is not None else _grown(counts.framing, old.framing),
            )
            if errors != ErrorReport():
                self.post(errors)
        self._counts = counts
        self._levels = levels
        if changed:
            self.post(self._modem_report(levels, frozenset(changed)))

    # closing

    def _put_back(self) -> None:
        """Break off, settings and lines as found, locks and device given back. Blocks; every step is tried."""
        with self._mutex:
            self._back = True
            driver = self._driver
            steps: list[Callable[[], object]] = []
            if self._break and not driver.pty:
                steps.append(lambda: driver.set_break(False))
            steps.append(self._restore)
            try:
                for step in steps:
                    try:
                        step()
                    except OSError:
                        pass  # the device is gone, or refuses what it had: there is nobody to tell and nothing to do
            finally:
                driver.close()

    def _restore(self) -> None:
        drops = self._driver.restore() and self._start.exclusive
        on = self._found_lines & self._moved_lines
        off = ~self._found_lines & self._moved_lines
        if drops:
            on = 0
        if on or off:
            self._driver.set_modem(on, off)

    async def _put_back_in_time(self) -> None:
        if self._driver.quick:
            self._put_back()
            return
        with trio.move_on_after(CLOSE_BOUND):
            await trio.to_thread.run_sync(self._put_back, abandon_on_cancel=True)

    async def aclose(self) -> None:
        """Close, and put back what was changed; see the module's text."""
        if self._closed:
            await trio.lowlevel.checkpoint()
            return
        self._closed = True
        for scope in (self._watching, self._sender, self._control, self._wakeup):
            if scope is not None:
                scope.cancel()
        with trio.CancelScope(shield=True):
            if self._watch_ended is not None:
                with trio.move_on_after(CLOSE_BOUND):
                    await self._watch_ended.wait()
            if self._gone is None:
                try:
                    await self._send_out()
                except OSError:
                    pass  # it went away meanwhile: nothing is left to be sent
            if self._writer is not None:
                self._writer.cancel()
            await self._put_back_in_time()
        await trio.lowlevel.checkpoint_if_cancelled()

    async def _send_out(self) -> None:
        """Let unsent bytes go for a while; drop and count the rest, since close(2) would wait for them."""
        if self._writer is not None:
            self._writer.cancel()
        limit = trio.current_time() + CLOSE_WAIT
        with trio.move_on_at(limit):
            while self._parked:
                await self._driver.wait_writable()
                self._move()
        if self._parked or not await self._settled(
            drain=True, closing=True, limit=max(0.0, limit - trio.current_time())
        ):
            dropped = self._queued()
            self.discard()
            await self._call(functools.partial(self._driver.flush, rx=False, tx=True))
            if dropped:
                self._note(f"{self.name}: {dropped} bytes could not be sent, and were dropped", 0)


def _grown(new: int, old: int) -> int:
    """By how much a 32-bit counter has grown."""
    return (new - old) & 0xFFFFFFFF


async def open_port(name: str, driver: Driver, start: Start, nursery: trio.Nursery, context: Context) -> SerialPort:
    """Make a port of an open driver. Raises OpenFailed; then, or cancelled, the driver is closed, and all as it was."""
    port = SerialPort(name, driver, start, note=context.note, reads=context.reads)
    try:
        await port._call(port._begin)
        port._stand(nursery)
    except BaseException as error:
        with trio.CancelScope(shield=True):
            await port._put_back_in_time()
        if isinstance(error, OSError):
            raise open_failed(name, error) from error
        raise
    return port


Switch: TypeAlias = Literal["on", "off", "keep"]
_SWITCH = choice("on", "off", "keep")
_SWITCHED: dict[Switch, bool | None] = {"on": True, "off": False, "keep": None}


def _parse_usb(text: str) -> find.UsbName:
    match = re.fullmatch(r"([0-9a-fA-F]{1,4}):([0-9a-fA-F]{1,4})(?::(.+))?", text)
    if match is None:
        raise BadValue(f"{text!r} is no USB adapter: VID:PID or VID:PID:SERIAL in hex, as 0403:6001:A50285BI")
    return find.UsbName(int(match[1], 16), int(match[2], 16), match[3] or "")


USB = Kind("VID:PID[:SERIAL]", _parse_usb, "VID:PID or VID:PID:SERIAL in hex, as 0403:6001:A50285BI")


def _parse_expression(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text, re.I)
    except re.error as error:
        raise BadValue(f"{text!r} is no regular expression: {error}") from None


EXPRESSION = Kind("REGEX", _parse_expression, "a regular expression")


def _parse_device(text: str) -> str:
    if not text:
        raise BadValue("a device is missing, as /dev/ttyUSB0")
    return os.path.expanduser(text)


DEVICE = Kind("DEVICE", _parse_device, "a path, a name under /dev, or one under /dev/serial/by-id")


def _ports_there_are() -> str:
    devices = [port.device for port in find.list_ports()]
    return f"there are: {', '.join(devices)} (see serpipe ports)" if devices else "this machine has no serial port"


def _group_of(path: str) -> str:
    try:
        return grp.getgrgid(os.stat(path).st_gid).gr_name
    except (OSError, KeyError):
        return ""


def _cannot_open(path: str, error: OSError) -> OpenFailed:
    if error.errno in (errno.ENOENT, errno.ENXIO, errno.ENODEV) and not os.path.exists(path):
        return OpenFailed(path, "no such device", _ports_there_are())
    if error.errno == errno.EACCES and (group := _group_of(path)) not in ("", "root"):
        return OpenFailed(path, f"permission denied: it is for the group {group}", f"usermod -aG {group} $USER")
    if error.errno == errno.EIO and not path.startswith("/dev/pts/"):  # a number that no UART stands behind
        return OpenFailed(path, "no hardware answers there", _ports_there_are())
    return open_failed(path, error)


@endpoint("serial", summary="a serial port of this machine", example="serial:/dev/ttyUSB0,115200")
@dataclass(frozen=True, kw_only=True)
class Serial(LineOptions, EndpointSpec):
    """A serial port, by its device, its name under /dev/serial/by-id, or its USB numbers. A path to a tty means it too.

    Settings that are not given stay as the device has them, and all are put back at the end. DTR and RTS rise when Linux
    opens a port, whatever a program does; dtr=off and rts=off drop them right after.
    """

    device: str | None = opt(None, DEVICE, "the device: a path, or a name under /dev or /dev/serial/by-id", body=True)
    usb: find.UsbName | None = opt(None, USB, "the port of this USB adapter, wherever it is plugged in")
    grep: re.Pattern[str] | None = opt(
        None, EXPRESSION, "the first port in whose device, description or VID:PID=... this is found, as hwgrep:// does"
    )
    dtr: Switch = opt("keep", _SWITCH, "DTR at the start; keep: as the opening leaves it")
    rts: Switch = opt("keep", _SWITCH, "RTS at the start; keep: as the opening leaves it")
    hupcl: Switch = opt("keep", _SWITCH, "whether DTR and RTS drop when the last program closes the port; stays so")
    exclusive: bool = opt(True, FLAG, "refuse to share the port: flock, UUCP lock file, TIOCEXCL")

    caps: ClassVar[Caps] = Caps(role="port", held=True)

    def __post_init__(self) -> None:
        given = [key for key in ("device", "usb", "grep") if getattr(self, key) is not None]
        if not given:
            raise BadValue("a device is missing, as serial:/dev/ttyUSB0, or usb=VID:PID", "device")
        if len(given) > 1:
            raise BadValue(f"the port is named by {given[0]} already", given[1])

    def describe(self) -> str:
        """``serial /dev/ttyUSB0 115200 8N1 flow=none``; only the settings that were given."""
        return " ".join(filter(None, ("serial", self._port_name, format_line(self.line))))

    @property
    def _port_name(self) -> str:
        if self.usb is not None:
            return f"usb={self.usb}"
        return self.device or (f"grep={self.grep.pattern}" if self.grep is not None else "")

    def find(self) -> str:
        """The device's path. Raises OpenFailed where no port fits, or more than one adapter fits `usb`."""
        if self.device is not None:
            return find.device_path(self.device)
        ports = find.list_ports()
        if self.grep is not None:
            found = next((port.device for port in ports if self.grep.search(port.words)), "")
            if not found:
                raise OpenFailed(self._port_name, "found in no port's name or description", _ports_there_are())
            return found
        usb = self.usb
        assert usb is not None
        fitting = [port for port in ports if usb.matches(port)]
        if len(fitting) == 1:
            return fitting[0].device
        if fitting:
            which = ", ".join(f"{p.device} ({p.by_path or p.serial or p.description})" for p in fitting)
            cure = "add the serial number, or name the device"
            raise OpenFailed(self._port_name, f"{len(fitting)} ports fit: {which}", cure)
        there = ", ".join(f"{p.device} {find.UsbName(p.vid or 0, p.pid or 0, p.serial)}" for p in ports if p.usb)
        cure = f"there are: {there}" if there else "no USB serial port is plugged in"
        raise OpenFailed(self._port_name, "no such adapter", cure)

    def _open_driver(self, token: trio.lowlevel.TrioToken) -> Driver:
        path = self.find()
        try:
            return open_driver(path, exclusive=self.exclusive, token=token)
        except Busy as error:
            cure = "end that program, or share the port with exclusive=off"
            raise OpenFailed(path, str(error), cure) from error
        except OSError as error:
            raise _cannot_open(path, error) from error

    async def open(self, nursery: trio.Nursery, context: Context) -> SerialPort:
        """Open and lock the port. Raises OpenFailed, and then leaves it as it was."""
        start = Start(
            line=self.line,
            dtr=_SWITCHED[self.dtr],
            rts=_SWITCHED[self.rts],
            hupcl=_SWITCHED[self.hupcl],
            exclusive=self.exclusive,
        )
        driver = await trio.to_thread.run_sync(self._open_driver, trio.lowlevel.current_trio_token())
        return await open_port(driver.path, driver, start, nursery, context)
