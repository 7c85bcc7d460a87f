"""RFC 2217, both roles: the vectors of the wire, and the two codecs against each other."""

import math
import time
from dataclasses import replace

import pytest
from fake_port import AS_FOUND, MODEM, FakePort
from fakes import joined
from hypothesis import given, settings
from hypothesis import strategies as st

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
    Report,
    Request,
    SetBreak,
    SetLine,
    SetModem,
    Signature,
    new_ref,
)
from serpipe.protocol.comport import COM_PORTS, DECODED, SETTINGS, describe
from serpipe.protocol.rfc2217 import PENDING_LIMIT, SERVER_BUFFERS, SERVER_GREETING, Client, Server
from serpipe.protocol.telnet import DO, WILL, Negotiation, escape


def h(text):
    """Hex as the vectors are written: ``[x]`` is the body of a COM-PORT subnegotiation, its 255s doubled already."""
    return bytes.fromhex(text.replace("[", " FF FA 2C ").replace("]", " FF F0 "))


class Serving:
    """A server codec in front of a FakePort."""

    def __init__(self, active=True, **options):
        self.codec = Server(**options)
        self.port = FakePort()
        self.now = 0.0
        self.data = b""
        self.codec.start()
        self.codec.outgoing()
        for report in (LineReport(values=AS_FOUND), self.port.outputs, MODEM):
            self.codec.send(report)
        if active:
            self.feed(h("FF FB 2C FF FD 00 FF FB 00 FF FD 03 FF FB 03 FF FD 01"))
            self.port.written.clear()
            self.data = b""

    def run(self, events):
        for event in events:
            if type(event) is bytes:
                self.data += event
            answer = self.port.do(event)
            if answer is not None:
                self.run(self.codec.send(answer, self.now))

    def feed(self, data, cut=None):
        for i in range(0, len(data), cut or len(data) or 1):
            self.run(self.codec.receive(data[i : i + (cut or len(data))], self.now))
        return self.codec.outgoing()

    def tell(self, report):
        self.run(self.codec.send(report, self.now))
        return self.codec.outgoing()

    @property
    def events(self):
        return joined(self.port.written)


SERVER_VECTORS = [
    ("S2", "FF FB 2C", ""),
    ("S3", "FF FD 2C", "FF FB 2C"),
    ("S5", "FF FE 00", "FF FC 00"),
    ("S6 will", "FF FB 1F", "FF FE 1F"),
    ("S6 do", "FF FD 63", "FF FC 63"),
    ("S7", "FF FC 63", ""),
    ("S8", "FF FD 06", "FF FC 06"),
    ("S8 again", "FF FD 06 FF FD 06", "FF FC 06 FF FC 06"),
    ("S9", "[00]", "[64 73 65 72 32 6E 65 74]"),
    ("S10", "[00 61 62 FF FF 63]", ""),
    ("S11", "[01 00 00 00 00]", "[65 00 00 25 80]"),
    ("S12", "[01 00 01 C2 00]", "[65 00 01 C2 00]"),
    ("S13", "[01 00 00 FF FF 00]", "[65 00 00 FF FF 00]"),
    ("S14", "[01 FF FF FF FF FF FF FF FF]", "[65 00 3D 09 00]"),
    ("S15", "[01 08]", "[65 08]"),
    ("S15 once", "[01 0E] [01 00 00 00 00]", "[65 0E] [65 00 01 C2 00]"),
    ("S15 query", "[01 00]", "[65 08]"),
    ("S15 unknown index", "[01 7F]", "[65 08]"),
    ("S16", "[01 00 00 25 80 00 00 00 00]", "[65 00 00 25 80]"),
    ("S17", "[01]", ""),
    ("S18", "[02 00] [02 07]", "[66 08] [66 07]"),
    ("S19", "[02 07] [02 09]", "[66 07] [66 07]"),
    ("S20", "[03 00] [03 03] [03 04]", "[67 01] [67 03] [67 04]"),
    ("S21", "[03 04] [03 09]", "[67 04] [67 04]"),
    ("S22", "[04 02]", "[68 02]"),
    ("S23", "[04 03]", "[68 01]"),
    ("S23 with 5 bits", "[02 05] [04 03]", "[66 05] [68 03]"),
    ("S24", "[05 00]", "[69 01]"),
    ("S25", "[05 03] [05 00]", "[69 03] [69 03]"),
    ("S25 all", "[05 01] [05 02] [05 11] [05 13]", "[69 01] [69 02] [69 11] [69 13]"),
    ("S26", "[05 04]", "[69 06]"),
    ("S27", "[05 05] [05 06]", "[69 05] [69 06]"),
    ("S28", "[05 08] [05 09] [05 0B] [05 0C]", "[69 08] [69 09] [69 0B] [69 0C]"),
    ("S29", "[05 07] [05 0A]", "[69 09] [69 0C]"),
    ("S30", "[05 0D] [05 0F]", "[69 0E] [69 0E]"),
    ("S30 follows outbound", "[05 03] [05 0D]", "[69 03] [69 10]"),
    ("S31", "[05 14] [05]", ""),
    ("S32", "[07]", "[6B 30]"),
    ("S32 with a value", "[07 00]", "[6B 30]"),
    ("line state polled", "[06]", "[6A 00]"),
    ("S33", "[08] [09]", ""),
    ("S34", "[0A 1E]", "[6E 1E]"),
    ("S34 supported part", "[0A FF FF]", "[6E 1E]"),
    ("S35", "[0B FF FF]", "[6F FF FF] [6B 30]"),
    ("S35 undoubled", "FF FA 2C 0B FF FF F0", "[6F FF FF] [6B 30]"),
    ("S35 none", "[0B 00]", "[6F 00]"),
    ("S36", "[0C 01] [0C 02] [0C 03]", "[70 01] [70 02] [70 03]"),
    ("S36 reserved", "[0C 00] [0C 04]", "[70 00] [70 04]"),
    ("S37", "[0D 01] [65 00 00 25 80] FF FA 1F 00 50 00 18 FF F0 FF FA 2C FF F0", ""),
    ("S38", "FF FA 2C 02 FF F1 08 FF F0", "[66 08]"),
    ("S39", "FF FA 2C 02 FF FA 2C 02 08 FF F0", "[66 08]"),
    ("S43", "FF F1 FF F2 FF F6 FF F0", ""),
    ("S45", "FF FC 2C", "FF FE 2C"),
    ("S46 after", "FF FC 2C [01 00 00 00 00]", "FF FE 2C [65 00 00 25 80]"),
    ("truncated", "[02] [03] [04] [0A] [0B] [0C]", ""),
]
SERVER_IDS = [name for name, _, _ in SERVER_VECTORS]


