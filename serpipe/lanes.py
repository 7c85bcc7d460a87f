"""One session: two endpoints, the stages between them, and a pump for each direction.

Theory of operation
-------------------
     +----------+ receive +-------+   +--------+   +------+   send   +---------+
     | A        |-------->| inbox |-->| stage  |-->| pace |--------->| B       |
     |          |<--------------------|  back  |<--| back |<--inbox--|         |
     +----------+                     +--------+   +------+          +---------+

A `Lane` is one direction: a source, the stages in the order of travel, a sink. Its pump takes one event at a time, runs it
through all the stages as one plain call, and awaits what came out at the far end. There is no task and no queue per
stage: a hop through a queue costs what seventy stages cost as calls.

Three gears. *Splice*: bytes go from descriptor to descriptor inside the kernel, where both ends are plain sockets and
nothing stands between. *Direct*: the pump awaits `source.receive()` itself; for chains in which only bytes can move.
*Inbox*: a reader task stands between source and pump with a bounded inbox. It is needed where controls exist, for two
things: a Purge that has been read acts at once, even while the pump waits for a blocked sink (law 6); and a stage of the
other lane can put its reply in (`Out.reply`), at the stage's own position. Replies are served before the inbox: they stand
further along the lane than anything that is still in it.

Back-pressure is `await`: a sink that blocks stops the pump, a full inbox stops the reader, the kernel's buffers stop the
peer. A stage that holds bytes in time says how many more it takes (`Stage.room`), and the pump cuts what it
feeds to that. A source whose requests have 1024 unserved replies is not read (law 8).

A source that fails does so in its place: what it gave before is delivered first, then the failure ends the lane. When one
lane has ended, the session waits for the other where both ends can half-close, else until that has been quiet for
`linger` seconds; then everything ends.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import trio

from serpipe._fdio import FdIO
from serpipe.endpoints.base import Caps, Endpoint, Note
from serpipe.errors import SerpipeError, TimedOut, endpoint_lost
from serpipe.events import Eof, Event, ModemReport, Purge, PurgeDone
from serpipe.stages.base import Direction, Out, Sink, Stage

INBOX_BYTES = 256 * 1024
INBOX_EVENTS = 1024
REPLIES = 1024

LOOK = 1.0
"""Seconds between two looks at a source that is not read, whether it is still there."""
STUCK = 10.0
"""Seconds without progress after which an ending session gives up on a sink that takes nothing."""

Gear: TypeAlias = Literal["splice", "direct", "inbox"]

_Handler: TypeAlias = Callable[[Event, Out], None]


@dataclass(frozen=True, slots=True)
class _Failure:
    """The source failed, here in the stream."""

    error: Exception


@dataclass(frozen=True, slots=True)
class _Aside:
    """Something to write beside the stream, in its turn."""

    sink: Sink
    data: bytes


class _Out:
    """The `Out` of one stage in one lane."""

    __slots__ = ("_handler", "_lane", "_next", "direction", "place", "wake_at")

    def __init__(self, lane: Lane, place: int) -> None:
        self._lane = lane
        self.place = place
        """How many stages of this lane stand before this one."""
        self.direction: Direction = lane.direction
        self.wake_at = math.inf
        self._handler: _Handler
        self._next: _Out

    @property
    def now(self) -> float:
        return self._lane.now

    @property
    def wall(self) -> float:
        return self._lane.now + self._lane.epoch

    def emit(self, event: Event) -> None:
        self._handler(event, self._next)

    def reply(self, event: Event) -> None:
        self._lane.put_reply(event, self.place)

    def wake(self, at: float | None) -> None:
        self.wake_at = math.inf if at is None else at

    def write(self, sink: Sink, data: bytes) -> None:
        self._lane.pending.append(_Aside(sink, data))


class Lane:
    """One direction of a session."""

    def __init__(
        self, direction: Direction, source: Endpoint, sink: Endpoint, stages: Sequence[Stage], *, inbox: bool
    ) -> None:
        self.direction = direction
        self.source = source
        self.sink = sink
        self.stages = tuple(stages) if direction == "->" else tuple(reversed(stages))
        self.inboxed = inbox
        self.other: Lane
        self.now = 0.0
        self.epoch = 0.0
        self.pending: deque[Event | _Aside] = deque()
        self.ended = trio.Event()
        """Eof has been taken by the sink, or the lane failed."""
        self.failures: list[Exception] = []
        """What ended it, if not Eof; the session shares one list, in order of time, among its lanes."""
        self.source_gone = False
        """It was ended by its source's failure; what the other lane brings, nobody is there to take."""
        self.reads = True
        """Something is read from the source; else the lane carries replies only."""
        self.carries = True
        """Bytes go through; else they are dropped (-u, a sink that takes none)."""
        self.spliced = False
        """Bytes go from descriptor to descriptor inside the kernel, where that can be."""
        self.moved_at = 0.0
        self.delivered = 0
        self.dropped = 0
        self._stopping = False
        self._inbox: deque[Event | _Failure] = deque()
        self._held = 0
        self._replies: deque[tuple[int, Event]] = deque()
        self._pump_nap: trio.CancelScope | None = None
        self._room = trio.Event()
        self._reader = trio.CancelScope()
        self._writing = 0
        self._outs = [_Out(self, i) for i in range(len(self.stages) + 1)]
        self._handlers: list[_Handler] = [stage.forward if direction == "->" else stage.back for stage in self.stages]
        self._handlers.append(self._collect)
        for out, handler, following in zip(self._outs, self._handlers[1:], self._outs[1:], strict=False):
            out._handler, out._next = handler, following
        self._greeted = trio.Event()
        """The source's first reports have passed."""
        self._limited = [stage for stage in self.stages if type(stage).room is not Stage.room]

    def _collect(self, event: Event, out: Out) -> None:
        self.pending.append(event)

    # what comes in

    def put_reply(self, event: Event, place: int) -> None:
        """A stage of this lane, at `place`, sends an event back: it enters the other lane behind that stage."""
        self.other._enter_at(event, len(self.stages) - place)

    def _enter_at(self, event: Event, place: int) -> None:
        if self._is_purge(event) and self._heeded(event, place):
            self.discard()
        if type(event) is ModemReport and event.answers is None and self._replies:
            there, last = self._replies[-1]
            if type(last) is ModemReport and last.answers is None and there == place:
                self._replies.pop()
                event = event.after(last)
        self._replies.append((place, event))
        self._nudge()

    def _nudge(self) -> None:
        if self._pump_nap is not None:
            self._pump_nap.cancel()

    async def read(self) -> None:
        """The reader of the inbox gear: until the source ends, fails, or `stop()`."""
        with self._reader:
            while True:
                try:
                    event = await self.source.receive()
                except trio.EndOfChannel:
                    event = Eof()
                except SerpipeError as error:
                    self._inbox.append(_Failure(error))
                    self._nudge()
                    return
                if type(event) is bytes:
                    self._held += len(event)
                elif type(event) is ModemReport and event.answers is None and self._inbox:
                    last = self._inbox[-1]
                    if type(last) is ModemReport and last.answers is None:
                        self._inbox.pop()
                        event = event.after(last)
                elif self._is_purge(event) and self._heeded(event):
                    self.discard()
                self._inbox.append(event)
                self._nudge()
                self.other._room.set()  # one answer fewer waits in our source
                if type(event) is Eof:
                    return
                while self._full():
                    self._room = trio.Event()
                    with trio.move_on_after(LOOK):
                        await self._room.wait()
                    if self._full() and (broken := self.source.broken()) is not None:
                        # a peer that was reset wants nothing delivered, and nothing else would tell: we do not read it
                        self.discard()
                        self._inbox.append(_Failure(broken))
                        self._nudge()
                        return

    @staticmethod
    def _is_purge(event: Event) -> bool:
        """Whether the bytes before this event in its lane are to be dropped.

        A PurgeDone out of memory drops none: where no port is, a stream is, and its bytes are nobody's stale input. A
        program that opens a pty and flushes it, as most do, would lose the head of the file it came to read.
        """
        if type(event) is Purge:
            return event.tx
        return type(event) is PurgeDone and event.rx and not event.virtual

    def _heeded(self, purge: Event, place: int = 0) -> bool:
        """Whether no stage in its way denies a purge that enters the lane at `place`."""
        return all(stage.heeds(purge, self.direction) for stage in self.stages[place:])

    def _full(self) -> bool:
        waiting = max(len(self.other._replies), self.sink.answers_waiting)
        return self._held >= INBOX_BYTES or len(self._inbox) >= INBOX_EVENTS or waiting >= REPLIES

    def discard(self) -> int:
        """Law 6: drop every byte in the lane, and no control. How many bytes."""
        dropped = self._held
        self._held = 0
        if dropped:
            self._inbox = deque(item for item in self._inbox if type(item) is not bytes)
        for stage in self.stages:
            dropped += stage.discard(self.direction)
        dropped += sum(len(item) for item in self.pending if type(item) is bytes)
        if self.pending:
            self.pending = deque(item for item in self.pending if type(item) is not bytes)
        dropped += self.sink.discard()
        self._room.set()
        return dropped

    def stop(self) -> None:
        """Read no more: what was accepted goes on to the sink, and Eof behind it."""
        if self._stopping:
            return
        self._stopping = True
        self._reader.cancel()
        self._nudge()

    @property
    def busy(self) -> bool:
        """Something of this lane is still on its way."""
        return bool(self._inbox or self._replies or self.pending or self._writing or self._staged)

    @property
    def _staged(self) -> int:
        return sum(stage.held(self.direction) for stage in self.stages)

    @property
    def backlog(self) -> int:
        """Bytes that were accepted and have not reached the sink, as far as they can be counted from outside."""
        pending = sum(len(item) for item in self.pending if type(item) is bytes)
        return self._held + self._staged + pending + self._writing

    # what goes out

    async def pump(self) -> None:
        """Until Eof has been handed to the sink. A failure ends the lane and is kept."""
        try:
            await self._pump()
        except SerpipeError as error:
            self.failures.append(error)
        finally:
            self._greeted.set()
            self.ended.set()

    async def _pump(self) -> None:
        self.now = self.moved_at = trio.current_time()
        self.epoch = time.time() - self.now
        for stage, out in zip(self.stages, self._outs, strict=False):
            stage.start(out)
        if self.other.source.caps.role == "port" and any(stage.follows for stage in self.stages):
            await self._deliver()
            await self.other._greeted.wait()
        if self.spliced:
            await self._splice()
        rest = b""
        while True:
            await self._deliver()
            if self._finished:
                return
            self.now = trio.current_time()
            if self._tick():
                continue
            if self._replies:
                place, event = self._replies.popleft()
                self.moved_at = self.now
                self._handlers[place](event, self._outs[place])
                if len(self._replies) < REPLIES:
                    self.other._room.set()
                continue
            room = min((r for s in self._limited if (r := s.room(self.direction)) is not None), default=None)
            if room == 0:
                await self._nap()
                continue
            item: Event | _Failure | None
            if rest:
                item, rest = rest, b""
            else:
                item = await self._next()
                if item is None:
                    continue
                self.now = self.moved_at = trio.current_time()
            if type(item) is bytes:
                if not self.carries:
                    self.dropped += len(item)
                    continue
                if room is not None and len(item) > room:
                    if self.inboxed:  # back into the inbox, where a Purge finds it
                        self._inbox.appendleft(item[room:])
                        self._held += len(item) - room
                    else:
                        rest = item[room:]
                    item = item[:room]
                self._handlers[0](item, self._outs[0])
            elif isinstance(item, _Failure):
                self.source_gone = True
                raise item.error
            else:
                self._handlers[0](item, self._outs[0])
                if type(item) is ModemReport:  # the last of a port's first events
                    self._greeted.set()

    _finished = False

    async def _splice(self) -> None:
        """The splice gear: until the source ends, the session stops, or the kernel will not."""
        from serpipe._splice import SinkFailed, Unspliceable, splice

        source, sink = getattr(self.source, "io", None), getattr(self.sink, "io", None)
        if not (isinstance(source, FdIO) and isinstance(sink, FdIO)) or self._stopping:
            return

        def moved(count: int) -> None:
            self._writing += count
            self.delivered -= min(count, 0)
            self.moved_at = trio.current_time()

        async def wait() -> bool:
            if not self._stopping:
                with trio.CancelScope() as self._pump_nap:
                    await source.wait_readable()
                self._pump_nap = None
            return not self._stopping

        try:
            if await splice(source, sink, moved, wait):
                self.pending.append(Eof())
        except Unspliceable:
            pass
        except SinkFailed as failed:
            raise endpoint_lost(self.sink.name, failed.error) from failed.error
        except OSError as error:
            self.source_gone = True
            raise endpoint_lost(self.source.name, error) from error

    async def _next(self) -> Event | _Failure | None:
        """The next thing from the source; None after a wait that may have brought a reply or a wake instead."""
        if self.inboxed:
            if self._inbox:
                item = self._inbox.popleft()
                if type(item) is bytes:
                    self._held -= len(item)
                if not self._full():
                    self._room.set()
                return item
            if self._stopping:
                return Eof()
            await self._nap()
            return None
        if self._stopping:
            return Eof()
        got: Event | _Failure | None = None
        if not self.reads:
            await self._nap()
            return None
        await self.source.breathe()
        try:
            got = self.source.receive_nowait()
        except trio.EndOfChannel:
            got = Eof()
        except SerpipeError as error:
            got = _Failure(error)
        if got is not None:
            return got
        deadline = self._wake_at()
        with trio.CancelScope(deadline=deadline) as self._pump_nap:
            try:
                got = await self.source.receive()
            except trio.EndOfChannel:
                got = Eof()
            except SerpipeError as error:
                got = _Failure(error)
        self._pump_nap = None
        return got

    def _wake_at(self) -> float:
        return min((out.wake_at for out in self._outs), default=math.inf)

    async def _nap(self) -> None:
        """Until something is put in, or the earliest wake."""
        with trio.CancelScope(deadline=self._wake_at()) as self._pump_nap:
            await trio.sleep_forever()
        self._pump_nap = None

    def _tick(self) -> bool:
        due = False
        for stage, out in zip(self.stages, self._outs, strict=False):
            if out.wake_at <= self.now:
                out.wake_at = math.inf
                stage.tick(self.now, out)
                due = True
        return due

    async def _deliver(self) -> None:
        while self.pending:
            item = self.pending.popleft()
            if type(item) is bytes:
                if not self.carries:
                    self.dropped += len(item)
                    continue
                self._writing = len(item)
                await self.sink.send(item)
                self.delivered += self._writing
                self._writing = 0
                self.moved_at = trio.current_time()
            elif isinstance(item, _Aside):
                try:
                    await item.sink.write(item.data)
                except OSError as error:
                    raise endpoint_lost(item.sink.name, error) from error
            elif type(item) is Eof:
                self._finished = True
                self.pending.clear()
                await self.sink.send(item)
                return
            else:
                await self.sink.send(item)


