"""The stage that counts and checks."""

import hashlib

import pytest
from fakes import FakeContext, Lanes, joined
from hypothesis import given
from hypothesis import strategies as st

from serpipe.errors import BadValue, CheckFailed
from serpipe.events import Eof, ModemReport, Purge, PurgeDone, SetLine
from serpipe.stages.checksum import Checksum

DATA = b"123456789"
SHA = hashlib.sha256(DATA).hexdigest()


def lanes(**options):
    return Lanes(Checksum(**options).make(FakeContext()))


def test_both_directions_are_counted_and_unchanged():
    chain = lanes(algorithms=("sha256", "crc-16/modbus"))
    chain.forward(DATA[:4], SetLine(), DATA[4:], Eof())
    chain.back(b"abc", Eof())
    assert chain.right.emitted == [DATA[:4], SetLine(), DATA[4:], Eof()]
    assert chain.left.emitted == [b"abc", Eof()]
    assert chain.stage.closing_lines() == [
        f"checksum -> 9 bytes sha256 {SHA} crc-16/modbus 4b37",
        f"checksum <- 3 bytes sha256 {hashlib.sha256(b'abc').hexdigest()} crc-16/modbus 5749",
    ]
    assert chain.stage.finish() is None


def test_a_direction_without_bytes():
    assert lanes().stage.closing_lines() == ["checksum -> 0 bytes", "checksum <- 0 bytes"]


@pytest.mark.parametrize(("towards", "arrow"), [("right", "->"), ("left", "<-")])
def test_one_direction(towards, arrow):
    chain = lanes(algorithms=("crc32",), dir=towards)
    chain.forward(DATA)
    chain.back(DATA)
    assert chain.stage.closing_lines() == [f"checksum {arrow} 9 bytes crc32 cbf43926"]


@pytest.mark.parametrize("towards", ["right", "left", "both"])
def test_verify(towards):
    direction = "<-" if towards == "left" else "->"
    chain = lanes(algorithms=("crc32",), dir=towards, verify=bytes.fromhex("cbf43926"))
    chain.push(direction, DATA)
    assert chain.stage.finish() is None
    assert f"checksum {direction} 9 bytes crc32 cbf43926 ok" in chain.stage.closing_lines()
    chain.push(direction, b"!")
    failed = chain.stage.finish()
    assert isinstance(failed, CheckFailed)
    assert failed.exit_code == 1
    assert str(failed) == f"checksum {direction} crc32 is 4cad8e17, expected cbf43926 (over 10 bytes)"
    assert not any(line.endswith("ok") for line in chain.stage.closing_lines())


@pytest.mark.parametrize(
    ("form", "trailer"), [("raw", bytes.fromhex("cbf43926")), ("hex", b"cbf43926"), ("line", b"cbf43926\n")]
)
@pytest.mark.parametrize(("towards", "direction"), [("right", "->"), ("left", "<-"), ("both", "->")])
def test_append_and_strip_undo_each_other(form, trailer, towards, direction):
    sender = lanes(algorithms=("crc32",), dir=towards, append=True, trailer=form)
    sender.push(direction, DATA, Eof())
    sent = sender.outs[direction].events
    assert sent == [DATA + trailer, Eof()]
    receiver = lanes(algorithms=("crc32",), dir=towards, strip=True, trailer=form)
    receiver.push(direction, *sent)
    assert receiver.outs[direction].events == [DATA, Eof()]
    assert receiver.stage.finish() is None
    assert f"checksum {direction} 9 bytes crc32 cbf43926 ok" in receiver.stage.closing_lines()


def test_append_leaves_the_other_direction_alone():
    chain = lanes(append=True)
    chain.back(b"abc", Eof())
    assert chain.left.emitted == [b"abc", Eof()]


def test_a_wrong_trailer():
    chain = lanes(algorithms=("crc32",), strip=True)
    chain.forward(DATA + b"\x01\x02\x03\x04", Eof())
    assert chain.right.events == [DATA, Eof()]
    assert str(chain.stage.finish()) == "checksum -> crc32 is cbf43926, and the trailer says 01020304"


def test_a_wrong_trailer_in_words():
    chain = lanes(algorithms=("crc32",), strip=True, trailer="line")
    chain.forward(DATA + b"cbf4392\xff\n", Eof())
    assert str(chain.stage.finish()) == "checksum -> crc32 is cbf43926, and the trailer says cbf4392\\xff"