@pytest.mark.parametrize(("name", "wire", "out"), SERVER_VECTORS, ids=SERVER_IDS)
@pytest.mark.parametrize("cut", [None, 1, 3])
def test_server_vector(name, wire, out, cut):
    serving = Serving()
    assert serving.feed(h(wire), cut).hex(" ") == h(out).hex(" ")
    assert serving.data == b""


@pytest.mark.parametrize(("name", "wire", "out"), SERVER_VECTORS, ids=SERVER_IDS)
@pytest.mark.parametrize("cut", [None, 1])
def test_server_vector_with_data_around(name, wire, out, cut):
    serving = Serving()
    assert serving.feed(b"be\rfore" + h(wire) + b"aft\r\0er", cut) == h(out)
    assert serving.data == b"be\rforeaft\r\0er"


@pytest.mark.parametrize("at", range(10))
def test_s40_split(at):
    serving = Serving()
    wire = h("[01 00 00 25 80]")
    assert serving.feed(wire[:at]) == b""
    assert serving.feed(wire[at:]) == h("[65 00 00 25 80]")


def test_the_greeting():
    codec = Server()
    codec.start()
    assert codec.outgoing() == h("FF FD 2C FF FB 00 FF FD 00 FF FB 03 FF FD 03 FF FB 01")
    assert codec.outgoing() == b""


def test_s1_first_notification_at_once():
    assert Serving(active=False).feed(h("FF FB 2C")) == h("[6B 30]")


def test_s1_asked_for_where_the_state_is_not_known():
    codec = Server()
    codec.start()
    codec.outgoing()
    (request,) = codec.receive(h("FF FB 2C"))
    assert request == GetModem()
    assert codec.outgoing() == b""
    codec.send(replace(MODEM, answers=request.ref))
    assert codec.outgoing() == h("[6B 30]")


def test_s3_do_makes_it_active_too():
    serving = Serving(active=False)
    assert serving.feed(h("FF FD 2C")) == h("FF FB 2C [6B 30]")
    assert serving.feed(h("FF FB 2C")) == b""


def test_s4_binary_agreed():
    assert Serving(active=False).feed(h("FF FD 00 FF FB 00")) == b""


def test_s46_early_commands_are_served():
    serving = Serving(active=False)
    assert serving.feed(h("[01 00 00 00 00]")) == h("[65 00 00 25 80]")
    assert serving.tell(ModemReport()) == b"", "nothing is notified before the option is agreed"
    assert serving.feed(h("FF FB 2C [05 00]")) == h("[6B 00] [69 01]")


def test_s41_data():
    serving = Serving()
    assert serving.feed(h("41 FF FF 42 43 0D 00 44")) == b""
    assert serving.data == h("41 FF 42 43 0D 00 44")
    assert serving.tell(h("61 FF 0D 0A 0D 62")) == h("61 FF FF 0D 0A 0D 62")


def test_s42_timed_break():
    serving = Serving()
    serving.now = 10.0
    assert serving.feed(b"a" + h("FF F3") + b"b" + h("[05 00]") + b"c") == b""
    assert serving.events == [b"a", SetBreak(on=True)]
    assert serving.codec.deadline == 10.25
    assert serving.codec.holding
    serving.run(serving.codec.tick(10.2))
    assert len(serving.events) == 2
    serving.now = 10.25
    serving.run(serving.codec.tick(10.25))
    assert serving.events == [b"a", SetBreak(on=True), SetBreak(on=False), b"b", SetLine(), b"c"]
    assert serving.codec.outgoing() == h("[69 01]"), "the break of IAC BRK has no acknowledgement"
    assert serving.codec.deadline == math.inf
    assert not serving.codec.holding


def test_two_timed_breaks_in_a_row_are_one_and_two_apart_are_two():
    serving = Serving()
    serving.feed(h("FF F3 FF F3 FF F3") + b"a" + h("FF F3 FF F3") + b"b")
    serving.run(serving.codec.tick(1.0))
    assert serving.events == [SetBreak(on=True), SetBreak(on=False), b"a", SetBreak(on=True)]
    serving.run(serving.codec.tick(2.0))
    assert serving.events[4:] == [SetBreak(on=False), b"b"]


def test_the_end_ends_a_timed_break():
    serving = Serving()
    serving.feed(h("FF F3") + b"a" + h("FF F3") + b"b")
    serving.run(serving.codec.eof())
    assert serving.events == [SetBreak(on=True), SetBreak(on=False), b"a", SetBreak(on=True), SetBreak(on=False), b"b"]


def test_a_purge_drops_what_a_timed_break_holds_up():
    serving = Serving()
    serving.feed(h("FF F3") + b"a" + h("[0C 02]") + b"b")
    serving.run(serving.codec.tick(1.0))
    assert serving.events == [SetBreak(on=True), SetBreak(on=False), Purge(tx=True), b"b"]


def test_s44_order():
    serving = Serving()
    assert serving.feed(b"ABC" + h("[01 00 00 4B 00]") + b"DEF") == h("[65 00 00 4B 00]")
    assert serving.events == [b"ABC", SetLine(baud=19200), b"DEF"]


def test_each_command_becomes_its_request():
    serving = Serving()
    serving.feed(h("[03 03] [05 02] [05 0E] [05 08] [05 0C] [05 05] [0C 03] [07]"))
    assert serving.events == [
        SetLine(parity="even"),
        SetLine(flow="xonxoff"),
        SetLine(flow_in="none"),
        SetModem(dtr=True),
        SetModem(rts=False),
        SetBreak(on=True),
        Purge(rx=True, tx=True),
        GetModem(),
    ]


@pytest.mark.parametrize(
    ("asked", "got", "acked"), [(9600, 9615, 9600), (115200, 117647, 117647), (38400, 38461, 38400)]
)
def test_a_rate_met_within_two_percent_is_acked_as_asked(asked, got, acked):
    serving = Serving()
    serving.port.rounding = lambda baud: got
    wire = h("[01 " + asked.to_bytes(4, "big").hex() + "]")
    assert serving.feed(wire) == h("[65 " + acked.to_bytes(4, "big").hex() + "]")
    assert serving.feed(h("[01 00 00 00 00]")) == h("[65 " + got.to_bytes(4, "big").hex() + "]")


def test_exact_acks_the_real_rate():
    serving = Serving(exact=True)
    serving.port.rounding = lambda baud: 9615
    assert serving.feed(h("[01 00 00 25 80]")) == h("[65 00 00 25 8F]")


def test_a_port_that_can_do_nothing_is_answered_for_from_what_was_known():
    serving = Serving()
    serving.port.fail = True
    wire = "[01 00 01 C2 00] [02 07] [03 03] [04 02] [05 03] [05 08] [05 0B] [05 05] [05 0F] [0C 01] [07] [00]"
    out = "[65 00 00 25 80] [66 08] [67 01] [68 01] [69 01] [69 09] [69 0C] [69 06] [69 0E] [70 01] [6B 30]"
    assert serving.feed(h(wire)) == h(out) + h("[64 " + b"serpipe".hex() + "]")


