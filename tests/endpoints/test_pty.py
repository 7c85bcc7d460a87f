"""The pseudo-terminal, driven by real programs at its slave and by a port that these tests play at its other side."""

import contextlib
import fcntl
import grp
import hashlib
import os
import random
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import serial
import trio
from fakes_cancel import cancel_at_every_step
from trio.testing import wait_all_tasks_blocked

from serpipe import _inotify, _termios2
from serpipe.endpoints.base import Context
from serpipe.endpoints.pty import Pty, PtyEndpoint, _Master
from serpipe.errors import BadValue, OpenFailed
from serpipe.events import (
    BreakReport,
    Eof,
    Failed,
    Line,
    LineReport,
    ModemReport,
    OutputReport,
    Purge,
    PurgeDone,
    SetBreak,
    SetLine,
    SetModem,
)
from serpipe.options import table

FOUND = Line(115200, 8, "none", 1.0, "none", "none")
SERIAL = termios.CREAD | termios.CLOCAL | termios.HUPCL


class Port:
    """What stands at the other end: answers requests as a port does, and keeps all that came."""

    def __init__(self, pty, line=FOUND):
        self.pty = pty
        self.line = line
        self.events = []
        self.data = bytearray()
        self.refuses = {}
        """Field -> what is in force instead."""
        self.silent = False
        self.opened = trio.Event()
        self._news = trio.Event()

    async def run(self):
        if self.line is not None:
            await self.pty.send(LineReport(values=self.line))
        self.opened.set()
        while True:
            try:
                event = await self.pty.receive()
            except (trio.ClosedResourceError, trio.EndOfChannel):
                return
            if type(event) is bytes:
                self.data += event
                self.events.append(event)
            else:
                self.events.append(event)
                if not self.silent:
                    await self.answer(event)
            self._news.set()
            self._news = trio.Event()

    async def answer(self, event):
        if isinstance(event, SetLine):
            asked = {k: v for k in ("baud", "stopbits", "flow", "flow_in") if (v := getattr(event, k)) is not None}
            if event.flow is not None and event.flow_in is None:
                asked["flow_in"] = event.flow
            self.line = replace(self.line or FOUND, **(asked | self.refuses))
            await self.pty.send(LineReport(answers=event.ref, values=self.line, requested=event.line))
        elif isinstance(event, Purge):
            await self.pty.send(PurgeDone(answers=event.ref, rx=event.rx, tx=event.tx))
        elif isinstance(event, (SetModem, SetBreak)):
            await self.pty.send(OutputReport(answers=event.ref))

    async def until(self, condition):
        """Wait until what has come satisfies `condition(port)`."""
        with trio.fail_after(5):
            while not condition(self):
                await self._news.wait()

    @property
    def controls(self):
        return [event for event in self.events if type(event) is not bytes]

    @property
    def settings(self):
        """What the SetLines asked, merged into each other in order."""
        return [event.line for event in self.events if isinstance(event, SetLine)]


@contextlib.asynccontextmanager
async def standing(line=FOUND, faces="port", notes=None, play=True, **options):
    """A pty and the port that faces it."""
    noted = notes if notes is not None else []
    context = Context(faces=faces, note=lambda text, level: noted.append((level, text)))
    async with trio.open_nursery() as nursery:
        pty = await Pty(**options).open(nursery, context)
        port = Port(pty, line)
        try:
            if play:
                nursery.start_soon(port.run)
                await port.opened.wait()
            yield pty, port
        finally:
            with trio.CancelScope(shield=True):
                await pty.aclose()
        nursery.cancel_scope.cancel()


@contextlib.contextmanager
def opened(pty, flags=os.O_RDWR):
    """The slave, as a program has it open; blocking calls on it are for threads."""
    fd = os.open(pty.where, flags | os.O_NOCTTY | os.O_NONBLOCK)
    try:
        yield fd
    finally:
        os.close(fd)