def test_a_trailer_in_capitals():
    chain = lanes(algorithms=("crc32",), strip=True, trailer="hex")
    chain.forward(DATA + b"CBF43926", Eof())
    assert chain.stage.finish() is None


def test_no_trailer():
    chain = lanes(algorithms=("crc32",), strip=True)
    chain.forward(b"abc", Eof())
    assert chain.right.events == [b"abc", Eof()]
    assert str(chain.stage.finish()) == "checksum -> crc32: the stream ended without a trailer of 4 bytes"


def test_a_stream_that_was_cut():
    chain = lanes(algorithms=("crc32",), strip=True)
    chain.forward(DATA)
    assert chain.stage.held("->") == 4
    assert "cut before its end" in str(chain.stage.finish())


def test_a_control_shows_that_it_was_no_trailer():
    chain = lanes(algorithms=("crc32",), strip=True)
    chain.forward(b"abcdef")
    assert chain.right.events == [b"ab"]
    chain.forward(SetLine(baud=300))
    assert chain.right.events == [b"abcdef", SetLine(baud=300)]
    assert chain.stage.held("->") == 0
    crc = bytes.fromhex("4b8e39ef")
    chain.forward(crc, Eof())
    assert chain.right.events == [b"abcdef", SetLine(baud=300), Eof()]
    assert chain.stage.finish() is None


@pytest.mark.parametrize(("direction", "purge"), [("->", Purge(tx=True)), ("<-", PurgeDone(rx=True))])
def test_a_purge_drops_what_is_held(direction, purge):
    chain = lanes(algorithms=("crc32",), strip=True, dir="right" if direction == "->" else "left")
    chain.push(direction, b"abcdef")
    assert chain.stage.discard(direction) == 4  # as the lane does when it has read the purge
    chain.push(direction, purge)
    assert chain.outs[direction].events == [b"ab", purge]
    chain.push(direction, b"abcdef")
    assert chain.stage.discard(direction) == 4
    assert chain.stage.discard("<-" if direction == "->" else "->") == 0


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"algorithms": ("md5", "crc32"), "verify": bytes(4)}, "verify"),
        ({"algorithms": ("md5", "crc32"), "append": True}, "append"),
        ({"algorithms": ("md5", "crc32"), "strip": True}, "strip"),
        ({"append": True, "strip": True}, "strip"),
        ({"verify": bytes(4)}, "verify"),
    ],
)
def test_what_does_not_fit_together(options, key):
    with pytest.raises(BadValue) as caught:
        Checksum(**options)
    assert caught.value.key == key


def test_describe():
    assert Checksum().describe() == "checksum:sha256"
    spec = Checksum(algorithms=("crc32",), dir="left", verify=bytes(4), strip=True, trailer="hex")
    assert spec.describe() == "checksum:crc32,dir=left,verify=00000000,strip,trailer=hex"


EVENTS = st.lists(st.one_of(st.binary(max_size=12), st.sampled_from([SetLine(), ModemReport()])))


def cut(events, size):
    for event in events:
        if type(event) is bytes:
            yield from (event[at : at + size] for at in range(0, len(event), size))
        else:
            yield event


@given(EVENTS, st.integers(1, 5), st.sampled_from(["append", "strip"]), st.sampled_from(["raw", "line"]))
def test_what_comes_out_does_not_depend_on_the_cuts(events, size, what, form):
    results = []
    for version in (joined(events), cut(events, size)):
        chain = lanes(algorithms=("crc-16/modbus",), trailer=form, **{what: True})
        for event in [*version, Eof()]:
            chain.forward(event)
            if type(event) is not bytes:
                assert chain.stage.held("->") == 0
        results.append((chain.right.events, str(chain.stage.finish()), chain.stage.closing_lines()))
    assert results[0] == results[1]


@given(EVENTS, st.integers(1, 5), st.sampled_from(["raw", "hex", "line"]))
def test_strip_gets_back_what_append_sent(events, size, form):
    sender = lanes(algorithms=("crc-16/modbus",), append=True, trailer=form)
    sender.forward(*events, Eof())
    receiver = lanes(algorithms=("crc-16/modbus",), strip=True, trailer=form)
    receiver.forward(*cut(sender.right.events, size))
    assert receiver.right.events == joined([*events, Eof()])
    assert receiver.stage.finish() is None
