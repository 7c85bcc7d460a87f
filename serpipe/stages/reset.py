"""`reset:esp`: the reset of an ESP board across a network, both lines at once.

Theory of operation
-------------------
On an ESP board two transistors make EN and IO0 out of DTR and RTS: RTS alone pulls EN low (the chip is in reset), DTR alone
pulls IO0 low, and both together pull neither. The way into the bootloader leads from RTS alone to DTR alone. A program that
sets the two one after the other passes through "both", where EN is high and IO0 too: that is a start of the application. On
a local port this lasts microseconds, which a capacitor at EN hides; where each change waits for an acknowledgement it
lasts 50 ms and more, and the board boots.

So a change of DTR is held until the RTS that belongs to it comes, for `HOLD` seconds at most, and both go on in one
SetModem. The held change is acknowledged at once: a program that waits for that would never send the other. It goes on by
itself before anything else that comes: a byte, another change, a question, Eof. The answer that the port then gives to it
is told as news, since the request has had its own.

Only DTR is held: the sequences of esptool set it first. A DTR as it was asked for already changes nothing and passes.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import Final, Literal

from serpipe.events import Event, Failed, OutputReport, Report, SetModem
from serpipe.options import choice, opt
from serpipe.registry import stage
from serpipe.stages.base import LANES, Dir, Direction, Out, Stage, StageContext, StageSpec, dir_option

HOLD: Final = 0.150
"""Seconds that a change of DTR waits for that of RTS. pySerial's client sends it 50 ms later, or 100 ms with
`ign_set_control`."""
_BACK: dict[Direction, Direction] = {"->": "<-", "<-": "->"}


class _Controller:
    """One controller: what is held of it, and how it believes the lines to be."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[int, bool | None]] = deque()
        """The SetModems without an answer, by `ref` in their order; with a value of DTR it is for us to acknowledge."""
        self.held: bool | None = None
        """The DTR that waits for its RTS."""
        self.dtr: bool | None = None
        """DTR as it was asked for last, or as the port says."""
        self.output = OutputReport()
        self.own: set[int] = set()
        """Requests of ours whose answers nobody waits for."""
        self._on_its_way: int | None = None

    def acknowledge(self) -> list[Report]:
        """The answers of ours that need not wait any longer."""
        told: list[Report] = []
        while self.waiting and self.waiting[0][1] is not None:
            ref, dtr = self.waiting.popleft()
            told.append(replace(self.output, answers=ref, dtr=dtr, virtual=True))
        return told

    def answered(self, ref: int) -> None:
        """The port has answered that request."""
        if self.waiting and self.waiting[0][0] == ref:
            self.waiting.popleft()
        elif (ref, None) in self.waiting:  # out of its order
            self.waiting.remove((ref, None))

    def ask(self, request: SetModem) -> None:
        """`request` goes on to the port."""
        if request.dtr is not None:
            self.dtr = request.dtr
            self._on_its_way = request.ref

    def learn(self, report: Report) -> None:
        """Keep what a report says; of DTR it is older than what is still on its way to the port."""
        if report.answers == self._on_its_way:
            self._on_its_way = None
        known = report.in_force if isinstance(report, Failed) else report
        if isinstance(known, OutputReport):
            self.output = known
            if known.dtr is not None and self._on_its_way is None:
                self.dtr = known.dtr


class ResetStage(Stage):
    """The running stage."""

    name = "reset"

    def __init__(self, lanes: tuple[Direction, ...], context: StageContext) -> None:
        self._controllers = {direction: _Controller() for direction in lanes}
        self._note = context.note

    def forward(self, event: Event, out: Out) -> None:
        """Left to right."""
        self._pass(event, out)

    def back(self, event: Event, out: Out) -> None:
        """Right to left."""
        self._pass(event, out)

    def tick(self, now: float, out: Out) -> None:
        """No RTS came."""
        self._let_go(self._controllers[out.direction], out)

    def _pass(self, event: Event, out: Out) -> None:
        asking = self._controllers.get(out.direction)
        told = self._controllers.get(_BACK[out.direction])
        if asking is not None and type(event) is SetModem:
            self._set(asking, event, out)
            return
        if asking is not None:
            self._let_go(asking, out)
        if told is not None and isinstance(event, Report):
            self._tell(told, event, out)
        else:
            out.emit(event)

    # what the controller asks

    def _set(self, controller: _Controller, request: SetModem, out: Out) -> None:
        if request.dtr is not None and request.rts is None:
            if controller.held not in (None, request.dtr):
                self._let_go(controller, out)
            if controller.held is None and request.dtr != controller.dtr:
                controller.held = request.dtr
                out.wake(out.now + HOLD)
            if controller.held is not None:
                controller.waiting.append((request.ref, request.dtr))
                for answer in controller.acknowledge():
                    out.reply(answer)
                return
        elif controller.held is not None:
            if request.rts is not None and request.dtr in (None, controller.held):
                request = replace(request, dtr=controller.held)
                controller.held = None
                out.wake(None)
            else:
                self._let_go(controller, out)
        controller.ask(request)
        controller.waiting.append((request.ref, None))
        out.emit(request)

    def _let_go(self, controller: _Controller, out: Out) -> None:
        """The held change goes on by itself."""
        if controller.held is None:
            return
        request = SetModem(dtr=controller.held)
        controller.held = None
        out.wake(None)
        controller.ask(request)
        controller.own.add(request.ref)
        out.emit(request)

    # what the port says

    def _tell(self, controller: _Controller, report: Report, out: Out) -> None:
        controller.learn(report)
        if report.answers is None or report.answers not in controller.own:
            out.emit(report)
            if report.answers is not None:
                controller.answered(report.answers)
                for answer in controller.acknowledge():
                    out.emit(answer)
            return
        controller.own.discard(report.answers)
        if isinstance(report, Failed):
            text = f": {report.text}" if report.text else ""
            self._note(f"reset: DTR was acknowledged, and the port did not take it{text}", 0)
        known = report.in_force if isinstance(report, Failed) else report
        if isinstance(known, OutputReport):
            out.emit(replace(known, answers=None))


@stage("reset", summary="set DTR and RTS together, as the reset of a board needs them", example="reset:esp")
@dataclass(frozen=True, kw_only=True)
class Reset(StageSpec):
    """Holds a change of DTR, for 150 ms at most, until the change of RTS that belongs to it, and sets both at once.

    ESP boards enter their bootloader by a change of both lines at the same moment. A client of RFC 2217 can only set one
    after the other, and over a network the time between is long enough to start the application instead. The change that
    is held is acknowledged at once. `rfc2217-listen:` has it as an option: `reset=esp`.
    """

    how: Literal["esp"] = opt(None, choice("esp"), "the board's way of resetting", body=True, required=True)
    dir: Dir = dir_option("whose requests: those that travel right, left, or both")

    def make(self, context: StageContext) -> Stage:
        """Nothing held."""
        return ResetStage(LANES[self.dir], context)

    def describe(self) -> str:
        """``reset:esp,dir=right``."""
        return f"reset:{self.how}" + (f",dir={self.dir}" if self.dir != "both" else "")
