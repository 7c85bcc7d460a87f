"""The RFC 2217 endpoints: opening, order, framing, endings, and real peers on the other side."""

import contextlib
import os
import random
import socket
import subprocess
import time
from dataclasses import replace
from functools import partial

import pytest
import serial
import serial.rfc2217
import trio
from conftest import find_peer
from fake_port import AS_FOUND, MODEM, FakePort
from fakes import joined
from fakes_cancel import cancel_at_every_step
from memory import MemoryEndpoint
from peers import PortManagerServer
from trio.testing import wait_all_tasks_blocked

from serpipe import _termios2
from serpipe.endpoints.base import Caps, Context, EndpointSpec, Listener
from serpipe.endpoints.rfc2217 import PIECE, Rfc2217, Rfc2217Client, Rfc2217Endpoint, Rfc2217Listen
from serpipe.endpoints.tcp import Tcp, TcpListen
from serpipe.errors import EndpointLost, OpenFailed, PeerRefused, TimedOut
from serpipe.events import (
    BreakReport,
    Drain,
    Eof,
    Failed,
    GetModem,
    GetSignature,
    Hangup,
    Line,
    LineReport,
    ModemReport,
    Opened,
    OutputReport,
    Purge,
    PurgeDone,
    Report,
    SetBreak,
    SetLine,
    SetModem,
    Signature,
)
from serpipe.protocol.telnet import escape

EVERY_BYTE = bytes(range(256)) + b"".join(bytes((255, b)) for b in range(256)) + b"\r\n\r\0\n\r"


def h(text):
    """Hex; ``[x]`` is the body of a COM-PORT subnegotiation."""
    return bytes.fromhex(text.replace("[", " FF FA 2C ").replace("]", " FF F0 "))


@pytest.fixture
def notes():
    return []


@pytest.fixture
def context(notes):
    return Context(note=lambda text, level: notes.append((level, text)))


def loud(notes):
    return [text for level, text in notes if level == 0]


# --- a carrier in memory, and a server that does as the test says ----------------------------------------------------


class Memory(EndpointSpec):
    """A carrier spec that opens `endpoint`."""

    caps = Caps(half_close=True)

    def __init__(self, endpoint):
        self.endpoint = endpoint
        self.opened = 0

    def describe(self):
        return "tcp memory"

    async def open(self, nursery, context):
        self.opened += 1
        return self.endpoint

    async def listen(self, nursery, context):
        return MemoryListener(self.endpoint)


class MemoryListener(Listener):
    title = "listening in memory"

    def __init__(self, endpoint):
        self.endpoint = endpoint

    async def accept(self):
        return self.endpoint

    async def aclose(self):
        pass


ANSWERS = h("[65 00 00 25 80] [66 08] [67 01] [68 01] [69 01] [69 08] [69 0B]")


AGREED = h("FF FD 2C [6B 30]")
MARK = h("FF FC 06")


async def open_client(nursery, context, wire, answers=AGREED, probed=ANSWERS + MARK, **options):
    """A client over `wire`, whose server says `answers` to the greeting and `probed` to the probe."""
    made = []

    async def opening():
        made.append(await Rfc2217(carrier=Memory(wire), **options).open(nursery, context))

    async with trio.open_nursery() as own:
        own.start_soon(opening)
        await wire.until(lambda w: w.data)
        wire.feed(answers)
        await wire.until(lambda w: h("FF FD 06") in w.data)
        wire.feed(probed)
    wire.got.clear()
    return made[0]


async def greeting(port):
    return [await port.receive() for _ in range(4)]


async def receive(port, count):
    events = []
    while len(joined(events)) < count:
        events.append(await port.receive())
    return joined(events)


# opening


async def test_the_first_events_of_a_port(nursery, context):
    wire = MemoryEndpoint()
    port = await open_client(
        nursery, context, wire, h("FF FD 2C [6B 30]") + b"early", ANSWERS + h("FF FC 06") + b"data"
    )
    assert await greeting(port) == [
        Opened(peer="rfc2217 memory"),
        LineReport(values=AS_FOUND),
        OutputReport(dtr=True, rts=True, break_=False),
        MODEM,
    ]
    assert [await port.receive(), await port.receive()] == [b"early", b"data"]
    assert port.title == "rfc2217 memory 9600 8N1 flow=none (as found)"
    await port.aclose()


async def test_a_look_touches_nothing(nursery, context):
    wire = MemoryEndpoint()
    made = []

    async def opening():
        made.append(await Rfc2217(carrier=Memory(wire)).open(nursery, context))

    async with trio.open_nursery() as own:
        own.start_soon(opening)
        await wire.until(lambda w: w.data)
        assert wire.data == h("FF FB 2C FF FB 00 FF FD 00 FF FB 03 FF FD 03")
        wire.got.clear()
        wire.feed(h("FF FD 2C [6B 30]"))
        await wire.until(lambda w: h("FF FD 06") in w.data)
        assert wire.data == h("[0A 1E] [01 00 00 00 00] [02 00] [03 00] [04 00] [05 00] [05 07] [05 0A] FF FD 06")
        wire.feed(ANSWERS + h("FF FC 06"))
    await made[0].aclose()


async def test_settings_and_lines_that_were_asked_for(nursery, context, notes):
    wire = MemoryEndpoint()
    sent = []

    async def opening():
        spec = Rfc2217(carrier=Memory(wire), baud=115200, parity="even", dtr="on", rts="off")
        sent.append(await spec.open(nursery, context))

    async with trio.open_nursery() as own:
        own.start_soon(opening)
        await wire.until(lambda w: w.data)
        wire.got.clear()
        wire.feed(h("FF FD 2C [6B 30]"))
        await wire.until(lambda w: h("FF FD 06") in w.data)
        assert wire.data.startswith(h("[0A 1E] [01 00 01 C2 00] [03 03] [05 08] [05 0C] [01 00 00 00 00]"))
        answers = "[65 00 00 25 80] [67 03] [69 08] [69 0C]"
        wire.feed(h(answers + "[65 00 00 25 80] [66 08] [67 03] [68 01] [69 01] [69 08] [69 0C] FF FC 06"))
    assert loud(notes) == ["rfc2217 memory: asked for 115200 parity=even, in force is 9600 8E1 flow=none"] or loud(
        notes
    )
    assert sent[0].title == "rfc2217 memory 9600 8E1 flow=none"
    _, line, outputs, _ = await greeting(sent[0])
    assert line.values.parity == "even"
    assert outputs == OutputReport(dtr=True, rts=False, break_=False)
    await sent[0].aclose()


