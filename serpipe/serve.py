"""Listeners: a session per client, and what stays open between them.

Theory of operation
-------------------
The listener stands for as long as the pipeline; accepting always goes on, so that a client is never left in the backlog
to wonder. What is at the other end decides how many clients there can be. A `tcp:` or a `null:` is opened again for each
client, and all are served at the same time. A port, a pty, a file that is written and stdio are *held*: opened once, before
the start line, and given to one client at a time. Who comes meanwhile is told in one line of text and closed
(`busy=reject`), takes over (`busy=kick`) or waits (`busy=wait`).

Between clients what a held port sends is dropped and counted. Before a client gets it, it is asked how it stands, and these
reports are the first events of the client's session; after the client has gone it is put back as the pipeline had opened it:
break off, settings and lines restored.

A client that breaks off ends its own session and nothing else. A held endpoint that is lost ends the pipeline.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import trio

from serpipe.endpoints.base import Context, Endpoint, EndpointSpec, Listener, ListenOptions, Note, Side
from serpipe.errors import EndpointLost, SerpipeError, leaves
from serpipe.events import (
    Eof,
    Event,
    Failed,
    GetModem,
    Line,
    LineReport,
    Opened,
    OutputReport,
    Purge,
    Report,
    Request,
    SetBreak,
    SetLine,
    SetModem,
)
from serpipe.pipeline import Pipeline, opened

ANSWER_TIME = 5.0
"""Seconds that a held port may take for all the answers of a greeting or a restoration."""


class Held(Endpoint):
    """An endpoint that outlives its sessions. Between them its bytes are read, dropped and counted."""

    def __init__(self, inner: Endpoint, note: Note) -> None:
        super().__init__(inner.name)
        self.inner = inner
        self.caps = inner.caps
        self.title, self.where, self.silent = inner.title, inner.where, inner.silent
        self._note = note
        self._line = Line()
        self._output = OutputReport()
        self._touched = False
        self._drained = False
        """The session has ended in order, and everything it sent has left the port."""
        self._greeting: list[Event] = []
        self.idle_bytes = 0
        self.lost: EndpointLost | None = None

    @property
    def is_port(self) -> bool:
        """Whether it takes requests."""
        return self.inner.caps.role == "port"

    async def ask(self, *requests: Request) -> list[Report]:
        """The answers to these requests, by `ref`, as far as they come in time. Raises EndpointLost.

        Bytes that come meanwhile are dropped.
        """
        waiting = {request.ref for request in requests}
        answers: dict[int, Report] = {}
        with trio.move_on_after(ANSWER_TIME):
            for request in requests:
                await self._forward(request)
            while waiting:
                event = await self._next()
                if isinstance(event, Report) and event.answers in waiting:
                    waiting.discard(event.answers)
                    answers[event.answers] = event
                elif type(event) is bytes:
                    self.idle_bytes += len(event)
        return [answers[request.ref] for request in requests if request.ref in answers]

    async def _next(self) -> Event:
        """The inner endpoint's next event. A port that ends is lost: raises EndpointLost; else EndOfChannel."""
        try:
            event = await self.inner.receive()
        except EndpointLost as error:
            self.lost = error
            raise
        except trio.EndOfChannel:
            if not self.is_port:
                raise
            event = Eof()
        if type(event) is Eof and self.is_port:
            self.lost = EndpointLost(self.name, "it ended")
            raise self.lost
        return event

    async def _forward(self, event: Event) -> None:
        try:
            await self.inner.send(event)
        except EndpointLost as error:
            self.lost = error
            raise

    async def _look(self) -> list[Report]:
        """How the port stands, as the first reports of a session."""
        found = await self.ask(SetLine(), SetModem(), GetModem())
        reports: list[Report] = []
        for answer in found:
            report: Report | None = answer.in_force if isinstance(answer, Failed) else answer
            if report is not None:
                reports.append(replace(report, answers=None))
        return [Opened(peer=self.name), *reports]

    async def settle(self) -> None:
        """Right after opening: remember how it stands, for the restoration."""
        if self.is_port:
            for report in await self._look():
                if isinstance(report, LineReport):
                    self._line = report.values
                elif isinstance(report, OutputReport):
                    self._output = report

    async def begin(self) -> None:
        """Before a session: ask the port how it stands."""
        self._done = False
        self._touched = False
        self._drained = False
        self._greeting = list(await self._look()) if self.is_port else []

    async def restore(self) -> None:
        """After a session: put the port back as `settle` found it, if the client asked for anything.

        What a client left unsent that was cut off is dropped: a slow line would keep the port from the next one.
        """
        if not self.is_port or self.lost is not None:
            return
        requests: list[Request] = [] if self._drained else [Purge(tx=True)]
        if not self._touched:
            await self.ask(*requests)
            return
        requests += [SetBreak(on=False), SetLine.of(self._line)]
        if self._output.dtr is not None or self._output.rts is not None:
            requests.append(SetModem(dtr=self._output.dtr, rts=self._output.rts))
        await self.ask(*requests)

    async def idle(self) -> None:
        """Between sessions: read and drop, until cancelled. Raises EndpointLost when it goes."""
        while True:
            try:
                event = await self._next()
            except trio.EndOfChannel:
                await trio.sleep_forever()
            if type(event) is bytes:
                self.idle_bytes += len(event)

    def say_idle(self) -> None:
        """Report what was dropped since the last client."""
        if self.idle_bytes:
            self._note(f"{self.name}: {self.idle_bytes} bytes came while nobody was connected, and were dropped", 1)
            self.idle_bytes = 0

    def receive_nowait(self) -> Event | None:
        return None  # its inner endpoint may have to be awaited: `receive` does

    async def breathe(self) -> None:
        await self.inner.breathe()

    async def receive(self) -> Event:
        if self._greeting:
            await trio.lowlevel.checkpoint_if_cancelled()
            return self._greeting.pop(0)
        return await self._next()

    async def send(self, event: Event) -> None:
        if isinstance(event, (SetLine, SetModem, SetBreak)):
            self._touched = True
        if type(event) is Eof and not self.is_port:
            return  # this client's end is not the held endpoint's
        await self._forward(event)
        self._drained = type(event) is Eof

    def broken(self) -> EndpointLost | None:
        return self.inner.broken()

    def discard(self) -> int:
        return self.inner.discard()

    def _take(self) -> bytes | None:
        raise NotImplementedError

    async def _wait(self) -> None:
        raise NotImplementedError

    async def _send_bytes(self, data: bytes) -> None:
        raise NotImplementedError


