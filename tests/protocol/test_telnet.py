"""The Telnet codec: framing at any cut, the Q method as RFC 1143 has it, and CR."""

import itertools
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serpipe.protocol import telnet
from serpipe.protocol.telnet import (
    DO,
    DONT,
    FLIP_LIMIT,
    SB_LIMIT,
    WILL,
    WONT,
    Command,
    Negotiation,
    Nvt,
    Options,
    Parser,
    Q,
    State,
    Subnegotiation,
    escape,
    subnegotiation,
    unescape,
)

ONE_BYTE = {44: frozenset((2, 0x6B))}


def whole(tokens):
    """Neighbouring data joined, neighbouring runs of the same command too: what does not depend on the cuts."""
    result = []
    for token in tokens:
        last = result[-1] if result else None
        if type(token) is bytes and type(last) is bytes:
            result[-1] = last + token
        elif type(token) is Command and type(last) is Command and token.code == last.code:
            result[-1] = Command(token.code, last.times + token.times)
        else:
            result.append(token)
    return result


def parse(data, cut=None):
    parser = Parser(ONE_BYTE)
    if cut is None:
        return whole(parser.feed(data))
    return whole(token for i in range(0, len(data), cut) for token in parser.feed(data[i : i + cut]))


def h(text):
    return bytes.fromhex(text)


FRAMES = [
    ("41 FF FF 42", [b"A\xffB"]),
    ("FF FF", [b"\xff"]),
    ("FF FF FF FF FF F1", [b"\xff\xff", Command(241)]),
    ("61 FF F1 FF F2 63", [b"a", Command(241), Command(242), b"c"]),
    ("FF F3 FF F3", [Command(243, 2)]),
    ("FF 05 41", [Command(5), b"A"]),
    ("FF F0", [Command(240)]),
    ("FF FB 2C FF FE 00", [Negotiation(WILL, 44), Negotiation(DONT, 0)]),
    ("FF FA 2C 01 00 00 FF FF FF FF FF F0", [Subnegotiation(44, h("01 00 00 FF FF"))]),
    ("FF FA 2C FF F0", [Subnegotiation(44, b"")]),
    ("FF FA 2C 02 FF F1 08 FF F0", [Subnegotiation(44, h("02 08"))]),
    ("FF FA 2C 02 FF FA 2C 02 08 FF F0", [Subnegotiation(44, h("02 08"))]),
    ("FF FA 2C 02 FF FB 1F 41", [Negotiation(WILL, 31), b"A"]),
    ("FF FA 2C 01 FF 10 22 FF F0", [Subnegotiation(44, h("01 FF 10 22"))]),
    ("FF FA 2C FF EC 02 FF ED 08 FF F0", [Subnegotiation(44, h("02 08"))]),
    # one byte of value, not doubled by its sender
    ("FF FA 2C 6B FF FF F0 41", [Subnegotiation(44, h("6B FF")), b"A"]),
    ("FF FA 2C 6B FF FF FF F0 41", [Subnegotiation(44, h("6B FF")), b"A"]),
    ("FF FA 2C 00 FF FF F0 41 FF F0", [Subnegotiation(44, h("00 FF F0 41"))]),
]


@pytest.mark.parametrize(("data", "tokens"), FRAMES)
@pytest.mark.parametrize("cut", [None, 1, 2, 3, 5])
def test_frames_at_any_cut(data, tokens, cut):
    assert parse(h(data), cut) == tokens


@pytest.mark.parametrize(("data", "tokens"), FRAMES)
@pytest.mark.parametrize("cut", [None, 1])
def test_frames_with_data_around(data, tokens, cut):
    assert parse(b"before" + h(data) + b"after", cut) == whole([b"before", *tokens, b"after"])


def test_nothing_is_nothing():
    assert Parser().feed(b"") == []


def test_the_offset_counts_what_came():
    parser = Parser()
    parser.feed(b"abc")
    parser.feed(b"\xff")
    assert parser.offset == 4
    assert parser.inside
    parser.feed(b"\xff")
    assert not parser.inside


@settings(deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=8))
def test_any_cut_gives_the_same_tokens(chunks):
    parser = Parser(ONE_BYTE)
    assert whole(t for chunk in chunks for t in parser.feed(chunk)) == parse(b"".join(chunks))
    assert parser.stored <= SB_LIMIT + 2


_TRICKY = st.lists(st.sampled_from([255, 250, 240, 251, 241, 243, 44, 2, 0, 65]), max_size=60).map(bytes)


