"""RFC 2217 without I/O: a serial port at the other end of a Telnet connection, seen from both ends.

Theory of operation
-------------------
A codec turns bytes from the wire into events and events into bytes for the wire. `Server` is the end that has the serial
port behind it: the client's commands come out of it as Requests, and the Reports put into it become acknowledgements and
notifications. `Client` is the other end: Requests go in, Reports come out. Both read the same tables (`comport.py`).

    codec.start(now)                the greeting
    codec.receive(data, now)        bytes of the wire -> events
    codec.send(event, now)          an event -> bytes of the wire, and the events it causes at once
    codec.outgoing()                takes the bytes that are to be written, always whole commands
    codec.deadline, codec.tick(now) time is passed in, never asked for
    codec.eof(now)                  the wire has ended

In order. Commands and data share one stream, and come out as one list of events in their order. Nothing is executed here:
what must wait for what is the business of the port behind.

The server answers everything (RFC 2217 section 2 wants each setting acknowledged with the value in force). A command that
needs the port becomes a Request; which wire command it came from is kept by `ref`, and its answer goes back in that form.
An illegal value becomes a query. Where the port does not know, what it last said is repeated. A baud rate that the port met
within 2 % is acknowledged as asked, since the clients in use take any other value for a refusal; `exact` turns that off.
A client that never agrees to COM-PORT, nor uses it, is never sent a subnegotiation.

The client believes little. Acknowledgements are matched to requests per setting, first in first out, SET-CONTROL by the
family of its value. One of a wrong family is taken for an answer that says nothing (sredird), a missing +100, a surplus of
bytes and a one-byte rate are accepted, an answer that was given up comes too late to be mistaken for the next one's, and one
that nobody asked for is news. What is not answered in time is `Failed`, and says what is known. Servers handle commands in
turn, so an answer to a later command shortens the wait for an earlier one.

What is known of the server it talks to stands in `quirks.py`: what must not be sent to it is not, and what it never answers
is answered at once.

DTR, RTS and break settings that a server never acknowledges are taken as done: there are servers that do them and say
nothing, and no way to tell.

Time on the line. The client keeps an account of when the far port will have sent what it was given (`busy_until`): bytes
handed over, at the rate in force. A TIMING-MARK answered shows that the server has read everything before it, and so bounds
what can still be waiting there by `SERVER_BUFFERS`.

SUSPEND and RESUME (section 5) are honoured for everything but negotiation, which both ends need to get out of any state.
They are never originated: TCP holds back by itself, and several servers take code 8 for "no flow control".

Modem state. The RFC notifies the new state under the mask, where the result is not zero; the letter of that never tells of
the last line that drops. Here a notification is sent when a level or a delta under the mask differs from what was last told,
zero or not.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, cast

from serpipe.events import (
    BreakReport,
    Drain,
    Drained,
    ErrorReport,
    Event,
    Failed,
    FailedWhy,
    GetModem,
    GetSignature,
    Line,
    LineReport,
    ModemReport,
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
from serpipe.protocol.comport import (
    BY_NAME,
    CISCO_INDEX,
    CISCO_RATES,
    COM_PORT,
    CONTROLS,
    DECODED,
    LINE_NAMES,
    LINE_QUERY,
    LSR_BREAK,
    LSR_FRAMING,
    LSR_OVERRUN,
    LSR_PARITY,
    LSR_SUPPORTED,
    MSR,
    NOTIFY_LINESTATE,
    NOTIFY_MODEMSTATE,
    ONE_BYTE,
    PURGE_DATA,
    RESUME,
    RI_DELTA,
    RI_LEVEL,
    ROWS,
    SET_BAUD,
    SET_CONTROL,
    SET_LINESTATE_MASK,
    SETTINGS,
    SIGNATURE,
    SUSPEND,
    TO_CLIENT,
    UNOFFSET,
    ComPort,
    Kind,
    Setting,
    describe,
    levels_of,
    modem_report,
    virtual_modem,
)
from serpipe.protocol.quirks import UNKNOWN, Profile, identify
from serpipe.protocol.telnet import (
    BINARY,
    BRK,
    DO,
    DONT,
    ECHO,
    IAC,
    SGA,
    TIMING_MARK,
    WILL,
    WONT,
    Command,
    Negotiation,
    Nvt,
    Options,
    Parser,
    Side,
    Subnegotiation,
    escape,
    subnegotiation,
)

BREAK_TIME = 0.25
"""Seconds that the break of a bare IAC BRK lasts (as tcsendbreak)."""
SERVER_BUFFERS = 8192
"""Bytes that a server and its driver may hold after they have been read from the connection: 4 KiB in a UART's driver, as
much in the server."""
PENDING_LIMIT = 1024
"""Requests without an answer, and commands held back by a suspended connection."""
TOLERANCE = 0.02
"""A rate this close to the one asked for is acknowledged as asked: a UART is happy with 2 %."""

DEFAULT_SIGNATURE: Final = b"serpipe"

SERVER_GREETING: Final = (
    Negotiation(DO, COM_PORT),
    Negotiation(WILL, BINARY),
    Negotiation(DO, BINARY),
    Negotiation(WILL, SGA),
    Negotiation(DO, SGA),
    Negotiation(WILL, ECHO),
)
"""No WILL COM-PORT: a gensio client that sees it believes that its own was answered. It comes when it is asked for."""
CLIENT_GREETING: Final = (
    Negotiation(WILL, COM_PORT),
    Negotiation(WILL, BINARY),
    Negotiation(DO, BINARY),
    Negotiation(WILL, SGA),
    Negotiation(DO, SGA),
)


class Codec:
    """What both roles share: framing, negotiation, the queue to the wire, suspension."""

    greeting: tuple[Negotiation, ...] = ()
    _agreed_us: frozenset[int] = frozenset()
    _agreed_him: frozenset[int] = frozenset()
    _arrows = ("->", "<-")
    """How the log shows (what we send, what we receive): ``->`` is always towards the port."""

    def __init__(self, log: Callable[[str], None] | None = None) -> None:
        self.active = False
        """COM-PORT is agreed."""
        self.suspended = False
        """The peer asked us to send neither data nor commands; do not `send()` data while it holds."""
        self.heard: list[Negotiation] = []
        """The first negotiations that came: they tell most peers apart."""
        self._parser = Parser({COM_PORT: ONE_BYTE})
        self._options = Options(self._agreed_us, self._agreed_him)
        self._out: list[bytes] = []
        self._held_back: list[tuple[bytes, bool]] = []
        self._events: list[Event] = []
        self._run: list[bytes] = []
        self._nvt = Nvt()
        self._maps = False
        """CR NUL is in use where BINARY is not agreed; never once COM-PORT is, or was tried."""
        self._log = log
        self._now = 0.0
        self._said: set[object] = set()
        self._handlers: dict[Kind, Callable[[ComPort, bytes], None]] = {
            "signature": self._on_signature,
            "setting": self._on_setting,
            "line_state": self._on_line_state,
            "modem_state": self._on_modem_state,
            "suspend": self._on_suspend,
            "mask": self._on_mask,
            "purge": self._on_purge,
        }

    # the surface

    def start(self, now: float = 0.0) -> None:
        """Queue the greeting."""
        self._now = now
        for negotiation in self.greeting:
            side: Side = "us" if negotiation.verb == WILL else "him"
            request = self._options.want(side, negotiation.option, True)
            if request is not None:
                self._negotiate(request)

    def receive(self, data: bytes, now: float = 0.0) -> list[Event]:
        """What the bytes say, in order. Anything may be sent to it: it never raises, and its memory is bounded."""
        self._now = now
        for token in self._parser.feed(data):
            if type(token) is bytes:
                self._on_data(token)
            elif type(token) is Subnegotiation:
                self._on_subnegotiation(token)
            elif type(token) is Negotiation:
                self._on_negotiation(token)
            elif type(token) is Command:
                self._on_command(token)
        return self._taken()

    def send(self, event: Event, now: float = 0.0) -> list[Event]:
        """Queue what the event is on the wire; returns the events that it causes at once."""
        raise NotImplementedError

    def outgoing(self) -> bytes:
        """Take what is to be written. It ends with a whole command, never inside one."""
        out = self._out
        if len(out) == 1:
            return out.pop()
        data = b"".join(out)
        out.clear()
        return data

    @property
    def backlog(self) -> int:
        """Bytes waiting to be taken by `outgoing()`."""
        return sum(map(len, self._out))

    @property
    def deadline(self) -> float:
        """When `tick` wants to be called; infinity where it does not."""
        return math.inf

    def tick(self, now: float) -> list[Event]:
        """The deadline has come (or not: calling it early does nothing)."""
        self._now = now
        return self._taken()

    def eof(self, now: float = 0.0) -> list[Event]:
        """The wire has ended; the last events."""
        self._now = now
        if self._parser.inside:
            self._say("the connection ended in the middle of a Telnet command")
        return self._taken()

    # towards the events

    def _emit(self, event: Event) -> None:
        if type(event) is bytes:
            self._run.append(event)
            return
        self._join()
        self._events.append(event)

    def _join(self) -> None:
        if self._run:
            self._events.append(b"".join(self._run))
            self._run.clear()

    def _taken(self) -> list[Event]:
        self._join()
        events, self._events = self._events, []
        return events

    # towards the wire

    def _put(self, data: bytes, *, is_data: bool = False) -> None:
        if not self.suspended:
            self._out.append(data)
            return
        if not is_data and len(self._held_back) >= PENDING_LIMIT:
            self._say("asked to be silent, and asked for answers all the same: going on")
            self._resume()
            self._out.append(data)
            return
        self._held_back.append((data, is_data))

    def _command(self, code: int, value: bytes, note: str = "", words: str = "") -> None:
        """A COM-PORT command; `code` as it is sent, `words` for the log where it means something else than it says."""
        if self._log is not None:
            self._log(f"{self._arrows[0]} {words or describe(code % TO_CLIENT, value)}{note}")
        self._put(subnegotiation(COM_PORT, bytes((code,)) + value))

    def _negotiate(self, negotiation: Negotiation) -> None:
        """Exempt from suspension: two suspended ends would otherwise never get out of it."""
        if self._log is not None:
            self._log(f"{self._arrows[0]} {negotiation}")
        self._out.append(bytes(negotiation))

    def _resume(self) -> None:
        self.suspended = False
        self._out += [data for data, _ in self._held_back]
        self._held_back.clear()

    def _drop_held_data(self) -> None:
        self._held_back = [(data, is_data) for data, is_data in self._held_back if not is_data]

    # from the wire

    def _mapped(self, side: Side) -> bool:
        """Whether the rule for CR holds in that direction. A peer that never negotiates may not be Telnet at all."""
        return self._maps and bool(self.heard) and not self._options.on(side, BINARY)

    def _data_on_wire(self, data: bytes) -> bytes:
        return escape(self._nvt.send(data) if self._maps and self._mapped("us") else data)

    def _on_data(self, data: bytes) -> None:
        if self._maps and self._mapped("him"):
            data = self._nvt.receive(data)
        if data:
            self._emit(data)

    def _on_command(self, command: Command) -> None:
        """NOP, DM, AYT and the rest mean nothing to a serial port; an answer would end up in its data."""
        self._say_received(str(command))

    def _on_negotiation(self, negotiation: Negotiation) -> None:
        if len(self.heard) < 16:
            self.heard.append(negotiation)
        self._say_received(str(negotiation))
        answer = self._options.received(negotiation)
        if answer is not None:
            self._negotiate(answer)
        if negotiation.option == COM_PORT:
            side: Side = "him" if negotiation.verb in (WILL, WONT) else "us"
            if self._options.on(side, COM_PORT):
                if not self.active:
                    self.active = True
                    self._activated()
            elif negotiation.verb in (WONT, DONT):
                self._withdrawn(negotiation)

    def _activated(self) -> None:
        pass

    def _withdrawn(self, negotiation: Negotiation) -> None:
        self.active = False

    def _row_of(self, code: int) -> ComPort | None:
        raise NotImplementedError

    def _on_subnegotiation(self, token: Subnegotiation) -> None:
        if token.option != COM_PORT or not token.body or token.cut:
            self._say_once((token.option, token.cut), f"a subnegotiation of option {token.option} was ignored")
            return
        code, value = token.body[0], token.body[1:]
        row = self._row_of(code)
        if row is None:
            self._say_once(code, f"COM-PORT command {code} is not known, and was ignored")
            return
        self._handlers[row.kind](row, value)

    def _on_suspend(self, row: ComPort, value: bytes) -> None:
        self._say_received(describe(row.code, value))
        if value:
            return  # it takes no value: something else is meant, and to stop for ever would be the worst reading
        if row.code == SUSPEND:
            self.suspended = True
        elif self.suspended:
            self._resume()

    def _on_signature(self, row: ComPort, value: bytes) -> None:
        raise NotImplementedError

    def _on_setting(self, row: ComPort, value: bytes) -> None:
        raise NotImplementedError

    def _on_line_state(self, row: ComPort, value: bytes) -> None:
        raise NotImplementedError

    def _on_modem_state(self, row: ComPort, value: bytes) -> None:
        raise NotImplementedError

    def _on_mask(self, row: ComPort, value: bytes) -> None:
        raise NotImplementedError

    def _on_purge(self, row: ComPort, value: bytes) -> None:
        raise NotImplementedError

    # the log

    def _say(self, text: str) -> None:
        if self._log is not None:
            self._log(text)

    def _say_once(self, key: object, text: str) -> None:
        if key not in self._said:
            self._said.add(key)
            self._say(text)

    def _say_received(self, text: str) -> None:
        if self._log is not None:
            self._log(f"{self._arrows[1]} {text}")


# --- the server -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Owed:
    """A wire command that waits for its answer from the port."""

    row: ComPort
    asked_at: float
    setting: Setting | None = None
    asked: Any = None
    """The value set; None for a query, and for a value that does not exist."""
    one_byte: bool = False
    """The rate came in Cisco's form, and is answered in it."""
    purge: int = 0