async def test_a_server_that_agrees_and_answers_nothing(nursery, context, notes, autojump_clock):
    wire = MemoryEndpoint()
    began = trio.current_time()
    port = await open_client(nursery, context, wire, h("FF FD 2C"), b"", baud=115200)
    assert trio.current_time() - began < 1.0
    assert any("answers nothing" in text for text in loud(notes))
    assert any("SET-BAUD 115200" in text for text in loud(notes))
    _, line, outputs, modem = await greeting(port)
    assert line == LineReport(virtual=True)
    assert outputs == OutputReport(break_=False, virtual=True)
    assert modem == ModemReport(cts=True, dsr=True, dcd=True, virtual=True)
    await port.send(b"abc")
    assert wire.data == b"abc"
    await port.aclose()


def failing(answer, *, end=False):
    """Open against a server that says `answer` and falls silent, or closes."""

    async def run(nursery, context, **options):
        wire = MemoryEndpoint()
        wire.feed(*([answer] if answer else []), *([Eof()] if end else []))
        return await Rfc2217(carrier=Memory(wire), **options).open(nursery, context)

    return run


@pytest.mark.parametrize(
    ("answer", "end", "error", "exit_code", "text", "cure"),
    [
        (b"", False, TimedOut, 5, "said nothing within 4 s", "tcp:"),
        (h("FF FE 2C FF FC 2C"), False, PeerRefused, 4, "refuses RFC 2217", "fallback=telnet"),
        (b"", True, OpenFailed, 3, "closed the connection at once", "log"),
        (
            h("FF FD 2C") + b"Port already in use\r\n",
            True,
            OpenFailed,
            3,
            "saying: Port already in use",
            "other client",
        ),
        (b"login: ", False, PeerRefused, 4, "not Telnet", "tcp:"),
        (h("FF FB 01 FF FB 03"), False, TimedOut, 5, "speaks Telnet and did not answer", "negotiate-timeout"),
        (h("FF FB 2C FF FB 00 FF FD 00 FF FB 03 FF FD 03"), False, PeerRefused, 4, "comes back", "port number"),
        (b"x" * 100_000, False, PeerRefused, 4, "not Telnet", "tcp:"),
    ],
    ids=["mute", "refuses", "closes", "busy", "not telnet", "no answer about it", "echo", "floods"],
)
async def test_why_it_cannot_be_opened(nursery, context, autojump_clock, answer, end, error, exit_code, text, cure):
    with pytest.raises(error) as caught:
        await failing(answer, end=end)(nursery, context)
    assert caught.value.exit_code == exit_code
    assert text in caught.value.text
    assert cure in caught.value.cure
    assert "\n" not in str(caught.value)
    await wait_all_tasks_blocked()
    assert not nursery.child_tasks, "the failed opening left a task behind"


async def test_a_reset_while_opening(nursery, context):
    wire = MemoryEndpoint()
    wire.fail(EndpointLost("tcp memory", "the connection was reset by the peer"))
    with pytest.raises(OpenFailed):
        await Rfc2217(carrier=Memory(wire)).open(nursery, context)


async def test_reversed_roles(nursery, context):
    """A box that refuses our WILL and takes our DO."""
    wire = MemoryEndpoint()
    async with trio.open_nursery() as own:
        made = []

        async def opening():
            made.append(await Rfc2217(carrier=Memory(wire)).open(nursery, context))

        own.start_soon(opening)
        await wire.until(lambda w: w.data)
        wire.feed(h("FF FE 2C"))
        await wire.until(lambda w: h("FF FD 2C") in w.data)
        wire.feed(h("FF FB 2C"))
        await wire.until(lambda w: h("FF FD 06") in w.data)
        wire.feed(ANSWERS + h("FF FC 06"))
    await made[0].aclose()


async def test_fallback_to_telnet(nursery, context, notes, autojump_clock):
    port = await failing(h("FF FE 2C FF FC 2C FF FD 03") + b"hi\r\0")(nursery, context, fallback="telnet")
    assert any("going on as plain Telnet" in text for text in loud(notes))
    assert [type(e) for e in await greeting(port)] == [Opened, LineReport, OutputReport, ModemReport]
    assert await port.receive() == b"hi\r\0", "it came before that was decided"
    request = SetLine(baud=300)
    await port.send(request)
    answer = await port.receive()
    assert (answer.answers, answer.why) == (request.ref, "unsupported")
    port.carrier.got.clear()
    await port.send(b"a\rb\xff")
    await port.send(SetBreak(on=True))
    assert port.carrier.data == b"a\r\0b\xff\xff" + h("FF F3")
    await port.aclose()


async def test_fallback_to_raw_takes_a_fresh_connection(nursery, context, notes, autojump_clock):
    wires = [MemoryEndpoint(), MemoryEndpoint()]
    wires[0].feed(b"$GPGGA\r\n")

    class Two(Memory):
        async def open(self, nursery, context):
            self.opened += 1
            return wires[self.opened - 1]

    port = await Rfc2217(carrier=Two(None), fallback="raw").open(nursery, context)
    assert any("going on as raw bytes" in text for text in loud(notes))
    await greeting(port)
    await port.send(b"\xff\r")
    assert wires[1].data == b"\xff\r"
    wires[1].feed(b"\xff\xfa\xff\xff")
    assert await port.receive() == b"\xff\xfa\xff\xff"
    request = SetModem(dtr=True)
    await port.send(request)
    assert (await port.receive()).answers == request.ref
    await port.aclose()


