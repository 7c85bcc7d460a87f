"""The order of bytes and settings at a tty, as the kernel was told: the system calls of serpipe's own process.

A client sends `OLD <SET-BAUD> NEW` in one TCP segment. strace shows that OLD was written, that its end was waited for, that
only then the rate was set, and that NEW was written after that; through stages and through two serpipes in a row, too.
"""

import contextlib
import os
import random
import re
import signal
import socket
import subprocess

import pytest
from conftest import find_peer
from peers import read_some, wait_until

BAUD, STOPBITS, FLOW = 1, 4, 5
SETTINGS = {
    (BAUD, 57600): "B57600",
    (BAUD, 115200): "B115200",
    (BAUD, 300): "B300",
    (STOPBITS, 2): "CSTOPB",
    (FLOW, 2): "IXON",
}
"""What is asked for, and what it is called in the termios that strace shows."""


def escaped(data):
    return data.replace(b"\xff", b"\xff\xff")


def command(code, value):
    """A COM-PORT command, whole."""
    return b"\xff\xfa\x2c" + bytes((code,)) + escaped(value.to_bytes(4 if code == BAUD else 1, "big")) + b"\xff\xf0"


def connect(where):
    """A client that has agreed to COM-PORT, and has been told that the server has."""
    host, _, port = where.rpartition(":")
    sock = socket.create_connection((host, int(port)), 10)
    sock.sendall(b"\xff\xfb\x2c\xff\xfa\x2c\x0a\x00\xff\xf0")
    got = b""
    while b"\xff\xfa\x2c\x6e" not in got:
        got += sock.recv(4096)
    return sock


@contextlib.contextmanager
def traced(process, device, log):
    """Watch what `process` does to the tty `device`; gives a function that tells the story so far.

    That is a list of bytes written, "drain" for a wait until they have left, and ("set", FLAGS) for a setting.
    """
    argv = [find_peer("strace"), "-f", "-y", "-q", "-s", "65536", "-xx", "-e", "trace=write,ioctl", "-o", str(log)]
    tracer = subprocess.Popen([*argv, "-p", str(process.pid)], stderr=subprocess.PIPE)
    name = "".join(f"\\x{byte:02x}" for byte in device.encode())

    def attached():
        with open(f"/proc/{process.pid}/status") as status:
            return f"TracerPid:\t{tracer.pid}\n" in status.read()

    def story():
        found = []
        for line in log.read_text().splitlines():
            what, _, rest = line.partition(f"<{name}>, ")
            if re.search(r"\bwrite\(\d+$", what):
                data = bytes.fromhex(re.match(r'"((?:\\x..)*)"', rest)[1].replace("\\x", ""))
                if found and type(found[-1]) is bytes:
                    found[-1] += data
                else:
                    found.append(data)
            elif rest.startswith("TCSBRK"):
                found.append("drain")
            elif rest.startswith("TCSETS"):
                found.append(("set", frozenset(re.findall(r"\b[A-Z]+\d*\b", rest))))
        return found

    try:
        wait_until(lambda: log.exists() and attached(), lambda: f"strace did not attach: {tracer.poll()}")
        yield story
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.communicate(timeout=10)


def steps(count):
    """Bytes, a setting, bytes, a setting, ... and bytes. No setting is in force already when its turn comes."""
    chance = random.Random(2217)
    plan, standing, at = [], {BAUD: 0, STOPBITS: 1, FLOW: 1}, 0
    while len(plan) < 2 * count:
        code, value = chance.choice([*SETTINGS, (STOPBITS, 1), (FLOW, 1)])
        if standing[code] != value:
            standing[code] = value
            plan += [b"\xff%d" % at + chance.randbytes(chance.randrange(1, 40)), (code, value)]
            at += 1
    return [*plan, b"the end"]


@pytest.mark.peer("strace")
@pytest.mark.parametrize("stages", [[], ["hexdump:{tmp}/dump", "checksum", "pace:64k/s"]], ids=["nothing", "stages"])
@pytest.mark.parametrize("serpipes", [1, 2])
@pytest.mark.parametrize(
    "plan", [[b"OLD", (BAUD, 57600), b"NEW"], steps(30)], ids=["old-set-new", "thirty settings with data between"]
)
def test_settings_and_data_reach_the_tty_in_order(plan, serpipes, stages, pty_pair, serpipe_process, tmp_path):
    master, slave = pty_pair
    device = os.ttyname(slave)
    stages = [stage.format(tmp=tmp_path) for stage in stages]
    last = serpipe_process("rfc2217-listen:0", *(stages if serpipes == 1 else []), f"serial:{device}")
    first = last if serpipes == 1 else serpipe_process("rfc2217-listen:0", *stages, f"rfc2217://{last.left}")
    data = b"".join(step for step in plan if type(step) is bytes)
    segment = b"".join(escaped(step) if type(step) is bytes else command(*step) for step in plan)
    with connect(first.left) as client, traced(last.process, device, tmp_path / "calls") as story:
        client.sendall(segment)
        read, got = read_some(master), b""
        while len(got) < len(data):
            piece = read(65536)
            assert piece, f"{len(got)} of {len(data)} bytes came"
            got += piece
        assert got == data
        wait_until(lambda: b"".join(step for step in story() if type(step) is bytes) == data, lambda: str(story()))
        told = story()
    standing = {}
    for step in plan:
        if type(step) is bytes:
            assert told.pop(0) == step
            continue
        standing[step[0]] = step
        assert told.pop(0) == "drain", f"nothing waited for the bytes before {step}"
        while told[0] == "drain":
            told.pop(0)
        what, flags = told.pop(0)
        assert what == "set"
        wanted = {SETTINGS[each] for each in standing.values() if each in SETTINGS}
        assert flags & set(SETTINGS.values()) >= wanted, step
        assert not flags & {"CSTOPB", "IXON"} - wanted, step
    assert not told
