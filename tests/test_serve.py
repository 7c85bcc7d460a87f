"""Listeners over endpoints in memory: who is served when, what a held port is put back to, what comes between clients."""

from dataclasses import replace

import pytest
import trio
from memory import CONTROLLER, PORT, TWO_WAY, MemoryEndpoint, answer_to
from trio.testing import wait_all_tasks_blocked

from serpipe.endpoints.base import Caps, EndpointSpec, Listener, ListenOptions
from serpipe.errors import EndpointLost
from serpipe.events import (
    Eof,
    GetModem,
    Line,
    LineReport,
    ModemReport,
    Opened,
    OutputReport,
    Purge,
    SetBreak,
    SetLine,
    SetModem,
)
from serpipe.grammar import Chain, Parsed
from serpipe.pipeline import Pipeline, plan

AT_OPEN = Line(9600, 8, "none", 1, "none")


class Port(MemoryEndpoint):
    """A port that remembers its settings, as a real one does."""

    def __init__(self, **more):
        super().__init__("port", PORT, **more)
        self.line = AT_OPEN
        self.lines = {"dtr": True, "rts": True, "break_": False}
        self.closed = False

    async def _request(self, request):
        self._keep(request)
        match request:
            case SetLine():
                self.line = request.line.over(self.line)
                report = LineReport(values=self.line, requested=request.line)
            case SetModem():
                new = {"dtr": request.dtr, "rts": request.rts}
                self.lines |= {name: on for name, on in new.items() if on is not None}
                report = OutputReport(**self.lines)
            case SetBreak():
                if request.on is not None:
                    self.lines["break_"] = request.on
                report = OutputReport(**self.lines)
            case _:
                report = answer_to(request)
        self.post(replace(report, answers=request.ref))

    async def aclose(self):
        self.closed = True
        await super().aclose()


class Ends(EndpointSpec):
    """A spec that opens what the test made."""

    def __init__(self, made, caps, listener=None, options=None):
        self.made, self.caps, self.listener, self.options = made, caps, listener, options or ListenOptions()

    def describe(self):
        return "made by the test"

    def listening(self):
        return self.options

    async def open(self, nursery, context):
        return self.made() if callable(self.made) else self.made

    async def listen(self, nursery, context):
        return self.listener


class Clients(Listener):
    """A listener whose clients the test sends in."""

    title, where = "listening in memory", "memory"

    def __init__(self):
        self._to, self._from = trio.open_memory_channel(10)
        self.closed = False

    async def come(self, caps=CONTROLLER):
        client = MemoryEndpoint("client", caps)
        client.closed = trio.Event()
        closing = client.aclose

        async def aclose():
            await closing()
            client.closed.set()

        client.aclose = aclose
        await self._to.send(client)
        return client

    async def accept(self):
        return await self._from.receive()

    async def aclose(self):
        self.closed = True
        self._to.close()
        self._from.close()


class House:
    """A pipeline of clients on the left and what the test made on the right."""

    def __init__(self, nursery, other, other_caps, client_caps=CONTROLLER, **options):
        self.clients = Clients()
        self.notes = []
        left = Ends(None, replace(client_caps, listens=True), self.clients, ListenOptions(**options))
        chain = Chain(Parsed("l", "left", left), (), Parsed("r", "right", Ends(other, other_caps)))
        self.pipeline = Pipeline(plan(chain), lambda text, level: self.notes.append(text))
        nursery.start_soon(self.pipeline.run)

    def said(self, words):
        return any(words in note for note in self.notes)


HELD = replace(PORT, held=True)


async def greeting(client):
    """The first four reports of a session, and forget them."""
    await client.until(lambda c: any(isinstance(e, ModemReport) for e in c.got))
    first, client.got = client.got, []
    return first


async def test_a_session_begins_with_how_the_port_stands(nursery):
    house = House(nursery, Port(), HELD)
    client = await house.clients.come()
    first = await greeting(client)
    assert [type(e) for e in first] == [Opened, LineReport, OutputReport, ModemReport]
    assert first[1].values == AT_OPEN
    assert all(e.answers is None for e in first)


@pytest.mark.parametrize("how", ["eof", "reset", "in a break"])
async def test_a_port_is_put_back_however_its_client_leaves(nursery, how):
    port = Port()
    house = House(nursery, port, HELD)
    client = await house.clients.come()
    await greeting(client)
    client.feed(SetLine(baud=57600, parity="even"), SetModem(dtr=False), SetBreak(on=True))
    await client.until(lambda c: len(c.got) == 3)
    assert (port.line.baud, port.lines["dtr"], port.lines["break_"]) == (57600, False, True)
    if how == "reset":
        client.fail(EndpointLost("client", "reset"))
    else:
        client.feed(Eof())
    await client.closed.wait()
    second = await house.clients.come()
    first = await greeting(second)
    assert first[1].values == AT_OPEN
    assert (first[2].dtr, first[2].rts, first[2].break_) == (True, True, False)


async def test_a_client_that_asked_for_nothing_changes_nothing(nursery):
    port = Port()
    house = House(nursery, port, HELD)
    client = await house.clients.come()
    await greeting(client)
    client.feed(b"only data", Eof())
    await client.closed.wait()
    await wait_all_tasks_blocked()
    asked = [e for e in port.got if isinstance(e, (SetLine, SetModem, SetBreak, GetModem))]
    assert [e for e in asked if e not in (SetLine(), SetModem(), GetModem())] == []


