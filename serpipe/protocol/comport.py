"""The COM-PORT option of Telnet as tables (RFC 2217 section 3): what both roles, and whoever shows the wire, read.

Theory of operation
-------------------
`COM_PORTS` has a row for each command, `SETTINGS` a row for each thing that can be set, with the wire value of each of its
values. SET-CONTROL is one command for five things (outbound and inbound flow control, break, DTR, RTS), told apart by the
value alone; so a value is looked up together with its command, in `DECODED`, and says which setting it is of.

A server answers with the command's code plus `TO_CLIENT`. A value of zero asks for the value in force, but in SET-CONTROL,
where each of the five has its own question.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Literal

from serpipe.events import Line, ModemLine, ModemReport

COM_PORT: Final = 44
TO_CLIENT: Final = 100
"""What a server adds to the code of a command."""

SIGNATURE: Final = 0
SET_BAUD: Final = 1
SET_CONTROL: Final = 5
NOTIFY_LINESTATE: Final = 6
NOTIFY_MODEMSTATE: Final = 7
SUSPEND: Final = 8
RESUME: Final = 9
SET_LINESTATE_MASK: Final = 10
SET_MODEMSTATE_MASK: Final = 11
PURGE_DATA: Final = 12

Kind = Literal["signature", "setting", "line_state", "modem_state", "suspend", "mask", "purge"]


@dataclass(frozen=True, slots=True)
class ComPort:
    """One command of COM-PORT-OPTION."""

    code: int
    name: str
    size: int | None
    """Bytes of its value; None is any number."""
    kind: Kind
    """What it is about; each role has one method per kind."""


COM_PORTS: Final = (
    ComPort(SIGNATURE, "SIGNATURE", None, "signature"),
    ComPort(SET_BAUD, "SET-BAUD", 4, "setting"),
    ComPort(2, "SET-DATASIZE", 1, "setting"),
    ComPort(3, "SET-PARITY", 1, "setting"),
    ComPort(4, "SET-STOPSIZE", 1, "setting"),
    ComPort(SET_CONTROL, "SET-CONTROL", 1, "setting"),
    ComPort(NOTIFY_LINESTATE, "NOTIFY-LINESTATE", 1, "line_state"),
    ComPort(NOTIFY_MODEMSTATE, "NOTIFY-MODEMSTATE", 1, "modem_state"),
    ComPort(SUSPEND, "FLOWCONTROL-SUSPEND", 0, "suspend"),
    ComPort(RESUME, "FLOWCONTROL-RESUME", 0, "suspend"),
    ComPort(SET_LINESTATE_MASK, "SET-LINESTATE-MASK", 1, "mask"),
    ComPort(SET_MODEMSTATE_MASK, "SET-MODEMSTATE-MASK", 1, "mask"),
    ComPort(PURGE_DATA, "PURGE-DATA", 1, "purge"),
)
ROWS: Final = {row.code: row for row in COM_PORTS}
ONE_BYTE: Final = frozenset(row.code + base for row in COM_PORTS if row.size == 1 for base in (0, TO_CLIENT))
"""The codes whose value is one byte, of both roles."""
UNOFFSET: Final = frozenset((1, 2, 3, 4, 5, 10, 11, 12))
"""Codes that some servers answer with where they should have added 100."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One thing that is set, asked for and acknowledged; SET-CONTROL has five of them, told apart by the value."""

    name: str
    """The field of `Line` or `OutputReport`."""
    command: int
    query: int
    values: Mapping[Any, int]
    """Value to wire; empty for the rate, whose wire value is itself."""
    default: Any
    """What is told where nobody ever said."""
    word: str = ""
    """How the log calls it within SET-CONTROL."""

    @property
    def is_line(self) -> bool:
        """A field of `Line`; the others are of `OutputReport`."""
        return self.word in ("", "flow", "inbound flow")

    def of(self, line: Line) -> Any:
        """Its value in `line`; inbound flow control is as outbound where nothing else is said."""
        value = getattr(line, self.name)
        if value is None and self.name == "flow_in" and line.flow is not None:
            return "none" if line.flow == "dcd" else line.flow  # which exists outbound only
        return value

    def encode(self, value: Any) -> bytes | None:
        """The body that sets `value`, or asks for it (None). None where there is no code for the value."""
        if self.command == SET_BAUD:
            value = 0 if value is None else value
            return b"\x01" + value.to_bytes(4, "big") if 0 <= value < 2**32 else None
        wire = self.query if value is None else self.values.get(value)
        return None if wire is None else bytes((self.command, wire))