def test_a_failure_says_what_is_in_force():
    serving = Serving()
    (request,) = serving.codec.receive(h("[01 00 01 C2 00]"))
    serving.codec.send(Failed(answers=request.ref, why="refused", in_force=LineReport(values=Line(baud=300))))
    assert serving.codec.outgoing() == h("[65 00 00 01 2C]")


def test_what_a_report_does_not_say_is_acked_as_asked():
    serving = Serving()
    (request,) = serving.codec.receive(h("[05 08]"))
    serving.codec.send(OutputReport(answers=request.ref, virtual=True))
    assert serving.codec.outgoing() == h("[69 08]")


def test_answers_may_come_in_another_order():
    serving = Serving()
    baud, purge = serving.codec.receive(h("[01 00 01 C2 00] [0C 01]"))
    serving.codec.send(PurgeDone(answers=purge.ref, rx=True))
    serving.codec.send(LineReport(answers=baud.ref, values=Line(baud=115200)))
    assert serving.codec.outgoing() == h("[70 01] [65 00 01 C2 00]")
    assert serving.codec.owed == 0


def test_an_answer_to_nobody_is_not_sent():
    serving = Serving()
    assert serving.tell(LineReport(answers=10**9, values=AS_FOUND)) == b""
    assert serving.tell(LineReport(values=replace(AS_FOUND, baud=300))) == b"", "pySerial takes news for a refusal"
    for report in (Opened(), Hangup(), Drained()):
        assert serving.tell(report) == b""


def test_serpipe_is_told_the_news():
    serving = Serving()
    assert serving.feed(h("[00 " + b"serpipe".hex() + "]")) == b""
    news = LineReport(values=replace(AS_FOUND, baud=300, parity="even"))
    assert serving.tell(news) == h("[65 00 00 01 2C] [67 03]")
    assert serving.tell(news) == b""


def test_the_signature_option_is_told_without_asking_the_port():
    serving = Serving(signature=b"me")
    assert serving.feed(h("[00]")) == h("[64 6D 65]")
    assert serving.events == []


# notifications


def test_modem_changes():
    serving = Serving()
    assert serving.tell(ModemReport(cts=True, dsr=True)) == b"", "no change"
    assert serving.tell(ModemReport(cts=True, dsr=False)) == h("[6B 12]")
    assert serving.tell(ModemReport(cts=True, dsr=False, dcd=True)) == h("[6B 98]")
    assert serving.tell(ModemReport()) == h("[6B 09]"), "the last line that drops is told, too"
    assert serving.tell(ModemReport(changed=frozenset({"cts"}))) == h("[6B 01]"), "a pulse"


def test_ri_is_a_trailing_edge():
    serving = Serving()
    assert serving.tell(ModemReport(cts=True, dsr=True, ri=True)) == h("[6B 70]")
    assert serving.tell(ModemReport(cts=True, dsr=True)) == h("[6B 34]")


def test_the_modem_mask():
    serving = Serving()
    assert serving.feed(h("[0B 10]")) == h("[6F 10] [6B 10]")
    assert serving.tell(ModemReport(cts=True, dsr=False)) == b""
    assert serving.tell(ModemReport(cts=False, dsr=False)) == h("[6B 00]")
    assert serving.feed(h("[0B 00]")) == h("[6F 00]")
    serving.port.modem = ModemReport(cts=True)
    assert serving.tell(serving.port.modem) == b""
    assert serving.feed(h("[07]")) == h("[6B 11]"), "a question is answered in full"


def test_line_errors_under_the_mask():
    serving = Serving()
    assert serving.tell(BreakReport()) == b"", "the mask is 0 until it is set"
    assert serving.feed(h("[06]")) == h("[6A 10]"), "a poll tells what was not notified"
    assert serving.feed(h("[06]")) == h("[6A 00]")
    assert serving.feed(h("[0A 14]")) == h("[6E 14]")
    assert serving.tell(ErrorReport(parity=2, framing=1)) == h("[6A 04]")
    assert serving.tell(BreakReport()) == h("[6A 10]")
    assert serving.tell(BreakReport(on=False)) == b""
    assert serving.tell(ErrorReport(overrun=1, buffer=3)) == b""
    assert serving.feed(h("[0A 1E]")) == h("[6E 1E] [6A 0A]")


def test_nothing_is_notified_after_withdrawal():
    serving = Serving()
    serving.feed(h("FF FC 2C"))
    assert serving.tell(ModemReport()) == b""


# suspension


def test_suspend_and_resume():
    serving = Serving()
    assert serving.feed(h("[08]")) == b""
    assert serving.codec.suspended
    assert serving.feed(h("[01 00 01 C2 00] [08] FF FD 06")) == h("FF FC 06"), "negotiation is exempt"
    assert serving.tell(b"data") == b""
    assert serving.tell(ModemReport(cts=True)) == b""
    assert serving.tell(ModemReport(cts=True, dsr=True)) == b""
    assert serving.feed(h("[09]")) == h("[65 00 01 C2 00]") + b"data" + h("[6B 32]")
    assert not serving.codec.suspended
    assert serving.feed(h("[09]")) == b""


def test_a_purge_drops_what_a_suspended_connection_holds():
    serving = Serving()
    serving.feed(h("[08]"))
    serving.tell(b"data")
    serving.feed(h("[0C 01] "))
    assert serving.feed(h("[09]")) == h("[70 01]")


def test_who_asks_on_while_suspended_is_taken_to_have_resumed():
    serving = Serving()
    serving.feed(h("[08]"))
    out = serving.feed(h("[0A 00]") * (PENDING_LIMIT + 1))
    assert out == h("[6E 00]") * (PENDING_LIMIT + 1)
    assert not serving.codec.suspended


def test_a_suspend_with_a_value_is_no_suspend():
    serving = Serving()
    serving.feed(h("[08 6B 00]"))
    assert not serving.codec.suspended


# plain Telnet


def test_a_plain_telnet_client_never_gets_a_subnegotiation():
    serving = Serving(active=False)
    out = serving.feed(h("FF FE 2C FF FD 03 FF FD 01") + b"x")
    for report in (LineReport(values=AS_FOUND), ModemReport(), BreakReport(), ErrorReport(parity=1), OutputReport()):
        out += serving.tell(report)
    assert b"\xff\xfa" not in out


