"""Events in words, for people, and as plain dictionaries, for JSON.

Theory of operation
-------------------
A person who looks at a stream wants the field's own names: `SET-BAUD 57600`, `CTS on DSR on`, `PURGED rx tx`.
`words` gives them, one short line for any event. A request that sets is `SET-…`, one that asks is `GET-…`; what a port
says are the names of what it reports.

`to_json` and `from_json` are each other's inverse. A field that says nothing (None, or its default) is left out, bytes are
hex, and `ref` and `answers` are kept, so a trace shows which answer belongs to which request.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from serpipe import events
from serpipe.events import (
    BreakReport,
    Drain,
    Drained,
    Eof,
    ErrorReport,
    Event,
    Failed,
    GetModem,
    GetSignature,
    Hangup,
    Line,
    LineReport,
    ModemLine,
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
from serpipe.protocol.line import format_frame, format_line, format_stopbits

_MODEM_LINES: tuple[tuple[ModemLine, str], ...] = (("cts", "CTS"), ("dsr", "DSR"), ("ri", "RI"), ("dcd", "CD"))


def escaped(data: bytes) -> str:
    """The bytes as one line of ASCII: text as it is, the rest as ``\\n``, ``\\x1b``, ``\\\\``."""
    return data.decode("latin-1").encode("unicode_escape").decode("ascii")


def _switch(name: str, on: bool | None) -> str:
    return f"{name} {'?' if on is None else 'on' if on else 'off'}"


def _set_line(line: Line) -> str:
    if not line:
        return "GET-LINE"
    words = []
    if line.baud is not None:
        words.append(f"SET-BAUD {line.baud}")
    if line.bytesize is not None and line.parity is not None and line.stopbits is not None:
        words.append(f"SET-FRAME {format_frame(line)}")
    else:
        if line.bytesize is not None:
            words.append(f"SET-DATASIZE {line.bytesize}")
        if line.parity is not None:
            words.append(f"SET-PARITY {line.parity}")
        if line.stopbits is not None:
            words.append(f"SET-STOPSIZE {format_stopbits(line.stopbits)}")
    if line.flow is not None:
        words.append(f"SET-FLOW {line.flow}")
    if line.flow_in is not None:
        words.append(f"SET-FLOW-IN {line.flow_in}")
    return " ".join(words)


def _sides(word: str, event: Purge | PurgeDone) -> str:
    return word + " rx" * event.rx + " tx" * event.tx


def _line_report(report: LineReport) -> str:
    text = f"LINE {format_line(report.values) or '?'}"
    if report.requested is not None and report.values.changes(report.requested.over(report.values)):
        text += f" (asked {format_line(report.requested)})"
    return text


def _modem_report(report: ModemReport) -> str:
    shown = [(name, label) for name, label in _MODEM_LINES if name in report.changed] or _MODEM_LINES
    return " ".join(_switch(label, getattr(report, name)) for name, label in shown)


def _error_report(report: ErrorReport) -> str:
    kinds = ("overrun", "parity", "framing", "buffer")
    return "ERRORS" + "".join(f" {kind} {count}" for kind in kinds if (count := getattr(report, kind)))


def _failed(report: Failed) -> str:
    text = f"FAILED {report.why}"
    if report.text:
        text += f": {report.text}"
    if report.in_force is not None:
        text += f"; in force: {words(report.in_force)}"
    return text


def words(event: Event) -> str:
    """One short line that says what the event is. Bytes are only counted."""
    text = _words(event)
    return f"{text} (virtual)" if isinstance(event, Report) and event.virtual else text


def _words(event: Event) -> str:
    match event:
        case bytes():
            return f"{len(event)} bytes"
        case Eof():
            return "EOF"
        case SetLine():
            return _set_line(event.line)
        case SetModem(dtr=None, rts=None):
            return "GET-DTR GET-RTS"
        case SetModem():
            pairs = (("SET-DTR", event.dtr), ("SET-RTS", event.rts))
            return " ".join(_switch(name, on) for name, on in pairs if on is not None)
        case SetBreak():
            return "GET-BREAK" if event.on is None else _switch("SET-BREAK", event.on)
        case GetModem():
            return "GET-MODEM"
        case Purge():
            return _sides("PURGE", event)
        case Drain():
            return "DRAIN"
        case GetSignature():
            return "GET-SIGNATURE"
        case LineReport():
            return _line_report(event)
        case OutputReport():
            return " ".join((_switch("DTR", event.dtr), _switch("RTS", event.rts), _switch("BREAK", event.break_)))
        case ModemReport():
            return _modem_report(event)
        case ErrorReport():
            return _error_report(event)
        case BreakReport():
            return "BREAK-RECEIVED" if event.on else "BREAK-ENDED"
        case PurgeDone():
            return _sides("PURGED", event)
        case Drained():
            return "DRAINED"
        case Signature():
            return f"SIGNATURE {escaped(event.text)}"
        case Failed():
            return _failed(event)
        case Hangup():
            return f"HANGUP {event.reason}".rstrip()
        case Opened():
            return f"OPENED {event.peer}".rstrip()
        case _:
            return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", type(event).__name__).upper()


# --- dictionaries -----------------------------------------------------------------------------------------------------

_CLASSES: dict[str, type[Any]] = {
    name: cls
    for name, cls in vars(events).items()
    if isinstance(cls, type) and (cls is Eof or issubclass(cls, Request | Report)) and cls not in (Request, Report)
}


def to_json(event: Event) -> dict[str, Any]:
    """The event as what JSON can say: ``{"event": "SetLine", "ref": 7, "baud": 57600}``."""
    if isinstance(event, bytes):
        return {"event": "Data", "hex": event.hex()}
    result: dict[str, Any] = {"event": type(event).__name__}
    for f in dataclasses.fields(event):
        value = getattr(event, f.name)
        if value is not None and (f.default is dataclasses.MISSING or value != f.default):
            result[f.name.rstrip("_")] = _plain(value)
    return result


def _plain(value: Any) -> Any:
    match value:
        case Line():
            return {f.name: v for f in dataclasses.fields(Line) if (v := getattr(value, f.name)) is not None}
        case Report():
            return to_json(value)
        case frozenset():
            return sorted(value)
        case bytes():
            return value.hex()
        case _:
            return value


def from_json(plain: dict[str, Any]) -> Event:
    """The event that `to_json` made this of. Raises ValueError where it is none."""
    values = dict(plain)
    name = values.pop("event", None)
    try:
        if name == "Data":
            return bytes.fromhex(values["hex"])
        cls = _CLASSES[name]
        names = {f.name.rstrip("_"): f for f in dataclasses.fields(cls)}
        event: Event = cls(**{names[key].name: _rich(names[key], value) for key, value in values.items()})
        return event
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no event of ours: {plain!r}") from error


def _rich(field: dataclasses.Field[Any], value: Any) -> Any:
    if field.name in ("values", "requested"):
        return Line(**value)
    if field.name == "in_force":
        return from_json(value)
    if isinstance(field.default, frozenset):
        return frozenset(value)
    if isinstance(field.default, bytes):
        return bytes.fromhex(value)
    return value