def test_cancelled_at_every_step(context):
    async def scenario():
        wire = MemoryEndpoint()
        async with trio.open_nursery() as nursery:
            try:
                port = await open_client(nursery, context, wire)
                try:
                    await greeting(port)
                    await port.send(SetLine(baud=300))
                    wire.feed(h("[65 00 00 01 2C]"))
                    await port.receive()
                    await port.send(b"abc")
                finally:
                    with trio.CancelScope(shield=True):
                        await port.aclose()
            finally:
                nursery.cancel_scope.cancel()

    assert cancel_at_every_step(scenario)


# order


async def test_strict_data_waits_for_the_answer(nursery, context, autojump_clock):
    wire = MemoryEndpoint()
    port = await open_client(nursery, context, wire)
    await port.send(SetLine(baud=115200))
    await port.send(SetModem(dtr=True))
    assert wire.data == h("[01 00 01 C2 00] [05 08]"), "requests are not held back"
    async with trio.open_nursery() as own:
        own.start_soon(port.send, b"new")
        await wait_all_tasks_blocked()
        assert not wire.data.endswith(b"new")
        own.start_soon(receive, port, 6)
        wire.feed(h("[65 00 01 C2 00] [69 08]"))
    assert wire.data.endswith(b"new")
    await port.aclose()


async def test_strict_data_waits_no_longer_than_the_timeout(nursery, context, autojump_clock):
    wire = MemoryEndpoint()
    port = await open_client(nursery, context, wire)
    await port.send(SetLine(baud=115200))
    began = trio.current_time()
    await port.send(b"new")
    assert trio.current_time() - began == pytest.approx(3.0, abs=0.1)
    assert wire.data.endswith(b"new")
    await port.aclose()


async def test_strict_waits_out_the_line_time_of_what_was_sent(nursery, context, autojump_clock):
    wire = MemoryEndpoint()
    port = await open_client(nursery, context, wire)
    await port.send(b"x" * 960)
    began = trio.current_time()
    await port.send(SetModem(rts=True))
    await port.send(SetLine(baud=9600))
    assert trio.current_time() == began, "neither changes what the bytes mean"
    await port.send(SetLine(baud=300))
    assert trio.current_time() - began == pytest.approx(1.0, abs=0.01)
    assert wire.data.endswith(h("[01 00 00 01 2C]"))
    await port.aclose()


async def test_strict_asks_for_a_mark_where_much_was_sent(nursery, context, autojump_clock):
    wire = MemoryEndpoint()
    port = await open_client(nursery, context, wire)
    await greeting(port)
    await port.send(b"x" * 96_000)  # a hundred seconds of line time
    async with trio.open_nursery() as own:
        began = trio.current_time()
        own.start_soon(port.send, SetLine(baud=300))
        await wire.until(lambda w: h("FF FD 06") in w.data)
        reading = trio.CancelScope()

        async def read():
            with reading:
                await port.receive()

        own.start_soon(read)
        wire.feed(h("FF FC 06"))
        await wire.until(lambda w: h("[01 00 00 01 2C]") in w.data)
        assert trio.current_time() - began == pytest.approx(8192 / 960, abs=0.1), "no more can be left in the server"
        reading.cancel()
    await port.aclose()


async def test_loose_waits_for_nothing(nursery, context, autojump_clock):
    wire = MemoryEndpoint()
    port = await open_client(nursery, context, wire, order="loose")
    began = trio.current_time()
    for event in (b"x" * 960, SetLine(baud=300), b"y"):
        await port.send(event)
    assert trio.current_time() == began
    assert wire.data == b"x" * 960 + h("[01 00 00 01 2C]") + b"y"
    await port.aclose()


async def test_a_purge_cuts_the_waiting_short(nursery, context, autojump_clock):
    wire = MemoryEndpoint()
    port = await open_client(nursery, context, wire)
    await port.send(b"x" * 960)
    async with trio.open_nursery() as own:
        began = trio.current_time()
        own.start_soon(port.send, SetLine(baud=300))
        await wait_all_tasks_blocked()
        assert port.discard() == 0
    assert trio.current_time() == began
    await port.aclose()


# framing


async def test_discard_drops_what_is_not_encoded_and_cuts_nothing(nursery, context):
    wire = MemoryEndpoint()
    port = await open_client(nursery, context, wire)
    data = b"\xff" * (3 * PIECE)
    wire.block()
    async with trio.open_nursery() as own:
        own.start_soon(port.send, data)
        await wait_all_tasks_blocked()
        assert port.discard() == 2 * PIECE
        assert port.discard() == 0
        wire.unblock()
    assert wire.data == b"\xff" * (2 * PIECE)
    await port.send(Purge(tx=True))
    assert wire.data.endswith(h("[0C 02]"))
    await port.aclose()


async def test_receive_does_not_wait_for_a_peer_that_does_not_read(nursery, context):
    wire = MemoryEndpoint()
    port = await open_client(nursery, context, wire)
    await greeting(port)
    wire.block()
    wire.feed(h("FF FD 63") + b"data")
    assert await receive(port, 1) == [b"data"]
    wire.unblock()
    await wire.until(lambda w: w.data == h("FF FC 63"))
    await port.aclose()


async def test_a_peer_that_floods_and_does_not_read_is_not_read_either(nursery, context, autojump_clock):
    wire = MemoryEndpoint()
    port = await open_client(nursery, context, wire)
    await greeting(port)
    wire.block()
    marks = h("FF FD 06") * 30_000
    for _ in range(5):
        wire.feed(marks)
    with trio.move_on_after(0.2):
        await port.receive()
    assert len(wire._posted) >= 3
    wire.unblock()
    async with trio.open_nursery() as own:
        own.start_soon(receive, port, 1)
        await wire.until(lambda w: len(w.data) == 5 * len(marks))
        wire.feed(b"x")
    await port.aclose()


