"""Clients at the emulated servers, and the emulated servers beside the real ones."""

import contextlib
import re
import socket
import subprocess
import threading

import pytest
import serial
import serial.rfc2217
import trio
from conftest import find_peer
from emulated import emulated

from serpipe.endpoints.base import Context
from serpipe.endpoints.rfc2217 import Rfc2217
from serpipe.endpoints.tcp import Tcp
from serpipe.errors import OpenFailed, PeerRefused, TimedOut
from serpipe.events import Drain, Failed, GetModem, GetSignature, Purge, Report, SetBreak, SetLine, SetModem

EVERY_BYTE = bytes(range(256)) + b"".join(bytes((255, b)) for b in range(256)) + b"\r\n\r\0\n\r"


def h(text):
    return bytes.fromhex(text.replace("[", " FF FA 2C ").replace("]", " FF F0 "))


@contextlib.asynccontextmanager
async def opened(number, notes=None, **options):
    """Our client at that port, its first four events taken."""
    context = Context(note=lambda text, level: notes.append(text) if notes is not None else None)
    async with trio.open_nursery() as nursery:
        with trio.fail_after(5):
            spec = Rfc2217(carrier=Tcp(address=("127.0.0.1", number)), **options)
            port = await spec.open(nursery, context)
            for _ in range(4):
                await port.receive()
        try:
            yield port
        finally:
            await port.aclose()
        nursery.cancel_scope.cancel()


async def ask(port, request):
    """The answer to a request; what else comes meanwhile is dropped."""
    with trio.fail_after(8):
        await port.send(request)
        while True:
            event = await port.receive()
            if isinstance(event, Report) and event.answers == request.ref:
                return event


async def received(port, count):
    data = b""
    with trio.fail_after(8):
        while len(data) < count:
            event = await port.receive()
            data += event if type(event) is bytes else b""
    return data


# our client at every profile

GOOD = ["serpipe", "ser2net", "sredird", "pyserial", "esp", "cisco", "lantronix"]


@pytest.mark.parametrize("profile", GOOD)
async def test_our_client_at_every_server(profile):
    async with emulated(profile) as number:
        began = trio.current_time()
        async with opened(number, timeout=0.5) as port:
            assert trio.current_time() - began < 2.0
            for request in (SetLine(baud=57600), SetLine(parity="even", stopbits=2), SetLine(flow="rtscts"), SetLine()):
                answer = await ask(port, request)
                assert not isinstance(answer, Failed)
            values = answer.values
            assert (values.baud, values.parity, values.stopbits, values.flow) == (57600, "even", 2, "rtscts")
            answer = await ask(port, SetModem(dtr=False, rts=False))
            assert isinstance(answer, Failed) is (profile == "esp")
            known = answer.in_force if isinstance(answer, Failed) else answer
            assert (known.dtr, known.rts) == (False, False)
            assert (await ask(port, SetBreak(on=True))).break_ is True
            assert (await ask(port, SetBreak(on=False))).break_ is False
            modem = await ask(port, GetModem())
            assert (modem.cts, modem.dsr) == (False, False), "the plug joins them to RTS and DTR, and that was notified"
            assert not isinstance(await ask(port, Purge(rx=True, tx=True)), Failed)
            assert isinstance(await ask(port, GetSignature()), Failed) is (profile in ("pyserial", "esp", "cisco"))
            await ask(port, Drain())
            await port.send(EVERY_BYTE)
            assert await received(port, len(EVERY_BYTE)) == EVERY_BYTE


@pytest.mark.parametrize(
    ("profile", "title"),
    [("ser2net", "ser2net or another"), ("sredird", "sredird"), ("pyserial", "pySerial's"), ("serpipe", "serpipe")],
)
async def test_the_log_says_whom_it_talks_to(profile, title):
    notes = []
    async with emulated(profile) as number, opened(number, notes):
        assert [text for text in notes if f"by its greeting the server is {title}" in text]