class Server(Codec):
    """The end with the serial port: a controller in its chain.

    `exact` acknowledges every rate as the port reports it. `signature` is what is told to a client that asks; where
    empty, the port is asked, and `DEFAULT_SIGNATURE` told where it has none.
    """

    greeting = SERVER_GREETING
    _agreed_us = frozenset((BINARY, ECHO, SGA, COM_PORT))
    _agreed_him = frozenset((BINARY, SGA, COM_PORT))
    _arrows = ("<-", "->")

    def __init__(
        self, *, exact: bool = False, signature: bytes = b"", log: Callable[[str], None] | None = None
    ) -> None:
        super().__init__(log)
        self._exact = exact
        self._signature = signature
        self._owed: dict[int, Owed] = {}
        self._line = Line()
        self._outputs = OutputReport()
        self._maps = True
        self._line_mask = 0
        self._line_errors = 0
        self._modem_mask = 255
        self._modem: int | None = None
        self._modem_told: int | None = None
        self._modem_deltas = 0
        self._break_until = math.inf
        self._behind_break: list[Event | None] = []
        self.client = b""
        """The client's signature, where it told one."""

    @property
    def owed(self) -> int:
        """Requests that the port has not answered yet; read no more of the wire while there are `PENDING_LIMIT`."""
        return len(self._owed)

    @property
    def holding(self) -> bool:
        """Events wait behind a timed break; read no more of the wire until it is over."""
        return bool(self._behind_break)

    # the wire's data, and a timed break within it

    def _on_command(self, command: Command) -> None:
        super()._on_command(command)
        if command.code == BRK:
            if math.isinf(self._break_until):
                self._start_break()
            elif self._behind_break and self._behind_break[-1] is not None:
                self._behind_break.append(None)

    def _start_break(self) -> None:
        super()._emit(SetBreak(on=True))
        self._break_until = self._now + BREAK_TIME

    def _emit(self, event: Event) -> None:
        if math.isinf(self._break_until):
            super()._emit(event)
            return
        if type(event) is Purge and event.tx:  # what it would overtake is to be dropped anyway
            self._behind_break = [e for e in self._behind_break if type(e) is not bytes]
        self._behind_break.append(event)

    @property
    def deadline(self) -> float:
        """The end of a timed break."""
        return self._break_until

    def tick(self, now: float) -> list[Event]:
        """End a timed break whose time has come, and let go of what came behind it."""
        self._now = now
        if now >= self._break_until:
            self._end_break()
        return self._taken()

    def _end_break(self) -> None:
        self._break_until = math.inf
        super()._emit(SetBreak(on=False))
        behind, self._behind_break = self._behind_break, []
        for event in behind:
            if event is None and math.isinf(self._break_until):
                self._start_break()
            elif event is None:
                self._behind_break.append(None)
            else:
                self._emit(event)

    def eof(self, now: float = 0.0) -> list[Event]:
        """The client sends no more: a break that was timed ends here, and what came behind it is let go."""
        self._now = now
        while not math.isinf(self._break_until):
            self._end_break()
        return super().eof(now)

    # the wire's commands

    def _activated(self) -> None:
        self._be_transparent()
        if self._modem is None:
            self._emit(GetModem())
        self._notify_modem()

    def _be_transparent(self) -> None:
        self._maps = False
        self._nvt.reset()

    def _row_of(self, code: int) -> ComPort | None:
        return ROWS.get(code)

    def _on_subnegotiation(self, token: Subnegotiation) -> None:
        if token.option == COM_PORT:  # it may come before the option is agreed, and after it was withdrawn
            self._be_transparent()
        super()._on_subnegotiation(token)

    def _owe(self, request: Request, owed: Owed) -> None:
        self._owed[request.ref] = owed
        self._emit(request)

    def _on_signature(self, row: ComPort, value: bytes) -> None:
        self._say_received(describe(row.code, value))
        if value:
            self.client = value
        elif self._signature:
            self._command(TO_CLIENT + SIGNATURE, self._signature)
        else:
            self._owe(GetSignature(), Owed(row, self._now))

    def _on_setting(self, row: ComPort, value: bytes) -> None:
        self._say_received(describe(row.code, value))
        if not value:
            return
        one_byte = False
        if row.code == SET_BAUD:
            setting = BY_NAME["baud"]
            one_byte = len(value) < 4
            asked = CISCO_RATES.get(value[0]) if one_byte else int.from_bytes(value[:4], "big") or None
        elif (row.code, value[0]) in DECODED:
            setting, asked = DECODED[row.code, value[0]]
        elif row.code == SET_CONTROL:
            return
        else:  # no such value: the one in force is the answer
            setting, asked = DECODED[row.code, 0]
        self._owe(_request_for(setting, asked), Owed(row, self._now, setting, asked, one_byte))

    def _on_line_state(self, row: ComPort, value: bytes) -> None:
        self._say_received(row.name + " ?")
        self._command(TO_CLIENT + NOTIFY_LINESTATE, bytes((self._line_errors,)))
        self._line_errors = 0

    def _on_modem_state(self, row: ComPort, value: bytes) -> None:
        self._say_received(row.name + " ?")
        self._owe(GetModem(), Owed(row, self._now))

    def _on_mask(self, row: ComPort, value: bytes) -> None:
        self._say_received(describe(row.code, value))
        if not value:
            return
        if row.code == SET_LINESTATE_MASK:
            self._line_mask = value[0] & LSR_SUPPORTED
            self._command(TO_CLIENT + row.code, bytes((self._line_mask,)))
            self._notify_line()
            return
        self._modem_mask = value[0]
        self._command(TO_CLIENT + row.code, value[:1])
        if self._modem is None:
            self._emit(GetModem())
        elif self._modem_mask:
            self._notify_modem(always=True)

    def _on_purge(self, row: ComPort, value: bytes) -> None:
        self._say_received(describe(row.code, value))
        if not value:
            return
        if value[0] not in (1, 2, 3):  # nothing to do, and still an answer
            self._command(TO_CLIENT + row.code, value[:1])
            return
        rx, tx = bool(value[0] & 1), bool(value[0] & 2)
        if rx:
            self._drop_held_data()
        self._owe(Purge(rx=rx, tx=tx), Owed(row, self._now, purge=value[0]))

    def _resume(self) -> None:
        super()._resume()
        self._notify_line()
        self._notify_modem()

    # what the port says

    def send(self, event: Event, now: float = 0.0) -> list[Event]:
        """Data, a Report of the port, or Eof. Other events have no place on this wire."""
        self._now = now
        if type(event) is bytes:
            self._put(self._data_on_wire(event), is_data=True)
        elif isinstance(event, Report):
            self._report(event)
        elif not isinstance(event, Request) and self._mapped("us"):
            self._put(self._nvt.flush(), is_data=True)
        return self._taken()

    def _report(self, report: Report) -> None:
        known = report.in_force if isinstance(report, Failed) and report.in_force is not None else report
        before = self._line
        if isinstance(known, LineReport):
            self._line = known.values.over(self._line)
        elif isinstance(known, OutputReport):
            self._outputs = OutputReport(
                dtr=self._outputs.dtr if known.dtr is None else known.dtr,
                rts=self._outputs.rts if known.rts is None else known.rts,
                break_=self._outputs.break_ if known.break_ is None else known.break_,
            )
        elif isinstance(known, ModemReport):
            self._take_modem(known)
        elif isinstance(known, ErrorReport):
            self._line_errors |= (
                (LSR_OVERRUN if known.overrun or known.buffer else 0)
                | (LSR_PARITY if known.parity else 0)
                | (LSR_FRAMING if known.framing else 0)
            )
            self._notify_line()
        elif isinstance(known, BreakReport) and known.on:
            self._line_errors |= LSR_BREAK
            self._notify_line()
        owed = self._owed.pop(report.answers, None) if report.answers is not None else None
        if owed is not None:
            self._acknowledge(owed, report)
        elif isinstance(known, ModemReport):
            self._notify_modem()
        elif isinstance(known, LineReport) and report.answers is None:
            self._tell_news(before)

    def _acknowledge(self, owed: Owed, report: Report) -> None:
        code = TO_CLIENT + owed.row.code
        took = f" ({(self._now - owed.asked_at) * 1000:.1f} ms)"
        if owed.row.kind == "signature":
            text = report.text if isinstance(report, Signature) else b""
            self._command(code, text or DEFAULT_SIGNATURE, took)
        elif owed.row.kind == "purge":
            self._command(code, bytes((owed.purge,)), took)
        elif owed.row.kind == "modem_state":
            self._notify_modem(always=True, mask=255)
        else:
            assert owed.setting is not None
            value = self._in_force(owed.setting, owed.asked, report)
            if owed.setting.command == SET_BAUD and owed.asked and not self._exact:
                value = owed.asked if abs(value - owed.asked) <= owed.asked * TOLERANCE else value
            if owed.one_byte and value in CISCO_INDEX:
                self._command(code, bytes((CISCO_INDEX[value],)), took)
                return
            body = owed.setting.encode(value) or owed.setting.encode(owed.setting.default)
            assert body is not None
            self._command(code, body[1:], took)

    def _in_force(self, setting: Setting, asked: Any, report: Report) -> Any:
        """The value that holds after the report: what it says, or was asked for and not refused, or was last known."""
        known = report.in_force if isinstance(report, Failed) else report
        value = None
        if setting.is_line and isinstance(known, LineReport):
            value = setting.of(known.values)
        elif not setting.is_line and isinstance(known, OutputReport):
            value = getattr(known, setting.name)
        if value is None and not isinstance(report, Failed):
            value = asked
        if value is None:
            value = setting.of(self._line) if setting.is_line else getattr(self._outputs, setting.name)
        return setting.default if value is None else value

    def _tell_news(self, before: Line) -> None:
        """A change that nobody asked for. Only a serpipe is told: pySerial's client takes it for a wrong answer."""
        if not (self.active and self.client.startswith(DEFAULT_SIGNATURE)):
            return
        changes = before.changes(self._line)
        for setting in SETTINGS:
            if setting.is_line and (value := getattr(changes, setting.name)) is not None:
                body = setting.encode(value)
                if body is not None:
                    self._command(TO_CLIENT + setting.command, body[1:])

    # notifications

    def _notify_line(self) -> None:
        told = self._line_errors & self._line_mask
        if told and self.active and not self.suspended:
            self._command(TO_CLIENT + NOTIFY_LINESTATE, bytes((told,)))
            self._line_errors &= ~told

    def _take_modem(self, report: ModemReport) -> None:
        levels = levels_of(report)
        found = 0 if self._modem is None else levels ^ self._modem
        for name, level, delta in MSR:
            if name in report.changed or found & level:
                self._modem_deltas |= delta
        if self._modem_deltas & RI_DELTA and levels & RI_LEVEL:
            self._modem_deltas &= ~RI_DELTA  # it stands for the trailing edge, which has not come
        self._modem = levels

    def _notify_modem(self, *, always: bool = False, mask: int | None = None) -> None:
        """Say the state of the modem lines if there is news under the mask, or `always`."""
        mask = self._modem_mask if mask is None else mask
        if not always:
            if not self.active or self.suspended or self._modem is None or not mask:
                return
            moved = 0xF0 if self._modem_told is None else self._modem_told ^ self._modem
            if not (moved & mask & 0xF0 or self._modem_deltas & mask or self._modem_told is None):
                return
        levels = self._modem or 0
        deltas = 0 if self._modem_told is None else self._modem_deltas
        self._command(TO_CLIENT + NOTIFY_MODEMSTATE, bytes(((levels | deltas) & mask,)))
        self._modem_told = levels
        self._modem_deltas = 0