def test_cr_nul_for_a_plain_telnet_client_only():
    serving = Serving(active=False)
    serving.feed(h("FF FE 00 FF FC 00"))
    serving.feed(b"a\r\0b")
    assert serving.data == b"a\rb"
    assert serving.tell(b"x\ry") == b"x\r\0y"
    assert serving.tell(b"\r") + serving.tell(Eof()) == b"\r\0"
    serving.feed(h("[05 00]"))
    serving.feed(b"a\r\0b")
    assert serving.data == b"a\rba\r\0b", "transparent as soon as COM-PORT is used"
    assert serving.tell(b"x\ry") == b"x\ry"


def test_binary_is_transparent_for_plain_telnet_too():
    serving = Serving(active=False)
    serving.feed(h("FF FD 00 FF FB 00"))
    serving.feed(b"a\r\0b")
    assert serving.data == b"a\r\0b"
    assert serving.tell(b"x\ry") == b"x\ry"


def test_a_raw_client_is_left_alone():
    serving = Serving(active=False)
    serving.feed(b"a\r\0b")
    assert serving.data == b"a\r\0b"
    assert serving.tell(b"x\ry") == b"x\ry"


def test_the_log_is_decoded():
    said = []
    serving = Serving(log=said.append)
    said.clear()
    for wire in ("[01 00 01 C2 00]", "[05 0B]", "[0C 01]", "[00]", "FF FD 18"):
        serving.feed(h(wire))
    assert [line.split(" (")[0] for line in said] == [
        "-> SET-BAUD 115200",
        "<- SET-BAUD 115200",
        "-> SET-CONTROL RTS on",
        "<- SET-CONTROL RTS on",
        "-> PURGE-DATA rx",
        "<- PURGE-DATA rx",
        "-> SIGNATURE ?",
        "<- SIGNATURE 'ser2net'",
        "-> DO TERMINAL-TYPE",
        "<- WONT TERMINAL-TYPE",
    ]
    assert said[1].endswith("(0.0 ms)")


# --- the client -------------------------------------------------------------------------------------------------------


class WillOnly(Client):
    greeting = (Negotiation(WILL, 44),)


def a_client(active=True, cls=WillOnly, **options):
    codec = cls(**options)
    codec.start()
    codec.outgoing()
    if active:
        assert codec.receive(h("FF FD 2C")) == []
    return codec


def ask(codec, request, now=0.0):
    """(what goes on the wire, what is answered at once)."""
    events = codec.send(request, now)
    return codec.outgoing(), events


def test_the_client_greeting():
    codec = Client()
    codec.start()
    assert codec.outgoing() == h("FF FB 2C FF FB 00 FF FD 00 FF FB 03 FF FD 03")


def test_c1_active():
    codec = a_client(active=False)
    assert not codec.active
    codec.receive(h("FF FD 2C"))
    assert codec.active
    wanted = SetLine(baud=115200, bytesize=7, parity="even", stopbits=2, flow="rtscts")
    assert ask(codec, wanted) == (h("[01 00 01 C2 00] [02 07] [03 03] [04 02] [05 03]"), [])


def test_c2_refused():
    codec = a_client(active=False)
    codec.receive(h("FF FE 2C"))
    assert codec.refused
    assert not codec.active
    assert codec.outgoing() == b""
    wire, events = ask(codec, SetLine(baud=300))
    assert wire == b""
    assert [type(e) for e in events] == [Failed]


def test_c2_the_other_way_round():
    codec = a_client(active=False)
    codec.receive(h("FF FE 2C"))
    codec.offer_server_role()
    assert codec.outgoing() == h("FF FD 2C")
    codec.receive(h("FF FB 2C"))
    assert codec.active
    codec = a_client(active=False)
    codec.receive(h("FF FE 2C"))
    codec.offer_server_role()
    codec.receive(h("FF FC 2C"))
    assert codec.refused


def test_c3_the_server_offers():
    codec = a_client(active=False)
    codec.receive(h("FF FB 2C"))
    assert codec.outgoing() == h("FF FD 2C")
    assert codec.active


@pytest.mark.parametrize("cut", [None, 1])
@pytest.mark.parametrize(
    ("name", "wire", "out", "events"),
    [
        ("C4", "FF FB 00 FF FD 00", "FF FD 00 FF FB 00", []),
        ("C5", "FF FD 18 FF FB 05", "FF FC 18 FF FE 05", []),
        ("C8", "[6B B3]", "", [ModemReport(cts=True, dsr=True, dcd=True, changed=frozenset({"cts", "dsr"}))]),
        ("C9 high", "[6B FF FF]", "", None),
        ("C9 low", "[6B 00]", "", [ModemReport()]),
        ("C9 undoubled", "FF FA 2C 6B FF FF F0", "", None),
        ("C10", "[6A 10]", "", [BreakReport()]),
        ("line errors", "[6A 0E]", "", [ErrorReport(overrun=1, parity=1, framing=1)]),
        ("only transmit bits", "[6A 60]", "", []),
        ("C15", "61 FF FF 0D 00 62 FF F1 FF F2 63", "", [h("61 FF 0D 00 62 63")]),
        ("server asks who we are", "[64]", "[00 " + b"serpipe".hex() + "]", []),
        ("empty, unknown, other", "FF FA 2C FF F0 [72 01] [06 01] [08] FF FA 1F 00 FF F0 [6B] [6A] [65]", "", []),
    ],
)
def test_client_vector(name, wire, out, events, cut):
    if events is None:
        lines = frozenset({"cts", "dsr", "ri", "dcd"})
        events = [ModemReport(cts=True, dsr=True, ri=True, dcd=True, changed=lines)]
    for before, after in ((b"", b""), (b"be\rfore", b"aft\r\0er")):
        codec = a_client()
        data = before + h(wire) + after
        got = [
            e for i in range(0, len(data), cut or len(data)) for e in codec.receive(data[i : i + (cut or len(data))])
        ]
        assert joined(got) == joined([before, *events, after])
        assert codec.outgoing() == h(out)


def test_changes_are_found_by_comparison():
    codec = a_client()
    codec.receive(h("[6B 30]"))
    assert codec.receive(h("[6B 10]")) == [ModemReport(cts=True, changed=frozenset({"dsr"}))]
    assert codec.receive(h("[6B 10]")) == [ModemReport(cts=True)], "repeated, without a change"


def test_c6_another_rate_is_reported_and_not_sent_again():
    codec = a_client()
    request = SetLine(baud=115200)
    ask(codec, request)
    (report,) = codec.receive(h("[65 00 00 25 80]"))
    assert report == LineReport(answers=request.ref, values=Line(baud=9600), requested=Line(baud=115200))
    assert codec.outgoing() == b""
    assert codec.deadline == math.inf


