"""`checksum`: counts the bytes that pass and computes checksums over them.

Theory of operation
-------------------
Each direction has a count and its own checksums, which are told at the end. In one direction, right unless `dir=left`,
a value can also be expected (`verify`), put behind the bytes (`append`), or checked and taken away there (`strip`).

A trailer is the last bytes before Eof, and which those are is known only when Eof comes. So `strip` holds as many bytes
back as the trailer has. A control that comes between shows that they were not the trailer, and they go on before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from serpipe.errors import BadValue, CheckFailed, SerpipeError
from serpipe.events import Eof, Event
from serpipe.options import FLAG, choice, opt
from serpipe.protocol.checksums import ALGORITHMS, HEX, make
from serpipe.registry import stage
from serpipe.stages.base import LANES, Dir, Direction, Out, Stage, StageContext, StageSpec, dir_option

Form = Literal["raw", "hex", "line"]


def _trailer(value: bytes, form: Form) -> bytes:
    """A checksum's value as it stands behind the bytes."""
    if form == "raw":
        return value
    return value.hex().encode() + (b"\n" if form == "line" else b"")


class _Lane:
    """What is computed over one direction."""

    def __init__(self, algorithms: tuple[str, ...]) -> None:
        self.count = 0
        self.sums = [make(name) for name in algorithms]

    def take(self, data: bytes) -> None:
        self.count += len(data)
        for checksum in self.sums:
            checksum.update(data)

    def line(self, direction: Direction) -> str:
        if not self.count:
            return f"checksum {direction} 0 bytes"
        values = "".join(f" {checksum.name} {checksum.value().hex()}" for checksum in self.sums)
        return f"checksum {direction} {self.count} bytes{values}"


class ChecksumStage(Stage):
    """The running stage."""

    name = "checksum"

    def __init__(self, spec: Checksum) -> None:
        lanes = LANES[spec.dir]
        self._lanes = {direction: _Lane(spec.algorithms) for direction in lanes}
        self._marked: Direction = lanes[0]
        """The direction that verify, append and strip are about."""
        self._verify = spec.verify
        self._append = spec.append
        self._form = spec.trailer
        self._tail = b""
        """The last bytes of the marked direction, which may be its trailer."""
        size = len(_trailer(bytes(self._lanes[self._marked].sums[0].size), spec.trailer))
        self._tail_size = size if spec.strip else 0
        self._trailer_verdict: str | None = None if spec.strip else ""
        """What is wrong with the trailer: "" nothing, None no Eof has come yet."""

    def forward(self, event: Event, out: Out) -> None:
        """Left to right."""
        self._pass(event, out)

    def back(self, event: Event, out: Out) -> None:
        """Right to left."""
        self._pass(event, out)

    def _pass(self, event: Event, out: Out) -> None:
        lane = self._lanes.get(out.direction)
        if lane is None:
            out.emit(event)
        elif out.direction == self._marked and (self._append or self._tail_size):
            self._pass_marked(event, lane, out)
        else:
            if type(event) is bytes:
                lane.take(event)
            out.emit(event)

    def _pass_marked(self, event: Event, lane: _Lane, out: Out) -> None:
        if type(event) is bytes:
            data = self._tail + event
            keep = min(self._tail_size, len(data))
            self._tail = data[len(data) - keep :]
            self._go(data[: len(data) - keep], lane, out)
            return
        if type(event) is Eof:
            if self._tail_size:
                self._check_trailer(lane, out)
            if self._append:
                out.emit(_trailer(lane.sums[0].value(), self._form))
        else:
            self._flush(lane, out)
        out.emit(event)

    def _go(self, data: bytes, lane: _Lane, out: Out) -> None:
        if data:
            lane.take(data)
            out.emit(data)

    def _flush(self, lane: _Lane, out: Out) -> None:
        data, self._tail = self._tail, b""
        self._go(data, lane, out)

    def _check_trailer(self, lane: _Lane, out: Out) -> None:
        if len(self._tail) < self._tail_size:
            self._trailer_verdict = f": the stream ended without a trailer of {self._tail_size} bytes"
            self._flush(lane, out)
            return
        expected = _trailer(lane.sums[0].value(), self._form)
        got, self._tail = self._tail, b""
        same = got == expected if self._form == "raw" else got.lower() == expected
        self._trailer_verdict = ""
        if not same:
            shown = got.hex() if self._form == "raw" else got.decode("ascii", "backslashreplace").rstrip("\n")
            self._trailer_verdict = f" is {lane.sums[0].value().hex()}, and the trailer says {shown}"

    def discard(self, direction: Direction) -> int:
        """Drop what might have been the trailer."""
        if direction != self._marked:
            return 0
        dropped, self._tail = len(self._tail), b""
        return dropped

    def held(self, direction: Direction) -> int:
        """What may be the trailer."""
        return len(self._tail) if direction == self._marked else 0

    def finish(self) -> SerpipeError | None:
        """CheckFailed where the value is not the one expected, or not the trailer's."""
        lane = self._lanes[self._marked]
        where = f"checksum {self._marked} {lane.sums[0].name}"
        if self._trailer_verdict is None:
            return CheckFailed(f"{where}: the stream was cut before its end, where the trailer is")
        if self._trailer_verdict:
            return CheckFailed(where + self._trailer_verdict)
        if self._verify is not None and self._verify != (value := lane.sums[0].value()):
            return CheckFailed(f"{where} is {value.hex()}, expected {self._verify.hex()} (over {lane.count} bytes)")
        return None

    def closing_lines(self) -> list[str]:
        """A line for each direction: ``checksum -> 1048576 bytes sha256 …``."""
        good = " ok" if (self._verify is not None or self._tail_size) and self.finish() is None else ""
        return [
            lane.line(direction) + (good if direction == self._marked else "")
            for direction, lane in self._lanes.items()
        ]


