"""`hexdump`: shows what passes, and changes nothing.

Theory of operation
-------------------
Every event goes on as the very object that came, and what it looks like (`protocol/hexdump.py`) is written beside the
stream, to stderr or a file. The lane waits for that write, so a dump misses nothing, and a terminal that stalls stalls
its own chain and no other.
"""

from __future__ import annotations

from dataclasses import dataclass

from serpipe.events import Event
from serpipe.options import FLAG, PATH, choice, integer, opt
from serpipe.protocol.hexdump import Dump, Format, TimeFormat
from serpipe.registry import stage
from serpipe.stages.base import LANES, Dir, Direction, Out, Sink, Stage, StageContext, StageSpec, dir_option


class HexdumpStage(Stage):
    """The running stage."""

    name = "hexdump"

    def __init__(self, dump: Dump, sink: Sink, lanes: tuple[Direction, ...]) -> None:
        self._dump = dump
        self._sink = sink
        self._lanes = lanes

    def _show(self, event: Event, out: Out) -> None:
        if out.direction in self._lanes and (rows := self._dump.event(out.direction, event, out.wall)):
            out.write(self._sink, rows.encode("utf-8", "replace"))
        out.emit(event)

    forward = back = _show


@stage(
    "hexdump", summary="show the bytes and the controls that pass, to stderr or a file", example="hexdump:session.log"
)
@dataclass(frozen=True, kw_only=True)
class Hexdump(StageSpec):
    """Shows both directions with time, offset, hex and text, and the controls as words: `-> SET-BAUD 57600`.

    Rows go to stderr, or to the file that is named. Each chunk starts a row; the offset counts the bytes of its
    direction. In json each chunk and each control is an object on a line of its own.
    """

    path: str | None = opt(None, PATH, "the file to write; it is made, or emptied", body=True, shown_default="stderr")
    format: Format = opt("canonical", choice("canonical", "hex", "text", "json"), "what a row looks like")
    dir: Dir = dir_option("which direction to show")
    append: bool = opt(False, FLAG, "write behind what the file holds")
    time: TimeFormat = opt(
        "clock", choice("clock", "delta", "epoch", "off"), "time of day, since the row before, since 1970, or none"
    )
    width: int = opt(16, integer(1, 256), "bytes in a row")

    def make(self, context: StageContext) -> Stage:
        """A fresh dump, its offsets at 0. Raises OpenFailed where the file cannot be written."""
        sink = context.stderr() if self.path is None else context.file(self.path, append=self.append)
        label = f"{context.session} " if context.session else ""
        return HexdumpStage(Dump(self.format, self.time, self.width, label), sink, LANES[self.dir])

    def describe(self) -> str:
        """``hexdump:PATH,format=json``."""
        word = "hexdump" if self.path is None else f"hexdump:{self.path}"
        word += f",format={self.format}" if self.format != "canonical" else ""
        return word + (f",dir={self.dir}" if self.dir != "both" else "")
