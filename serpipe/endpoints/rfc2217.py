"""`rfc2217:` and `rfc2217-listen:`: a serial port across a network, from both ends.

Theory of operation
-------------------
Thin over `protocol/rfc2217.py`, which knows the protocol; here are the carrier (TCP unless told otherwise), tasks and time.

One writer. What is sent leaves in `send()`, under a lock, in pieces of `PIECE` bytes: each is encoded just before it is
written, so that `discard()` drops what has not been encoded yet and never cuts a command or a doubled IAC in two. What the
codec has to say by itself (negotiation, masks) is written by a small task, so that `receive()` never waits for a peer that
does not read; while more than `BACKLOG` bytes of that are waiting, the peer is not read either. A write that is
cancelled leaves its unwritten rest to the next one.

`receive()` is the base class's: it waits in `_wait`, which reads the carrier, feeds the codec and posts what comes out; the
codec's deadline is the deadline of that wait, and moves with every request sent.

The client opens like this: greeting; COM-PORT agreed, or an error that tells a mute server, one that refuses, one that
closes, one that says it is busy and one that is not Telnet from each other; settings and lines that were asked for, and
then how the port stands. Nothing is set that was not asked for. The questions are one burst: they take one round trip.

Order (`order=strict`). A server that is not serpipe may apply a setting before it has sent the bytes that came before it,
or while it still reads those that came after. So before a change of the line the client waits out the line time of what it
sent, and data behind it waits for the answer. Requests are not held back: a burst of them is sent as a burst.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import trio

from serpipe._fdio import FdIO
from serpipe.endpoints.base import Caps, CodecSpec, Context, Endpoint, FdEndpoint, Listener, Side
from serpipe.errors import EndpointLost, OpenFailed, PeerRefused, SerpipeError, TimedOut
from serpipe.events import (
    BreakReport,
    Drain,
    Eof,
    ErrorReport,
    Event,
    Failed,
    GetModem,
    Hangup,
    LineReport,
    Opened,
    PurgeDone,
    Report,
    Request,
    SetBreak,
    SetLine,
    SetModem,
)
from serpipe.options import DURATION, FLAG, TEXT, choice, opt
from serpipe.protocol.comport import LINE_QUERY, virtual_modem
from serpipe.protocol.line import LineOptions, format_line
from serpipe.protocol.policy import PolicyOptions
from serpipe.protocol.rfc2217 import PENDING_LIMIT, SERVER_BUFFERS, Client, Codec, Server
from serpipe.registry import codec

PIECE = 16384
"""Bytes of data that are encoded and written at once."""
BACKLOG = 65536
"""Bytes of our own waiting to be written, beyond which the peer is not read."""
KEPT = 64
"""Events that a waiting `send()` reads ahead."""
OTHER_WAY = 1.0
"""Seconds that a server which refused our WILL has to answer our DO."""
EARLY_LIMIT = 1 << 20
"""Bytes that may come while a client is still opening; then it goes on with what it knows."""
NOT_TELNET = 65536
"""Bytes without one Telnet command, after which nothing is waited for any more."""


class CodecEndpoint(Endpoint):
    """A codec over a carrier: what both roles share."""

    def __init__(self, name: str, carrier: Endpoint, codec: Codec) -> None:
        super().__init__(name)
        self.carrier = carrier
        self._codec = codec
        self._lock = trio.Lock()
        self._rest = memoryview(b"")
        self._unwritten = b""
        self._torn = False
        self._kick = trio.Event()
        self._moved = trio.Event()
        self._hold: trio.CancelScope | None = None
        self._life = trio.CancelScope()
        self._reading = False
        self._error: EndpointLost | None = None
        self._peer_ended = False
        self._ended = False
        self._deaf = False
        """The peer takes nothing any more."""
        self._received = 0

    # the wire to us

    def _take(self) -> bytes | None:
        return None

    async def _wait(self) -> None:
        if self._reading:  # a `send()` that waits for the peer reads meanwhile
            await self._moved.wait()
            return
        self._set_alarm()
        self._reading = True
        try:
            await self._read()
        finally:
            self._reading = False
            self._progress()

    async def _read(self) -> None:
        """One step: the codec's alarm, or what the carrier gives. Raises EndpointLost once that has been told."""
        now = trio.current_time()
        if self._codec.deadline <= now:
            self._deliver(self._codec.tick(now))
            return
        if self._error is not None:
            raise self._error
        while self._full() and not self._deaf:
            await self._moved.wait()
        try:
            event = await self.carrier.receive()
        except trio.EndOfChannel:
            event = Eof()
        except EndpointLost as error:
            self._peer_ended = True
            self._deliver(self._codec.eof(trio.current_time()))
            self._hang_up(error)
            self._error = error
            return
        now = trio.current_time()
        if type(event) is bytes:
            self._received += len(event)
            self._deliver(self._codec.receive(event, now))
        elif type(event) is Eof:
            self._peer_ended = True
            self._deliver(self._codec.eof(now))
            self._peer_eof()
        if self._codec.backlog:
            self._kick.set()

    def broken(self) -> EndpointLost | None:
        return self.carrier.broken()

    def _full(self) -> bool:
        """Nothing more may be read now."""
        return self._codec.backlog > BACKLOG

    def _peer_eof(self) -> None:
        """The peer sends no more."""
        self.post(Eof())

    def _hang_up(self, error: EndpointLost) -> None:
        """The carrier broke."""

    def _set_alarm(self) -> None:
        if self._wakeup is not None:
            self._wakeup.deadline = self._codec.deadline

    def _deliver(self, events: list[Event]) -> None:
        for event in events:
            self.post(event)

    def _progress(self) -> None:
        """Let what waits for something from the peer look again."""
        if self._moved.statistics().tasks_waiting:
            self._moved.set()
            self._moved = trio.Event()

    async def _until(self, condition: Callable[[], bool], seconds: float = math.inf) -> None:
        """Wait for the peer to make `condition` true; `discard()` ends it as time does.

        Nobody may be in `receive()`, or the other lane may be blocked; then this reads, and keeps the events.
        """
        if condition():
            return
        with trio.move_on_after(seconds) as self._hold:
            while not condition():
                if self._reading or len(self._posted) >= KEPT:
                    await self._moved.wait()
                else:
                    with trio.move_on_at(self._codec.deadline):
                        await self._wait()
        self._hold = None

    # us to the wire

    async def write_own(self) -> None:
        """The task that writes what nobody's `send()` does, until the endpoint is closed."""
        with self._life:
            while True:
                await self._kick.wait()
                self._kick = trio.Event()
                try:
                    await self._flush()
                except (EndpointLost, trio.ClosedResourceError):
                    self._deaf = True  # what it still sends is read on, to learn how it ended
                    self._progress()
                    return

    async def _flush(self) -> None:
        """Write what the codec has. Raises EndpointLost."""
        if not (self._codec.backlog or self._unwritten):
            return
        try:
            self._lock.acquire_nowait()
        except trio.WouldBlock:
            await self._lock.acquire()
        try:
            while data := self._unwritten + self._codec.outgoing():
                if self._torn:
                    raise EndpointLost(self.name, "a write was cut short when it was cancelled", "open it again")
                self._unwritten = b""
                try:
                    await self.carrier.send(data)
                except trio.Cancelled:
                    self._keep_unwritten(data)
                    raise
        finally:
            self._lock.release()
        self._progress()

    def _keep_unwritten(self, data: bytes) -> None:
        """What a cancelled write left must go out before anything else, or the stream is torn inside a command."""
        if isinstance(self.carrier, FdEndpoint) and isinstance(self.carrier.io, FdIO):
            self._unwritten = data[len(data) - self.carrier.io.unsent :]
        else:
            self._torn = True

    async def _send_bytes(self, data: bytes) -> None:
        self._rest = memoryview(data)
        try:
            while self._rest:
                await self._ready()
                if len(self._rest) <= PIECE:
                    piece = data if len(self._rest) == len(data) else bytes(self._rest)
                else:
                    piece = bytes(self._rest[:PIECE])
                self._rest = self._rest[PIECE:]
                if piece:
                    self._codec.send(piece, trio.current_time())
                    await self._flush()
        finally:
            self._rest = memoryview(b"")
        await trio.lowlevel.checkpoint_if_cancelled()

    async def _ready(self) -> None:
        """Until data may be sent."""
        while self._codec.suspended and self._rest and not self._peer_ended:
            await self._until(lambda: not self._codec.suspended or self._peer_ended)

    def discard(self) -> int:
        """Drop the data that is not encoded yet. What is being written goes out whole, or its framing would be torn."""
        dropped = len(self._rest)
        self._rest = memoryview(b"")
        if self._hold is not None:
            self._hold.cancel()
        return dropped

    async def _end(self) -> None:
        """Half-close, once, behind everything that is still to be written."""
        if not self._ended:
            self._ended = True
            await self._flush()
            await self.carrier.send(Eof())

    async def finish(self) -> None:
        """Half-close; a peer that has gone meanwhile needs no telling."""
        try:
            await self._end()
        except EndpointLost:
            pass

    async def aclose(self) -> None:
        """Close the connection. Idempotent."""
        self._life.cancel()
        with trio.CancelScope(shield=True):
            await self.carrier.aclose()
        await super().aclose()


