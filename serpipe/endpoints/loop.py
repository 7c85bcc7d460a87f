"""`loop:`, a built-in serial port that wears a loopback plug and needs no hardware.

Theory of operation
-------------------
The plug joins TX to RX, RTS to CTS, and DTR to DSR and CD, so what is sent comes back, and everything a port can be asked
can be tried and tested anywhere. Bytes go through a transmit FIFO of `TX_SIZE`; `send()` waits where it is full. A byte
appears at RX when its last bit would have left the line: at the rate and format in force, or at once with `realtime=off`.

There is no task behind this. Time is read, not kept: whoever looks at the port (`receive`, a `send` that waits, a drain)
first calls `_advance()`, which moves the characters whose time has come from the FIFO to the receive side, and sleeps
until the next moment that matters to it. Due times are absolute, so nothing drifts, and a sleep is never shorter than
`TICK` unless the last character in the FIFO is due, so a fast line costs no wake-up per byte.

Received bytes and reports stand in one queue, which is what keeps them in order. When `RX_SIZE` bytes wait there
unread, the transmitter stops until somebody reads. A UART without flow control would overrun here; this line never loses a
byte, as if its flow control always worked, and that holds for bytes sent while a break is on, too.

What a control waits for is what `endpoints/base.py` and the laws ask of any port: a change of settings or of the break
waits until the FIFO is empty, one deadline long at most; modem lines act at once behind the bytes already sent; a purge
acts on everything before it.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import ClassVar

import trio

from serpipe import __version__
from serpipe.endpoints.base import Caps, Context, Endpoint, EndpointSpec, Note
from serpipe.events import (
    BreakReport,
    Drain,
    Drained,
    Event,
    Failed,
    GetModem,
    GetSignature,
    Line,
    LineReport,
    ModemLine,
    ModemReport,
    Opened,
    OutputReport,
    Purge,
    PurgeDone,
    Request,
    SetBreak,
    SetLine,
    SetModem,
    Signature,
)
from serpipe.options import FLAG, opt
from serpipe.protocol.line import LineOptions, format_line
from serpipe.registry import endpoint

TX_SIZE = 4096
"""Bytes in the transmit FIFO, the size of a Linux tty's."""
RX_SIZE = 65536
"""Bytes received and not yet read, at which the transmitter stops."""
TICK = 0.002
"""Seconds between two batches of bytes at a rate faster than one per tick."""
EOF_GRACE = 10.0
"""Seconds without progress after which the end of the stream is no longer waited for."""
GRACE = 1.0
"""Seconds beyond the line time of what is queued that a control waits before it overtakes."""
TURNS = 32

_DEFAULT = Line(9600, 8, "none", 1.0, "none")
_CHAR_SLACK = 1e-6
"""Part of a character by which a clock may be early (float rounding) and the character still counts as gone."""


def _refusal(wanted: Line) -> str:
    """Why no UART has these settings; "" where one might."""
    if wanted.baud is not None and not 0 < wanted.baud < 2**32:
        return f"{wanted.baud} is no bit rate: 1 to 4294967295"
    if wanted.bytesize is not None and wanted.bytesize not in (5, 6, 7, 8):
        return f"{wanted.bytesize} is no number of data bits: 5, 6, 7 or 8"
    if wanted.stopbits is not None and wanted.stopbits not in (1, 1.5, 2):
        return f"{wanted.stopbits:g} is no number of stop bits: 1, 1.5 or 2"
    if wanted.flow_in == "dcd":
        return "DCD can stop only the outbound flow"
    return ""