@pytest.mark.parametrize(
    ("profile", "behind", "error", "text"),
    [
        ("refuses", "null:", PeerRefused, "refuses RFC 2217"),
        ("raw", "null:", TimedOut, "said nothing"),
        ("raw", "loop:,realtime=off", PeerRefused, "comes back"),
        ("raw+banner", "null:", PeerRefused, "not Telnet"),
        ("serpipe+mute", "null:", TimedOut, "said nothing"),
        ("serpipe+closes", "null:", OpenFailed, "closed the connection at once"),
        ("serpipe+busy", "null:", OpenFailed, "saying: Port already in use"),
        ("ser2net+busy", "null:", OpenFailed, "saying: Port already in use"),
    ],
)
async def test_why_our_client_cannot_open_it(profile, behind, error, text):
    async with emulated(profile, behind) as number:
        began = trio.current_time()
        with pytest.RaisesGroup(pytest.RaisesExc(error, match=text), flatten_subgroups=True):
            async with opened(number, negotiate_timeout=0.6):
                pass
        assert trio.current_time() - began < 2.5
        if profile == "refuses":
            async with opened(number, fallback="telnet") as port:
                assert isinstance(await ask(port, SetLine(baud=300)), Failed)


# our client at every fault


async def test_one_that_never_answers():
    async with emulated("serpipe+never-acks") as number, opened(number, timeout=0.4) as port:
        answer = await ask(port, SetLine(baud=57600))
        assert (answer.why, "SET-BAUD 57600" in answer.text) == ("timeout", True)
        await port.send(EVERY_BYTE)
        assert await received(port, len(EVERY_BYTE)) == EVERY_BYTE


async def test_one_that_does_not_do_what_it_says():
    async with emulated("serpipe+acks-unapplied") as number, opened(number) as port:
        assert (await ask(port, SetLine(baud=57600))).values.baud == 57600
        assert (await ask(port, SetLine())).values.baud == 9600, "what was read back tells"
        assert (await ask(port, SetModem(dtr=False))).dtr is False
        assert (await ask(port, SetModem())).dtr is True


async def test_one_that_is_late():
    async with emulated("serpipe+late=300ms") as number, opened(number) as port:
        began = trio.current_time()
        assert (await ask(port, SetLine(baud=57600))).values.baud == 57600
        assert 0.29 < trio.current_time() - began < 2.0
        await port.send(b"data is not late")
        assert await received(port, 16) == b"data is not late"


@pytest.mark.parametrize(
    ("faults", "sent", "comes"),
    [
        ("echo", b"abc\xff", b"abc\xffabc\xff"),
        ("banner", EVERY_BYTE, b"Welcome to an emulated serpipe+banner\r\n" + EVERY_BYTE),
        ("login", b"root\r\nsecret\r\n" + EVERY_BYTE, b"login: Password: \r\n" + EVERY_BYTE),
        ("crnul", EVERY_BYTE, EVERY_BYTE.replace(b"\r", b"\r\0")),
        ("rawff", bytes(range(255)), bytes(range(255))),
        ("rawff", b"a\xff\xff\xff\xffb", b"a\xff\xffb"),
        ("packet=64", EVERY_BYTE[:704], EVERY_BYTE[:704]),
        ("packet=20ms", EVERY_BYTE, EVERY_BYTE),
        ("packet=100+packet=20ms", EVERY_BYTE, EVERY_BYTE),
    ],
)
async def test_what_a_fault_does_to_data(faults, sent, comes):
    async with emulated(f"serpipe+{faults}") as number, opened(number) as port:
        await port.send(sent)
        assert await received(port, len(comes)) == comes
        assert (await ask(port, SetLine(baud=57600))).values.baud == 57600


async def test_a_program_that_dies_of_a_value():
    async with emulated("pyserial", "null:") as number:
        async with await trio.open_tcp_stream("127.0.0.1", number) as stream:
            await stream.send_all(h("FF FB 2C [03 09]"))
            with trio.fail_after(5):
                while await stream.receive_some():
                    pass
        async with opened(number) as port:  # the next client is served
            assert not isinstance(await ask(port, SetLine(parity="odd")), Failed)


# pySerial's client

quiet_pyserial = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)


@quiet_pyserial
@pytest.mark.parametrize(
    ("profile", "query"),
    [
        ("serpipe", ""),
        ("ser2net", ""),
        ("pyserial", ""),
        ("sredird", "?ign_set_control"),
        ("esp", "?ign_set_control"),
        ("serpipe+late=50ms", ""),
    ],
)
async def test_pyserials_client(profile, query):
    def use(number):
        with serial.serial_for_url(f"rfc2217://127.0.0.1:{number}{query}", timeout=5) as port:
            port.baudrate = 57600
            port.write(EVERY_BYTE)
            assert port.read(len(EVERY_BYTE)) == EVERY_BYTE

    async with emulated(profile) as number:
        await trio.to_thread.run_sync(use, number)