# --- the client -------------------------------------------------------------------------------------------------------

_Asked = Literal["on", "off", "keep"]
_KEEP = choice("on", "off", "keep")


class Rfc2217Endpoint(CodecEndpoint):
    """A connection to an RFC 2217 server: a port."""

    linger = 5.0

    def __init__(self, name: str, carrier: Endpoint, spec: Rfc2217, context: Context) -> None:
        def log(text: str) -> None:
            context.note(f"{name}: {text}", 1)

        self.codec = Client(timeout=spec.timeout, poll=spec.poll_modem, trust_control=spec.ign_set_control, log=log)
        super().__init__(name, carrier, self.codec)
        self.caps = spec.caps_in(context.side)
        self.where = carrier.where
        self._spec = spec
        self._note = context.note
        self._private: dict[int, Report | None] = {}
        self._refused = False
        self._sent_data = False
        self._done_sending = False
        self._break_on = False

    # opening

    async def _step(self) -> None:
        """What `receive()` does in its wait, for as long as nobody receives yet."""
        with trio.CancelScope() as self._wakeup:
            await self._wait()
        self._wakeup = None

    async def _flush_or_read(self) -> None:
        """Write; where the server has closed already, what it said before is still to be read, and says why."""
        try:
            await self._flush()
        except EndpointLost:
            pass

    async def negotiate(self) -> None:
        """Agree on COM-PORT. Raises OpenFailed, PeerRefused, TimedOut."""
        spec = self._spec
        self.codec.start(trio.current_time())
        await self._flush_or_read()
        with trio.move_on_after(spec.negotiate_timeout) as patience:
            while not (self.codec.active or self._peer_ended):
                if self.codec.refused:
                    if self._refused:
                        break
                    self._refused = True
                    self.codec.offer_server_role(trio.current_time())
                    patience.deadline = min(patience.deadline, trio.current_time() + OTHER_WAY)
                    await self._flush_or_read()
                if self._received > (EARLY_LIMIT if self.codec.heard else NOT_TELNET):
                    break
                await self._step()
            while self.codec.unsure and not self._peer_ended:
                with trio.move_on_after(0.05) as short:
                    await self._step()
                if short.cancelled_caught:
                    break
        if self.codec.is_echo:
            raise PeerRefused(
                self.name,
                "what is sent there comes back: it is a loop, not an RFC 2217 server",
                "check the port number; for a raw TCP port use tcp:, or fallback=raw",
            )
        if not self.codec.active:
            raise self._failure()

    def _failure(self) -> SerpipeError:
        """Why there is no COM-PORT."""
        wait = f"{self._spec.negotiate_timeout:g} s"
        if self._peer_ended:
            return self._closed_early()
        if self._refused:
            return PeerRefused(
                self.name,
                "the server speaks Telnet and refuses RFC 2217 (COM-PORT)",
                "allow it there (ser2net: telnet(rfc2217)), or go on without settings: fallback=telnet",
            )
        if self.codec.heard:
            return TimedOut(
                self.name,
                f"the server speaks Telnet and did not answer about RFC 2217 (COM-PORT) within {wait}",
                "negotiate-timeout= waits longer; fallback=telnet goes on without settings",
            )
        if self._received:
            return PeerRefused(
                self.name,
                "what came from there is not Telnet",
                "it looks like a plain TCP port: use tcp: for its bytes, or fallback=raw",
            )
        return TimedOut(
            self.name,
            f"connected, and the server said nothing within {wait}",
            "its device may be stuck or in use; if it is a plain TCP port, use tcp:, or fallback=raw",
        )

    def _closed_early(self) -> OpenFailed:
        text = b"".join(event for event in self._posted if type(event) is bytes)
        if text.strip():
            said = text[:200].decode("ascii", "backslashreplace").strip().replace("\r", "").replace("\n", " / ")
            return OpenFailed(
                self.name,
                f"the server closed the connection, saying: {said}",
                "if the port is in use, end its other client, or try again later",
            )
        return OpenFailed(
            self.name,
            "the server closed the connection at once",
            "it may have another client, or no device: its log says",
        )

    async def settle(self) -> None:
        """Set what was asked for, and learn how the port stands: its first events. Raises OpenFailed."""
        spec, codec = self._spec, self.codec
        wanted: list[Request] = []
        if spec.line:
            wanted.append(SetLine.of(spec.line))
        if spec.dtr != "keep" or spec.rts != "keep":
            wanted.append(SetModem(dtr=_switch(spec.dtr), rts=_switch(spec.rts)))
        requests = [*wanted, SetLine(), SetModem(), GetModem()]
        self._private.update({request.ref: None for request in requests})
        now = trio.current_time()
        if codec.is_serpipe:
            codec.introduce(now)
        codec.watch_line(now)
        self._deliver(codec.probe(requests, now))
        await self._flush_or_read()
        while None in self._private.values() and self._received < EARLY_LIMIT and not self._peer_ended:
            await self._step()
        if self._peer_ended:
            raise self._closed_early()
        for request in wanted:
            self._say_unless_done(request, self._private[request.ref])
        self._private.clear()
        if not any(name in codec.told for name in LINE_QUERY):
            self._note(f"{self.name}: the server agrees to RFC 2217, and answers nothing: settings are not known", 0)
        self._introduce()

    def _introduce(self) -> None:
        """The first events, before whatever came meanwhile; of the reports only those that say what is not in them."""
        codec = self.codec
        kept = [e for e in self._posted if not isinstance(e, Report) or isinstance(e, BreakReport | ErrorReport)]
        modem = codec.modem or virtual_modem()
        self._posted = deque(
            [
                Opened(peer=self.where or self.name),
                LineReport(values=codec.line, virtual=not any(name in codec.told for name in LINE_QUERY)),
                replace(codec.outputs, answers=None, virtual=not ("dtr" in codec.told or "rts" in codec.told)),
                replace(modem, answers=None, changed=frozenset()),
                *kept,
            ]
        )
        line = format_line(codec.line)
        found = "" if self._spec.line or not line else " (as found)"
        self.title = f"{self.name} {line}{found}".rstrip()

    def _say_unless_done(self, request: Request, answer: Report | None) -> None:
        if isinstance(answer, Failed):
            self._note(f"{self.name}: {answer.text}", 0)
        elif isinstance(request, SetLine) and isinstance(answer, LineReport):
            refused = answer.values.changes(request.line)
            if refused:
                self._note(
                    f"{self.name}: asked for {format_line(request.line)}, in force is {format_line(answer.values)}", 0
                )

    def go_without(self, why: SerpipeError, how: str) -> None:
        """Go on as plain Telnet, or with no protocol at all."""
        if how == "raw":
            self.codec.raw = True
        else:
            self.codec.without_com_port()
        named = "plain Telnet" if how == "telnet" else "raw bytes"
        text = getattr(why, "text", str(why))
        self._note(f"{text}; going on as {named}: no setting, line or purge reaches the port", 0)
        self._introduce()
        self.title = f"{self.name} as {named}"

    # receiving

    def _deliver(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Report) and event.answers in self._private:
                self._private[event.answers] = event
                continue
            if type(event) is PurgeDone and event.rx:
                self._posted = deque(e for e in self._posted if type(e) is not bytes)
            self.post(event)

    def _hang_up(self, error: EndpointLost) -> None:
        self.post(Hangup(reason=error.text))

    def _peer_eof(self) -> None:
        """A port does not end by itself: what ends before we do is a server that went, or was told to let go of us."""
        if self._done_sending or self._ended or not self.codec.active:
            super()._peer_eof()
            return
        error = EndpointLost(self.name, "the server closed the connection", "see its log; it may have been restarted")
        self._hang_up(error)
        self._error = error

    # sending

    @property
    def _strict(self) -> bool:
        return self._spec.order == "strict"

    async def _ready(self) -> None:
        await super()._ready()
        if self._strict and self.codec.barred and self._rest:
            await self._until(lambda: not self.codec.barred or self._peer_ended, self._spec.timeout)

    async def _send_bytes(self, data: bytes) -> None:
        self._sent_data = True
        await super()._send_bytes(data)

    async def _request(self, request: Request) -> None:
        """Sent when this returns, and answered later: requests are pipelined."""
        if self._strict and self.codec.changes(request) and not self.codec.is_serpipe:
            await self._wait_for_line()
        if isinstance(request, SetBreak) and request.on is not None:
            self._break_on = request.on
        await self._until(lambda: self._peer_ended or not self._held_up, self._spec.timeout)
        self._ask(request)
        await self._flush()

    @property
    def _held_up(self) -> bool:
        return self.codec.suspended or self.codec.pending >= PENDING_LIMIT

    def _ask(self, request: Request) -> None:
        self._deliver(self.codec.send(request, trio.current_time()))
        self._set_alarm()

    async def _wait_for_line(self) -> None:
        """Until the far port has sent what it was given, as far as can be told."""
        left = self.codec.busy_until - trio.current_time()
        if left <= 0:
            return
        if left > self.codec.line.line_time(SERVER_BUFFERS):
            await self._drain(left + self._spec.timeout)
            return
        with trio.move_on_after(left) as self._hold:
            await trio.sleep_forever()
        self._hold = None

    async def _drain(self, seconds: float) -> None:
        request = Drain()
        self._private[request.ref] = None
        self._ask(request)
        await self._flush()
        await self._until(lambda: self._private[request.ref] is not None or self._peer_ended, seconds)
        del self._private[request.ref]

    async def _send_eof(self) -> None:
        """Everything sent so far leaves the far port, as far as can be told; the connection stays open for answers."""
        self._done_sending = True
        if self._sent_data and not self._peer_ended:
            await self._drain(max(0.0, self.codec.busy_until - trio.current_time()) + 3.0)

    async def aclose(self) -> None:
        """Close the connection, ending a break that was left on. Idempotent."""
        if self._break_on and not (self._closed or self._peer_ended or self._ended):
            self._break_on = False
            self.codec.send(SetBreak(on=False), trio.current_time())
            with trio.move_on_after(0.5, shield=True):
                try:
                    await self._flush()
                except (EndpointLost, trio.ClosedResourceError):
                    pass
        await super().aclose()


