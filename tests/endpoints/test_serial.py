"""`serial:` on a recording UART, for what a pty has not, and on real ptys.

`FakeUart` is a driver with a baud clock: what is written leaves at the rate in force, on trio's clock, unless flow control
holds it (`held`). Everything that is done to it stands in `log`. It shows the endpoint's rules, and nothing about a kernel's
driver.
"""

import array
import contextlib
import errno
import fcntl
import os
import subprocess
import termios
import threading
import tty
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import trio
import trio.testing
from fakes_cancel import cancel_at_every_step, open_descriptors
from hypothesis import given, settings
from hypothesis import strategies as st

from serpipe import __version__, _serial_driver, _serial_find, _serial_lock
from serpipe import _termios2 as t2
from serpipe._serial_driver import CTS, DCD, DSR, DTR, RI, RTS, PySerialDriver, TtyDriver
from serpipe._termios2 import Counters
from serpipe.endpoints import serial
from serpipe.endpoints.base import Context
from serpipe.endpoints.serial import PARK_SIZE, Serial, Start, open_port
from serpipe.errors import BadValue, EndpointLost, OpenFailed
from serpipe.events import (
    BreakReport,
    Drain,
    Drained,
    Eof,
    ErrorReport,
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
    SetBreak,
    SetLine,
    SetModem,
    Signature,
)

FOUND = Line(9600, 8, "none", 1.0, "none", "none")
ZERO = Counters(*[0] * 11)


@pytest.fixture(autouse=True)
def lock_folder(tmp_path, monkeypatch):
    folder = tmp_path / "locks"
    folder.mkdir()
    monkeypatch.setattr(_serial_lock, "LOCK_FOLDER", str(folder))
    return folder


class FakeUart:
    """See the module's text. `refuse` maps a baud to what the driver makes of it, or to an OSError."""

    path = "/dev/ttyFAKE0"
    pty = False
    hides_fifo = False
    FIFO = 4096

    def __init__(self, *, quick=True, lines=True, counts=True, hupcl=True, line=FOUND):
        self.quick = quick
        self.log = []
        self.now = line
        self.bits = DTR | RTS | CTS | DSR
        self.has_lines = lines
        self.counts = ZERO if counts else None
        self.hupcl = hupcl
        self.refuse = {}
        self.held = False
        self.wire = []
        """(bytes, baud) as they left, or were taken by the adapter where it hides its FIFO."""
        self.broken = None
        self._rx = []
        self._queue = []
        self._busy_until = 0.0
        self._rx_event = trio.Event()
        self._tx_event = trio.Event()
        self.unsent_at_set = None
        self.hidden_until = 0.0

    # what a test does to it

    def feed(self, *chunks):
        self._rx += chunks
        self._rx_event.set()

    def release(self):
        self.held = False
        self._busy_until = trio.current_time()
        self._tx_event.set()

    def count(self, **more):
        self.counts = self.counts._replace(**{key: getattr(self.counts, key) + n for key, n in more.items()})

    def fail(self, code=errno.EIO):
        self.broken = OSError(code, os.strerror(code))
        self._rx_event.set()
        self._tx_event.set()

    @property
    def words(self):
        """The log without the looking."""
        return [entry[0] for entry in self.log]

    @property
    def sent(self):
        self._leave()
        return b"".join(data for data, _ in self.wire)

    # the line

    def _leave(self):
        now = trio.current_time()
        while self._queue and not self.held and self._queue[0][1] <= now:
            data, _ = self._queue.pop(0)
            self.wire.append((data, self.now.baud))

    def _check(self):
        if self.broken is not None:
            raise self.broken

    # Driver

    def prepare(self, hupcl):
        self.log.append(("prepare", hupcl))
        return True

    def restore(self):
        self.log.append(("restore",))
        self._check()
        self.now = FOUND
        return self.hupcl

    def close(self):
        self.log.append(("close",))

    def read(self):
        if self._rx:
            return self._rx.pop(0)
        self._check()
        return None

    def write(self, data):
        self._check()
        room = self.FIFO - self.unsent()
        taken = bytes(data[:room])
        if taken:
            self.log.append(("write", taken))
            start = max(self._busy_until, trio.current_time())
            self._busy_until = start + (0 if self.hides_fifo else self.now.line_time(len(taken)))
            self._queue.append((taken, self._busy_until))
            self._leave()
        return len(taken)

    async def wait_readable(self):
        while not self._rx and self.broken is None:
            self._rx_event = trio.Event()
            await self._rx_event.wait()

    async def wait_writable(self):
        while self.unsent() >= self.FIFO and self.broken is None:
            if self.held:
                self._tx_event = trio.Event()
                await self._tx_event.wait()
            else:
                await trio.sleep_until(self._queue[0][1])

    def gone(self):
        return "unplugged" if self.broken is not None else ""

    def line(self):
        self._check()
        return self.now

    def set_line(self, line):
        self._check()
        self.unsent_at_set = self.unsent()
        self.log.append(("set", line))
        made = self.refuse.get(line.baud, line.baud)
        if isinstance(made, OSError):
            raise made
        if line.flow == "none":
            self.release()
        self.now = Line(made, line.bytesize, line.parity, line.stopbits, line.flow, line.flow_in).over(self.now)

    def modem(self):
        self._check()
        if not self.has_lines:
            raise OSError(errno.ENOTTY, "no lines")
        return self.bits

    def set_modem(self, on, off):
        self._check()
        self.log.append(("modem", on, off))
        self.bits = (self.bits | on) & ~off

    def set_break(self, on):
        self._check()
        self.log.append(("break", on))

    def counters(self):
        return self.counts

    def flush(self, *, rx, tx):
        self.log.append(("flush", rx, tx))
        if tx:
            self._queue.clear()
            self._busy_until = 0.0
            self._tx_event.set()
        if rx:
            self._rx.clear()

    def unsent(self):
        self._leave()
        return sum(len(data) for data, _ in self._queue)

    def drain(self):
        self._check()
        self.log.append(("drain",))
        assert not self._queue


class Rig:
    """A port on a fake, its first events taken, and what it said to the user."""

    def __init__(self, port, uart, notes, first):
        self.port, self.uart, self.notes, self.first = port, uart, notes, first

    async def ask(self, request):
        """Send it; what comes up to its answer, which is the last, and has lost its `answers`."""
        await self.port.send(request)
        reports = []
        while not reports or getattr(reports[-1], "answers", None) != request.ref:
            reports.append(await self.port.receive())
        return [*reports[:-1], replace(reports[-1], answers=None)]

    async def answer(self, request):
        return (await self.ask(request))[-1]


