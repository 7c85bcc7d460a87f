"""serpipe's client by other people's RFC 2217 servers.

The same requests to each: settings, lines, break, purge, signature, and a mebibyte with every byte and every pair FF xx out
and back. Each request has one answer, right or `Failed`; which of the two it is with a server, and what that server says
instead of what was asked, stands where the server is started. On a pty ser2net and gensio answer no DTR and no RTS, and
gensio never answers a purge.
"""

import contextlib
import os
import re
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import serial
import trio
from conftest import find_peer, running, wait_for_line
from peers import MEBIBYTE, PortManagerServer, echoing, read_some, transfer, wait_until, write_all

import serpipe
from serpipe import _termios2
from serpipe.events import (
    Drain,
    Drained,
    Failed,
    GetModem,
    GetSignature,
    LineReport,
    ModemReport,
    Opened,
    OutputReport,
    Purge,
    PurgeDone,
    SetBreak,
    SetLine,
    SetModem,
    Signature,
)


@dataclass
class Server:
    """One that stands, and what is known of it.

    `says` is what it answers instead of what was asked; `silent` are the kinds of request it never answers; `in_force` is
    what its port has, by name, where that can be seen.
    """

    port: int
    signature: bytes | None = None
    says: dict = field(default_factory=dict)
    silent: tuple = ()
    in_force: object = lambda name: None
    echoes: bool = True


def setting_of(device):
    """What a tty stands at, by the names of a SetLine."""
    return lambda name: getattr(_termios2.line_of(_termios2.get(device)), name)


NO_PTY_HAS = ("bytesize", "parity")


@contextlib.contextmanager
def ser2net_server(device, ser2net, tmp_path):
    found = setting_of(device)
    yield Server(
        ser2net(os.ttyname(device)),
        signature=b"ser2net",
        silent=("dtr", "rts"),
        in_force=lambda name: None if name in NO_PTY_HAS else found(name),
    )


@contextlib.contextmanager
def gensiot_server(device, ser2net, tmp_path):
    found = setting_of(device)
    connector, accepter = f"serialdev,{os.ttyname(device)},9600n81,local", "telnet(rfc2217),tcp,127.0.0.1,0"
    with running("gensiot", "-p", "--signature", "a box", "--server", "-a", "-i", connector, accepter) as process:
        said = wait_for_line(process, r"Address 0\(0\): ")
        yield Server(
            int(re.search(r"127\.0\.0\.1,(\d+)", said)[1]),
            signature=b"a box",
            silent=("dtr", "rts", "purge"),
            in_force=lambda name: None if name in NO_PTY_HAS else found(name),
        )


GENSIO_SERVER = """
import sys
import gensio

class Log:
    def gensio_log(self, level, text):
        print(level, text, file=sys.stderr)

class Handler:
    def __init__(self):
        self.state = dict(baud=9600, datasize=8, parity=1, stopbits=1, flowcontrol=1, iflowcontrol=1, sbreak=2, dtr=1, rts=1)
    def answer(self, sio, name, value):
        other = {("baud", 57600): 56000, ("baud", 19200): 4000000, ("datasize", 7): 8, ("parity", 3): 2}
        other["flowcontrol", 3] = 1
        if value:
            self.state[name] = other.get((name, value), value)
        getattr(sio.cast_to_sergensio(), "sg_" + name)(self.state[name], None)
    def signature(self, sio, *rest):
        sio.cast_to_sergensio().sg_signature("other values", None)
    def modemstate(self, sio, value):
        sio.cast_to_sergensio().sg_modemstate(0xB0)
    def linestate(self, sio, value):
        pass
    def flush(self, sio, value):
        pass
    def read_callback(self, io, error, data, auxdata):
        if error:
            io.close(None)
            return 0
        count = io.write(data, None)
        if count < len(data):
            io.read_cb_enable(False)
            io.write_cb_enable(True)
        return count
    def write_callback(self, io):
        io.write_cb_enable(False)
        io.read_cb_enable(True)

def answering(name):
    return lambda self, sio, value: self.answer(sio, name, value)

for name in Handler().state:
    setattr(Handler, name if name == "sbreak" else "s" + name, answering(name))
Handler.ssbreak = answering("sbreak")

class Accepter:
    def new_connection(self, accepter, io):
        self.io = io
        io.set_cbs(Handler())
        io.read_cb_enable(True)

system = gensio.alloc_gensio_selector(Log())
accepter = gensio.gensio_accepter(system, "telnet(rfc2217),tcp,127.0.0.1,0", Accepter())
accepter.startup()
port = accepter.control(gensio.GENSIO_CONTROL_DEPTH_FIRST, True, gensio.GENSIO_ACC_CONTROL_LPORT, "0")
print("port", port, flush=True)
gensio.waiter(system).wait(1)
"""


