"""Words: what is understood, and where the caret stands when it is not."""

import os
import socket

import pytest

from serpipe.errors import UsageError
from serpipe.grammar import parse_chain, parse_endpoint, parse_stage


def spec(word):
    return parse_endpoint(word).spec


def fault(parse, *args):
    """(message, the part of the word that is marked)."""
    with pytest.raises(UsageError) as caught:
        parse(*args)
    error = caught.value
    start, end = error.span
    return str(error), error.word[start:end]


def test_the_forms_of_an_endpoint():
    assert spec("tcp:lab3:4000").target == ("lab3", 4000)
    assert spec("tcp://lab3:4000").target == ("lab3", 4000)
    assert spec("TCP:lab3:4000").target == ("lab3", 4000)
    assert spec("tcp:4000").target == ("127.0.0.1", 4000)
    assert spec("tcp://[::1]:5000").target == ("::1", 5000)
    assert spec("tcp:5000,host=::1").target == ("::1", 5000)
    assert spec("tcp:,address=lab:1").target == ("lab", 1)
    assert parse_endpoint("-").name == "stdio"
    assert parse_endpoint("stdio:").name == "stdio"


def test_a_body_ends_at_the_first_comma_so_colons_are_data():
    assert spec("file:/a:b:c,append").path == "/a:b:c"
    assert spec("file:/a:b:c,append").append


def test_the_two_escapes_and_no_other():
    assert spec("file:/tmp/a%2Cb%25c%20d").path == "/tmp/a,b%c%20d"


def test_a_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert spec("file:~/x").path == "/home/me/x"


@pytest.mark.parametrize(
    ("word", "baud", "frame"),
    [
        ("loop:,115200", 115200, None),
        ("loop:,115200,8N1", 115200, (8, "none", 1)),
        ("loop:,9600n81", 9600, (8, "none", 1)),
        ("loop:,7e2", None, (7, "even", 2)),
        ("loop:,baud=9600,parity=even,flow=rtscts", 9600, None),
    ],
)
def test_serial_settings_as_people_write_them(word, baud, frame):
    loop = spec(word)
    assert loop.baud == baud
    if frame:
        assert (loop.bytesize, loop.parity, loop.stopbits) == frame


@pytest.mark.parametrize("name", ["rtscts", "hard", "h", "rts-cts", "HARD"])
def test_names_of_flow_control(name):
    assert spec(f"loop:,flow={name}").flow == "rtscts"


def test_flags():
    assert spec("null:,eof").eof
    assert spec("null:,eof=on").eof
    assert not spec("null:,eof=off").eof


def test_paths(tmp_path):
    plain = tmp_path / "a file"
    plain.write_text("x")
    assert parse_endpoint(str(plain)).name == "file"
    assert parse_endpoint("/dev/null").name == "file"
    master, slave = os.openpty()
    assert parse_endpoint(os.ttyname(slave)).name == "serial"
    assert parse_endpoint(os.ttyname(slave) + ",9600").spec.baud == 9600
    os.close(master)
    os.close(slave)


def test_a_path_that_is_missing(tmp_path):
    assert parse_endpoint("/dev/ttyNOTHERE,9600").name == "serial"  # whose opening says what ports there are
    message, marked = fault(parse_endpoint, f"{tmp_path}/nothing,append")
    assert f"file:{tmp_path}/nothing" in message
    assert marked == f"{tmp_path}/nothing"


def test_a_folder_and_a_socket(tmp_path):
    assert "folder" in fault(parse_endpoint, str(tmp_path))[0]
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "s"))
        assert "socket" in fault(parse_endpoint, str(tmp_path / "s"))[0]


def test_a_codec_and_its_carrier_share_a_word():
    both = spec("rfc2217:lab3:4000,9600,nodelay=off")
    assert both.baud == 9600
    assert both.carrier.target == ("lab3", 4000)
    assert not both.carrier.nodelay
    listener = spec("rfc2217-listen:0.0.0.0:4000,once")
    assert listener.carrier.target == ("0.0.0.0", 4000)
    assert listener.listening().once
    assert spec("rfc2217+tcp:lab3:1").carrier.target == ("lab3", 1)