@contextlib.asynccontextmanager
async def opened(uart=None, start=None, **kwargs):
    uart = uart or FakeUart(**kwargs)
    notes = []
    async with trio.open_nursery() as nursery:
        context = Context(note=lambda text, level: notes.append(text))
        port = await open_port(uart.path, uart, start or Start(), nursery, context)
        try:
            first = [await port.receive() for _ in range(4)]
            uart.log.clear()
            yield Rig(port, uart, notes, first)
        finally:
            await port.aclose()


# --- at the opening ---------------------------------------------------------------------------------------------------


async def test_the_first_events():
    async with opened() as rig:
        assert rig.first == [
            Opened(peer="/dev/ttyFAKE0"),
            LineReport(values=FOUND),
            OutputReport(dtr=True, rts=True, break_=False),
            ModemReport(cts=True, dsr=True),
        ]
        assert rig.port.title == "/dev/ttyFAKE0 9600 8N1 flow=none (as found)"
        assert rig.port.where == "/dev/ttyFAKE0"
        assert rig.notes == []


async def test_options_are_set_and_named():
    start = Start(line=Line(baud=115200, parity="even"), dtr=False, rts=False, hupcl=False)
    uart = FakeUart()
    async with trio.open_nursery() as nursery:
        port = await open_port("p", uart, start, nursery, Context())
        assert uart.log == [
            ("modem", 0, DTR | RTS),
            ("prepare", False),
            ("set", Line(baud=115200, parity="even")),
        ]
        assert port.title == "p 115200 8E1 flow=none"
        first = [await port.receive() for _ in range(4)]
        assert first[2] == OutputReport(dtr=False, rts=False, break_=False)
        await port.aclose()


async def test_nothing_given_sets_nothing():
    uart = FakeUart()
    async with trio.open_nursery() as nursery:
        port = await open_port("p", uart, Start(line=Line(baud=9600)), nursery, Context())
        assert uart.log == [("prepare", None)]
        await port.aclose()


@pytest.mark.parametrize("made", [3000000, 9600, OSError(errno.EINVAL, "x")])
async def test_an_option_that_the_driver_refuses_fails_and_puts_back(made):
    uart = FakeUart()
    uart.refuse[12000000] = made
    async with trio.open_nursery() as nursery:
        with pytest.raises(OpenFailed, match=r"refuses (baud=)?12000000"):
            await open_port("p", uart, Start(line=Line(baud=12000000)), nursery, Context())
    assert uart.words == ["prepare", "set", "restore", "close"]


async def test_a_rate_within_two_percent_is_taken():
    uart = FakeUart()
    uart.refuse[115200] = 115384
    async with opened(uart, Start(line=Line(baud=115200))) as rig:
        assert rig.first[1].values.baud == 115384


# --- order to the wire ------------------------------------------------------------------------------------------------


async def test_old_drain_set_new(autojump_clock):
    async with opened() as rig:
        old = bytes(4096)
        began = trio.current_time()
        await rig.port.send(old)
        assert await rig.answer(SetLine(baud=19200)) == LineReport(
            values=Line(19200, 8, "none", 1.0, "none", "none"), requested=Line(baud=19200)
        )
        assert trio.current_time() - began == pytest.approx(4096 * 10 / 9600, abs=0.025)
        assert rig.uart.unsent_at_set == 0
        await rig.port.send(b"NEW")
        assert rig.uart.words == ["write", "drain", "set", "write"]
        await rig.port.send(Eof())
        assert rig.uart.unsent() == 0
        assert rig.uart.wire == [(old, 9600), (b"NEW", 19200)]
        assert rig.notes == []


async def test_more_than_the_fifo_goes_before_the_control(autojump_clock):
    async with opened() as rig:
        data = os.urandom(20000)
        await rig.port.send(data)
        await rig.answer(SetLine(parity="even"))
        assert rig.uart.sent == data
        assert rig.uart.words[-2:] == ["drain", "set"]


async def test_a_setting_in_force_touches_nothing():
    async with opened() as rig:
        await rig.port.send(b"x" * 100)
        rig.uart.log.clear()
        asked = Line(9600, 8, "none", 1.0, "none", None)
        assert await rig.answer(SetLine.of(asked)) == LineReport(values=FOUND, requested=asked)
        assert await rig.answer(SetLine()) == LineReport(values=FOUND)
        assert rig.uart.log == []


async def test_bytes_received_under_the_old_setting_come_first():
    async with opened() as rig:
        rig.uart.feed(b"old 1", b"old \xff\x00\x002")
        reports = await rig.ask(SetLine(baud=300))
        assert [type(r) for r in reports] == [bytes, bytes, BreakReport, bytes, LineReport]
        assert b"".join(r for r in reports if type(r) is bytes) == b"old 1old 2"


async def test_what_a_change_hands_over_is_bounded():
    async with opened() as rig:
        rig.uart.feed(*[bytes(65536)] * 100)
        for n in range(10):
            await rig.port.send(SetLine(baud=300 + n))
        assert sum(len(e) for e in rig.port._posted if type(e) is bytes) <= serial.HAND_OVER


async def test_a_hidden_fifo_is_waited_out(autojump_clock):
    uart = FakeUart()
    uart.hides_fifo = True
    async with opened(uart) as rig:
        began = trio.current_time()
        await rig.port.send(bytes(500))
        await rig.answer(SetLine(baud=19200))
        assert trio.current_time() - began == pytest.approx(500 * 10 / 9600)
        began = trio.current_time()
        await rig.port.send(bytes(4096))  # no adapter hides as much: what is awaited is bounded
        await rig.answer(SetLine(baud=300))
        assert trio.current_time() - began == pytest.approx(serial.HIDDEN_FIFO * 10 / 19200)


async def test_modem_lines_wait_for_the_write_and_not_for_the_wire(autojump_clock):
    async with opened() as rig:
        await rig.port.send(bytes(1000))
        began = trio.current_time()
        answer = await rig.answer(SetModem(dtr=False, rts=False))
        assert answer == OutputReport(dtr=False, rts=False, break_=False)
        assert trio.current_time() == began
        assert rig.uart.log[1:] == [("modem", 0, DTR | RTS)]


async def test_dtr_and_rts_go_by_one_call():
    async with opened() as rig:
        await rig.answer(SetModem(dtr=False, rts=True))
        assert rig.uart.log == [("modem", RTS, DTR)]
        assert await rig.answer(SetModem()) == OutputReport(dtr=False, rts=True, break_=False)
        assert len(rig.uart.log) == 1


