"""An RFC 2217 server that misbehaves on purpose, without I/O: for trying clients.

Theory of operation
-------------------
`Emulated` is the good server of `rfc2217.py` with everything that goes wrong put over it. What a kind of server does is a
row of knobs, a `Behaviour` in `PROFILES`: how it opens and negotiates, what it ignores, what it does without a word, what
it answers whatever is asked. What can be added to any of them is a `Faults`. Three places are enough: a command that
comes is looked up before it is carried out (`_on_setting` and its like), an answer before it is encoded (`_acknowledge`),
and everything that leaves for the wire passes `_command` or `_data_on_wire`.

The rows of ser2net, sredird and pySerial's example server answer as these were seen to (a test compares the bytes). Those
of the Cisco, the Lantronix and the ESP are made from descriptions, of which `quirks.py` is the list.

sredird needs a parser of its own: it takes each command by a fixed length, so what is longer than that leaks into the
data, and what is shorter eats some of it.

Memory is bounded as the server's is: one packet that is not full, one line of a login, and `LATE_LIMIT` late answers.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from serpipe.events import Event, Purge, Report, Request, SetLine
from serpipe.protocol.comport import (
    BY_NAME,
    CISCO_INDEX,
    COM_PORT,
    DECODED,
    NOTIFY_LINESTATE,
    NOTIFY_MODEMSTATE,
    ROWS,
    SET_BAUD,
    SET_CONTROL,
    SET_LINESTATE_MASK,
    SIGNATURE,
    SUSPEND,
    TO_CLIENT,
    ComPort,
    describe,
)
from serpipe.protocol.rfc2217 import SERVER_GREETING, Owed, Server
from serpipe.protocol.telnet import (
    BINARY,
    DO,
    DONT,
    ECHO,
    IAC,
    SB,
    SB_LIMIT,
    SE,
    SGA,
    WILL,
    WONT,
    Command,
    Negotiation,
    Parser,
    Subnegotiation,
    Token,
    subnegotiation,
    unescape,
)

LATE_LIMIT = 4096
"""Late answers that wait; one more lets the first go before its time."""
PACKET_LIMIT = 65536
"""Bytes of the largest packet."""
PASSWORD_LIMIT = 1024

Key = tuple[int, int | None]
"""(command, value) as it came; None for any value that has no row of its own."""
FLOW: Final = -1
"""In `Behaviour.says`: the outbound flow control in force."""

_SE: Final = bytes((IAC, SE))
_END_OF_LINE = re.compile(rb"\r\n|\r\0|\r|\n")


def _negotiations(text: str) -> tuple[Negotiation, ...]:
    data = bytes.fromhex(text)
    return tuple(Negotiation(data[i + 1], data[i + 2]) for i in range(0, len(data), 3))


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How one kind of server behaves; the defaults are a good one."""

    summary: str
    greeting: tuple[Negotiation, ...] = SERVER_GREETING
    us: frozenset[int] = frozenset((BINARY, ECHO, SGA, COM_PORT))
    """What it does when it is asked (DO)."""
    him: frozenset[int] = frozenset((BINARY, SGA, COM_PORT))
    """What it lets the client do (WILL)."""
    negotiates: Mapping[Negotiation, Negotiation | None] = field(default_factory=dict)
    """What it answers, where that is not what the rules of RFC 1143 say."""
    signature: bytes | None = b""
    """None: silent. Empty: the port is asked."""
    echoes_signature: bool = False
    """It answers a signature that it is told, with its own."""
    ignored: frozenset[Key] = frozenset()
    """Neither done nor answered."""
    unacked: frozenset[Key] = frozenset()
    """Done, and not answered."""
    says: Mapping[tuple[int, int], int] = field(default_factory=dict)
    """Done, and answered with this value whatever holds."""
    instead: Mapping[Key, int] = field(default_factory=dict)
    """Taken for this value of the same command."""
    illegal: Literal["answers", "silent"] = "answers"
    """A value that does not exist: the value in force is the answer, or there is none."""
    fatal: frozenset[int] = frozenset()
    """Commands whose illegal values end the connection."""
    rates: frozenset[int] = frozenset()
    """The rates it knows, where it does not know all; any other is taken for 9600."""
    rate_tail: bytes = b""
    """Follows the value of every answer about the rate."""
    one_byte: Literal["in kind", "for good", "always", "ends"] = "in kind"
    """A rate of one byte: it answers that one in one byte, all that follow too, all of them ever; or it dies."""
    masks: Literal["acked", "notified", "silent"] = "acked"
    line_states: int = 255
    """The bits of the line state that it knows."""
    polls: Literal["both", "line", "none"] = "both"
    suspends: Literal["honoured", "ignored", "flow"] = "honoured"
    purges_any: bool = True
    """It acknowledges a purge of nothing."""
    fixed_lengths: bool = False
    cr_nul: bool = False
    """CR NUL where BINARY is not agreed, COM-PORT or not."""
    xonxoff_sticks: bool = False
    """RTS/CTS is acknowledged, and does not replace XON/XOFF."""
    reversed_roles: bool = False
    """Masks of 255 are not doubled, and 107 comes behind a 108 in the same subnegotiation."""
    telnet: bool = True


