"""How a dump of a stream looks: what came when, in which direction, as hex and text.

Theory of operation
-------------------
Each chunk starts a row of its own, so the rows also show how the bytes came. The offset counts the bytes of one
direction. In the four formats:

    canonical   12:01:02.000100 -> 00000010  68 65 6c 6c 6f 0d 0a                             |hello..|
    hex         12:01:02.000100 -> 68 65 6c 6c 6f 0d 0a
    text        12:01:02.000100 -> hello\\r\\n
    json        {"time": 1700000000.0001, "lane": "->", "offset": 16, "hex": "68656c6c6f0d0a", "text": "hello\\r\\n"}

and a control, in the first three, is ``12:01:02.000100 -> SET-BAUD 57600``.

A chunk is turned to hex and to text once, as a whole, and cut into rows then; that costs a tenth of formatting each byte.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, Literal, TypeAlias

from serpipe.events import Event
from serpipe.protocol.words import escaped, to_json, words

Format: TypeAlias = Literal["canonical", "hex", "text", "json"]
TimeFormat: TypeAlias = Literal["clock", "delta", "epoch", "off"]

_SHOWN = bytes(byte if 0x20 <= byte < 0x7F else ord(".") for byte in range(256))
"""For bytes.translate: what cannot be shown becomes a dot."""


class Stamp:
    """Times as they are shown. One for both directions, so that `delta` is the time since anything happened."""

    def __init__(self, form: TimeFormat) -> None:
        self._form = form
        self._last: float | None = None

    def seconds(self, wall: float) -> float | None:
        """The number for `wall`, in seconds since the epoch: itself, or for `delta` what has passed; None for `off`."""
        if self._form == "off":
            return None
        if self._form != "delta":
            return wall
        last = wall if self._last is None else self._last
        self._last = max(wall, last)  # the lanes' clocks are read apart: one may be a little behind
        return self._last - last

    def text(self, wall: float) -> str:
        """What stands at the start of a row, with a space behind it."""
        number = self.seconds(wall)
        if number is None:
            return ""
        if self._form == "clock":
            return datetime.fromtimestamp(number).strftime("%H:%M:%S.%f ")
        return f"+{number:.6f} " if self._form == "delta" else f"{number:.6f} "


def canonical_rows(prefix: str, offset: int, data: bytes, width: int) -> list[str]:
    """Offset, hex and text, `width` bytes a row."""
    digits = data.hex(" ")
    text = data.translate(_SHOWN).decode("ascii")
    column = 3 * width - 1
    row = prefix.replace("%", "%%") + f"%08x  %-{column}s  |%s|"  # faster than a format string, by half
    return [
        row % (offset + at, digits[3 * at : 3 * at + column], text[at : at + width])
        for at in range(0, len(data), width)
    ]


def hex_rows(prefix: str, data: bytes, width: int) -> list[str]:
    """Hex alone, `width` bytes a row."""
    digits = data.hex(" ")
    return [prefix + digits[at : at + 3 * width - 1] for at in range(0, len(digits), 3 * width)]


def text_rows(prefix: str, data: bytes) -> list[str]:
    """The bytes as text with everything else escaped, a row for each line and for what is left of one."""
    return [prefix + escaped(line) for line in data.splitlines(keepends=True)]


class Dump:
    """The dump of one stream, both directions."""

    def __init__(
        self, form: Format = "canonical", time: TimeFormat = "clock", width: int = 16, label: str = ""
    ) -> None:
        self._form = form
        self._width = width
        self._stamp = Stamp(time)
        self._label = label
        """Stands before each row: which session it is of, where there are several."""
        self._offsets = {"->": 0, "<-": 0}

    def event(self, lane: str, event: Event, wall: float) -> str:
        """The rows for one event that passed at `wall` (seconds since the epoch), each with its line end."""
        data = event if isinstance(event, bytes) else None
        offset = self._offsets[lane]
        if data is not None:
            self._offsets[lane] += len(data)
        if self._form == "json":
            return self._json(lane, event, offset, wall) + "\n"
        prefix = f"{self._label}{self._stamp.text(wall)}{lane} "
        if data is None:
            rows = [prefix + words(event)]
        elif self._form == "canonical":
            rows = canonical_rows(prefix, offset, data, self._width)
        elif self._form == "hex":
            rows = hex_rows(prefix, data, self._width)
        else:
            rows = text_rows(prefix, data)
        rows.append("")
        return "\n".join(rows)

    def _json(self, lane: str, event: Event, offset: int, wall: float) -> str:
        result: dict[str, Any] = {}
        seconds = self._stamp.seconds(wall)
        if seconds is not None:
            result["time"] = round(seconds, 6)
        if self._label:
            result["session"] = self._label.strip()
        result["lane"] = lane
        if isinstance(event, bytes):
            result |= {"offset": offset, "hex": event.hex(), "text": escaped(event)}
        else:
            result |= {"words": words(event), **to_json(event)}
        return json.dumps(result)