async def test_bytes_between_clients_are_dropped_and_counted(nursery):
    port = Port()
    house = House(nursery, port, HELD)
    await wait_all_tasks_blocked()
    port.feed(b"boot text nobody reads")
    await wait_all_tasks_blocked()
    client = await house.clients.come()
    await greeting(client)
    port.feed(b"for the client")
    await client.until(lambda c: c.data)
    assert client.data == b"for the client"
    assert house.said("22 bytes came while nobody was connected")


async def test_a_second_client_is_told_who_has_the_port(nursery):
    house = House(nursery, Port(), HELD)
    first = await house.clients.come()
    await greeting(first)
    second = await house.clients.come()
    await second.closed.wait()
    assert b"port is in use by client" in second.data
    first.feed(Eof())
    await first.closed.wait()
    third = await house.clients.come()
    await greeting(third)


async def test_two_clients_that_come_at_once_are_not_both_let_in(nursery):
    house = House(nursery, Port(), HELD)
    await wait_all_tasks_blocked()
    one, two = await house.clients.come(), await house.clients.come()
    await wait_all_tasks_blocked()
    told = [c for c in (one, two) if b"in use" in c.data]
    assert len(told) == 1


async def test_kick_takes_over_and_the_port_is_put_back_in_between(nursery):
    port = Port()
    house = House(nursery, port, HELD, busy="kick")
    first = await house.clients.come()
    await greeting(first)
    first.feed(SetLine(baud=300))
    await first.until(lambda c: c.got)
    second = await house.clients.come()
    await first.closed.wait()
    assert (await greeting(second))[1].values == AT_OPEN


async def test_wait_serves_them_in_turn(nursery):
    house = House(nursery, Port(), HELD, busy="wait")
    clients = [await house.clients.come() for _ in range(3)]
    for client in clients:
        await greeting(client)
        client.feed(Eof())
        await client.closed.wait()


async def test_what_can_be_opened_often_is_opened_for_each(nursery):
    made = []

    def make():
        made.append(MemoryEndpoint("other", TWO_WAY))
        return made[-1]

    house = House(nursery, make, TWO_WAY, TWO_WAY)
    clients = [await house.clients.come(TWO_WAY) for _ in range(3)]
    for i, client in enumerate(clients):
        client.feed(b"%d" % i)
    await wait_all_tasks_blocked()
    assert sorted(other.data for other in made) == [b"0", b"1", b"2"]


async def test_a_held_port_that_is_lost_ends_it_all_with_a_reason():
    port = Port()
    with pytest.RaisesGroup(pytest.RaisesExc(EndpointLost, match="unplugged"), flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            house = House(nursery, port, HELD)
            client = await house.clients.come()
            await greeting(client)
            port.fail(EndpointLost("port", "unplugged"))
    assert port.closed
    assert house.clients.closed
    assert client.closed.is_set()


async def test_a_held_port_that_is_lost_while_nobody_has_it():
    port = Port()
    with pytest.RaisesGroup(pytest.RaisesExc(EndpointLost, match="unplugged"), flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            house = House(nursery, port, HELD)
            await wait_all_tasks_blocked()
            port.fail(EndpointLost("port", "unplugged"))
    assert house.clients.closed


async def test_stop_ends_the_sessions_and_the_listener():
    port = Port()
    async with trio.open_nursery() as nursery:
        house = House(nursery, port, HELD)
        client = await house.clients.come()
        await greeting(client)
        client.feed(SetLine(baud=300))
        await client.until(lambda c: c.got)
        house.pipeline.stop()
    assert port.line == AT_OPEN
    assert port.closed
    assert house.clients.closed


async def test_once_ends_after_the_first_client():
    async with trio.open_nursery() as nursery:
        house = House(nursery, Port(), HELD, once=True)
        client = await house.clients.come()
        await greeting(client)
        client.feed(Eof())
    assert house.clients.closed


def test_a_listener_of_its_own_has_the_default_rules():
    assert Ends(None, Caps()).listening().busy == "reject"


async def test_a_held_port_that_ends_between_clients_is_lost():
    port = Port()
    with pytest.RaisesGroup(pytest.RaisesExc(EndpointLost, match="it ended"), flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            house = House(nursery, port, HELD)
            await wait_all_tasks_blocked()
            port.feed(Eof())
    assert house.clients.closed


async def test_what_a_client_that_was_cut_off_left_unsent_is_purged(nursery):
    port = Port()
    house = House(nursery, port, HELD)
    client = await house.clients.come()
    await greeting(client)
    client.feed(b"half a command")
    await port.until(lambda p: p.data)
    client.fail(EndpointLost("client", "reset"))
    await client.closed.wait()
    await port.until(lambda p: any(isinstance(e, Purge) and e.tx for e in p.got))


async def test_two_listeners_pair_those_who_are_there(nursery):
    """A client that left before anybody came from the other side takes nobody with it."""
    right = Clients()
    left_caps, right_caps = replace(TWO_WAY, listens=True), replace(TWO_WAY, listens=True)
    left = Clients()
    chain = Chain(
        Parsed("l", "left", Ends(None, left_caps, left)), (), Parsed("r", "right", Ends(None, right_caps, right))
    )
    nursery.start_soon(Pipeline(plan(chain), lambda text, level: None).run)
    health_check = await left.come(TWO_WAY)
    health_check.gone = lambda: True
    await wait_all_tasks_blocked()
    one, other = await left.come(TWO_WAY), await right.come(TWO_WAY)
    one.feed(b"hello")
    await other.until(lambda c: c.data == b"hello")


async def test_who_comes_while_the_only_client_is_served_is_told(nursery):
    house = House(nursery, Port(), HELD, once=True)
    first = await house.clients.come()
    await greeting(first)
    second = await house.clients.come()
    await second.closed.wait()
    assert b"one client only" in second.data
