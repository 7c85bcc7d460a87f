"""The server that misbehaves: each fault on the wire, without I/O."""

import math

import pytest
from fake_port import AS_FOUND, MODEM, FakePort
from fakes import joined
from hypothesis import given, settings
from hypothesis import strategies as st

from serpipe.events import BreakReport, Eof, LineReport, Purge, Request, SetBreak, SetLine, SetModem
from serpipe.protocol.emulate import FAULTS, LATE_LIMIT, PACKET_LIMIT, PROFILES, Emulated, Faults, FixedLengths
from serpipe.protocol.telnet import Command, Negotiation, Subnegotiation


def h(text):
    return bytes.fromhex(text.replace("[", " FF FA 2C ").replace("]", " FF F0 "))


class Serving:
    """An emulated server in front of a FakePort, asked for COM-PORT already."""

    def __init__(self, profile="serpipe", active=True, **faults):
        self.codec = Emulated(PROFILES[profile], Faults(**faults), banner=b"hello\r\n")
        self.port = FakePort()
        self.now = 0.0
        self.data = b""
        self.codec.start()
        self.opening = self.codec.outgoing()
        for report in (LineReport(values=AS_FOUND), self.port.outputs, MODEM):
            self.codec.send(report)
        if active:
            self.ask("FF FB 2C")

    def ask(self, text):
        """What it answers to these bytes at once."""
        self.feed(h(text))
        return self.taken()

    def feed(self, data):
        for event in self.codec.receive(data, self.now):
            if type(event) is bytes:
                self.data += event
            elif isinstance(event, Request):
                self.codec.send(self.port.do(event), self.now)

    def taken(self):
        """What it has to write, a piece at a time."""
        return b"".join(iter(self.codec.outgoing, b""))

    def at(self, now):
        self.now = now
        self.codec.tick(now)
        return self.taken()


# profiles, as far as no real one is compared with


def test_a_rate_of_one_byte():
    assert Serving("cisco").ask("[01 00 00 4B 00]") == h("[65 0A]")
    assert Serving("cisco").ask("[01 08]") == h("[65 08]")
    assert Serving("cisco").ask("[01 00 00 00 64]") == h("[65 00 00 00 64]"), "there is no byte for it"
    assert Serving("serpipe").ask("[01 08] [01 00 00 4B 00]") == h("[65 08] [65 00 00 4B 00]")
    assert Serving("ser2net").ask("[01 08] [01 00 00 4B 00]") == h("[65 08] [65 0A]")


def test_a_rate_of_one_byte_ends_pyserials_program():
    serving = Serving("pyserial")
    assert serving.ask("[01 08]") == b""
    assert serving.codec.over


def test_reversed_roles():
    serving = Serving("lantronix", active=False)
    assert serving.opening == b""
    assert serving.ask("FF FB 2C") == h("FF FE 2C")
    assert serving.ask("FF FD 2C") == h("FF FB 2C") + h("FF FA 2C 6C 6B 30 FF F0")
    assert serving.ask("[0B FF FF]").startswith(h("FF FA 2C 6F FF FF F0")), "not doubled"


def test_one_that_refuses():
    serving = Serving("refuses", active=False)
    assert serving.ask("FF FB 2C FF FD 2C") == h("FF FE 2C FF FC 2C")
    assert serving.ask("[01 00 00 4B 00]") == b"", "asked all the same"
    assert serving.port.line == AS_FOUND


def test_pyserials_server_adds_rtscts_to_xonxoff():
    serving = Serving("pyserial")
    assert serving.ask("[05 02] [05 03] [05 00] [05 01] [05 03] [05 00]") == h(
        "[69 02] [69 03] [69 02] [69 01] [69 03] [69 03]"
    )


def test_one_that_is_no_telnet():
    serving = Serving("raw", active=False)
    assert serving.opening == b""
    assert serving.ask("FF FB 2C FF FF 0D") == b""
    assert serving.data == h("FF FB 2C FF FF 0D")
    serving.codec.send(b"\xff\r")
    assert serving.taken() == b"\xff\r"


def test_an_esp_sets_its_lines_without_a_word():
    serving = Serving("esp")
    assert serving.ask("[05 08] [05 0B] [05 07]") == b""
    assert [e for e in serving.port.written if isinstance(e, SetModem)] == [SetModem(dtr=True), SetModem(rts=True)]