def _switch(word: _Asked) -> bool | None:
    return None if word == "keep" else word == "on"


@codec("rfc2217", over="tcp", summary="a serial port of another machine", example="rfc2217:lab3:4000,115200")
@dataclass(frozen=True, kw_only=True)
class Rfc2217(LineOptions, CodecSpec):
    """Connects to an RFC 2217 server (ser2net, another serpipe, a terminal server) and uses its serial port.

    Settings that are not given stay as they are, and so do DTR and RTS: to look does not reset a board.
    """

    caps: ClassVar[Caps] = Caps(role="port")

    carrier: Any = None
    dtr: _Asked = opt("keep", _KEEP, "DTR at the start")
    rts: _Asked = opt("keep", _KEEP, "RTS at the start")
    timeout: float = opt(3.0, DURATION, "how long a request waits for its answer")
    negotiate_timeout: float = opt(4.0, DURATION, "how long to wait for the server to agree to RFC 2217")
    order: Literal["strict", "loose"] = opt(
        "strict", choice("strict", "loose"), "whether data waits for a change of the line before it, and that for data"
    )
    fallback: Literal["off", "telnet", "raw"] = opt(
        "off", choice("off", "telnet", "raw"), "go on without RFC 2217 where the server does not have it"
    )
    hold: bool = opt(False, FLAG, "open once and keep it while clients come and go")
    poll_modem: bool = opt(False, FLAG, "ask the server for CTS, DSR, RI and CD each time")
    ign_set_control: bool = opt(False, FLAG, "take DTR, RTS, break and flow control for set without an answer")

    def caps_in(self, side: Side) -> Caps:
        """`held` where `hold` is set."""
        return replace(self.caps, held=self.hold)

    def describe(self) -> str:
        """``rfc2217 lab3:4000``."""
        return "rfc2217 " + _target(self.carrier)

    async def open(self, nursery: trio.Nursery, context: Context) -> Rfc2217Endpoint:
        """Connect, negotiate, set what was asked for. Raises OpenFailed, PeerRefused, TimedOut."""
        try:
            return await self._open(nursery, context, None)
        except (OpenFailed, PeerRefused, TimedOut) as error:
            if self.fallback != "raw" or error.endpoint != self.describe():
                raise
            return await self._open(nursery, context, error)

    async def _open(self, nursery: trio.Nursery, context: Context, why: SerpipeError | None) -> Rfc2217Endpoint:
        """With `why`, raw: over a fresh connection, since a raw peer has taken our greeting for data."""
        carrier = await self.carrier.open(nursery, context)
        made = Rfc2217Endpoint(self.describe(), carrier, self, context)
        try:
            nursery.start_soon(made.write_own)
            if why is not None:
                made.go_without(why, "raw")
                return made
            try:
                await made.negotiate()
            except (PeerRefused, TimedOut) as error:
                if self.fallback != "telnet":
                    raise
                made.go_without(error, "telnet")
                return made
            await made.settle()
        except BaseException:
            with trio.CancelScope(shield=True):
                await made.aclose()
            raise
        return made