@contextlib.contextmanager
def python_gensio_server(device, ser2net, tmp_path):
    """Over no device at all: it answers with values of its own, and echoes."""
    (tmp_path / "server.py").write_text(GENSIO_SERVER)
    with running("python3-gensio", str(tmp_path / "server.py")) as process:
        said = wait_for_line(process, "port ")
        yield Server(
            int(re.search(r"port (\d+)", said)[1]),
            signature=b"other values",
            silent=("purge",),
            says={
                ("baud", 57600): 56000,
                ("baud", 19200): 4000000,
                ("bytesize", 7): 8,
                ("parity", "even"): "odd",
                ("flow", "rtscts"): "none",
            },
        )


@contextlib.contextmanager
def pyserial_server(device, ser2net, tmp_path):
    names = {"baud": "baudrate"}
    with PortManagerServer() as server:

        def in_force(name):
            if name == "parity":
                return next(word for word in ("none", "odd", "even") if word[0].upper() == server.device.parity)
            if name == "flow":
                # it sets XON/XOFF without ending RTS/CTS, and says what came last
                return "xonxoff" if server.device.xonxoff else "rtscts" if server.device.rtscts else "none"
            return getattr(server.device, names.get(name, name))

        yield Server(server.port, in_force=in_force)


@contextlib.contextmanager
def sredird_server(device, ser2net, tmp_path):
    """It says what a tty has: a pty has 8 bits and no parity; 250000 is no rate to it, and it takes 9600 then."""
    script, number = tmp_path / "run", tmp_path / "pid"
    script.write_text(
        f"#!/bin/sh\necho $$ >{number}\nexec {find_peer('sredird')} 7 {os.ttyname(device)} {tmp_path}/LCK\n"
    )
    script.chmod(0o755)
    with running("socat", "-d", "-d", "TCP-LISTEN:0,bind=127.0.0.1,reuseaddr", f"EXEC:{script}") as process:
        said = wait_for_line(process, "listening on")
        try:
            yield Server(
                int(re.search(r"127\.0\.0\.1:(\d+)", said)[1]),
                signature=b"SRedird 2",
                says={("baud", 250000): 9600, ("bytesize", 7): 8, ("parity", "even"): "none"},
                in_force=setting_of(device),
                echoes=False,
            )
        finally:  # it does not always end with its connection
            with contextlib.suppress(OSError):
                pid = int(number.read_text())
                if "sredird" in Path(f"/proc/{pid}/comm").read_text():
                    os.kill(pid, signal.SIGKILL)


SERVERS = {
    "ser2net": pytest.param(ser2net_server, marks=pytest.mark.peer("ser2net")),
    "gensiot": pytest.param(gensiot_server, marks=pytest.mark.peer("gensiot")),
    "python3-gensio": pytest.param(python_gensio_server, marks=pytest.mark.peer("python3-gensio")),
    "pyserial": pyserial_server,
    "sredird": pytest.param(sredird_server, marks=pytest.mark.peer("sredird", "socat")),
}


@pytest.fixture(params=SERVERS.values(), ids=SERVERS.keys())
def server(request, pty_pair, ser2net, tmp_path):
    """Each server over the slave of a pty whose master echoes, unless its own device does."""
    master, slave = pty_pair
    with echoing(master) if request.param is not sredird_server else contextlib.nullcontext():
        with request.param(slave, ser2net, tmp_path) as found:
            found.master = master
            yield found


async def ask(port, request):
    """Its one answer."""
    with trio.fail_after(10):
        answer = await port.ask(request)
    assert answer.answers == request.ref
    return answer


async def test_it_opens_in_the_time_the_server_takes(server):
    began = time.monotonic()
    async with serpipe.open_endpoint(f"rfc2217://127.0.0.1:{server.port}") as port:
        assert time.monotonic() - began < 1.0
        first = [await port.receive() for _ in range(4)]
        assert [type(event) for event in first] == [Opened, LineReport, OutputReport, ModemReport]
        assert first[1].values.bytesize == 8
        assert first[1].values.baud is not None


