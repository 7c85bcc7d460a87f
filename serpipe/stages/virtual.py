"""`virtual`: answers a controller where there is no port.

Theory of operation
-------------------
A program on a pty, or an RFC 2217 client, sets rates and lines and must be answered, whether or not a port stands at the
other end. This stage is put where none does. It remembers what it is told, one memory for each controller it serves,
and answers as asked, with every report marked `virtual` so that whoever reads it can tell. The lines it reports
are those of a modem that is ready: CTS, DSR and CD on, RI off.

A request of the served controller ends here; its answer is a reply, which enters the other lane. What the stage says
first, as any port does (Opened, LineReport, OutputReport, ModemReport), is emitted in the lane that leads to the
controller, when that lane starts. Everything else passes, bytes included.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from serpipe import __version__
from serpipe.events import (
    Drain,
    Drained,
    Event,
    Failed,
    GetModem,
    GetSignature,
    Line,
    LineReport,
    ModemReport,
    Opened,
    OutputReport,
    Purge,
    PurgeDone,
    Report,
    Request,
    SetBreak,
    SetLine,
    SetModem,
    Signature,
)
from serpipe.options import choice, opt
from serpipe.protocol.line import LineOptions, format_line
from serpipe.registry import stage
from serpipe.stages.base import Out, Stage, StageContext, StageSpec

Towards: TypeAlias = Literal["left", "right", "both"]

_DEFAULT = Line(9600, 8, "none", 1.0, "none")


class _Memory:
    """What one controller has been told: the port that is not there."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.dtr = True
        self.rts = True
        self.break_ = False

    def output(self) -> OutputReport:
        return OutputReport(dtr=self.dtr, rts=self.rts, break_=self.break_)

    def modem(self) -> ModemReport:
        return ModemReport(cts=True, dsr=True, dcd=True)

    def first(self) -> list[Report]:
        """What a port says first."""
        return [Opened(peer="virtual"), LineReport(values=self.line), self.output(), self.modem()]

    def carry_out(self, request: Request) -> Report:
        """The answer to a request, which is remembered."""
        match request:
            case SetLine():
                self.line = request.line.over(self.line)
                return LineReport(values=self.line, requested=request.line or None)
            case SetModem():
                self.dtr = self.dtr if request.dtr is None else request.dtr
                self.rts = self.rts if request.rts is None else request.rts
                return self.output()
            case SetBreak():
                self.break_ = self.break_ if request.on is None else request.on
                return self.output()
            case GetModem():
                return self.modem()
            case Purge():
                return PurgeDone(rx=request.rx, tx=request.tx)
            case Drain():
                return Drained()
            case GetSignature():
                return Signature(text=f"serpipe {__version__}".encode())
            case _:
                return Failed(why="unsupported", text=f"there is no port here to do {type(request).__name__}")


class VirtualStage(Stage):
    """The running stage: one memory per controller it serves."""

    name = "virtual"

    def __init__(self, towards: Towards, line: Line) -> None:
        self._left = _Memory(line) if towards in ("left", "both") else None
        self._right = _Memory(line) if towards in ("right", "both") else None

    def start(self, out: Out) -> None:
        """Say what a port says first, in the lane that leads to a served controller."""
        memory = self._left if out.direction == "<-" else self._right
        if memory is not None:
            for report in memory.first():
                out.emit(replace(report, virtual=True))

    def forward(self, event: Event, out: Out) -> None:
        """From the left: its requests are answered where the left controller is served."""
        self._serve(self._left, event, out)

    def back(self, event: Event, out: Out) -> None:
        """From the right, likewise."""
        self._serve(self._right, event, out)

    def _serve(self, memory: _Memory | None, event: Event, out: Out) -> None:
        if memory is not None and isinstance(event, Request):
            out.reply(replace(memory.carry_out(event), answers=event.ref, virtual=True))
        else:
            out.emit(event)


@stage("virtual", summary="answers a controller where there is no port", example="virtual,towards=left,9600n81")
@dataclass(frozen=True, kw_only=True)
class Virtual(LineOptions, StageSpec):
    """Answers the settings and lines that a program asks for where no port stands to do it.

    serpipe puts it into the chain by itself, and `--explain` shows it. It remembers what it is told and reports it
    back, at first 9600 8N1 flow=none with DTR and RTS on; CTS, DSR and CD read on, RI off.
    """

    towards: Towards = opt("both", choice("left", "right", "both"), "whose requests it answers")

    def make(self, context: StageContext) -> Stage:
        """A fresh memory."""
        return VirtualStage(self.towards, self.line.over(_DEFAULT))

    def describe(self) -> str:
        """``virtual,towards=left 9600 8N1 flow=none``."""
        return f"virtual,towards={self.towards} {format_line(self.line.over(_DEFAULT))}"