async def test_a_cancelled_write_is_finished_by_the_next():
    """A held port goes on after its session was cancelled: nothing may be torn inside a doubled IAC."""
    data = b"\xff" * 8_000_000
    async with trio.open_nursery() as nursery, serving(nursery) as (listener, port_number):
        clients = []

        async def accept():
            clients.append(await listener.accept())
            await clients[0].receive()

        nursery.start_soon(accept)
        port = await Rfc2217(carrier=Tcp(address=("127.0.0.1", port_number)), timeout=0.1).open(nursery, Context())
        assert isinstance(port, Rfc2217Endpoint)
        (client,) = clients
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as own:
                own.start_soon(port.send, data)
                await wait_all_tasks_blocked(0.01)
                scope.cancel()
        assert scope.cancelled_caught
        got = 0

        async def read():
            nonlocal got
            while True:
                event = await client.receive()
                if type(event) is bytes:
                    assert not event.strip(b"\xffx")
                    got += event.count(b"\xff")
                    if event.endswith(b"x"):
                        return

        async with trio.open_nursery() as own:
            own.start_soon(read)
            await port.send(b"x")
        assert 0 < got < len(data)
        assert got % PIECE == 0, "whole pieces"
        await port.aclose()
        await client.aclose()
        nursery.cancel_scope.cancel()


async def test_suspended_data_waits(nursery, context):
    wire = MemoryEndpoint()
    port = await open_client(nursery, context, wire)
    await greeting(port)
    async with trio.open_nursery() as own:
        own.start_soon(receive, port, 1)
        wire.feed(h("[6C]"))
        await wait_all_tasks_blocked()
        own.start_soon(port.send, b"abc")
        wire.feed(h("FF FD 63"))
        await wire.until(lambda w: w.data == h("FF FC 63"))
        wire.feed(h("[6D]"))
        await wire.until(lambda w: w.data == h("FF FC 63") + b"abc")
        wire.feed(b"x")
    await port.aclose()


async def test_a_purge_of_the_received_drops_what_came_before_its_answer(nursery, context):
    wire = MemoryEndpoint()
    port = await open_client(nursery, context, wire)
    await greeting(port)
    request = Purge(rx=True)
    await port.send(request)
    wire.feed(b"old" + h("[70 01]") + b"new")
    assert await receive(port, 2) == [PurgeDone(answers=request.ref, rx=True), b"new"]
    await port.aclose()


# answers and time


async def test_an_unanswered_request_fails_in_time(nursery, context, autojump_clock):
    wire = MemoryEndpoint()
    port = await open_client(nursery, context, wire, timeout=1.0)
    await greeting(port)
    began = trio.current_time()
    request = SetLine(baud=300)
    async with trio.open_nursery() as own:

        async def read():
            answer = await port.receive()
            assert (answer.answers, answer.why) == (request.ref, "timeout")
            assert answer.in_force.values == AS_FOUND

        own.start_soon(read)
        await wait_all_tasks_blocked()
        await port.send(request)  # the deadline moves while somebody waits
    assert trio.current_time() - began == pytest.approx(1.0, abs=0.01)
    await port.aclose()


async def test_the_end_is_drained_and_does_not_half_close(nursery, context, autojump_clock):
    wire = MemoryEndpoint()
    port = await open_client(nursery, context, wire)
    await greeting(port)
    await port.send(b"x" * 960)
    began = trio.current_time()
    async with trio.open_nursery() as own:
        own.start_soon(receive, port, 2)
        own.start_soon(port.send, Eof())
        await wire.until(lambda w: w.data.endswith(h("FF FD 06")))
        wire.feed(b"answer" + h("FF FC 06"))
        await trio.sleep(1.5)
        assert trio.current_time() - began >= 1.0
        wire.feed(Eof())
    assert Eof() not in wire.got
    await port.finish()
    assert Eof() in wire.got
    await port.finish()
    assert wire.got.count(Eof()) == 1
    await port.aclose()


async def test_the_end_without_an_answer_is_bounded(nursery, context, autojump_clock):
    wire = MemoryEndpoint()
    port = await open_client(nursery, context, wire)
    await port.send(Eof())
    assert wire.data == b"", "nothing was sent, nothing is drained"
    await port.send(b"x" * 960)
    began = trio.current_time()
    await port.send(Eof())
    assert trio.current_time() - began == pytest.approx(4.0, abs=0.1)
    await port.aclose()


async def test_the_server_ends(nursery, context):
    wire = MemoryEndpoint()
    port = await open_client(nursery, context, wire)
    await greeting(port)
    request = GetSignature()
    await port.send(request)
    wire.feed(b"last", Eof())
    events = [await port.receive() for _ in range(3)]
    assert events[:2] == [b"last", replace(events[1], answers=request.ref, why="lost")]
    assert isinstance(events[2], Hangup)
    for _ in range(2):
        with pytest.raises(EndpointLost, match="the server closed the connection"):
            await port.receive()
    await port.aclose()


async def test_the_server_ends_after_we_did(nursery, context):
    wire = MemoryEndpoint()
    port = await open_client(nursery, context, wire)
    await greeting(port)
    await port.send(Eof())
    wire.feed(b"last", Eof())
    assert [await port.receive() for _ in range(2)] == [b"last", Eof()]
    with pytest.raises(trio.EndOfChannel):
        await port.receive()
    await port.aclose()


async def test_the_connection_breaks(nursery, context):
    wire = MemoryEndpoint()
    port = await open_client(nursery, context, wire)
    await greeting(port)
    request = SetLine(baud=300)
    await port.send(request)
    wire.fail(EndpointLost("tcp memory", "the connection was reset by the peer"))
    answer = await port.receive()
    assert (answer.answers, answer.why) == (request.ref, "lost")
    assert isinstance(await port.receive(), Hangup)
    with pytest.raises(EndpointLost):
        await port.receive()
    await port.aclose()


async def test_a_break_that_was_left_on_ends_with_the_session(nursery, context):
    wire = MemoryEndpoint()
    port = await open_client(nursery, context, wire)
    await port.send(SetBreak(on=True))
    await port.aclose()
    await port.aclose()
    assert wire.data == h("[05 05] [05 06]")


async def test_a_waiting_send_reads_by_itself(nursery, context):
    """Nobody receives, and the answer that data waits for comes all the same."""
    wire = MemoryEndpoint()
    port = await open_client(nursery, context, wire)
    await greeting(port)
    request = SetLine(baud=115200)
    await port.send(request)
    wire.feed(b"data" + h("[65 00 01 C2 00]"))
    with trio.fail_after(1):
        await port.send(b"new")
    assert await port.receive() == b"data"
    assert (await port.receive()).answers == request.ref
    await port.aclose()


