"""What an endpoint is: a channel of events with a role, and the spec it is opened from.

Theory of operation
-------------------
A *spec* is what the user wrote: a frozen dataclass, parsed and checked, which does nothing. An *endpoint* is one opening
of it: `await spec.open(nursery, context)` in a nursery that outlives it. An endpoint is a `trio.abc.Channel[Event]`, so
memory channels can stand for endpoints in tests.

The contract, which `tests/test_conformance.py` holds every endpoint to:

* `receive()` gives the next event. `Eof` comes once and last; after it `trio.EndOfChannel`. Cancelled, it has taken
  nothing. A peer that breaks, or a device that goes, raises `EndpointLost`, after a port has said `Hangup`.
* `send(event)` returns when the event is done as far as this endpoint can know: bytes handed to the kernel, a request
  carried out and its answer posted to `receive()`. Awaiting it is the back-pressure. `send(Eof())` says that no byte
  will follow: it half-closes where `caps.half_close`, drains elsewhere. What a role does not understand is dropped (a
  Report at a port), but a Request is never left without an answer: law 3.
* `discard()` drops the bytes that a `send()` in progress still holds (law 6), and says how many.
* `aclose()` puts everything back: settings, lines, break, links, locks. It is shielded where it must be, and bounded.

Events that an endpoint makes itself (answers, modem changes) go through `post()` to the same `receive()`, in order with
the bytes already taken.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Literal, TypeAlias

import trio

from serpipe._fdio import FdIO, Threaded
from serpipe.errors import EndpointLost, endpoint_lost
from serpipe.events import Eof, Event, Failed, ModemReport, Report, Request
from serpipe.options import FLAG, choice, opt

MANY = 1024
"""Answers that may wait for somebody to receive them."""

Role: TypeAlias = Literal["port", "controller", "plain"]

Side: TypeAlias = Literal["left", "right"]

Note: TypeAlias = Callable[[str, int], None]
"""Say a line to the user: text, level. 0 is said unless -q, 1 with -d, 2 with -dd; -1 always."""


def log_note(text: str, level: int) -> None:
    """Say it to the logger `serpipe`: what library users get."""
    logging.getLogger("serpipe").log(logging.WARNING if level == 0 else logging.DEBUG, "%s", text)


@dataclass(frozen=True, slots=True)
class Caps:
    """What an endpoint is and can do; the plan is made from it before anything is opened."""

    role: Role = "plain"
    half_close: bool = False
    """It can say that no more bytes come while it still reads (TCP, a pair of pipes)."""
    held: bool = False
    """Opened once and held by the pipeline, whatever number of clients comes and goes."""
    listens: bool = False
    """It is a listener: `listen()` gives openings, one per client."""
    reads: bool = True
    """Bytes can come from it."""
    writes: bool = True
    """It takes bytes; what comes for one that does not is dropped and counted."""
    raw_fd: bool = False
    """Its bytes are those of one file descriptor, unchanged: it can be spliced."""


@dataclass(frozen=True, slots=True)
class Context:
    """What an endpoint is told about the chain it stands in."""

    side: Side = "left"
    reads: bool = True
    """The chain takes bytes from it."""
    writes: bool = True
    """The chain gives bytes to it."""
    faces: Role = "plain"
    """The role of the endpoint at the other end."""
    note: Note = field(default=log_note)


class Endpoint(trio.abc.Channel[Event]):
    """One opening of an endpoint. Subclasses give `_take`, `_wait` and `_send_bytes`, and ports `_request`."""

    caps: Caps = Caps()

    def __init__(self, name: str) -> None:
        self.name = name
        """How messages call it: the user's own word, or the peer's address."""
        self.title = name
        """How the start line calls it: what stands, with its settings."""
        self.where = ""
        """What a script needs to reach it: an address with the port it got, the pty's path."""
        self.silent = False
        """Nothing will ever come from it, not even Eof (a standard input that is /dev/null)."""
        self._posted: deque[Event] = deque()
        self._wakeup: trio.CancelScope | None = None
        self._done = False
        self._closed = False

    @property
    def answers_waiting(self) -> int:
        """Reports that nobody has received yet: it is sent no more requests while there are many (law 8)."""
        if len(self._posted) < MANY:
            return 0
        return sum(type(event) is not bytes for event in self._posted)

    def gone(self) -> bool:
        """Whether a client has left without having said anything, where that can be told without reading."""
        return False

    def broken(self) -> EndpointLost | None:
        """What `receive()` would raise in the end, where that can be told without reading; for a source held back."""
        return None

    # receiving

    def post(self, event: Event) -> None:
        """Put an event of our own behind what was already received. Never blocks. ModemReports coalesce (law 8)."""
        if self._posted and type(event) is ModemReport and event.answers is None:
            last = self._posted[-1]
            if type(last) is ModemReport and last.answers is None:
                self._posted.pop()
                event = event.after(last)
        self._posted.append(event)
        if self._wakeup is not None:
            self._wakeup.cancel()

    def answer(self, request: Request, report: Report) -> None:
        """Post `report` as the answer to `request`."""
        from dataclasses import replace

        self.post(replace(report, answers=request.ref))

    async def receive(self) -> Event:
        """The next event; see the module's contract."""
        await self._breathe()  # before anything is taken: a checkpoint behind it would lose it to a cancellation
        while (event := self.receive_nowait()) is None:
            try:
                with trio.CancelScope() as self._wakeup:
                    await self._wait()
            except OSError as error:
                self._lost(error)
            finally:
                self._wakeup = None
        return event

    def receive_nowait(self) -> Event | None:
        """The next event if it is there already, else None. Raises what `receive` raises.

        It takes no checkpoint: a loop over it calls `breathe()`. It is what spares a busy lane a cancel scope per chunk.
        """
        while True:
            if self._posted:
                event = self._posted.popleft()
                if type(event) is Eof:
                    self._done = True
                return event
            if self._closed:
                raise trio.ClosedResourceError
            if self._done:
                raise trio.EndOfChannel
            try:
                taken = self._take()
            except OSError as error:
                self._lost(error)
                continue
            if taken is None:
                if not self._posted:
                    return None
            elif self._posted:  # what the read found out on the way (a break, an answer) stands behind the bytes
                if taken:
                    self._posted.appendleft(taken)
                else:
                    self._posted.append(Eof())
            elif taken:
                return taken
            else:
                self._done = True
                return Eof()

    async def breathe(self) -> None:
        """A checkpoint now and then, for loops that never have to wait."""
        await self._breathe()

    @abstractmethod
    def _take(self) -> bytes | None:
        """Bytes if there are any, b"" at the end, None if nothing is there yet. Raises OSError."""

    @abstractmethod
    async def _wait(self) -> None:
        """Until `_take` may have something. Cancellation loses nothing."""

    async def _breathe(self) -> None:
        """A checkpoint now and then."""
        await trio.lowlevel.checkpoint_if_cancelled()

    def _lost(self, error: OSError) -> None:
        """The device or peer is gone: raises EndpointLost. Ports post a Hangup first."""
        raise endpoint_lost(self.name, error) from error

    # sending

    async def send(self, event: Event) -> None:
        """Carry out one event; see the module's contract."""
        if self._closed:
            raise trio.ClosedResourceError
        if type(event) is bytes:
            try:
                await self._send_bytes(event)
            except OSError as error:
                self._lost(error)
        elif isinstance(event, Request):
            await self._request(event)
        elif isinstance(event, Report):
            await self._report(event)
        else:
            try:
                await self._send_eof()
            except OSError as error:
                self._lost(error)

    @abstractmethod
    async def _send_bytes(self, data: bytes) -> None:
        """Hand the bytes on. Raises OSError."""

    async def _send_eof(self) -> None:
        """No byte will follow: half-close or drain. Raises OSError."""

    async def _request(self, request: Request) -> None:
        """Carry out a request and post its answer. What is no port can do nothing, and says so."""
        self.answer(request, Failed(why="unsupported", text=f"{self.name} is no serial port"))

    async def _report(self, report: Report) -> None:
        """Take a report; only a controller has use for one."""

    def discard(self) -> int:
        """Drop the bytes a `send()` in progress still holds; how many."""
        return 0

    async def finish(self) -> None:
        """The session is over as far as this side goes: half-close, where the peer must see it before `aclose`.

        What still comes is read until Eof, for `linger` seconds at most.
        """

    linger: float = 0.0
    """Seconds that the session goes on reading after `finish()`."""

    async def aclose(self) -> None:
        """Close, and put back what was changed. Idempotent. What waits in `receive()` gets ClosedResourceError."""
        self._closed = True
        if self._wakeup is not None:
            self._wakeup.cancel()
        await trio.lowlevel.checkpoint()


