"""Events in words, and as dictionaries."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serpipe import events
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
)
from serpipe.protocol.words import escaped, from_json, to_json, words

LINE = Line(57600, 8, "none", 1.0, "rtscts")
SAID = [
    (b"abc", "3 bytes"),
    (Eof(), "EOF"),
    (SetLine(), "GET-LINE"),
    (SetLine(baud=57600), "SET-BAUD 57600"),
    (SetLine(bytesize=7, parity="even", stopbits=1.5), "SET-FRAME 7E1.5"),
    (SetLine(bytesize=7, stopbits=2.0), "SET-DATASIZE 7 SET-STOPSIZE 2"),
    (SetLine(parity="mark", flow="none", flow_in="xonxoff"), "SET-PARITY mark SET-FLOW none SET-FLOW-IN xonxoff"),
    (SetLine.of(LINE), "SET-BAUD 57600 SET-FRAME 8N1 SET-FLOW rtscts"),
    (SetModem(), "GET-DTR GET-RTS"),
    (SetModem(dtr=True), "SET-DTR on"),
    (SetModem(dtr=False, rts=True), "SET-DTR off SET-RTS on"),
    (SetBreak(on=True), "SET-BREAK on"),
    (SetBreak(), "GET-BREAK"),
    (GetModem(), "GET-MODEM"),
    (Purge(rx=True, tx=True), "PURGE rx tx"),
    (Drain(), "DRAIN"),
    (GetSignature(), "GET-SIGNATURE"),
    (LineReport(), "LINE ?"),
    (LineReport(values=LINE, answers=5), "LINE 57600 8N1 flow=rtscts"),
    (LineReport(values=LINE, requested=Line(baud=57600)), "LINE 57600 8N1 flow=rtscts"),
    (LineReport(values=LINE, requested=Line(baud=57601)), "LINE 57600 8N1 flow=rtscts (asked 57601)"),
    (LineReport(values=LINE, virtual=True), "LINE 57600 8N1 flow=rtscts (virtual)"),
    (OutputReport(dtr=True, rts=False), "DTR on RTS off BREAK ?"),
    (OutputReport(break_=True), "DTR ? RTS ? BREAK on"),
    (ModemReport(cts=True, dcd=True), "CTS on DSR off RI off CD on"),
    (ModemReport(cts=True, dsr=True, changed=frozenset({"cts", "dsr"})), "CTS on DSR on"),
    (ErrorReport(overrun=2, framing=1), "ERRORS overrun 2 framing 1"),
    (BreakReport(), "BREAK-RECEIVED"),
    (BreakReport(on=False), "BREAK-ENDED"),
    (PurgeDone(rx=True), "PURGED rx"),
    (Drained(), "DRAINED"),
    (Signature(text=b"ser2net\r\n"), "SIGNATURE ser2net\\r\\n"),
    (Failed(), "FAILED unsupported"),
    (
        Failed(why="refused", text="no such rate", in_force=LineReport(values=LINE)),
        "FAILED refused: no such rate; in force: LINE 57600 8N1 flow=rtscts",
    ),
    (Failed(in_force=ModemReport(ri=True)), "FAILED unsupported; in force: CTS off DSR off RI on CD off"),
    (Hangup(), "HANGUP"),
    (Hangup(reason="unplugged"), "HANGUP unplugged"),
    (Opened(peer="lab3:4000"), "OPENED lab3:4000"),
]


@pytest.mark.parametrize(("event", "said"), SAID)
def test_words(event, said):
    assert words(event) == said


@pytest.mark.parametrize(("event", "_said"), SAID)
def test_there_and_back(event, _said):
    plain = json.loads(json.dumps(to_json(event)))
    back = from_json(plain)
    assert back == event
    assert type(back) is type(event)
    if isinstance(event, Request):
        assert back.ref == event.ref


def test_every_event_has_words():
    kinds = [kind for kind in vars(events).values() if isinstance(kind, type)]
    ours = {kind for kind in kinds if issubclass(kind, Request | Report)}
    assert {type(event) for event, _ in SAID} == ours - {Request, Report} | {bytes, Eof}


def test_an_event_of_somebody_else():
    class PortLost(Report):
        pass

    assert words(PortLost()) == "PORT-LOST"


def test_as_a_dictionary():
    request = SetLine(baud=9600)
    assert to_json(request) == {"event": "SetLine", "ref": request.ref, "baud": 9600}
    assert to_json(b"\x00a") == {"event": "Data", "hex": "0061"}
    assert to_json(OutputReport(break_=False)) == {"event": "OutputReport", "break": False}


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"event": "Request"},
        {"event": "Line"},
        {"event": "SetLine", "speed": 1},
        {"event": "Data"},
        {"event": "Data", "hex": "0"},
        {"event": "LineReport", "values": 5},
        {"event": []},
    ],
)
def test_what_is_no_event(bad):
    with pytest.raises(ValueError, match=r"."):
        from_json(bad)


@given(st.binary())
def test_escaped_is_one_line_of_ascii(data):
    text = escaped(data)
    assert text.isascii()
    assert text.isprintable()
    assert text.encode().decode("unicode_escape").encode("latin-1") == data
