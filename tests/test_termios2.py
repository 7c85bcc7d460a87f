"""termios2 on real ptys, and the translation to and from Line."""

import os
import select
import subprocess
import termios
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serpipe import _termios2 as t2
from serpipe.events import Line


@pytest.fixture
def pty():
    master, slave = os.openpty()
    yield master, slave
    os.close(master)
    os.close(slave)


BLANK = t2.Termios(0, 0, termios.CREAD, 0, 0, bytes(19), 0, 0)

lines = st.builds(
    Line,
    baud=st.integers(1, 2**32 - 1),
    bytesize=st.sampled_from([5, 6, 7, 8]),
    parity=st.sampled_from(["none", "odd", "even", "mark", "space"]),
    stopbits=st.just(1.0),
    flow=st.just("none"),
    flow_in=st.just("none"),
)


@given(lines)
def test_every_line_reads_back(line):
    assert t2.line_of(t2.with_line(BLANK, line)) == line


@pytest.mark.parametrize(("size", "stop", "read"), [(5, 1.5, 1.5), (8, 2.0, 2.0), (5, 2.0, 1.5), (5, 1.0, 1.0)])
def test_two_stop_bits_are_one_and_a_half_with_five_data_bits(size, stop, read):
    assert t2.line_of(t2.with_line(BLANK, Line(bytesize=size, stopbits=stop))).stopbits == read


@pytest.mark.parametrize(
    ("asked", "flow", "flow_in"),
    [
        (Line(flow="none"), "none", "none"),
        (Line(flow="rtscts"), "rtscts", "rtscts"),
        (Line(flow="xonxoff"), "xonxoff", "xonxoff"),
        (Line(flow="xonxoff", flow_in="none"), "xonxoff", "none"),
        (Line(flow="none", flow_in="xonxoff"), "none", "xonxoff"),
        (Line(flow_in="xonxoff"), "none", "xonxoff"),
        (Line(flow_in="rtscts"), "none", "none"),  # CRTSCTS is one bit, and outbound's
        (Line(flow="dsrdtr"), "none", "none"),
        (Line(flow="dcd"), "none", "none"),
    ],
)
def test_flow(asked, flow, flow_in):
    line = t2.line_of(t2.with_line(BLANK, asked))
    assert (line.flow, line.flow_in) == (flow, flow_in)


def test_a_flow_control_that_a_tty_has_not_leaves_what_is_there():
    soft = t2.with_line(BLANK, Line(flow="xonxoff"))
    assert t2.with_line(soft, Line(flow="dsrdtr")) == soft
    hard = t2.with_line(BLANK, Line(flow="rtscts"))
    assert t2.with_line(hard, Line(flow_in="dcd")) == hard


def test_none_changes_nothing():
    full = t2.with_line(BLANK, Line(250000, 7, "mark", 2.0, "xonxoff"))
    assert t2.with_line(full, Line()) == full


@pytest.mark.parametrize("baud", [50, 9600, 74880, 115200, 250000, 4000000, 12345678])
def test_any_rate_on_a_pty(pty, baud):
    master, slave = pty
    t2.put(slave, t2.with_line(t2.get(slave), Line(baud=baud)))
    assert t2.line_of(t2.get(slave)).baud == baud
    assert t2.get(master) == t2.get(slave)


@pytest.mark.peer("stty")
def test_stty_sees_what_we_set(pty):
    _, slave = pty
    t2.put(slave, t2.with_line(t2.raw(t2.get(slave)), Line(57600, stopbits=2, flow="rtscts")))
    said = subprocess.run(["stty", "-F", os.ttyname(slave), "-a"], capture_output=True, text=True, check=True).stdout
    assert "speed 57600 baud" in said
    words = said.replace(";", " ").split()
    assert {"cstopb", "crtscts", "-ixon", "-ixoff", "-icanon", "-echo", "-opost", "-icrnl"} <= set(words)


def test_raw_passes_every_byte_both_ways(pty):
    master, slave = pty
    t2.put(slave, t2.with_line(t2.raw(t2.get(slave)), Line(flow="none")))
    every = bytes(range(256))
    os.write(master, every)
    select.select([slave], [], [])
    assert os.read(slave, 1000) == every
    os.write(slave, every)
    select.select([master], [], [])
    assert os.read(master, 1000) == every


def test_raw_keeps_flow_control():
    soft = t2.with_line(BLANK, Line(flow="xonxoff"))
    assert t2.line_of(t2.raw(soft)).flow == "xonxoff"


def test_parmrk_doubles_ff(pty):
    master, slave = pty
    raw = t2.raw(t2.get(slave))
    t2.put(slave, replace(raw, iflag=raw.iflag | termios.PARMRK | termios.INPCK))
    os.write(master, b"a\xffb")
    select.select([slave], [], [])
    assert os.read(slave, 100) == b"a\xff\xffb"


def test_queues(pty):
    master, slave = pty
    t2.put(slave, t2.raw(t2.get(slave)))
    os.write(master, b"12345")
    select.select([slave], [], [])
    assert t2.unread(slave) == 5
    t2.flush(slave, rx=False, tx=True)
    assert t2.unread(slave) == 5
    t2.flush(slave, rx=True, tx=False)
    assert t2.unread(slave) == 0
    assert t2.unsent(slave) == 0
    t2.drain(slave)


def test_what_a_pty_has_not(pty):
    _, slave = pty
    assert t2.is_pty(slave)
    for call in (t2.get_modem, t2.counters):
        with pytest.raises(OSError, match="Inappropriate ioctl"):
            call(slave)
    t2.set_break(slave, True)  # says nothing, and does nothing
    t2.set_break(slave, False)


def test_exclusive_is_seen_by_the_kernel(pty):
    _, slave = pty
    get_exclusive = 0x80045440  # TIOCGEXCL
    import array
    import fcntl

    state = array.array("i", [0])
    t2.set_exclusive(slave, True)
    fcntl.ioctl(slave, get_exclusive, state)
    assert state[0] == 1
    t2.set_exclusive(slave, False)
    fcntl.ioctl(slave, get_exclusive, state)
    assert state[0] == 0


def test_what_is_no_terminal():
    with open("/dev/null", "rb") as null, pytest.raises(OSError, match="Inappropriate ioctl"):
        t2.get(null.fileno())