class FdEndpoint(Endpoint):
    """An endpoint whose bytes are those of one descriptor or socket."""

    caps = Caps(raw_fd=True)

    def __init__(self, name: str, io: FdIO | Threaded) -> None:
        super().__init__(name)
        self.io = io

    def _take(self) -> bytes | None:
        return self.io.take()

    async def _wait(self) -> None:
        await self.io.wait_readable()

    async def _breathe(self) -> None:
        await self.io.breathe()

    async def _send_bytes(self, data: bytes) -> None:
        await self.io.write_all(data)

    def discard(self) -> int:
        return self.io.discard()

    def broken(self) -> EndpointLost | None:
        error = self.io.broken()
        return endpoint_lost(self.name, error) if error is not None else None


class EndpointSpec:
    """What the user wrote, parsed. Subclasses are frozen dataclasses registered with `@endpoint`.

    `__post_init__` may raise `BadValue(text, key)` where values do not fit together.
    """

    caps: ClassVar[Caps] = Caps()

    def caps_in(self, side: Side) -> Caps:
        """Its caps where it stands; most do not depend on it."""
        return self.caps

    def describe(self) -> str:
        """How `--explain` and messages call it."""
        raise NotImplementedError

    def listening(self) -> ListenOptions:
        """How it treats its clients, where `caps.listens`."""
        return self if isinstance(self, ListenOptions) else ListenOptions()

    def brings(self, side: Side) -> tuple[str, ...]:
        """The stages, as words, that its options put next to it where it stands, the nearest first."""
        return ()

    async def open(self, nursery: trio.Nursery, context: Context) -> Endpoint:
        """Open it. Raises OpenFailed, TimedOut, PeerRefused; cancelled or failed, nothing is left behind."""
        raise NotImplementedError

    async def listen(self, nursery: trio.Nursery, context: Context) -> Listener:
        """Stand as a listener, where `caps.listens`."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class ListenOptions:
    """How a listener treats its clients; a mixin for the specs of listeners."""

    once: bool | None = opt(
        None, FLAG, "end after the first client", shown_default="on where the other end is stdio, else off"
    )
    busy: Literal["reject", "kick", "wait"] = opt(
        "reject",
        choice("reject", "kick", "wait"),
        "a second client, where only one can be served: told so and closed, takes over, or waits its turn",
    )


class CodecSpec(EndpointSpec):
    """A spec that wraps a plain one, its `carrier`, which the grammar fills in from the same word."""

    carrier: EndpointSpec

    def listening(self) -> ListenOptions:
        return self.carrier.listening()


class Listener:
    """A standing listener. `accept()` gives one opening per client."""

    where = ""
    title = ""

    async def accept(self) -> Endpoint:
        """The next client's endpoint. A client that fails while it is being accepted is noted, and not raised."""
        raise NotImplementedError

    async def reject(self, endpoint: Endpoint, reason: str) -> None:
        """Tell a client in one line of text why it cannot be served, and close it."""
        try:
            with trio.move_on_after(2):
                await endpoint.send(reason.encode() + b"\r\n")
                await endpoint.send(Eof())
        except Exception:
            pass  # the client is being turned away: that it left before it was told is no loss
        await endpoint.aclose()

    async def aclose(self) -> None:
        """Stop listening."""
        raise NotImplementedError