async def test_break_goes_behind_the_bytes(autojump_clock):
    async with opened() as rig:
        await rig.port.send(bytes(960))
        assert await rig.answer(SetBreak(on=True)) == OutputReport(dtr=True, rts=True, break_=True)
        assert await rig.answer(SetBreak(on=True)) == OutputReport(dtr=True, rts=True, break_=True)
        assert await rig.answer(SetBreak()) == OutputReport(dtr=True, rts=True, break_=True)
        assert await rig.answer(SetBreak(on=False)) == OutputReport(dtr=True, rts=True, break_=False)
        assert rig.uart.words == ["write", "drain", "break", "drain", "break"]


async def test_drain_eof_and_signature(autojump_clock):
    async with opened() as rig:
        await rig.port.send(bytes(960))
        assert await rig.answer(Drain()) == Drained()
        assert trio.current_time() == pytest.approx(1.0, abs=0.025)
        assert await rig.answer(GetSignature()) == Signature(text=f"serpipe {__version__} /dev/ttyFAKE0".encode())
        await rig.port.send(bytes(960))
        await rig.port.send(Eof())
        assert rig.uart.unsent() == 0


# --- flow control that holds ------------------------------------------------------------------------------------------


async def test_a_control_overtakes_at_its_deadline_and_frees_the_bytes(autojump_clock):
    async with opened() as rig:
        rig.uart.now = Line(9600, 8, "none", 1.0, "rtscts", "rtscts")
        rig.uart.held = True
        await rig.port.send(b"x" * 960)
        began = trio.current_time()
        answer = await rig.answer(SetLine(flow="none"))
        assert trio.current_time() - began == pytest.approx(1.0 + 1.0, abs=0.025)
        assert (answer.values.flow, answer.values.flow_in) == ("none", "none")
        assert rig.notes == ["/dev/ttyFAKE0: SetLine overtakes 960 bytes that flow control holds"]
        await rig.port.send(b"y")
        await rig.port.send(Eof())
        assert rig.uart.sent == b"x" * 960 + b"y"


async def test_bytes_that_cannot_go_are_parked_and_keep_their_order(autojump_clock):
    async with opened() as rig:
        rig.uart.now = Line(115200, 8, "none", 1.0, "rtscts", "rtscts")
        rig.uart.held = True
        data = os.urandom(10000)
        await rig.answer(SetLine())  # the rate is looked at with each control
        began = trio.current_time()
        await rig.port.send(data)
        assert trio.current_time() - began == pytest.approx(1.0 + (10000) * 10 / 115200, abs=0.1)
        assert rig.port.unsent == 10000 - rig.uart.FIFO
        await rig.port.send(b"more")
        await trio.sleep(2)
        began = trio.current_time()
        await rig.answer(SetLine(flow="none"))
        assert trio.current_time() == began  # the bytes have had their deadline already
        assert rig.notes == ["/dev/ttyFAKE0: SetLine overtakes 10004 bytes that flow control holds"]
        await rig.port.send(b"last")
        assert await rig.answer(Drain()) == Drained()
        assert rig.uart.sent == data + b"morelast"
        assert rig.port.unsent == 0
        await rig.port.send(b"!")  # and the direct way is open again
        assert rig.port.unsent == 0


async def test_parked_bytes_that_move_are_waited_for(autojump_clock):
    """A slow device is no stalled one: its control waits."""
    async with opened() as rig:
        rig.uart.held = True
        await rig.port.send(bytes(6000))
        rig.uart.release()
        await rig.answer(SetLine(baud=300))
        assert rig.uart.unsent_at_set == 0
        assert rig.notes == []


async def test_what_is_parked_is_bounded(autojump_clock):
    async with opened() as rig:
        rig.uart.now = Line(4000000, 8, "none", 1.0, "rtscts", "rtscts")
        rig.uart.held = True
        sent = 0
        async with trio.open_nursery() as nursery:

            async def flood():
                nonlocal sent
                while True:
                    await rig.port.send(bytes(4096))
                    sent += 4096

            nursery.start_soon(flood)
            await trio.sleep(60)
            assert PARK_SIZE <= rig.port.unsent <= PARK_SIZE + 2 * 4096
            before = sent
            rig.uart.release()
            await trio.sleep(1)
            assert sent > before
            nursery.cancel_scope.cancel()


async def test_a_break_cannot_overtake_and_says_so(autojump_clock):
    async with opened() as rig:
        rig.uart.held = True
        await rig.port.send(b"stuck")
        answer = await rig.answer(SetBreak(on=True))
        assert isinstance(answer, Failed)
        assert answer.why == "timeout"
        assert answer.in_force == OutputReport(dtr=True, rts=True, break_=False)
        assert "break" not in rig.uart.words
        drain = await rig.answer(Drain())
        assert (drain.why, drain.text) == ("timeout", "flow control holds 5 bytes")


async def test_discard_ends_a_blocked_send_and_drops_what_is_parked(autojump_clock):
    async with opened() as rig:
        rig.uart.held = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.port.send, bytes(5000))
            await trio.testing.wait_all_tasks_blocked()
            assert rig.port.discard() == 5000 - 4096
        await rig.port.send(bytes(7000))  # parks all of it
        assert rig.port.discard() == 7000
        assert rig.port.unsent == 0
        rig.uart.release()
        await rig.port.send(b"after")
        await rig.answer(Drain())
        assert rig.uart.sent == bytes(4096) + b"after"


async def test_discard_drops_what_a_control_waits_for(autojump_clock):
    async with opened() as rig:
        rig.uart.held = True
        await rig.port.send(bytes(100))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.port.send, SetLine(baud=300))
            await trio.testing.wait_all_tasks_blocked()
            assert rig.port.discard() == 100
        assert rig.uart.now.baud == 300
        assert rig.notes == []


async def test_purge(autojump_clock):
    async with opened() as rig:
        rig.uart.held = True
        await rig.port.send(bytes(6000))
        rig.uart.feed(b"unread")
        rig.port.post(b"taken, and not yet received")
        assert await rig.answer(Purge(rx=True, tx=True)) == PurgeDone(rx=True, tx=True)
        assert rig.uart.log[-1] == ("flush", True, True)
        assert (rig.port.unsent, rig.uart.unsent()) == (0, 0)
        rig.uart.feed(b"\xff\x00")  # a mark that is cut by the purge
        with trio.move_on_after(1):
            await rig.port.receive()
        await rig.answer(Purge(rx=True))
        rig.uart.feed(b"\x00new")
        assert await rig.port.receive() == b"\x00new"


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("made", [9600, OSError(errno.EINVAL, "x")])
async def test_a_refused_rate_is_failed_with_what_is_in_force(made):
    async with opened() as rig:
        rig.uart.refuse[12345] = made
        answer = await rig.answer(SetLine(baud=12345))
        assert isinstance(answer, Failed)
        assert answer.why == "refused"
        assert answer.in_force == LineReport(values=FOUND, requested=Line(baud=12345))
        assert answer.text