@settings(deadline=None)
@given(_TRICKY, st.data())
def test_tricky_bytes_at_any_cut(data, draw):
    at = draw.draw(st.integers(0, len(data)))
    parser = Parser(ONE_BYTE)
    assert whole([*parser.feed(data[:at]), *parser.feed(data[at:])]) == parse(data)


@settings(deadline=None)
@given(st.binary())
def test_data_comes_back_as_it_was(data):
    assert parse(escape(data)) == ([data] if data else [])
    assert unescape(escape(data)) == data


@settings(deadline=None)
@given(st.integers(0, 254), st.binary(max_size=200))
def test_a_subnegotiation_comes_back_as_it_was(option, body):
    assert Parser().feed(subnegotiation(option, body)) == [Subnegotiation(option, body)]


def test_a_long_subnegotiation_is_cut_and_bounded():
    parser = Parser()
    parser.feed(b"\xff\xfa\x2c")
    for _ in range(100):
        assert parser.feed(b"x" * 1000) == []
        assert parser.stored <= SB_LIMIT
    (token,) = parser.feed(b"\xff\xf0")
    assert token == Subnegotiation(44, b"x" * SB_LIMIT, cut=True)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * (1 << 20),
        b"\xff\xff" * (1 << 20) + b"\xff",
        b"\xff\xf1" * (1 << 19),
        b"\xff\xfa\x2c" + b"\xff\xff" * (1 << 20),
        b"a" * (1 << 22) + b"\xff",
        b"\xff\xffa" * (1 << 19),
    ],
)
def test_a_mebibyte_of_iac_is_one_step(data):
    parser = Parser()
    began = time.perf_counter()
    tokens = parser.feed(data)
    assert time.perf_counter() - began < 1.0
    assert len(tokens) <= 1
    assert parser.stored <= SB_LIMIT + 2


def test_many_small_chunks_are_not_quadratic():
    parser = Parser()
    parser.feed(b"\xff\xfa\x2c")
    began = time.perf_counter()
    for _ in range(100_000):
        parser.feed(b"\xff")
    assert time.perf_counter() - began < 3.0
    assert parser.stored <= SB_LIMIT + 2


# --- the Q method -----------------------------------------------------------------------------------------------------

NO, YES = State.NO, State.YES
WANTNO, WANTNO_OPP = State.WANT_NO, State.WANT_NO_OPPOSITE
WANTYES, WANTYES_OPP = State.WANT_YES, State.WANT_YES_OPPOSITE

# RFC 1143 section 7, for his side: state, what comes or is wanted -> state, what is sent
HIS = [
    (NO, "WILL agreed", YES, DO),
    (NO, "WILL refused", NO, DONT),
    (YES, "WILL agreed", YES, None),
    (WANTNO, "WILL agreed", NO, None),
    (WANTNO_OPP, "WILL agreed", YES, None),
    (WANTYES, "WILL agreed", YES, None),
    (WANTYES_OPP, "WILL agreed", WANTNO, DONT),
    (NO, "WONT", NO, None),
    (YES, "WONT", NO, DONT),
    (WANTNO, "WONT", NO, None),
    (WANTNO_OPP, "WONT", WANTYES, DO),
    (WANTYES, "WONT", NO, None),
    (WANTYES_OPP, "WONT", NO, None),
    (NO, "on", WANTYES, DO),
    (YES, "on", YES, None),
    (WANTNO, "on", WANTNO_OPP, None),
    (WANTNO_OPP, "on", WANTNO_OPP, None),
    (WANTYES, "on", WANTYES, None),
    (WANTYES_OPP, "on", WANTYES, None),
    (NO, "off", NO, None),
    (YES, "off", WANTNO, DONT),
    (WANTNO, "off", WANTNO, None),
    (WANTNO_OPP, "off", WANTNO, None),
    (WANTYES, "off", WANTYES_OPP, None),
    (WANTYES_OPP, "off", WANTYES_OPP, None),
]
MIRROR = {WILL: DO, WONT: DONT, DO: WILL, DONT: WONT, None: None}
PATHS = {  # how to get there from NO, by what we want and what comes
    NO: [],
    YES: ["on", WILL],
    WANTNO: ["on", WILL, "off"],
    WANTNO_OPP: ["on", WILL, "off", "on"],
    WANTYES: ["on"],
    WANTYES_OPP: ["on", "off"],
}


def step(options, side, what, option=44):
    if what in ("on", "off"):
        sent = options.want(side, option, what == "on")
    else:
        verb = what if side == "him" else MIRROR[what]
        sent = options.received(Negotiation(verb, option))
    return None if sent is None else sent.verb


