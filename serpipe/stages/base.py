"""What a stage is: a pure transformer of events that stands in both lanes.

Theory of operation
-------------------
A stage is sans-IO and synchronous: no await, no socket, no clock of its own. `forward(event, out)` gets what travels
left to right (shown ``->``), `back(event, out)` what travels right to left (``<-``). Through `out` it may

* `emit(event)`: the event goes on in this lane;
* `reply(event)`: the event goes back from where the stage stands, in the other lane. Never blocks;
* `wake(at)`: have `tick(now, out)` called in this lane at that time (trio's clock). A later call replaces an earlier one;
  None calls it off;
* `write(sink, data)`: write beside the stream (stderr, a file); the lane waits for it, so a stalled terminal stalls one
  chain and nothing else.

Because nothing in a stage awaits, a whole chain runs as one plain call per event: a stage costs a tenth of a microsecond
and can be tested by calling it.

The laws a stage must keep (design section 3; the conformance suite checks them): pass on unchanged what it does not know;
keep no bytes behind when a control or Eof comes; and the bytes between two controls, joined, must not depend on how they
were cut into chunks.

A stage that holds bytes back in time (pace) says through `room()` how many more it takes; 0 stops the lane's source.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol, TypeAlias

from serpipe.errors import SerpipeError
from serpipe.events import Event
from serpipe.options import choice, opt

Direction: TypeAlias = Literal["->", "<-"]

Dir: TypeAlias = Literal["right", "left", "both"]
"""The `dir` option of a stage that can be narrowed to one direction."""

LANES: dict[Dir, tuple[Direction, ...]] = {"right": ("->",), "left": ("<-",), "both": ("->", "<-")}
"""The directions that a `dir` stands for."""


def dir_option(help: str) -> Any:
    """The field ``dir: Dir = dir_option("which direction to show")`` of a stage's spec."""
    return opt("both", choice("right", "left", "both"), help)


class Sink(Protocol):
    """Where a stage writes beside the stream; `_fdio.SideSink` is one."""

    name: str
    """How an error calls it: ``file PATH``, ``stderr``."""

    async def write(self, data: bytes) -> None:
        """All of it; raises OSError."""


class Out(Protocol):
    """What a stage sees of the lane it is called in."""

    direction: Direction

    @property
    def now(self) -> float:
        """Seconds on trio's clock, the moment this call began."""

    @property
    def wall(self) -> float:
        """The same moment as seconds since the epoch, for time stamps."""

    def emit(self, event: Event) -> None:
        """Send the event on in this lane."""

    def reply(self, event: Event) -> None:
        """Send the event back from here, in the other lane."""

    def wake(self, at: float | None) -> None:
        """Call `tick` in this lane at that time on trio's clock; None calls it off."""

    def write(self, sink: Sink, data: bytes) -> None:
        """Write beside the stream."""


class Stage:
    """One running stage of one session. The defaults pass everything on."""

    name = "stage"
    follows = False
    """It goes by how the port stands: no byte reaches it before the port's first reports have passed."""

    def start(self, out: Out) -> None:
        """Called once per lane, before its first event."""

    def forward(self, event: Event, out: Out) -> None:
        """An event travelling left to right."""
        out.emit(event)

    def back(self, event: Event, out: Out) -> None:
        """An event travelling right to left."""
        out.emit(event)

    def tick(self, now: float, out: Out) -> None:
        """The time asked for by `wake` in this lane has come."""

    def discard(self, direction: Direction) -> int:
        """Drop the bytes held in that lane, never a control; how many (law 6)."""
        return 0

    def heeds(self, purge: Event, direction: Direction) -> bool:
        """Whether a Purge that has just entered that lane may act at once (law 6); not where it will be denied here."""
        return True

    def held(self, direction: Direction) -> int:
        """How many bytes it holds back in that lane now."""
        return 0

    def room(self, direction: Direction) -> int | None:
        """How many more bytes it takes in that lane now; None is any number, 0 stops the source until a wake."""
        return None

    def finish(self) -> SerpipeError | None:
        """The session is over: a verdict (CheckFailed), or None."""
        return None

    def closing_lines(self) -> list[str]:
        """What there is to say at the end, a line each, on stderr (checksums, counts)."""
        return []


class StageSpec:
    """What the user wrote of a stage, parsed. Subclasses are frozen dataclasses registered with `@stage`."""

    def make(self, context: StageContext) -> Stage:
        """A fresh stage for one session. Raises OpenFailed (a file that cannot be written)."""
        raise NotImplementedError

    def describe(self) -> str:
        """How `--explain` calls it."""
        raise NotImplementedError


class StageContext(Protocol):
    """What a stage may ask of the pipeline when it is made."""

    session: str
    """A short name of this session, "" where there is only one."""

    def stderr(self) -> Sink:
        """The sink for stderr; all stages of a process share it."""

    def file(self, path: str, *, append: bool = False) -> Sink:
        """A sink for a file, opened now (created, or truncated unless `append`). Raises OpenFailed."""

    def note(self, text: str, level: int) -> None:
        """Say a line to the user: 0 always, 1 with -d, 2 with -dd."""
