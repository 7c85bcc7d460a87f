"""The table of other people's servers, and what the client makes of it."""

import pytest

from serpipe.events import (
    Failed,
    GetModem,
    GetSignature,
    LineReport,
    ModemReport,
    OutputReport,
    SetBreak,
    SetLine,
    SetModem,
)
from serpipe.protocol.emulate import PROFILES as EMULATED
from serpipe.protocol.quirks import BY_PROFILE, PROFILES, TOPICS, UNKNOWN, identify
from serpipe.protocol.rfc2217 import CLIENT_GREETING, SERVER_GREETING, Client


def h(text):
    return bytes.fromhex(text.replace("[", " FF FA 2C ").replace("]", " FF F0 "))


def wire(greeting):
    return b"".join(map(bytes, greeting))


def client_of(name, log=None):
    """A client that has just agreed with such a server; its greeting is taken."""
    codec = Client(log=log)
    codec.start(0.0)
    codec.receive(BY_PROFILE[name].opening + h("FF FD 2C"), 0.0)
    codec.outgoing()
    assert codec.active
    return codec


# the table


def test_names_and_openings_are_unique():
    assert len(BY_PROFILE) == len(PROFILES)
    openings = [profile.opening for profile in PROFILES if profile.opening]
    for opening in openings:
        assert len(opening) % 3 == 0
        assert not [other for other in openings if other != opening and other.startswith(opening)]


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_a_row_speaks_of_what_there_is(profile):
    assert profile.silent | profile.wrong <= TOPICS
    assert not profile.silent & profile.wrong, "what is not answered is not answered wrongly"
    assert profile.title


def test_serpipes_own_row_is_its_greeting():
    assert BY_PROFILE["serpipe"].opening == wire(SERVER_GREETING)


@pytest.mark.parametrize("name", ["serpipe", "ser2net", "pyserial", "sredird"])
def test_what_is_emulated_opens_like_it(name):
    assert wire(EMULATED[name].greeting) == BY_PROFILE[name].opening


@pytest.mark.parametrize("profile", [p for p in PROFILES if p.opening], ids=lambda profile: profile.name)
def test_known_by_its_opening(profile):
    assert identify(profile.opening) is profile
    assert identify(profile.opening + h("FF FD 06")) is profile
    assert identify(profile.opening[:-3]) is UNKNOWN


@pytest.mark.parametrize(
    ("signature", "name"),
    [
        (b"ser2net", "ser2net"),
        (b"SRedird 2.2.1 /dev/ttyS0", "sredird"),
        (b"serpipe 1.0 loop", "serpipe"),
        (b"COM port", "unknown"),
        (b"", "unknown"),
        (None, "unknown"),
    ],
)
def test_known_by_its_signature(signature, name):
    assert identify(b"", signature).name == name


def test_the_signature_counts_more_than_the_opening():
    assert identify(BY_PROFILE["ser2net"].opening, b"SRedird 2.2.1").name == "sredird"
    assert identify(BY_PROFILE["ser2net"].opening, b"something else").name == "ser2net"


@pytest.mark.parametrize("opening", [wire(CLIENT_GREETING), h("FF FD 2C"), h("FF FB 01 FF FB 03"), b""])
def test_others_are_not_known(opening):
    assert identify(opening) is UNKNOWN
    assert UNKNOWN.forbids(h("01 00 00 FF 00")) == ""


# the client


def test_the_log_says_who_it_is_once():
    said = []
    codec = client_of("sredird", said.append)
    codec.receive(h("FF FD 06"), 0.0)
    assert [line for line in said if "server is" in line] == ["by its greeting the server is sredird"]
    assert codec.profile.name == "sredird"


def test_a_signature_corrects_the_greeting():
    said = []
    codec = client_of("ser2net", said.append)
    codec.receive(h("[64 73 65 72 70 69 70 65]"), 0.0)
    assert codec.profile.name == "serpipe"
    assert said[-1] == "by its signature the server is serpipe"


