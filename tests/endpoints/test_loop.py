"""The built-in loopback port: order, time, settings, lines, break, purge, bounds."""

import math
import random

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from serpipe.endpoints.base import Context
from serpipe.endpoints.loop import RX_SIZE, TX_SIZE, Loop
from serpipe.events import (
    BreakReport,
    Drain,
    Drained,
    Eof,
    Failed,
    GetModem,
    GetSignature,
    Line,
    LineReport,
    ModemReport,
    Opened,
    OutputReport,
    Purge,
    PurgeDone,
    SetBreak,
    SetLine,
    SetModem,
    Signature,
)

DEFAULT = Line(9600, 8, "none", 1.0, "none")


@pytest.fixture
def notes():
    return []


@pytest.fixture
async def make(nursery, notes):
    made = []

    async def make(reads=True, **options):
        spec = Loop(**options)
        context = Context(side="right", reads=reads, note=lambda text, level: notes.append((level, text)))
        port = await spec.open(nursery, context)
        made.append(port)
        return port

    yield make
    for port in made:
        await port.aclose()


async def greeting(port):
    return [await port.receive() for _ in range(4)]


async def read(port, size):
    data = b""
    while len(data) < size:
        event = await port.receive()
        assert type(event) is bytes, event
        data += event
    return data


async def idle(port):
    """Nothing is there to be received now."""
    with trio.move_on_after(0):
        assert await port.receive() is None


async def test_first_events(make):
    port = await make(baud=115200, parity="even", bytesize=7)
    assert await greeting(port) == [
        Opened(peer="loop:"),
        LineReport(values=Line(115200, 7, "even", 1.0, "none")),
        OutputReport(dtr=True, rts=True, break_=False),
        ModemReport(cts=True, dsr=True, dcd=True),
    ]
    assert port.title == "loop: 115200 7E1 flow=none"


def test_describe():
    assert Loop().describe() == "loop: 9600 8N1 flow=none"
    assert Loop(**Loop.bare_word("9600n81")).describe() == "loop: 9600 8N1 flow=none"
    assert Loop(realtime=False).describe() == "loop: 9600 8N1 flow=none realtime=off"
    assert Loop.caps.role == "port"
    assert Loop.caps.held


async def test_a_byte_arrives_when_its_last_bit_has_gone(make, autojump_clock):
    port = await make()
    await greeting(port)
    start = trio.current_time()
    await port.send(b"U")
    assert await port.receive() == b"U"
    assert trio.current_time() - start == pytest.approx(10 / 9600, rel=1e-6)


@pytest.mark.parametrize(
    ("options", "bits"),
    [({}, 10), ({"bytesize": 7, "parity": "even", "stopbits": 2.0}, 11), ({"bytesize": 5, "stopbits": 1.5}, 7.5)],
)
async def test_the_rate_counts_the_bits_of_the_format(make, autojump_clock, options, bits):
    port = await make(baud=19200, **options)
    await greeting(port)
    data = random.Random(1).randbytes(20000)
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(port.send, data)
        assert await read(port, len(data)) == data
    assert trio.current_time() - start == pytest.approx(len(data) * bits / 19200, rel=1e-5)


async def test_a_fast_line_costs_no_wake_up_per_byte(make, autojump_clock):
    port = await make(baud=1_000_000)
    await greeting(port)
    data = bytes(100_000)
    start = trio.current_time()
    chunks = 0
    got = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(port.send, data)
        while got < len(data):
            got += len(await port.receive())
            chunks += 1
    assert trio.current_time() - start == pytest.approx(1.0, rel=1e-4)
    assert chunks <= 550


class Steps(trio.abc.Instrument):
    """Counts how often tasks were run."""

    count = 0

    def before_task_step(self, task):
        self.count += 1


async def test_a_writer_that_waits_and_a_reader_do_not_wake_each_other(make, autojump_clock):
    port = await make(baud=1_000_000)
    await greeting(port)
    data = bytes(50_000)
    steps = Steps()
    trio.lowlevel.add_instrument(steps)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(port.send, data)
        await read(port, len(data))
    trio.lowlevel.remove_instrument(steps)
    assert steps.count < 1000


async def test_send_waits_where_the_fifo_is_full(make, autojump_clock):
    port = await make(baud=9600)
    await greeting(port)
    start = trio.current_time()
    await port.send(bytes(TX_SIZE))
    assert trio.current_time() == start
    await port.send(b"x")
    assert 0 < trio.current_time() - start < TX_SIZE * 10 / 9600


