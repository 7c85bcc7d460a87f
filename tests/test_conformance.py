"""The laws, held by every endpoint and every stage: one suite, run over all of them.

A *rig* is an endpoint with the other side of it in the test's hands: `push` makes bytes arrive, `pull` waits for bytes that
it was sent, `end` makes it end. Where an endpoint has no such side, the rig has None and the check that needs it is not run
for that endpoint, by name, in the table below; there are no skips.
"""

import os
import socket
import tty
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
from fakes import FakeContext, FakeOut, Lanes, joined
from hypothesis import given, settings
from hypothesis import strategies as st
from memory import PORT, TWO_WAY, MemoryEndpoint

from serpipe.endpoints.base import Context, Endpoint
from serpipe.endpoints.stdio import StdioEndpoint
from serpipe.events import (
    BreakReport,
    Drain,
    Drained,
    Eof,
    ErrorReport,
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
    Report,
    Request,
    SetBreak,
    SetLine,
    SetModem,
    Signature,
)
from serpipe.grammar import parse_endpoint, parse_stage
from serpipe.lanes import Rules, Session
from serpipe.registry import endpoint_names, stage_names

# --- rigs -------------------------------------------------------------------------------------------------------------


@dataclass
class Rig:
    endpoint: Endpoint
    push: Callable[[bytes], Any] | None = None
    pull: Callable[[int], Any] | None = None
    end: Callable[[], Any] | None = None
    stall: bool = False
    """Its sends block when nobody pulls."""
    before: list = field(default_factory=list)
    """The events it began with."""


async def _open(nursery, word, side="left", faces="plain"):
    notes = []
    context = Context(side=side, faces=faces, note=lambda text, level: notes.append(text))
    return await parse_endpoint(word).spec.open(nursery, context)


async def _first_events(endpoint, count=4):
    with trio.fail_after(10):
        return [await endpoint.receive() for _ in range(count)]


def _fd_side(read_fd, write_fd):
    """push and pull over descriptors of the test."""
    for fd in {read_fd, write_fd}:
        os.set_blocking(fd, False)

    async def push(data):
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(write_fd, rest) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(write_fd)

    async def pull(count):
        got = b""
        while len(got) < count:
            try:
                got += os.read(read_fd, count - len(got))
            except BlockingIOError:
                await trio.lowlevel.wait_readable(read_fd)
        return got

    return push, pull


