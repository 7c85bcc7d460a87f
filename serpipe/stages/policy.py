"""`policy`: what a controller may ask of the port, and what it is told where it may not.

Theory of operation
-------------------
The stage judges every Request that travels in its direction, from either end unless `dir` narrows it. What is allowed
passes. What is not is taken out: of a SetLine with allowed and denied fields the allowed part goes on, under the same
`ref`, and the port's one answer is made to say what holds of all that was asked. A request of which nothing is left is
answered here, out of the reports that have passed. Where none has said yet what is in force, or an earlier request that
may change it is still on its way, it goes on as a question instead: the port itself then answers, in the order that it was
asked. With `answer=asked` a denied value is confirmed as if it held, for clients that refuse anything else; a
question is answered with what holds all the same.

A setting that is asked for and in force already is denied in silence: nothing is refused by it.

With `locked=` the stage asks the port for that setting as soon as it has said that it stands, and again after each
reopening. No byte passes before that.

A denied purge drops nothing: the lane asks its stages (`Stage.heeds`) before it acts on a purge that it has read. A stage
that holds bytes and stands between the controller and this one acts on it by itself, so this belongs next to the controller.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TypeAlias

from serpipe.events import (
    Event,
    Failed,
    Line,
    LineReport,
    Opened,
    OutputReport,
    Purge,
    PurgeDone,
    Report,
    Request,
    SetBreak,
    SetLine,
    SetModem,
)
from serpipe.protocol.line import format_line
from serpipe.protocol.policy import LINE_FIELDS, PolicyOptions
from serpipe.protocol.rfc2217 import TOLERANCE
from serpipe.registry import stage
from serpipe.stages.base import LANES, Dir, Direction, Out, Stage, StageContext, StageSpec, dir_option

_BACK: dict[Direction, Direction] = {"->": "<-", "<-": "->"}
_FRAME = frozenset(LINE_FIELDS["format"])
_Finish: TypeAlias = Callable[[Report], Report]
"""What is made of the port's answer before the controller gets it."""


def _part(line: Line, names: frozenset[str]) -> Line:
    """These fields of a line alone."""
    return Line(**{f.name: getattr(line, f.name) for f in fields(Line) if f.name in names})


def _with_flow(line: Line) -> Line:
    """Inbound flow control is as outbound where nothing else is said."""
    return replace(line, flow_in=line.flow) if line.flow_in is None and line.flow != "dcd" else line


def _differs(asked: Line, holds: Line) -> bool:
    """Whether something that `asked` names is not in force; a rate that the divisor meets is."""
    if asked.baud and holds.baud and abs(asked.baud - holds.baud) <= asked.baud * TOLERANCE:
        asked = replace(asked, baud=holds.baud)
    return bool(_with_flow(holds).changes(asked.over(_with_flow(holds))))


def _says(line: Line, asked: Line) -> bool:
    """Whether `line` has a value for everything that `asked` names."""
    known = _with_flow(line)
    return all(getattr(known, f.name) is not None for f in fields(Line) if getattr(asked, f.name) is not None)


class _Controller:
    """What a controller has asked for, and what is known of the port that it faces."""

    def __init__(self) -> None:
        self.asked: dict[type[Request], dict[int, _Finish | None]] = {SetLine: {}, SetModem: {}, SetBreak: {}}
        """The requests whose answers are on their way, by kind and `ref`."""
        self.forget()

    def forget(self) -> None:
        self.line = Line()
        self.output = OutputReport()

    @property
    def settled(self) -> bool:
        """Nothing that was asked for can still change the lines."""
        return not (self.asked[SetModem] or self.asked[SetBreak])

    def arrived(self, report: Report) -> Report:
        """The port's report as the controller gets it."""
        if report.answers is not None:
            for asked in self.asked.values():
                if report.answers in asked:
                    finish = asked.pop(report.answers)
                    return report if finish is None else finish(report)
        return report

    def learn(self, report: Report) -> None:
        """Keep what a report says of how the port stands."""
        known = report.in_force if isinstance(report, Failed) else report
        if isinstance(known, LineReport):
            line = known.values.over(self.line)
            self.line = line if known.values.flow is None else replace(line, flow_in=known.values.flow_in)
        elif isinstance(known, OutputReport):
            self.output = _over(known, self.output)