@quiet_pyserial
@pytest.mark.parametrize(
    ("profile", "text"),
    [("refuses", "does not accept|not seem to support|timeout"), ("serpipe+closes", "."), ("cisco", ".")],
)
async def test_pyserials_client_fails_where_it_would(profile, text):
    def use(number):
        # what it raises differs, down to struct.error: that it does not open is the point
        with pytest.raises(Exception, match=text):
            serial.serial_for_url(f"rfc2217://127.0.0.1:{number}?timeout=1", timeout=1)

    async with emulated(profile) as number:
        await trio.to_thread.run_sync(use, number)


# beside the real ones


def say(server, probes, last):
    """Everything a server, a TCP port or a socket, says to these probes, up to its answer to the last one.

    A TIMING-MARK behind each keeps the pace: the next goes out once that is answered.
    """
    said = b""
    with socket.create_connection(("127.0.0.1", server)) if isinstance(server, int) else server as sock:
        sock.settimeout(8)

        def read_until(done):
            nonlocal said
            while not done():
                chunk = sock.recv(4096)
                assert chunk, f"closed after {said.hex(' ')}"
                said += chunk

        for count, probe in enumerate([*probes, last], 1):
            sock.sendall(h(probe) + h("FF FD 06"))
            read_until(lambda count=count: said.count(h("FF FC 06")) >= count)
        code, value = h(last)[3:5]
        answer = bytes((0xFF, 0xFA, 44, 100 + code, value, 0xFF, 0xF0))
        read_until(lambda: answer in said)
    return said


def parts(said):
    """(negotiations, values by command): what was said, without the marks and notifications.

    Answers to different commands may come in another order: ours wait for the port, theirs may not.
    """
    said = said.replace(h("FF FC 06"), b"")
    commands = re.findall(rb"\xff\xfa\x2c((?:[^\xff]|\xff\xff)*)\xff\xf0", said)
    rest = re.sub(rb"\xff\xfa\x2c(?:[^\xff]|\xff\xff)*\xff\xf0", b"", said)
    by_code = {}
    for command in commands:
        if command[0] != 107:
            by_code.setdefault(command[0], []).append(command[1:].hex(" "))
    return rest.hex(" "), by_code


NEGOTIATION = ["FF FB 2C", "FF FD 2C", "FF FB 00", "FF FD 00", "FF FB 03", "FF FD 03", "FF FB 01"]
SETTINGS = [
    "[01 00 00 25 80]", "[01 00 00 4B 00]", "[01 00 00 00 00]", "[02 00]", "[02 08]", "[03 00]", "[03 01]", "[04 00]",
    "[04 02]", "[04 00]", "[04 01]", "[05 00]", "[05 02]", "[05 00]", "[05 03]", "[05 00]", "[05 01]", "[05 00]",
]  # fmt: skip
BREAK = ["[05 05]", "[05 04]", "[05 06]", "[05 04]"]
INBOUND = ["[05 0D]", "[05 0E]", "[05 0F]", "[05 10]", "[05 11]", "[05 12]", "[05 13]", "[05 00]"]
PURGES = ["[0C 00]", "[0C 01]", "[0C 02]", "[0C 04]"]
LAST = "[0C 03]"
MASKS = ["[0A 00]", "[0B 00]", "[0B F0]", "[0B 0F]"]


async def compare(profile, real, probes, last):
    """`real` is what the real one said."""
    async with emulated(profile) as number:
        ours = await trio.to_thread.run_sync(say, number, probes, last)
    assert parts(ours) == parts(real)


@pytest.mark.peer("ser2net", "socat")
async def test_emulated_ser2net_answers_as_ser2net(socat_ptys, ser2net):
    """Without DTR and RTS, which no pty has, and whose settings ser2net then does not answer."""
    rest = ["[01 00 00 30 39]", "[02 07]", "[02 09]", "[02 08]", "[03 03]", "[03 07]", "[03 01]", "[04 03]", "[04 09]"]
    rest += ["[00 61]", "[06 00]", "[07 00]", "[06]", "[07]", "[05 14]", "[08]", "[05 02]", "[08]", "[05 00]", "[09]"]
    rest += ["[0A FF FF]", "[0D 01]", "FF F1", "FF F6", "[01 08]", "[01 00 00 4B 00]"]
    probes = [*NEGOTIATION, *SETTINGS, *BREAK, *INBOUND, *PURGES, *MASKS, *rest]
    number = ser2net(socat_ptys[0])
    real = await trio.to_thread.run_sync(say, number, probes, LAST)
    await compare("ser2net", real, probes, LAST)