async def test_what_can_be_done_is_done():
    async with opened() as rig:
        rig.uart.refuse[12345] = 12500
        asked = Line(12345, 7, "even", 1.5, "dsrdtr")
        answer = await rig.answer(SetLine.of(asked))
        assert answer == LineReport(values=Line(12500, 7, "even", 1.0, "none", "none"), requested=asked)
        before = len(rig.uart.log)
        answer = await rig.answer(SetLine(baud=12345))  # asked before, and as near as the driver comes
        assert answer.values.baud == 12500
        assert len(rig.uart.log) == before


@pytest.mark.parametrize(
    "asked",
    [
        Line(flow="dsrdtr"),
        Line(flow="dcd"),
        Line(flow_in="dcd"),
        Line(flow_in="rtscts"),
        Line(stopbits=1.5),
        Line(bytesize=9),
        Line(baud=0),
        Line(parity="strange"),
    ],
)
async def test_what_no_tty_can_do_touches_nothing(asked):
    async with opened() as rig:
        answer = await rig.answer(SetLine.of(asked))
        assert isinstance(answer, Failed)
        assert (answer.why, answer.in_force.values) == ("refused", FOUND)
        assert rig.uart.log == []


async def test_one_and_a_half_stop_bits_go_with_five_data_bits_only():
    async with opened() as rig:
        answer = await rig.answer(SetLine(bytesize=5, stopbits=1.5))
        assert (answer.values.bytesize, answer.values.stopbits) == (5, 1.5)
        assert isinstance(await rig.answer(SetLine(stopbits=2)), Failed)


@pytest.mark.parametrize(
    ("found", "asked", "wish"),
    [
        (Line(flow="none", flow_in="none"), Line(flow="rtscts"), Line(flow="rtscts", flow_in="rtscts")),
        (Line(flow="xonxoff", flow_in="none"), Line(flow="xonxoff"), Line(flow="xonxoff", flow_in="xonxoff")),
        (
            Line(flow="xonxoff", flow_in="xonxoff"),
            Line(flow="none", flow_in="xonxoff"),
            Line(flow="none", flow_in="xonxoff"),
        ),
        (Line(flow="none", flow_in="none"), Line(flow_in="xonxoff"), Line(flow="none", flow_in="xonxoff")),
        (Line(flow="rtscts", flow_in="rtscts"), Line(flow_in="none"), Line()),
        (Line(flow="rtscts", flow_in="rtscts"), Line(flow="none"), Line(flow="none", flow_in="none")),
    ],
)
def test_wishes_about_flow_control(found, asked, wish):
    assert serial._wish(found, asked) == wish


@settings(deadline=None)
@given(
    st.builds(
        Line,
        st.none() | st.integers(1, 4000000),
        st.none() | st.integers(5, 8),
        st.none() | st.sampled_from(["none", "odd", "even", "mark", "space"]),
        st.none() | st.sampled_from([1.0, 1.5, 2.0]),
        st.none() | st.sampled_from(["none", "rtscts", "xonxoff", "dsrdtr", "dcd"]),
        st.none() | st.sampled_from(["none", "rtscts", "xonxoff", "dsrdtr"]),
    ),
    st.sampled_from(["none", "rtscts", "xonxoff"]),
)
def test_a_wish_is_what_the_tty_then_has(asked, flow):
    """Whatever is asked: once the wish is carried out, nothing is left to be wished."""
    t = t2.with_line(t2.Termios(0, 0, 0, 0, 0, bytes(19), 0, 0), Line(9600, 8, "none", 1.0, flow))
    now = t2.line_of(t)
    after = t2.line_of(t2.with_line(t, serial._wish(now, asked)))
    assert not serial._wish(after, asked)


async def test_a_driver_that_refuses_lines_or_break():
    async with opened() as rig:

        def refuse(*args):
            raise OSError(errno.EINVAL, "no")

        rig.uart.set_modem = rig.uart.set_break = refuse
        answer = await rig.answer(SetModem(dtr=False))
        assert (answer.why, answer.in_force) == ("refused", OutputReport(dtr=True, rts=True, break_=False))
        answer = await rig.answer(SetBreak(on=True))
        assert (answer.why, answer.in_force.break_) == ("unsupported", False)


# --- lines, breaks and errors -----------------------------------------------------------------------------------------


async def test_a_line_that_changes_is_news(autojump_clock):
    async with opened(counts=False) as rig:
        rig.uart.bits &= ~CTS
        began = trio.current_time()
        assert await rig.port.receive() == ModemReport(dsr=True, changed=frozenset({"cts"}))
        assert trio.current_time() - began <= 0.04
        assert await rig.answer(GetModem()) == ModemReport(dsr=True)


async def test_a_pulse_between_two_looks_is_counted(autojump_clock):
    async with opened() as rig:
        rig.uart.count(dcd=2, ri=1)
        report = await rig.port.receive()
        assert report == ModemReport(cts=True, dsr=True, changed=frozenset({"dcd", "ri"}))


async def test_levels_are_looked_at_though_the_counters_stand_still(autojump_clock):
    async with opened() as rig:
        rig.uart.bits |= DCD | RI
        report = await rig.port.receive()
        assert report == ModemReport(cts=True, dsr=True, ri=True, dcd=True, changed=frozenset({"dcd", "ri"}))


async def test_a_query_reports_what_changed_first(autojump_clock):
    async with opened() as rig:
        rig.uart.bits &= ~DSR
        news, answer = await rig.ask(GetModem())
        assert news == ModemReport(cts=True, changed=frozenset({"dsr"}))
        assert answer == ModemReport(cts=True)


async def test_news_that_nobody_takes_is_joined_and_bounded(autojump_clock):
    async with opened() as rig:
        for _ in range(50):
            rig.uart.bits ^= CTS
            rig.uart.count(cts=1)
            await trio.sleep(0.05)
        assert len(rig.port._posted) == 1
        for _ in range(2000):
            rig.uart.count(overrun=1, cts=1)
            await trio.sleep(0.02)
        assert len(rig.port._posted) <= serial.NEWS_LIMIT + 2
        lost = 0
        with trio.move_on_after(1):
            while True:
                event = await rig.port.receive()
                lost += event.overrun if isinstance(event, ErrorReport) else 0
        assert lost == 2000


async def test_lost_characters_are_counted(autojump_clock):
    async with opened() as rig:
        rig.uart.count(overrun=3, buffer=2)
        assert await rig.port.receive() == ErrorReport(overrun=3, buffer=2)