@pytest.mark.parametrize(
    "answer",
    [
        "[65 00 01 C2 00]",
        "[65 00 01 C2 00 00 00 00 00]",
        "[65 0E]",
        "[01 00 01 C2 00]",
    ],
    ids=["plain", "C7 too long", "one byte", "C12 without 100"],
)
def test_answers_of_every_form(answer):
    codec = a_client()
    request = SetLine(baud=115200)
    ask(codec, request)
    (report,) = codec.receive(h(answer))
    assert report.values.baud == 115200
    assert report.answers == request.ref


def test_c11_an_answer_of_another_family_says_nothing_and_is_taken_for_done():
    codec = a_client()
    request = SetModem(dtr=True, rts=False)
    wire, _ = ask(codec, request)
    assert wire == h("[05 08] [05 0C]")
    assert codec.receive(h("[69 01]")) == []
    assert codec.receive(h("[69 01]")) == [
        OutputReport(answers=request.ref, dtr=True, rts=False, break_=False, virtual=True)
    ]
    assert codec.line.flow == "none"


def test_ser2net_answers_a_query_with_the_query():
    codec = a_client()
    request = SetModem()
    assert ask(codec, request)[0] == h("[05 07] [05 0A]")
    (report,) = codec.receive(h("[69 07] [69 0A]"))
    assert report == OutputReport(answers=request.ref, break_=False, virtual=True)


def test_ser2net_never_answers_a_line_that_it_cannot_set():
    codec = a_client()
    dtr, query = SetModem(dtr=True), SetModem()
    codec.send(dtr)
    codec.send(query)
    assert codec.receive(h("[69 07] [69 0A]"), 1.0) == []
    failed, report = codec.tick(1.25)
    assert (failed.answers, failed.why) == (dtr.ref, "timeout")
    assert report.answers == query.ref


def test_ser2net_acks_the_end_of_a_break_with_on():
    codec = a_client()
    codec.send(SetBreak(on=True))
    assert codec.receive(h("[69 05]"))[0].break_ is True
    codec.send(SetBreak(on=False))
    assert codec.receive(h("[69 05]"))[0].break_ is False


def test_c13_suspended():
    codec = a_client()
    codec.receive(h("[6C]"))
    assert codec.suspended
    assert ask(codec, SetLine(baud=300))[0] == b""
    codec.send(b"abc")
    assert codec.outgoing() == b""
    codec.receive(h("[6D]"))
    assert codec.outgoing() == h("[01 00 00 01 2C]") + b"abc"


@pytest.mark.parametrize(("purge", "code"), [(Purge(rx=True), 1), (Purge(tx=True), 2), (Purge(rx=True, tx=True), 3)])
def test_c14_purge(purge, code):
    codec = a_client()
    assert ask(codec, purge)[0] == h(f"[0C 0{code}]")
    events = codec.receive(b"old" + h(f"[70 0{code}]") + b"new")
    assert events == [b"old", PurgeDone(answers=purge.ref, rx=purge.rx, tx=purge.tx), b"new"]


def test_a_purge_of_nothing_is_done():
    codec = a_client()
    wire, events = ask(codec, request := Purge())
    assert wire == b""
    assert events == [PurgeDone(answers=request.ref)]


def test_c16_busy():
    codec = a_client(active=False)
    text = b"Port already in use\r\n"
    greeting = "FF FB 03 FF FD 03 FF FB 01 FF FE 01 FF FD 00 FF FB 00 FF FD 2C"
    assert codec.receive(h(greeting) + text) == [text]


def test_c17_data():
    codec = a_client()
    codec.send(h("61 FF 0D 0A"))
    assert codec.outgoing() == h("61 FF FF 0D 0A")
    codec.send(h("0D 61"))
    assert codec.outgoing() == h("0D 61"), "no NUL, though BINARY is not agreed"


def test_c18_255_is_doubled_in_values():
    assert ask(a_client(), SetLine(baud=65535))[0] == h("[01 00 00 FF FF FF FF]")


def test_c19_break():
    codec = a_client()
    assert ask(codec, SetBreak(on=True))[0] == h("[05 05]")
    assert ask(codec, SetBreak(on=False))[0] == h("[05 06]")
    codec = a_client(active=False)
    wire, events = ask(codec, SetBreak(on=True))
    assert wire == h("FF F3")
    assert isinstance(events[0], OutputReport)
    assert ask(codec, SetBreak(on=False))[0] == b""


def test_what_there_is_no_code_for_fails_at_once():
    codec = a_client()
    wire, (failed,) = ask(codec, request := SetLine(baud=300, flow_in="dcd"))
    assert wire == b""
    assert failed == Failed(
        answers=request.ref,
        why="unsupported",
        in_force=LineReport(requested=request.line),
        text="no code for flow_in=dcd",
    )
    assert ask(codec, SetLine(baud=2**32))[1][0].why == "unsupported"
    assert ask(codec, SetLine(baud=0))[0] == h("[01 00 00 00 00] [02 00] [03 00] [04 00] [05 00]"), "B0 is no rate"


def test_a_request_of_several_parts_has_one_answer():
    codec = a_client()
    request = SetLine(baud=115200, bytesize=7, parity="even", flow="none", flow_in="xonxoff")
    assert ask(codec, request)[0] == h("[01 00 01 C2 00] [02 07] [03 03] [05 01] [05 0F]")
    assert codec.receive(h("[67 03] [65 00 01 C2 00] [69 01]")) == []
    (report,) = codec.receive(h("[69 0F] [66 08]"))
    assert report == LineReport(
        answers=request.ref,
        values=Line(baud=115200, bytesize=8, parity="even", flow="none", flow_in="xonxoff"),
        requested=request.line,
    )


def test_a_query_asks_for_everything():
    codec = a_client()
    request = SetLine()
    assert ask(codec, request)[0] == h("[01 00 00 00 00] [02 00] [03 00] [04 00] [05 00]")
    (report,) = codec.receive(h("[65 00 00 25 80] [66 08] [67 01] [68 01] [69 01]"))
    assert report == LineReport(answers=request.ref, values=AS_FOUND)


def test_requests_are_pipelined_and_answered_in_order():
    codec = a_client()
    first, second, lines = SetLine(baud=300), SetLine(baud=600), SetModem(dtr=True)
    wire = b"".join(ask(codec, r)[0] for r in (first, lines, second))
    assert wire == h("[01 00 00 01 2C] [05 08] [01 00 00 02 58]")
    events = codec.receive(h("[65 00 00 01 2C] [69 08] [65 00 00 02 58]"))
    assert [e.answers for e in events] == [first.ref, lines.ref, second.ref]
    assert [e.values.baud for e in events if isinstance(e, LineReport)] == [300, 600]


def test_answers_of_a_kind_keep_their_order():
    codec = a_client()
    first, second = SetLine(stopbits=1.5), SetLine(baud=600)
    codec.send(first)
    codec.send(second)
    assert codec.receive(h("[65 00 00 02 58]"), 1.0) == [], "it waits for the first"
    assert codec.deadline == 1.25, "which is not waited for much longer now: servers take commands in turn"
    failed, report = codec.tick(1.25)
    assert failed.answers == first.ref
    assert failed.why == "timeout"
    assert report.answers == second.ref