async def run(*argv):
    """A program to its end; its output."""
    done = await trio.run_process([str(arg) for arg in argv], capture_stdout=True, capture_stderr=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


async def stty(pty, *words):
    return await run("stty", "-F", pty.where, *words)


async def hang_up(pty):
    """``stty 0``, which says that it could not do all it was asked, on any pty, and has done it."""
    await trio.run_process(["stty", "-F", pty.where, "0"], capture_stderr=True, check=False)


def shown(pty):
    """What the slave's termios says."""
    return _termios2.line_of(_termios2.get(pty._master.fd))


async def read_slave(fd, count):
    """Exactly `count` bytes, or fewer at the end."""
    data = bytearray()
    with trio.fail_after(5):
        while len(data) < count:
            try:
                chunk = os.read(fd, 65536)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(fd)
                continue
            if not chunk:
                break
            data += chunk
    return bytes(data)


async def write_slave(fd, data):
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:
            await trio.lowlevel.wait_writable(fd)


async def seen(condition):
    """Until something that no event tells is so."""
    with trio.fail_after(5):
        while not condition():
            await trio.lowlevel.checkpoint()


# --- what it is at the start ------------------------------------------------------------------------------------------


async def test_made_raw_as_a_serial_port_is_found(tmp_path):
    async with standing(line=None, link=str(tmp_path / "x")) as (pty, _):
        assert pty.where == str(tmp_path / "x")
        assert os.readlink(pty.where).startswith("/dev/pts/")
        t = _termios2.get(pty._master.fd)
        assert _termios2.line_of(t) == Line(9600, 8, "none", 1.0, "none", "none")
        assert (t.iflag, t.oflag & termios.OPOST, t.lflag) == (0, 0, _termios2.EXTPROC)
        assert t.cflag & SERIAL == SERIAL
        assert (t.cc[termios.VMIN], t.cc[termios.VTIME]) == (1, 0)
    assert list(tmp_path.iterdir()) == []


async def test_without_a_link_its_path_is_told():
    async with standing() as (pty, _):
        assert pty.where.startswith("/dev/pts/")
        assert pty.title == f"pty:{pty.where}"
        await stty(pty, "57600")


async def test_mode_and_owner_are_set_before_anybody_can_open_it(monkeypatch):
    before = []
    ioctl = fcntl.ioctl

    def spy(fd, request, *rest):
        if request == 0x40045431:  # TIOCSPTLCK
            number = struct.unpack("I", ioctl(fd, 0x80045430, b"\0\0\0\0"))[0]
            stat = os.stat(f"/dev/pts/{number}")
            before.append((stat.st_mode & 0o777, stat.st_gid, _termios2.get(fd).lflag))
            with pytest.raises(OSError, match="Input/output"):
                os.open(f"/dev/pts/{number}", os.O_RDWR | os.O_NOCTTY)
        return ioctl(fd, request, *rest)

    monkeypatch.setattr(fcntl, "ioctl", spy)
    groups = [*os.getgroups(), os.getgid()]
    async with standing(mode=0o640, user=os.getuid(), group=groups[0]) as (pty, _):
        assert before == [(0o640, groups[0], _termios2.EXTPROC)]
        stat = os.stat(pty.where)
        assert (stat.st_mode & 0o777, stat.st_uid) == (0o640, os.getuid())


def test_a_user_or_group_by_name_or_number():
    kinds = {option.key: option.kind for option in table(Pty)}
    assert kinds["user"].parse("0") == 0
    assert kinds["user"].parse("root") == 0
    name = grp.getgrgid(os.getgid()).gr_name
    assert kinds["group"].parse(name) == os.getgid()
    with pytest.raises(BadValue, match="there is no user 'nobody-at-all'"):
        kinds["user"].parse("nobody-at-all")


async def test_a_link_that_cannot_be_made_leaves_nothing(tmp_path, nursery, no_leaks):
    (tmp_path / "x").write_bytes(b"mine")
    with no_leaks(), pytest.raises(OpenFailed, match=r"x: there is a file of that name; remove it"):
        await Pty(link=str(tmp_path / "x")).open(nursery, Context())
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


async def test_a_pty_that_cannot_be_made_leaves_nothing(tmp_path, nursery, no_leaks, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "chmod", full)
    with no_leaks(), pytest.raises(OpenFailed, match="no pty is left"):
        await Pty(link=str(tmp_path / "x"), mode=0o600).open(nursery, Context())
    assert list(tmp_path.iterdir()) == []


async def test_the_link_of_a_killed_serpipe_is_taken_over(tmp_path, nursery):
    code = (
        "import sys, trio\n"
        "from serpipe.endpoints.pty import Pty\n"
        "from serpipe.endpoints.base import Context\n"
        "async def main():\n"
        "    async with trio.open_nursery() as nursery:\n"
        "        pty = await Pty(link=sys.argv[1]).open(nursery, Context())\n"
        "        print(pty.where, flush=True)\n"
        "        await trio.sleep_forever()\n"
        "trio.run(main)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "x")], stdout=subprocess.PIPE)
    with process.stdout:
        assert process.stdout.readline().strip() == str(tmp_path / "x").encode()
        with pytest.raises(OpenFailed, match=rf"running serpipe \(process {process.pid}\)"):
            await Pty(link=str(tmp_path / "x")).open(nursery, Context())
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (tmp_path / "x").is_symlink()
    async with standing(link=str(tmp_path / "x")) as (pty, port):
        await stty(pty, "57600")
        await port.until(lambda port: port.settings)
    assert list(tmp_path.iterdir()) == []


# --- settings ---------------------------------------------------------------------------------------------------------


async def test_stty_shows_the_far_port():
    far = Line(230400, 7, "even", 2.0, "rtscts", "rtscts")
    async with standing(line=far) as (pty, port):
        text = await stty(pty, "-a")
        assert "speed 230400 baud" in text
        assert " cstopb" in text
        assert " crtscts" in text
        await pty.send(LineReport(values=Line(9600, 8, "none", 1.0, "xonxoff", "none")))
        text = await stty(pty, "-a")
        assert "speed 9600 baud" in text
        assert " -cstopb" in text
        assert " -crtscts" in text
        assert " ixon -ixoff" in text
    assert port.controls == []


RATES = [50, 75, 110, 134, 150, 200, 300, 600, 1200, 1800, 2400, 4800, 9600, 19200, 38400, 57600, 115200, 230400]
RATES += [460800, 500000, 576000, 921600, 1000000, 1152000, 1500000, 2000000, 2500000, 3000000, 3500000, 4000000]


async def test_every_rate_of_stty():
    async with standing(line=replace(FOUND, baud=31250)) as (pty, port):
        for rate in RATES:
            await stty(pty, str(rate))
            await port.until(lambda port, rate=rate: port.line.baud == rate)
        assert port.settings == [Line(baud=rate) for rate in RATES]


@pytest.mark.parametrize("rate", [250000, 74880, 31250, 1, 12_000_000])
async def test_a_rate_of_no_constant(rate):
    async with standing() as (pty, port):
        with opened(pty) as fd:
            _termios2.put(fd, _termios2.with_line(_termios2.get(fd), Line(baud=rate)))
            await port.until(lambda port: port.line.baud == rate)
            await wait_all_tasks_blocked()
            assert port.settings == [Line(baud=rate)]
            assert _termios2.get(fd).ospeed == rate


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (["19200"], Line(baud=19200)),
        (["cstopb"], Line(stopbits=2.0)),
        (["crtscts"], Line(flow="rtscts")),
        (["ixon", "ixoff"], Line(flow="xonxoff")),
        (["ixoff"], Line(flow_in="xonxoff")),
        (["ixon"], Line(flow="xonxoff", flow_in="none")),
        (["19200", "cstopb", "crtscts"], Line(baud=19200, stopbits=2.0, flow="rtscts")),
    ],
)
async def test_one_request_with_just_what_changed(words, asked):
    async with standing() as (pty, port):
        await stty(pty, *words)
        await port.until(lambda port: port.settings)
        before = _termios2.get(pty._master.fd)
        # a second program that sets the same asks for nothing
        await stty(pty, *words)
        await stty(pty, "2400")
        await port.until(lambda port: port.line.baud == 2400)
        assert port.settings == [asked, Line(baud=2400)]
        assert _termios2.with_line(before, Line(baud=2400)) == _termios2.get(pty._master.fd)