def _over(report: OutputReport, other: OutputReport) -> OutputReport:
    """What a report says of the lines, with another's where it says nothing."""
    return replace(
        report,
        dtr=other.dtr if report.dtr is None else report.dtr,
        rts=other.rts if report.rts is None else report.rts,
        break_=other.break_ if report.break_ is None else report.break_,
    )


def _lines(report: OutputReport) -> str:
    pairs = (("DTR", report.dtr), ("RTS", report.rts), ("break", report.break_))
    return " ".join(f"{name} {'on' if on else 'off'}" for name, on in pairs if on is not None)


class PolicyStage(Stage):
    """The running stage."""

    name = "policy"

    def __init__(self, spec: PolicyOptions, lanes: tuple[Direction, ...], context: StageContext) -> None:
        denied = spec.denied
        self._fields = frozenset(name for thing, names in LINE_FIELDS.items() if thing in denied for name in names)
        self._lines_denied = "lines" in denied
        self._break_denied = "break" in denied
        self._purge_denied = "purge" in denied
        self._as_asked = spec.told_as_asked
        self._silent = spec.silent
        self._locked = spec.locked
        self._locking: set[int] = set()
        self._controllers = {direction: _Controller() for direction in lanes}
        self._note = context.note
        self._prefix = f"{context.session}: policy: " if context.session else "policy: "
        self._said: set[str] = set()
        self.follows = self._locked is not None

    def forward(self, event: Event, out: Out) -> None:
        """Left to right."""
        self._pass(event, out)

    def back(self, event: Event, out: Out) -> None:
        """Right to left."""
        self._pass(event, out)

    def heeds(self, purge: Event, direction: Direction) -> bool:
        """A purge that is denied acts on nothing."""
        return not (self._purge_denied and type(purge) is Purge and direction in self._controllers)

    def _pass(self, event: Event, out: Out) -> None:
        if isinstance(event, Request):
            controller = self._controllers.get(out.direction)
            if controller is not None:
                self._judge(controller, event, out)
                return
        elif isinstance(event, Report):
            controller = self._controllers.get(_BACK[out.direction])
            if controller is not None:
                self._tell(controller, event, out)
                return
        out.emit(event)

    # what the port says

    def _tell(self, controller: _Controller, report: Report, out: Out) -> None:
        if type(report) is Opened:
            controller.forget()
        controller.learn(report)
        if report.answers in self._locking:
            self._locking.discard(report.answers)
            self._tell_locked(report, out)
            return
        out.emit(controller.arrived(report))
        if type(report) is Opened and self._locked is not None:
            request = SetLine.of(self._locked)
            self._locking.add(request.ref)
            out.reply(request)

    def _tell_locked(self, report: Report, out: Out) -> None:
        """The port's answer to `locked=`: news to the controller, which did not ask."""
        assert self._locked is not None
        holds = report.in_force if isinstance(report, Failed) else report
        if isinstance(holds, LineReport):
            out.emit(replace(holds, answers=None, requested=None))
        values = holds.values if isinstance(holds, LineReport) else Line()
        if isinstance(report, Failed) or _differs(self._locked, values):
            stands = format_line(values) or "not known"
            did_not = "confirm" if isinstance(report, Failed) and report.why == "timeout" else "take"
            self._say("locked", f"the port did not {did_not} {format_line(self._locked)}; in force is {stands}", 0)

    # what the controller asks

    def _judge(self, controller: _Controller, request: Request, out: Out) -> None:
        match request:
            case SetLine():
                denied = _part(request.line, self._fields)
                if denied:
                    self._deny_line(controller, request, denied, out)
                    return
            case SetModem():
                if self._lines_denied and (request.dtr is not None or request.rts is not None):
                    self._deny_output(controller, request, OutputReport(dtr=request.dtr, rts=request.rts), out)
                    return
            case SetBreak():
                if self._break_denied and request.on is not None:
                    self._deny_output(controller, request, OutputReport(break_=request.on), out)
                    return
            case Purge():
                if self._purge_denied:
                    self._say("purge", "client asks to drop bytes; none are", 0)
                    out.reply(PurgeDone(answers=request.ref, rx=request.rx, tx=request.tx, virtual=True))
                    return
        if type(request) in controller.asked:
            controller.asked[type(request)][request.ref] = None
        out.emit(request)

    def _deny_line(self, controller: _Controller, request: SetLine, denied: Line, out: Out) -> None:
        wanted = request.line
        allowed = _part(wanted, frozenset(f.name for f in fields(Line)) - self._fields)
        settled = not (controller.asked[SetLine] or self._locking)
        if not allowed and settled and (self._as_asked or _says(controller.line, denied)):
            self._say_line(denied, controller.line)
            values = denied.over(controller.line) if self._as_asked else controller.line
            out.reply(LineReport(answers=request.ref, values=values, requested=wanted, virtual=True))
            return

        def finish(report: Report) -> Report:
            self._say_line(denied, controller.line)
            if not isinstance(report, LineReport):
                return report
            values = report.values.over(controller.line)
            report = replace(report, values=denied.over(values) if self._as_asked else values, requested=wanted)
            if _says(report.values, denied):
                return report
            return _refused(report, "the port does not say what is in force")

        controller.asked[SetLine][request.ref] = finish
        out.emit(replace(SetLine.of(allowed), ref=request.ref))

    def _deny_output(
        self, controller: _Controller, request: SetModem | SetBreak, asked: OutputReport, out: Out
    ) -> None:
        names = [name for name in ("dtr", "rts", "break_") if getattr(asked, name) is not None]

        def known(report: OutputReport) -> bool:
            return all(getattr(report, name) is not None for name in names)

        def answer(holds: OutputReport) -> OutputReport:
            differs = [name for name in names if getattr(asked, name) != getattr(holds, name)]
            if differs:
                stands = _lines(holds) or "as it is"
                self._say(type(request).__name__, f"client asks for {_lines(asked)}; the port stays at {stands}", 0)
            return _over(replace(asked, answers=holds.answers), holds) if self._as_asked else holds

        if controller.settled and (self._as_asked or known(controller.output)):
            out.reply(replace(answer(controller.output), answers=request.ref, virtual=True))
            return

        def finish(report: Report) -> Report:
            if not isinstance(report, OutputReport):
                return report
            told = answer(_over(report, controller.output))
            return told if known(told) else _refused(told, "the port does not say how its lines stand")

        controller.asked[type(request)][request.ref] = finish
        query: Request = SetModem() if isinstance(request, SetModem) else SetBreak()
        out.emit(replace(query, ref=request.ref))

    def _say_line(self, denied: Line, holds: Line) -> None:
        if not _differs(denied, holds):
            return
        asked = denied
        if any(getattr(denied, name) is not None for name in _FRAME):  # 7N1 says more than 7 does
            asked = denied.over(_part(holds, _FRAME))
        stands = format_line(holds)
        told = ", and is told that it holds" if self._as_asked else ""
        stays = f"; the port stays at {stands}" if stands else "; the port stays as it is"
        self._say("SetLine", f"client asks for {format_line(asked)}{told}{stays}", 1 if self._silent else 0)

    def _say(self, key: str, text: str, level: int) -> None:
        """Once per client and kind of request; what comes after is for -d."""
        self._note(self._prefix + text, 1 if key in self._said else level)
        self._said.add(key)


