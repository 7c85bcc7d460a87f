"""Telnet without I/O: the framing, the negotiation of options, and the two ways in which data is escaped.

Theory of operation
-------------------
`Parser` cuts a byte stream into tokens: data, commands, negotiations and subnegotiations (RFC 854, 855). It keeps its
place between calls, so the stream may be cut anywhere. Data is never looked at byte by byte: one regular expression finds
the longest run that is nothing but data, doubled IACs included, and `bytes.replace` undoes the doubling. What is kept
between calls is at most two bytes of an unfinished command and `SB_LIMIT` bytes of a subnegotiation, whatever arrives.

`Options` is the Q method of RFC 1143: six states for each option on each side, one table for both. A request is never
repeated while its answer is out, a state that holds is never acknowledged, and so no loop can start; for peers that loop
by themselves, an option that has been answered `FLIP_LIMIT` times is answered no more.

TIMING-MARK (RFC 860) has no state: each DO is answered by its own WONT, and that answer proves that everything before it
was read.

`Nvt` is the carriage return rule of the network virtual terminal (RFC 854, RFC 1123 section 3.2.7): a CR that is not part
of CR LF is followed by NUL. It holds in a direction where BINARY (RFC 856) is not agreed. No serial server follows it once
COM-PORT is agreed, so whether it is used is the decision of the codec that stands on this module.

How tolerant the parser is inside a subnegotiation: IAC SB starts a new one, a negotiation ends it unused, a command is
dropped, and IAC before any other byte is taken for an IAC that its sender forgot to double.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

IAC: Final = 255
DONT: Final = 254
DO: Final = 253
WONT: Final = 252
WILL: Final = 251
SB: Final = 250
AYT: Final = 246
BRK: Final = 243
DM: Final = 242
NOP: Final = 241
SE: Final = 240

BINARY: Final = 0
ECHO: Final = 1
SGA: Final = 3
TIMING_MARK: Final = 6

SB_LIMIT = 1024
"""Bytes of one subnegotiation that are kept; the rest is read and dropped."""
FLIP_LIMIT = 20
"""Answers that one option of one side gets in a connection."""

_IAC = b"\xff"
_IAC_IAC = b"\xff\xff"
_DATA = re.compile(rb"[^\xff]*+(?:\xff\xff[^\xff]*+)*+")
_SAME_COMMAND = re.compile(rb"(\xff.)\1*+", re.S)

_VERBS = {WILL: "WILL", WONT: "WONT", DO: "DO", DONT: "DONT"}
_COMMANDS = {
    236: "EOF",
    237: "SUSP",
    238: "ABORT",
    239: "EOR",
    240: "SE",
    241: "NOP",
    242: "DM",
    243: "BRK",
    244: "IP",
    245: "AO",
    246: "AYT",
    247: "EC",
    248: "EL",
    249: "GA",
}
_OPTIONS = {
    0: "BINARY",
    1: "ECHO",
    3: "SGA",
    5: "STATUS",
    6: "TIMING-MARK",
    24: "TERMINAL-TYPE",
    31: "NAWS",
    32: "TERMINAL-SPEED",
    33: "REMOTE-FLOW-CONTROL",
    34: "LINEMODE",
    37: "AUTHENTICATION",
    38: "ENCRYPT",
    39: "NEW-ENVIRON",
    44: "COM-PORT",
}


@dataclass(frozen=True, slots=True)
class Command:
    """IAC and one byte, `times` in a row."""

    code: int
    times: int = 1

    def __str__(self) -> str:
        return _COMMANDS.get(self.code, f"IAC {self.code}") + (f" ({self.times} times)" if self.times > 1 else "")


@dataclass(frozen=True, slots=True)
class Negotiation:
    """IAC WILL, WONT, DO or DONT, and an option."""

    verb: int
    option: int

    def __str__(self) -> str:
        return f"{_VERBS[self.verb]} {option_name(self.option)}"

    def __bytes__(self) -> bytes:
        return bytes((IAC, self.verb, self.option))


@dataclass(frozen=True, slots=True)
class Subnegotiation:
    """IAC SB option … IAC SE; `body` undoubled. `cut`: it was longer than `SB_LIMIT`, and this is its beginning."""

    option: int
    body: bytes
    cut: bool = False


Token: TypeAlias = bytes | Command | Negotiation | Subnegotiation
Side = Literal["us", "him"]
"""Who does what the option says: `us` is governed by our WILL and his DO, `him` by his WILL and our DO."""


def option_name(option: int) -> str:
    """``COM-PORT``, or the number."""
    return _OPTIONS.get(option, str(option))


def escape(data: bytes) -> bytes:
    """Data as it is sent: every IAC doubled."""
    return data.replace(_IAC, _IAC_IAC)


def unescape(data: bytes) -> bytes:
    """A run of nothing but data, every doubled IAC made single."""
    return data.replace(_IAC_IAC, _IAC) if _IAC in data else data


def subnegotiation(option: int, body: bytes) -> bytes:
    """IAC SB option body IAC SE, the body doubled."""
    return bytes((IAC, SB, option)) + escape(body) + bytes((IAC, SE))


class Parser:
    """A byte stream cut into tokens.

    `one_byte` names, per option, the subcommands (first byte of the body) that take a value of exactly one byte. Some
    senders do not double a value of 255; for these the end is recognised all the same.
    """

    def __init__(self, one_byte: Mapping[int, Collection[int]] | None = None) -> None:
        self._one_byte = one_byte or {}
        self._tail = b""
        self._option = 0
        self._body: bytearray | None = None
        self._cut = False
        self.offset = 0
        """Bytes received so far."""

    @property
    def inside(self) -> bool:
        """The stream stands in the middle of a command or a subnegotiation."""
        return bool(self._tail) or self._body is not None

    @property
    def stored(self) -> int:
        """Bytes kept for the next call."""
        return len(self._tail) + len(self._body or b"")

    def feed(self, data: bytes) -> list[Token]:
        """The tokens that `data` completes. Never raises."""
        self.offset += len(data)
        if self._tail:
            data = self._tail + data
            self._tail = b""
        elif self._body is None and _IAC not in data:
            return [data] if data else []
        tokens: list[Token] = []
        pos = 0
        while pos < len(data):
            step = self._in_data if self._body is None else self._in_body
            after = step(data, pos, tokens)
            if after is None:
                self._tail = data[pos:]
                break
            pos = after
        return tokens

    def _in_data(self, data: bytes, pos: int, tokens: list[Token]) -> int | None:
        """One token taken; where it ends, or None where the rest of it has not come yet."""
        run = _DATA.match(data, pos)
        assert run is not None  # it matches nothing, too
        if run.end() > pos:
            tokens.append(unescape(run[0]))
            return run.end()
        if len(data) - pos < 2:
            return None
        code = data[pos + 1]
        if code < SB:
            same = _SAME_COMMAND.match(data, pos)
            assert same is not None
            tokens.append(Command(code, (same.end() - pos) // 2))
            return same.end()
        if len(data) - pos < 3:
            return None
        if code == SB:
            self._option = data[pos + 2]
            self._body = bytearray()
            self._cut = False
            return pos + 3
        tokens.append(Negotiation(code, data[pos + 2]))
        return pos + 3

    def _in_body(self, data: bytes, pos: int, tokens: list[Token]) -> int | None:
        """The same inside a subnegotiation."""
        body = self._body
        assert body is not None
        # The first two bytes are taken singly, so that an undoubled 255 in the second is seen at any cut of the stream.
        if len(body) == 2 and body[1] == IAC and data[pos] == SE and body[0] in self._one_byte.get(self._option, ()):
            return self._end(tokens, pos + 1)
        if data[pos] != IAC and len(body) < 2:
            body.append(data[pos])
            return pos + 1
        if len(body) >= 2:
            run = _DATA.match(data, pos)
            assert run is not None
            if run.end() > pos:
                self._keep(unescape(run[0]))
                return run.end()
        if len(data) - pos < 2:
            return None
        code = data[pos + 1]
        if code == SE:
            return self._end(tokens, pos + 2)
        if code in (SB, WILL, WONT, DO, DONT):
            self._body = None
            return pos
        if code == IAC:
            self._keep(_IAC)
        elif code < 236:
            self._keep(data[pos : pos + 2])
        return pos + 2

    def _keep(self, data: bytes) -> None:
        assert self._body is not None
        room = SB_LIMIT - len(self._body)
        self._cut = self._cut or len(data) > room
        self._body += data[:room]

    def _end(self, tokens: list[Token], pos: int) -> int:
        assert self._body is not None
        tokens.append(Subnegotiation(self._option, bytes(self._body), self._cut))
        self._body = None
        return pos


class State(enum.Enum):
    """Of one option on one side (RFC 1143 section 7); an option is in effect in YES only."""

    NO = enum.auto()
    YES = enum.auto()
    WANT_NO = enum.auto()
    WANT_NO_OPPOSITE = enum.auto()
    """We asked for it to end, and meanwhile want it again."""
    WANT_YES = enum.auto()
    WANT_YES_OPPOSITE = enum.auto()
    """We asked for it, and meanwhile want it no more."""


_Event = Literal["agreed", "refused", "positive", "negative", "on", "off"]

# (state, what happens) -> (state, what is sent). "agreed" and "refused" are a WILL or DO of an option that was off, by
# whether we want to have it; "positive" is one in any other state, "negative" a WONT or DONT; "on" and "off" are ours.
Q: Final[dict[tuple[State, _Event], tuple[State, bool | None]]] = {
    (State.NO, "agreed"): (State.YES, True),
    (State.NO, "refused"): (State.NO, False),
    (State.YES, "positive"): (State.YES, None),
    (State.WANT_NO, "positive"): (State.NO, None),
    (State.WANT_NO_OPPOSITE, "positive"): (State.YES, None),
    (State.WANT_YES, "positive"): (State.YES, None),
    (State.WANT_YES_OPPOSITE, "positive"): (State.WANT_NO, False),
    (State.NO, "negative"): (State.NO, None),
    (State.YES, "negative"): (State.NO, False),
    (State.WANT_NO, "negative"): (State.NO, None),
    (State.WANT_NO_OPPOSITE, "negative"): (State.WANT_YES, True),
    (State.WANT_YES, "negative"): (State.NO, None),
    (State.WANT_YES_OPPOSITE, "negative"): (State.NO, None),
    (State.NO, "on"): (State.WANT_YES, True),
    (State.YES, "on"): (State.YES, None),
    (State.WANT_NO, "on"): (State.WANT_NO_OPPOSITE, None),
    (State.WANT_NO_OPPOSITE, "on"): (State.WANT_NO_OPPOSITE, None),
    (State.WANT_YES, "on"): (State.WANT_YES, None),
    (State.WANT_YES_OPPOSITE, "on"): (State.WANT_YES, None),
    (State.NO, "off"): (State.NO, None),
    (State.YES, "off"): (State.WANT_NO, False),
    (State.WANT_NO, "off"): (State.WANT_NO, None),
    (State.WANT_NO_OPPOSITE, "off"): (State.WANT_NO, None),
    (State.WANT_YES, "off"): (State.WANT_YES_OPPOSITE, None),
    (State.WANT_YES_OPPOSITE, "off"): (State.WANT_YES_OPPOSITE, None),
}

_RECEIVED: Final[dict[int, tuple[Side, bool]]] = {
    WILL: ("him", True),
    WONT: ("him", False),
    DO: ("us", True),
    DONT: ("us", False),
}
_SENT: Final[dict[tuple[Side, bool], int]] = {
    ("him", True): DO,
    ("him", False): DONT,
    ("us", True): WILL,
    ("us", False): WONT,
}


class Options:
    """Every option of a connection, on both sides. `us` and `him` are those agreed to when the peer wants them."""

    def __init__(self, us: Collection[int], him: Collection[int]) -> None:
        self._agreed: dict[Side, Collection[int]] = {"us": us, "him": him}
        self._state: dict[tuple[Side, int], State] = {}
        self._answers: dict[tuple[Side, int], int] = {}

    def state(self, side: Side, option: int) -> State:
        """Where the option stands."""
        return self._state.get((side, option), State.NO)

    def on(self, side: Side, option: int) -> bool:
        """Whether it is in effect."""
        return self._state.get((side, option)) is State.YES

    def want(self, side: Side, option: int, on: bool) -> Negotiation | None:
        """Have it on or off; the request to send, if one is due now."""
        state, sent = Q[self.state(side, option), "on" if on else "off"]
        self._state[side, option] = state
        return None if sent is None else Negotiation(_SENT[side, sent], option)

    def received(self, negotiation: Negotiation) -> Negotiation | None:
        """The answer that a negotiation of the peer's gets, if any."""
        option = negotiation.option
        side, positive = _RECEIVED[negotiation.verb]
        if option == TIMING_MARK:
            return Negotiation(WONT, option) if negotiation.verb == DO else None
        state = self.state(side, option)
        event: _Event = "negative"
        if positive and state is State.NO:
            event = "agreed" if option in self._agreed[side] else "refused"
        elif positive:
            event = "positive"
        state, sent = Q[state, event]
        self._state[side, option] = state
        if sent is None:
            return None
        answers = self._answers[side, option] = self._answers.get((side, option), 0) + 1
        return Negotiation(_SENT[side, sent], option) if answers <= FLIP_LIMIT else None