async def test_breaks_and_bad_characters_in_their_place():
    async with opened() as rig:
        rig.uart.feed(b"a\xff\xffb\xff\x00\x00c\xff\x00x\xff\x00yd")
        events = [await rig.port.receive() for _ in range(6)]
        assert events == [b"a\xffb", BreakReport(), b"c", b"xy", ErrorReport(framing=2), b"d"]
        rig.uart.feed(b"\xff\x00\x00")
        assert await rig.port.receive() == BreakReport()
        rig.uart.feed(b"\xff", b"\xff")
        assert await rig.port.receive() == b"\xff"


async def test_the_counters_tell_parity_from_framing():
    async with opened(line=Line(9600, 8, "even", 1.0, "none", "none")) as rig:
        rig.uart.count(parity=1, framing=1)
        rig.uart.feed(b"\xff\x00x\xff\x00y")
        assert [await rig.port.receive() for _ in range(2)] == [b"xy", ErrorReport(parity=1, framing=1)]


async def test_a_driver_without_lines_is_virtual():
    async with opened(lines=False) as rig:
        assert rig.first[2:] == [
            OutputReport(dtr=True, rts=True, break_=False, virtual=True),
            ModemReport(cts=True, dsr=True, dcd=True, virtual=True),
        ]
        answer = await rig.answer(SetModem(rts=False))
        assert answer == OutputReport(dtr=True, rts=False, break_=False, virtual=True)
        await rig.answer(SetModem(rts=True))
        assert rig.notes == ["/dev/ttyFAKE0 has no modem lines; they are remembered, and answered as virtual"]


# --- the device goes --------------------------------------------------------------------------------------------------


async def test_unplugged_while_receiving():
    async with opened() as rig:
        rig.uart.feed(b"last words")
        rig.uart.fail()
        assert await rig.port.receive() == b"last words"
        assert await rig.port.receive() == Hangup(reason="unplugged")
        for _ in range(2):
            with pytest.raises(EndpointLost, match="unplugged"):
                await rig.port.receive()
        with pytest.raises(EndpointLost, match="unplugged"):
            await rig.port.send(b"x")


async def test_unplugged_while_sending():
    async with opened() as rig:
        rig.uart.feed(b"last words")
        rig.uart.fail(errno.ENODEV)
        with pytest.raises(EndpointLost, match="unplugged"):
            await rig.port.send(b"x")
        assert await rig.port.receive() == b"last words"
        assert await rig.port.receive() == Hangup(reason="unplugged")


@pytest.mark.parametrize("request_", [SetLine(baud=1), SetModem(dtr=False), SetBreak(on=True), GetModem(), Drain()])
async def test_unplugged_at_a_request(request_):
    async with opened() as rig:
        rig.uart.fail()
        with pytest.raises(EndpointLost):
            await rig.port.send(request_)
        events = [await rig.port.receive() for _ in range(2)]
        assert [type(e) for e in events] == [Failed, Hangup]
        assert (events[0].why, events[0].answers) == ("lost", request_.ref)


async def test_unplugged_before_the_end():
    async with opened() as rig:
        rig.uart.fail()
        with pytest.raises(EndpointLost):
            await rig.port.send(Eof())


async def test_unplugged_in_the_drain(autojump_clock):
    async with opened() as rig:
        rig.uart.held = True
        await rig.port.send(bytes(6000))
        assert rig.port.unsent
        async with trio.open_nursery() as nursery:

            async def lost():
                with pytest.raises(EndpointLost):
                    await rig.port.send(SetLine(baud=300))

            nursery.start_soon(lost)
            await trio.testing.wait_all_tasks_blocked()
            rig.uart.fail()


async def test_the_lines_of_a_device_that_went_tell(autojump_clock):
    async with opened() as rig:
        rig.uart.broken = OSError(errno.EIO, "gone")  # nothing wakes the reader but the look at the lines
        assert await rig.port.receive() == Hangup(reason="unplugged")


# --- closing ----------------------------------------------------------------------------------------------------------


async def test_everything_is_put_back():
    uart = FakeUart(hupcl=False)
    async with opened(uart) as rig:
        await rig.answer(SetLine(baud=19200))
        await rig.answer(SetModem(dtr=False))
        await rig.answer(SetBreak(on=True))
        uart.log.clear()
    assert uart.log == [("drain",), ("break", False), ("restore",), ("modem", DTR, 0), ("close",)]
    assert uart.now == FOUND


async def test_no_line_is_raised_just_before_the_close_drops_it():
    uart = FakeUart(hupcl=True)
    async with opened(uart) as rig:
        await rig.answer(SetModem(dtr=False))
        uart.log.clear()
    assert uart.words == ["drain", "restore", "close"]


async def test_untouched_lines_stay_untouched():
    async with opened() as rig:
        pass
    assert rig.uart.words == ["drain", "restore", "close"]


async def test_close_lets_bytes_go_and_drops_what_is_held(autojump_clock):
    async with opened() as rig:
        await rig.port.send(bytes(960))
    assert rig.uart.sent == bytes(960)
    async with opened() as rig:
        rig.uart.held = True
        await rig.port.send(bytes(5000))
        began = trio.current_time()
    assert trio.current_time() - began <= serial.CLOSE_WAIT + 0.01
    assert rig.notes == ["/dev/ttyFAKE0: 5000 bytes could not be sent, and were dropped"]
    assert ("flush", False, True) in rig.uart.log


async def test_close_wakes_everybody(autojump_clock):
    async with opened() as rig:
        rig.uart.held = True
        ended = []

        async def ends(function, *args):
            with pytest.raises(trio.ClosedResourceError):
                await function(*args)
            ended.append(function)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ends, rig.port.receive)
            nursery.start_soon(ends, rig.port.send, bytes(5000))
            await trio.testing.wait_all_tasks_blocked()
            await rig.port.aclose()
        assert len(ended) == 2
        await rig.port.aclose()
        for call in (rig.port.receive(), rig.port.send(b"x"), rig.port.send(GetModem())):
            with pytest.raises(trio.ClosedResourceError):
                await call


async def test_close_in_the_middle_of_a_control_leaves_nothing_set(autojump_clock):
    async with opened() as rig:
        await rig.port.send(bytes(960))
        async with trio.open_nursery() as nursery:

            async def set_line():
                with pytest.raises(trio.ClosedResourceError):
                    await rig.port.send(SetLine(baud=300))

            nursery.start_soon(set_line)
            await trio.testing.wait_all_tasks_blocked()
            await rig.port.aclose()
    assert rig.uart.words[-1] == "close"
    assert rig.uart.now == FOUND