async def test_settings_take_their_place_in_the_stream(make, autojump_clock):
    port = await make(baud=1200)
    await greeting(port)
    start = trio.current_time()
    await port.send(b"abc")
    request = SetLine(baud=9600)
    await port.send(request)
    assert trio.current_time() - start == pytest.approx(3 * 10 / 1200)
    await port.send(b"de")
    assert await port.receive() == b"abc"
    report = await port.receive()
    assert report == LineReport(
        answers=request.ref, values=Line(9600, 8, "none", 1.0, "none"), requested=Line(baud=9600)
    )
    assert await read(port, 2) == b"de"
    assert trio.current_time() - start == pytest.approx(3 * 10 / 1200 + 2 * 10 / 9600)


@pytest.mark.parametrize(
    "line",
    [
        Line(1, 5, "mark", 1.5, "xonxoff", "rtscts"),
        Line(2**32 - 1, 6, "space", 2.0, "dcd", "dsrdtr"),
        Line(250000, 7, "odd", 1.0, "rtscts"),
    ],
)
async def test_every_setting_is_taken(make, line):
    port = await make()
    await greeting(port)
    await port.send(SetLine.of(line))
    assert (await port.receive()).values == line


async def test_a_query_and_a_setting_in_force_touch_nothing(make, autojump_clock):
    port = await make(baud=300)
    await greeting(port)
    await port.send(b"abc")
    now = trio.current_time()
    await port.send(query := SetLine())
    await port.send(same := SetLine(baud=300))
    assert trio.current_time() == now
    here = Line(300, 8, "none", 1.0, "none")
    assert await port.receive() == LineReport(answers=query.ref, values=here)
    assert await port.receive() == LineReport(answers=same.ref, values=here, requested=Line(baud=300))
    assert await read(port, 3) == b"abc"


@pytest.mark.parametrize("bad", [{"baud": 0}, {"baud": 2**32}, {"bytesize": 9}, {"stopbits": 3}, {"flow_in": "dcd"}])
async def test_what_no_uart_has_is_refused_with_the_value_in_force(make, bad):
    port = await make()
    await greeting(port)
    request = SetLine(parity="even", **bad)
    await port.send(request)
    answer = await port.receive()
    assert isinstance(answer, Failed)
    assert (answer.answers, answer.why, answer.in_force) == (request.ref, "refused", LineReport(values=DEFAULT))


async def test_lines_are_joined(make):
    port = await make()
    await greeting(port)
    request = SetModem(dtr=False, rts=False)
    await port.send(request)
    assert await port.receive() == OutputReport(answers=request.ref, dtr=False, rts=False, break_=False)
    assert await port.receive() == ModemReport(changed=frozenset({"cts", "dsr", "dcd"}))
    await port.send(SetModem(rts=True))
    assert (await port.receive()).rts is True
    assert await port.receive() == ModemReport(cts=True, changed=frozenset({"cts"}))
    await port.send(SetModem(rts=True))
    await port.send(ask := GetModem())
    assert isinstance(await port.receive(), OutputReport)
    assert await port.receive() == ModemReport(answers=ask.ref, cts=True)
    await idle(port)


async def test_lines_do_not_wait_for_the_fifo(make, autojump_clock):
    port = await make(baud=300)
    await greeting(port)
    now = trio.current_time()
    await port.send(b"abc")
    await port.send(SetModem(rts=False))
    assert trio.current_time() == now
    assert isinstance(await port.receive(), OutputReport)
    assert isinstance(await port.receive(), ModemReport)
    assert await read(port, 3) == b"abc"


async def test_a_break_comes_back_in_its_place(make, autojump_clock):
    port = await make()
    await greeting(port)
    await port.send(b"before")
    await port.send(on := SetBreak(on=True))
    await port.send(again := SetBreak(on=True))
    await port.send(off := SetBreak(on=False))
    await port.send(b"after")
    assert await read(port, 6) == b"before"
    assert [await port.receive() for _ in range(5)] == [
        OutputReport(answers=on.ref, dtr=True, rts=True, break_=True),
        BreakReport(on=True),
        OutputReport(answers=again.ref, dtr=True, rts=True, break_=True),
        OutputReport(answers=off.ref, dtr=True, rts=True, break_=False),
        BreakReport(on=False),
    ]
    assert await read(port, 5) == b"after"


async def test_purge_acts_at_once(make, autojump_clock):
    port = await make(baud=9600)
    await greeting(port)
    await port.send(b"x" * 960)
    await trio.sleep(0.5)
    now = trio.current_time()
    await port.send(rx := Purge(rx=True))
    assert trio.current_time() == now
    assert await port.receive() == PurgeDone(answers=rx.ref, rx=True)
    await trio.sleep(0.25)
    await port.send(tx := Purge(tx=True))
    assert await read(port, 240) == b"x" * 240
    assert await port.receive() == PurgeDone(answers=tx.ref, tx=True)
    await port.send(b"new")
    assert await read(port, 3) == b"new"


