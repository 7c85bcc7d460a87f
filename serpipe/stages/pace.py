"""`pace`: bytes take the time that they would take on a line.

Theory of operation
-------------------
All of the arithmetic is in `protocol/pacing.py`; this stage keeps one `Pacer` for each direction it slows down and tells
it the time. Everything stands in that queue, controls as well, so a control takes its turn behind the bytes it follows,
and Eof comes last. A purge drops the bytes held in the direction it travels in.

Without a rate it keeps to the one in force at the port, which it reads off the LineReports that pass, and until the
first has passed it delays nothing. A report holds at once for the bytes on their way to the port. For those that come
from the port it holds from its own place in the stream, since what stands before it came in under the old setting.
"""

from __future__ import annotations

from dataclasses import dataclass

from serpipe.events import Event, Failed, LineReport
from serpipe.options import opt
from serpipe.protocol.pacing import RULE, Pacer, Rule
from serpipe.registry import stage
from serpipe.stages.base import LANES, Dir, Direction, Out, Stage, StageContext, StageSpec, dir_option

_NAP = 0.05
"""Seconds that a lane sleeps at most while its rate can change under it."""


class PaceStage(Stage):
    """The running stage."""

    name = "pace"

    def __init__(self, rule: Rule, lanes: tuple[Direction, ...]) -> None:
        self.follows = rule.follows
        self._pacers: dict[Direction, Pacer] = {lane: Pacer(rule) for lane in lanes}

    def forward(self, event: Event, out: Out) -> None:
        """Left to right."""
        self._push(event, out)

    def back(self, event: Event, out: Out) -> None:
        """Right to left."""
        self._push(event, out)

    def tick(self, now: float, out: Out) -> None:
        """Some of what is held is due."""
        self._release(self._pacers[out.direction], out)

    def discard(self, direction: Direction) -> int:
        """Drop the bytes held in that lane."""
        pacer = self._pacers.get(direction)
        return pacer.discard() if pacer is not None else 0

    def held(self, direction: Direction) -> int:
        """Bytes held in that lane."""
        pacer = self._pacers.get(direction)
        return pacer.held if pacer is not None else 0

    def room(self, direction: Direction) -> int | None:
        """Some 50 ms worth ahead of time."""
        pacer = self._pacers.get(direction)
        return pacer.room if pacer is not None else None

    def _push(self, event: Event, out: Out) -> None:
        if self.follows and (char_time := _char_time(event)) is not None:
            for lane, other in self._pacers.items():
                if lane != out.direction:
                    other.set_char_time(char_time, out.now)
        pacer = self._pacers.get(out.direction)
        if pacer is None:
            out.emit(event)
            return
        pacer.push(event, out.now)
        self._release(pacer, out)

    def _release(self, pacer: Pacer, out: Out) -> None:
        for event in pacer.release(out.now):
            out.emit(event)
            if self.follows and (char_time := _char_time(event)) is not None:
                pacer.set_char_time(char_time, out.now)
        due = pacer.next_due(out.now)
        out.wake(min(due, out.now + _NAP) if due is not None and self.follows else due)


def _char_time(event: Event) -> float | None:
    """Seconds per character by the settings that an event reports; None where it reports none."""
    if type(event) is Failed and type(event.in_force) is LineReport:
        event = event.in_force
    if type(event) is LineReport and event.values.baud:
        return event.values.line_time(1)
    return None


@stage("pace", summary="let bytes take the time they would on a line", example="pace:115200")
@dataclass(frozen=True, kw_only=True)
class Pace(StageSpec):
    """Slows the stream down to a rate, or puts a delay behind each character, line or chunk.

    `pace` alone keeps to the rate and format in force at the port. `pace:115200` and `pace:9600n81` are those of a
    line, `pace:11k/s` counts bytes (k is 1024), `pace:1ms/char`, `pace:50ms/line` and `pace:10ms/chunk` are delays, and
    a `+` joins them: `pace:9600+50ms/line`. Settings, breaks and lines keep their places among the bytes.
    """

    rate: Rule = opt(Rule(), RULE, "how fast", body=True, shown_default="the port's own rate")
    dir: Dir = dir_option("which direction it slows down")

    def make(self, context: StageContext) -> Stage:
        """Fresh queues."""
        return PaceStage(self.rate, LANES[self.dir])

    def describe(self) -> str:
        """``pace:115200,dir=right``."""
        body = "" if self.rate.follows else f":{self.rate}"
        return f"pace{body}" + (f",dir={self.dir}" if self.dir != "both" else "")
