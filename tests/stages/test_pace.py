"""The stage that keeps to a line's time."""

import pytest
from fakes import FakeContext, Lanes, joined
from hypothesis import given
from hypothesis import strategies as st

from serpipe.events import (
    BreakReport,
    Drain,
    Eof,
    Failed,
    Line,
    LineReport,
    ModemReport,
    Purge,
    PurgeDone,
    SetBreak,
    SetLine,
)
from serpipe.protocol.pacing import parse_rule
from serpipe.stages.pace import Pace

AT_300 = LineReport(values=Line(300, 8, "none", 1.0, "none"))
AT_1200_7E2 = LineReport(values=Line(1200, 7, "even", 2.0, "none"))


def lanes(text=None, **options):
    if text is not None:
        options["rate"] = parse_rule(text)
    return Lanes(Pace(**options).make(FakeContext()), now=100.0)


def test_describe():
    assert Pace().describe() == "pace"
    assert Pace(rate=parse_rule("9600n81"), dir="left").describe() == "pace:9600/8N1,dir=left"


@pytest.mark.parametrize(
    ("text", "per_second"), [("115200", 11520), ("9600/7E2", 9600 / 11), ("11k/s", 11264), ("2ms/char", 500)]
)
def test_the_average_over_ten_seconds(text, per_second):
    chain = lanes(text)
    chain.feed("->", bytes(round(per_second * 10)))
    chain.run_dry()
    assert chain.now - 100 == pytest.approx(10, rel=0.002)


def test_no_wake_up_per_byte():
    chain = lanes("1M/s")
    ticks = 0
    tick = chain.stage.tick

    def count(now, out):
        nonlocal ticks
        ticks += 1
        tick(now, out)

    chain.stage.tick = count
    chain.feed("->", bytes(1048576))
    chain.run_dry()
    assert ticks <= 520


@pytest.mark.parametrize(("towards", "paced"), [("right", ["->"]), ("left", ["<-"]), ("both", ["->", "<-"])])
def test_direction(towards, paced):
    chain = lanes("300", dir=towards)
    for direction in ("->", "<-"):
        chain.push(direction, b"x" * 30)
        waits = not chain.outs[direction].emitted
        assert waits == (direction in paced)
        assert (chain.stage.room(direction) is not None) == (direction in paced)
        assert chain.stage.discard(direction) == (30 if waits else 0)


def test_controls_and_eof_take_their_turn():
    chain = lanes("100/s")
    events = [b"ab", SetLine(baud=9600), b"cd", SetBreak(on=True), Eof()]
    chain.forward(*events)
    assert chain.right.emitted == []
    chain.run_dry()
    assert chain.right.events == events
    assert chain.right.times[-1] == pytest.approx(100.04)


def test_a_control_on_an_idle_line_goes_at_once():
    chain = lanes("300")
    chain.forward(SetLine(baud=9600))
    assert chain.right.emitted == [SetLine(baud=9600)]
    assert chain.next_wake() is None


def test_it_follows_the_port():
    chain = lanes()
    chain.forward(b"before any report")
    assert chain.right.take() == [b"before any report"]
    assert chain.stage.room("->") is None
    chain.back(AT_300)
    assert chain.left.take() == [AT_300]
    chain.forward(b"x" * 30)
    chain.back(b"y" * 30)
    chain.advance(0.5)
    assert len(chain.right.data) == 15
    assert len(chain.left.data) == 15
    chain.advance(0.5)
    assert len(chain.right.data) == 30
    chain.back(AT_1200_7E2)
    chain.forward(b"x" * 12)
    start = chain.now
    chain.run_dry()
    assert chain.right.times[-1] - start == pytest.approx(12 * 11 / 1200)


def test_a_report_holds_from_its_place_in_its_own_lane():
    chain = lanes()
    chain.back(AT_300, b"a" * 30, AT_1200_7E2, b"b" * 12)
    chain.advance(1.0)
    assert chain.left.take() == [AT_300, b"a" * 30, AT_1200_7E2]
    chain.advance(12 * 11 / 1200 + 0.001)
    assert chain.left.take() == [b"b" * 12]


