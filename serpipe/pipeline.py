"""The plan of a line, and its running: what is inserted, which gear, who is opened when.

Theory of operation
-------------------
    process > pipeline > session > link

A pipeline is the line the user typed, planned once (`plan`): what the words left out is inserted (`virtual` where a
controller faces no port, the stages that an endpoint's options bring, a hexdump for -x and -v, taps for --trace) and the
gear is chosen. Without a listener the pipeline is one session: both endpoints are opened, the left one first, then the lanes
run until they have ended. With one, `serve.py` makes a session per client. `explain` says all of it and runs nothing.

Whatever happens, endpoints are closed through the same door: `aclose()` puts back what was changed, shielded, and bounded
by the endpoints themselves.
"""

from __future__ import annotations

import math
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from serpipe._fdio import SideSink
from serpipe.endpoints.base import Caps, Context, Endpoint, EndpointSpec, Note, Side, log_note
from serpipe.errors import SerpipeError, open_failed
from serpipe.grammar import Chain, Parsed, parse_stage
from serpipe.lanes import Gear, Rules, Session
from serpipe.stages.base import Direction, Sink, Stage


@dataclass(frozen=True, slots=True)
class Options:
    """What the options of the command line say about a whole pipeline."""

    one_way: Direction | None = None
    """-u, -U"""
    linger: float | None = None
    """-t; None is 2 s with a port in the chain and 0.5 s without."""
    idle: float = math.inf
    """-T"""
    dump: str = ""
    """The hexdump stage that -x or -v inserts, as a word."""
    trace: str = ""
    """--trace: the path of the trace."""
    ready_fd: int | None = None
    """--ready-fd"""


@dataclass(frozen=True, slots=True)
class Planned:
    """One stage of a plan, and why it is there if the user did not write it."""

    parsed: Parsed
    because: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """A line as it was understood."""

    left: Parsed
    stages: tuple[Planned, ...]
    right: Parsed
    left_caps: Caps
    right_caps: Caps
    gear: Gear
    options: Options

    @property
    def linger(self) -> float:
        """Seconds of quiet after which a session whose one lane has ended is over."""
        if self.options.linger is not None:
            return self.options.linger
        return 2.0 if "port" in (self.left_caps.role, self.right_caps.role) else 0.5

    @property
    def listens(self) -> bool:
        """Whether an end of it is a listener."""
        return self.left_caps.listens or self.right_caps.listens


def plan(chain: Chain, options: Options = Options()) -> Plan:
    """What will run for this chain. Raises UsageError."""
    left_caps = chain.left.spec.caps_in("left")
    right_caps = chain.right.spec.caps_in("right")
    stages = [Planned(parsed) for parsed in chain.stages]
    if options.dump:
        stages.insert(0, Planned(parse_stage(options.dump), "by -x or -v"))
    roles = left_caps.role, right_caps.role
    if roles == ("controller", "controller"):
        stages.append(Planned(parse_stage("virtual,towards=both"), "two controllers face each other"))
    elif roles == ("controller", "plain"):
        stages.append(Planned(parse_stage("virtual,towards=left"), f"{chain.right.name}: is no port"))
    elif roles == ("plain", "controller"):
        stages.insert(0, Planned(parse_stage("virtual,towards=right"), f"{chain.left.name}: is no port"))
    for side, parsed in (("left", chain.left), ("right", chain.right)):
        because = f"by the options of {parsed.name}:"
        brought = [Planned(parse_stage(word), because) for word in parsed.spec.brings(side)]
        stages = [*brought, *stages] if side == "left" else [*stages, *reversed(brought)]
    gear: Gear = "inbox"
    if roles == ("plain", "plain"):
        both_raw = left_caps.raw_fd and right_caps.raw_fd
        gear = "splice" if both_raw and not stages and not options.trace and hasattr(os, "splice") else "direct"
    return Plan(chain.left, tuple(stages), chain.right, left_caps, right_caps, gear, options)


