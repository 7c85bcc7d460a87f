"""`serpipe emulate`: its words, and the process."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys

import pytest
from conftest import ROOT, wait_for_line

from serpipe.commands import emulate
from serpipe.errors import UsageError
from serpipe.pipeline import explain
from serpipe.protocol.emulate import FAULTS, PROFILES, Faults


@pytest.mark.parametrize("name", PROFILES)
def test_a_server_alone(name):
    assert emulate.parse_profile(name) == (PROFILES[name], Faults())


@pytest.mark.parametrize(
    ("word", "faults"),
    [
        ("sredird+late", Faults(late=1.0)),
        ("sredird+late=200ms+echo", Faults(late=0.2, echo=True)),
        ("serpipe+never-acks", Faults(never_acks=True)),
        ("serpipe+acks-unapplied+crnul+rawff", Faults(acks_unapplied=True, crnul=True, rawff=True)),
        ("serpipe+packet=64", Faults(packet_size=64)),
        ("serpipe+packet=1k+packet=20ms", Faults(packet_size=1024, packet_time=0.02)),
        ("ser2net+banner+login+busy+mute+closes", Faults(banner=True, login=True, busy=True, mute=True, closes=True)),
    ],
)
def test_faults(word, faults):
    assert emulate.parse_profile(word)[1] == faults


@pytest.mark.parametrize(
    ("word", "marked", "text"),
    [
        ("sredrid", "sredrid", "did you mean sredird"),
        ("sredird+lat", "lat", "did you mean late"),
        ("sredird+late=soon", "soon", "not a time"),
        ("serpipe+packet", "packet", "packet=64"),
        ("serpipe+packet=0", "0", "1 to 65536"),
        ("serpipe+packet=0s", "0s", "some time"),
        ("serpipe+packet=1M", "1M", "1 to 65536"),
        ("serpipe+echo=1", "1", "no value"),
        ("serpipe=1", "1", "no value"),
        ("serpipe+echo+echo", "echo", "twice"),
        ("late", "late", "serpipe+late"),
        ("serpipe+cisco", "cisco", "comes first"),
        ("serpipe+", "", "no fault"),
        ("", "", "known: serpipe"),
    ],
)
def test_a_wrong_word_is_marked(word, marked, text):
    with pytest.raises(UsageError) as caught:
        emulate.parse_profile(word)
    start, end = caught.value.span
    assert word[start:end] == marked
    assert text in str(caught.value)


def test_the_help_names_everything(capsys):
    assert emulate.run(["--help"]) == 0
    said = capsys.readouterr().out
    for name in (*PROFILES, *FAULTS):
        assert re.search(rf"^  {name} ", said, re.M)
    assert max(map(len, said.splitlines())) <= 90


@pytest.mark.parametrize("argv", [[], ["a", "b", "c"], ["serpipe", "--lisen=1"]])
def test_a_wrong_line(argv):
    with pytest.raises(UsageError, match="emulate takes a profile"):
        emulate.run(argv)


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["serpipe", "--listen=here"], "--listen"),
        (["serpipe", "--ready-fd=x"], "no open descriptor"),
        (["serpipe", "lop:"], "did you mean loop"),
    ],
)
def test_a_wrong_value(argv, text):
    with pytest.raises(UsageError, match=text):
        emulate.run(argv)


def test_the_manual_names_everything():
    manual = (ROOT / "man/serpipe.1").read_text()
    prose = manual[manual.index(".Ss Servers that misbehave") : manual.index(".Sh GRAMMAR")]
    for name in (*PROFILES, *FAULTS):
        assert re.search(rf"^\.It Cm {name}( |$)", prose, re.M), name


def test_what_is_planned():
    planned, level = emulate.run(["sredird+late", "tcp:lab3:4000", "--listen", "0.0.0.0:4001", "-d"])
    assert level == 1
    lines = explain(planned)
    assert "emulate sredird+late, tcp-listen 0.0.0.0:4001" in lines[0]
    assert any("virtual" in line for line in lines), "what stands behind is no port"
    assert emulate.run(["ser2net", "-q"])[1] == -1
    assert "127.0.0.1:4000" in explain(emulate.run(["ser2net"])[0])[0]


@contextlib.contextmanager
def standing(*words):
    """The process, its address, and what it says."""
    read_end, write_end = os.pipe()
    argv = [sys.executable, "-m", "serpipe", "emulate", "--listen", "0", "--ready-fd", str(write_end), *words]
    with open(read_end) as ready:
        process = subprocess.Popen(
            argv,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=[write_end],
        )
        os.close(write_end)
        try:
            yield process, ready.readline().split()
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def test_the_process_stands_serves_and_ends_on_a_signal():
    with standing("ser2net+banner") as (process, ready):
        said = wait_for_line(process, "listening")
        word, address, other = ready
        assert (word, other) == ("ready", "-")
        assert f"serpipe: listening on {address} (this machine only) -> emulated ser2net+banner -> loop: 9600" in said
        host, number = address.split(":")
        with socket.create_connection((host, int(number)), timeout=5) as client:
            got = b""
            while not got.endswith(b"ser2net+banner\r\n"):
                got += client.recv(1000)
        assert got.startswith(bytes.fromhex("FFFB03 FFFD03 FFFB01 FFFE01 FFFD00 FFFB00 FFFD2C"))
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == -signal.SIGTERM


def test_an_address_that_is_taken_is_said():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        argv = [sys.executable, "-m", "serpipe", "emulate", "serpipe", "--listen", address]
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 3
    assert "the address is in use" in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_caret():
    argv = [sys.executable, "-m", "serpipe", "emulate", "sredird+lat=3"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[1:] == ["  emulate sredird+lat=3", "                  ^^^"]