@pytest.mark.parametrize(
    ("word", "says", "marked"),
    [
        ("tpc:lab:1", "did you mean tcp?", "tpc"),
        ("nosuch:", "known: file loop", "nosuch"),
        ("rfc2217+nope:x:1", "there is no endpoint nope:", "nope"),
        ("loop-listen:", "it cannot listen", "loop-listen"),
        ("hexdump:", "hexdump is a stage", "hexdump"),
        ("hexdump", "hexdump is a stage", "hexdump"),
        ("stdoi", "did you mean stdio?", "stdoi"),
        ("tcp:", "tcp: needs HOST:PORT", ""),
        ("tcp:lab", "'lab' has no port", "lab"),
        ("tcp:lab:99999", "not a port number", "lab:99999"),
        ("tcp:::1:5000", "needs brackets", "::1:5000"),
        ("tcp:1,nodely", "did you mean nodelay?", "nodely"),
        ("tcp:1,nodelay=maybe", "neither on nor off", "maybe"),
        ("tcp:1,bind", "bind needs a value", "bind"),
        ("tcp:1,bind=a,bind=b", "bind is given twice, by 'bind=a' already", "bind=b"),
        ("loop:,9600,baud=1", "baud is given twice, by '9600'", "baud=1"),
        ("tcp:1,,bind=a", "missing at this comma", ","),
        ("tcp:a:1,host=b", "stands before the port already", "host=b"),
        ("file:x,append,truncate", "one of them", "truncate"),
        ("null:something", "takes nothing after its colon", "something"),
        ("loop:,9600n8", "settings are written 115200, 8N1, 9600n81", "9600n8"),
        ("loop:,even", "parity=even", "even"),
        ("loop:,parity=evne", "'evne' is no parity", "evne"),
        ("loop:,baud=fast", "is not a whole number", "fast"),
        ("cp2110://0", "does not support", "cp2110"),
    ],
)
def test_what_is_wrong_with_an_endpoint_and_where(word, says, marked):
    message, found = fault(parse_endpoint, word)
    assert says in message
    assert found == marked


@pytest.mark.parametrize(
    ("word", "says", "marked"),
    [
        ("hexdmup", "did you mean hexdump?", "hexdmup"),
        ("tcp:1", "an endpoint stands only first or last", "tcp"),
        ("-", "an endpoint stands only first or last", "-"),
        ("pace,dirr=left", "did you mean dir?", "dirr"),
    ],
)
def test_what_is_wrong_with_a_stage(word, says, marked):
    message, found = fault(parse_stage, word)
    assert says in message
    assert found == marked


def test_a_chain():
    chain = parse_chain(["-", "hexdump", "pace:9600", "tcp:1"])
    assert [p.name for p in (chain.left, *chain.stages, chain.right)] == ["stdio", "hexdump", "pace", "tcp"]
    assert "two endpoints" in fault(parse_chain, ["tcp:1"])[0]
    assert "did you mean tcp" in fault(parse_chain, ["tpc:1"])[0]
    assert "an endpoint stands only first or last" in fault(parse_chain, ["-", "null:", "tcp:1"])[0]


def test_pyserial_urls_are_taken_as_pasted():
    assert parse_endpoint("socket://lab3:4000").name == "tcp"
    assert parse_endpoint("socket://lab3:4000?logging=debug").spec.target == ("lab3", 4000)
    assert parse_endpoint("loop://").name == "loop"
    assert parse_endpoint("rfc2217://lab3:4000?timeout=3").spec.timeout == 3
    chain = parse_chain(["spy://loop://?file=/tmp/log", "null:"])
    assert chain.left.name == "loop"
    assert [stage.name for stage in chain.stages] == ["hexdump"]