async def test_two_stop_bits_of_five_data_bits_are_one_and_a_half():
    async with standing(line=replace(FOUND, bytesize=5)) as (pty, port):
        await stty(pty, "cstopb")
        await port.until(lambda port: port.settings)
        assert port.settings == [Line(stopbits=1.5)]
        await stty(pty, "-cstopb")
        await port.until(lambda port: len(port.settings) == 2)
        assert port.settings[1] == Line(stopbits=1.0)


async def test_flow_control_that_a_tty_does_not_know_is_no_change():
    async with standing(line=replace(FOUND, flow="dsrdtr", flow_in=None)) as (pty, port):
        await stty(pty, "9600")
        await port.until(lambda port: port.settings)
        await stty(pty, "crtscts")
        await port.until(lambda port: len(port.settings) == 2)
        await stty(pty, "-crtscts")
        await port.until(lambda port: len(port.settings) == 3)
        assert port.settings == [Line(baud=9600), Line(flow="rtscts"), Line(flow="none")]


async def test_opening_alone_sets_nothing():
    async with standing() as (pty, port):
        for flags in (os.O_RDWR, os.O_RDONLY, os.O_WRONLY):
            with opened(pty, flags):
                await seen(lambda: pty._is_open)
            await seen(lambda: not pty._is_open)
        await stty(pty, "9600")
        await port.until(lambda port: port.controls)
        assert port.controls == [SetLine(baud=9600)]


async def test_what_is_set_is_compared_with_the_port_and_not_with_what_was_shown():
    async with standing() as (pty, port):
        with opened(pty) as fd:
            port.silent = True
            t = _termios2.get(fd)
            _termios2.put(fd, _termios2.with_line(t, Line(baud=9600)))
            await port.until(lambda port: len(port.settings) == 1)
            _termios2.put(fd, t)  # back to what the port has, and will not have when it has done what was asked
            await port.until(lambda port: len(port.settings) == 2)
            assert port.settings == [Line(baud=9600), Line(baud=115200)]


@pytest.mark.parametrize("how", ["differs", "refused", "refused without a word"])
async def test_a_refused_setting_is_put_to_the_truth_once(how):
    notes = []
    async with standing(notes=notes) as (pty, port):
        with opened(pty) as fd:
            port.silent = True
            _termios2.put(fd, _termios2.with_line(_termios2.get(fd), Line(baud=250000, stopbits=2.0)))
            await port.until(lambda port: port.settings)
            assert shown(pty).baud == 250000
            request = port.controls[0]
            truth = LineReport(values=replace(FOUND, stopbits=2.0), requested=request.line)
            if how == "differs":
                await pty.send(replace(truth, answers=request.ref))
            else:
                truth = truth if how == "refused" else None
                await pty.send(Failed(answers=request.ref, why="refused", in_force=truth))
            assert shown(pty) == replace(FOUND, stopbits=1.0 if truth is None else 2.0)
            port.silent = False
            os.write(fd, b"after")
            await port.until(lambda port: port.data == b"after")
            assert len(port.controls) == 1, "our own change came back as a request"
            assert len(notes) == (how != "differs")
            # and what it sets next is compared with the truth
            _termios2.put(fd, _termios2.with_line(_termios2.get(fd), Line(baud=250000)))
            await port.until(lambda port: len(port.controls) == 2)
            assert port.controls[1] == SetLine(baud=250000)


async def test_a_truth_that_comes_late_waits_for_what_was_asked_since():
    async with standing() as (pty, port):
        with opened(pty) as fd:
            port.silent = True
            for count, rate in enumerate((9600, 19200), 1):
                _termios2.put(fd, _termios2.with_line(_termios2.get(fd), Line(baud=rate)))
                await port.until(lambda port, count=count: len(port.settings) == count)
            first, second = port.controls
            await pty.send(LineReport(answers=first.ref, values=replace(FOUND, baud=4800)))
            assert shown(pty).baud == 19200
            await pty.send(LineReport(values=replace(FOUND, baud=4800, stopbits=2.0)))
            assert shown(pty) == replace(FOUND, baud=19200, stopbits=2.0), "news of what was not asked is shown"
            await pty.send(Failed(answers=second.ref, why="unsupported"))
            assert shown(pty) == replace(FOUND, baud=4800, stopbits=2.0)
            assert len(port.controls) == 2


async def test_a_change_that_is_not_read_yet_survives_a_report():
    """The program's tcsetattr falls between the report's sending and its arrival: it is a wish, and not undone."""
    async with standing(play=False) as (pty, _):
        await pty.send(LineReport(values=FOUND))
        with opened(pty) as fd:
            _termios2.put(fd, _termios2.with_line(_termios2.get(fd), Line(baud=9600)))
            await pty.send(LineReport(values=replace(FOUND, stopbits=2.0)))
            assert shown(pty) == replace(FOUND, baud=9600, stopbits=2.0)
            assert await pty.receive() == SetLine(baud=9600)


async def test_a_change_in_the_middle_of_ours_is_seen(monkeypatch):
    """A tcsetattr between our look and our put is not undone."""
    async with standing(play=False) as (pty, _):
        await pty.send(LineReport(values=FOUND))
        with opened(pty) as fd:
            changed = _termios2.with_line(_termios2.get(fd), Line(baud=9600))
            with_line = _termios2.with_line

            def meanwhile(t, line):
                monkeypatch.undo()
                _termios2.put(fd, changed)
                return with_line(t, line)

            monkeypatch.setattr(_termios2, "with_line", meanwhile)
            await pty.send(LineReport(values=replace(FOUND, stopbits=2.0)))
            assert shown(pty) == replace(FOUND, baud=9600, stopbits=2.0)
            assert await pty.receive() == SetLine(baud=9600)


async def test_rate_zero_hangs_up():
    async with standing() as (pty, port):
        await hang_up(pty)
        await port.until(lambda port: port.controls)
        assert port.controls == [SetModem(dtr=False, rts=False)]
        port.line = replace(FOUND, stopbits=2.0)
        await pty.send(LineReport(values=port.line))
        assert (shown(pty).baud, shown(pty).stopbits) == (None, 2.0)
        await stty(pty, "115200")
        await port.until(lambda port: len(port.controls) == 2)
        await hang_up(pty)
        await stty(pty, "9600")
        await port.until(lambda port: len(port.controls) == 5)
        assert port.controls[1:] == [
            SetModem(dtr=True, rts=True),
            SetModem(dtr=False, rts=False),
            SetModem(dtr=True, rts=True),
            SetLine(baud=9600),
        ]