async def serve(pipeline: Pipeline) -> None:
    """Serve clients until stopped, or after the first where `once`.

    Raises OpenFailed, and the loss of a held endpoint.
    """
    plan = pipeline.plan
    side: Side
    other_side: Side
    if plan.left_caps.listens:
        side, spec = "left", plan.left.spec
        other_side, other, caps = "right", plan.right.spec, plan.right_caps
    else:
        side, spec = "right", plan.right.spec
        other_side, other, caps = "left", plan.left.spec, plan.left_caps
    async with trio.open_nursery() as nursery:
        async with standing(nursery, spec, pipeline.context(side)) as listener:
            service = _Service(pipeline, side, listener, spec.listening())
            context = pipeline.context(other_side)
            if caps.listens:
                async with standing(nursery, other, context) as service.second:
                    service.announce(service.second.title, service.second.where)
                    await service.run()
            elif caps.held:
                async with opened(nursery, other, context) as inner:
                    service.held = Held(inner, pipeline.note)
                    await service.held.settle()
                    service.announce(service.held.title, service.held.where)
                    await service.run()
            else:
                service.announce(other.describe(), "")
                await service.run()
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def standing(nursery: trio.Nursery, spec: EndpointSpec, context: Context) -> AsyncIterator[Listener]:
    """The listener standing, and closed again on every way out."""
    listener = await spec.listen(nursery, context)
    try:
        yield listener
    finally:
        with trio.CancelScope(shield=True):
            await listener.aclose()