_GEARS = {
    "splice": "bytes go from one descriptor to the other inside the kernel",
    "direct": "only bytes can move here: they are pushed from the source to the sink by direct calls",
    "inbox": "controls can move here: an inbox stands before each lane, so that a purge overtakes and answers get in",
}


def explain(planned: Plan) -> list[str]:
    """The plan in words, a line each: what runs, what was inserted, what is the default."""
    rows: list[tuple[str, str, str]] = []

    def endpoint(side: str, parsed: Parsed, caps: Caps) -> None:
        traits: list[str] = [caps.role if caps.role != "plain" else "plain bytes"]
        traits += ["listens"] if caps.listens else []
        traits += ["held for all clients"] if caps.held and planned.listens else []
        traits += ["half-closes"] if caps.half_close else []
        traits += [] if caps.reads else ["gives nothing"]
        traits += [] if caps.writes else ["takes nothing"]
        rows.append((side, parsed.spec.describe(), ", ".join(traits)))

    endpoint("left", planned.left, planned.left_caps)
    for stage in planned.stages:
        why = f"inserted: {stage.because}" if stage.because else ""
        rows.append(("stage", stage.parsed.spec.describe(), why))
    endpoint("right", planned.right, planned.right_caps)
    rows.append(("gear", planned.gear, _GEARS[planned.gear]))
    one_way = planned.options.one_way
    rows.append(("bytes", f"{one_way} only" if one_way else "both ways", ""))
    how = "after one direction has ended, until nothing has moved for this long"
    both = planned.left_caps.half_close and planned.right_caps.half_close
    if both and not one_way:
        rows.append(("end", "both", "after both directions have ended"))
    else:
        rows.append(("end", f"-t {planned.linger:g} s", how))
    if planned.options.idle != math.inf:
        rows.append(("idle", f"-T {planned.options.idle:g} s", "exit 5 after this long without a byte"))
    if planned.options.trace:
        rows.append(("trace", planned.options.trace, "every event at every position"))
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    return [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c}".rstrip() for a, b, c in rows]


class Shop:
    """What the stages of one pipeline share: stderr, and the files they write. Their `StageContext`."""

    def __init__(self, note: Note) -> None:
        self._note = note
        self._stderr: SideSink | None = None
        self._files: dict[str, SideSink] = {}
        self.session = ""

    def stderr(self) -> Sink:
        if self._stderr is None:
            self._stderr = SideSink(2, "stderr")
        return self._stderr

    def file(self, path: str, *, append: bool = False) -> Sink:
        """One sink for a path, whatever number of sessions write to it. Raises OpenFailed."""
        if path not in self._files:
            flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (os.O_APPEND if append else os.O_TRUNC)
            try:
                self._files[path] = SideSink(os.open(path, flags, 0o666), f"file {path}", close=True)
            except OSError as error:
                raise open_failed(f"file {path}", error) from error
        return self._files[path]

    def note(self, text: str, level: int) -> None:
        self._note(text, level)

    def close(self) -> None:
        """Close them all."""
        for sink in self._files.values():
            sink.close()
        if self._stderr is not None:
            self._stderr.close()