async def test_a_waiting_send_and_a_receiver_take_turns(nursery, context):
    wire = MemoryEndpoint()
    port = await open_client(nursery, context, wire)
    await greeting(port)
    for baud in (300, 600, 1200):
        async with trio.open_nursery() as own:
            await port.send(SetLine(baud=baud))
            own.start_soon(port.send, b"new")
            await wait_all_tasks_blocked()
            with trio.move_on_after(0):
                await port.receive()
            own.start_soon(receive, port, 2)
            await wait_all_tasks_blocked()
            wire.feed(h(f"[65 {baud:08X}]"))
            await wait_all_tasks_blocked()
            wire.feed(b"x")
    assert wire.data.endswith(h("[01 00 00 04 B0]") + b"new")
    await port.aclose()


async def test_closing_wakes_who_receives(nursery, context):
    wire = MemoryEndpoint()
    port = await open_client(nursery, context, wire)
    await greeting(port)
    async with trio.open_nursery() as own:

        async def read():
            with pytest.raises(trio.ClosedResourceError):
                await port.receive()

        own.start_soon(read)
        await wait_all_tasks_blocked()
        await port.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await port.send(b"x")


def test_hold_is_a_cap():
    assert Rfc2217(carrier=Memory(None), hold=True).caps_in("right").held
    assert not Rfc2217(carrier=Memory(None)).caps_in("right").held
    assert Rfc2217(carrier=Memory(None)).caps_in("left").role == "port"


# --- the server -------------------------------------------------------------------------------------------------------


async def open_server(nursery, context, wire, **options):
    listener = await Rfc2217Listen(carrier=Memory(wire), **options).listen(nursery, context)
    client = await listener.accept()
    wire.got.clear()
    return client


async def test_a_client_is_greeted_before_it_says_anything(nursery, context):
    wire = MemoryEndpoint()
    listener = await Rfc2217Listen(carrier=Memory(wire)).listen(nursery, context)
    assert listener.title == "listening in memory"
    client = await listener.accept()
    assert wire.data == h("FF FD 2C FF FB 00 FF FD 00 FF FB 03 FF FD 03 FF FB 01")
    assert isinstance(client, Rfc2217Client)
    await client.aclose()
    await listener.aclose()


async def test_a_client_that_has_gone_is_not_accepted(nursery, context, notes):
    class Gone(MemoryEndpoint):
        async def _send_bytes(self, data):
            raise EndpointLost("client", "gone")

    wires = [Gone(), MemoryEndpoint()]

    class Some(Memory):
        async def listen(self, nursery, context):
            inner = MemoryListener(None)

            async def accept():
                return wires.pop(0)

            inner.accept = accept
            return inner

    listener = await Rfc2217Listen(carrier=Some(None)).listen(nursery, context)
    client = await listener.accept()
    assert not wires
    assert any("gone before it was served" in text for _, text in notes)
    await client.aclose()


async def test_commands_become_requests_and_reports_their_answers(nursery, context):
    wire = MemoryEndpoint()
    client = await open_server(nursery, context, wire)
    wire.feed(h("FF FB 2C") + b"old" + h("[01 00 01 C2 00] [05 08]") + b"new")
    events = await receive(client, 5)
    assert events == [GetModem(), b"old", SetLine(baud=115200), SetModem(dtr=True), b"new"]
    await client.send(LineReport(answers=events[2].ref, values=Line(baud=115200)))
    await client.send(OutputReport(answers=events[3].ref, dtr=True))
    await client.send(b"\xff")
    assert wire.data == h("[65 00 01 C2 00] [69 08]") + b"\xff\xff"
    await client.aclose()


async def test_a_timed_break_takes_its_time(nursery, context, autojump_clock):
    wire = MemoryEndpoint()
    client = await open_server(nursery, context, wire)
    wire.feed(h("FF F3") + b"behind")
    began = trio.current_time()
    assert await client.receive() == SetBreak(on=True)
    assert trio.current_time() == began
    assert await client.receive() == SetBreak(on=False)
    assert trio.current_time() - began == pytest.approx(0.25, abs=0.01)
    assert await client.receive() == b"behind"
    await client.aclose()


async def test_a_client_with_a_thousand_open_requests_is_not_read(nursery, context):
    wire = MemoryEndpoint()
    client = await open_server(nursery, context, wire)
    wire.feed(h("[05 00]") * 1024)
    wire.feed(b"behind")
    requests = [await client.receive() for _ in range(1024)]
    async with trio.open_nursery() as own:
        got = []

        async def read():
            got.append(await client.receive())

        own.start_soon(read)
        await wait_all_tasks_blocked()
        assert not got
        await client.send(LineReport(answers=requests[0].ref, values=AS_FOUND))
    assert got == [b"behind"]
    await client.aclose()


async def test_a_request_has_no_place_at_a_controller(nursery, context):
    wire = MemoryEndpoint()
    client = await open_server(nursery, context, wire)
    request = SetLine(baud=300)
    await client.send(request)
    assert (await client.receive()).answers == request.ref
    await client.aclose()


async def test_the_device_ends(nursery, context, autojump_clock):
    wire = MemoryEndpoint()
    client = await open_server(nursery, context, wire)
    await client.send(b"last")
    await client.send(Eof())
    await client.finish()
    assert wire.got == [b"last", Eof()]
    began = trio.current_time()
    await client.aclose()
    assert 0 < trio.current_time() - began <= 2, "a moment for the client to close first"


async def test_a_client_that_has_closed_is_not_waited_for(nursery, context, autojump_clock):
    wire = MemoryEndpoint()
    client = await open_server(nursery, context, wire)
    wire.feed(Eof())
    assert await client.receive() == Eof()
    await client.send(Eof())
    began = trio.current_time()
    await client.aclose()
    assert trio.current_time() == began