async def test_what_no_pty_carries_is_asked_at_the_first_open():
    async with standing(bytesize=7, parity="even", dtr="off", rts="keep") as (pty, port):
        assert port.controls == []
        await stty(pty, "9600")
        await port.until(lambda port: len(port.controls) == 3)
        await stty(pty, "19200")
        await port.until(lambda port: len(port.controls) == 4)
        assert port.controls == [
            SetLine(bytesize=7, parity="even"),
            SetModem(dtr=False),
            SetLine(baud=9600),
            SetLine(baud=19200),
        ]


async def test_what_the_port_has_already_is_not_asked():
    async with standing(line=replace(FOUND, bytesize=7), bytesize=7, parity="even") as (pty, port):
        await stty(pty, "9600")
        await port.until(lambda port: len(port.controls) == 2)
        assert port.controls == [SetLine(parity="even"), SetLine(baud=9600)]


async def test_a_parity_that_a_program_asks_is_said():
    notes = []
    async with standing(notes=notes) as (pty, port):
        with opened(pty) as fd:
            for baud in (9600, 19200):
                t = _termios2.with_line(_termios2.get(fd), Line(baud=baud, parity="odd"))
                _termios2.put(fd, t)
                await port.until(lambda port, baud=baud: port.line.baud == baud)
        assert port.settings == [Line(baud=9600), Line(baud=19200)]
        assert [text for _, text in notes] == [
            f"pty:{pty.where}: a program asked for a parity, which no pty carries: give parity= here"
        ]


async def test_lines_follow_open_and_close():
    async with standing(lines="follow", rts="off") as (pty, port):
        with opened(pty) as fd, opened(pty):
            await port.until(lambda port: port.controls)
            os.write(fd, b"last words")
        await port.until(lambda port: len(port.controls) == 2)
        assert port.events == [SetModem(dtr=True, rts=False), b"last words", SetModem(dtr=False, rts=False)]
        await stty(pty, "9600", "-hupcl")  # a millisecond, and the lines stay up after it
        await stty(pty, "19200")
        await stty(pty, "38400", "hupcl")
        await port.until(lambda port: len(port.controls) == 9)
        assert port.controls[2:] == [
            SetModem(dtr=True, rts=False),
            SetLine(baud=9600),
            SetModem(dtr=True, rts=False),
            SetLine(baud=19200),
            SetModem(dtr=True, rts=False),
            SetLine(baud=38400),
            SetModem(dtr=False, rts=False),
        ]


async def test_a_rate_that_means_a_break():
    async with standing(break_rate=50) as (pty, port):
        with opened(pty) as fd:
            await stty(pty, "50")
            await port.until(lambda port: port.controls)
            started = time.monotonic()
            assert shown(pty).baud == 50, "so that stty finds what it set"
            os.write(fd, b"after the break")
            await port.until(lambda port: port.data)
            assert port.events == [SetBreak(on=True), SetBreak(on=False), b"after the break"]
            assert 0.2 < time.monotonic() - started < 2
            assert shown(pty).baud == 115200
            await stty(pty, "50")
            await port.until(lambda port: len(port.events) == 5)
            await stty(pty, "9600")
            await port.until(lambda port: port.settings)
            assert port.settings == [Line(baud=9600)]


# --- EXTPROC, and the programs that take it away ----------------------------------------------------------------------


def has_extproc(pty):
    return bool(_termios2.get(pty._master.fd).lflag & _termios2.EXTPROC)


async def test_extproc_is_armed_again_while_open():
    async with standing() as (pty, port):
        with opened(pty) as fd:
            await seen(lambda: pty._is_open)
            _termios2.put(fd, replace(_termios2.get(fd), lflag=0))
            _termios2.put(fd, _termios2.with_line(_termios2.get(fd), Line(baud=9600)))  # silent: the ticker sees it
            assert not has_extproc(pty)
            await port.until(lambda port: port.settings)
            await seen(lambda: has_extproc(pty))
            assert port.settings == [Line(baud=9600)]


async def test_extproc_is_armed_again_at_close():
    async with standing() as (pty, port):
        await stty(pty, "sane")
        await stty(pty, "57600")
        await port.until(lambda port: port.settings)
        assert port.settings == [Line(baud=57600)]
        await seen(lambda: has_extproc(pty))


async def test_a_silent_change_right_before_the_close_is_seen():
    async with standing() as (pty, port):
        with opened(pty) as fd:
            _termios2.put(fd, replace(_termios2.get(fd), lflag=0))
            await wait_all_tasks_blocked()
            _termios2.put(fd, _termios2.with_line(_termios2.get(fd), Line(baud=9600)))
        await port.until(lambda port: port.settings)
        assert port.settings == [Line(baud=9600)]


def in_terminal(*words):
    """A program under script(1), which gives it the terminal that it insists on."""
    return trio.lowlevel.open_process(
        ["script", "-qec", " ".join(str(word) for word in words), "/dev/null"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"TERM": "vt100"},
    )


@contextlib.asynccontextmanager
async def terminal_program(*words):
    process = await in_terminal(*words)
    output = bytearray()

    async def drain():
        while data := await process.stdout.receive_some(65536):
            output.extend(data)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drain)
        try:
            yield process, output
            with trio.fail_after(5):
                await process.wait()
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
            await process.stdin.aclose()
            nursery.cancel_scope.cancel()
            await process.stdout.aclose()