async def test_close_survives_a_device_that_is_gone():
    async with opened() as rig:
        rig.uart.fail()
        with pytest.raises(EndpointLost):
            await rig.port.send(b"x")
    assert rig.uart.words[-2:] == ["restore", "close"]


# --- with real threads ------------------------------------------------------------------------------------------------


class SlowUart(FakeUart):
    """Its calls are made in worker threads, as a USB adapter's; `names` are the threads of each call."""

    def __init__(self, **kwargs):
        super().__init__(quick=False, **kwargs)
        self.in_loop = Counter()
        self._loop_thread = threading.get_ident()

    def _note(self, name):
        self.in_loop[name] += threading.get_ident() == self._loop_thread

    def set_line(self, line):
        self._note("set_line")
        self.log.append(("set", line))
        self.now = Line(line.baud, line.bytesize, line.parity, line.stopbits, line.flow, line.flow_in).over(self.now)

    def modem(self):
        self._note("modem")
        return super().modem()

    def set_modem(self, on, off):
        self._note("set_modem")
        super().set_modem(on, off)

    def set_break(self, on):
        self._note("set_break")
        super().set_break(on)

    def flush(self, *, rx, tx):
        self._note("flush")

    def drain(self):
        self._note("drain")
        self.log.append(("drain",))

    def close(self):
        self._note("close")
        super().close()

    def restore(self):
        self._note("restore")
        return super().restore()


async def test_what_may_wait_is_never_called_in_the_loop():
    uart = SlowUart(hupcl=False, line=Line(3000000, 8, "none", 1.0, "none", "none"))
    async with opened(uart) as rig:
        await rig.port.send(b"abc")
        for request in (
            SetLine(parity="even"),
            SetModem(dtr=False, rts=False),
            SetBreak(on=True),
            SetBreak(on=False),
            GetModem(),
            Purge(rx=True, tx=True),
            Drain(),
        ):
            assert not isinstance(await rig.answer(request), Failed)
    assert set(uart.in_loop) == {"set_line", "modem", "set_modem", "set_break", "flush", "drain", "close", "restore"}
    assert sum(uart.in_loop.values()) == 0


async def test_a_drain_that_hangs_in_the_kernel_is_left_to_its_thread():
    uart = SlowUart(line=Line(3000000, 8, "none", 1.0, "rtscts", "rtscts"))
    hang = threading.Event()
    drains = []

    def drain():
        drains.append(1)
        hang.wait(30)

    async with opened(uart) as rig:
        uart.drain = drain
        for request in (SetLine(flow="none"), Drain()):
            await rig.port.send(request)  # each ends at its deadline
        assert drains == [1]
        assert rig.notes
        hang.set()
        assert await rig.answer(GetSignature())


# --- on a real pty ----------------------------------------------------------------------------------------------------


@pytest.fixture
def tty_pair():
    master, slave = os.openpty()
    tty.setraw(slave)
    os.set_blocking(master, False)
    yield master, slave, os.ttyname(slave)
    for fd in (master, slave):
        with contextlib.suppress(OSError):
            os.close(fd)


class PtyRig:
    def __init__(self, port, notes):
        self.port, self.notes = port, notes

    async def answer(self, request):
        await self.port.send(request)
        while True:
            event = await self.port.receive()
            if getattr(event, "answers", None) == request.ref:
                return replace(event, answers=None)


@contextlib.asynccontextmanager
async def on_pty(path, driver=TtyDriver, **options):
    notes = []
    async with trio.open_nursery() as nursery:
        context = Context(note=lambda text, level: notes.append(text))
        port = await Serial(device=path, **options).open(nursery, context)
        try:
            yield PtyRig(port, notes)
        finally:
            await port.aclose()


async def read_master(master, size):
    data = b""
    while len(data) < size:
        await trio.lowlevel.wait_readable(master)
        data += os.read(master, 65536)
    return data


async def test_a_pty_says_what_it_is(tty_pair):
    _, slave, path = tty_pair
    async with on_pty(path) as rig:
        first = [await rig.port.receive() for _ in range(4)]
        assert first[0] == Opened(peer=path)
        assert first[1] == LineReport(values=t2.line_of(t2.get(slave)))
        assert first[2] == OutputReport(dtr=True, rts=True, break_=False, virtual=True)
        assert first[3] == ModemReport(cts=True, dsr=True, dcd=True, virtual=True)
        assert rig.notes == []


async def test_bytes_both_ways_unchanged(tty_pair):
    master, _, path = tty_pair
    there, back = os.urandom(1 << 20), os.urandom(1 << 20)
    async with on_pty(path) as rig, trio.open_nursery() as nursery:
        for _ in range(4):
            await rig.port.receive()

        async def feed():
            rest = memoryview(back)
            while rest:
                await trio.lowlevel.wait_writable(master)
                try:
                    rest = rest[os.write(master, rest) :]
                except BlockingIOError:
                    pass

        async def collect():
            got = b""
            while len(got) < len(back):
                got += await rig.port.receive()
            assert got == back

        async def send():
            for at in range(0, len(there), 5000):
                await rig.port.send(there[at : at + 5000])

        nursery.start_soon(feed)
        nursery.start_soon(collect)
        nursery.start_soon(send)
        assert await read_master(master, len(there)) == there


class RecordingTty(TtyDriver):
    """A real one, with what is done to it in `log`."""

    log: ClassVar[list] = []

    def write(self, data):
        count = super().write(data)
        self.log.append(("write", bytes(data[:count])))
        return count

    def drain(self):
        super().drain()
        self.log.append(("drain", self.unsent()))

    def set_line(self, line):
        self.log.append(("set", line.baud))
        super().set_line(line)


async def test_order_on_a_pty(tty_pair, monkeypatch):
    master, slave, path = tty_pair
    monkeypatch.setattr(RecordingTty, "log", [])
    monkeypatch.setattr(_serial_driver, "TtyDriver", RecordingTty)
    async with on_pty(path, baud=115200) as rig:
        RecordingTty.log.clear()
        await rig.port.send(b"OLD")
        await rig.port.send(SetLine(baud=9600))
        assert t2.line_of(t2.get(slave)).baud == 9600
        await rig.port.send(b"NEW")
        assert await read_master(master, 6) == b"OLDNEW"
        assert RecordingTty.log == [("write", b"OLD"), ("drain", 0), ("set", 9600), ("write", b"NEW")]