def test_a_timeout_says_what_is_known():
    codec = a_client()
    codec.send(SetLine())
    codec.receive(h("[65 00 00 25 80] [66 08] [67 01] [68 01] [69 01]"))
    request = SetLine(baud=115200)
    codec.send(request, 10.0)
    assert codec.deadline == 13.0
    assert codec.tick(12.9) == []
    (failed,) = codec.tick(13.0)
    assert failed.why == "timeout"
    assert failed.in_force == LineReport(values=AS_FOUND, requested=request.line)
    assert "SET-BAUD 115200" in failed.text
    assert codec.deadline == math.inf
    assert not codec.barred


def test_some_parts_answered_is_still_one_answer():
    codec = a_client()
    request = SetLine(baud=115200, stopbits=1.5)
    codec.send(request)
    assert codec.receive(h("[65 00 01 C2 00]")) == []
    (failed,) = codec.tick(3.0)
    assert failed.in_force == LineReport(values=Line(baud=115200), requested=request.line)
    assert codec.tick(100.0) == []


def test_a_query_that_is_answered_in_part_is_an_answer():
    codec = a_client()
    request = SetLine()
    codec.send(request)
    assert codec.receive(h("[65 00 01 C2 00]")) == []
    assert codec.tick(3.0) == [LineReport(answers=request.ref, values=Line(baud=115200))]


def test_a_query_without_any_answer_is_answered_from_memory():
    codec = a_client()
    for request, report in (
        (SetModem(), OutputReport(break_=False, virtual=True)),
        (SetBreak(), OutputReport(break_=False, virtual=True)),
        (GetModem(), ModemReport(cts=True, dsr=True, dcd=True, virtual=True)),
        (SetLine(), LineReport(virtual=True)),
    ):
        codec.send(request, 100.0)
        assert codec.tick(103.0) == [replace(report, answers=request.ref)]


def test_a_line_that_is_set_in_vain_is_taken_for_set():
    codec = a_client()
    request = SetModem(dtr=True)
    codec.send(request)
    (failed,) = codec.tick(3.0)
    assert failed.in_force == OutputReport(dtr=True, break_=False, virtual=True)
    codec.send(SetModem(dtr=False), 10.0)
    assert codec.deadline < 10.5, "not waited for as long again"
    codec.receive(h("[69 09]"), 10.1)
    codec.send(SetModem(dtr=True), 20.0)
    assert codec.deadline == 23.0, "it does answer"


def test_a_late_answer_is_not_the_next_ones():
    codec = a_client()
    codec.send(SetLine(baud=300))
    codec.tick(3.0)
    request = SetLine(baud=600)
    codec.send(request, 4.0)
    assert codec.receive(h("[65 00 00 01 2C]"), 4.1) == [LineReport(values=Line(baud=300))], "news, late"
    (report,) = codec.receive(h("[65 00 00 02 58]"), 4.2)
    assert report.answers == request.ref


def test_an_answer_that_never_came_does_not_stand_in_the_way():
    codec = a_client()
    codec.send(SetLine(baud=300))
    codec.tick(3.0)
    request = SetLine(baud=600)
    codec.send(request, 4.0)
    (report,) = codec.receive(h("[65 00 00 02 58]"), 4.2)
    assert report.answers == request.ref


def test_what_nobody_asked_for_is_news_once():
    codec = a_client()
    assert codec.receive(h("[65 00 00 25 80]")) == [LineReport(values=Line(baud=9600))]
    assert codec.receive(h("[65 00 00 25 80]")) == []
    assert codec.receive(h("[69 08]")) == [OutputReport(dtr=True, break_=False)]
    assert codec.receive(h("[65 00 00 00 00]")) == [], "zero says nothing"


def test_get_modem():
    codec = a_client()
    request = GetModem()
    assert ask(codec, request) == (h("[07 00]"), [])
    assert codec.receive(h("[6B 30]")) == [ModemReport(answers=request.ref, cts=True, dsr=True)]
    again = GetModem()
    assert ask(codec, again) == (b"", [ModemReport(answers=again.ref, cts=True, dsr=True)])
    codec = a_client(poll=True)
    codec.receive(h("[6B 30]"))
    assert ask(codec, GetModem()) == (h("[07 00]"), [])


def test_signature():
    codec = a_client()
    request = GetSignature()
    assert ask(codec, request)[0] == h("[00]")
    assert codec.receive(h("[64 61 FF FF]")) == [Signature(answers=request.ref, text=b"a\xff")]
    assert codec.server_signature == b"a\xff"
    codec.send(silent := GetSignature(), 5.0)
    assert codec.tick(8.0)[0].answers == silent.ref


def test_trust_control_waits_for_no_answer():
    codec = a_client(trust_control=True)
    request = SetModem(dtr=True)
    wire, events = ask(codec, request)
    assert wire == h("[05 08]")
    assert events == [OutputReport(answers=request.ref, dtr=True, break_=False, virtual=True)]
    assert codec.deadline == math.inf
    assert codec.receive(h("[69 08]")) == [], "the answer is no news"
    assert ask(codec, SetLine(baud=300))[1] == [], "a rate is still waited for"
    assert ask(codec, SetModem())[1] == [], "so is a question"


def test_the_end_of_the_wire_answers_everything():
    codec = a_client()
    requests = [SetLine(baud=300), SetModem(), GetModem(), Purge(rx=True), Drain(), GetSignature(), SetBreak(on=True)]
    for request in requests:
        codec.send(request)
    events = codec.eof()
    assert sorted(e.answers for e in events) == sorted(r.ref for r in requests)
    assert {e.why for e in events} == {"lost"}
    assert codec.pending == 0


def test_a_withdrawal_answers_everything():
    codec = a_client()
    request = SetLine(baud=300)
    codec.send(request)
    (failed,) = codec.receive(h("FF FE 2C"))
    assert failed.answers == request.ref
    assert failed.why == "refused"
    assert codec.refused


# the line's time


def known_line(codec, baud=9600):
    codec.line = replace(AS_FOUND, baud=baud)


def test_a_drain_waits_for_the_mark_and_then_the_line():
    codec = a_client()
    known_line(codec)
    codec.send(b"x" * 960, 10.0)
    assert codec.busy_until == pytest.approx(11.0)
    codec.outgoing()
    request = Drain()
    assert ask(codec, request, 10.0)[0] == h("FF FD 06")
    assert codec.deadline == pytest.approx(14.0), "the line's time and the timeout"
    assert codec.receive(h("FF FC 06"), 10.1) == []
    assert codec.deadline == pytest.approx(11.0)
    assert codec.tick(codec.deadline) == [Drained(answers=request.ref)]


