"""Other people's RFC 2217 clients by serpipe's server: each over the built-in device and over a tty that echoes.

Every client opens, sets what it can set, reads back, breaks, purges and transfers a mebibyte with every byte and every pair
FF xx. What one of them cannot do stands at its test. What reached the port is read at the tty itself where there is one, and
in the log of `-d`, where every request and its answer stand; a pty has no lines, no break, no parity and no 7 bits, and
serpipe remembers those, so the clients cannot tell the two apart.
"""

import json
import os
import re
import socket
import subprocess
import threading
import tty
from dataclasses import dataclass

import pytest
import serial
from conftest import Serpipe, find_peer
from peers import EVERY_PAIR, MEBIBYTE, echoing, read_some, read_until, transfer, wait_until, write_all

from serpipe import _termios2

# pySerial's client starts its thread by setDaemon(), and leaves its socket to the collector
quiet_pyserial = pytest.mark.filterwarnings("ignore:set(Daemon|Name):DeprecationWarning")


@dataclass
class Served:
    """A serpipe that serves one port; `tty` is our own descriptor of it where it is a tty."""

    serpipe: Serpipe
    tty: int | None

    @property
    def where(self):
        return self.serpipe.left

    def shows(self, pattern, times=1):
        """Wait until the log has a line with `pattern`, so often."""
        wait_until(
            lambda: len(re.findall(pattern, self.serpipe.said)) >= times,
            lambda: f"the log never had {pattern!r}, {times} times:\n{self.serpipe.said}",
        )

    def did(self, *words, times=1):
        """Wait until each was requested and answered as it was asked for."""
        for word in words:
            self.shows(rf": -> {re.escape(word)}\n", times)
            self.shows(rf": <- {re.escape(word)} \(", times)

    def is_set_to(self, **wanted):
        """Wait until the tty stands so; the built-in device has none to look at."""
        if self.tty is None:
            return

        def found():
            line = _termios2.line_of(_termios2.get(self.tty))
            return {name: getattr(line, name) for name in wanted}

        wait_until(lambda: found() == wanted, lambda: f"wanted {wanted}, the tty has {found()}\n{self.serpipe.said}")


@pytest.fixture(params=["loop", "pty"])
def served(request, pty_pair, serpipe_process):
    if request.param == "loop":
        yield Served(serpipe_process("-d", "rfc2217-listen:0", "loop:,realtime=off"), None)
        return
    master, slave = pty_pair
    with echoing(master):
        serpipe = serpipe_process("-d", "rfc2217-listen:0", f"serial:{os.ttyname(slave)}")
        yield Served(serpipe, slave)
        serpipe.end()


# --- pySerial ---------------------------------------------------------------------------------------------------------


@quiet_pyserial
@pytest.mark.parametrize("how", ["plain", "poll_modem", "rtscts"])
def test_pyserial(how, served):
    """It raises at any answer but the one it asked for, so that it goes on shows what it was told."""
    url = f"rfc2217://{served.where}" + ("?poll_modem" if how == "poll_modem" else "")
    flow = "rtscts" if how == "rtscts" else "none"
    with serial.serial_for_url(url, baudrate=19200, timeout=30, rtscts=how == "rtscts") as port:
        served.is_set_to(baud=19200, stopbits=1, flow=flow)
        for baud in (300, 250000, 57600):
            port.baudrate = baud
            served.is_set_to(baud=baud)
        for size in (5, 6, 7, 8):
            port.bytesize = size
        for parity, word in zip("OEMSN", ("odd", "even", "mark", "space", "none"), strict=True):
            port.parity = parity
            served.did(f"SET-PARITY {word}")
        port.stopbits = 2
        served.is_set_to(stopbits=2)
        port.stopbits = 1
        port.xonxoff = not port.rtscts
        served.is_set_to(flow="rtscts" if port.rtscts else "xonxoff")
        port.xonxoff = False
        served.is_set_to(stopbits=1, flow=flow)
        served.did("SET-DATASIZE 5", "SET-DATASIZE 7", "SET-DATASIZE 8", "SET-STOPSIZE 2")
        port.dtr = False
        port.rts = False
        served.did("SET-CONTROL DTR off", "SET-CONTROL RTS off")
        if served.tty is None:  # the plug of the built-in device: RTS to CTS, DTR to DSR and CD
            wait_until(lambda: not (port.cts or port.dsr or port.cd), lambda: "the lines stayed on")
        port.dtr = port.rts = True
        wait_until(lambda: port.cts and port.dsr and port.cd, lambda: "the lines stayed off")
        assert port.ri is False
        if how == "poll_modem":  # it asks when what it was told last is older than 0.3 s
            asked = ": -> NOTIFY-MODEMSTATE ?\n"
            wait_until(
                lambda: port.cts and asked in served.serpipe.said, lambda: f"never polled:\n{served.serpipe.said}"
            )
        port.send_break(0.01)
        port.break_condition = True
        port.break_condition = False
        served.did("SET-CONTROL break on", "SET-CONTROL break off", times=2)
        before = [len(re.findall(f"<- PURGE-DATA {which}", served.serpipe.said)) for which in ("rx", "tx")]
        port.reset_input_buffer()
        port.reset_output_buffer()
        served.did("PURGE-DATA rx", times=before[0] + 1)
        served.did("PURGE-DATA tx", times=before[1] + 1)
        assert transfer(port.write, port.read, MEBIBYTE) == MEBIBYTE