@dataclass(frozen=True, slots=True)
class Faults:
    """What is wrong besides."""

    never_acks: bool = False
    acks_unapplied: bool = False
    late: float = 0.0
    """Seconds that every answer comes late."""
    echo: bool = False
    banner: bool = False
    login: bool = False
    crnul: bool = False
    rawff: bool = False
    packet_size: int = 0
    """Bytes; 0 is no packets by size."""
    packet_time: float = 0.0
    """Seconds; 0 is no packets by time."""
    busy: bool = False
    mute: bool = False
    closes: bool = False


def _keys(command: int, *values: int | None) -> frozenset[Key]:
    return frozenset((command, value) for value in values)


_POSIX_RATES = frozenset(
    (50, 75, 110, 134, 150, 200, 300, 600, 1200, 1800, 2400, 4800, 9600, 19200, 38400, 57600, 115200, 230400, 460800)
)
_PYSERIAL = Behaviour(
    "pySerial's example server: silent about its signature, DTR, RTS and both masks",
    greeting=_negotiations("FFFB01 FFFB03 FFFD00 FFFB2C"),
    him=frozenset((BINARY, ECHO, SGA, COM_PORT)),
    negotiates={Negotiation(WILL, ECHO): None, Negotiation(WILL, SGA): Negotiation(DO, SGA)},
    signature=None,
    ignored=_keys(SET_CONTROL, 4, 7, 10, 13, 14, 15, 16, 17, 18, 19),
    fatal=frozenset((3, 4)),
    one_byte="ends",
    masks="silent",
    suspends="ignored",
    xonxoff_sticks=True,
    line_states=0,
    purges_any=False,
)
PROFILES: Final[Mapping[str, Behaviour]] = {
    "serpipe": Behaviour("a good server, for comparison"),
    "ser2net": Behaviour(
        "ser2net 4.3: no answer to what it cannot set or is polled for, masks unacknowledged, the break always on",
        greeting=_negotiations("FFFB03 FFFD03 FFFB01 FFFE01 FFFD00 FFFB00 FFFD2C"),
        us=frozenset((BINARY, ECHO, SGA)),
        negotiates={Negotiation(WILL, SGA): Negotiation(DO, SGA)},
        signature=b"ser2net",
        echoes_signature=True,
        ignored=_keys(4, 3),
        says={(SET_CONTROL, 4): 5, (SET_CONTROL, 6): 5, (SET_CONTROL, 13): 14},
        instead={(SET_CONTROL, value): 13 for value in range(14, 20)},
        illegal="silent",
        one_byte="for good",
        masks="notified",
        line_states=0,
        polls="none",
        suspends="flow",
    ),
    "sredird": Behaviour(
        "sredird 2.2: commands read by a fixed length, DTR and RTS answered with the flow control",
        greeting=_negotiations("FFFB00 FFFD00 FFFB01 FFFB03 FFFD03 FFFD2C"),
        him=frozenset((BINARY, ECHO, SGA, COM_PORT)),
        signature=b"SRedird 2.2.1 /dev/ttyS0",
        says={(SET_CONTROL, value): FLOW for value in (8, 9, 11, 12, 14, 15, 16, 18)} | {(SET_CONTROL, 13): 14},
        instead={(4, 3): 1, (SET_CONTROL, 17): 0, (SET_CONTROL, 19): 0, (SET_CONTROL, None): 0},
        rates=_POSIX_RATES,
        rate_tail=bytes(4),
        line_states=16,
        polls="none",
        fixed_lengths=True,
        cr_nul=True,
    ),
    "pyserial": _PYSERIAL,
    "esp": replace(
        _PYSERIAL,
        summary="esp_rfc2217_server: as pyserial, and DTR and RTS are set without an answer",
        unacked=_keys(SET_CONTROL, 8, 9, 11, 12),
    ),
    "cisco": Behaviour(
        "Cisco IOS: every rate is answered in one byte",
        greeting=_negotiations("FFFB01 FFFB03 FFFD2C"),
        signature=None,
        one_byte="always",
    ),
    "lantronix": Behaviour(
        "a Lantronix box: refuses WILL COM-PORT and answers DO COM-PORT, masks of 255 not doubled",
        greeting=(),
        him=frozenset((BINARY, SGA)),
        reversed_roles=True,
    ),
    "refuses": Behaviour(
        "a Telnet server without RFC 2217",
        greeting=_negotiations("FFFB01 FFFB03"),
        us=frozenset((BINARY, ECHO, SGA)),
        him=frozenset((BINARY, SGA)),
    ),
    "raw": Behaviour("no Telnet at all: a plain TCP port", greeting=(), telnet=False),
}