def test_a_drain_of_nothing_is_over_with_the_mark():
    codec = a_client()
    request = Drain()
    codec.send(request, 10.0)
    assert codec.receive(h("FF FB 06"), 10.1) == [Drained(answers=request.ref)]


def test_a_mark_bounds_what_the_server_can_hold():
    codec = a_client()
    known_line(codec)
    codec.send(b"x" * 960_000, 0.0)
    codec.send(Drain(), 0.0)
    codec.receive(h("FF FC 06"), 5.0)
    assert codec.busy_until == pytest.approx(5.0 + SERVER_BUFFERS / 960)
    assert codec.deadline == pytest.approx(codec.busy_until)


def test_a_drain_that_is_never_answered_fails():
    codec = a_client()
    request = Drain()
    codec.send(request)
    (failed,) = codec.tick(3.0)
    assert failed == replace(failed, answers=request.ref, why="timeout")
    assert codec.receive(h("FF FC 06"), 4.0) == []


def test_changes_that_must_not_overtake():
    codec = a_client()
    known_line(codec)
    assert codec.changes(SetLine(baud=300))
    assert not codec.changes(SetLine(baud=9600))
    assert not codec.changes(SetLine())
    assert codec.changes(SetBreak(on=True))
    assert not codec.changes(SetBreak(on=False))
    assert not codec.changes(SetModem(dtr=True))
    codec.send(SetLine(baud=9600))
    assert not codec.barred
    codec.send(SetLine(baud=300))
    assert codec.barred
    codec.receive(h("[65 00 00 25 80] [65 00 00 01 2C]"))
    assert not codec.barred


# probing


def test_a_probe_ends_soon_after_the_server_has_read_it():
    codec = a_client()
    line, lines = SetLine(), SetModem()
    codec.probe([line, lines], 0.0)
    assert codec.outgoing() == h("[01 00 00 00 00] [02 00] [03 00] [04 00] [05 00] [05 07] [05 0A] FF FD 06")
    events = codec.receive(h("[65 00 00 25 80] [66 08] [67 01] [68 01] [69 01] FF FC 06"), 0.01)
    assert events == [LineReport(answers=line.ref, values=AS_FOUND)]
    assert codec.deadline == pytest.approx(0.11)
    assert codec.tick(0.12) == [OutputReport(answers=lines.ref, break_=False, virtual=True)]


def test_a_probe_ends_with_silence_where_the_mark_is_not_answered():
    codec = a_client()
    request = SetLine()
    codec.probe([request], 0.0)
    assert codec.deadline == pytest.approx(0.5)
    codec.receive(h("[65 00 00 25 80]"), 0.4)
    assert codec.deadline == pytest.approx(0.9)
    assert codec.tick(0.9) == [LineReport(answers=request.ref, values=Line(baud=9600))]


def test_serpipe_is_known_by_its_greeting_and_waited_for():
    codec = Client()
    codec.start()
    server = Server()
    server.start()
    greeting = server.outgoing()
    codec.receive(greeting[:4])
    assert codec.unsure
    codec.receive(greeting[4:])
    assert codec.is_serpipe
    assert not codec.unsure
    assert tuple(codec.heard) == SERVER_GREETING
    codec.probe([SetLine()], 0.0)
    assert codec.deadline == 3.0
    other = a_client()
    assert not other.is_serpipe


def test_an_echo_is_known():
    codec = Client()
    codec.start()
    sent = codec.outgoing()
    codec.receive(sent[:3])
    assert codec.unsure
    codec.receive(sent[3:])
    assert codec.is_echo
    assert not codec.unsure


# --- the two against each other ---------------------------------------------------------------------------------------


class Pair:
    """A client codec, a server codec and a port, with a wire between that cuts as it is told."""

    def __init__(self, cut=None):
        self.client, self.server, self.port = Client(), Server(), FakePort()
        self.cut = cut
        self.got = []
        self.server.start()
        self.client.start()
        for report in (LineReport(values=AS_FOUND), self.port.outputs, MODEM):
            self.server.send(report)
        self.settle()

    def pieces(self, data):
        step = self.cut or len(data) or 1
        return [data[i : i + step] for i in range(0, len(data), step)]

    def settle(self):
        for _ in range(1000):
            up, down = self.client.outgoing(), self.server.outgoing()
            if not up and not down:
                return
            for piece in self.pieces(up):
                for event in self.server.receive(piece):
                    answer = self.port.do(event)
                    if answer is not None:
                        self.server.send(answer)
            for piece in self.pieces(down):
                self.got += self.client.receive(piece)
        raise AssertionError("they never come to rest")


@pytest.mark.parametrize("cut", [None, 1, 2, 7])
def test_both_ends_agree(cut):
    pair = Pair(cut)
    assert pair.client.active
    assert pair.server.active
    assert pair.got == [ModemReport(cts=True, dsr=True)]


_flows = st.sampled_from(["none", "xonxoff", "rtscts", "dsrdtr"])
_switches = st.sampled_from([None, True, False])
_requests = st.one_of(
    st.builds(
        SetLine,
        baud=st.none() | st.integers(1, 4_000_000),
        bytesize=st.sampled_from([None, 5, 6, 7, 8]),
        parity=st.sampled_from([None, "none", "odd", "even", "mark", "space"]),
        stopbits=st.sampled_from([None, 1, 2]),
        flow=st.none() | _flows,
    ),
    st.builds(SetModem, dtr=_switches, rts=_switches),
    st.builds(SetBreak, on=_switches),
    st.builds(GetModem),
    st.builds(GetSignature),
    st.sampled_from([1, 2, 3]).map(lambda v: Purge(rx=bool(v & 1), tx=bool(v & 2))),
)
_data = st.binary(min_size=1, max_size=30) | st.sampled_from([b"\xff", b"\xff\xf0", b"\r", b"\r\0", b"\xff\xfa\x2c"])


@settings(max_examples=150, deadline=None)
@given(st.lists(_requests | _data, max_size=12), st.sampled_from([None, 1, 3]))
def test_requests_and_data_arrive_in_order_and_every_request_is_answered(events, cut):
    pair = Pair(cut)
    pair.port.written.clear()
    pair.got.clear()
    events = [replace(e, ref=new_ref()) if isinstance(e, Request) else e for e in events]
    for event in events:
        pair.got += pair.client.send(event)
    pair.settle()
    arrived = [e for e in joined(pair.port.written) if type(e) is bytes or type(e) in (SetBreak, Purge, GetSignature)]
    sent = [e for e in events if type(e) is bytes or type(e) in (SetBreak, Purge, GetSignature)]
    assert b"".join(e for e in arrived if type(e) is bytes) == b"".join(e for e in sent if type(e) is bytes)
    assert [e for e in arrived if type(e) is not bytes] == [e for e in sent if type(e) is not bytes]
    answers = [e.answers for e in pair.got if isinstance(e, Report) and e.answers is not None]
    assert sorted(answers) == sorted(e.ref for e in events if isinstance(e, Request))
    for report in pair.got:
        if isinstance(report, LineReport) and report.requested and report.answers is not None:
            assert not report.values.changes(report.requested)
        assert not isinstance(report, Failed)


