"""The stage that shows what passes."""

import json
import time

import pytest
from fakes import FakeContext, Lanes

from serpipe.events import Eof, Event, ModemReport, SetLine
from serpipe.stages.hexdump import Hexdump

WALL = 1_700_000_000.0
CLOCK = time.strftime("%H:%M:%S", time.localtime(WALL)) + ".000000"


@pytest.fixture
def context():
    return FakeContext()


def test_it_shows_both_directions_on_stderr(context):
    chain = Lanes(Hexdump().make(context), wall=WALL)
    chain.forward(b"AT\r")
    chain.forward(SetLine(baud=57600))
    chain.advance(0.5)
    chain.back(ModemReport(cts=True, dsr=True, changed=frozenset({"cts", "dsr"})), b"OK")
    later = CLOCK.replace(".000000", ".500000")
    assert context.err.lines == [
        f"{CLOCK} -> 00000000  41 54 0d                                         |AT.|",
        f"{CLOCK} -> SET-BAUD 57600",
        f"{later} <- CTS on DSR on",
        f"{later} <- 00000000  4f 4b                                            |OK|",
    ]


def test_it_passes_the_very_same_events(context):
    chain = Lanes(Hexdump().make(context))
    events: list[Event] = [b"bytes", SetLine(), b"", ModemReport(), Eof()]
    for direction, out in chain.outs.items():
        chain.push(direction, *events)
        assert all(a is b for a, b in zip(out.emitted, events, strict=True))
        assert out.replied == []
    assert chain.stage.room("->") is None


@pytest.mark.parametrize(("towards", "shown"), [("right", ["-> EOF"]), ("left", ["<- EOF"])])
def test_one_direction(context, towards, shown):
    chain = Lanes(Hexdump(dir=towards, time="off").make(context))
    chain.forward(Eof())
    chain.back(Eof())
    assert chain.right.emitted == chain.left.emitted == [Eof()]
    assert context.err.lines == shown


def test_to_a_file(context):
    chain = Lanes(Hexdump(path="/tmp/dump", append=True, format="json").make(context), wall=WALL)
    chain.forward(b"x")
    chain.back(Eof())
    sink = context.sinks["/tmp/dump"]
    assert sink.append
    assert [json.loads(line)["lane"] for line in sink.lines] == ["->", "<-"]
    assert context.err.data == b""


def test_sessions_are_told_apart():
    context = FakeContext("client 2")
    chain = Lanes(Hexdump(time="off", format="text").make(context))
    chain.forward(b"hi")
    assert context.err.lines == ["client 2 -> hi"]


def test_describe():
    assert Hexdump().describe() == "hexdump"
    assert Hexdump(path="/x", format="json", dir="left").describe() == "hexdump:/x,format=json,dir=left"
