"""Pacing: which bytes may go when, so that a stream keeps to the time a serial line would take.

Theory of operation
-------------------
A `Rule` says how fast: at a line's rate, at so many bytes per second, or with a delay for each character, line or chunk;
`parse_rule` reads one from what the user wrote. A `Pacer` applies it to one direction. It knows no clock: it is told the
time, says what is due (`release`) and when it wants to be asked again (`next_due`).

A character takes its time on the line and is due when that has passed, as on a wire, where it arrives with its last bit.
Due times are absolute and each starts where the one before ended, so an average is exact however late the timer is; what
a late timer leaves is made up for in one batch. An idle line saves nothing up: after a pause longer than `TICK` the next
character starts now. Sleeps are no shorter than `TICK`, unless what is held ends sooner, so a fast line is released in
batches and costs no wake-up per byte.

Lines and chunks have a gap behind them, which delays bytes only: a control goes as soon as the bytes before it have gone.
A line ends with LF, CR, or CR LF, which may be cut anywhere.

Controls stand in the queue among the bytes, so the order holds; `discard` drops bytes, and never a control.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from serpipe.errors import BadValue
from serpipe.events import Event, Line
from serpipe.options import Kind, parse_duration, parse_size
from serpipe.protocol.line import format_line, parse_word

TICK = 0.002
"""Seconds between two batches, at least; also how long a pause may be and still be made up for."""

HOLD_TIME = 0.05
"""Seconds' worth of bytes that a pacer asks for ahead of time."""
HOLD_MIN = 64
HOLD_MAX = 65536
HOLD_LINES = 256
"""Bytes it asks for ahead of time where only lines are delayed and nothing says how long one takes."""

_SLACK = 1e-6
"""Part of a character by which a clock may be early (float rounding) and the character still counts as gone."""
_LINE_END = re.compile(rb"\r\n?|\n")


@dataclass(frozen=True, slots=True)
class Rule:
    """How fast. At most one of `line`, `rate` and `char`; none of all five is the rate in force at the port."""

    line: Line | None = None
    """The rate and format of this line."""
    rate: int | None = None
    """Bytes per second."""
    char: float | None = None
    """Seconds per character."""
    per_line: float = 0.0
    """Seconds of pause after each line."""
    per_chunk: float = 0.0
    """Seconds of pause after each chunk, as the chunks come in."""

    @property
    def follows(self) -> bool:
        """The rate is the port's own."""
        return self == Rule()

    @property
    def char_time(self) -> float:
        """Seconds per character; 0.0 where characters are not delayed, or their rate is not known yet."""
        if self.line is not None:
            return self.line.line_time(1)
        if self.rate is not None:
            return 1 / self.rate
        return self.char or 0.0

    def __str__(self) -> str:
        """As a user would write it, in one form."""
        words = []
        if self.line is not None:
            words.append(format_line(self.line).replace(" ", "/"))
        if self.rate is not None:
            words.append(f"{self.rate}/s")
        for seconds, unit in ((self.char, "char"), (self.per_line, "line"), (self.per_chunk, "chunk")):
            if seconds:
                words.append(f"{seconds * 1000:g}ms/{unit}")
        return "+".join(words) or "port"


_FITS = "a rate as 115200 or 9600n81, bytes per second as 11k/s, or a delay as 1ms/char, 50ms/line or 10ms/chunk"


def parse_rule(text: str) -> Rule:
    """The rule in `115200`, `9600n81`, `11k/s` (k is 1024), `1ms/char`, `50ms/line`, `10ms/chunk`, or some with `+`.

    `port` is the rate in force at the port, what no rule at all means. Raises BadValue.
    """
    if text.lower() == "port":
        return Rule()
    line: Line | None = None
    rate: int | None = None
    delays = {"char": 0.0, "line": 0.0, "chunk": 0.0}
    for word in text.split("+"):
        amount, slash, unit = word.rpartition("/")
        if (found := parse_word(word)) is not None:
            if found.baud is None:
                raise BadValue(f"{word!r} is a format without a rate, as 9600n81")
            if line is not None:
                raise BadValue(f"{text!r} gives two rates")
            line = found
        elif slash and unit.lower() == "s":
            if rate is not None:
                raise BadValue(f"{text!r} gives two rates")
            rate = parse_size(amount)
            if rate == 0:
                raise BadValue(f"{word!r} is no rate: nothing would ever go")
        elif slash and unit.lower() in delays:
            if delays[unit.lower()]:
                raise BadValue(f"{text!r} gives two delays per {unit}")
            delays[unit.lower()] = parse_duration(amount)
            if not delays[unit.lower()]:
                raise BadValue(f"{word!r} is no delay")
        else:
            raise BadValue(f"{word!r} is not {_FITS}")
    if (line is not None) + (rate is not None) + bool(delays["char"]) > 1:
        raise BadValue(f"{text!r} says twice how long a character takes")
    return Rule(line, rate, delays["char"] or None, delays["line"], delays["chunk"])