# --- gensio -----------------------------------------------------------------------------------------------------------


def gensiot(served, *options):
    return subprocess.Popen(
        [find_peer("gensiot"), "-i", "stdio(self)", *options, f"telnet(rfc2217),tcp,{served.where.replace(':', ',')}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )


def end(process):
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()


@pytest.mark.peer("gensiot")
def test_gensiots_settings(served):
    """By its escapes. It has none for DTR, RTS and purges."""
    process = gensiot(served, "-e", "0x1c")
    try:
        say = write_all(process.stdin.fileno())
        say(b"\x1cs57600\n")
        served.did("SET-BAUD 57600")
        say(b"\x1ce\x1c7\x1c2\x1cr")
        served.did("SET-PARITY even", "SET-DATASIZE 7", "SET-STOPSIZE 2", "SET-CONTROL flow rtscts")
        served.is_set_to(baud=57600, stopbits=2, flow="rtscts")
        say(b"\x1cd")
        dumped = read_until(process.stdout.fileno(), b"Speed: 57600E72")
        assert b"Signature: serpipe" in dumped
        say(b"\x1cb")
        served.shows(": -> BRK\n")
        say(b"\x1cn\x1c8\x1c1\x1cx")
        served.did("SET-PARITY none", "SET-DATASIZE 8", "SET-STOPSIZE 1", "SET-CONTROL flow xonxoff")
        served.is_set_to(baud=57600, stopbits=1, flow="xonxoff")
        say(b"\x1cq")
        assert process.wait(10) == 0
    finally:
        end(process)


@pytest.mark.peer("gensiot")
def test_gensiots_data(served):
    """Without escapes: with them, version 2.6.2 adds bytes of its own to what it is given."""
    process = gensiot(served)
    try:
        got = transfer(write_all(process.stdin.fileno()), read_some(process.stdout.fileno()), MEBIBYTE)
        assert got == MEBIBYTE
    finally:
        end(process)


GENSIO_CLIENT = """
import json, sys
import gensio

data = open(sys.argv[2], "rb").read()
state = {"got": b"", "rest": memoryview(data), "lines": [], "flushed": [], "signature": None}

class Log:
    def gensio_log(self, level, text):
        print(level, text, file=sys.stderr)

class Handler:
    def read_callback(self, io, error, piece, auxdata):
        if error:
            return 0
        state["got"] += piece
        if len(state["got"]) >= len(data):
            waiter.wake()
        return len(piece)
    def write_callback(self, io):
        while state["rest"]:
            count = io.write(bytes(state["rest"][:16384]), None)
            if not count:
                return
            state["rest"] = state["rest"][count:]
        io.write_cb_enable(False)
    def modemstate(self, io, value):
        state["lines"].append(value)
    def linestate(self, io, value):
        pass
    def flush(self, io, value):
        state["flushed"].append(value)

class Asked:
    def signature(self, sio, error, value):
        state["signature"] = value.decode()
        waiter.wake()

system = gensio.alloc_gensio_selector(Log())
waiter = gensio.waiter(system)
io = gensio.gensio(system, "telnet(rfc2217),tcp," + sys.argv[1], Handler())
io.open_s()
io.read_cb_enable(True)  # without it gensio reads no answers
port = io.cast_to_sergensio()
answers = []
for name, values in json.loads(sys.argv[3]):
    for value in values:
        answers.append([name, value, getattr(port, "sg_%s_s" % name)(value)])
asked = Asked()
port.sg_signature("", asked)
waiter.wait_timeout(1, 10000)
port.sg_modemstate(255)
port.sg_send_break()
for which in (1, 2, 3):
    port.sg_flush(which)
print(json.dumps([answers, state["signature"]]), flush=True)
sys.stdin.readline()
io.write_cb_enable(True)
if len(state["got"]) < len(data):
    waiter.wait_timeout(1, 60000)
print(json.dumps([state["got"] == data, len(state["got"]), state["lines"], state["flushed"]]), flush=True)
io.close_s()
"""
GENSIO_SETTINGS = [
    ["baud", [57600, 0, 250000, 0]],  # 0 asks
    ["datasize", [5, 7, 0, 8]],
    ["parity", [2, 3, 4, 5, 0, 1]],
    ["stopbits", [2, 0]],
    ["flowcontrol", [3, 1, 2, 0]],
    ["iflowcontrol", [1, 0, 2, 0]],  # a tty sets the two ways apart for XON/XOFF alone
    ["flowcontrol", [3, 0]],
    ["sbreak", [1, 0, 2, 0]],  # 1 is on, 2 is off
    ["dtr", [2, 0, 1, 0]],
    ["rts", [2, 0, 1, 0]],
]


@pytest.mark.peer("python3-gensio")
def test_gensio_from_python(served, tmp_path):
    """The first setting leaves in the moment the option is agreed, and each waits for its answer."""
    (tmp_path / "client.py").write_text(GENSIO_CLIENT)
    (tmp_path / "data").write_bytes(MEBIBYTE)
    address = served.where.replace(":", ",")
    process = subprocess.Popen(
        [find_peer("python3-gensio"), tmp_path / "client.py", address, tmp_path / "data", json.dumps(GENSIO_SETTINGS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        line = process.stdout.readline()
        assert line, served.serpipe.said
        answers, signature = json.loads(line)
        last = 0
        for name, asked, answer in answers:
            last = asked or last
            assert answer == last, (name, asked)
        assert signature.startswith("serpipe")
        served.is_set_to(baud=250000, stopbits=2, flow="rtscts")
        served.did("SET-CONTROL break on", "SET-CONTROL break off", "SET-CONTROL DTR off", "SET-CONTROL RTS on")
        process.stdin.write(b"go on\n")
        process.stdin.flush()
        same, count, lines, flushed = json.loads(process.stdout.readline())
        assert same, f"{count} of {len(MEBIBYTE)} came back, or others"
        assert lines[-1] & 0xF0 == 0xB0, "CTS, DSR and CD"
        assert flushed == [1, 2, 3], "what the server acknowledged"
        served.shows(": -> BRK\n")
        served.did("PURGE-DATA rx", "PURGE-DATA tx", "PURGE-DATA rx tx")
        assert process.wait(10) == 0
    finally:
        end(process)


# --- microcom ---------------------------------------------------------------------------------------------------------


@pytest.mark.peer("microcom")
def test_microcom(served):
    """Version 2019 has commands for speed, flow control and break alone, and it does not double FF in what it sends, so
    a Telnet peer cannot be sent one: every other byte goes through, but its own escape character."""
    screen, terminal = os.openpty()
    tty.setraw(terminal)  # it leaves XON/XOFF of its terminal as found
    process = subprocess.Popen(
        [find_peer("microcom"), "-s", "57600", "-t", served.where],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    try:
        type_ = write_all(screen)
        read_until(screen, b"to get to the prompt.\n")
        served.did("SET-BAUD 57600", "SET-CONTROL flow none")
        served.is_set_to(baud=57600, flow="none")
        type_(b"\x1c")
        read_until(screen, b"-> ")
        for command, word, line in (
            (b"speed 115200\r", "SET-BAUD 115200", {"baud": 115200}),
            (b"flow hard\r", "SET-CONTROL flow rtscts", {"flow": "rtscts"}),
            (b"flow soft\r", "SET-CONTROL flow xonxoff", {"flow": "xonxoff"}),
        ):
            type_(command)
            read_until(screen, b"-> ")
            served.did(word)
            served.is_set_to(**line)
        type_(b"flow none\r")
        served.did("SET-CONTROL flow none", times=2)
        type_(b"break\r")
        served.shows(": -> BRK\n")
        read_until(screen, b"----------------------")  # and is back at the data
        type_(b"MARK")
        read_until(screen, b"MARK")
        data = MEBIBYTE.replace(b"\xff", b"").replace(b"\x1c", b"") + bytes(range(0x1C))
        assert transfer(type_, read_some(screen), data) == data
        assert process.poll() is None
    finally:
        end(process)
        os.close(terminal)
        os.close(screen)


# --- a client of bytes ------------------------------------------------------------------------------------------------

_TELNET = re.compile(rb"\xff\xfa\x2c((?:[^\xff]|\xff\xff)*)\xff\xf0|\xff[\xfb-\xfe].|\xff\xff|[^\xff]+", re.DOTALL)


def hexa(text):
    """Hex; ``[x]`` is the body of a COM-PORT subnegotiation."""
    return bytes.fromhex(text.replace("[", " FF FA 2C ").replace("]", " FF F0 "))


class Probe:
    """A client that knows no more of the protocol than its frame."""

    def __init__(self, where):
        host, _, port = where.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), 20)
        self.rest = b""
        self.answers = []
        self.data = bytearray()

    def read(self):
        piece = self.socket.recv(65536)
        assert piece, "the server closed"
        self.rest += piece
        at = 0
        while match := _TELNET.match(self.rest, at):
            found = match[0]
            if found == b"\xff\xff":
                self.data.append(255)
            elif found[0] != 255:
                self.data += found
            elif match[1] is not None:
                self.answers.append(match[1].replace(b"\xff\xff", b"\xff"))
            at = match.end()
        self.rest = self.rest[at:]

    def until(self, condition):
        while not condition():
            self.read()


SAID_AND_ANSWERED = {
    "65": "[01 00 00 E1 00] > 00 00 E1 00, [01 00 00 00 00] > 00 00 E1 00, [01 00 03 D0 90] > 00 03 D0 90",
    "66": "[02 07] > 07, [02 00] > 07, [02 09] > 07, [02 08] > 08",
    "67": "[03 03] > 03, [03 00] > 03, [03 09] > 03, [03 05] > 05, [03 01] > 01",
    "68": "[04 02] > 02, [04 00] > 02, [04 09] > 02, [04 01] > 01",
    "69": "[05 03] > 03, [05 00] > 03, [05 02] > 02, [05 01] > 01, [05 05] > 05, [05 04] > 05, [05 06] > 06, [05 04] > 06, "
    "[05 09] > 09, [05 07] > 09, [05 08] > 08, [05 0C] > 0C, [05 0A] > 0C, [05 0B] > 0B, [05 0E] > 0E, [05 0D] > 0E",
    "6E": "[0A 02] > 02, [0A 00] > 00",
    "6F": "[0B 10] > 10, [0B FF FF] > FF",
    "70": "[0C 01] > 01, [0C 02] > 02, [0C 03] > 03",
}
"""By the code of the answer: what is sent, and what the answer holds. 9 is illegal, 0 asks."""


def test_a_client_of_bytes(served):
    """Everything in one segment with the WILL that makes it legal, illegal values too: each has one answer, in its order."""
    probe = Probe(served.where)
    with probe.socket:
        burst, wanted = [], {}
        for code, pairs in SAID_AND_ANSWERED.items():
            said, answers = zip(*(pair.split(" > ") for pair in pairs.split(", ")), strict=True)
            burst += said
            wanted[bytes.fromhex(code)] = [bytes.fromhex(answer) for answer in answers]
        probe.socket.sendall(hexa("FF FB 2C" + "".join(burst) + "[07 00] [06 00] [00]"))
        probe.until(lambda: any(answer[:1] == b"\x64" for answer in probe.answers))
        for code, answers in wanted.items():
            probe.until(lambda: sum(answer[:1] == code for answer in probe.answers) >= len(answers))  # noqa: B023
            assert [answer[1:] for answer in probe.answers if answer[:1] == code] == answers, code.hex()
        assert next(a for a in probe.answers if a[:1] == b"\x64").startswith(b"\x64serpipe")
        assert [a[1] & 0xF0 for a in probe.answers if a[:1] == b"\x6b"][-1] == 0xB0, "CTS, DSR and CD"
        assert any(a[:1] == b"\x6a" for a in probe.answers), "a poll of the line state is answered"
        served.is_set_to(baud=250000, stopbits=1, flow="none")
        count = len(probe.answers)
        sender = threading.Thread(target=probe.socket.sendall, args=(MEBIBYTE.replace(b"\xff", b"\xff\xff"),))
        sender.start()
        probe.until(lambda: len(probe.data) >= len(MEBIBYTE))
        sender.join()
        assert bytes(probe.data) == MEBIBYTE
        probe.data.clear()
        probe.socket.sendall(hexa("FF F3") + EVERY_PAIR.replace(b"\xff", b"\xff\xff"))
        probe.until(lambda: len(probe.data) >= len(EVERY_PAIR))
        assert bytes(probe.data) == EVERY_PAIR
        served.shows(": -> BRK\n")
        assert all(answer[:1] in (b"\x6a", b"\x6b") for answer in probe.answers[count:])
