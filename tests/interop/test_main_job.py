"""The main job with other people's programs at both ends: pySerial on a pty and as a client, ser2net on a slow tty."""

import os
import socket
import subprocess
import sys
import threading
import tty

import pytest
import serial

from serpipe import _termios2

SIZE = 4 << 20


def transfer(write, read, data):
    """What `read(n)` gives while `write(data)` runs in a thread of its own."""
    writer = threading.Thread(target=write, args=(data,), daemon=True)
    writer.start()
    got = bytearray()
    while len(got) < len(data):
        piece = read(min(65536, len(data) - len(got)))
        if not piece:
            break
        got += piece
    writer.join(60)
    return bytes(got)


def write_fd(fd):
    def write(data):
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(fd, rest) :]

    return write


def wait_until(condition, what):
    """Poll a foreign tty, which has no event for it, until `condition()`; its state is set by another process."""
    pause = threading.Event()
    for _ in range(1000):
        if condition():
            return
        pause.wait(0.01)
    pytest.fail(f"never {what}")


@pytest.mark.peer("socat", "ser2net")
@pytest.mark.parametrize("stages", [[], ["hexdump:{tmp}/dump", "pace", "checksum"]], ids=["nothing", "stages"])
def test_pyserial_on_our_pty_drives_the_far_port(stages, socat_ptys, ser2net, serpipe_process, tmp_path):
    """Item by item what it sets is set on ser2net's tty, 250000 baud included, and 4 MiB go each way unchanged."""
    far, device = socat_ptys
    link = tmp_path / "tty"
    stages = [stage.format(tmp=tmp_path) for stage in stages]
    serpipe_process(f"pty:{link}", *stages, f"rfc2217://127.0.0.1:{ser2net(far)}")
    watch, wire = (os.open(path, os.O_RDWR | os.O_NOCTTY) for path in (far, device))
    try:
        tty.setraw(wire)

        def far_is(**wanted):
            def there():
                line = _termios2.line_of(_termios2.get(watch))
                return all(getattr(line, name) == value for name, value in wanted.items())

            wait_until(there, f"{wanted}: {_termios2.line_of(_termios2.get(watch))}")

        with serial.Serial(str(link), 57600, timeout=20) as program:
            far_is(baud=57600)
            program.baudrate = 250000
            far_is(baud=250000)
            program.stopbits = 2
            far_is(stopbits=2)
            program.rtscts = True
            far_is(flow="rtscts")
            program.rtscts = False
            program.xonxoff = True
            far_is(flow="xonxoff")
            program.xonxoff = False
            program.stopbits = 1
            program.baudrate = 4000000 if not stages else 3000000  # so that a pace that follows the port is soon done
            far_is(baud=program.baudrate, stopbits=1, flow="none")
            data = os.urandom(SIZE if not stages else SIZE // 4)
            assert transfer(program.write, lambda n: os.read(wire, n), data) == data
            assert transfer(write_fd(wire), program.read, data) == data
    finally:
        os.close(watch)
        os.close(wire)


CLIENT = """
import os, sys, threading
import serial
url, path = sys.argv[1:3]
port = serial.serial_for_url(url, baudrate=9600, timeout=20)
for rate in (300, 19200, 115200, 250000, 1000000, 9600):
    port.baudrate = rate
for bits in (7, 6, 5, 8):
    port.bytesize = bits
for parity in "OEMSN":
    port.parity = parity
for stop in (2, 1):
    port.stopbits = stop
port.rtscts = True
port.rtscts = False
port.xonxoff = True
port.xonxoff = False
for on in (False, True):
    port.dtr = on
    port.rts = on
assert (port.cts, port.dsr, port.cd, port.ri) == (True, True, True, False), (port.cts, port.dsr, port.cd, port.ri)
port.send_break(0.05)
port.break_condition = True
port.break_condition = False
port.reset_input_buffer()
port.reset_output_buffer()
port.timeout = 90
port.baudrate = 4000000
print("set", flush=True)
data = open(path, "rb").read()
out = threading.Thread(target=lambda: [port.write(data[i:i + 65536]) for i in range(0, len(data), 65536)])
out.start()
got = port.read(len(data))
out.join()
print("same" if got == data else f"differs: {len(got)} of {len(data)}", flush=True)
port.close()
"""


def test_pyserial_as_a_client_without_ign_set_control(pty_pair, serpipe_process, tmp_path):
    """`rfc2217-listen: serial:PTY`: it opens, sets every property, reads the lines, breaks, purges, and echoes 4 MiB."""
    master, slave = pty_pair
    os.set_blocking(master, True)
    before = _termios2.get(slave)
    data = os.urandom(SIZE)
    (tmp_path / "data").write_bytes(data)
    serpipe = serpipe_process("rfc2217-listen:0", f"serial:{os.ttyname(slave)}")

    def echo():
        try:
            while piece := os.read(master, 65536):
                write_fd(master)(piece)
        except OSError:
            pass

    threading.Thread(target=echo, daemon=True).start()
    client = subprocess.run(
        [sys.executable, "-c", CLIENT, f"rfc2217://{serpipe.left}", str(tmp_path / "data")],
        capture_output=True,
        timeout=110,
    )
    assert client.stdout.split() == [b"set", b"same"], client.stderr.decode() + serpipe.said
    assert serpipe.end() == -15
    assert _termios2.get(slave) == before, "the port was not put back"


@pytest.mark.peer("socat", "ser2net")
def test_the_last_60000_bytes_through_ser2net_on_a_slow_tty(socat_ptys, ser2net):
    """ser2net drops what it holds when its client closes: the client must know how long the line takes."""
    far, device = socat_ptys
    port = ser2net(far, "115200n81,local")
    data = os.urandom(60000)
    wire = os.open(device, os.O_RDWR | os.O_NOCTTY)
    tty.setraw(wire)
    got = bytearray()
    done = threading.Event()

    def slow_reader():
        pause = threading.Event()
        while len(got) < len(data):
            got.extend(os.read(wire, 1152))
            pause.wait(0.1)  # 115200 baud
        done.set()

    threading.Thread(target=slow_reader, daemon=True).start()
    sent = subprocess.run(
        [sys.executable, "-m", "serpipe", "-", f"rfc2217://127.0.0.1:{port}"],
        input=data,
        capture_output=True,
        timeout=110,
    )
    assert sent.returncode == 0, sent.stderr
    assert done.wait(20)
    os.close(wire)
    assert bytes(got) == data


def test_a_reader_that_reads_only_after_the_peer_has_ended(tmp_path):
    """3000 bytes, then the peer's Eof, and only then does the program on the pty read: it gets them all."""
    link = tmp_path / "tty"
    data = os.urandom(3000)
    process = subprocess.Popen(
        [sys.executable, "-m", "serpipe", f"pty:{link}", "tcp-listen:0,once", "--ready-fd", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    port = int(process.stdout.readline().split()[2].rpartition(b":")[2])
    program = os.open(link, os.O_RDWR | os.O_NOCTTY)
    with socket.create_connection(("127.0.0.1", port)) as peer:
        peer.sendall(data)
        peer.shutdown(socket.SHUT_WR)
        assert peer.recv(1) == b""  # serpipe has seen the end, and is closing
    got = b""
    while len(got) < len(data):
        got += os.read(program, 65536)
    assert got == data
    assert process.wait(30) == 0
    os.close(program)
    process.communicate()
