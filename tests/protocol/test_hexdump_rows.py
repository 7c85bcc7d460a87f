"""How a dump looks."""

import json
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serpipe.events import Eof, SetLine
from serpipe.protocol.hexdump import Dump, Stamp
from serpipe.protocol.words import from_json

WALL = 1_700_000_000.000125


def test_canonical():
    dump = Dump(time="off")
    assert dump.event("->", b"hello, world\r\n\x00\xffmore", WALL).splitlines() == [
        "-> 00000000  68 65 6c 6c 6f 2c 20 77 6f 72 6c 64 0d 0a 00 ff  |hello, world....|",
        "-> 00000010  6d 6f 72 65                                      |more|",
    ]
    assert dump.event("->", b"x", WALL).startswith("-> 00000014  78 ")
    assert dump.event("<-", b"y", WALL).startswith("<- 00000000  79 ")
    assert dump.event("->", SetLine(baud=57600), WALL) == "-> SET-BAUD 57600\n"
    assert dump.event("<-", Eof(), WALL) == "<- EOF\n"
    assert dump.event("<-", b"", WALL) == ""


def test_width():
    assert Dump(time="off", width=4).event("->", b"abcdef", WALL).splitlines() == [
        "-> 00000000  61 62 63 64  |abcd|",
        "-> 00000004  65 66        |ef|",
    ]


def test_hex():
    assert Dump("hex", "off", 4).event("->", b"abcdef", WALL) == "-> 61 62 63 64\n-> 65 66\n"
    assert Dump("hex", "off", 4).event("->", b"abcd", WALL) == "-> 61 62 63 64\n"


def test_text():
    assert Dump("text", "off").event("<-", b"one\r\ntwo\\\x1b\nthr", WALL).splitlines() == [
        r"<- one\r\n",
        r"<- two\\\x1b\n",
        r"<- thr",
    ]


def test_json():
    dump = Dump("json", "epoch")
    assert json.loads(dump.event("->", b"a\n", WALL)) == {
        "time": WALL,
        "lane": "->",
        "offset": 0,
        "hex": "610a",
        "text": "a\\n",
    }
    said = json.loads(dump.event("->", request := SetLine(baud=9600), WALL))
    assert said == {
        "time": WALL,
        "lane": "->",
        "words": "SET-BAUD 9600",
        "event": "SetLine",
        "ref": request.ref,
        "baud": 9600,
    }
    assert from_json({key: value for key, value in said.items() if key not in ("time", "lane", "words")}) == request


def test_label():
    assert Dump(time="off", label="client-1 ").event("->", Eof(), WALL) == "client-1 -> EOF\n"
    assert Dump(time="off", label="100% ").event("->", b"", WALL) == ""
    assert Dump(time="off", label="%d ", width=1).event("->", b"x", WALL) == "%d -> 00000000  78  |x|\n"
    assert json.loads(Dump("json", "off", label="client-1 ").event("->", Eof(), WALL)) == {
        "session": "client-1",
        "lane": "->",
        "words": "EOF",
        "event": "Eof",
    }


def test_times():
    assert Stamp("off").text(WALL) == ""
    assert Stamp("epoch").text(WALL) == "1700000000.000125 "
    assert Stamp("clock").text(WALL) == time.strftime("%H:%M:%S", time.localtime(WALL)) + ".000125 "
    delta = Stamp("delta")
    times = (100.0, 100.25, 100.2, 101.0)
    assert [delta.text(time) for time in times] == ["+0.000000 ", "+0.250000 ", "+0.000000 ", "+0.750000 "]


@pytest.mark.parametrize("form", ["canonical", "hex"])
@given(chunks=st.lists(st.binary(max_size=100)), width=st.integers(1, 40))
def test_the_bytes_can_be_read_back(form, chunks, width):
    dump = Dump(form, "off", width)
    digits = ""
    for chunk in chunks:
        for row in dump.event("->", chunk, WALL).splitlines():
            body = row.removeprefix("-> ")
            if form == "canonical":
                offset, body = re.fullmatch(r"([0-9a-f]{8})  ([0-9a-f ]*?) *  \|.{1,40}\|", body).groups()
                assert int(offset, 16) == len(bytes.fromhex(digits))
            assert len(bytes.fromhex(body)) <= width
            digits += body
    assert bytes.fromhex(digits) == b"".join(chunks)
