"""The words of a serial line: how settings are written, read and timed.

Theory of operation
-------------------
People write `115200`, `9600n81`, `8N1`, `baud=9600,parity=even,flow=hard`; we print `115200 8N1 flow=none`, always. A
bare word is a rate, a format or both (`parse_word`); a keyed one is converted by its kind. `LINE_OPTIONS` are the six
rows that every port's option table shares.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, cast

from serpipe.errors import BadValue
from serpipe.events import Flow, Line, Parity
from serpipe.options import Kind, choice, integer, opt

_PARITY_LETTER: dict[Parity, str] = {"none": "N", "odd": "O", "even": "E", "mark": "M", "space": "S"}
_LETTER_PARITY: dict[str, Parity] = {letter: parity for parity, letter in _PARITY_LETTER.items()}
_STOPBITS = {"1": 1.0, "1.5": 1.5, "2": 2.0}


def parse_word(word: str) -> Line | None:
    """The settings in a bare word (`115200`, `8N1`, `9600n81`, `96008N1` is refused as ambiguous), or None.

    `9600n81` is ser2net's spelling (parity, size, stop bits), `8N1` everybody's; both are taken, with or without a rate.
    """
    if re.fullmatch(r"\d+", word):
        rate = int(word)
        return Line(baud=rate) if 0 < rate < 2**32 else None
    match = re.fullmatch(r"(?:(\d+)[/-]?)?([noems])([5-8])(1\.5|1|2)", word, re.I)
    if match:
        rate_text, letter, size, stop = match.groups()
    else:
        match = re.fullmatch(r"(?:(\d+)[/-])?([5-8])([noems])(1\.5|1|2)", word, re.I)
        if not match:
            return None
        rate_text, size, letter, stop = match.groups()
    return Line(
        baud=int(rate_text) if rate_text else None,
        bytesize=int(size),
        parity=_LETTER_PARITY[letter.upper()],
        stopbits=_STOPBITS[stop],
    )


def format_stopbits(stopbits: float) -> str:
    """``1``, ``1.5`` or ``2``."""
    return f"{stopbits:g}"


def format_frame(line: Line) -> str:
    """``8N1``; ``?`` where a part is not known."""
    size = str(line.bytesize) if line.bytesize is not None else "?"
    parity = _PARITY_LETTER[line.parity] if line.parity is not None else "?"
    return size + parity + (format_stopbits(line.stopbits) if line.stopbits is not None else "?")


def format_line(line: Line) -> str:
    """The one printed form, ``115200 8N1 flow=none``; only what is known of it, and "" where nothing is."""
    words = []
    if line.baud is not None:
        words.append(str(line.baud))
    if line.bytesize is not None or line.parity is not None or line.stopbits is not None:
        words.append(format_frame(line))
    if line.flow is not None:
        words.append(f"flow={line.flow}")
    if line.flow_in is not None and line.flow_in != line.flow:
        words.append(f"flow-in={line.flow_in}")
    return " ".join(words)


def parse_parity(text: str) -> Parity:
    """A parity by name or letter, any case. Raises BadValue."""
    if text.upper() in _LETTER_PARITY:
        return _LETTER_PARITY[text.upper()]
    if text.lower() in _PARITY_LETTER:
        return cast(Parity, text.lower())
    raise BadValue(f"{text!r} is no parity: none, odd, even, mark, space, or the first letter")


PARITY = Kind("PARITY", parse_parity, "none, odd, even, mark or space, or the first letter", tuple(_PARITY_LETTER))


def _parse_stopbits(text: str) -> float:
    if text not in ("1", "1.5", "2"):
        raise BadValue(f"{text!r} is not 1, 1.5 or 2")
    return _STOPBITS[text]


STOPBITS = Kind("1|1.5|2", _parse_stopbits, "1, 1.5 or 2", ("1", "1.5", "2"))

FLOW = choice(
    "none",
    "rtscts",
    "xonxoff",
    "dsrdtr",
    n="none",
    off="none",
    hard="rtscts",
    h="rtscts",
    rts_cts="rtscts",
    soft="xonxoff",
    x="xonxoff",
    xon_xoff="xonxoff",
)
BAUD = integer(1, 2**32 - 1, "RATE")
BYTESIZE = Kind("5|6|7|8", integer(5, 8).parse, "5, 6, 7 or 8", ("5", "6", "7", "8"))


@dataclass(frozen=True, kw_only=True)
class LineOptions:
    """The settings every port takes, as options; None leaves what the device has. A mixin for specs."""

    baud: int | None = opt(None, BAUD, "bit rate; also as a bare word: 115200, 9600n81", shown_default="as found")
    bytesize: int | None = opt(None, BYTESIZE, "data bits; also as 8N1", shown_default="as found")
    parity: Parity | None = opt(None, PARITY, "parity; also as 8N1", shown_default="as found")
    stopbits: float | None = opt(None, STOPBITS, "stop bits; also as 8N1", shown_default="as found")
    flow: Flow | None = opt(
        None, FLOW, "flow control: also hard h rts-cts, soft x xon-xoff, n off", shown_default="as found"
    )
    flow_in: Flow | None = opt(None, FLOW, "inbound flow control, where it differs", shown_default="as flow")

    @classmethod
    def bare_word(cls, word: str) -> dict[str, Any] | None:
        """The options that a bare word sets (`115200`, `8N1`), or None where it is no serial setting."""
        line = parse_word(word)
        if line is None:
            return None
        names = ("baud", "bytesize", "parity", "stopbits")
        return {name: value for name in names if (value := getattr(line, name)) is not None}

    @property
    def line(self) -> Line:
        """The settings given."""
        return Line(self.baud, self.bytesize, self.parity, self.stopbits, self.flow, self.flow_in)