class LoopPort(Endpoint):
    """The port. See the module's text for what it does with bytes, settings and lines."""

    caps = Caps(role="port", held=True)

    def __init__(self, name: str, line: Line, *, realtime: bool = True, reads: bool = True, note: Note) -> None:
        super().__init__(name)
        self.title = f"{name} {format_line(line)}"
        self._note = note
        self._realtime = realtime
        self._reads = reads
        self._line = line
        self._dtr = True
        self._rts = True
        self._break = False
        self._fifo: deque[memoryview] = deque()
        self._queued = 0
        self._started = 0.0
        """When the first character in the FIFO began to leave."""
        self._received = 0
        """Bytes that wait in `_posted`."""
        self._handed_at = -math.inf
        """When bytes were received last."""
        self._held = memoryview(b"")
        """What a `send` in progress has not yet put into the FIFO."""
        self._sender: trio.CancelScope | None = None
        """The wait of the `send` in progress."""
        self._control_waits = False
        self._turn = 0
        self.post(Opened(peer=name))
        self.post(LineReport(values=line))
        self.post(self._output())
        self.post(self._modem())

    # the line

    @property
    def _char_time(self) -> float:
        return self._line.line_time(1) if self._realtime else 0.0

    @property
    def _rx_room(self) -> int:
        return RX_SIZE - self._received

    def _advance(self) -> None:
        """Move the characters whose last bit has gone by now to the receive side."""
        if not self._queued:
            return
        now = trio.current_time()
        char_time = self._char_time
        gone = self._queued
        if char_time:
            gone = min(gone, int((now - self._started) / char_time + _CHAR_SLACK))
        if gone >= self._rx_room:  # stopped: the next character begins when there is room again
            gone = self._rx_room
            self._started = now
        else:
            self._started += gone * char_time
        if gone:
            self._queued -= gone
            self._deliver(self._pop(gone))

    def _pop(self, count: int) -> bytes:
        """The first `count` bytes of the FIFO's chunks."""
        parts = []
        while count:
            first = self._fifo.popleft()
            if len(first) > count:
                self._fifo.appendleft(first[count:])
                first = first[:count]
            parts.append(first)
            count -= len(first)
        return b"".join(parts)

    def _deliver(self, data: bytes) -> None:
        if not self._reads:
            return
        self._posted.append(data)
        self._received += len(data)
        if self._wakeup is not None:
            self._wakeup.cancel()

    def _due(self, count: int) -> float:
        """When `count` more characters will have left, as far as the receive side has room; inf where it has none."""
        count = min(count, self._queued, self._rx_room)
        return self._started + count * self._char_time if count > 0 else math.inf

    def _next_batch(self) -> float:
        """When there is something to hand over again: a tick after the last, or when the FIFO is empty."""
        return min(max(self._due(1), self._handed_at + TICK), self._due(self._queued))

    def _take(self) -> bytes | None:
        if trio.current_time() < self._next_batch():
            return None
        self._advance()
        if not self._posted:
            return None
        data = self._posted.popleft()
        assert type(data) is bytes  # the queue was empty, and _advance adds nothing else
        return data

    async def _wait(self) -> None:
        await trio.sleep_until(self._next_batch())

    async def _breathe(self) -> None:
        self._turn += 1
        if self._turn % TURNS:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await trio.lowlevel.checkpoint()

    async def receive(self) -> Event:
        """The next event; bytes that stand together come together. Cancelled, it has taken nothing."""
        event = await super().receive()
        if type(event) is bytes:
            parts = [event]
            while self._posted and type(more := self._posted[0]) is bytes:
                parts.append(more)
                self._posted.popleft()
            event = b"".join(parts)
            self._handed_at = trio.current_time()
            if not self._rx_room:  # the transmitter was stopped, and goes on now
                self._started = self._handed_at
                self._wake_sender()
            self._received -= len(event)
        return event

    # sending

    def _wake_sender(self) -> None:
        if self._sender is not None:
            self._sender.cancel()

    async def _pause(self, count: int) -> None:
        """Until `count` characters have left, or somebody read, purged or closed."""
        with trio.CancelScope() as self._sender:
            await trio.sleep_until(self._due(count))
        self._sender = None
        if self._closed:
            raise trio.ClosedResourceError
        self._advance()

    async def _send_bytes(self, data: bytes) -> None:
        self._held = memoryview(data)  # before the checkpoint: a discard() there must find it
        await self._breathe()
        try:
            while self._held:
                self._advance()
                room = TX_SIZE - self._queued
                wanted = min(len(self._held), TX_SIZE // 2)  # not each byte as its place becomes free
                if room >= wanted:
                    self._put(self._held[:room])
                    self._held = self._held[room:]
                else:
                    await self._pause(wanted - room)
        finally:
            self._held = memoryview(b"")

    def _put(self, data: memoryview) -> None:
        if not self._queued:
            self._started = trio.current_time()
            if self._wakeup is not None:  # the receiver slept without a time to wake at
                self._wakeup.cancel()
        self._fifo.append(data)
        self._queued += len(data)
        self._advance()

    async def _send_eof(self) -> None:
        queued = self._queued + 1
        while self._queued < queued:  # for as long as somebody reads what comes out
            queued = self._queued
            if await self._drained(EOF_GRACE):
                return

    async def _drained(self, grace: float = GRACE) -> bool:
        """Wait until the FIFO is empty, `grace` seconds beyond its line time at most; whether it is."""
        self._advance()
        self._control_waits = True
        try:
            with trio.move_on_after(self._queued * self._char_time + grace):
                while self._queued:
                    await self._pause(self._queued)
        finally:
            self._control_waits = False
        return not self._queued

    async def _written(self, request: Request) -> None:
        """Wait for the bytes before a control, and say so where it has to overtake them."""
        if not await self._drained():
            word = type(request).__name__
            self._note(f"{self.name}: {word} overtakes {self._queued} bytes that nobody reads", 0)

    def discard(self) -> int:
        """Drop what a `send()` in progress holds: its bytes, or those that its control waits for."""
        dropped = len(self._held)
        self._held = memoryview(b"")
        if self._control_waits:
            dropped += self._drop_fifo()
        self._wake_sender()
        return dropped

    def _drop_fifo(self) -> int:
        self._advance()
        dropped, self._queued = self._queued, 0
        self._fifo.clear()
        return dropped

    # controls

    def _output(self) -> OutputReport:
        return OutputReport(dtr=self._dtr, rts=self._rts, break_=self._break)

    def _modem(self, changed: frozenset[ModemLine] = frozenset()) -> ModemReport:
        return ModemReport(cts=self._rts, dsr=self._dtr, dcd=self._dtr, changed=changed)

    async def _request(self, request: Request) -> None:
        match request:
            case SetLine():
                await self._set_line(request)
            case SetModem():
                self._set_modem(request)
            case SetBreak():
                await self._set_break(request)
            case GetModem():
                self._advance()
                self.answer(request, self._modem())
            case Purge():
                self._purge(request)
            case Drain():
                gone = await self._drained()
                text = "" if gone else f"{self._queued} bytes wait, and nobody reads what came before"
                self.answer(request, Drained() if gone else Failed(why="timeout", text=text))
            case GetSignature():
                self._advance()
                self.answer(request, Signature(text=f"serpipe {__version__} loop".encode()))
            case _:
                await super()._request(request)

    async def _set_line(self, request: SetLine) -> None:
        wanted = request.line
        if text := _refusal(wanted):
            self._advance()
            self.answer(request, Failed(why="refused", in_force=LineReport(values=self._line), text=text))
            return
        if wanted.over(self._line) != self._line:
            await self._written(request)
            self._line = wanted.over(self._line)
            self._started = trio.current_time()  # what a deadline left in the FIFO goes at the new rate, from its start
        else:
            self._advance()
        self.answer(request, LineReport(values=self._line, requested=wanted or None))

    def _set_modem(self, request: SetModem) -> None:
        self._advance()
        changed: set[ModemLine] = set()
        if request.rts not in (None, self._rts):
            self._rts = not self._rts
            changed.add("cts")
        if request.dtr not in (None, self._dtr):
            self._dtr = not self._dtr
            changed |= {"dsr", "dcd"}
        self.answer(request, self._output())
        if changed:
            self.post(self._modem(frozenset(changed)))

    async def _set_break(self, request: SetBreak) -> None:
        changes = request.on not in (None, self._break)
        if changes:
            await self._written(request)
            self._break = not self._break
        else:
            self._advance()
        self.answer(request, self._output())
        if changes:
            self.post(BreakReport(on=self._break))

    def _purge(self, request: Purge) -> None:
        if request.tx:
            self._drop_fifo()
        else:
            self._advance()
        if request.rx:
            self._posted = deque(event for event in self._posted if type(event) is not bytes)
            self._received = 0
        self.answer(request, PurgeDone(rx=request.rx, tx=request.tx))

    async def aclose(self) -> None:
        """Close. What waits in `receive()` or `send()` gets ClosedResourceError; nothing is left behind."""
        self._closed = True
        self._wake_sender()
        await super().aclose()


@endpoint(
    "loop",
    summary="a built-in serial port with a loopback plug, for trying and testing without hardware",
    example="loop:,115200",
)
@dataclass(frozen=True, kw_only=True)
class Loop(LineOptions, EndpointSpec):
    """A serial port that needs no hardware: what is sent comes back.

    RTS is joined to CTS, and DTR to DSR and CD. Every rate, format and flow control is taken and reported (9600 8N1
    flow=none at the start), a break comes back as one, and bytes take the time that they would take on a line at the
    settings in force.
    """

    realtime: bool = opt(True, FLAG, "take the time a real line would; off: as fast as it goes")

    caps: ClassVar[Caps] = Caps(role="port", held=True)

    def describe(self) -> str:
        """``loop: 115200 8N1 flow=none``."""
        return f"loop: {format_line(self.line.over(_DEFAULT))}" + ("" if self.realtime else " realtime=off")

    async def open(self, nursery: trio.Nursery, context: Context) -> LoopPort:
        """Open it. Needs no task and cannot fail."""
        await trio.lowlevel.checkpoint()
        line = self.line.over(_DEFAULT)
        return LoopPort("loop:", line, realtime=self.realtime, reads=context.reads, note=context.note)
