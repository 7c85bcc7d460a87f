"""`null:`: takes everything, gives nothing.

Theory of operation: bytes sent to it are gone at once. As a source it never says anything and never ends, so that a chain
which only writes to it goes on (`eof` makes it end at once, as /dev/null does). Where a port's bytes are not wanted,
this is where they go.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import trio

from serpipe.endpoints.base import Caps, Context, Endpoint, EndpointSpec, Side
from serpipe.options import FLAG, opt
from serpipe.registry import endpoint


class NullEndpoint(Endpoint):
    """Swallows bytes."""

    def __init__(self, eof: bool) -> None:
        super().__init__("null")
        self._eof = eof

    def _take(self) -> bytes | None:
        return b"" if self._eof else None

    async def _wait(self) -> None:
        await trio.sleep_forever()

    async def _send_bytes(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()


@endpoint("null", summary="takes everything, gives nothing", example="null:")
@dataclass(frozen=True, kw_only=True)
class Null(EndpointSpec):
    """Bytes sent to it are dropped. It gives none, and never ends unless `eof` is set."""

    eof: bool = opt(False, FLAG, "end at once where it is read")

    caps: ClassVar[Caps] = Caps()

    def caps_in(self, side: Side) -> Caps:
        """Without `eof` there is nothing to read from it at the right end, and the chain ends with its other lane."""
        return Caps(reads=self.eof or side == "left")

    def describe(self) -> str:
        """``null``."""
        return "null"

    async def open(self, nursery: trio.Nursery, context: Context) -> NullEndpoint:
        """Never fails."""
        return NullEndpoint(self.eof)