FAULTS: Final[Mapping[str, str]] = {
    "never-acks": "agrees to RFC 2217, does what it is told, and never answers",
    "acks-unapplied": "answers as asked, and does nothing",
    "late": "every answer comes late: late=TIME, 1 s without",
    "echo": "what the client sends comes back at once, besides going to the port",
    "banner": "a line of text before the first data",
    "login": "asks for a login and a password, and takes two lines for them",
    "crnul": "a NUL behind every CR that it sends",
    "rawff": "a byte of 255 that it sends is not doubled",
    "packet": "packet=SIZE sends in blocks that are full, packet=TIME gathers that long; both may be given",
    "busy": "says that the port is in use, and closes",
    "mute": "takes the connection and never says a word",
    "closes": "takes the connection and closes it",
}


class FixedLengths(Parser):
    """sredird's reading of Telnet: three bytes for a command, seven for a subnegotiation, but ten for a rate, six for
    SUSPEND and RESUME, and up to its IAC SE for a signature. Values are not undoubled."""

    _LENGTHS: Final = {SET_BAUD: 10, SUSPEND: 6, SUSPEND + 1: 6}

    def _in_data(self, data: bytes, pos: int, tokens: list[Token]) -> int | None:
        if data[pos] != IAC or data[pos : pos + 2] == b"\xff\xff":
            return super()._in_data(data, pos, tokens)
        if len(data) - pos < 3:
            return None
        code = data[pos + 1]
        if code != SB:
            negotiates = code in (WILL, WONT, DO, DONT)
            tokens.append(Negotiation(code, data[pos + 2]) if negotiates else Command(code))
            return pos + 3
        if len(data) - pos < 4:
            return None
        if data[pos + 3] == SIGNATURE:
            end = data.find(_SE, pos + 4)
            if end < 0 and len(data) - pos <= SB_LIMIT:
                return None
            after = end + 2 if end >= 0 else len(data)
        else:
            after = pos + self._LENGTHS.get(data[pos + 3], 7)
        if len(data) < after:
            return None
        tokens.append(Subnegotiation(data[pos + 2], data[pos + 3 : after - 2]))
        return after