async def test_settings(server):
    """What is in force is what was reported, and a server that says something else is believed."""
    wanted = [("baud", 57600), ("baud", 250000), ("baud", 19200), ("bytesize", 7), ("bytesize", 8), ("parity", "even")]
    wanted += [("parity", "none"), ("stopbits", 2), ("stopbits", 1), ("flow", "rtscts"), ("flow", "xonxoff")]
    wanted += [("flow", "none")]
    async with serpipe.open_endpoint(f"rfc2217://127.0.0.1:{server.port}") as port:
        for name, value in wanted:
            report = await ask(port, SetLine(**{name: value}))
            assert isinstance(report, LineReport), report
            told = getattr(report.values, name)
            assert told == server.says.get((name, value), value)
            there = server.in_force(name)
            assert there in (None, told), name
        together = await ask(port, SetLine(baud=38400, stopbits=2, flow="xonxoff"))
        assert isinstance(together, LineReport)
        assert (together.values.baud, together.values.stopbits, together.values.flow) == (38400, 2, "xonxoff")
        assert (await ask(port, SetLine())).values == together.values


async def test_lines_break_purge_signature(server):
    """A request that the server never answers is `Failed` when its time is over, and holds up nothing behind it."""
    async with serpipe.open_endpoint(f"rfc2217://127.0.0.1:{server.port},timeout=0.5") as port:
        for name in ("dtr", "rts"):
            for value in (False, True):
                answer = await ask(port, SetModem(**{name: value}))
                if name in server.silent:
                    assert isinstance(answer, Failed)
                    assert answer.why == "timeout"
                else:
                    assert isinstance(answer, OutputReport)
                    assert getattr(answer, name) is value
        assert isinstance(await ask(port, SetModem()), OutputReport)
        for on in (True, False):
            answer = await ask(port, SetBreak(on=on))
            assert isinstance(answer, OutputReport)
            assert answer.break_ is on
        assert isinstance(await ask(port, GetModem()), ModemReport)
        for request in (Purge(rx=True), Purge(tx=True), Purge(rx=True, tx=True)):
            answer = await ask(port, request)
            if "purge" in server.silent:
                assert (type(answer), answer.why) == (Failed, "timeout")
            else:
                assert answer == PurgeDone(answers=request.ref, rx=request.rx, tx=request.tx)
        answer = await ask(port, GetSignature())
        if server.signature is None:
            assert (type(answer), answer.why) == (Failed, "unsupported")
        else:
            assert isinstance(answer, Signature)
            assert answer.text.startswith(server.signature)
        assert isinstance(await ask(port, Drain()), Drained)
        assert isinstance(await ask(port, SetLine()), LineReport)


async def received(port, count):
    got = bytearray()
    while len(got) < count:
        event = await port.receive()
        if type(event) is bytes:
            got += event
    return bytes(got)


async def test_a_mebibyte_with_every_byte_and_every_pair(server):
    """Out and back at once, but with sredird: of what a device sends faster than it passes it on it drops most, whoever the
    client is, so its device sends block by block."""
    async with serpipe.open_endpoint(f"rfc2217://127.0.0.1:{server.port},baud=230400") as port:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(port.send, MEBIBYTE)
                if server.echoes:
                    assert await received(port, len(MEBIBYTE)) == MEBIBYTE
                    return
                read = read_some(server.master)
                got = bytearray()
                while len(got) < len(MEBIBYTE):
                    piece = await trio.to_thread.run_sync(read, 65536)
                    assert piece
                    got += piece
                assert bytes(got) == MEBIBYTE
            for at in range(0, 4096, 128):
                write_all(server.master)(MEBIBYTE[at : at + 128])
                assert await received(port, 128) == MEBIBYTE[at : at + 128]


# --- the whole way: a program on our pty, the command line between, a server of somebody else's at the far end -----------


def far_end_is(server, **wanted):
    """Wait until the far port stands so."""

    def found():
        return {name: server.in_force(name) for name in wanted}

    wait_until(lambda: found() == wanted, lambda: f"wanted {wanted}, the far port has {found()}")


@pytest.mark.parametrize(
    "server", [SERVERS["gensiot"], SERVERS["pyserial"]], ids=["gensiot", "pyserial"], indirect=True
)
def test_pyserial_on_our_pty(server, serpipe_process, tmp_path):
    """`serpipe pty:LINK rfc2217://...`: what a program sets on the pty is set at the far port."""
    link = tmp_path / "tty"
    serpipe_process(f"pty:{link}", f"rfc2217://127.0.0.1:{server.port}")
    with serial.Serial(str(link), 57600, timeout=30) as program:
        far_end_is(server, baud=57600)
        program.baudrate = 250000
        far_end_is(server, baud=250000)
        program.stopbits = 2
        far_end_is(server, stopbits=2)
        program.rtscts = True
        far_end_is(server, flow="rtscts")
        program.rtscts = False
        program.stopbits = 1
        program.baudrate = 230400
        far_end_is(server, baud=230400, flow="none", stopbits=1)
        assert transfer(program.write, program.read, MEBIBYTE) == MEBIBYTE