def _request_for(setting: Setting, value: Any) -> Request:
    """The Request that a wire command stands for; None is the query."""
    if setting.is_line:
        return SetLine() if value is None else SetLine(**{setting.name: value})
    if setting.name == "break_":
        return SetBreak(on=value)
    return SetModem() if value is None else SetModem(**{setting.name: value})


# --- the client -------------------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class _Ask:
    """A Request on its way."""

    request: Request
    number: int
    sent_at: float
    deadline: float
    patience: float | None = None
    """Its deadline moves on by this with every answer that comes (of a probe; None elsewhere)."""
    missing: list[str] = field(default_factory=list)
    """The settings not answered yet, in the order sent."""
    told: bool = False
    """Some answer came that said something."""
    busy_until: float = 0.0
    """Of a Drain: the line's account when it was asked."""
    report: Report | None = None
    """The answer; it leaves when those before it of its kind have left."""


@dataclass(slots=True, eq=False)
class _Part:
    """One wire command that an acknowledgement is expected for."""

    ask: _Ask
    name: str
    asked: Any
    given_up: bool = False


_GRACE = 0.25
"""Seconds that an unanswered command is still waited for once a later one has been answered."""
_MUTE_WAIT = 0.3
"""Seconds that a command is waited for whose like went unanswered before."""
_FENCE_WAIT = 0.1
"""Seconds that a probe is waited for once the server has shown that it has read it all."""
_SILENCE = 0.5
"""Seconds of silence that end a probe where the server does not show even that."""