SETTINGS: Final = (
    Setting("baud", SET_BAUD, 0, {}, 9600),
    Setting("bytesize", 2, 0, {5: 5, 6: 6, 7: 7, 8: 8}, 8),
    Setting("parity", 3, 0, {"none": 1, "odd": 2, "even": 3, "mark": 4, "space": 5}, "none"),
    Setting("stopbits", 4, 0, {1: 1, 2: 2, 1.5: 3}, 1),
    Setting("flow", 5, 0, {"none": 1, "xonxoff": 2, "rtscts": 3, "dcd": 17, "dsrdtr": 19}, "none", "flow"),
    # inbound comes after outbound, which sets both (RFC 2217 section 3, SET-CONTROL)
    Setting("flow_in", 5, 13, {"none": 14, "xonxoff": 15, "rtscts": 16, "dsrdtr": 18}, "none", "inbound flow"),
    Setting("break_", 5, 4, {True: 5, False: 6}, False, "break"),
    Setting("dtr", 5, 7, {True: 8, False: 9}, False, "DTR"),
    Setting("rts", 5, 10, {True: 11, False: 12}, False, "RTS"),
)
BY_NAME: Final = {setting.name: setting for setting in SETTINGS}
LINE_QUERY: Final = ("baud", "bytesize", "parity", "stopbits", "flow")
"""What a query of the line asks for. Inbound flow control is asked for only by who sets it: most servers answer that with
"none" whatever holds."""
CONTROLS: Final = tuple(setting.name for setting in SETTINGS if setting.command == SET_CONTROL)
LINE_NAMES: Final = frozenset(f.name for f in fields(Line))

DECODED: Final[dict[tuple[int, int], tuple[Setting, Any]]] = {
    (setting.command, wire): (setting, value) for setting in SETTINGS for value, wire in setting.values.items()
} | {(setting.command, setting.query): (setting, None) for setting in SETTINGS}

CISCO_RATES: Final = {
    3: 300,
    4: 600,
    5: 1200,
    6: 2400,
    7: 4800,
    8: 9600,
    9: 14400,
    10: 19200,
    11: 28800,
    12: 38400,
    13: 57600,
    14: 115200,
    15: 230400,
    16: 460800,
}
"""The one-byte rates of a draft of the RFC, which Cisco IOS speaks."""
CISCO_INDEX = {rate: index for index, rate in CISCO_RATES.items()}

# NOTIFY-LINESTATE is the line status register of a 16550, NOTIFY-MODEMSTATE its modem status register.
LSR_OVERRUN, LSR_PARITY, LSR_FRAMING, LSR_BREAK = 2, 4, 8, 16
LSR_SUPPORTED = LSR_OVERRUN | LSR_PARITY | LSR_FRAMING | LSR_BREAK
MSR: Final[tuple[tuple[ModemLine, int, int], ...]] = (
    ("cts", 16, 1),
    ("dsr", 32, 2),
    ("ri", 64, 4),
    ("dcd", 128, 8),
)
"""(line, level bit, delta bit)."""
RI_LEVEL, RI_DELTA = 64, 4


def levels_of(report: ModemReport) -> int:
    """The level bits of NOTIFY-MODEMSTATE."""
    return sum(level for name, level, _ in MSR if getattr(report, name))


def modem_report(state: int, before: int | None, answers: int | None = None) -> ModemReport:
    """What a NOTIFY-MODEMSTATE says, its changes also found by comparison with the levels before."""
    found = 0 if before is None else (state ^ before) & 0xF0
    changed = frozenset(name for name, level, delta in MSR if state & delta or found & level)
    levels: dict[str, Any] = {name: bool(state & level) for name, level, _ in MSR}
    return ModemReport(answers=answers, changed=changed, **levels)


def virtual_modem(answers: int | None = None) -> ModemReport:
    """What is told of the modem lines where nobody can know: a device is there and ready."""
    return ModemReport(answers=answers, cts=True, dsr=True, dcd=True, virtual=True)


def describe(code: int, value: bytes) -> str:
    """A command in words, ``SET-BAUD 115200``; queries end in ``?``. `code` without the server's 100."""
    row = ROWS.get(code)
    if row is None:
        return f"COM-PORT command {code} {value[:16].hex(' ')}".rstrip()
    return f"{row.name} {_describe_value(row, value)}".rstrip()


def _describe_value(row: ComPort, value: bytes) -> str:
    if row.kind == "signature":
        return repr(value.decode("latin-1")) if value else "?"
    if not value:
        return "" if row.size == 0 else "(no value)"
    if row.code == SET_BAUD:
        rate = int.from_bytes(value[:4], "big") if len(value) >= 4 else CISCO_RATES.get(value[0], 0)
        return (str(rate) if rate else "?") + (" (one byte)" if len(value) < 4 else "")
    if row.kind == "setting":
        found = DECODED.get((row.code, value[0]))
        if found is None:
            return f"{value[0]} (unknown)"
        setting, meaning = found
        shown = f"{meaning:g}" if isinstance(meaning, float) else str(meaning)
        if isinstance(meaning, bool):
            shown = "on" if meaning else "off"
        return f"{setting.word} {'?' if meaning is None else shown}".strip()
    if row.kind == "modem_state":
        return " ".join(
            ("CD" if name == "dcd" else name.upper())
            + (" on" if value[0] & level else " off")
            + ("*" if value[0] & delta else "")
            for name, level, delta in MSR
        )
    if row.kind == "line_state":
        names = ((LSR_BREAK, "break"), (LSR_FRAMING, "framing"), (LSR_PARITY, "parity"), (LSR_OVERRUN, "overrun"))
        return " ".join(word for bit, word in names if value[0] & bit) or str(value[0])
    if row.kind == "purge":
        return {1: "rx", 2: "tx", 3: "rx tx"}.get(value[0], str(value[0]))
    return str(value[0])
