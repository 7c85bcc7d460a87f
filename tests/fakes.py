"""Stand-ins for what surrounds a stage: its `Out`, the pipeline's two lanes with a clock that tests move, its context."""

from serpipe.events import Event
from serpipe.stages.base import Direction, Stage


def joined(events):
    """The events with neighbouring bytes joined and empty ones dropped: what does not depend on how they were cut."""
    result = []
    for event in events:
        if type(event) is bytes:
            if result and type(result[-1]) is bytes:
                result[-1] += event
            elif event:
                result.append(event)
        else:
            result.append(event)
    return result


class FakeSink:
    """A sink that keeps what is written to it."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.data = b""
        self.append = False

    @property
    def text(self) -> str:
        return self.data.decode()

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    async def write(self, data: bytes) -> None:
        self.data += data


class FakeContext:
    """What a stage may ask of the pipeline: `sinks` are the files it opened by path, `err` stands for stderr."""

    def __init__(self, session: str = "") -> None:
        self.session = session
        self.err = FakeSink("stderr")
        self.sinks: dict[str, FakeSink] = {}
        self.notes: list[tuple[int, str]] = []

    def stderr(self) -> FakeSink:
        return self.err

    def file(self, path: str, *, append: bool = False) -> FakeSink:
        sink = self.sinks[path] = FakeSink(path)
        sink.append = append
        return sink

    def note(self, text: str, level: int) -> None:
        self.notes.append((level, text))


class FakeOut:
    """One lane, as a stage sees it. What came out stands in `emitted`, `replied` and `written`, in order."""

    def __init__(self, direction: Direction = "->", now: float = 0.0, wall: float = 0.0) -> None:
        self.direction: Direction = direction
        self.now = now
        self.wall = wall
        self.emitted: list[Event] = []
        self.times: list[float] = []
        """When each of `emitted` came out."""
        self.replied: list[Event] = []
        self.written: list[tuple[object, bytes]] = []
        self.wake_at: float | None = None

    def emit(self, event: Event) -> None:
        self.emitted.append(event)
        self.times.append(self.now)

    def reply(self, event: Event) -> None:
        self.replied.append(event)

    def wake(self, at: float | None) -> None:
        self.wake_at = at

    def write(self, sink, data: bytes) -> None:
        self.written.append((sink, data))
        if isinstance(sink, FakeSink):
            sink.data += data

    @property
    def events(self) -> list[Event]:
        """`emitted`, with neighbouring bytes joined."""
        return joined(self.emitted)

    @property
    def data(self) -> bytes:
        """The bytes of `emitted`, joined."""
        return b"".join(event for event in self.emitted if type(event) is bytes)

    def take(self) -> list[Event]:
        """`events`, and forget them."""
        events = self.events
        self.emitted.clear()
        self.times.clear()
        return events


class Lanes:
    """A stage between two lanes and a clock of its own: `right` collects what goes ``->``, `left` what goes ``<-``.

    Replies are kept in the `replied` of the lane that they were made in; ticks come when `advance` passes their time,
    in the order in which they are due.
    """

    def __init__(self, stage: Stage, now: float = 100.0, wall: float = 1_700_000_000.0, *, start: bool = True) -> None:
        self.stage = stage
        self.right = FakeOut("->", now, wall)
        self.left = FakeOut("<-", now, wall)
        self.outs = {"->": self.right, "<-": self.left}
        if start:
            stage.start(self.right)
            stage.start(self.left)

    @property
    def now(self) -> float:
        return self.right.now

    def _set(self, now: float) -> None:
        for out in self.outs.values():
            out.wall += now - out.now
            out.now = now

    def forward(self, *events: Event) -> None:
        """Left to right."""
        for event in events:
            self.stage.forward(event, self.right)

    def back(self, *events: Event) -> None:
        """Right to left."""
        for event in events:
            self.stage.back(event, self.left)

    def push(self, direction: Direction, *events: Event) -> None:
        """In that lane."""
        (self.forward if direction == "->" else self.back)(*events)

    def next_wake(self) -> float | None:
        """When the next tick is due."""
        times = [out.wake_at for out in self.outs.values() if out.wake_at is not None]
        return min(times) if times else None

    def _tick(self, until: float) -> bool:
        due = [out for out in self.outs.values() if out.wake_at is not None and out.wake_at <= until]
        if not due:
            return False
        out = min(due, key=lambda o: o.wake_at)
        at, out.wake_at = out.wake_at, None
        self._set(max(self.now, at))
        self.stage.tick(self.now, out)
        return True

    def advance(self, seconds: float) -> None:
        """Let time pass, ticking on the way."""
        until = self.now + seconds
        while self._tick(until):
            pass
        self._set(until)

    def run_dry(self, limit: float = 1e6) -> None:
        """Tick until no wake is asked for, `limit` seconds at most."""
        until = self.now + limit
        while self._tick(until):
            pass

    def feed(self, direction: Direction, data: bytes) -> None:
        """Send bytes as the pump does: no more than there is room for, waiting for ticks in between."""
        view = memoryview(data)
        while view:
            room = self.stage.room(direction)
            if room is None:
                room = len(view)
            if room > 0:
                self.push(direction, bytes(view[:room]))
                view = view[room:]
            elif not self._tick(float("inf")):
                raise AssertionError("no room, and no tick is asked for")