@pytest.mark.peer("picocom")
async def test_picocom():
    async with standing() as (pty, port):
        async with terminal_program("picocom", "-q", "-b", "57600", "-f", "h", "-p", "2", pty.where) as (program, said):
            await port.until(
                lambda port: port.line == replace(FOUND, baud=57600, stopbits=2.0, flow="rtscts", flow_in="rtscts")
            )
            await seen(lambda: pty._is_open)
            await program.stdin.send_all(b"hello")
            await port.until(lambda port: port.data == b"hello")
            await pty.send(b"to the screen")
            await seen(lambda: b"to the screen" in said)
            await program.stdin.send_all(b"\x01\x15")  # C-a C-u: the next rate
            await port.until(lambda port: port.line.baud == 115200)
            await program.stdin.send_all(b"\x01\x18")  # C-a C-x
        # it restores what it found: the far port's settings
        await port.until(lambda port: port.line == FOUND)
        await seen(lambda: not pty._is_open)
        assert shown(pty) == FOUND
        assert Purge(rx=True) in port.controls


@pytest.mark.peer("minicom")
async def test_minicom_which_takes_extproc_away(tmp_path):
    async with standing() as (pty, port):
        (tmp_path / ".minirc.dfl").write_text(f"pu port {pty.where}\npu baudrate 57600\npu rtscts No\npu lock \n")
        words = ["env", f"HOME={tmp_path}", "minicom", "-o", "-D", pty.where, "-b", "57600"]
        async with terminal_program(*words) as (program, _):
            await port.until(lambda port: port.line.baud == 57600)
            await seen(lambda: has_extproc(pty))
            await program.stdin.send_all(b"hello")
            await port.until(lambda port: port.data.endswith(b"hello"))
            await program.stdin.send_all(b"\x01q\r")
            program.terminate()


@pytest.mark.peer("tio")
async def test_tio_which_takes_extproc_away():
    async with standing() as (pty, port):
        async with terminal_program("tio", "-b", "230400", pty.where) as (program, said):
            await port.until(lambda port: port.line.baud == 230400)
            await seen(lambda: has_extproc(pty))
            await seen(lambda: b"Connected" in said)
            await program.stdin.send_all(b"hello")
            await port.until(lambda port: port.data == b"hello")
            await program.stdin.send_all(b"\x14q")
        await port.until(lambda port: port.line.baud == 115200)


# --- opened and closed ------------------------------------------------------------------------------------------------


async def test_no_stty_is_lost_in_500_openings():
    def alternate(path):
        for count in range(500):
            fd = os.open(path, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK)
            try:
                t = _termios2.get(fd)
                _termios2.put(fd, _termios2.with_line(t, Line(baud=1000 + count)))
            finally:
                os.close(fd)
            done.acquire()

    import threading

    done = threading.Semaphore(0)
    async with standing() as (pty, port):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, alternate, pty.where)
            for count in range(500):
                await port.until(lambda port, rate=1000 + count: port.line.baud == rate)
                done.release()
        assert port.settings == [Line(baud=1000 + count) for count in range(500)]


async def test_the_last_of_a_burst_of_openings_holds():
    def burst(path):
        for count in range(500):
            fd = os.open(path, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK)
            _termios2.put(fd, _termios2.with_line(_termios2.get(fd), Line(baud=1000 + count)))
            os.close(fd)

    async with standing() as (pty, port):
        await trio.to_thread.run_sync(burst, pty.where)
        await port.until(lambda port: port.line.baud == 1499)
        await seen(lambda: not pty._is_open)
        assert shown(pty).baud == 1499


async def test_nothing_is_burnt_while_nobody_has_it_open():
    async with standing() as (pty, port):
        for count in range(1, 11):
            await stty(pty, ("9600", "19200")[count % 2])
            await port.until(lambda port, count=count: len(port.settings) == count)
            await seen(lambda: not pty._is_open)
        await wait_all_tasks_blocked()
        before = time.process_time(), len(port.events)
        await trio.sleep(0.5)
        assert time.process_time() - before[0] < 0.01
        await stty(pty, "19200")
        await port.until(lambda port: len(port.settings) == 11)


async def test_little_is_burnt_while_it_is_open_and_idle():
    async with standing() as (pty, _):
        with opened(pty):
            await seen(lambda: pty._is_open)
            before = time.process_time()
            await trio.sleep(0.5)
            assert time.process_time() - before < 0.05


async def test_without_inotify_it_is_looked_at(monkeypatch):
    monkeypatch.setattr(_inotify, "watch", lambda path: _inotify.Look())
    async with standing(idle="drop") as (pty, port):
        for rate in (9600, 19200):
            await stty(pty, str(rate))
            await port.until(lambda port, rate=rate: port.line.baud == rate)
        with opened(pty) as fd:
            await seen(lambda: pty._is_open)
            await pty.send(b"hello")
            assert await read_slave(fd, 5) == b"hello"
        await seen(lambda: not pty._is_open)


async def test_close_is_no_end_unless_asked():
    async with standing() as (pty, port):
        for _ in range(3):
            with opened(pty) as fd:
                os.write(fd, b"x")
        await port.until(lambda port: port.data == b"xxx")
    async with standing(eof=True) as (pty, port):
        with opened(pty) as fd:
            with opened(pty):
                pass
            os.write(fd, b"all of it")
        await port.until(lambda port: Eof() in port.events)
        assert port.events == [b"all of it", Eof()]
        with pytest.raises(trio.EndOfChannel):
            await pty.receive()


async def test_eof_waits_for_the_first_open():
    async with standing(eof=True, play=False) as (pty, _):
        with trio.move_on_after(0.05) as scope:
            await pty.receive()
        assert scope.cancelled_caught


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may")
async def test_a_program_that_keeps_the_exclusive_lock_locks_nobody_out():
    """As root the lock of a program that is gone is taken off."""
    async with standing() as (pty, port):
        with opened(pty) as fd:
            fcntl.ioctl(fd, termios.TIOCEXCL)
            os.write(fd, b"mine")
        await port.until(lambda port: port.data)
        await seen(lambda: not pty._is_open)
        with pty._master.slave() as fd:
            assert fcntl.ioctl(fd, 0x80045440, b"\0\0\0\0") == b"\0\0\0\0"  # TIOCGEXCL
        with opened(pty) as fd:
            os.write(fd, b"yours")
            await port.until(lambda port: port.data == b"mineyours")