async def test_what_a_pty_cannot_do_is_remembered_and_said_once(tty_pair):
    _, slave, path = tty_pair
    async with on_pty(path) as rig:
        answer = await rig.answer(SetLine(baud=250000, bytesize=7, parity="even", stopbits=2, flow="rtscts"))
        assert answer.values == Line(250000, 7, "even", 2.0, "rtscts", "rtscts")
        assert answer.virtual
        kernel = t2.line_of(t2.get(slave))
        assert (kernel.baud, kernel.bytesize, kernel.parity, kernel.stopbits) == (250000, 8, "none", 2.0)
        answer = await rig.answer(SetLine())
        assert (answer.values.bytesize, answer.values.parity, answer.virtual) == (7, "even", True)
        assert (await rig.answer(SetLine(bytesize=5))).values.stopbits == 1.5
        answer = await rig.answer(SetLine(bytesize=8, parity="none"))
        assert (answer.values.stopbits, answer.virtual) == (2.0, False)
        assert await rig.answer(SetModem(dtr=False)) == OutputReport(dtr=False, rts=True, break_=False, virtual=True)
        assert await rig.answer(SetBreak(on=True)) == OutputReport(dtr=False, rts=True, break_=True, virtual=True)
        assert (await rig.answer(GetModem())).virtual
        text = "is a pty: no modem lines, no break, always 8 bits without parity; these are remembered"
        assert rig.notes == [f"{path} {text}, and answered as virtual"]


async def test_every_request_is_answered_by_its_ref(tty_pair):
    _, _, path = tty_pair
    requests = [
        SetLine(),
        SetLine(baud=1200),
        SetLine(flow="dcd"),
        SetModem(),
        SetModem(rts=False),
        SetBreak(),
        SetBreak(on=True),
        GetModem(),
        Purge(rx=True),
        Purge(tx=True),
        Purge(),
        Drain(),
        GetSignature(),
    ]
    async with on_pty(path) as rig:
        for request in requests:
            await rig.port.send(request)
        for _ in range(4):
            await rig.port.receive()
        assert [(await rig.port.receive()).answers for _ in requests] == [request.ref for request in requests]


async def test_purge_drops_what_the_kernel_has(tty_pair):
    master, slave, path = tty_pair
    async with on_pty(path) as rig:
        for _ in range(4):
            await rig.port.receive()
        os.write(master, b"old")
        await trio.lowlevel.wait_readable(slave)
        await rig.answer(Purge(rx=True))
        os.write(master, b"new")
        assert await rig.port.receive() == b"new"


@pytest.mark.parametrize("before", ["raw", "cooked", "soft"])
async def test_settings_come_back_as_they_were(tty_pair, before):
    _, slave, path = tty_pair
    found = t2.get(slave)
    if before == "cooked":
        subprocess.run(["stty", "-F", path, "sane", "4800", "cstopb"], check=True)
    elif before == "soft":
        t2.put(slave, t2.with_line(found, Line(flow="xonxoff")))
    found = t2.get(slave)
    async with on_pty(path, baud=57600, flow="rtscts") as rig:
        await rig.answer(SetLine(baud=300, stopbits=1))
        assert t2.get(slave) != found
    assert t2.get(slave) == found


async def test_output_flow_control_of_a_terminal_is_not_the_lines(tty_pair):
    """IXON alone on a canonical tty is the kernel's default; asked for, or in raw mode, it stays."""
    _, slave, path = tty_pair
    raw = t2.get(slave)
    t2.put(slave, replace(raw, iflag=raw.iflag | termios.IXON, lflag=raw.lflag | termios.ICANON))
    async with on_pty(path):
        assert t2.line_of(t2.get(slave)).flow == "none"
    t2.put(slave, t2.with_line(t2.raw(t2.get(slave)), Line(flow="xonxoff")))
    async with on_pty(path):
        assert t2.line_of(t2.get(slave)).flow == "xonxoff"


@pytest.mark.parametrize(("option", "there"), [("on", True), ("off", False)])
async def test_hupcl_stays_as_asked(tty_pair, option, there):
    _, slave, path = tty_pair
    async with on_pty(path, hupcl=option):
        pass
    assert bool(t2.get(slave).cflag & termios.HUPCL) is there


async def test_options_a_pty_has_not_are_virtual(tty_pair):
    _, _, path = tty_pair
    async with on_pty(path, baud=9600, bytesize=7, parity="odd", dtr="off") as rig:
        first = [await rig.port.receive() for _ in range(4)]
        assert (first[1].values.bytesize, first[1].values.parity, first[1].virtual) == (7, "odd", True)
        assert first[2] == OutputReport(dtr=False, rts=True, break_=False, virtual=True)
        assert rig.port.title == f"{path} 9600 7O1 flow=none"
        assert len(rig.notes) == 1


async def test_the_master_closes(tty_pair):
    master, _, path = tty_pair
    async with on_pty(path) as rig:
        for _ in range(4):
            await rig.port.receive()
        os.close(master)
        assert await rig.port.receive() == Hangup(reason="the other end of this pty was closed")
        with pytest.raises(EndpointLost, match="the other end of this pty was closed"):
            await rig.port.receive()
        with pytest.raises(EndpointLost, match="the other end of this pty was closed"):
            await rig.port.send(b"x")


async def test_a_read_of_nothing_is_no_end(tty_pair):
    """Somebody else sets VMIN to 0 on the same tty: a read gives b"" then, and the port goes on."""
    master, slave, path = tty_pair
    async with on_pty(path) as rig:
        for _ in range(4):
            await rig.port.receive()
        t = t2.get(slave)
        cc = bytearray(t.cc)
        cc[termios.VMIN] = 0
        t2.put(slave, t2.Termios(t.iflag, t.oflag, t.cflag, t.lflag, t.line, bytes(cc), t.ispeed, t.ospeed))
        with trio.move_on_after(0.05) as scope:
            await rig.port.receive()
        assert scope.cancelled_caught
        os.write(master, b"on we go")
        assert await rig.port.receive() == b"on we go"


# --- opening what cannot be opened ------------------------------------------------------------------------------------


async def failure(spec):
    before = open_descriptors()
    async with trio.open_nursery() as nursery:
        with pytest.raises(OpenFailed) as caught:
            await spec.open(nursery, Context())
    assert open_descriptors() == before
    return str(caught.value)


async def test_no_such_device(tmp_path, monkeypatch):
    monkeypatch.setattr(_serial_find, "SYSFS", tmp_path)
    assert await failure(Serial(device="/dev/ttyNONE9")) == (
        "/dev/ttyNONE9: no such device; this machine has no serial port"
    )


async def test_no_terminal(tmp_path):
    assert await failure(Serial(device="/dev/null")) == "/dev/null: is not a terminal device; use file: for a file"
    (tmp_path / "file").touch()
    assert "use file: for a file" in await failure(Serial(device=str(tmp_path / "file")))