async def test_purge_drops_no_control(make):
    port = await make(realtime=False)
    await greeting(port)
    await port.send(b"one")
    await port.send(SetModem(rts=False))
    await port.send(b"two")
    await port.send(Purge(rx=True, tx=True))
    kinds = [type(await port.receive()) for _ in range(3)]
    assert kinds == [OutputReport, ModemReport, PurgeDone]
    await idle(port)


async def test_discard_ends_a_send_that_waits(make, autojump_clock):
    port = await make(baud=300)
    await greeting(port)
    now = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(port.send, bytes(TX_SIZE + 1000))
        await wait_all_tasks_blocked()
        assert port.discard() == 1000
    assert trio.current_time() == now
    assert port.discard() == 0


async def test_discard_ends_a_control_that_waits(make, autojump_clock, notes):
    port = await make(baud=300)
    await greeting(port)
    await port.send(bytes(1000))
    now = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(port.send, SetLine(baud=9600))
        await wait_all_tasks_blocked()
        assert port.discard() == 1000
    assert trio.current_time() == now
    assert (await port.receive()).values.baud == 9600
    assert notes == []


async def test_drain(make, autojump_clock):
    port = await make(baud=9600)
    await greeting(port)
    start = trio.current_time()
    await port.send(bytes(960))
    await port.send(ask := Drain())
    assert trio.current_time() - start == pytest.approx(1.0)
    assert await read(port, 960) == bytes(960)
    assert await port.receive() == Drained(answers=ask.ref)


async def test_eof_waits_for_the_line_and_ends_nothing(make, autojump_clock):
    port = await make(baud=9600)
    await greeting(port)
    start = trio.current_time()
    await port.send(bytes(960))
    await port.send(Eof())
    assert trio.current_time() - start == pytest.approx(1.0)
    assert await read(port, 960) == bytes(960)
    await idle(port)


async def test_signature(make):
    port = await make()
    await greeting(port)
    await port.send(ask := GetSignature())
    answer = await port.receive()
    assert isinstance(answer, Signature)
    assert answer.answers == ask.ref
    assert answer.text.startswith(b"serpipe ")


@pytest.mark.parametrize("realtime", [True, False])
async def test_nobody_reads_and_nothing_is_lost(make, autojump_clock, realtime):
    port = await make(realtime=realtime, baud=1_000_000)
    await greeting(port)
    data = random.Random(2).randbytes(3 * RX_SIZE)
    sent = []

    async def send():
        await port.send(data)
        sent.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await trio.sleep(1000)
        assert not sent
        assert port._received == RX_SIZE
        assert await read(port, len(data)) == data
    assert sent


async def test_a_control_overtakes_where_nobody_reads(make, autojump_clock, notes):
    port = await make(realtime=False)
    await greeting(port)
    await port.send(bytes(RX_SIZE + 10))
    start = trio.current_time()
    await port.send(SetLine(baud=300))
    assert trio.current_time() - start == pytest.approx(1.0)
    assert notes == [(0, "loop:: SetLine overtakes 10 bytes that nobody reads")]
    await port.send(ask := Drain())
    assert await read(port, RX_SIZE) == bytes(RX_SIZE)
    assert (await port.receive()).values.baud == 300
    failed = await port.receive()
    assert isinstance(failed, Failed)
    assert (failed.answers, failed.why) == (ask.ref, "timeout")
    assert await read(port, 10) == bytes(10)


async def test_a_chain_that_takes_no_bytes_never_stops_the_port(make):
    port = await make(reads=False, realtime=False)
    await greeting(port)
    await port.send(bytes(10 * RX_SIZE))
    await port.send(Drain())
    assert isinstance(await port.receive(), Drained)


async def test_cancelling_loses_nothing(make, autojump_clock):
    port = await make(baud=115200)
    await greeting(port)
    data = random.Random(3).randbytes(8000)
    got = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(port.send, data)
        while len(b"".join(got)) < len(data):
            with trio.move_on_after(0.0007):
                got.append(await port.receive())
    assert b"".join(got) == data


async def test_close_frees_who_waits(make, autojump_clock):
    port = await make(baud=300)
    await greeting(port)
    closed = []

    async def expect(wait, *args):
        with pytest.raises(trio.ClosedResourceError):
            await wait(*args)
        closed.append(wait)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect, port.receive)
        await wait_all_tasks_blocked()
        await port.aclose()
    other = await make(baud=300)
    await greeting(other)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect, other.send, bytes(TX_SIZE + 1))
        await wait_all_tasks_blocked()
        await other.aclose()
        await other.aclose()
    assert len(closed) == 2
    with pytest.raises(trio.ClosedResourceError):
        await other.send(b"x")


async def test_idle_sleeps(make, autojump_clock):
    port = await make()
    await greeting(port)
    with trio.move_on_after(1e6) as scope:
        await port.receive()
    assert scope.cancelled_caught
    assert math.isinf(port._due(1))