@asynccontextmanager
async def tcp_rig(nursery, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = await _open(nursery, f"tcp:{server.getsockname()[1]}")
        peer, _ = server.accept()
    with peer:
        push, pull = _fd_side(peer.fileno(), peer.fileno())

        async def end():
            peer.shutdown(socket.SHUT_WR)

        yield Rig(endpoint, push, pull, end, stall=True)


@asynccontextmanager
async def tcp_listen_rig(nursery, tmp_path):
    spec = parse_endpoint("tcp-listen:0").spec
    listener = await spec.listen(nursery, Context())
    with socket.create_connection(("127.0.0.1", int(listener.where.rpartition(":")[2]))) as peer:
        endpoint = await listener.accept()
        await listener.aclose()
        push, pull = _fd_side(peer.fileno(), peer.fileno())

        async def end():
            peer.shutdown(socket.SHUT_WR)

        yield Rig(endpoint, push, pull, end, stall=True)


@asynccontextmanager
async def stdio_rig(nursery, tmp_path):
    in_read, in_write = os.pipe()
    out_read, out_write = os.pipe()
    push, pull = _fd_side(out_read, in_write)

    async def end():
        os.close(in_write)

    endpoint = StdioEndpoint(in_read, out_write)
    try:
        yield Rig(endpoint, push, pull, end, stall=True)
    finally:
        for fd in (in_read, in_write, out_read, out_write):
            try:
                os.close(fd)
            except OSError:
                pass


@asynccontextmanager
async def file_rig(nursery, tmp_path):
    path = tmp_path / "file"
    path.touch()
    endpoint = await _open(nursery, f"file:{path},follow")

    async def push(data):
        with path.open("ab") as file:
            file.write(data)

    yield Rig(endpoint, push)


@asynccontextmanager
async def file_out_rig(nursery, tmp_path):
    path = tmp_path / "file"
    endpoint = await _open(nursery, f"file:{path}", side="right")

    async def pull(count):
        return path.read_bytes()

    yield Rig(endpoint, None, pull)


@asynccontextmanager
async def null_rig(nursery, tmp_path):
    yield Rig(await _open(nursery, "null:"))


@asynccontextmanager
async def loop_rig(nursery, tmp_path):
    endpoint = await _open(nursery, "loop:,realtime=off")
    before = await _first_events(endpoint)
    yield Rig(endpoint, endpoint.send, before=before)


@asynccontextmanager
async def serial_rig(nursery, tmp_path):
    master, slave = os.openpty()
    tty.setraw(slave)
    endpoint = await _open(nursery, f"serial:{os.ttyname(slave)}")
    before = await _first_events(endpoint)
    push, pull = _fd_side(master, master)
    try:
        yield Rig(endpoint, push, pull, before=before, stall=True)
    finally:
        os.close(master)
        os.close(slave)


@asynccontextmanager
async def pty_rig(nursery, tmp_path):
    endpoint = await _open(nursery, "pty:,drain=0.2s", faces="port")
    slave = os.open(endpoint.where, os.O_RDWR | os.O_NOCTTY)
    push, pull = _fd_side(slave, slave)
    try:
        yield Rig(endpoint, push, pull, stall=True)
    finally:
        os.close(slave)


async def _rfc2217_pair(nursery):
    """(client endpoint, server endpoint)."""
    listener = await parse_endpoint("rfc2217-listen:0").spec.listen(nursery, Context(faces="port"))
    ends = {}

    async def accept():
        ends["server"] = await listener.accept()
        ends["session"] = Session(
            ends["server"],
            ends["port"],
            [],
            ends["server"].caps,
            PORT,
            "inbox",
            Rules(),
            lambda text, level: None,
        )
        with ends["scope"]:
            await ends["session"].run()

    port = ends["port"] = MemoryEndpoint("port", PORT)
    port.feed(Opened(), LineReport(values=Line(9600, 8, "none", 1, "none")), OutputReport(dtr=True, rts=True))
    port.feed(ModemReport(cts=True))
    ends["scope"] = trio.CancelScope()
    nursery.start_soon(accept)
    client = await _open(nursery, f"rfc2217:{listener.where}", side="right", faces="controller")
    ends["client"] = client
    await listener.aclose()
    return ends


@asynccontextmanager
async def rfc2217_rig(nursery, tmp_path):
    ends = await _rfc2217_pair(nursery)
    port = ends["port"]
    before = await _first_events(ends["client"])

    async def push(data):
        port.feed(data)

    async def pull(count):
        await port.until(lambda p: len(p.data) >= count)
        return port.data

    async def end():
        port.feed(Eof())

    yield Rig(ends["client"], push, pull, end, before=before)
    ends["scope"].cancel()
    with trio.CancelScope(shield=True):
        await ends["server"].aclose()


@asynccontextmanager
async def rfc2217_listen_rig(nursery, tmp_path):
    listener = await parse_endpoint("rfc2217-listen:0").spec.listen(nursery, Context(faces="port"))
    made = {}

    async def connect():
        made["client"] = await _open(nursery, f"rfc2217:{listener.where},timeout=0.2s", side="right")

    async with trio.open_nursery() as opening:
        opening.start_soon(connect)
        server = await listener.accept()
        asked = []
        while "client" not in made:  # it asks for the state of the port before it stands
            with trio.move_on_after(0.05):
                asked.append(await server.receive())
    client = made["client"]
    await listener.aclose()

    async def pull(count):
        got = b""
        while len(got) < count:
            event = await client.receive()
            got += event if type(event) is bytes else b""
        return got

    async def end():
        await client.finish()

    yield Rig(server, client.send, pull, end)
    with trio.CancelScope(shield=True):
        await client.aclose()


@asynccontextmanager
async def memory_rig(nursery, tmp_path):
    endpoint = MemoryEndpoint("memory", TWO_WAY)

    async def push(data):
        endpoint.feed(data)

    async def pull(count):
        await endpoint.until(lambda e: len(e.data) >= count)
        return endpoint.data

    async def end():
        endpoint.feed(Eof())

    yield Rig(endpoint, push, pull, end)


RIGS = {
    "tcp": tcp_rig,
    "tcp-listen": tcp_listen_rig,
    "stdio": stdio_rig,
    "file": file_rig,
    "file, written": file_out_rig,
    "null": null_rig,
    "loop": loop_rig,
    "serial": serial_rig,
    "pty": pty_rig,
    "rfc2217": rfc2217_rig,
    "rfc2217-listen": rfc2217_listen_rig,
    "memory": memory_rig,
}
ARRIVES = [name for name in RIGS if name not in ("file, written", "null")]
PULLS = [name for name in RIGS if name not in ("file", "null", "loop")]
ENDS = ["tcp", "tcp-listen", "stdio", "rfc2217-listen", "memory"]
PORTS = ["loop", "serial", "rfc2217"]
STALLS = ["tcp", "tcp-listen", "stdio", "serial", "pty"]


def test_every_endpoint_has_a_rig():
    assert set(endpoint_names()) <= set(RIGS)


@asynccontextmanager
async def rigged(name, tmp_path):
    async with trio.open_nursery() as nursery:
        async with RIGS[name](nursery, tmp_path) as rig:
            try:
                with trio.fail_after(30):
                    yield rig
            finally:
                with trio.CancelScope(shield=True), trio.fail_after(20):
                    await rig.endpoint.aclose()
        nursery.cancel_scope.cancel()


async def take_bytes(endpoint, count):
    got = b""
    while len(got) < count:
        event = await endpoint.receive()
        if type(event) is bytes:
            got += event
    return got


# --- endpoints --------------------------------------------------------------------------------------------------------

PATTERN = bytes(range(256)) * 17 + b"\xff\xff\r\0\n\r\n\x11\x13"


@pytest.mark.parametrize("name", ARRIVES)
async def test_bytes_arrive_whole_and_in_order(name, tmp_path):
    async with rigged(name, tmp_path) as rig, trio.open_nursery() as nursery:
        pieces = [PATTERN[i : i + 700] for i in range(0, len(PATTERN), 700)]

        async def push_all():
            for piece in pieces:
                await rig.push(piece)

        nursery.start_soon(push_all)
        assert await take_bytes(rig.endpoint, len(PATTERN)) == PATTERN


@pytest.mark.parametrize("name", PULLS)
async def test_bytes_are_sent_whole_and_in_order(name, tmp_path):
    async with rigged(name, tmp_path) as rig, trio.open_nursery() as nursery:
        if name == "file, written":
            await rig.endpoint.send(PATTERN)
        else:
            nursery.start_soon(rig.endpoint.send, PATTERN)
        assert await rig.pull(len(PATTERN)) == PATTERN


@pytest.mark.parametrize("name", ARRIVES)
async def test_a_cancelled_receive_has_taken_nothing(name, tmp_path):
    async with rigged(name, tmp_path) as rig:
        got = b""
        sent = b""
        for i in range(20):
            piece = b"%02d" % i * 50
            sent += piece
            await rig.push(piece)
            for _ in range(3):
                with trio.move_on_after(0) as scope:
                    event = await rig.endpoint.receive()
                    got += event if type(event) is bytes else b""
                if scope.cancelled_caught:
                    await trio.lowlevel.checkpoint()
        got += await take_bytes(rig.endpoint, len(sent) - len(got))
        assert got == sent


def every_request():
    return [
        SetLine(),
        SetLine(baud=19200),
        SetModem(),
        SetModem(dtr=True, rts=False),
        SetBreak(on=True),
        SetBreak(on=False),
        SetBreak(),
        GetModem(),
        Purge(rx=True),
        Purge(tx=True),
        Purge(rx=True, tx=True),
        GetSignature(),
        SetLine(bytesize=7, parity="even", stopbits=2),
        SetModem(rts=True),
        Drain(),
    ]


ANSWERS = {
    SetLine: LineReport,
    SetModem: OutputReport,
    SetBreak: OutputReport,
    GetModem: ModemReport,
    Purge: PurgeDone,
    Drain: Drained,
    GetSignature: Signature,
}


async def answers_to(endpoint, requests):
    """Everything the endpoint says with `answers` until all are answered, and a moment longer."""
    refs = {request.ref for request in requests}
    found = []
    with trio.move_on_after(10) as patience:
        while not refs <= {answer.answers for answer in found}:
            event = await endpoint.receive()
            if isinstance(event, Report) and event.answers is not None:
                found.append(event)
    assert not patience.cancelled_caught, "a request was not answered"
    with trio.move_on_after(0.1):
        while True:
            event = await endpoint.receive()
            if isinstance(event, Report) and event.answers is not None:
                found.append(event)
    return found


@pytest.mark.parametrize("name", [name for name in RIGS if name != "memory"])
async def test_every_request_gets_exactly_one_answer_in_order(name, tmp_path):
    async with rigged(name, tmp_path) as rig:
        requests = every_request()
        for request in requests:
            await rig.endpoint.send(request)
        answers = await answers_to(rig.endpoint, requests)
        for kind in ANSWERS:
            asked = [r.ref for r in requests if type(r) is kind]
            assert [a.answers for a in answers if a.answers in asked] == asked
        kinds = {request.ref: ANSWERS[type(request)] for request in requests}
        for answer in answers:
            if name in PORTS:
                assert type(answer) in (kinds[answer.answers], Failed)
            else:
                assert type(answer) is Failed


@pytest.mark.parametrize("name", PORTS)
async def test_a_port_begins_with_how_it_stands(name, tmp_path):
    async with rigged(name, tmp_path) as rig:
        assert [type(event) for event in rig.before] == [Opened, LineReport, OutputReport, ModemReport]
        assert rig.before[1].values.baud
        assert all(event.answers is None for event in rig.before)


@pytest.mark.parametrize("name", PORTS)
async def test_a_setting_in_force_is_reported_and_can_be_read_back(name, tmp_path):
    async with rigged(name, tmp_path) as rig:
        asked = [SetLine(baud=57600), SetLine()]
        for request in asked:
            await rig.endpoint.send(request)
        answers = await answers_to(rig.endpoint, asked)
        assert answers[0].values.baud == 57600
        assert answers[1].values.baud == 57600
        assert answers[0].requested is not None


@pytest.mark.parametrize("name", [*PORTS, "tcp", "stdio", "null", "memory"])
async def test_reports_stop_where_nobody_asked(name, tmp_path):
    async with rigged(name, tmp_path) as rig:
        for report in (ModemReport(cts=True), LineReport(), BreakReport(), ErrorReport(parity=1), Signature(text=b"x")):
            await rig.endpoint.send(report)
        if name in PULLS:
            await rig.endpoint.send(b"after")
            assert (await rig.pull(5))[-5:] == b"after"


@pytest.mark.parametrize("name", ENDS)
async def test_eof_comes_once_and_last(name, tmp_path):
    async with rigged(name, tmp_path) as rig:
        await rig.push(b"the end")
        await rig.end()
        got = []
        while Eof() not in got:
            got.append(await rig.endpoint.receive())
        assert joined(e for e in got if type(e) in (bytes, Eof)) == [b"the end", Eof()]
        with pytest.raises(trio.EndOfChannel):
            await rig.endpoint.receive()


@pytest.mark.parametrize("name", RIGS)
async def test_closing_wakes_who_waits_and_can_be_done_twice(name, tmp_path):
    async with rigged(name, tmp_path) as rig:
        woken = trio.Event()

        async def wait():
            try:
                while True:
                    await rig.endpoint.receive()
            except trio.ClosedResourceError:
                woken.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked(0.01)
            await rig.endpoint.aclose()
            await woken.wait()
        await rig.endpoint.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await rig.endpoint.send(b"too late")


@pytest.mark.parametrize("name", STALLS)
async def test_discard_frees_a_blocked_send(name, tmp_path):
    async with rigged(name, tmp_path) as rig:
        done = trio.Event()

        async def send():
            await rig.endpoint.send(bytes(64 << 20))
            done.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await trio.testing.wait_all_tasks_blocked(0.005)
            assert not done.is_set()
            assert rig.endpoint.discard() > 0
            await done.wait()


@pytest.mark.parametrize("name", RIGS)
async def test_nothing_stays_open(name, tmp_path, no_leaks):
    with no_leaks():
        async with rigged(name, tmp_path):
            pass


# --- stages -----------------------------------------------------------------------------------------------------------

STAGES = [
    "hexdump",
    "hexdump,format=json",
    "hexdump:FILE,format=text",
    "checksum",
    "checksum:crc-16/modbus+md5",
    "checksum:sha256,append",
    "checksum:crc32,strip",
    "pace",
    "pace:115200",
    "pace:9600n81",
    "pace:11k/s",
    "pace:1ms/char",
    "pace:50ms/line",
    "pace:10ms/chunk",
    "policy",
    "policy,settings=locked,deny=lines+break+purge",
    "policy,locked=115200n81,answer=asked",
    "policy,settings=ignore,allow=lines,dir=left",
    "reset:esp",
    "reset:esp,dir=left",
    "virtual,towards=left",
    "virtual,towards=right",
    "virtual,towards=both",
]
CHANGES_BYTES = {"checksum:sha256,append", "checksum:crc32,strip"}


def lanes_of(word):
    return Lanes(parse_stage(word.replace("FILE", "/dump")).spec.make(FakeContext()))


def test_every_stage_is_in_the_table():
    assert {word.partition(":")[0].partition(",")[0] for word in STAGES} >= set(stage_names())


class Unheard(Report):
    """A report no stage has heard of."""


class UnheardOf(Request):
    """A request no stage has heard of."""


@pytest.mark.parametrize("word", STAGES)
def test_what_a_stage_does_not_know_passes_unchanged(word):
    """Or is answered, where it is a Request and the stage stands for the port."""
    lanes = lanes_of(word)
    for event in (Unheard(), UnheardOf()):
        for direction, out in lanes.outs.items():
            lanes.push(direction, event)
            lanes.run_dry()
            passed = any(e is event for e in out.emitted)
            refused = [e for e in out.replied if isinstance(e, Failed) and e.answers == getattr(event, "ref", None)]
            assert passed != bool(refused)


_controls = st.sampled_from(
    [
        ModemReport(cts=True),
        LineReport(values=Line(300, 8, "none", 1)),
        ErrorReport(framing=1),
        BreakReport(),
        OutputReport(dtr=True),
    ]
)
_streams = st.lists(st.one_of(st.binary(max_size=200), _controls), max_size=12)


def cut(stream, cuts):
    """The same stream with its bytes cut elsewhere."""
    result = []
    for event in stream:
        if type(event) is bytes:
            while event:
                size = cuts.draw(st.integers(1, len(event)))
                result.append(event[:size])
                event = event[size:]
        else:
            result.append(event)
    return result


def through(word, direction, stream):
    lanes = lanes_of(word)
    out = lanes.outs[direction]
    out.take()
    for event in stream:
        if type(event) is bytes:
            lanes.feed(direction, event)
        else:
            lanes.push(direction, event)
    lanes.push(direction, Eof())
    lanes.run_dry()
    return out.events


@pytest.mark.parametrize("direction", ["->", "<-"])
@pytest.mark.parametrize("word", STAGES)
@settings(max_examples=30, deadline=None)
@given(stream=_streams, cuts=st.data())
def test_bytes_between_controls_do_not_depend_on_the_cuts(word, direction, stream, cuts):
    if word in CHANGES_BYTES:
        assert through(word, direction, stream) == through(word, direction, cut(stream, cuts))
    else:
        assert through(word, direction, cut(stream, cuts)) == joined([*stream, Eof()])


@pytest.mark.parametrize("direction", ["->", "<-"])
@pytest.mark.parametrize("word", STAGES)
def test_eof_comes_once_and_last_through_a_stage(word, direction):
    lanes = lanes_of(word)
    lanes.feed(direction, b"x" * 1000)
    lanes.push(direction, Eof())
    lanes.run_dry()
    events = lanes.outs[direction].emitted
    assert events.count(Eof()) == 1
    assert events[-1] == Eof()


@pytest.mark.parametrize("direction", ["->", "<-"])
@pytest.mark.parametrize("word", STAGES)
def test_a_discarded_stage_holds_nothing_and_keeps_its_controls(word, direction):
    lanes = lanes_of(word)
    out = lanes.outs[direction]
    control = ModemReport(dsr=True)
    room = lanes.stage.room(direction)
    lanes.push(direction, b"x" * (100 if room is None else min(room, 100)))
    lanes.push(direction, control)
    already = len(out.data)
    held = lanes.stage.held(direction)
    assert lanes.stage.discard(direction) == held
    assert lanes.stage.held(direction) == 0
    lanes.run_dry()
    assert len(out.data) == already
    assert any(event is control for event in out.emitted)


def test_the_fake_out_is_an_out():
    from serpipe.stages.base import Out

    assert {name for name in vars(Out) if not name.startswith("_")} <= {*dir(FakeOut), "direction", "now", "wall"}