async def test_a_locked_pty_is_exchanged(tmp_path, monkeypatch):
    """Whom the kernel keeps out (all but root) makes a new pty, once the old one has been read."""
    notes = []

    def busy(self):
        if self.path == first:
            raise OSError(16, "busy")

    async with standing(link=str(tmp_path / "x"), notes=notes) as (pty, port):
        first = pty._master.path
        monkeypatch.setattr(_Master, "unlock", busy)
        with opened(pty) as fd:
            _termios2.put(fd, _termios2.with_line(_termios2.get(fd), Line(baud=9600)))
            os.write(fd, b"last words")
        await seen(lambda: pty._master.path != first)
        assert os.readlink(pty.where) == pty._master.path
        assert (port.data, port.settings) == (b"last words", [Line(baud=9600)])
        assert not os.path.exists(first)
        assert shown(pty).baud == 9600
        await stty(pty, "19200")
        await port.until(lambda port: len(port.settings) == 2)
        with opened(pty) as fd:
            await seen(lambda: pty._is_open)
            await pty.send(b"hello")
            assert await read_slave(fd, 5) == b"hello"
        assert len(notes) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="gives up being root")
async def test_a_locked_pty_is_exchanged_by_who_is_not_root():
    folder = Path(tempfile.mkdtemp())  # pytest's own are closed to everybody else
    folder.chmod(0o777)
    code = (
        "import fcntl, os, sys, termios, trio\n"
        "from serpipe.endpoints.pty import Pty\n"
        "from serpipe.endpoints.base import Context\n"
        "os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)\n"
        "async def main():\n"
        "    async with trio.open_nursery() as nursery:\n"
        "        pty = await Pty(link=sys.argv[1]).open(nursery, Context(faces='port'))\n"
        "        first = os.readlink(pty.where)\n"
        "        fd = os.open(pty.where, os.O_RDWR | os.O_NOCTTY)\n"
        "        fcntl.ioctl(fd, termios.TIOCEXCL)\n"
        "        os.write(fd, b'x')\n"
        "        os.close(fd)\n"
        "        assert await pty.receive() == b'x'\n"
        "        nursery.start_soon(pty.receive)\n"
        "        while os.readlink(pty.where) == first:\n"
        "            await trio.sleep(0.001)\n"
        "        os.close(os.open(pty.where, os.O_RDWR | os.O_NOCTTY))\n"
        "        nursery.cancel_scope.cancel()\n"
        "    with trio.CancelScope(shield=True):\n"
        "        await pty.aclose()\n"
        "trio.run(main)\n"
    )
    done = await trio.run_process([sys.executable, "-c", code, str(folder / "x")], capture_stderr=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    folder.rmdir()


# --- bytes ------------------------------------------------------------------------------------------------------------


async def test_4_mib_each_way_at_once():
    data = [random.Random(seed).randbytes(4 << 20) for seed in (1, 2)]
    async with standing() as (pty, port):
        with opened(pty) as fd:
            out, back = os.dup(fd), os.dup(fd)
            await seen(lambda: pty._is_open)
            got = []

            async def to_program():
                for start in range(0, len(data[0]), 65536):
                    await pty.send(data[0][start : start + 65536])

            async def program_reads():
                got.append(await read_slave(back, len(data[0])))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(to_program)
                nursery.start_soon(program_reads)
                nursery.start_soon(write_slave, out, data[1])
            os.close(out)
            os.close(back)
            assert got[0] == data[0]
            await port.until(lambda port: len(port.data) == len(data[1]))
            assert port.data == data[1]
        assert pty.dropped == 0


def test_pyserial_as_the_program():
    """Opens with 250000, changes, sends 4 MiB and reads 4 MiB back, in a process of its own."""
    code = (
        "import hashlib, sys, serial, threading\n"
        "port = serial.Serial(sys.argv[1], 250000, rtscts=True, timeout=20)\n"
        "port.baudrate = 31250; port.stopbits = 2; port.rtscts = False; port.xonxoff = True\n"
        "port.baudrate = 250000; port.stopbits = 1; port.xonxoff = False\n"
        "import random\n"
        "data = random.Random(3).randbytes(4 << 20)\n"
        "writer = threading.Thread(target=port.write, args=(data,)); writer.start()\n"
        "got = port.read(4 << 20); writer.join()\n"
        "print(hashlib.sha256(got).hexdigest())\n"
        "port.close()\n"
    )
    data = random.Random(3).randbytes(4 << 20)
    result = []

    async def main():
        async with standing() as (pty, port):
            async with trio.open_nursery() as nursery:

                async def program():
                    result.append((await run(sys.executable, "-c", code, pty.where)).strip())

                nursery.start_soon(program)
                await port.until(lambda port: port.data)
                for start in range(0, len(data), 65536):
                    await pty.send(data[start : start + 65536])
            await port.until(lambda port: len(port.data) == len(data))
            assert port.data == data
            assert port.line == replace(FOUND, baud=250000)

    trio.run(main)
    assert result == [hashlib.sha256(data).hexdigest()]


async def test_dropped_and_counted_while_closed():
    notes = []
    async with standing(notes=notes) as (pty, _):
        await pty.send(b"x" * 70000)
        with opened(pty) as fd:
            await seen(lambda: pty._is_open)
            await pty.send(b"hello")
            assert await read_slave(fd, 5) == b"hello"
        await seen(lambda: not pty._is_open)
        await pty.send(b"x" * 7)
        assert pty.dropped == 70007
    assert notes == [(1, f"pty:{pty.where}: 70007 bytes came while no program had it open, and were dropped")]


async def test_what_a_program_left_unread_is_not_for_the_next_one():
    async with standing() as (pty, port):
        with opened(pty):
            await seen(lambda: pty._is_open)
            await pty.send(b"old" * 1000)
        await seen(lambda: not pty._is_open)
        with opened(pty) as fd:
            await seen(lambda: pty._is_open)
            await pty.send(b"new")
            assert await read_slave(fd, 3) == b"new"
        assert port.controls == [], "our own flush is no purge of the program's"


async def test_a_purge_right_before_the_close_is_not_taken_for_ours():
    async with standing() as (pty, port):
        with opened(pty) as fd:
            await seen(lambda: pty._is_open)
            termios.tcflush(fd, termios.TCIFLUSH)
        await port.until(lambda port: port.controls)
        assert port.controls == [Purge(rx=True)]


async def test_waits_for_a_program_and_loses_nothing_over_closings(nursery):
    data = random.Random(4).randbytes(200_000)
    async with standing(idle="wait") as (pty, _):
        nursery.start_soon(pty.send, data)
        await wait_all_tasks_blocked()
        got = b""
        for size in (1, 1000, 50_000, 10, len(data)):
            with opened(pty) as fd:
                chunk = await read_slave(fd, 1)
                while len(chunk) < size and len(got) + len(chunk) < len(data):
                    chunk += await read_slave(fd, 1)
                got += chunk
        assert got == data
        assert pty.dropped == 0


async def test_a_flush_at_the_open_takes_nothing_of_what_waited(nursery):
    async with standing(faces="plain") as (pty, _):
        nursery.start_soon(pty.send, b"for whoever comes")
        await wait_all_tasks_blocked()
        with serial.Serial(pty.where, 9600, timeout=10) as program:
            assert await trio.to_thread.run_sync(program.read, 17) == b"for whoever comes"


async def test_idle_by_what_it_faces():
    for faces, drops in (("port", True), ("plain", False), ("controller", False)):
        async with standing(faces=faces) as (pty, _):
            assert pty._drops is drops


async def test_a_slow_reader_stops_the_sender(nursery):
    async with standing() as (pty, _):
        with opened(pty) as fd:
            await seen(lambda: pty._is_open)
            sent = trio.Event()

            async def send():
                await pty.send(b"x" * 100_000)
                sent.set()

            nursery.start_soon(send)
            await wait_all_tasks_blocked()
            before = time.process_time()
            await trio.sleep(0.2)
            assert time.process_time() - before < 0.05
            assert not sent.is_set()
            assert len(await read_slave(fd, 100_000)) == 100_000
            await sent.wait()


async def test_a_reader_that_leaves_lets_the_sender_go_on(nursery):
    async with standing() as (pty, _):
        with opened(pty):
            await seen(lambda: pty._is_open)
            sent = trio.Event()

            async def send():
                await pty.send(b"x" * 100_000)
                sent.set()

            nursery.start_soon(send)
            await wait_all_tasks_blocked()
        with trio.fail_after(5):
            await sent.wait()
        assert 70_000 < pty.dropped < 100_000


async def test_discard_ends_a_write(nursery):
    async with standing() as (pty, _):
        with opened(pty) as fd:
            await seen(lambda: pty._is_open)
            nursery.start_soon(pty.send, b"x" * 100_000)
            await wait_all_tasks_blocked()
            dropped = pty.discard()
            assert 70_000 < dropped < 100_000
            await wait_all_tasks_blocked()
            assert len(await read_slave(fd, 100_000 - dropped)) == 100_000 - dropped
            await pty.send(b"next")
            assert await read_slave(fd, 4) == b"next"


@pytest.mark.parametrize(
    ("how", "told"),
    [("drop", b"a\xffb"), ("nul", b"a\xff\0b"), ("mark", b"a\xff\xff\xff\0\0b")],
)
async def test_a_break_from_the_port(how, told):
    async with standing(break_=how) as (pty, _):
        with opened(pty) as fd:
            await seen(lambda: pty._is_open)
            await pty.send(b"a\xff")
            await pty.send(BreakReport())
            await pty.send(BreakReport(on=False))
            await pty.send(ModemReport())
            await pty.send(b"b")
            assert await read_slave(fd, len(told)) == told


# --- purge ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("queue", "purge"),
    [
        (termios.TCIFLUSH, Purge(rx=True)),
        (termios.TCOFLUSH, Purge(tx=True)),
        (termios.TCIOFLUSH, Purge(rx=True, tx=True)),
    ],
)
async def test_tcflush_is_a_purge(queue, purge):
    async with standing() as (pty, port):
        with opened(pty) as fd:
            await seen(lambda: pty._is_open)
            termios.tcflush(fd, queue)
            os.write(fd, b"command")
            await port.until(lambda port: port.data)
            assert port.events == [purge, b"command"], "a command behind the flush is never taken for flushed"


