"""The scheduler of pace: rules as written, and what is due when."""

import pytest
from fakes import joined
from hypothesis import given
from hypothesis import strategies as st

from serpipe.errors import BadValue
from serpipe.events import Drain, Eof, Line, SetLine
from serpipe.protocol.pacing import HOLD_MAX, HOLD_MIN, TICK, Pacer, Rule, parse_rule


@pytest.mark.parametrize(
    ("text", "rule", "printed"),
    [
        ("115200", Rule(line=Line(baud=115200)), "115200"),
        ("9600n81", Rule(line=Line(9600, 8, "none", 1.0)), "9600/8N1"),
        ("1200/7E2", Rule(line=Line(1200, 7, "even", 2.0)), "1200/7E2"),
        ("11k/s", Rule(rate=11264), "11264/s"),
        ("1M/s", Rule(rate=1048576), "1048576/s"),
        ("1ms/char", Rule(char=0.001), "1ms/char"),
        ("50ms/line", Rule(per_line=0.05), "50ms/line"),
        ("0.01/chunk", Rule(per_chunk=0.01), "10ms/chunk"),
        ("9600+50ms/line", Rule(line=Line(baud=9600), per_line=0.05), "9600+50ms/line"),
        ("1ms/char+50ms/LINE", Rule(char=0.001, per_line=0.05), "1ms/char+50ms/line"),
        ("port", Rule(), "port"),
    ],
)
def test_rules(text, rule, printed):
    assert parse_rule(text) == rule
    assert str(rule) == printed
    assert parse_rule(printed) == rule


@pytest.mark.parametrize(
    "text",
    [
        "",
        "fast",
        "8N1",
        "0",
        "0/s",
        "0ms/line",
        "x/s",
        "1ms/word",
        "9600+1200",
        "9600+1k/s",
        "1k/s+2k/s",
        "1ms/char+9600",
        "1ms/line+2ms/line",
        "9600+",
    ],
)
def test_rules_that_do_not_fit(text):
    with pytest.raises(BadValue):
        parse_rule(text)


def test_char_time():
    assert parse_rule("9600").char_time == pytest.approx(10 / 9600)
    assert parse_rule("9600/7E2").char_time == pytest.approx(11 / 9600)
    assert parse_rule("1k/s").char_time == 1 / 1024
    assert parse_rule("50ms/line").char_time == 0


def run(pacer, start, until=float("inf"), late=0.0):
    """Ask whenever it wants to be asked, `late` seconds late; [(time, event)]."""
    result = []
    now = start
    while True:
        result += [(now, event) for event in pacer.release(now)]
        due = pacer.next_due(now)
        if due is None or due > until:
            return result
        assert due > now
        now = due + late


def test_a_character_is_due_with_its_last_bit():
    pacer = Pacer(parse_rule("100/s"))
    pacer.push(b"abc", 5.0)
    assert run(pacer, 5.0) == [
        (pytest.approx(5.01), b"a"),
        (pytest.approx(5.02), b"b"),
        (pytest.approx(5.03), b"c"),
    ]


def test_a_fast_line_goes_in_batches():
    pacer = Pacer(parse_rule("1M/s"))
    pacer.push(bytes(1048576), 0.0)
    batches = run(pacer, 0.0)
    assert batches[-1][0] == pytest.approx(1.0)
    assert len(batches) <= 1 / TICK + 1


@pytest.mark.parametrize("late", [0.0, 0.0013, 0.03])
@pytest.mark.parametrize("text", ["9600", "115200", "11k/s", "1M/s", "1ms/char", "75"])
def test_the_average_holds_over_ten_seconds(text, late):
    """Fed as a pump does: whenever there is room, and with a timer that is late."""
    rule = parse_rule(text)
    pacer = Pacer(rule)
    now, gone = 0.0, 0
    while now < 10:
        if room := pacer.room:
            pacer.push(bytes(room), now)
        gone += sum(map(len, pacer.release(now)))
        now = pacer.next_due(now) + late
    expected = 10 / rule.char_time
    assert abs(gone - expected) <= max(expected * 0.002, late / rule.char_time) + 1


def test_nothing_is_saved_up_while_idle():
    pacer = Pacer(parse_rule("1000/s"))
    pacer.push(b"a", 0.0)
    run(pacer, 0.0)
    pacer.push(bytes(10), 60.0)
    assert not list(pacer.release(60.0))
    assert run(pacer, 60.0)[-1][0] == pytest.approx(60.010)


def test_a_pause_shorter_than_a_tick_is_made_up_for():
    pacer = Pacer(parse_rule("1000/s"))
    pacer.push(b"a", 0.0)
    assert run(pacer, 0.0)[-1][0] == pytest.approx(0.001)
    pacer.push(b"b", 0.0015)
    assert run(pacer, 0.0015)[-1][0] == pytest.approx(0.002)


def test_controls_take_their_turn():
    pacer = Pacer(parse_rule("10/s"))
    setting = SetLine(baud=9600)
    for event in (b"ab", setting, b"c", Eof()):
        pacer.push(event, 0.0)
    assert run(pacer, 0.0) == [
        (pytest.approx(0.1), b"a"),
        (pytest.approx(0.2), b"b"),
        (pytest.approx(0.2), setting),
        (pytest.approx(0.3), b"c"),
        (pytest.approx(0.3), Eof()),
    ]