class Emulated(Server):
    """A server that behaves as `behaviour` says, with `faults`. For the rest as `rfc2217.Server`."""

    def __init__(
        self,
        behaviour: Behaviour,
        faults: Faults = Faults(),
        *,
        banner: bytes = b"",
        log: Callable[[str], None] | None = None,
    ) -> None:
        self._agreed_us = behaviour.us
        self._agreed_him = behaviour.him
        super().__init__(signature=behaviour.signature or b"", log=log)
        if behaviour.fixed_lengths:
            self._parser = FixedLengths()
        self._does = behaviour
        self._faults = faults
        self._banner = banner
        self._prompts: deque[bytes] = deque((b"Password: ", b"\r\n") if faults.login else ())
        self._typed = b""
        self._xonxoff = False
        self._in_one_byte = behaviour.one_byte == "always"
        self._late: deque[tuple[float, bytes]] = deque()
        self._packet = b""
        self._packet_due = math.inf
        self.over = False
        """It ends the connection, as soon as what it has said is written."""

    # the connection

    def start(self, now: float = 0.0) -> None:
        """What it opens with."""
        self._now = now
        faults = self._faults
        if faults.mute:
            return
        if faults.closes:
            self.over = True
            return
        for negotiation in self._does.greeting:
            if negotiation.verb in (WILL, DO):
                self._options.want("us" if negotiation.verb == WILL else "him", negotiation.option, True)
            self._negotiate(negotiation)
        if faults.busy:
            self._out.append(b"Port already in use\r\n")
            self.over = True
        elif faults.banner:
            self._out.append(self._banner)
        if self._prompts and not self.over:
            self._out.append(b"login: ")

    def receive(self, data: bytes, now: float = 0.0) -> list[Event]:
        """What the bytes say to such a server."""
        if self._faults.mute or self.over:
            return []
        if self._does.telnet:
            return super().receive(data, now)
        self._now = now
        self._on_data(data)
        return self._taken()

    def outgoing(self) -> bytes:
        """Take what is to be written next; of a server that sends in packets, one."""
        if self._in_packets:
            return self._out.pop(0) if self._out else b""
        return super().outgoing()

    @property
    def deadline(self) -> float:
        """The end of a timed break, the next late answer, or the end of a packet."""
        late = self._late[0][0] if self._late else math.inf
        return min(super().deadline, late, self._packet_due)

    def tick(self, now: float) -> list[Event]:
        """Send what is due."""
        while self._late and self._late[0][0] <= now:
            self._put(self._late.popleft()[1])
        if self._packet_due <= now:
            self._end_packet()
        return super().tick(now)

    # data

    def send(self, event: Event, now: float = 0.0) -> list[Event]:
        """Data, a Report of the port, or Eof."""
        self._now = now
        if self._faults.mute or self.over:
            return []
        if type(event) is bytes:
            self._gather(event)
            return self._taken()
        if not isinstance(event, Report | Request):
            self._end_packet()
        return super().send(event, now)

    @property
    def _in_packets(self) -> bool:
        return bool(self._faults.packet_size or self._faults.packet_time)

    def _gather(self, data: bytes) -> None:
        if not self._in_packets:
            self._put(self._data_on_wire(data), is_data=True)
            return
        size = self._faults.packet_size or PACKET_LIMIT
        data = self._packet + data
        full = len(data) - len(data) % size
        for at in range(0, full, size):
            self._put(self._data_on_wire(data[at : at + size]), is_data=True)
        self._packet = data[full:]
        if not self._packet:
            self._packet_due = math.inf
        elif self._faults.packet_time and (full or math.isinf(self._packet_due)):
            self._packet_due = self._now + self._faults.packet_time

    def _end_packet(self) -> None:
        self._packet_due = math.inf
        if self._packet:
            self._put(self._data_on_wire(self._packet), is_data=True)
            self._packet = b""

    def _drop_held_data(self) -> None:
        super()._drop_held_data()
        self._packet = b""
        self._packet_due = math.inf

    def _data_on_wire(self, data: bytes) -> bytes:
        if not self._does.telnet:
            return data
        if self._faults.crnul:
            data = data.replace(b"\r", b"\r\0")
        wire = super()._data_on_wire(data)
        return unescape(wire) if self._faults.rawff else wire

    def _on_data(self, data: bytes) -> None:
        if self._faults.echo:
            self._put(self._data_on_wire(data), is_data=True)
        if self._prompts:
            data = self._log_in(data)
        if data:
            super()._on_data(data)

    def _log_in(self, data: bytes) -> bytes:
        """Take the lines of a login; what follows them."""
        data = self._typed + data
        self._typed = b""
        while self._prompts:
            end = _END_OF_LINE.search(data)
            if end is None:
                self._typed = data[-PASSWORD_LIMIT:]
                return b""
            data = data[end.end() :]
            self._put(self._prompts.popleft(), is_data=True)
        return data

    # negotiation

    def _on_negotiation(self, negotiation: Negotiation) -> None:
        if negotiation in self._does.negotiates:
            answer = self._does.negotiates[negotiation]
            self._say_received(str(negotiation))
            self._options.received(negotiation)
            if len(self.heard) < 16:
                self.heard.append(negotiation)
            if answer is not None:
                self._negotiate(answer)
            return
        super()._on_negotiation(negotiation)

    def _be_transparent(self) -> None:
        if not self._does.cr_nul:
            super()._be_transparent()

    # commands

    def _on_subnegotiation(self, token: Subnegotiation) -> None:
        if token.option in self._does.us | self._does.him:
            super()._on_subnegotiation(token)
        else:
            self._say_once(token.option, f"a subnegotiation of option {token.option}, which it has not, was ignored")

    def _on_signature(self, row: ComPort, value: bytes) -> None:
        if self._does.signature is None:
            self._say_received(describe(row.code, value))
            return
        super()._on_signature(row, value)
        if value and self._does.echoes_signature:
            self._command(TO_CLIENT + SIGNATURE, self._signature)

    def _on_setting(self, row: ComPort, value: bytes) -> None:
        does = self._does
        if row.code == SET_BAUD and len(value) < 4:
            if does.one_byte == "ends":
                self._end(row, value)
                return
            self._in_one_byte = self._in_one_byte or does.one_byte == "for good"
        elif row.code == SET_BAUD:
            rate = int.from_bytes(value[:4], "big")
            if does.rates and rate and rate not in does.rates:
                value = (9600).to_bytes(4, "big")
        elif value:
            value = self._as_taken(row.code, value[0])
            if (row.code, value[0]) in does.ignored:
                self._say_received(describe(row.code, value))
                return
            if row.code == SET_CONTROL and value[0] in (1, 2):
                self._xonxoff = value[0] == 2
            if does.xonxoff_sticks and self._xonxoff and (row.code, value[0]) == (SET_CONTROL, 3):
                self._say_received(describe(row.code, value))
                self._owe(SetLine(), Owed(row, self._now, BY_NAME["flow"], "rtscts"))
                return
            if (row.code, value[0]) not in DECODED:
                if row.code in does.fatal:
                    self._end(row, value)
                    return
                if does.illegal == "silent":
                    self._say_received(describe(row.code, value))
                    return
        super()._on_setting(row, value)

    def _as_taken(self, code: int, value: int) -> bytes:
        instead = self._does.instead
        if (code, value) in instead:
            return bytes((instead[code, value],))
        if (code, value) not in DECODED and (code, None) in instead:
            return bytes((instead[code, None],))
        return bytes((value,))

    def _end(self, row: ComPort, value: bytes) -> None:
        """What a program dies of."""
        self._say_received(describe(row.code, value))
        self.over = True

    def _on_line_state(self, row: ComPort, value: bytes) -> None:
        self._line_errors &= self._does.line_states
        if self._does.polls == "both":
            super()._on_line_state(row, value)

    def _on_modem_state(self, row: ComPort, value: bytes) -> None:
        if self._does.polls != "none":
            super()._on_modem_state(row, value)

    def _on_mask(self, row: ComPort, value: bytes) -> None:
        if self._does.masks == "acked" or not value:
            super()._on_mask(row, value[:1] and bytes((value[0] & self._line_states_of(row),)))
            return
        self._say_received(describe(row.code, value))
        notifies = self._does.masks == "notified"
        if row.code == SET_LINESTATE_MASK:
            if notifies:
                self._command(
                    TO_CLIENT + NOTIFY_LINESTATE, bytes((self._line_errors & value[0] & self._does.line_states,))
                )
            return
        self._modem_mask = value[0]
        if notifies:
            self._notify_modem(always=True)

    def _line_states_of(self, row: ComPort) -> int:
        return self._does.line_states if row.code == SET_LINESTATE_MASK else 255

    def _on_suspend(self, row: ComPort, value: bytes) -> None:
        if self._does.suspends == "honoured":
            super()._on_suspend(row, value)
            return
        self._say_received(describe(row.code, value))
        if self._does.suspends == "flow":  # "on" for its own function, where that is a value of flow control
            super()._on_setting(ROWS[SET_CONTROL], bytes((row.code == SUSPEND,)))

    def _on_purge(self, row: ComPort, value: bytes) -> None:
        if value and value[0] not in (1, 2, 3):
            self._say_received(describe(row.code, value))
            if self._does.purges_any:  # in its turn, as these programs do
                self._owe(Purge(), Owed(row, self._now, purge=value[0]))
            return
        super()._on_purge(row, value)

    # answers

    def _owe(self, request: Request, owed: Owed) -> None:
        if self._faults.acks_unapplied and (owed.asked is not None or owed.purge):
            self._acknowledge(owed, Report())  # which says nothing, so that the value asked for is the answer
            return
        super()._owe(request, owed)

    def _acknowledge(self, owed: Owed, report: Report) -> None:
        if owed.setting is not None:
            body = owed.setting.encode(owed.asked)
            assert body is not None  # it came in that form
            key = owed.row.code, body[1]
            if key in self._does.unacked:
                return
            if self._does.xonxoff_sticks and owed.asked == "rtscts":
                self._command(TO_CLIENT + owed.row.code, body[1:])
                return
            if key in self._does.says:
                value = self._does.says[key]
                if value == FLOW:
                    flow = self._line.flow or "none"
                    value = {"none": 1, "xonxoff": 2, "rtscts": 3}.get(flow, 1)
                self._command(TO_CLIENT + owed.row.code, bytes((value,)))
                return
        super()._acknowledge(owed, report)

    def _command(self, code: int, value: bytes, note: str = "", words: str = "") -> None:
        if self._faults.never_acks or not self._does.telnet:
            return
        if code == TO_CLIENT + SET_BAUD:
            rate = int.from_bytes(value[:4], "big")
            if self._in_one_byte and len(value) == 4 and rate in CISCO_INDEX:
                value = bytes((CISCO_INDEX[rate],))
            value += self._does.rate_tail
        if self._log is not None:
            self._log(f"{self._arrows[0]} {words or describe(code % TO_CLIENT, value)}{note}")
        wire = self._command_on_wire(code, value)
        if not self._faults.late:
            self._put(wire)
            return
        self._late.append((self._now + self._faults.late, wire))
        if len(self._late) > LATE_LIMIT:
            self._put(self._late.popleft()[1])

    def _command_on_wire(self, code: int, value: bytes) -> bytes:
        if not self._does.reversed_roles:
            return subnegotiation(COM_PORT, bytes((code,)) + value)
        if code == TO_CLIENT + NOTIFY_MODEMSTATE:
            value = bytes((code,)) + value
            code = TO_CLIENT + SUSPEND
        return bytes((IAC, SB, COM_PORT, code)) + value + _SE