async def test_tcsaflush_purges_before_it_sets():
    async with standing() as (pty, port):
        with opened(pty) as fd:
            t = _termios2.with_line(_termios2.get(fd), Line(baud=9600))
            _termios2.put(fd, t, _termios2.FLUSH)
            await port.until(lambda port: len(port.controls) == 2)
            assert port.controls == [Purge(rx=True), SetLine(baud=9600)]


async def test_what_is_known_to_be_older_than_the_flush_is_dropped():
    async with standing(play=False) as (pty, _):
        with opened(pty) as fd:
            os.write(fd, b"old" * 1000)
            await seen(lambda: pty._older == 3000)
            termios.tcflush(fd, termios.TCOFLUSH)
            os.write(fd, b"new")
            assert await pty.receive() == Purge(tx=True)
            assert await pty.receive() == b"new"


async def test_what_is_known_to_be_older_than_the_settings_goes_before_them():
    async with standing(play=False) as (pty, _):
        await pty.send(LineReport(values=FOUND))
        with opened(pty) as fd:
            os.write(fd, b"old" * 1000)
            await seen(lambda: pty._older == 3000)
            _termios2.put(fd, _termios2.with_line(_termios2.get(fd), Line(baud=9600)))
            os.write(fd, b"new")
            got = b""
            while len(got) < 3000:
                got += await pty.receive()
            assert got == b"old" * 1000
            assert await pty.receive() == SetLine(baud=9600)
            assert await pty.receive() == b"new"


async def test_a_purge_drops_what_is_on_its_way_to_the_program(nursery):
    async with standing() as (pty, port):
        with opened(pty) as fd:
            await seen(lambda: pty._is_open)
            port.silent = True
            nursery.start_soon(pty.send, b"stale" * 20_000)
            await wait_all_tasks_blocked()
            termios.tcflush(fd, termios.TCIFLUSH)
            await port.until(lambda port: port.controls)
            await wait_all_tasks_blocked()
            pty.discard()  # as the pipeline does, when it sees the answer
            await wait_all_tasks_blocked()
            await pty.send(PurgeDone(answers=port.controls[0].ref, rx=True))
            await pty.send(b"fresh")
            assert await read_slave(fd, 5) == b"fresh"
            assert port.controls == [Purge(rx=True)], "our own flush is not the program's"


