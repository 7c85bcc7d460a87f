"""`--trace FILE`: every event, at every position of the chain, as a line of JSON.

Theory of operation: a `Tap` is a stage like any other and stands before, between and after the user's stages. It
passes everything on and writes beside the stream what it saw: time in seconds since the start, lane, position (0 is next
to the left endpoint) and the event. A trace can be replayed as a test vector.
"""

from __future__ import annotations

import json

from serpipe.events import Event
from serpipe.protocol.words import to_json
from serpipe.stages.base import Out, Sink, Stage


class Tap(Stage):
    """Writes what passes one position."""

    name = "trace"

    def __init__(self, position: int, sink: Sink, began: float, session: str = "") -> None:
        self._position = position
        self._sink = sink
        self._began = began
        self._session = {"session": session} if session else {}

    def _note(self, event: Event, out: Out) -> None:
        line = {
            "t": round(out.now - self._began, 6),
            **self._session,
            "lane": out.direction,
            "position": self._position,
            "event": to_json(event),
        }
        out.write(self._sink, json.dumps(line, separators=(",", ":")).encode() + b"\n")
        out.emit(event)

    forward = back = _note