@pytest.mark.parametrize("side", ["him", "us"])
@pytest.mark.parametrize(("state", "what", "after", "sent"), HIS)
def test_q_method(side, state, what, after, sent):
    agreed = {44} if "refused" not in what else set()
    options = Options(us=agreed, him=agreed)
    for way in PATHS[state]:
        step(options, side, way)
    assert options.state(side, 44) is state
    verb = {"WILL": WILL, "WONT": WONT}.get(what.split()[0], what)
    got = step(options, side, verb)
    assert got == (sent if side == "him" else MIRROR[sent])
    assert options.state(side, 44) is after
    assert options.on(side, 44) is (after is YES)
    other = "us" if side == "him" else "him"
    assert options.state(other, 44) is NO


def test_the_table_is_whole():
    assert {state for state, _ in Q} == set(State)
    assert len(Q) == len(HIS)


def test_an_unknown_option_is_refused_and_its_refusal_is_not_answered():
    options = Options(us=set(), him=set())
    assert options.received(Negotiation(WILL, 31)) == Negotiation(DONT, 31)
    assert options.received(Negotiation(DO, 99)) == Negotiation(WONT, 99)
    assert options.received(Negotiation(WONT, 99)) is None
    assert options.received(Negotiation(DONT, 99)) is None


def test_a_timing_mark_has_no_state():
    options = Options(us={6}, him={6})
    for _ in range(100):
        assert options.received(Negotiation(DO, 6)) == Negotiation(WONT, 6)
    for verb in (WILL, WONT, DONT):
        assert options.received(Negotiation(verb, 6)) is None
    assert options.state("us", 6) is NO


def test_two_of_us_do_not_loop():
    """Whatever both want, and however often they change their mind, they come to rest."""
    for wishes in itertools.product([True, False], repeat=4):
        ends = [Options(us={0}, him={0}), Options(us={0}, him={0})]
        wires = [[], []]
        for i, wish in enumerate(wishes):
            sent = ends[i % 2].want("us" if i < 2 else "him", 0, wish)
            if sent:
                wires[i % 2].append(sent)
        steps = 0
        while any(wires):
            for i in (0, 1):
                if wires[i]:
                    answer = ends[1 - i].received(wires[i].pop(0))
                    if answer:
                        wires[1 - i].append(answer)
            steps += 1
            assert steps < 30


def test_a_peer_that_loops_gets_tired_of_first():
    options = Options(us={0}, him={0})
    answers = 0
    for _ in range(1000):
        answers += options.received(Negotiation(WILL, 0)) is not None
        answers += options.received(Negotiation(WONT, 0)) is not None
    assert answers == FLIP_LIMIT
    assert options.received(Negotiation(WILL, 1)) is not None, "other options are still answered"


# --- CR ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("meant", "wire"),
    [
        (b"a\r\nb", b"a\r\nb"),
        (b"a\rb", b"a\r\0b"),
        (b"\r\0", b"\r\0\0"),
        (b"\r\r\n", b"\r\0\r\n"),
        (b"\n\r", b"\n\r\0"),
        (b"\r\0\n", b"\r\0\0\n"),
    ],
)
def test_cr(meant, wire):
    nvt = Nvt()
    assert nvt.send(meant) + nvt.flush() == wire
    assert Nvt().receive(wire) == meant


@settings(deadline=None)
@given(st.lists(st.text("\r\n\0ab").map(str.encode)))
def test_cr_at_any_cut(chunks):
    data = b"".join(chunks)
    sender = Nvt()
    wire = b"".join(sender.send(chunk) for chunk in chunks) + sender.flush()
    other = Nvt()
    assert wire == other.send(data) + other.flush()
    receiver = Nvt()
    assert b"".join(receiver.receive(bytes([byte])) for byte in wire) == data


def test_reset_forgets_what_was_owed():
    nvt = Nvt()
    nvt.send(b"\r")
    nvt.receive(b"\r")
    nvt.reset()
    assert nvt.send(b"a") == b"a"
    assert nvt.receive(b"\0") == b"\0"


def test_names():
    assert str(Negotiation(WILL, 44)) == "WILL COM-PORT"
    assert str(Negotiation(DONT, 200)) == "DONT 200"
    assert str(Command(243, 2)) == "BRK (2 times)"
    assert str(Command(7)) == "IAC 7"
    assert telnet.option_name(0) == "BINARY"
