"""What moves in a lane: plain ``bytes``, or one of the controls defined here.

Theory of operation
-------------------
A pipeline has two lanes, one per direction, and each is one ordered stream of events. Data is plain ``bytes``, so the
common case costs no allocation and a test reads as the wire does: ``[b"abc", SetLine(baud=9600), b"de"]``. Everything
else is a frozen, slotted dataclass:

* a `Request` travels from a controller (a program on a pty, an RFC 2217 client) towards the port;
* a `Report` travels from the port towards the controller;
* `Eof` ends a lane, once, and is its last event.

Every Request carries a `ref`, a number unique in this process. `dataclasses.replace` keeps it and comparison ignores it.
The one answer that a Request gets has ``answers=ref``; ``answers=None`` marks a Report that nobody asked for (news). A
Report that comes out of memory and not from hardware says ``virtual=True``: a pty has no modem lines, yet a client must
be answered, and whoever reads the answer can tell.

This module imports nothing of serpipe: everything else stands on it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, fields, replace
from typing import Literal, TypeAlias

Parity: TypeAlias = Literal["none", "odd", "even", "mark", "space"]
"""The five parities of a UART (RFC 2217 section 3, SET-PARITY)."""

Flow: TypeAlias = Literal["none", "xonxoff", "rtscts", "dsrdtr", "dcd"]
"""Flow control of one direction. `dcd` exists outbound only (RFC 2217 SET-CONTROL 17)."""

FailedWhy: TypeAlias = Literal["unsupported", "refused", "timeout", "lost"]

_refs = itertools.count(1)


def new_ref() -> int:
    """A number no other Request of this process has."""
    return next(_refs)


@dataclass(frozen=True, slots=True)
class Line:
    """The settings of a serial line; None stands for "not known" in a report and "leave it" in a request.

    `baud` is in bit/s, `bytesize` in bits (5 to 8), `stopbits` 1, 1.5 or 2. `flow` is outbound flow control (what stops
    the port's transmitter) and, where `flow_in` is None, inbound as well.
    """

    baud: int | None = None
    bytesize: int | None = None
    parity: Parity | None = None
    stopbits: float | None = None
    flow: Flow | None = None
    flow_in: Flow | None = None

    def over(self, other: Line) -> Line:
        """These settings, with `other`'s where this one says nothing."""
        names = (f.name for f in fields(Line))
        return Line(**{n: mine if (mine := getattr(self, n)) is not None else getattr(other, n) for n in names})

    def changes(self, wanted: Line) -> Line:
        """What of `wanted` differs from these settings: the least that has to be asked for."""
        names = (f.name for f in fields(Line))
        return Line(**{n: w if (w := getattr(wanted, n)) != getattr(self, n) else None for n in names})

    def __bool__(self) -> bool:
        """False when every field is None."""
        return any(getattr(self, f.name) is not None for f in fields(Line))

    @property
    def bits_per_char(self) -> float:
        """Bit times that one character takes on the wire: start, data, parity and stop bits (10 for 8N1)."""
        parity = self.parity not in (None, "none")
        return 1 + (self.bytesize or 8) + parity + (self.stopbits or 1)

    def line_time(self, count: int) -> float:
        """Seconds that `count` characters take on the wire; 0.0 where the rate is not known."""
        return count * self.bits_per_char / self.baud if self.baud else 0.0


# --- towards the port -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Something asked of the port. Gets exactly one answer, a Report with ``answers=ref``."""

    ref: int = field(default_factory=new_ref, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetLine(Request):
    """Set the line; None leaves a field as it is, and all None is a query. Answer: `LineReport`."""

    baud: int | None = None
    bytesize: int | None = None
    parity: Parity | None = None
    stopbits: float | None = None
    flow: Flow | None = None
    flow_in: Flow | None = None

    @property
    def line(self) -> Line:
        """The six settings alone."""
        return Line(self.baud, self.bytesize, self.parity, self.stopbits, self.flow, self.flow_in)

    @classmethod
    def of(cls, line: Line) -> SetLine:
        """A request for these settings."""
        return cls(
            baud=line.baud,
            bytesize=line.bytesize,
            parity=line.parity,
            stopbits=line.stopbits,
            flow=line.flow,
            flow_in=line.flow_in,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SetModem(Request):
    """Set DTR and RTS, both at once where both are given; all None is a query. Answer: `OutputReport`."""

    dtr: bool | None = None
    rts: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SetBreak(Request):
    """Start (True) or end (False) a break; None is a query. Answer: `OutputReport`."""

    on: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GetModem(Request):
    """Read CTS, DSR, RI and DCD. Answer: `ModemReport`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Purge(Request):
    """Drop bytes: `rx` those received from the port and not yet read, `tx` those not yet transmitted.

    Acts at once on everything before it (RFC 2217 section 3, PURGE-DATA). Answer: `PurgeDone`.
    """

    rx: bool = False
    tx: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain(Request):
    """Answered (`Drained`) once every byte before it has left the port, as far as anybody can know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GetSignature(Request):
    """Ask the port who it is. Answer: `Signature`."""


# --- towards the controller -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Something the port says: an answer where `answers` is a Request's `ref`, news where it is None."""

    answers: int | None = None
    virtual: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LineReport(Report):
    """The settings in force, by the driver's word, and what was asked for where this answers a `SetLine`."""

    values: Line = Line()
    requested: Line | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputReport(Report):
    """The lines that the port drives; None where it cannot be known."""

    dtr: bool | None = None
    rts: bool | None = None
    break_: bool | None = None


ModemLine: TypeAlias = Literal["cts", "dsr", "ri", "dcd"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModemReport(Report):
    """The lines that the port reads, and which of them changed since the last report (a pulse changes, and is off)."""

    cts: bool = False
    dsr: bool = False
    ri: bool = False
    dcd: bool = False
    changed: frozenset[ModemLine] = frozenset()

    def after(self, earlier: ModemReport) -> ModemReport:
        """This report, standing also for `earlier`, which nobody has seen yet: the changes are joined (law 8)."""
        return replace(self, changed=self.changed | earlier.changed)


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorReport(Report):
    """Receive errors since the last report, counted by kind."""

    overrun: int = 0
    parity: int = 0
    framing: int = 0
    buffer: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakReport(Report):
    """A break arrived at the port, in its place among the bytes; `on` False where its end can be told."""

    on: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class PurgeDone(Report):
    """The purge has been done. With `rx` it drops the bytes before it in the lane towards the controller too."""

    rx: bool = False
    tx: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Drained(Report):
    """Everything before the `Drain` has left the port."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature(Report):
    """Who the port says it is; any bytes, shown escaped."""

    text: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed(Report):
    """The request could not be done. `in_force` is the report that would have said what holds instead, if known."""

    why: FailedWhy = "unsupported"
    in_force: LineReport | OutputReport | ModemReport | None = None
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hangup(Report):
    """The port went away (unplugged, connection lost). What comes after, if anything, starts with `Opened`."""

    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened(Report):
    """The port stands. The first event of a port, and again after each reopening."""

    peer: str = ""


@dataclass(frozen=True, slots=True)
class Eof:
    """The end of a lane: no byte comes after it."""


Event: TypeAlias = bytes | Request | Report | Eof
"""What a lane carries. `type(event) is bytes` is the cheap test on the hot path."""