def _target(carrier: Any) -> str:
    """``lab3:4000`` of TCP, else the carrier's own words."""
    words: str = carrier.describe()
    return words.removeprefix("tcp ").removeprefix("tcp-listen ")


# --- the server -------------------------------------------------------------------------------------------------------

CLOSE_LINGER = 1.0
"""Seconds that a client which was told the end has to close first: a close with bytes of its own unread would reset the
connection, and what it has not read yet would be lost to it."""


class Rfc2217Client(CodecEndpoint):
    """One client of our own server: a controller."""

    caps = Caps(role="controller", half_close=True)
    linger = 10.0

    def __init__(self, carrier: Endpoint, spec: Rfc2217Listen, context: Context) -> None:
        def log(text: str) -> None:
            context.note(f"{carrier.title}: {text}", 1)

        self.codec = Server(exact=spec.ack == "exact", signature=spec.signature.encode(), log=log)
        super().__init__(carrier.name, carrier, self.codec)
        self.title = carrier.title
        self.where = carrier.where

    async def greet(self) -> None:
        """Send the opening negotiation. Raises EndpointLost."""
        self.codec.start(trio.current_time())
        await self._flush()

    def _full(self) -> bool:
        return super()._full() or self.codec.holding or self.codec.owed >= PENDING_LIMIT

    async def _report(self, report: Report) -> None:
        codec = self.codec  # with that many answers owed nothing is read, a RESUME neither: the codec decides
        await self._until(lambda: not codec.suspended or self._peer_ended or codec.owed >= PENDING_LIMIT)
        self._deliver(self.codec.send(report, trio.current_time()))
        await self._flush()
        self._progress()

    async def _send_eof(self) -> None:
        """Half-close: the port will say no more."""
        self.codec.send(Eof(), trio.current_time())
        await self._end()

    async def aclose(self) -> None:
        """Close the connection; a client that was told the end first gets a moment to close its own side."""
        if self._ended and not (self._closed or self._peer_ended):
            with trio.move_on_after(CLOSE_LINGER):
                try:
                    while type(await self.carrier.receive()) is bytes:
                        pass
                except (EndpointLost, trio.EndOfChannel, trio.ClosedResourceError, trio.BusyResourceError):
                    pass
        await super().aclose()