@stage("checksum", summary="count the bytes that pass and compute checksums over them", example="checksum:sha256")
@dataclass(frozen=True, kw_only=True)
class Checksum(StageSpec):
    """Counts the bytes of each direction and computes checksums over them, printed at the end.

    Any digest of Python's hashlib (sha256, md5, blake2b, …), any CRC of the catalogue by its name there
    (crc-16/modbus, crc-32/iscsi, …), crc32 and adler32; several are joined with a `+`. With `verify`, `append` or
    `strip`, which are about the direction of `dir` (right where that is both), there is one only. A value that
    does not match ends serpipe with 1.
    """

    algorithms: tuple[str, ...] = opt(("sha256",), ALGORITHMS, "what to compute", body=True, shown_default="sha256")
    dir: Dir = dir_option("over which direction")
    verify: bytes | None = opt(None, HEX, "the value it must have at the end", shown_default="none")
    append: bool = opt(False, FLAG, "put the value behind the last byte")
    strip: bool = opt(False, FLAG, "check the value behind the last byte, and take it away")
    trailer: Form = opt("raw", choice("raw", "hex", "line"), "how that value is written: big-endian bytes, hex, a line")

    def __post_init__(self) -> None:
        for key in ("verify", "append", "strip"):
            if getattr(self, key) not in (None, False) and len(self.algorithms) > 1:
                raise BadValue(f"{key} needs one checksum, and here are {len(self.algorithms)}", key)
        if self.append and self.strip:
            raise BadValue("append and strip in one stage would undo each other", "strip")
        size = make(self.algorithms[0]).size
        if self.verify is not None and len(self.verify) != size:
            digits = f"{2 * size} hex digits, not {2 * len(self.verify)}"
            raise BadValue(f"a value of {self.algorithms[0]} has {digits}", "verify")

    def make(self, context: StageContext) -> Stage:
        """Fresh checksums."""
        return ChecksumStage(self)

    def describe(self) -> str:
        """``checksum:sha256,dir=right,append``."""
        word = f"checksum:{'+'.join(self.algorithms)}" + (f",dir={self.dir}" if self.dir != "both" else "")
        word += f",verify={self.verify.hex()}" if self.verify is not None else ""
        word += ",append" * self.append + ",strip" * self.strip
        return word + (f",trailer={self.trailer}" if self.trailer != "raw" else "")