def test_sredird_is_not_sent_a_command_with_255_in_it():
    codec = client_of("sredird")
    request = SetLine(baud=65280)
    (answer,) = codec.send(request, 0.0)
    assert (type(answer), answer.answers, answer.why) == (Failed, request.ref, "unsupported")
    assert "255" in answer.text
    assert codec.outgoing() == b""
    codec.send(SetLine(baud=19200), 0.0)
    assert codec.outgoing() == h("[01 00 00 4B 00]")


def test_another_server_is():
    codec = client_of("ser2net")
    codec.send(SetLine(baud=65280), 0.0)
    assert codec.outgoing() == h("[01 00 00 FF FF 00]")


@pytest.mark.parametrize("name", ["sredird", "ser2net"])
def test_modem_lines_that_are_never_told_when_asked_for(name):
    codec = client_of(name)
    request = GetModem()
    assert codec.send(request, 0.0) == [ModemReport(answers=request.ref, cts=True, dsr=True, dcd=True, virtual=True)]
    assert codec.outgoing() == b""
    codec.receive(h("[6B 10]"), 0.0)
    request = GetModem()
    assert codec.send(request, 0.0) == [ModemReport(answers=request.ref, cts=True)], "it notified that"


def test_pyserials_server_is_not_asked_what_it_never_answers():
    codec = client_of("pyserial")
    for request, kind in ((GetSignature(), Failed), (SetModem(), OutputReport), (SetBreak(), OutputReport)):
        (answer,) = codec.send(request, 0.0)
        assert (type(answer), answer.answers) == (kind, request.ref)
        assert codec.outgoing() == b""
    assert answer.virtual


def test_a_silent_part_of_a_request_is_not_waited_for():
    codec = client_of("pyserial")
    request = SetLine(flow="none", flow_in="xonxoff")
    assert codec.send(request, 0.0) == []
    assert codec.outgoing() == h("[05 01] [05 0F]")
    (answer,) = codec.receive(h("[69 01]"), 0.1)
    assert (type(answer), answer.answers, answer.values.flow) == (LineReport, request.ref, "none")
    request = SetLine(flow_in="xonxoff")
    (answer,) = codec.send(request, 0.0)
    assert (answer.answers, answer.virtual, answer.values.flow_in) == (request.ref, True, None), "nobody knows of it"


def test_answers_keep_their_order_where_one_is_ready_at_once():
    codec = client_of("pyserial")
    first, second = SetModem(dtr=True), SetModem()
    assert codec.send(first, 0.0) == []
    assert codec.send(second, 0.0) == []
    assert [a.answers for a in codec.receive(h("[69 08]"), 0.1)] == [first.ref, second.ref]


def test_what_ser2net_says_of_the_break_is_not_believed():
    codec = client_of("ser2net")
    request = SetBreak()
    codec.send(request, 0.0)
    (answer,) = codec.receive(h("[69 05]"), 0.1)
    assert answer == OutputReport(answers=request.ref, break_=False)


def test_ser2net_is_asked_for_its_signature_where_somebody_wants_it():
    codec = client_of("ser2net")
    codec.send(GetSignature(), 0.0)
    assert codec.outgoing() == h("[00]")


def test_a_server_that_dies_of_the_question_is_spared_it():
    profile = BY_PROFILE["esp-rs"]
    assert "signature" in profile.forbids(b"\0")
    assert profile.forbids(b"\1\0\0\xff\0") == ""
    assert "SUSPEND" in BY_PROFILE["ser2net"].forbids(b"\x08")


def test_a_notification_behind_another_command_in_one_subnegotiation():
    codec = client_of("ser2net")
    assert codec.receive(h("FF FA 2C 6C 6B 30 FF F0"), 0.0) == [ModemReport(cts=True, dsr=True)]
    assert not codec.suspended
    codec.receive(b"\xff\xfa\x2c" + b"\x6c\x6d" * 500 + b"\xff\xf0", 0.0)
    assert not codec.suspended