# sredird's way of reading


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("FF F1 61 62", [Command(0xF1), b"b"]),
        ("FF FB 2C 61", [Negotiation(0xFB, 44), b"a"]),
        ("[0A 1E] 61", [Subnegotiation(44, h("0A 1E")), b"a"]),
        ("[0A FF FF] 61", [Subnegotiation(44, h("0A FF")), b"\xf0a"]),
        ("[01 00 00 FF FF 00] 61", [Subnegotiation(44, h("01 00 00 FF FF")), b"\xf0a"]),
        ("[07] 61 62", [Subnegotiation(44, h("07 FF")), b"b"]),
        ("[08] 61", [Subnegotiation(44, h("08")), b"a"]),
        ("[00 61 62] 63", [Subnegotiation(44, h("00 61 62")), b"c"]),
        ("61 FF FF 62", [b"a\xffb"]),
    ],
)
def test_commands_of_a_fixed_length(text, tokens):
    data = h(text)
    for cut in range(len(data) + 1):
        parser = FixedLengths()
        assert joined(parser.feed(data[:cut]) + parser.feed(data[cut:])) == tokens
        assert not parser.inside


def test_a_signature_without_an_end_is_not_kept_for_ever():
    parser = FixedLengths()
    parser.feed(h("FF FA 2C 00"))
    for _ in range(100):
        parser.feed(b"x" * 100)
        assert parser.stored < 2000


# faults


def test_never_acks():
    serving = Serving(never_acks=True)
    assert serving.ask("[01 00 00 4B 00] [05 08] [0C 01] [00] [07 00] [0A FF FF]") == b""
    assert serving.port.line.baud == 19200, "it does what it is told"


def test_acks_what_it_does_not_apply():
    serving = Serving(acks_unapplied=True)
    asked = "[01 00 00 4B 00] [03 03] [05 08] [05 05] [0C 03]"
    assert serving.ask(asked) == h("[65 00 00 4B 00] [67 03] [69 08] [69 05] [70 03]")
    kinds = (SetLine, SetModem, SetBreak, Purge)
    assert not [e for e in serving.port.written if isinstance(e, kinds)]
    assert serving.ask("[01 00 00 00 00] [05 07]") == h("[65 00 00 25 80] [69 09]"), "and says so where it is asked"


def test_late():
    serving = Serving(late=2.0)
    assert serving.opening
    assert serving.ask("[01 00 00 4B 00]") == b""
    serving.codec.send(b"data", 0.0)
    assert serving.taken() == b"data", "data is not late"
    assert serving.codec.deadline == 2.0
    assert serving.at(1.9) == b""
    assert serving.at(2.0) == h("[6B 30] [65 00 00 4B 00]")
    assert math.isinf(serving.codec.deadline)