async def test_no_permission_names_the_group(monkeypatch):
    error = PermissionError(errno.EACCES, "no")
    monkeypatch.setattr(serial, "_group_of", lambda path: "dialout")
    assert str(serial._cannot_open("/dev/ttyS0", error)) == (
        "/dev/ttyS0: permission denied: it is for the group dialout; usermod -aG dialout $USER"
    )


async def test_a_second_opening_is_refused_and_the_first_goes_on(tty_pair, lock_folder):
    _, _, path = tty_pair
    async with on_pty(path) as rig:
        assert os.listdir(lock_folder) == [f"LCK..{os.path.basename(path)}"]
        text = await failure(Serial(device=path))
        assert text.startswith(f"{path}: in use by ")
        assert "exclusive=off" in text
        async with on_pty(path, exclusive=False):
            pass
        assert isinstance(await rig.answer(GetSignature()), Signature)
    assert os.listdir(lock_folder) == []
    async with on_pty(path):
        pass


async def test_the_lock_of_another_program_is_respected(tty_pair):
    _, _, path = tty_pair
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        child.stdin.write(b"x")
        child.stdin.flush()
        child.stdout.read(1)
        Path(_serial_lock.lock_file(path)).write_text(f"{child.pid:10d}\n")
        assert f"in use by cat (pid {child.pid})" in await failure(Serial(device=path))
    finally:
        child.kill()
        child.communicate()


async def test_a_pty_never_gets_tiocexcl(tty_pair):
    _, slave, path = tty_pair
    state = array.array("i", [1])
    async with on_pty(path):
        fcntl.ioctl(slave, 0x80045440, state)  # TIOCGEXCL
        assert state[0] == 0


# --- cancellation -----------------------------------------------------------------------------------------------------


def test_cancelled_at_every_step_nothing_is_left(lock_folder):
    master, slave = os.openpty()
    tty.setraw(slave)
    path = os.ttyname(slave)
    found = t2.get(slave)

    async def scenario():
        async with trio.open_nursery() as nursery:
            port = await Serial(device=path, baud=115200).open(nursery, Context(note=lambda text, level: None))
            try:
                for _ in range(4):
                    await port.receive()
                nursery.start_soon(read_master, master, 60000)
                await port.send(bytes(60000))
                await port.send(SetLine(baud=9600, parity="even"))
                await port.send(b"NEW")
                await port.send(SetBreak(on=True))
                await port.send(SetModem(dtr=False))
                await port.send(Drain())
                os.write(master, b"x")
                while await port.receive() != b"x":
                    pass
                await port.send(Eof())
            finally:
                await port.aclose()

    def check():
        assert t2.get(slave) == found
        assert os.listdir(lock_folder) == []
        fcntl.flock(slave, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(slave, fcntl.LOCK_UN)
        t2.flush(slave, rx=True, tx=True)
        t2.flush(master, rx=True, tx=True)

    os.set_blocking(master, False)
    assert cancel_at_every_step(scenario, check) > 5
    os.close(master)
    os.close(slave)


@pytest.mark.parametrize("kind", [FakeUart, SlowUart])
def test_cancelled_at_every_step_a_uart_is_as_it_was(kind):
    uarts = []

    async def scenario():
        uart = kind(hupcl=False)
        uarts.append(uart)
        async with opened(uart, Start(line=Line(baud=4000000))) as rig:
            try:
                await rig.port.send(bytes(5000))
                await rig.port.send(SetLine(baud=3000000))
                await rig.port.send(SetBreak(on=True))
                await rig.port.send(SetModem(dtr=False))
                await rig.port.send(SetBreak(on=False))
                await rig.port.send(SetBreak(on=True))
            finally:
                await rig.port.aclose()

    def check():
        uart = uarts.pop()
        words = [word for word in uart.words if word != "drain"]  # one that was left to its thread may come last
        assert not words or words[-1] == "close"
        assert words.count("close") <= 1
        assert uart.now == FOUND
        assert uart.bits & (DTR | RTS) == DTR | RTS
        breaks = [entry[1] for entry in uart.log if entry[0] == "break"]
        assert not breaks or breaks[-1] is False

    assert cancel_at_every_step(scenario, check) > 5


# --- the words --------------------------------------------------------------------------------------------------------


def test_what_names_a_port():
    assert Serial(device="/dev/ttyUSB0", baud=115200).describe() == "serial /dev/ttyUSB0 115200"
    usb = serial.USB.parse("0403:6001:A50285BI")
    assert Serial(usb=usb).describe() == "serial usb=0403:6001:A50285BI"
    with pytest.raises(BadValue, match="device is missing"):
        Serial()
    with pytest.raises(BadValue, match="named by device already"):
        Serial(device="/dev/x", usb=usb)
    for wrong in ("0403", "0403:", "xyz:6001", "0403:6001:", "10403:6001"):
        with pytest.raises(BadValue, match="VID:PID"):
            serial.USB.parse(wrong)
    with pytest.raises(BadValue, match="no regular expression"):
        serial.EXPRESSION.parse("(")


# --- pySerial's driver ------------------------------------------------------------------------------------------------


@pytest.fixture
def by_pyserial(monkeypatch):
    monkeypatch.setattr(
        serial,
        "open_driver",
        lambda path, *, exclusive, token: PySerialDriver.open(path, exclusive=exclusive, token=token),
    )


async def test_pyserial_carries_bytes_and_settings(tty_pair, by_pyserial):
    master, slave, path = tty_pair
    async with on_pty(path, baud=57600) as rig:
        first = [await rig.port.receive() for _ in range(4)]
        assert first[1].values.baud == 57600
        assert first[3].virtual
        there, back = os.urandom(50000), os.urandom(3000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.port.send, there)
            assert await read_master(master, len(there)) == there
        os.write(master, back)
        got = b""
        while len(got) < len(back):
            got += await rig.port.receive()
        assert got == back
        answer = await rig.answer(SetLine(baud=19200, stopbits=2))
        assert (answer.values.baud, answer.values.stopbits) == (19200, 2.0)
        assert t2.line_of(t2.get(slave)).baud == 19200
        assert await rig.answer(Drain()) == Drained()


async def test_pyserial_refuses_a_second_opening(tty_pair, by_pyserial):
    _, _, path = tty_pair
    async with on_pty(path):
        assert "in use" in await failure(Serial(device=path))


async def test_pyserial_tells_that_the_device_went(tty_pair, by_pyserial):
    master, _, path = tty_pair
    async with on_pty(path) as rig:
        for _ in range(4):
            await rig.port.receive()
        os.close(master)
        assert isinstance(await rig.port.receive(), Hangup)
        with pytest.raises(EndpointLost):
            await rig.port.receive()