def _refused(report: LineReport | OutputReport, text: str) -> Failed:
    return Failed(answers=report.answers, why="refused", in_force=replace(report, answers=None), text=text)


@stage(
    "policy",
    summary="what a client may set, and what it is told where it may not",
    example="policy,locked=115200n81,deny=break",
)
@dataclass(frozen=True, kw_only=True)
class Policy(PolicyOptions, StageSpec):
    """Keeps clients from changing what they should not: settings, DTR and RTS, break, purges.

    What is denied does not reach the port, and is answered: with what is in force there or, with `answer=asked`, with
    what was asked for, since some clients (pySerial) take any other answer for an error. Each client that asks is
    named once. Of `allow` and `deny`: `baud`, `format` (data bits, parity, stop bits), `flow`, `lines` (DTR and RTS),
    `break` and `purge`, joined by a plus. `rfc2217-listen:` takes the same options and puts the stage next to it.
    """

    dir: Dir = dir_option("whose requests: those that travel right, left, or both")

    def make(self, context: StageContext) -> Stage:
        """Nothing known, nobody told."""
        return PolicyStage(self, LANES[self.dir], context)

    def describe(self) -> str:
        """``policy,locked=115200n81,dir=right``."""
        return (self.policy_word or "policy") + (f",dir={self.dir}" if self.dir != "both" else "")