async def test_a_purge_of_tx_leaves_what_is_on_its_way_to_the_program():
    async with standing() as (pty, port):
        with opened(pty) as fd:
            await seen(lambda: pty._is_open)
            await pty.send(b"kept")
            termios.tcflush(fd, termios.TCOFLUSH)
            await port.until(lambda port: port.controls)
            assert await read_slave(fd, 4) == b"kept"


# --- the end ----------------------------------------------------------------------------------------------------------


async def test_a_reader_that_reads_only_after_the_eof_gets_all():
    async with standing(play=False) as (pty, _):
        with opened(pty) as fd:
            await seen(lambda: pty._is_open)
            await pty.send(b"x" * 3000)
            ended = trio.Event()

            async def end():
                await pty.send(Eof())
                await pty.aclose()
                ended.set()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(end)
                await trio.sleep(0.1)  # it has looked several times by now
                assert not ended.is_set()
                assert await read_slave(fd, 3001) == b"x" * 3000, "and then the end"
            assert ended.is_set()


async def test_a_reader_that_opens_two_seconds_later_gets_all():
    async with standing(faces="plain", play=False) as (pty, _), trio.open_nursery() as nursery:

        async def all_of_it():
            await pty.send(b"x" * 3000)
            await pty.send(Eof())
            await pty.aclose()

        nursery.start_soon(all_of_it)
        await trio.sleep(2)
        with opened(pty) as fd:
            assert await read_slave(fd, 3001) == b"x" * 3000


async def test_the_end_waits_for_a_reader_that_left_something(nursery):
    async with standing(faces="plain", play=False) as (pty, _):
        with opened(pty) as fd:
            nursery.start_soon(pty.send, b"x" * 3000)
            await trio.lowlevel.wait_readable(fd)
            assert os.read(fd, 1) == b"x"
        ended = trio.Event()
        rest = b""

        async def end():
            await pty.send(Eof())
            ended.set()

        async with trio.open_nursery() as inner:
            inner.start_soon(end)
            await trio.sleep(0.1)
            assert not ended.is_set()
            with opened(pty) as fd:
                try:
                    while True:
                        rest += os.read(fd, 100)
                except BlockingIOError:
                    pass
                with trio.fail_after(1):
                    await ended.wait()


async def test_the_end_does_not_wait_for_who_reads_nothing(autojump_clock):
    notes = []
    async with standing(play=False, notes=notes) as (pty, _):
        with opened(pty):
            pty._see()
            await pty.send(b"x" * 3000)
            started = trio.current_time()
            await pty.send(Eof())
            assert 10 <= trio.current_time() - started < 12
    assert notes[0][0] == 0
    assert re.search(r"at least \d+ bytes were not read by any program within 10 s, and are lost", notes[0][1])


async def test_the_end_waits_as_long_as_something_is_read(autojump_clock):
    """Above 4095 unread bytes FIONREAD stands still; the device's time of access moves."""
    async with standing(play=False, drain=1.0) as (pty, _):
        with opened(pty) as fd:
            pty._see()
            await pty.send(b"x" * 10_000)
            ended = trio.Event()

            async def end():
                await pty.send(Eof())
                ended.set()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(end)
                for count in range(20):
                    await trio.sleep(0.5)
                    assert not ended.is_set()
                    os.read(fd, 500)
                    os.utime(fd, (count, count))  # what the kernel does, but only every 8 s of real time


async def test_the_end_is_at_once_where_nobody_is():
    async with standing(play=False) as (pty, _):
        with trio.fail_after(0.5):
            await pty.send(Eof())


async def test_closed_under_who_uses_it():
    async with standing(play=False, idle="wait") as (pty, _):

        async def fails(use):
            with pytest.raises(trio.ClosedResourceError):
                await use()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fails, pty.receive)
            nursery.start_soon(fails, partial(pty.send, b"never"))
            await wait_all_tasks_blocked()
            await pty.aclose()
        await pty.aclose()
        await fails(pty.receive)
        await fails(partial(pty.send, b"x"))


async def test_the_program_sees_the_end(nursery):
    async with standing() as (pty, _):
        with opened(pty) as fd:
            await seen(lambda: pty._is_open)
            nursery.start_soon(pty.send, b"x" * 100_000)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await pty.aclose()
            poll = select.poll()
            poll.register(fd)
            assert poll.poll(0)[0][1] & select.POLLHUP


async def test_receive_cancelled_loses_nothing():
    data = random.Random(5).randbytes(100_000)
    async with standing(play=False) as (pty, _):
        got = bytearray()
        with opened(pty) as fd:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(write_slave, fd, data)
                while len(got) < len(data):
                    with trio.CancelScope() as scope:
                        scope.cancel()
                        got += await pty.receive()
                    with trio.move_on_after(0.001):
                        got += await pty.receive()
        assert got == data


def test_cancelled_at_every_step(tmp_path):
    """Open, settings, bytes both ways, a purge, the end: whatever step is hit, no link, lock or descriptor is left."""

    async def scenario():
        async with standing(link=str(tmp_path / "x"), lines="follow", notes=[]) as (pty, port):
            with opened(pty) as fd:
                _termios2.put(fd, _termios2.with_line(_termios2.get(fd), Line(baud=9600)))
                await port.until(lambda port: port.settings)
                await write_slave(fd, b"hello")
                await port.until(lambda port: port.data)
                termios.tcflush(fd, termios.TCIFLUSH)
                await port.until(lambda port: Purge(rx=True) in port.controls)
                await pty.send(b"x" * 3000)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(pty.send, Eof())
                    await read_slave(fd, 3000)

    assert cancel_at_every_step(scenario, lambda: list(tmp_path.iterdir()) == [] or pytest.fail("left")) > 10


def test_the_spec_says_what_it_is():
    assert PtyEndpoint.caps == Pty.caps
    assert Pty(link="/tmp/x").describe() == "pty:/tmp/x"
    assert [option.key for option in table(Pty) if option.body] == ["link"]
    assert {option.key for option in table(Pty)} >= {"break", "break-rate", "idle", "drain"}