def test_late_answers_are_bounded():
    serving = Serving(late=3600.0)
    for _ in range(LATE_LIMIT // 16 + 1):
        serving.feed(h("[01 00 00 00 00]") * 16)
    assert len(serving.codec._late) == LATE_LIMIT
    assert serving.taken()


def test_echo():
    serving = Serving(echo=True)
    assert serving.ask("61 FF FF") == b"a\xff\xff"
    assert serving.data == b"a\xff"


def test_banner():
    assert Serving(banner=True).opening.endswith(h("FF FB 01") + b"hello\r\n")


@pytest.mark.parametrize("end", [b"\r\n", b"\r", b"\n", b"\r\0"])
def test_login(end):
    said = b"root" + end + b"secret" + end + b"data" + end
    serving = Serving(login=True)
    assert serving.opening.endswith(b"login: ")
    serving.feed(said)
    assert serving.data == b"data" + end
    assert serving.taken() == b"Password: \r\n"


def test_login_keeps_little_of_an_endless_line():
    serving = Serving(login=True)
    for _ in range(100):
        serving.feed(b"x" * 1000)
    assert len(serving.codec._typed) < 2000
    assert serving.data == b""


def test_cr_nul_and_raw_ff():
    for faults, wire in (
        ({}, b"\r\xff\xff\r\n"),
        ({"crnul": True}, b"\r\0\xff\xff\r\0\n"),
        ({"rawff": True}, b"\r\xff\r\n"),
        ({"crnul": True, "rawff": True}, b"\r\0\xff\r\0\n"),
    ):
        serving = Serving(**faults)
        serving.codec.send(b"\r\xff\r\n")
        assert serving.taken() == wire


def pieces(codec):
    return list(iter(codec.outgoing, b""))


def test_packets_by_size():
    codec = Serving(packet_size=4).codec
    for part in (b"a", b"bcdefg", b"hi"):
        codec.send(part, 0.0)
    assert pieces(codec) == [b"abcd", b"efgh"]
    assert math.isinf(codec.deadline), "the rest waits until its block is full"
    codec.send(b"jkl\xff", 0.0)
    assert pieces(codec) == [b"ijkl"]
    codec.send(Eof())
    assert pieces(codec) == [b"\xff\xff"]


def test_packets_by_time():
    codec = Serving(packet_time=0.5).codec
    codec.send(b"ab", 1.0)
    codec.send(b"cd", 1.4)
    assert (pieces(codec), codec.deadline) == ([], 1.5)
    codec.tick(1.5)
    assert pieces(codec) == [b"abcd"]
    assert math.isinf(codec.deadline)
    codec.send(b"x" * (PACKET_LIMIT + 1), 2.0)
    assert [len(piece) for piece in pieces(codec)] == [PACKET_LIMIT]
    codec.tick(codec.deadline)
    assert pieces(codec) == [b"x"]


def test_packets_by_size_or_time():
    codec = Serving(packet_size=4, packet_time=0.5).codec
    codec.send(b"abcde", 1.0)
    assert (pieces(codec), codec.deadline) == ([b"abcd"], 1.5)
    codec.tick(1.5)
    assert pieces(codec) == [b"e"]


def test_a_purge_drops_an_unfinished_packet():
    serving = Serving(packet_size=8)
    serving.codec.send(b"old")
    assert serving.ask("[0C 01]") == h("[70 01]")
    serving.codec.send(b"new data")
    assert serving.taken() == b"new data"


@pytest.mark.parametrize(
    ("faults", "opening", "over"),
    [
        ({"mute": True}, b"", False),
        ({"closes": True}, b"", True),
        ({"busy": True}, PROFILES["serpipe"].greeting, True),
    ],
    ids=["mute", "closes", "busy"],
)
def test_one_that_serves_nobody(faults, opening, over):
    serving = Serving(active=False, **faults)
    wire = b"".join(map(bytes, opening)) + (b"Port already in use\r\n" if opening else b"")
    assert (serving.opening, serving.codec.over) == (wire, over)
    assert serving.ask("FF FB 2C [01 00 00 4B 00] 61") == b""
    assert serving.data == b""
    serving.codec.send(b"data")
    serving.codec.send(BreakReport())
    assert serving.taken() == b""


def test_every_fault_has_its_field():
    fields = {name.replace("_", "-").removesuffix("-size").removesuffix("-time") for name in Faults.__slots__}
    assert fields == set(FAULTS)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(sorted(PROFILES)),
    st.fixed_dictionaries(
        {},
        optional={
            name: st.just(True)
            for name in ("never_acks", "acks_unapplied", "echo", "banner", "login", "crnul", "rawff", "busy", "mute")
        }
        | {"late": st.just(1.0), "packet_size": st.integers(1, 9), "packet_time": st.just(0.5)},
    ),
    st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.tuples(st.integers(0, 13), st.binary(max_size=6)).map(
                lambda c: b"\xff\xfa\x2c" + bytes((c[0],)) + c[1].replace(b"\xff", b"\xff\xff") + b"\xff\xf0"
            ),
            st.tuples(st.integers(251, 254), st.sampled_from((0, 1, 3, 6, 44))).map(lambda n: bytes((255, *n))),
        ),
        max_size=12,
    ),
)
def test_whatever_comes_it_does_not_fail(profile, faults, chunks):
    serving = Serving(profile, **faults)
    for chunk in chunks:
        serving.feed(chunk)
        serving.codec.send(b"from the port \xff\r", serving.now)
        if not math.isinf(serving.codec.deadline):
            serving.at(serving.codec.deadline)
        serving.taken()
    serving.codec.eof(serving.now)
    serving.codec.send(Eof(), serving.now)
    assert len(serving.codec._packet) < 9 or not faults.get("packet_size")