@dataclass(slots=True)
class Rules:
    """How a session ends."""

    linger: float = 0.5
    """-t: seconds of quiet after one lane has ended."""
    idle: float = math.inf
    """-T: seconds without a byte in either direction after which the session is over, TimedOut."""
    one_way: Direction | None = None
    """-u, -U: the only direction in which bytes go."""


@dataclass(slots=True, eq=False)
class Session:
    """Two open endpoints and the stages between them, for as long as they have something to say to each other."""

    left: Endpoint
    right: Endpoint
    stages: Sequence[Stage]
    left_caps: Caps
    right_caps: Caps
    gear: Gear
    rules: Rules
    note: Note
    failures: list[Exception] = field(default_factory=list)
    _lanes: tuple[Lane, Lane] = field(init=False)
    _stopped: bool = False
    _life: trio.CancelScope | None = None
    _closing: trio.CancelScope | None = None

    def __post_init__(self) -> None:
        inbox = self.gear == "inbox"
        forward = Lane("->", self.left, self.right, self.stages, inbox=inbox)
        back = Lane("<-", self.right, self.left, self.stages, inbox=inbox)
        forward.other, back.other = back, forward
        for lane, source, sink in ((forward, self.left_caps, self.right_caps), (back, self.right_caps, self.left_caps)):
            lane.failures = self.failures
            lane.carries = sink.writes and self.rules.one_way in (None, lane.direction)
            # what gives no byte is not read, nor what nobody may read from, unless controls come from there too
            lane.reads = (
                source.reads and not lane.source.silent and (inbox or self.rules.one_way in (None, lane.direction))
            )
            lane.spliced = self.gear == "splice" and lane.reads and lane.carries
        self._lanes = forward, back

    async def run(self) -> None:
        """Until it is over. Raises what ended it, the first in time; the endpoints are not closed here."""
        async with trio.open_nursery() as nursery:
            for lane in self._lanes:
                nursery.start_soon(lane.pump)
                if lane.inboxed and lane.reads:
                    nursery.start_soon(lane.read)
            hurried = True
            with trio.CancelScope() as self._life:
                if not self._stopped:
                    await self._ending(await self._first_end())
                    hurried = False
            await self._close_lanes(self.rules.linger if hurried or self.failures else math.inf)
            nursery.cancel_scope.cancel()
        self._say_dropped()
        if self.failures:
            raise self.failures[0]

    def counts(self) -> str:
        """What went through, for the log."""
        return ", ".join(f"{lane.direction} {lane.delivered} bytes" for lane in self._lanes)

    def stop(self) -> None:
        """End it: nothing more is read, what was accepted is delivered within `linger` seconds."""
        self._stopped = True
        if self._life is not None:
            self._life.cancel()
        if self._closing is not None:
            self._closing.deadline = min(self._closing.deadline, trio.current_time() + self.rules.linger)

    async def _first_end(self) -> Lane:
        """The lane that ended first. By -T it is stopped, and a TimedOut kept."""
        ended: list[Lane] = []
        async with trio.open_nursery() as nursery:

            async def watch(lane: Lane) -> None:
                await lane.ended.wait()
                ended.append(lane)
                nursery.cancel_scope.cancel()

            for lane in self._lanes:
                nursery.start_soon(watch, lane)
            if self.rules.idle != math.inf:
                await self._idle()
                self.failures.append(
                    TimedOut("-T", f"nothing moved for {self.rules.idle:g} s", "without -T it goes on for ever")
                )
                self.stop()
        return ended[0]

    async def _idle(self) -> None:
        """Until no byte has moved for `idle` seconds."""
        began = trio.current_time()
        while True:
            due = max(began, *(lane.moved_at for lane in self._lanes)) + self.rules.idle
            if due <= trio.current_time():
                return
            await trio.sleep_until(due)

    async def _ending(self, first: Lane) -> None:
        """One lane has ended: let the other finish."""
        other = first.other
        both = self.left_caps.half_close and self.right_caps.half_close
        leaving = first.source.caps.role == "controller"  # and wants no answer any more
        if other.reads and not other.ended.is_set() and not (leaving or first.source_gone):
            if self.failures:  # nothing more can be finished: the other way gets -t, however busy it is
                with trio.move_on_after(self.rules.linger):
                    await other.ended.wait()
            elif both and other.carries:
                await other.ended.wait()
            else:
                await self._quiet(other)
        if not other.ended.is_set() and not self.failures:
            await first.sink.finish()
            if other.reads:
                with trio.move_on_after(first.sink.linger):
                    await other.ended.wait()

    async def _quiet(self, lane: Lane) -> None:
        """Until the lane has ended, or nothing has moved in it for `linger` seconds."""
        began = trio.current_time()
        while not lane.ended.is_set():
            due = max(lane.moved_at, began) + (STUCK if lane.busy else self.rules.linger)
            if trio.current_time() >= due:
                return
            with trio.move_on_at(min(due, trio.current_time() + self.rules.linger)):
                await lane.ended.wait()

    async def _close_lanes(self, seconds: float) -> None:
        """Deliver what was accepted, and Eof, within that time, and for as long as it gets on."""
        for lane in self._lanes:
            lane.stop()
        with trio.move_on_after(seconds) as self._closing:
            for lane in self._lanes:
                while not lane.ended.is_set():
                    began = trio.current_time()
                    with trio.move_on_after(STUCK):
                        await lane.ended.wait()
                    if lane.busy and lane.moved_at < began:
                        break

    def _say_dropped(self) -> None:
        left = [f"{lane.direction} {lane.backlog} bytes" for lane in self._lanes if lane.backlog]
        if left:
            self.note(", ".join(left) + " were accepted and not delivered", 0)
        for lane in self._lanes:
            if lane.dropped:
                self.note(f"{lane.direction} {lane.dropped} bytes had nowhere to go", 1)