def test_a_new_rate_holds_behind_its_control():
    pacer = Pacer(parse_rule("10/s"))
    setting = SetLine(baud=9600)
    pacer.push(b"a", 0.0)
    pacer.push(setting, 0.0)
    pacer.push(b"bc", 0.0)
    events = pacer.release(0.1)
    assert next(events) == b"a"
    assert next(events) == setting
    pacer.set_char_time(1.0, 0.1)
    assert list(events) == []
    assert [time for time, _ in run(pacer, 0.1)] == pytest.approx([1.1, 2.1])


def test_discard_drops_bytes_and_no_control():
    pacer = Pacer(parse_rule("10/s"))
    for event in (b"ab", Drain(), b"c\n", Eof()):
        pacer.push(event, 0.0)
    list(pacer.release(0.1))
    assert pacer.discard() == 3
    assert pacer.held == 0
    assert list(pacer.release(0.1)) == [Drain(), Eof()]
    assert pacer.next_due(0.1) is None


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_line_is_followed_by_its_pause_however_it_is_cut(cut):
    data = b"a\nbb\r\nc\rd\r\r\ne"
    pacer = Pacer(parse_rule("1s/line"))
    for at in range(0, len(data), cut):
        pacer.push(data[at : at + cut], 0.0)
    times = {}
    for time, event in run(pacer, 0.0):
        times[time] = times.get(time, b"") + event
    # a CR that ends a chunk goes before it is known whether LF follows, which then goes at the same time
    assert times == {0.0: b"a\n", 1.0: b"bb\r\n", 2.0: b"c\r", 3.0: b"d\r", 4.0: b"\r\n", 5.0: b"e"}


def test_a_pause_that_has_passed_delays_nothing():
    pacer = Pacer(parse_rule("50ms/line"))
    pacer.push(b"a\r", 0.0)
    assert list(pacer.release(0.0)) == [b"a\r"]
    pacer.push(b"b\n", 9.0)
    assert list(pacer.release(9.0)) == [b"b\n"]
    pacer.push(b"c\n", 9.01)
    assert run(pacer, 9.01) == [(pytest.approx(9.05), b"c\n")]


def test_a_control_does_not_wait_for_the_pause():
    pacer = Pacer(parse_rule("50ms/line"))
    pacer.push(b"a\n", 0.0)
    pacer.push(Drain(), 0.0)
    pacer.push(b"b", 0.0)
    assert run(pacer, 0.0) == [(0.0, b"a\n"), (0.0, Drain()), (pytest.approx(0.05), b"b")]


def test_chunks_go_whole():
    pacer = Pacer(parse_rule("10ms/chunk"))
    assert pacer.room == HOLD_MAX
    for chunk in (b"one", b"two", b"three"):
        pacer.push(chunk, 0.0)
    assert pacer.room == 0
    assert run(pacer, 0.0) == [(0.0, b"one"), (pytest.approx(0.01), b"two"), (pytest.approx(0.02), b"three")]


def test_rate_and_pause_together():
    pacer = Pacer(parse_rule("100/s+1s/line"))
    pacer.push(b"a\nb", 0.0)
    times = [time for time, _ in run(pacer, 0.0)]
    assert times == pytest.approx([0.01, 0.02, 1.03])


def test_room():
    assert Pacer(Rule()).room is None
    assert Pacer(parse_rule("300")).room == HOLD_MIN
    assert Pacer(parse_rule("100M/s")).room == HOLD_MAX
    pacer = Pacer(parse_rule("100k/s"))
    assert pacer.room == 5120
    pacer.push(bytes(5000), 0.0)
    assert pacer.room == 0
    list(pacer.release(0.02))
    assert pacer.held + pacer.room == 5120


def test_without_a_rate_everything_goes_at_once():
    pacer = Pacer(Rule())
    pacer.push(b"a", 0.0)
    pacer.push(Drain(), 0.0)
    pacer.push(b"", 0.0)
    pacer.push(b"b", 0.0)
    assert list(pacer.release(0.0)) == [b"a", Drain(), b"b"]
    assert pacer.next_due(0.0) is None


EVENTS = st.lists(st.one_of(st.binary(max_size=20), st.sampled_from([b"\r", b"\n", b"\r\n", Drain(), SetLine()])))
RULES = st.sampled_from(["9600", "1M/s", "7ms/char", "50ms/line", "1ms/chunk", "300/7E1+20ms/line+3ms/chunk"])


@given(EVENTS, RULES, st.floats(0, 0.1), st.floats(0, 0.05))
def test_every_event_comes_out_once_and_in_order(events, text, pause, late):
    pacer = Pacer(parse_rule(text))
    now, out = 0.0, []
    for event in events:
        pacer.push(event, now)
        out += run(pacer, now, until=now + pause, late=late)
        now += pause + late
    out += run(pacer, now)
    assert joined(event for _, event in out) == joined(events)
    assert pacer.held == 0
    assert sorted(time for time, _ in out) == [time for time, _ in out]