async def test_a_reset_by_the_client(nursery, context):
    wire = MemoryEndpoint()
    client = await open_server(nursery, context, wire)
    wire.fail(EndpointLost("client", "reset"))
    with pytest.raises(EndpointLost):
        await client.receive()
    await client.aclose()


async def test_a_second_client_is_told_so(nursery, context, autojump_clock):
    wire = MemoryEndpoint()
    listener = await Rfc2217Listen(carrier=Memory(wire)).listen(nursery, context)
    client = await listener.accept()
    wire.got.clear()
    await listener.reject(client, "in use")
    assert wire.got == [b"in use\r\n", Eof()]


# --- over TCP, with a port behind -------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def serving(nursery, **options):
    """An RFC 2217 listener on loopback: (listener, port number)."""
    spec = Rfc2217Listen(carrier=TcpListen(address=(None, 0)), **options)
    listener = await spec.listen(nursery, Context())
    try:
        yield listener, int(listener.where.rpartition(":")[2])
    finally:
        with trio.CancelScope(shield=True):
            await listener.aclose()


async def serve_device(listener, port, *, echo=True, ended=None):
    """Serve one client with a FakePort behind, as a pipeline would."""
    client = await listener.accept()
    for report in (Opened(), LineReport(values=port.line), port.outputs, port.modem):
        await client.send(report)
    while True:
        try:
            event = await client.receive()
        except EndpointLost:
            break
        if type(event) is Eof:
            break
        answer = port.do(event)
        if answer is not None:
            await client.send(answer)
            if isinstance(event, SetModem) and event != SetModem():  # RTS to CTS, DTR to DSR, as on a loopback plug
                port.modem = ModemReport(cts=bool(port.outputs.rts), dsr=bool(port.outputs.dtr))
                await client.send(port.modem)
        elif echo and type(event) is bytes:
            await client.send(event)
    with contextlib.suppress(EndpointLost):
        await client.send(Eof())
    await client.aclose()
    if ended is not None:
        ended.set()


async def test_both_ends_over_tcp(context):
    device = FakePort()
    async with trio.open_nursery() as nursery, serving(nursery) as (listener, number):
        nursery.start_soon(serve_device, listener, device)
        port = await Rfc2217(carrier=Tcp(address=("127.0.0.1", number)), baud=19200).open(nursery, context)
        opened, line, outputs, modem = await greeting(port)
        assert opened.peer == f"127.0.0.1:{number}"
        assert line == LineReport(values=replace(AS_FOUND, baud=19200))
        assert outputs == OutputReport(dtr=False, rts=False, break_=False)
        assert modem == MODEM
        requests = [
            SetLine(baud=250000, bytesize=7, parity="mark", stopbits=2, flow="rtscts"),
            SetLine(stopbits=1.5),
            SetModem(dtr=True, rts=True),
            SetModem(),
            SetBreak(on=True),
            SetBreak(on=False),
            GetSignature(),
            Purge(rx=True, tx=True),
            Drain(),
        ]
        for request in requests:
            await port.send(request)
            await port.send(b".")
        answers = {}
        while len(answers) < len(requests):
            event = await port.receive()
            if isinstance(event, Report) and event.answers is not None:
                answers[event.answers] = event
        in_force = Line(baud=250000, bytesize=7, parity="mark", stopbits=2, flow="rtscts")
        assert answers[requests[0].ref] == LineReport(
            answers=requests[0].ref, values=in_force, requested=requests[0].line
        )
        assert answers[requests[1].ref].values == in_force
        assert answers[requests[3].ref] == OutputReport(answers=requests[3].ref, dtr=True, rts=True, break_=False)
        assert answers[requests[6].ref] == Signature(answers=requests[6].ref, text=b"ser2net")
        assert [type(a) for a in answers.values()].count(Failed) == 0
        kinds = [type(e) for e in device.written if type(e) is not bytes]
        sets = [SetLine] * 6 + [SetModem] * 4 + [SetBreak] * 2
        assert kinds[-14:] == [*sets, GetSignature, Purge]
        await port.finish()
        await port.aclose()
        nursery.cancel_scope.cancel()


async def test_order_through_both_ends(context):
    """Data and settings reach the device in the order they were sent, however they are cut by the network."""
    device = FakePort()
    async with trio.open_nursery() as nursery, serving(nursery) as (listener, number):
        nursery.start_soon(serve_device, listener, device)
        port = await Rfc2217(carrier=Tcp(address=("127.0.0.1", number))).open(nursery, context)
        await greeting(port)
        device.written.clear()
        sent = []
        rates = random.Random(1)
        async with trio.open_nursery() as own:
            own.start_soon(receive_answers, port, 50)
            for i in range(50):
                for event in (b"\xff%d" % i, SetLine(baud=rates.randrange(300, 4_000_000))):
                    await port.send(event)
                    sent.append(event)
        assert joined(device.written) == sent
        await port.aclose()
        nursery.cancel_scope.cancel()


async def receive_answers(port, count):
    while count:
        event = await port.receive()
        count -= isinstance(event, Report) and event.answers is not None