RULE = Kind("RATE", parse_rule, _FITS)


class Pacer:
    """The queue of one direction. Times are seconds on any one clock."""

    def __init__(self, rule: Rule) -> None:
        self._char = rule.char_time
        self._per_line = rule.per_line
        self._per_chunk = rule.per_chunk
        self._queue: deque[Event] = deque()
        self._offset = 0
        """How much of the queue's first chunk has gone."""
        self._segment = 0
        """Where in the first chunk the next gap is; 0 while that has not been looked for."""
        self._start = 0.0
        """When the next character begins."""
        self._cr_gone: float | None = None
        """When a CR at the end of a chunk had gone: the next byte tells whether the line ended there."""
        self.held = 0
        """Bytes in the queue."""

    @property
    def paces(self) -> bool:
        """Whether anything is delayed at all."""
        return bool(self._char or self._per_line or self._per_chunk)

    @property
    def room(self) -> int | None:
        """How many more bytes it wants now: some `HOLD_TIME`'s worth, asked for when a quarter of that has gone."""
        if not self.paces:
            return None
        if self._per_chunk:  # as they come: one after the other
            return 0 if self.held else HOLD_MAX
        limit = HOLD_LINES
        if self._char:
            limit = round(min(max(HOLD_TIME / self._char, HOLD_MIN), HOLD_MAX))
        return limit - self.held if self.held <= limit * 3 // 4 else 0

    def set_char_time(self, seconds: float, now: float) -> None:
        """Another rate from now on. What is due by the old one should have been released before."""
        if seconds != self._char:
            self._char = seconds
            self._start = max(self._start, now)

    def push(self, event: Event, now: float) -> None:
        """Put an event at the end of the queue."""
        if type(event) is bytes:
            if not event:
                return
            if not self.held and self._start < now - TICK:
                self._start = now
            self.held += len(event)
        self._queue.append(event)

    def discard(self) -> int:
        """Drop the bytes held, and keep the controls; how many bytes."""
        dropped, self.held = self.held, 0
        self._queue = deque(event for event in self._queue if type(event) is not bytes)
        self._offset = self._segment = 0
        return dropped

    def release(self, now: float) -> Iterator[Event]:
        """What is due by now, in order; bytes that stand together come as one.

        The rate may be changed between two events: it holds for what comes after.
        """
        parts: list[bytes] = []
        while self._queue:
            first = self._queue[0]
            if type(first) is bytes:
                count = self._due_of(first, now)
                if not count:
                    break
                parts.append(first[self._offset : self._offset + count])
                self._go(first, count)
            elif parts:
                yield b"".join(parts)
                parts.clear()
            else:
                yield self._queue.popleft()
        if parts:
            yield b"".join(parts)

    def next_due(self, now: float) -> float | None:
        """When `release` should be called next; None when nothing is held."""
        if not self._queue:
            return None
        first = self._queue[0]
        if type(first) is not bytes:
            return now
        self._look(first)
        left = self._segment - self._offset
        soonest = max(self._start + self._char, now + TICK)
        ends_here = self._segment == len(first) and (len(self._queue) == 1 or type(self._queue[1]) is not bytes)
        return min(soonest, self._start + left * self._char) if ends_here or left == 1 else soonest

    def _look(self, first: bytes) -> None:
        """Find where the run of bytes at the head of the queue ends: at a line's end, or the chunk's."""
        if self._segment:
            return
        if not self._per_line:
            self._segment = len(first)
            return
        if self._cr_gone is not None:
            ended, self._cr_gone = self._cr_gone, None
            if first[self._offset : self._offset + 1] == b"\n":
                self._segment = self._offset + 1
                return
            self._start = max(self._start, ended + self._per_line)
        match = _LINE_END.search(first, self._offset)
        self._segment = match.end() if match else len(first)

    def _due_of(self, first: bytes, now: float) -> int:
        """How many bytes of the run at the head are due."""
        self._look(first)
        left = self._segment - self._offset
        if self._char:
            return max(0, min(left, int((now - self._start) / self._char + _SLACK)))
        return left if self._start <= now else 0

    def _go(self, first: bytes, count: int) -> None:
        """Count these bytes as gone, and add the gap where they end a line or a chunk."""
        self._offset += count
        self.held -= count
        self._start += count * self._char
        if self._offset < self._segment:
            return
        last = first[self._segment - 1]
        ends_chunk = self._segment == len(first)
        self._segment = 0
        if self._per_line and last == 0x0D and ends_chunk:
            self._cr_gone = self._start
        elif self._per_line and last in (0x0A, 0x0D):
            self._start += self._per_line
        if ends_chunk:
            self._start += self._per_chunk
            self._queue.popleft()
            self._offset = 0