@settings(deadline=None)
@given(st.lists(_data, max_size=20), st.sampled_from([None, 1, 2, 5]))
def test_data_goes_through_unchanged_both_ways(chunks, cut):
    pair = Pair(cut)
    pair.port.written.clear()
    pair.got.clear()
    for chunk in chunks:
        pair.client.send(chunk)
        pair.server.send(chunk)
    pair.settle()
    assert b"".join(pair.port.written) == b"".join(chunks)
    assert b"".join(pair.got) == b"".join(chunks)


@settings(deadline=None)
@given(
    st.lists(
        st.builds(ModemReport, cts=st.booleans(), dsr=st.booleans(), ri=st.booleans(), dcd=st.booleans()),
        max_size=10,
    )
)
def test_the_last_modem_state_always_arrives(reports):
    pair = Pair()
    for report in reports:
        pair.server.send(report)
        pair.settle()
        latest = pair.client.modem
        assert replace(latest, changed=frozenset()) == replace(report, changed=frozenset())


def test_errors_and_breaks_arrive_where_they_happened():
    pair = Pair()
    pair.client.watch_line()
    pair.settle()
    pair.got.clear()
    for event in (b"a", BreakReport(), b"b", ErrorReport(parity=1), b"c"):
        pair.server.send(event)
    pair.settle()
    assert pair.got == [b"a", BreakReport(), b"b", ErrorReport(parity=1), b"c"]


# --- anything at all --------------------------------------------------------------------------------------------------

_tricky = st.lists(
    st.sampled_from([255, 250, 240, 251, 252, 253, 254, 243, 44, 6, 0, 1, 2, 5, 7, 11, 12, 13, 65, 0x65, 0x69, 0x6C]),
    max_size=120,
).map(bytes)


@pytest.mark.parametrize("make", [Server, Client])
@settings(deadline=None)
@given(chunks=st.lists(_tricky | st.binary(max_size=60), max_size=8))
def test_anything_gives_events(make, chunks):
    codec = make(log=lambda text: None)
    codec.start()
    for now, chunk in enumerate(chunks):
        for event in codec.receive(chunk, float(now)):
            assert type(event) is bytes or isinstance(event, Request | Report)
        codec.tick(now + 0.5)
    codec.eof(100.0)
    codec.outgoing()


@settings(deadline=None)
@given(_tricky)
def test_the_cut_makes_no_difference(data):
    results = []
    for cut in (len(data) or 1, 1):
        codec = Server()
        codec.start()
        events = [e for i in range(0, len(data), cut) for e in codec.receive(data[i : i + cut])]
        results.append((joined([*events, *codec.eof()]), codec.outgoing()))
    assert results[0] == results[1]


@settings(deadline=None)
@given(st.lists(_tricky, max_size=4))
def test_good_commands_in_bad_company_keep_their_data(noise):
    """What is between a whole command and the next IAC comes out whole."""
    for junk in noise:
        serving = Serving()
        serving.feed(junk + h("FF F0 FF F0"))  # out of whatever it was in
        serving.run(serving.codec.tick(100.0))
        serving.run(serving.codec.tick(200.0))
        if serving.codec.suspended:
            serving.feed(h("[09]"))
        serving.data = b""
        serving.feed(b"clean" + h("[02 00]") + b"data")
        serving.run(serving.codec.eof())
        assert serving.data.endswith(b"cleandata")


@pytest.mark.parametrize("make", [Server, Client])
@pytest.mark.parametrize(
    "flood", [b"\xff" * 2, h("FF FB 1F FF FD 63"), h("FF FD 00 FF FE 00"), h("FF F3"), h("FF F1"), h("[0D 01]")]
)
def test_floods_are_bounded(make, flood):
    codec = make()
    codec.start()
    codec.outgoing()
    data = flood * (200_000 // len(flood))
    began = time.perf_counter()
    events = codec.receive(data)
    assert time.perf_counter() - began < 3.0
    assert codec.backlog <= 1000
    assert len(events) <= 2


# --- the tables -------------------------------------------------------------------------------------------------------


def test_every_value_of_the_rfc_is_in_the_table():
    controls = {wire for command, wire in DECODED if command == 5}
    assert controls == set(range(20))
    assert [row.code for row in COM_PORTS] == list(range(13))
    assert {wire for command, wire in DECODED if command == 3} == {0, 1, 2, 3, 4, 5}


@settings(deadline=None)
@given(st.sampled_from(SETTINGS))
def test_what_is_encoded_is_decoded(setting):
    for value in setting.values:
        body = setting.encode(value)
        assert DECODED[body[0], body[1]] == (setting, value)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("01 00 01 C2 00", "SET-BAUD 115200"),
        ("01 00 00 00 00", "SET-BAUD ?"),
        ("01 08", "SET-BAUD 9600 (one byte)"),
        ("02 07", "SET-DATASIZE 7"),
        ("03 03", "SET-PARITY even"),
        ("04 03", "SET-STOPSIZE 1.5"),
        ("05 0A", "SET-CONTROL RTS ?"),
        ("05 08", "SET-CONTROL DTR on"),
        ("05 10", "SET-CONTROL inbound flow rtscts"),
        ("05 63", "SET-CONTROL 99 (unknown)"),
        ("05", "SET-CONTROL (no value)"),
        ("06 14", "NOTIFY-LINESTATE break parity"),
        ("06 00", "NOTIFY-LINESTATE 0"),
        ("07 B1", "NOTIFY-MODEMSTATE CTS on* DSR on RI off CD on"),
        ("08", "FLOWCONTROL-SUSPEND"),
        ("0B FF", "SET-MODEMSTATE-MASK 255"),
        ("0C 03", "PURGE-DATA rx tx"),
        ("00 61", "SIGNATURE 'a'"),
        ("00", "SIGNATURE ?"),
        ("63 01 02", "COM-PORT command 99 01 02"),
    ],
)
def test_the_words_of_the_log(body, text):
    data = bytes.fromhex(body)
    assert describe(data[0], data[1:]) == text


def test_escape_is_used_in_values():
    assert escape(b"\xff") == b"\xff\xff"
    assert h("[6F FF FF]") == bytes((255, 250, 44, 111, 255, 255, 255, 240))
    assert bytes(Negotiation(DO, 44)) == h("FF FD 2C")