@pytest.mark.peer("sredird", "socat")
async def test_emulated_sredird_answers_as_sredird(socat_ptys, tmp_path):
    """Without what a pty refuses (7 bits, parity), and the queries of DTR and RTS, which it has not."""
    rest = ["[01 00 00 30 39]", "[04 03]", "[04 09]", "[05 08]", "[05 0B]", "[05 09]", "[05 0C]", "[05 14]"]
    rest += ["[06 00]", "[07 00]", "[00 61]"]
    probes = [*NEGOTIATION, *SETTINGS, *BREAK, *INBOUND, *PURGES, *MASKS, *rest]
    ours, theirs = socket.socketpair()
    argv = [find_peer("sredird"), "7", str(socat_ptys[0]), str(tmp_path / "LCK")]
    process = subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=subprocess.DEVNULL)
    theirs.close()
    try:
        real = await trio.to_thread.run_sync(say, ours, probes, LAST)
    finally:
        process.kill()
        process.wait()
    await compare("sredird", real, probes, LAST)


@pytest.mark.peer("sredird", "socat")
async def test_emulated_sredird_lets_the_same_bytes_through(socat_ptys, tmp_path):
    """What is of another length than it thinks leaks, or eats data; seen at the other end of its tty."""
    stream = h(
        "FF FB 2C [0A 1E] 61 [0A FF FF] 62 [01 00 00 FF FF 00] 63 FF F1 64 65 FF F6 66 67 FF FF 68 [07 00] 69 6A 7A"
    )
    ours, theirs = socket.socketpair()
    argv = [find_peer("sredird"), "7", str(socat_ptys[0]), str(tmp_path / "LCK")]

    def real():
        with ours, open(socat_ptys[1], "rb", buffering=0) as far:
            ours.sendall(stream)
            got = b""
            while not got.endswith(b"z"):
                got += far.read(100)
            return got

    process = subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=subprocess.DEVNULL)
    theirs.close()
    try:
        with trio.fail_after(8):
            expected = await trio.to_thread.run_sync(real, abandon_on_cancel=True)
    finally:
        process.kill()
        process.wait()
    async with emulated("sredird", f"file:{tmp_path}/got") as number:
        async with await trio.open_tcp_stream("127.0.0.1", number) as client:
            await client.send_all(stream)
            await client.send_eof()
            with trio.fail_after(8):
                while await client.receive_some():
                    pass
    assert (tmp_path / "got").read_bytes() == expected


class PySerialServer:
    """pySerial's own PortManager over its loop://, as its example server has it; one client."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.number = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self.serve)

    def serve(self):
        with self.listener, serial.serial_for_url("loop://", timeout=0) as device:
            self.client, _ = self.listener.accept()
            manager = serial.rfc2217.PortManager(device, self)
            with self.client:
                while data := self.client.recv(1024):
                    device.write(b"".join(manager.filter(data)))

    def write(self, data):
        with contextlib.suppress(OSError):
            self.client.sendall(data)


async def test_emulated_pyserial_answers_as_pyserial():
    rest = ["[00]", "[00 61]", "[01 00 00 30 39]", "[02 07]", "[02 09]", "[02 08]", "[03 03]", "[03 01]", "[04 03]"]
    rest += ["[05 07]", "[05 08]", "[05 0A]", "[05 0B]", "[05 09]", "[05 0C]", "[05 14]", "[08]", "[05 02]", "[09]"]
    rest += ["[06 00]", "[0D 01]", "FF F1", "FF F6", "FF F3"]
    # DO COM-PORT and WILL ECHO are in it: it says nothing to them
    probes = [*NEGOTIATION, *SETTINGS, *BREAK, *INBOUND, *PURGES, *MASKS, *rest]
    server = PySerialServer()
    server.thread.start()
    real = await trio.to_thread.run_sync(say, server.number, probes, LAST)
    server.thread.join(5)
    await compare("pyserial", real, probes, LAST)