@dataclass(slots=True)
class Pipeline:
    """One line, running."""

    plan: Plan
    note: Note = log_note
    said: Callable[[str], None] = lambda line: None
    """Gets the start line."""
    sessions: set[Session] = field(default_factory=set)
    _stopping: bool = False
    _life: trio.CancelScope = field(default_factory=trio.CancelScope)
    _shop: Shop | None = None
    _began: float = field(default_factory=trio.current_time)

    async def run(self) -> None:
        """Until it is over. Raises what ended it badly (SerpipeError). Cancelled, everything is put back."""
        shop = self._shop = Shop(self.note)
        try:
            with self._life:
                self._try_stages(shop)
                if self.plan.listens:
                    from serpipe.serve import serve

                    await serve(self)
                else:
                    await self._single()
        finally:
            shop.close()

    def _try_stages(self, shop: Shop) -> None:
        """Open every file that stages and the trace write, before an endpoint is: a wrong path is found at the start."""
        for planned in self.plan.stages:
            planned.parsed.spec.make(shop)
        if self.plan.options.trace:
            shop.file(self.plan.options.trace)

    def stop(self) -> None:
        """End it in order: accepted bytes are delivered within `-t`, then everything is closed."""
        self._stopping = True
        if not self.sessions:
            self._life.cancel()
        for session in list(self.sessions):
            session.stop()

    def abort(self) -> None:
        """End it at once: nothing more is delivered, everything is put back."""
        self._life.cancel()

    def context(self, side: Side) -> Context:
        """What the endpoint at that end is told."""
        mine, other = self.plan.left_caps, self.plan.right_caps
        if side == "right":
            mine, other = other, mine
        away: Direction = "->" if side == "left" else "<-"
        one_way = self.plan.options.one_way
        return Context(
            side=side,
            reads=mine.reads and one_way in (None, away),
            writes=mine.writes and one_way != away,
            faces=other.role,
            note=self.note,
        )

    async def _single(self) -> None:
        async with trio.open_nursery() as nursery:
            async with (
                opened(nursery, self.plan.left.spec, self.context("left")) as left,
                opened(nursery, self.plan.right.spec, self.context("right")) as right,
            ):
                self.ready(left.title, left.where, right.title, right.where)
                await self.session(left, right)
            nursery.cancel_scope.cancel()

    def ready(self, left: str, left_where: str, right: str, right_where: str) -> None:
        """Both ends stand: say so, to the user and to the script behind --ready-fd."""
        self.said(f"{left} -> {right}")
        fd = self.plan.options.ready_fd
        if fd is not None:
            try:
                os.write(fd, f"ready {left_where or '-'} {right_where or '-'}\n".encode())
                if fd > 2:  # the first three keep their meaning: their numbers must not go to a socket
                    os.close(fd)
            except OSError as error:
                raise open_failed(f"--ready-fd {fd}", error) from error

    async def session(self, left: Endpoint, right: Endpoint, name: str = "") -> None:
        """One session over two open endpoints, which stay open. Raises what ended it."""
        assert self._shop is not None
        self._shop.session = name
        stages = [planned.parsed.spec.make(self._shop) for planned in self.plan.stages]
        running: Sequence[Stage] = stages
        if self.plan.options.trace:
            from serpipe.trace import Tap

            sink = self._shop.file(self.plan.options.trace)
            taps = [Tap(i, sink, self._began, name) for i in range(len(stages) + 1)]
            running = [taps[0], *(item for pair in zip(stages, taps[1:], strict=True) for item in pair)]
        session = Session(
            left,
            right,
            running,
            self.plan.left_caps,
            self.plan.right_caps,
            self.plan.gear,
            Rules(self.plan.linger, self.plan.options.idle, self.plan.options.one_way),
            self.note,
        )
        self.sessions.add(session)
        if self._stopping:
            session.stop()
        failure: SerpipeError | None = None
        try:
            await session.run()
        except SerpipeError as error:
            failure = error
        finally:
            self.sessions.discard(session)
            self.note(f"{name}: {session.counts()}" if name else session.counts(), 1)
            if self._stopping and not self.sessions:
                self._life.cancel()
        for stage in stages:
            for line in stage.closing_lines():
                self.note(f"{name}: {line}" if name else line, -1)
            failure = failure or stage.finish()
        if failure is not None:
            raise failure


@asynccontextmanager
async def opened(nursery: trio.Nursery, spec: EndpointSpec, context: Context) -> AsyncIterator[Endpoint]:
    """The endpoint open, and closed again on every way out; closing is shielded, and bounded by the endpoint."""
    endpoint = await spec.open(nursery, context)
    try:
        yield endpoint
    finally:
        with trio.CancelScope(shield=True):
            await endpoint.aclose()


async def run(*words: str, options: Options = Options(), note: Note = log_note) -> None:
    """Run a whole line, given as the words of the command line, until it is over.

    Raises UsageError and every other SerpipeError. Cancelled, everything is put back as it was.
    """
    from serpipe.grammar import parse_chain

    await Pipeline(plan(parse_chain(words), options), note).run()