class _Service:
    """The clients of one listener."""

    def __init__(self, pipeline: Pipeline, side: Side, listener: Listener, rules: ListenOptions) -> None:
        self.pipeline = pipeline
        self.side = side
        self.listener = listener
        self.second: Listener | None = None
        """The other end, where that listens too."""
        self.held: Held | None = None
        """The other end, where that is held."""
        stdio = "stdio" in (pipeline.plan.left.name, pipeline.plan.right.name)
        self.once = stdio if rules.once is None else rules.once
        self.busy = rules.busy
        self._count = 0
        self._pairing = trio.Lock()
        self._spare: Endpoint | None = None
        """A client of the second listener whose partner had left before it came."""
        self._turn = trio.Lock()
        """Whoever has it has the held endpoint: a client, or `_idle`."""
        self._idle_scope: trio.CancelScope | None = None
        self._holder: trio.CancelScope | None = None
        self._holder_name = ""

    def announce(self, title: str, where: str) -> None:
        """Both ends stand."""
        mine = self.listener.title, self.listener.where
        self.pipeline.ready(*(*mine, title, where) if self.side == "left" else (title, where, *mine))

    async def run(self) -> None:
        """Accept, and serve."""
        try:
            async with trio.open_nursery() as clients:
                if self.held is not None:
                    clients.start_soon(self._idle, self.held)
                client = await self.listener.accept()
                if self.once:
                    clients.start_soon(self._turn_away)
                    await self._serve(client, "")
                    clients.cancel_scope.cancel()
                    return
                while True:
                    self._count += 1
                    clients.start_soon(self._one, client, f"#{self._count} {client.title}")
                    client = await self.listener.accept()
        finally:
            if self._spare is not None:
                with trio.CancelScope(shield=True):
                    await self._spare.aclose()

    async def _turn_away(self) -> None:
        """Who comes while the only client is served is told so."""
        while True:
            await self.listener.reject(await self.listener.accept(), "this serves one client only, and has it")

    async def _idle(self, held: Held) -> None:
        """Have the held endpoint whenever no client has."""
        while True:
            async with self._turn:
                if held.lost is not None:
                    return  # the session that lost it says so
                if not self._turn.statistics().tasks_waiting:
                    with trio.CancelScope() as self._idle_scope:
                        await held.idle()
                    self._idle_scope = None
            await trio.lowlevel.checkpoint()

    async def _one(self, client: Endpoint, name: str) -> None:
        """One client of many: what goes wrong with it is noted, and ends nothing else."""
        try:
            await self._serve(client, name)
        except* SerpipeError as group:
            if self.held is not None and self.held.lost is not None:
                raise self.held.lost from None
            for error in leaves(group):
                self.pipeline.note(f"{name}: {error}", 1 if isinstance(error, EndpointLost) else 0)

    async def _serve(self, client: Endpoint, name: str) -> None:
        self.pipeline.note(f"{name or client.title}: connected", 1)
        try:
            if self.held is not None:
                await self._with_held(self.held, client, name)
            elif self.second is not None:
                async with self._pairing:
                    other = self._spare or await self.second.accept()
                    self._spare = None
                    if client.gone():  # it left before there was anybody to talk to: the other end is for the next one
                        self._spare = other
                        return
                try:
                    await self._session(client, other, name)
                finally:
                    with trio.CancelScope(shield=True):
                        await other.aclose()
            else:
                plan = self.pipeline.plan
                other_side: Side = "right" if self.side == "left" else "left"
                spec = plan.right.spec if other_side == "right" else plan.left.spec
                async with (
                    trio.open_nursery() as nursery,
                    opened(nursery, spec, self.pipeline.context(other_side)) as other,
                ):
                    await self._session(client, other, name)
                    nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await client.aclose()

    async def _with_held(self, held: Held, client: Endpoint, name: str) -> None:
        if self._holder is not None:
            if self.busy == "reject":
                self.pipeline.note(f"{name}: turned away, {self._holder_name} has {held.name}", 0)
                await self.listener.reject(client, f"{held.name} is in use by {self._holder_name}")
                return
            if self.busy == "kick":
                self.pipeline.note(f"{name}: takes over from {self._holder_name}", 0)
                self._holder.cancel()
        mine = self._holder = trio.CancelScope()
        self._holder_name = client.title
        if self._idle_scope is not None:
            self._idle_scope.cancel()
        try:
            async with self._turn:
                held.say_idle()
                try:
                    with mine:
                        await held.begin()
                        await self._session(client, held, name)
                finally:
                    with trio.CancelScope(shield=True):
                        await client.aclose()
                        await held.restore()
        finally:
            if self._holder is mine:
                self._holder = None

    async def _session(self, client: Endpoint, other: Endpoint, name: str) -> None:
        await self.pipeline.session(*(client, other) if self.side == "left" else (other, client), name=name)
