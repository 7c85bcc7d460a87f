r"""Undoing PARMRK: breaks and bad characters, in their place among the received bytes.

Theory of operation
-------------------
With PARMRK and INPCK set and IGNBRK, BRKINT and IGNPAR clear, a Linux tty marks what the UART found wrong
(termios(3)): ``FF 00 00`` is a break, ``FF 00 c`` the character c with a parity or framing error, and ``FF FF`` one
good byte FF. It is the only source that tells where in the stream a break was. A character 00 with a parity error
looks like a break; POSIX has no other spelling for it.

`Unmarker.feed` turns marked bytes into pieces: plain `bytes`, `BREAK`, and `Bad` characters, of which neighbours come
as one piece. A mark may be cut anywhere by a read; the cut part is carried to the next `feed`. An FF followed by
anything else cannot come out of a tty with PARMRK, and is passed on as it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Literal, TypeAlias


class _Mark(Enum):
    BREAK = "break"

    def __repr__(self) -> str:
        return "BREAK"


BREAK: Literal[_Mark.BREAK] = _Mark.BREAK


@dataclass(frozen=True, slots=True)
class Bad:
    """Characters that arrived with a parity or framing error, as they were read."""

    data: bytes


Piece: TypeAlias = bytes | Bad | Literal[_Mark.BREAK]

_TOKENS = re.compile(rb"((?:[^\xff]++|\xff[^\x00])++)|(\xff\x00\x00)|((?:\xff\x00[^\x00])++)|(\xff\x00?)\Z", re.S)
"""Good characters (1), a break (2), a run of bad characters (3), a mark that the read has cut (4)."""


class Unmarker:
    """The state between two reads: at most the two bytes of a mark that was cut."""

    def __init__(self) -> None:
        self._carry = b""

    def reset(self) -> None:
        """Forget a mark that was cut: what it belongs to has been purged."""
        self._carry = b""

    def feed(self, data: bytes) -> list[Piece]:
        """The pieces of the next bytes, in order; none of them is empty."""
        if b"\xff" not in data and not self._carry:
            return [data] if data else []
        data, self._carry = self._carry + data, b""
        pieces: list[Piece] = []
        for match in _TOKENS.finditer(data):
            if match.lastindex == 1:
                pieces.append(match[1].replace(b"\xff\xff", b"\xff"))
            elif match.lastindex == 2:
                pieces.append(BREAK)
            elif match.lastindex == 3:
                pieces.append(Bad(match[3][2::3]))
            else:
                self._carry = match[4]
        return pieces