class Rfc2217Listener(Listener):
    """A carrier's listener whose clients speak RFC 2217."""

    def __init__(self, inner: Listener, spec: Rfc2217Listen, nursery: trio.Nursery, context: Context) -> None:
        self._inner = inner
        self._spec = spec
        self._nursery = nursery
        self._context = context
        self.where = inner.where
        self.title = inner.title

    async def accept(self) -> Rfc2217Client:
        """The next client, greeted; whether it agrees to RFC 2217 shows later."""
        while True:
            client = Rfc2217Client(await self._inner.accept(), self._spec, self._context)
            try:
                await client.greet()
            except EndpointLost as error:
                self._context.note(f"{client.title}: gone before it was served ({error})", 1)
                with trio.CancelScope(shield=True):
                    await client.aclose()
                continue
            except BaseException:
                with trio.CancelScope(shield=True):
                    await client.aclose()
                raise
            self._nursery.start_soon(client.write_own)
            return client

    async def aclose(self) -> None:
        """Stop listening."""
        await self._inner.aclose()


@codec(
    "rfc2217-listen",
    over="tcp-listen",
    summary="an RFC 2217 server: this machine's port, for any client",
    example="rfc2217-listen:4000",
)
@dataclass(frozen=True, kw_only=True)
class Rfc2217Listen(PolicyOptions, CodecSpec):
    """Serves what stands at the other end to RFC 2217 clients (serpipe, pySerial, gensio, microcom, telnet).

    PORT alone is for this machine only; 0.0.0.0:PORT is for everybody who can reach it. There is no password.
    What clients may do to the port is for `settings`, `allow`, `deny`, `locked` and `answer` to say, as in the stage
    `policy`; `reset=esp` is for ESP boards, as the stage `reset:esp`.
    """

    caps: ClassVar[Caps] = Caps(role="controller", half_close=True, listens=True)

    carrier: Any = None
    ack: Literal["echo", "exact"] = opt(
        "echo",
        choice("echo", "exact"),
        "what a baud rate that is met within 2 % is acknowledged with: the rate asked for, or the real one",
    )
    signature: str = opt("", TEXT, "what clients that ask are told", shown_default="what the port says")
    reset: Literal["off", "esp"] = opt(
        "off", choice("off", "esp"), "set DTR and RTS together, as the reset of an ESP board needs them"
    )

    def describe(self) -> str:
        """``rfc2217-listen 127.0.0.1:4000``."""
        return "rfc2217-listen " + _target(self.carrier)

    def brings(self, side: Side) -> tuple[str, ...]:
        """`policy` and `reset`, for the requests of its clients."""
        words = self.policy_word, "reset:esp" if self.reset == "esp" else ""
        away = "right" if side == "left" else "left"
        return tuple(f"{word},dir={away}" for word in words if word)

    async def listen(self, nursery: trio.Nursery, context: Context) -> Rfc2217Listener:
        """Stand. Raises OpenFailed."""
        return Rfc2217Listener(await self.carrier.listen(nursery, context), self, nursery, context)