async def test_a_mebibyte_each_way_with_every_byte(context):
    data = EVERY_BYTE * (1 + (1 << 20) // len(EVERY_BYTE))
    device = FakePort(replace(AS_FOUND, baud=10_000_000))
    async with trio.open_nursery() as nursery, serving(nursery) as (listener, number):
        nursery.start_soon(serve_device, listener, device)
        port = await Rfc2217(carrier=Tcp(address=("127.0.0.1", number))).open(nursery, context)
        await greeting(port)
        got = bytearray()

        async def read():
            while len(got) < len(data):
                event = await port.receive()
                assert type(event) is bytes
                got.extend(event)

        async with trio.open_nursery() as own:
            own.start_soon(read)
            await port.send(data)
        assert bytes(got) == data
        await port.aclose()
        nursery.cancel_scope.cancel()


async def test_news_reaches_a_serpipe(context):
    async with trio.open_nursery() as nursery, serving(nursery) as (listener, number):
        made = []

        async def accept():
            client = await listener.accept()
            made.append(client)
            device = FakePort()
            for report in (LineReport(values=device.line), device.outputs, device.modem):
                await client.send(report)
            with contextlib.suppress(trio.ClosedResourceError):
                while type(event := await client.receive()) is not Eof:
                    answer = device.do(event)
                    if answer is not None:
                        await client.send(answer)

        nursery.start_soon(accept)
        port = await Rfc2217(carrier=Tcp(address=("127.0.0.1", number))).open(nursery, context)
        await greeting(port)
        await made[0].send(LineReport(values=replace(AS_FOUND, baud=300)))
        await made[0].send(BreakReport())
        assert await receive(port, 2) == [LineReport(values=replace(AS_FOUND, baud=300)), BreakReport()]
        await port.aclose()
        await made[0].aclose()
        nursery.cancel_scope.cancel()


# --- real peers: servers ----------------------------------------------------------------------------------------------


@pytest.mark.peer("ser2net")
@pytest.mark.peer("socat")
async def test_against_ser2net(context, socat_ptys, ser2net):
    near, far = socat_ptys
    number = ser2net(near)
    far_fd = os.open(far, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    near_fd = os.open(near, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    try:
        async with trio.open_nursery() as nursery:
            began = trio.current_time()
            port = await Rfc2217(carrier=Tcp(address=("127.0.0.1", number))).open(nursery, context)
            assert trio.current_time() - began < 1.0
            _, line, _, modem = await greeting(port)
            assert line == LineReport(values=AS_FOUND)
            assert modem == ModemReport()
            request = SetLine(baud=57600, stopbits=2, flow="xonxoff")
            await port.send(request)
            report = await port.receive()
            assert report.answers == request.ref
            assert report.values == Line(baud=57600, bytesize=8, parity="none", stopbits=2, flow="xonxoff")
            assert _termios2.line_of(_termios2.get(near_fd)).baud == 57600
            await port.send(SetLine(flow="none"))
            await port.receive()
            for request in (SetBreak(on=True), SetBreak(on=False), GetModem(), GetSignature(), Purge(rx=True), Drain()):
                await port.send(request)
                assert (await port.receive()).answers == request.ref
            lines = SetModem(dtr=True)  # a pty has none, and ser2net says nothing to that
            await port.send(lines)
            await port.send(SetLine())
            answer = await port.receive()
            assert isinstance(answer, LineReport)
            answer = await port.receive()
            assert (answer.answers, answer.why) == (lines.ref, "timeout")
            data = EVERY_BYTE * 8
            await port.send(data)
            got = b""
            while len(got) < len(data):
                await trio.lowlevel.wait_readable(far_fd)
                got += os.read(far_fd, 65536)
            assert got == data
            rest = data
            back = b""
            while len(back) < len(data):
                if rest:
                    with contextlib.suppress(BlockingIOError):
                        rest = rest[os.write(far_fd, rest[:2048]) :]
                back += await port.receive()
            assert back == data
            await port.finish()
            while type(await port.receive()) is not Eof:
                pass
            await port.aclose()
            nursery.cancel_scope.cancel()
    finally:
        os.close(far_fd)
        os.close(near_fd)


@pytest.mark.peer("ser2net")
@pytest.mark.peer("socat")
async def test_ser2net_with_another_client_says_so(context, socat_ptys, ser2net):
    number = ser2net(socat_ptys[0])
    async with trio.open_nursery() as nursery:
        spec = Rfc2217(carrier=Tcp(address=("127.0.0.1", number)))
        first = await spec.open(nursery, context)
        with pytest.raises(OpenFailed, match="saying: Port already in use"):
            await spec.open(nursery, context)
        await first.aclose()
        nursery.cancel_scope.cancel()


@pytest.mark.peer("ser2net")
@pytest.mark.peer("socat")
async def test_ser2net_without_rfc2217_refuses(context, socat_ptys, ser2net):
    number = ser2net(socat_ptys[0], accepter="telnet(rfc2217=false),tcp")
    async with trio.open_nursery() as nursery:
        began = trio.current_time()
        with pytest.raises(PeerRefused, match="refuses RFC 2217"):
            await Rfc2217(carrier=Tcp(address=("127.0.0.1", number))).open(nursery, context)
        assert trio.current_time() - began < 1.0, "it is not waited for what was refused"
        nursery.cancel_scope.cancel()


@pytest.mark.peer("sredird")
@pytest.mark.peer("socat")
async def test_against_sredird(context, socat_ptys, tmp_path):
    script = tmp_path / "run"
    script.write_text(f"#!/bin/sh\nexec {find_peer('sredird')} 7 {socat_ptys[0]} {tmp_path}/LCK\n")
    script.chmod(0o755)
    ours, theirs = socket.socketpair()
    process = subprocess.Popen([str(script)], stdin=theirs, stdout=theirs, stderr=subprocess.DEVNULL)
    theirs.close()
    from serpipe.endpoints.tcp import TcpEndpoint

    try:
        async with trio.open_nursery() as nursery:
            port = await Rfc2217(carrier=Memory(TcpEndpoint("sredird", ours))).open(nursery, context)
            await greeting(port)
            waiting = {}
            for request in (
                SetLine(baud=57600, stopbits=2),
                SetModem(dtr=True, rts=True),
                SetBreak(on=False),
                GetSignature(),
                Purge(rx=True, tx=True),
                Drain(),
            ):
                waiting[request.ref] = request
                await port.send(request)
            answers = {}
            while len(answers) < len(waiting):
                event = await port.receive()
                if isinstance(event, Report) and event.answers in waiting:
                    answers[type(waiting[event.answers])] = event
            assert not [a for a in answers.values() if isinstance(a, Failed)]
            assert answers[SetLine].values.baud == 57600
            assert answers[SetModem].dtr is True
            assert answers[SetModem].rts is True
            assert answers[GetSignature].text.startswith(b"SRedird")
            await port.aclose()
            nursery.cancel_scope.cancel()
    finally:
        process.kill()
        process.wait()


async def test_against_pyserials_server(context):
    with PortManagerServer() as server:
        async with trio.open_nursery() as nursery:
            began = trio.current_time()
            port = await Rfc2217(carrier=Tcp(address=("127.0.0.1", server.port))).open(nursery, context)
            assert trio.current_time() - began < 1.0
            _, line, outputs, modem = await greeting(port)
            assert line == LineReport(values=AS_FOUND)
            assert outputs.virtual, "it does not answer that question"
            assert (modem.cts, modem.dsr, modem.dcd) == (True, True, True)
            for request, found in (
                (SetLine(baud=57600, bytesize=7, parity="even", stopbits=1.5), {"baudrate": 57600, "bytesize": 7}),
                (SetModem(dtr=False, rts=False), {"dtr": False, "rts": False}),
                (SetModem(rts=True), {"rts": True}),
                (SetBreak(on=True), {"break_condition": True}),
                (SetBreak(on=False), {"break_condition": False}),
                (SetLine(bytesize=8, parity="none"), {"bytesize": 8, "parity": "N"}),
                (Purge(rx=True, tx=True), {}),
            ):
                await port.send(request)
                while (report := await port.receive()).answers != request.ref:
                    pass
                assert not isinstance(report, Failed)
                for name, value in found.items():
                    assert getattr(server.device, name) == value
            await port.send(EVERY_BYTE)
            got = b""
            while len(got) < len(EVERY_BYTE):
                event = await port.receive()
                got += event if type(event) is bytes else b""
            assert got == EVERY_BYTE
            await port.finish()
            while type(await port.receive()) is not Eof:
                pass
            await port.aclose()
            nursery.cancel_scope.cancel()


# --- real peers: clients ----------------------------------------------------------------------------------------------


# pySerial's client starts its thread by setDaemon(), and leaves its socket to the collector
quiet_pyserial = pytest.mark.filterwarnings("ignore:set(Daemon|Name):DeprecationWarning")


@quiet_pyserial
@pytest.mark.parametrize("url", ["", "?poll_modem", "?ign_set_control"])
async def test_pyserials_client(url):
    """Every property, without ign_set_control: pySerial raises at any answer but the one it asked for."""
    device = FakePort()

    def use(number):
        began = time.monotonic()
        with serial.serial_for_url(f"rfc2217://127.0.0.1:{number}{url}", timeout=5) as port:
            assert time.monotonic() - began < 2.0
            for name, value in (
                ("baudrate", 57600),
                ("baudrate", 250000),
                ("bytesize", 7),
                ("parity", "E"),
                ("parity", "M"),
                ("stopbits", 2),
                ("rtscts", True),
                ("rtscts", False),
                ("xonxoff", True),
                ("xonxoff", False),
                ("timeout", 4),
            ):
                setattr(port, name, value)
            port.dtr = False
            port.rts = True
            deadline = time.monotonic() + 5
            while port.dsr or not port.cts:
                assert time.monotonic() < deadline
            assert port.ri is False
            assert port.cd is False
            port.break_condition = True
            port.break_condition = False
            port.send_break(0.01)
            port.reset_input_buffer()
            port.reset_output_buffer()
            port.write(EVERY_BYTE)
            assert port.read(len(EVERY_BYTE)) == EVERY_BYTE

    ended = trio.Event()
    async with trio.open_nursery() as nursery, serving(nursery) as (listener, number):
        nursery.start_soon(partial(serve_device, listener, device, ended=ended))
        await trio.to_thread.run_sync(use, number)
        with trio.fail_after(5):
            await ended.wait()
        nursery.cancel_scope.cancel()
    assert device.line == Line(baud=250000, bytesize=7, parity="mark", stopbits=2, flow="none")
    assert [e.on for e in device.written if isinstance(e, SetBreak)][-2:] == [True, False]
    assert Purge(tx=True) in device.written


@quiet_pyserial
async def test_pyserials_client_takes_a_rounded_rate():
    device = FakePort()
    device.rounding = lambda baud: round(baud * 1.0016)

    def use(number):
        with serial.serial_for_url(f"rfc2217://127.0.0.1:{number}", baudrate=115200) as port:
            port.baudrate = 9600

    async with trio.open_nursery() as nursery, serving(nursery) as (listener, number):
        nursery.start_soon(serve_device, listener, device)
        await trio.to_thread.run_sync(use, number)
        nursery.cancel_scope.cancel()
    assert device.line.baud == 9615


@pytest.mark.peer("gensiot")
async def test_gensios_client():
    device = FakePort()
    data = EVERY_BYTE * 4
    ended = trio.Event()
    async with trio.open_nursery() as nursery, serving(nursery) as (listener, number):
        nursery.start_soon(partial(serve_device, listener, device, ended=ended))
        process = await trio.lowlevel.open_process(
            [find_peer("gensiot"), "-i", "stdio(self)", f"telnet(rfc2217),tcp,127.0.0.1,{number}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            got = b""
            await process.stdin.send_all(data)
            with trio.fail_after(20):
                while len(got) < len(data):
                    got += await process.stdout.receive_some()
            assert got == data
        finally:
            await process.stdin.aclose()
            process.kill()
            await process.wait()
            await process.stdout.aclose()
        with trio.fail_after(5):
            await ended.wait()
        nursery.cancel_scope.cancel()


async def test_a_raw_probe_byte_by_byte():
    """A client that sends each byte in a segment of its own."""
    device = FakePort()

    def use(number):
        with socket.create_connection(("127.0.0.1", number)) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in h("FF FB 2C [01 00 00 FF FF 00]") + escape(b"\xff\x00\xff") + h("[05 08]"):
                sock.sendall(bytes((byte,)))
            got = b""
            sock.settimeout(5)
            while h("[69 08]") not in got:
                got += sock.recv(4096)
            return got

    async with trio.open_nursery() as nursery, serving(nursery) as (listener, number):
        nursery.start_soon(partial(serve_device, listener, device, echo=False))
        got = await trio.to_thread.run_sync(use, number)
        nursery.cancel_scope.cancel()
    assert h("[65 00 00 FF FF 00]") in got
    assert [e for e in joined(device.written) if not isinstance(e, GetModem)] == [
        SetLine(baud=65280),
        b"\xff\x00\xff",
        SetModem(dtr=True),
    ]