class Nvt:
    """The rule for CR, in both directions of one connection. Chunks may be cut anywhere."""

    def __init__(self) -> None:
        self._came_cr = False
        self._owe_nul = False

    def receive(self, data: bytes) -> bytes:
        """What the peer meant: the NUL after a CR removed."""
        if not data:
            return data
        if self._came_cr and data.startswith(b"\0"):
            data = data[1:]
        self._came_cr = data.endswith(b"\r")
        return data.replace(b"\r\0", b"\r")

    def send(self, data: bytes) -> bytes:
        """As it is sent. Whether a CR at the very end needs its NUL shows with the next byte; `flush` ends the doubt."""
        if not data:
            return data
        owed = b"\0" if self._owe_nul and not data.startswith(b"\n") else b""
        self._owe_nul = data.endswith(b"\r")
        last = b""
        if self._owe_nul:
            data, last = data[:-1], b"\r"
        # a CR that comes with a NUL of its own gets two: the second replacement cannot mistake it
        return owed + data.replace(b"\r", b"\r\0").replace(b"\r\0\n", b"\r\n") + last

    def flush(self) -> bytes:
        """The NUL that a last CR is still owed."""
        owed = b"\0" if self._owe_nul else b""
        self._owe_nul = False
        return owed

    def reset(self) -> None:
        """From here on the stream is transparent."""
        self._came_cr = self._owe_nul = False