class Client(Codec):
    """The end that uses the serial port: a port in its chain.

    `timeout` is how many seconds a request waits for its answer. `poll` asks the server for every GetModem; without, one
    is answered by what the server last notified, and the server is asked only if it never did (ser2net never answers
    the question, pySerial's server does). `trust_control` takes every SET-CONTROL for done as soon as it is sent.
    """

    greeting = CLIENT_GREETING
    _agreed_us = frozenset((BINARY, SGA, COM_PORT))
    _agreed_him = frozenset((BINARY, ECHO, SGA, COM_PORT))

    def __init__(
        self,
        *,
        timeout: float = 3.0,
        poll: bool = False,
        trust_control: bool = False,
        signature: bytes = DEFAULT_SIGNATURE,
        log: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__(log)
        self._timeout = timeout
        self._poll = poll
        self._trust_control = trust_control
        self._signature = signature
        self.refused = False
        """The server said DONT COM-PORT, or withdrew."""
        self.raw = False
        """There is no Telnet at the other end: bytes pass as they are."""
        self.line = Line()
        """The settings in force, as far as the server told."""
        self.outputs = OutputReport(break_=False)
        """DTR, RTS and break, as the server told or as they were set."""
        self.modem: ModemReport | None = None
        """The last modem state that came; None before the first."""
        self.told: set[str] = set()
        """The settings that the server has told at least once."""
        self.server_signature = b""
        self.profile: Profile = UNKNOWN
        """Who the server is taken for."""
        self.busy_until = 0.0
        """When the far port will have sent what it was given."""
        self._started = 0.0
        self._round_trip = 0.0
        self._count = 0
        self._asks: dict[_Ask, None] = {}
        self._by_kind: dict[type[Request], deque[_Ask]] = {}
        self._parts: dict[str, deque[_Part]] = {name: deque() for name in BY_NAME}
        self._waiting: dict[str, deque[_Ask]] = {"purge": deque(), "signature": deque(), "modem": deque()}
        self._marks: deque[_Ask | int] = deque()
        self._mute: set[str] = set()
        self._barriers: set[_Ask] = set()

    # the surface

    def start(self, now: float = 0.0) -> None:
        """Queue the greeting."""
        self._started = now
        super().start(now)

    def receive(self, data: bytes, now: float = 0.0) -> list[Event]:
        """What the bytes say, in order. Never raises."""
        if self.raw:
            return [data] if data else []
        return super().receive(data, now)

    def send(self, event: Event, now: float = 0.0) -> list[Event]:
        """Data or a Request. A Report or Eof has no place on this wire."""
        self._now = now
        if type(event) is bytes:
            self.busy_until = max(self.busy_until, now) + self.line.line_time(len(event))
            self._put(event if self.raw else self._data_on_wire(event), is_data=True)
        elif isinstance(event, Request):
            self._ask(event)
        return self._taken()

    def without_com_port(self) -> None:
        """Go on as a plain Telnet client: CR follows its rule where BINARY is not agreed, and a break is IAC BRK."""
        self._maps = True

    def offer_server_role(self, now: float = 0.0) -> None:
        """Ask for COM-PORT the other way round (DO): a server that refused our WILL may have the roles reversed."""
        self._now = now
        request = self._options.want("him", COM_PORT, True)
        if request is not None:
            self.refused = False
            self._negotiate(request)

    def probe(self, requests: Iterable[Request], now: float = 0.0) -> list[Event]:
        """Send requests that a server may well not answer, and wait for each only as long as the others' answers show.

        A TIMING-MARK goes behind them: once that is answered they have all been read.
        """
        self._now = now
        first = self._count
        for request in requests:
            self._ask(request)
        patience = self._timeout if self.is_serpipe else min(self._timeout, _SILENCE + 2 * self._round_trip)
        for ask in self._asks:
            if ask.number > first:
                ask.patience = patience
                ask.deadline = now + patience
        if not self.is_serpipe:
            self._mark(self._count)
        return self._taken()

    @property
    def is_serpipe(self) -> bool:
        """The server keeps order to the wire and answers everything. Known by its greeting, or what it said it is.

        The question itself is not harmless: gensiot without a signature of its own dies of it.
        """
        return self.server_signature.startswith(DEFAULT_SIGNATURE) or tuple(self.heard[:6]) == SERVER_GREETING

    @property
    def is_echo(self) -> bool:
        """What came back is what we sent: that is a loop, and no server."""
        return tuple(self.heard[: len(self.greeting)]) == self.greeting

    @property
    def unsure(self) -> bool:
        """What was heard so far is the beginning of serpipe's greeting, or of our own."""
        heard = tuple(self.heard)
        return any(len(heard) < len(g) and heard == g[: len(heard)] for g in (SERVER_GREETING, self.greeting))

    @property
    def pending(self) -> int:
        """Requests without an answer."""
        return len(self._asks)

    @property
    def barred(self) -> bool:
        """A change of the line or a break is on its way and not answered yet."""
        return bool(self._barriers)

    def changes(self, request: Request) -> bool:
        """Whether the request changes, as far as is known, what the bytes around it mean on the line."""
        if type(request) is SetLine:
            return bool(self.line.changes(request.line))
        return type(request) is SetBreak and request.on is not None and request.on is not self.outputs.break_

    @property
    def deadline(self) -> float:
        """The earliest time at which a request is given up, or a Drain is over."""
        return min((ask.deadline for ask in self._asks), default=math.inf)

    def tick(self, now: float) -> list[Event]:
        """Give up what has waited long enough."""
        self._now = now
        for ask in [ask for ask in self._asks if ask.deadline <= now]:
            if isinstance(ask.request, Drain) and ask not in self._marks:
                self._finish(ask, Drained())
            else:
                self._give_up(ask, "timeout")
        return self._taken()

    def eof(self, now: float = 0.0) -> list[Event]:
        """The server has gone: nothing that is still asked will be answered."""
        self._now = now
        for ask in list(self._asks):
            self._give_up(ask, "lost")
        return super().eof(now)

    # asking

    def _ask(self, request: Request) -> None:
        if not self.active:
            self._ask_without(request)
            return
        if isinstance(request, SetLine):
            wanted = {s.name: getattr(request, s.name) for s in SETTINGS if s.is_line}
            if wanted["baud"] == 0:  # termios' B0 is no rate, and on this wire 0 is the query
                wanted["baud"] = None
            given = {name: value for name, value in wanted.items() if value is not None}
            self._ask_settings(request, given or dict.fromkeys(LINE_QUERY))
        elif isinstance(request, SetModem):
            given = {n: v for n, v in (("dtr", request.dtr), ("rts", request.rts)) if v is not None}
            self._ask_settings(request, given or {"dtr": None, "rts": None})
        elif isinstance(request, SetBreak):
            self._ask_settings(request, {"break_": request.on})
        elif isinstance(request, GetModem):
            if self.modem is not None and not self._poll:
                self._emit(replace(self.modem, answers=request.ref, changed=frozenset()))
                return
            if "modem" in self.profile.silent:
                self._finish(self._new_ask(request, 0.0), self.modem or virtual_modem())
                return
            # with a value, since sredird takes three bytes for any command and would eat one of the data
            self._ask_simply(request, "modem", NOTIFY_MODEMSTATE, b"\0", "NOTIFY-MODEMSTATE ?")
        elif isinstance(request, Purge):
            if not (request.rx or request.tx):
                self._emit(PurgeDone(answers=request.ref))
                return
            if request.tx:
                self._drop_held_data()
                self.busy_until = self._now
            self._ask_simply(request, "purge", PURGE_DATA, bytes((request.rx + 2 * request.tx,)))
        elif isinstance(request, GetSignature):
            why = self.profile.forbids(bytes((SIGNATURE,)))
            if "signature" in self.profile.silent:
                why = f"{self.profile.title} tells no signature"
            if why:
                self._finish(self._new_ask(request, 0.0), Failed(why="unsupported", text=why))
                return
            self._ask_simply(request, "signature", SIGNATURE, b"")
        elif isinstance(request, Drain):
            self._ask_drain(request)
        else:
            self._emit(Failed(answers=request.ref, why="unsupported"))

    def _ask_without(self, request: Request) -> None:
        """There is no COM-PORT: only what plain Telnet can do."""
        ref = request.ref
        if isinstance(request, SetBreak) and not self.raw:
            if request.on:
                self._say("-> BRK")
                self._put(bytes((IAC, BRK)))
            self._emit(OutputReport(answers=ref, break_=False, virtual=True))
        elif isinstance(request, Drain) and not self.raw:
            self._ask_drain(request)
        elif isinstance(request, Drain):
            self._emit(Drained(answers=ref, virtual=True))
        else:
            in_force: LineReport | OutputReport | ModemReport | None = None
            if isinstance(request, SetLine):
                in_force = LineReport(values=self.line, virtual=True)
            elif isinstance(request, SetModem):
                in_force = replace(self.outputs, virtual=True)
            elif isinstance(request, GetModem):
                in_force = virtual_modem()
            self._emit(Failed(answers=ref, why="unsupported", in_force=in_force, text="there is no COM-PORT option"))

    def _new_ask(self, request: Request, wait: float) -> _Ask:
        self._count += 1
        ask = _Ask(request, self._count, self._now, self._now + wait)
        self._asks[ask] = None
        self._by_kind.setdefault(type(request), deque()).append(ask)
        return ask

    def _ask_settings(self, request: Request, parts: Mapping[str, Any]) -> None:
        bodies = {name: BY_NAME[name].encode(value) for name, value in parts.items()}
        impossible = [name for name, body in bodies.items() if body is None]
        mute = {_mute_key(name, value) for name, value in parts.items()} <= self._mute
        ask = self._new_ask(request, min(self._timeout, _MUTE_WAIT + self._round_trip) if mute else self._timeout)
        if impossible:
            text = " ".join(f"{name.rstrip('_')}={parts[name]}" for name in impossible)
            self._finish(ask, Failed(why="unsupported", in_force=self._known_for(request), text=f"no code for {text}"))
            return
        forbidden = next((why for body in bodies.values() if body and (why := self.profile.forbids(body))), "")
        if forbidden:
            self._finish(ask, Failed(why="unsupported", in_force=self._known_for(request), text=forbidden))
            return
        if self.changes(request):
            self._barriers.add(ask)
        for name, value in parts.items():
            body = bodies[name]
            assert body is not None
            if _mute_key(name, value) in self.profile.silent:
                if value is not None:
                    self._command(body[0], body[1:])
                    if name not in LINE_NAMES:
                        self._hold(name, value)
                continue
            ask.missing.append(name)
            self._parts[name].append(_Part(ask, name, value))
            self._command(body[0], body[1:])
        if not ask.missing:
            known = self._known_for(request)
            assert known is not None
            self._finish(ask, replace(known, virtual=True))
            return
        if self._trust_control and set(parts) <= set(CONTROLS) and _sets(request):
            self._trust(ask)

    def _trust(self, ask: _Ask) -> None:
        for name in ask.missing:
            part = self._parts[name][-1]
            part.given_up = True
            self._hold(name, part.asked, True)
            self._forget_old(name)
        known = self._known_for(ask.request)
        assert known is not None
        self._finish(ask, replace(known, virtual=True))

    def _forget_old(self, name: str) -> None:
        """Keep only the last of what was given up: some servers never answer."""
        queue = self._parts[name]
        while len(queue) > 8 and queue[0].given_up:
            queue.popleft()

    def _ask_simply(self, request: Request, kind: str, code: int, value: bytes, words: str = "") -> None:
        wait = min(self._timeout, _MUTE_WAIT + self._round_trip) if kind in self._mute else self._timeout
        ask = self._new_ask(request, wait)
        self._waiting[kind].append(ask)
        self._command(code, value, words=words)

    def _ask_drain(self, request: Request) -> None:
        ask = self._new_ask(request, max(0.0, self.busy_until - self._now) + self._timeout)
        ask.busy_until = self.busy_until
        self._mark(ask)

    def _mark(self, mark: _Ask | int) -> None:
        """Behind the data, so not exempt from suspension as other negotiation is."""
        self._marks.append(mark)
        request = Negotiation(DO, TIMING_MARK)
        self._say(f"-> {request}")
        self._put(bytes(request))

    # being answered

    def _finish(self, ask: _Ask, report: Report) -> None:
        """The answer is there; it leaves in its turn, since answers of a kind keep their order."""
        self._asks.pop(ask, None)
        self._barriers.discard(ask)
        ask.report = replace(report, answers=ask.request.ref)
        queue = self._by_kind[type(ask.request)]
        while queue and queue[0].report is not None:
            self._emit(cast(Report, queue.popleft().report))

    def _known_for(self, request: Request) -> LineReport | OutputReport | ModemReport | None:
        if isinstance(request, SetLine):
            return LineReport(values=self.line, requested=request.line if request.line else None)
        if isinstance(request, SetModem | SetBreak):
            return self.outputs
        if isinstance(request, GetModem):
            return self.modem or virtual_modem()
        return None

    def _give_up(self, ask: _Ask, why: FailedWhy) -> None:
        """No answer, or not a whole one."""
        silent: list[str] = []
        for name in ask.missing:
            queue = self._parts[name]
            for part in queue:
                if part.ask is ask and not part.given_up:
                    part.given_up = True  # it stays where it is: its answer may still come, and is not the next one's
                    silent.append(describe(BY_NAME[name].command, (BY_NAME[name].encode(part.asked) or b"??")[1:]))
                    self._mute.add(_mute_key(name, part.asked))
                    if part.asked is not None and name not in LINE_NAMES and why == "timeout":
                        self._hold(name, part.asked)
            self._forget_old(name)
        for kind, waiting in self._waiting.items():
            if ask in waiting:
                waiting.remove(ask)
                self._mute.add(kind)
        if ask in self._marks:
            self._marks[self._marks.index(ask)] = 0
        request = ask.request
        waited = self._now - ask.sent_at
        in_force = self._known_for(request)
        if why == "timeout" and (isinstance(request, GetModem) or (not _sets(request) and in_force is not None)):
            self._say(f"<- nothing ({' '.join(silent) or 'NOTIFY-MODEMSTATE ?'})")
            assert in_force is not None
            self._finish(ask, replace(in_force, virtual=in_force.virtual or not ask.told))
            return
        what = ", ".join(silent) or type(request).__name__
        text = f"no answer to {what} within {waited:.1f} s" if why == "timeout" else f"{what} was not answered"
        if silent:
            self._say(f"<- nothing within {waited:.1f} s ({what})")
        if isinstance(in_force, OutputReport):
            in_force = replace(in_force, virtual=True)
        self._finish(ask, Failed(why=why, in_force=in_force, text=text))

    def _hold(self, name: str, value: Any, was_set: bool = False) -> bool:
        """Remember what is in force; whether it is news."""
        news: bool = getattr(self.line if name in LINE_NAMES else self.outputs, name) != value
        if name in LINE_NAMES:
            self.line = replace(self.line, **{name: value})
            if name == "flow" and (news or was_set):
                self.line = replace(self.line, flow_in=None)  # outbound sets both
        else:
            self.outputs = replace(self.outputs, **{name: value})
        return news

    def _part_for(self, name: str, value: Any) -> _Part | None:
        """The command that an acknowledgement answers: the oldest; one that was given up only if the value says so."""
        queue = self._parts[name]
        live = next((part for part in queue if not part.given_up), None)
        if value is None:  # it answers a question, if there is one: ser2net never answers what it cannot set
            question = next((part for part in queue if not part.given_up and part.asked is None), None)
            if question is not None:
                queue.remove(question)
                return question
        while queue and queue[0].given_up:
            late = queue.popleft()
            if live is None or (value == late.asked and value != live.asked):
                return late
        return queue.popleft() if queue else None

    def _stray_part(self) -> _Part | None:
        """The oldest SET-CONTROL without an answer: an acknowledgement of another family is taken for its own."""
        waiting = (part for name in CONTROLS for part in self._parts[name] if not part.given_up)
        part = min(waiting, key=lambda part: part.ask.number, default=None)
        if part is not None:
            self._parts[part.name].remove(part)
        return part

    def _believed(self, part: _Part, meaning: Any) -> Any:
        """What is taken to be in force after an answer, where what it says is nothing, or known to be wrong."""
        if part.asked is None:
            # ser2net answers the question for the break with "on" whatever holds
            return self.outputs.break_ if part.name == "break_" and "break_?" in self.profile.wrong else meaning
        if part.name == "break_" and part.asked is False:
            return False  # and acknowledges the end of a break with "on"
        return part.asked if meaning is None and part.name in CONTROLS else meaning

    def _on_setting(self, row: ComPort, value: bytes) -> None:
        if not value:
            return
        name, meaning = _read_setting(row, value)
        if row.code != SET_CONTROL and not any(value):
            self._say_received(describe(row.code, value) + " (ignored)")
            return
        part = self._part_for(name, meaning) if name else None
        if part is None and row.code == SET_CONTROL and name in ("flow", "flow_in", ""):
            part = self._stray_part()  # sredird answers DTR and RTS with the flow control
            if part is not None:
                if meaning is not None:
                    self._hold(name, meaning)
                name, meaning = part.name, None
        self._say_answer(describe(row.code, value), None if part is None or part.given_up else part.ask)
        said = meaning is not None
        if part is not None:
            meaning = self._believed(part, meaning)
        if said:
            self.told.add(name)
        news = meaning is not None and self._hold(name, meaning, part is not None and part.asked is not None)
        if part is not None and not part.given_up:
            self._part_answered(part, said)
        elif news:
            self._emit(LineReport(values=self.line) if name in LINE_NAMES else self.outputs)

    def _part_answered(self, part: _Part, said: bool) -> None:
        ask = part.ask
        self._mute.discard(_mute_key(part.name, part.asked))
        ask.told = ask.told or said
        skipped = ask.missing.index(part.name) > 0
        ask.missing.remove(part.name)
        if not ask.missing:
            known = self._known_for(ask.request)
            assert known is not None
            self._finish(ask, replace(known, virtual=not ask.told))
        self._answered_past(ask.number if skipped else ask.number - 1)

    def _answered_past(self, number: int) -> None:
        """The server has answered a command sent after these: what it has not answered by now, it hardly will."""
        for ask in self._asks:
            if ask.patience is not None:
                ask.deadline = min(ask.sent_at + self._timeout, self._now + ask.patience)
            elif ask.number <= number and ask.missing:
                ask.deadline = min(ask.deadline, self._now + _GRACE)

    def _identify(self) -> None:
        """Look the server up, by what it has said of itself so far."""
        found = identify(b"".join(map(bytes, self.heard)), self.server_signature or None)
        if found is not self.profile and found is not UNKNOWN:
            self.profile = found
            how = "signature" if self.server_signature.startswith(found.signatures) else "greeting"
            self._say(f"by its {how} the server is {found.title}")

    def _on_signature(self, row: ComPort, value: bytes) -> None:
        waiting = self._waiting["signature"]
        ask = waiting.popleft() if waiting else None
        self._say_answer(describe(row.code, value), ask)
        if value:
            self.server_signature = value
            self._identify()
        if ask is not None:
            self._mute.discard("signature")
            self._finish(ask, Signature(text=value))
        elif not value:
            self._command(SIGNATURE, self._signature)

    def introduce(self, now: float = 0.0) -> None:
        """Tell the server who we are."""
        self._now = now
        self._command(SIGNATURE, self._signature)

    def watch_line(self, now: float = 0.0) -> None:
        """Have breaks and receive errors notified; a server does not without being asked."""
        self._now = now
        self._command(SET_LINESTATE_MASK, bytes((LSR_SUPPORTED,)))

    def _on_suspend(self, row: ComPort, value: bytes) -> None:
        super()._on_suspend(row, value)
        behind = value.lstrip(bytes((TO_CLIENT + SUSPEND, TO_CLIENT + RESUME)))
        if behind:  # Lantronix' boxes put a notification into the same subnegotiation
            self._on_subnegotiation(Subnegotiation(COM_PORT, behind))

    def _on_line_state(self, row: ComPort, value: bytes) -> None:
        self._say_received(describe(row.code, value))
        if not value:
            return
        state = value[0]
        if state & LSR_BREAK:
            self._emit(BreakReport())
        if state & (LSR_OVERRUN | LSR_PARITY | LSR_FRAMING):
            self._emit(
                ErrorReport(
                    overrun=int(bool(state & LSR_OVERRUN)),
                    parity=int(bool(state & LSR_PARITY)),
                    framing=int(bool(state & LSR_FRAMING)),
                )
            )

    def _on_modem_state(self, row: ComPort, value: bytes) -> None:
        waiting = self._waiting["modem"]
        ask = waiting.popleft() if waiting and value else None
        self._say_answer(describe(row.code, value), ask)
        if not value:
            return
        before = None if self.modem is None else levels_of(self.modem)
        self.modem = modem_report(value[0], before)
        if ask is None:
            self._emit(self.modem)
        else:
            self._mute.discard("modem")
            self._finish(ask, self.modem)

    def _on_mask(self, row: ComPort, value: bytes) -> None:
        self._say_received(describe(row.code, value))

    def _on_purge(self, row: ComPort, value: bytes) -> None:
        waiting = self._waiting["purge"]
        ask = waiting.popleft() if waiting else None
        self._say_answer(describe(row.code, value), ask)
        if ask is not None:
            self._mute.discard("purge")
            request = cast(Purge, ask.request)
            self._finish(ask, PurgeDone(rx=request.rx, tx=request.tx))

    def _say_answer(self, text: str, ask: _Ask | None) -> None:
        if self._log is not None:
            took = "(not asked for)" if ask is None else f"({(self._now - ask.sent_at) * 1000:.1f} ms)"
            self._log(f"<- {text} {took}")

    # negotiation

    def _row_of(self, code: int) -> ComPort | None:
        if code >= TO_CLIENT:
            return ROWS.get(code - TO_CLIENT)
        return ROWS.get(code) if code in UNOFFSET else None

    def _activated(self) -> None:
        self.refused = False
        self._round_trip = max(0.0, self._now - self._started)

    def _withdrawn(self, negotiation: Negotiation) -> None:
        was_active = self.active
        self.active = self._options.on("us", COM_PORT) or self._options.on("him", COM_PORT)
        self.refused = not self.active
        if was_active and not self.active:
            for ask in list(self._asks):
                self._give_up(ask, "refused")

    def _on_negotiation(self, negotiation: Negotiation) -> None:
        super()._on_negotiation(negotiation)
        if self.profile is UNKNOWN:
            self._identify()
        if negotiation.option == TIMING_MARK and negotiation.verb in (WILL, WONT) and self._marks:
            mark = self._marks.popleft()
            if isinstance(mark, _Ask):
                self._marked(mark)
            else:
                for ask in self._asks:
                    if ask.number <= mark and ask.patience is not None:
                        # two round trips more: Nagle may keep the answers back until we have acknowledged this one
                        ask.patience = _FENCE_WAIT + 2 * self._round_trip
                        ask.deadline = min(ask.deadline, self._now + ask.patience)
        elif negotiation.option == BINARY and negotiation.verb in (DONT, WONT):
            self._say_once(BINARY, "the server refuses BINARY; data is sent as it is all the same")

    def _marked(self, ask: _Ask) -> None:
        """Everything before the mark has been read by the server; what it may still hold needs its time on the line."""
        since = self.busy_until - ask.busy_until
        most = self._now + self.line.line_time(SERVER_BUFFERS)
        self.busy_until = min(self.busy_until, most + since)
        ask.deadline = max(self._now, min(ask.busy_until, most))
        if ask.deadline <= self._now:
            self._finish(ask, Drained())


def _read_setting(row: ComPort, value: bytes) -> tuple[str, Any]:
    """(setting, value in force) out of an acknowledgement; the value is None where it says none, the name "" likewise."""
    if row.code == SET_BAUD:
        return "baud", (int.from_bytes(value[:4], "big") if len(value) >= 4 else CISCO_RATES.get(value[0])) or None
    if (row.code, value[0]) in DECODED:
        setting, meaning = DECODED[row.code, value[0]]
        return setting.name, meaning
    return "" if row.code == SET_CONTROL else DECODED[row.code, 0][0].name, None


def _mute_key(name: str, asked: Any) -> str:
    """Servers that answer a setting may still not answer the question for it."""
    return name if asked is not None else name + "?"


def _sets(request: Request) -> bool:
    """Whether it changes anything; a query may go unanswered."""
    if isinstance(request, SetLine):
        return bool(request.line)
    if isinstance(request, SetModem):
        return request.dtr is not None or request.rts is not None
    return not isinstance(request, SetBreak) or request.on is not None