def test_a_faster_rate_frees_what_waits():
    chain = lanes()
    chain.back(LineReport(values=Line(baud=1)))
    chain.forward(b"slow")
    chain.back(AT_300)
    chain.advance(0.2)
    assert chain.right.data == b"slow"


def test_a_refusal_tells_the_rate_too():
    chain = lanes(dir="right")
    chain.back(Failed(why="refused", in_force=AT_300), Failed(why="refused"), ModemReport())
    chain.forward(b"x" * 30)
    chain.advance(0.5)
    assert len(chain.right.data) == 15


@pytest.mark.parametrize(("direction", "purge"), [("->", Purge(tx=True)), ("<-", PurgeDone(rx=True))])
def test_a_purge_drops_what_is_held_and_no_control(direction, purge):
    chain = lanes("300")
    chain.push(direction, b"one", SetBreak(on=True), b"two")
    assert chain.stage.discard(direction) == 6  # as the lane does when it has read the purge
    chain.push(direction, purge, b"three")
    chain.run_dry()
    assert chain.outs[direction].take() == [SetBreak(on=True), purge, b"three"]


@pytest.mark.parametrize(("direction", "purge"), [("->", Purge(tx=True)), ("<-", PurgeDone(rx=True, virtual=True))])
def test_a_purge_that_drops_nothing_waits_its_turn(direction, purge):
    """Whether a purge drops anything is the lane's to say: one that is denied, or answered from memory, does not."""
    chain = lanes("300")
    chain.push(direction, b"one", purge, b"two")
    chain.run_dry()
    assert chain.outs[direction].take() == [b"one", purge, b"two"]


@pytest.mark.parametrize(("direction", "purge"), [("->", Purge(rx=True)), ("<-", PurgeDone(tx=True))])
def test_a_purge_of_the_other_lane_keeps_its_place(direction, purge):
    chain = lanes("300")
    chain.push(direction, b"one", purge)
    chain.run_dry()
    assert chain.outs[direction].take() == [b"one", purge]


def test_discard():
    chain = lanes("300")
    chain.forward(b"one", Drain(), b"two")
    assert chain.stage.held("->") == 6
    assert chain.stage.discard("->") == 6
    assert chain.stage.held("->") == 0
    assert chain.stage.discard("<-") == 0
    chain.run_dry()
    assert chain.right.take() == [Drain()]


def test_room_stops_the_source():
    chain = lanes("115200")
    room = chain.stage.room("->")
    assert room == pytest.approx(0.05 * 11520, abs=1)
    chain.forward(bytes(room + 1000))
    assert chain.stage.room("->") == 0
    assert chain.stage.room("<-") == room
    chain.advance(0.15)
    assert chain.stage.room("->") > 0


def test_no_burst_after_idle():
    chain = lanes("1000/s")
    chain.forward(b"x")
    chain.advance(3600)
    chain.forward(bytes(100))
    chain.advance(0.05)
    assert len(chain.right.data) == pytest.approx(51, abs=2)


EVENTS = st.lists(
    st.one_of(
        st.binary(max_size=50),
        st.sampled_from([b"\r\n", SetLine(baud=1200), AT_300, AT_1200_7E2, BreakReport(), Drain()]),
    )
)
RULES = st.sampled_from([None, "9600", "1M/s", "7ms/char", "50ms/line", "1ms/chunk"])


@given(EVENTS, RULES, st.sampled_from(["->", "<-"]), st.floats(0, 0.1))
def test_what_comes_out_does_not_depend_on_time_or_cuts(events, text, direction, pause):
    chain = lanes(text)
    for event in [*events, Eof()]:
        chain.push(direction, event)
        chain.advance(pause)
    chain.run_dry()
    assert chain.outs[direction].events == joined([*events, Eof()])
