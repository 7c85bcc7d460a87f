"""An endpoint in memory: what a test feeds it is received, what it is sent is kept, and it blocks when told to."""

from __future__ import annotations

from dataclasses import replace

import trio

from serpipe.endpoints.base import Caps, Endpoint
from serpipe.events import (
    Drain,
    Drained,
    Eof,
    GetModem,
    GetSignature,
    LineReport,
    ModemReport,
    OutputReport,
    Purge,
    PurgeDone,
    SetBreak,
    SetLine,
    SetModem,
    Signature,
)

PORT = Caps(role="port")
CONTROLLER = Caps(role="controller")
PLAIN = Caps()
TWO_WAY = Caps(half_close=True)


def answer_to(request):
    """What a port that can do everything answers."""
    match request:
        case SetLine():
            report = LineReport(values=request.line, requested=request.line)
        case SetModem():
            report = OutputReport(dtr=request.dtr, rts=request.rts)
        case SetBreak():
            report = OutputReport(break_=request.on)
        case GetModem():
            report = ModemReport()
        case Purge():
            report = PurgeDone(rx=request.rx, tx=request.tx)
        case Drain():
            report = Drained()
        case GetSignature():
            report = Signature(text=b"memory")
    return replace(report, answers=request.ref)


class MemoryEndpoint(Endpoint):
    """`feed` gives it what `receive` will give; `got` is what it was sent; `block()` makes sends wait for `unblock()`."""

    def __init__(self, name="memory", caps=TWO_WAY):
        super().__init__(name)
        self.caps = caps
        self.got = []
        self.held = b""
        self.failure = None
        self.finished = False
        self.taken = 0
        self._gate = trio.Event()
        self._gate.set()
        self._changed = trio.Event()

    def feed(self, *events):
        for event in events:
            if isinstance(event, ModemReport):
                self._posted.append(event)  # as one that was not yet read: coalescing is the lane's here
                self._wake()
            else:
                self.post(event)

    def _wake(self):
        if self._wakeup is not None:
            self._wakeup.cancel()

    def fail(self, error):
        self.failure = error
        self._wake()

    def block(self):
        if self._gate.is_set():
            self._gate = trio.Event()

    def unblock(self):
        self._gate.set()

    @property
    def data(self):
        return b"".join(event for event in self.got if type(event) is bytes)

    async def until(self, condition):
        """Wait until `condition(self)` holds after something was sent."""
        while not condition(self):
            self._changed = trio.Event()
            await self._changed.wait()

    async def receive(self):
        event = await super().receive()
        self.taken += 1
        return event

    def _take(self):
        if self.failure is not None:
            raise self.failure
        return None

    async def _wait(self):
        await trio.sleep_forever()

    def _keep(self, event):
        self.got.append(event)
        self._changed.set()

    async def _send_bytes(self, data):
        self.held = data
        while self.held and not self._gate.is_set():
            await self._gate.wait()
        if self.held:
            self._keep(self.held)
            self.held = b""
        await trio.lowlevel.checkpoint()

    def discard(self):
        dropped = len(self.held)
        self.held = b""
        if dropped:
            self._gate.set()
        return dropped

    async def _request(self, request):
        self._keep(request)
        if self.caps.role == "port":
            self.post(answer_to(request))
        else:
            await super()._request(request)

    async def _report(self, report):
        self._keep(report)

    async def _send_eof(self):
        self._keep(Eof())

    async def finish(self):
        self.finished = True
