"""serpipe from Python: the same words, as awaitable things.

    await serpipe.run("pty:/tmp/x", "hexdump", "rfc2217://lab3:4000")

    async with serpipe.open_endpoint("rfc2217://lab3:4000,baud=9600") as port:
        report = await port.ask(SetLine(baud=19200))
        await port.send(b"hello")

Theory of operation: `open_endpoint` opens one endpoint as a pipeline would and gives a `Handle`, which is the
endpoint's channel of events and knows which answer belongs to which request. Whoever waits, in `receive()` or in
`ask()`, reads for all: an answer goes to the `ask()` it belongs to, everything else to `receive()`, in order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from serpipe.endpoints.base import Context, Endpoint, Note, log_note
from serpipe.errors import EndpointLost
from serpipe.events import Event, Report, Request
from serpipe.grammar import parse_endpoint
from serpipe.pipeline import opened


class Handle(trio.abc.Channel[Event]):
    """An open endpoint in the hands of a program."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._asked: set[int] = set()
        self._forgotten: set[int] = set()
        """Requests whose `ask()` was cancelled: their answers are for nobody."""
        self._answers: dict[int, Report] = {}
        self._waiting: deque[Event] = deque()
        self._reading = trio.Lock()

    async def _read_until(self, there: Callable[[], bool]) -> None:
        while not there():
            async with self._reading:
                if there():
                    return
                event = await self.endpoint.receive()
                if not isinstance(event, Report) or event.answers is None:
                    self._waiting.append(event)
                elif event.answers in self._forgotten:
                    self._forgotten.discard(event.answers)
                elif event.answers in self._asked:
                    self._answers[event.answers] = event
                else:
                    self._waiting.append(event)

    async def receive(self) -> Event:
        """The next event that answers no `ask()`. Raises EndpointLost; EndOfChannel after Eof."""
        await self._read_until(lambda: bool(self._waiting))
        return self._waiting.popleft()

    async def send(self, event: Event) -> None:
        """Carry out one event: bytes, a Request (its answer comes by `receive()`), Eof. Raises EndpointLost."""
        await self.endpoint.send(event)

    async def ask(self, request: Request) -> Report:
        """Send a request and wait for its answer: the matching Report, or `Failed`. Cancelled, the answer is dropped."""
        self._asked.add(request.ref)
        try:
            await self.endpoint.send(request)
            await self._read_until(lambda: request.ref in self._answers)
            return self._answers.pop(request.ref)
        except trio.EndOfChannel:
            raise EndpointLost(self.endpoint.name, "it ended before it answered") from None
        except trio.Cancelled:
            if self._answers.pop(request.ref, None) is None:
                self._forgotten.add(request.ref)
            raise
        finally:
            self._asked.discard(request.ref)

    async def aclose(self) -> None:
        """Close it: settings, lines and links are put back."""
        await self.endpoint.aclose()


@asynccontextmanager
async def open_endpoint(word: str, *, note: Note = log_note) -> AsyncIterator[Handle]:
    """Open the endpoint that `word` names, as on the command line. Raises UsageError, OpenFailed and the like.

    A listener is not opened but accepts its first client.
    """
    parsed = parse_endpoint(word)
    async with trio.open_nursery() as nursery:
        context = Context(side="left", faces="plain", note=note)
        if parsed.spec.caps_in("left").listens:
            listener = await parsed.spec.listen(nursery, context)
            try:
                client = await listener.accept()
                try:
                    yield Handle(client)
                finally:
                    with trio.CancelScope(shield=True):
                        await client.aclose()
            finally:
                with trio.CancelScope(shield=True):
                    await listener.aclose()
        else:
            async with opened(nursery, parsed.spec, context) as endpoint:
                yield Handle(endpoint)
        nursery.cancel_scope.cancel()
