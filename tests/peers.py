"""What the tests with other people's programs share: data that hurts Telnet, a device that echoes, and a transfer.

Theory of operation: a serial device that sends back what it gets is one thread over the master of a pty. It waits for the
pty and for a pipe, and the pipe is how it is told to end; what the program at the other end does not read yet is kept, so
that the device never blocks and always can be stopped.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import serial
import serial.rfc2217

EVERY_PAIR = bytes(range(256)) + b"".join(bytes((255, byte)) for byte in range(256)) + b"\r\n\r\0\n\r\0"
"""Every byte, IAC before every byte, and the ends of line that Telnet rewrites."""
MEBIBYTE = EVERY_PAIR * (1 + (1 << 20) // len(EVERY_PAIR))


@contextlib.contextmanager
def echoing(master: int) -> Iterator[None]:
    """A device on the master side of a pty that sends back what it gets, for as long as the block. Needs a slave that
    stays open somewhere."""
    told, tell = os.pipe()
    os.set_blocking(master, False)
    kept = bytearray()

    def echo() -> None:
        while True:
            reading = [told, master] if len(kept) < 65536 else [told]
            readable, writable, _ = select.select(reading, [master] if kept else [], [])
            if told in readable:
                return
            if master in readable:
                kept.extend(os.read(master, 65536))
            if master in writable:
                with contextlib.suppress(BlockingIOError):
                    del kept[: os.write(master, kept)]

    thread = threading.Thread(target=echo)
    thread.start()
    try:
        yield
    finally:
        os.close(tell)
        thread.join()
        os.close(told)


def transfer(write: Callable[[bytes], object], read: Callable[[int], bytes], data: bytes) -> bytes:
    """What `read(at_most)` gives while a thread writes `data`: as much, or what there is where it gives b""."""

    def feed() -> None:
        for at in range(0, len(data), 65536):
            write(data[at : at + 65536])

    writer = threading.Thread(target=feed, daemon=True)
    writer.start()
    got = bytearray()
    while len(got) < len(data):
        piece = read(min(65536, len(data) - len(got)))
        if not piece:
            break
        got += piece
    writer.join(60)
    return bytes(got)


def write_all(fd: int) -> Callable[[bytes], None]:
    """`write(data)` for a blocking descriptor."""

    def write(data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(fd, rest) :]

    return write


def read_some(fd: int, seconds: float = 20) -> Callable[[int], bytes]:
    """`read(at_most)` for a descriptor; b"" where nothing came for so long."""

    def read(at_most: int) -> bytes:
        ready, _, _ = select.select([fd], [], [], seconds)
        return os.read(fd, at_most) if ready else b""

    return read


def read_until(fd: int, wanted: bytes, seconds: float = 20) -> bytes:
    """All that comes up to `wanted` and in the same piece. Fails the test where it does not come."""
    read = read_some(fd, seconds)
    said = b""
    while wanted not in said:
        piece = read(65536)
        if not piece:
            pytest.fail(f"{wanted!r} never came:\n{said[-2000:]!r}")
        said += piece
    return said


def wait_until(condition: Callable[[], bool], what: Callable[[], str], seconds: float = 10) -> None:
    """Poll what has no event: a tty that another process sets, a log that another process writes."""
    pause = threading.Event()
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(what())
        pause.wait(0.005)


class PortManagerServer:
    """The server of pySerial's examples over its `loop://`, in threads, for one client.

    `device` is the built-in port: what was set is seen there; RTS is joined to CTS and DTR to DSR.
    """

    def __init__(self) -> None:
        self.device = serial.serial_for_url("loop://", timeout=0.05)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._serve)]
        self._lock = threading.Lock()
        self._open = True

    def __enter__(self) -> PortManagerServer:
        self._threads[0].start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._open = False
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)
        self.device.close()

    def _serve(self) -> None:
        try:
            self._client, _ = self._listener.accept()
        except OSError:
            return
        with self._client, contextlib.suppress(OSError):
            self._client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.device.dtr = self.device.rts = True
            self._manager = serial.rfc2217.PortManager(self.device, self)
            self._threads.append(threading.Thread(target=self._read))
            self._threads[1].start()
            while data := self._client.recv(1024):
                self.device.write(b"".join(self._manager.filter(data)))
            self._open = False
            self._threads[1].join(10)

    def write(self, data: bytes) -> None:
        """For the PortManager: towards the client."""
        with self._lock, contextlib.suppress(OSError):
            self._client.sendall(data)

    def _read(self) -> None:
        looked = time.monotonic()
        while self._open:
            data = self.device.read(self.device.in_waiting or 1)
            if data:
                self.write(b"".join(self._manager.escape(data)))
            if time.monotonic() - looked > 0.2:
                self._manager.check_modem_lines()
                looked = time.monotonic()
