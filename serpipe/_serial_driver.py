"""The few calls that a serial port is driven by: over our own termios2 on Linux, over pySerial elsewhere.

Theory of operation
-------------------
`Driver` is the whole of what the endpoint `serial:` knows of the system below it: bytes in and out without waiting,
two waits, and plain blocking calls for all else. Where `quick` is set the calls return in microseconds and may be
made in the event loop (a pty); else the endpoint makes them in a worker thread, except for `read`, `write`, `line`,
`unsent` and `counters`, which never leave the kernel. A driver keeps no state but what it found at its opening, so
the endpoint's rules can be tested on a recording one.

`TtyDriver` is Linux's. It opens the device itself, because pySerial rewrites the settings from its own idea of them
and cannot leave a port as it is. `prepare` makes the tty raw and turns PARMRK on, so that breaks and bad characters
come in their place in the stream (protocol/parmrk.py); a pty has neither and is left without. XON/XOFF is kept as
found, with one exception: output flow control alone, on a tty still in canonical mode, is the kernel's default for a
terminal with a person at it, nobody has asked for it on this line, and a binary stream would lose every byte 13 and
11 (hex) to it.

`PySerialDriver` stands on other systems (macOS, the BSDs). A thread reads and a thread writes. pySerial sets 9600 8N1
when it opens, whatever was there, and marks no breaks. It is tested on Linux, on a pty, and was never run on another
system.
"""

from __future__ import annotations

import errno
import os
import queue
import select
import sys
import termios
import threading
from dataclasses import replace
from typing import Any, ClassVar, Protocol

import trio

from serpipe import _serial_find as find
from serpipe import _termios2 as termios2
from serpipe._serial_lock import Busy, PortLock, busy
from serpipe._termios2 import Counters
from serpipe.errors import describe_os_error
from serpipe.events import Line

READ_SIZE = 65536
DTR, RTS = termios.TIOCM_DTR, termios.TIOCM_RTS
CTS, DSR, RI, DCD = termios.TIOCM_CTS, termios.TIOCM_DSR, termios.TIOCM_RI, termios.TIOCM_CD
NO_LINES = (errno.ENOTTY, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
"""What a driver says to a request for lines or counters that it has not."""


class Driver(Protocol):
    """What the endpoint needs of a port. Every call may raise OSError."""

    path: str
    pty: bool
    """A pty: no modem lines, no break, no baud clock, and always 8 bits without parity."""
    quick: bool
    """No call ever waits: all may be made in the event loop."""
    hides_fifo: bool
    """Bytes may still stand in the device when `drain` returns: a USB adapter."""

    def prepare(self, hupcl: bool | None) -> bool:
        """Make it raw. Whether bytes come marked by PARMRK from now on. `hupcl` None leaves it."""

    def restore(self) -> bool:
        """Put the settings back as they were found (but HUPCL, where `prepare` set it: it acts at the close).

        Whether the last close will drop DTR and RTS (HUPCL).
        """

    def close(self) -> None:
        """Give back the locks and the device. May wait in the kernel for unsent bytes."""

    def read(self) -> bytes | None:
        """What is there, None where nothing is, b"" where the device says that it ended."""

    def write(self, data: memoryview) -> int:
        """How many of these bytes it takes now; may be 0."""

    async def wait_readable(self) -> None:
        """Until `read` may have something."""

    async def wait_writable(self) -> None:
        """Until `write` may take something."""

    def gone(self) -> str:
        """Why the device is gone; "" where it is not."""

    def line(self) -> Line:
        """The settings in force, by the driver's word."""

    def set_line(self, line: Line) -> None:
        """Change the settings that are not None. Refused ones raise, or are left as they were: read `line()`."""

    def modem(self) -> int:
        """The lines, as TIOCM_ bits. ENOTTY or EINVAL where there are none."""

    def set_modem(self, on: int, off: int) -> None:
        """Raise and drop DTR and RTS, together."""

    def set_break(self, on: bool) -> None:
        """Start or end a break."""

    def counters(self) -> Counters | None:
        """What the driver has counted; None where it does not."""

    def flush(self, *, rx: bool, tx: bool) -> None:
        """Drop what was received, what is unsent."""

    def unsent(self) -> int:
        """Bytes that have not reached the transmitter."""

    def drain(self) -> None:
        """Wait until the transmitter is empty."""


class TtyDriver:
    """A Linux tty, by our own termios2."""

    quick: bool
    hides_fifo: bool

    def __init__(self, fd: int, path: str, lock: PortLock | None = None) -> None:
        self.fd = fd
        self.path = path
        self.pty = self.quick = termios2.is_pty(fd)
        info = None if self.pty else find.port_of(path)
        self.hides_fifo = info is not None and info.vid is not None
        self._lock = lock
        self._counts = not self.pty
        self._found = self._left = termios2.get(fd)

    @classmethod
    def open(cls, path: str, *, exclusive: bool) -> TtyDriver:
        """Open the device and lock it. Raises OSError (ENOTTY where it is no tty), Busy. Changes no setting.

        The kernel raises DTR and RTS where they were down (or leaves them, after a close with -hupcl).
        """
        try:
            fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise busy(path) from error
            raise
        lock = None
        try:
            termios2.get(fd)  # ENOTTY where it is no tty, EIO where no UART stands behind the number
            if exclusive:
                lock = PortLock.take(fd, path)
            driver = cls(fd, path, lock)
            if lock is not None and driver._has_lines():
                lock.exclude()
            return driver
        except BaseException:
            if lock is not None:
                lock.release()
            os.close(fd)
            raise

    def _has_lines(self) -> bool:
        try:
            self.modem()
        except OSError:
            return False
        return not self.pty

    def prepare(self, hupcl: bool | None) -> bool:
        t = self._found
        raw = termios2.raw(t)
        if t.lflag & termios.ICANON and not t.iflag & termios.IXOFF:
            raw = replace(raw, iflag=raw.iflag & ~termios.IXON)
        if not self.pty:
            raw = replace(raw, iflag=raw.iflag | termios.PARMRK | termios.INPCK)
        if hupcl is not None:
            cflag = termios.HUPCL if hupcl else 0
            raw = replace(raw, cflag=raw.cflag & ~termios.HUPCL | cflag)
            self._left = replace(t, cflag=t.cflag & ~termios.HUPCL | cflag)
        termios2.put(self.fd, raw)
        return not self.pty

    def restore(self) -> bool:
        if termios2.get(self.fd) != self._left:
            termios2.put(self.fd, self._left)
        return bool(self._left.cflag & termios.HUPCL)

    def close(self) -> None:
        if self.fd < 0:
            return
        if self._lock is not None:
            self._lock.release()
        fd, self.fd = self.fd, -1
        os.close(fd)

    def read(self) -> bytes | None:
        try:
            return os.read(self.fd, READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return None

    def write(self, data: memoryview) -> int:
        try:
            return os.write(self.fd, data)
        except (BlockingIOError, InterruptedError):
            return 0

    async def wait_readable(self) -> None:
        await trio.lowlevel.wait_readable(self.fd)

    async def wait_writable(self) -> None:
        await trio.lowlevel.wait_writable(self.fd)

    def gone(self) -> str:
        """The tty has been hung up; a read of b"" alone says nothing, where somebody has set VMIN to 0."""
        poll = select.poll()
        poll.register(self.fd, 0)
        hung_up = any(flags & (select.POLLHUP | select.POLLERR | select.POLLNVAL) for _, flags in poll.poll(0))
        if not hung_up:
            return ""
        if self.pty:
            return "the other end of this pty was closed"
        return "hung up" if os.path.exists(self.path) else "unplugged"

    def line(self) -> Line:
        return termios2.line_of(termios2.get(self.fd))

    def set_line(self, line: Line) -> None:
        termios2.put(self.fd, termios2.with_line(termios2.get(self.fd), line))

    def modem(self) -> int:
        return termios2.get_modem(self.fd)

    def set_modem(self, on: int, off: int) -> None:
        termios2.put_modem(self.fd, on, off)

    def set_break(self, on: bool) -> None:
        termios2.set_break(self.fd, on)

    def counters(self) -> Counters | None:
        if self._counts:
            try:
                return termios2.counters(self.fd)
            except OSError as error:
                if error.errno not in NO_LINES:
                    raise
                self._counts = False
        return None

    def flush(self, *, rx: bool, tx: bool) -> None:
        termios2.flush(self.fd, rx=rx, tx=tx)

    def unsent(self) -> int:
        return termios2.unsent(self.fd)

    def drain(self) -> None:
        termios2.drain(self.fd)


class PySerialDriver:
    """Any port that pySerial opens, with a thread for each direction."""

    pty = False
    quick = False
    hides_fifo = True
    CHUNKS: ClassVar[int] = 64
    """Reads received and not yet taken, at which the thread stops reading."""
    TX_SIZE: ClassVar[int] = 4096
    """Bytes of one write."""

    def __init__(self, port: Any, path: str, token: trio.lowlevel.TrioToken) -> None:
        self.path = path
        self._port = port
        self._token = token
        self._received: queue.Queue[bytes] = queue.Queue(self.CHUNKS)
        self._readable = trio.Event()
        self._writing: queue.Queue[bytes | None] = queue.Queue()
        self._unsent = 0
        self._writable = trio.Event()
        self._error: OSError | None = None
        self._open = True
        self._found = dict(port.get_settings())
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._read_on, self._write_on)]
        for thread in self._threads:
            thread.start()

    @classmethod
    def open(cls, path: str, *, exclusive: bool, token: trio.lowlevel.TrioToken) -> PySerialDriver:
        """Open the port; `token` is the loop's that the two waits are made in. Raises OSError, Busy."""
        import serial

        try:
            port = serial.Serial(path, timeout=0.1, exclusive=exclusive or None)
        except serial.SerialException as error:
            if "exclusively lock" in str(error):
                raise Busy([]) from error
            raise OSError(error.errno or errno.EIO, str(error)) from error
        return cls(port, path, token)

    def _tell(self, event: trio.Event) -> None:
        try:
            self._token.run_sync_soon(event.set)
        except trio.RunFinishedError:
            pass

    def _fail(self, error: Exception) -> None:
        if self._open:
            self._error = error if isinstance(error, OSError) and error.errno else OSError(errno.EIO, str(error))
        self._tell(self._readable)
        self._tell(self._writable)

    def _keep(self, data: bytes) -> None:
        while self._open:
            try:
                self._received.put(data, timeout=0.1)
            except queue.Full:
                continue
            self._tell(self._readable)
            return

    def _read_on(self) -> None:
        try:
            while self._open:
                data = self._port.read(max(1, min(self._port.in_waiting, READ_SIZE)))
                if data:
                    self._keep(data)
        except Exception as error:
            self._fail(error)

    def _write_on(self) -> None:
        try:
            while (data := self._writing.get()) is not None:
                self._port.write(data)
                self._port.flush()
                self._unsent = 0
                self._tell(self._writable)
        except Exception as error:
            self._fail(error)

    def prepare(self, hupcl: bool | None) -> bool:
        return False

    def restore(self) -> bool:
        self._port.apply_settings(self._found)
        return True

    def close(self) -> None:
        self._open = False
        self._writing.put(None)
        for cancel in ("cancel_read", "cancel_write"):
            if hasattr(self._port, cancel):
                getattr(self._port, cancel)()
        for thread in self._threads:
            thread.join(1)
        self._port.close()

    def read(self) -> bytes | None:
        try:
            return self._received.get_nowait()
        except queue.Empty:
            if self._error is not None:
                raise self._error from None
            return None

    def write(self, data: memoryview) -> int:
        if self._error is not None:
            raise self._error
        if self._unsent:
            return 0
        piece = bytes(data[: self.TX_SIZE])
        self._unsent = len(piece)
        self._writing.put(piece)
        return len(piece)

    async def wait_readable(self) -> None:
        while self._received.empty() and self._error is None:
            self._readable = trio.Event()
            if self._received.empty() and self._error is None:
                await self._readable.wait()

    async def wait_writable(self) -> None:
        while self._unsent and self._error is None:
            self._writable = trio.Event()
            if self._unsent and self._error is None:
                await self._writable.wait()

    def gone(self) -> str:
        return describe_os_error(self._error)[0] if self._error is not None else ""

    def line(self) -> Line:
        port = self._port
        parity = {"N": "none", "O": "odd", "E": "even", "M": "mark", "S": "space"}[port.parity]
        flow = "rtscts" if port.rtscts else "xonxoff" if port.xonxoff else "dsrdtr" if port.dsrdtr else "none"
        return Line(port.baudrate, port.bytesize, parity, float(port.stopbits), flow, flow)  # type: ignore[arg-type]

    def set_line(self, line: Line) -> None:
        wanted: dict[str, Any] = {"baudrate": line.baud, "bytesize": line.bytesize, "stopbits": line.stopbits}
        if line.parity is not None:
            wanted["parity"] = line.parity[0].upper()
        if line.flow is not None:
            wanted |= {"rtscts": line.flow == "rtscts", "xonxoff": line.flow == "xonxoff"}
        before = self._port.get_settings()
        try:
            self._port.apply_settings({key: value for key, value in wanted.items() if value is not None})
        except (ValueError, OSError) as error:
            self._port.apply_settings(before)
            raise OSError(errno.EINVAL, str(error)) from error

    def modem(self) -> int:
        port = self._port
        lines = ((CTS, port.cts), (DSR, port.dsr), (RI, port.ri), (DCD, port.cd), (DTR, port.dtr), (RTS, port.rts))
        return sum(bit for bit, on in lines if on)

    def set_modem(self, on: int, off: int) -> None:
        for name, bit in (("dtr", DTR), ("rts", RTS)):
            if (on | off) & bit:
                setattr(self._port, name, bool(on & bit))

    def set_break(self, on: bool) -> None:
        self._port.break_condition = on

    def counters(self) -> Counters | None:
        return None

    def flush(self, *, rx: bool, tx: bool) -> None:
        if tx:
            self._port.reset_output_buffer()
        if rx:
            self._port.reset_input_buffer()
            while not self._received.empty():
                self._received.get_nowait()

    def unsent(self) -> int:
        return self._unsent

    def drain(self) -> None:
        self._port.flush()


def open_driver(path: str, *, exclusive: bool, token: trio.lowlevel.TrioToken) -> Driver:
    """Open a port, in a worker thread. Raises OSError, Busy."""
    if sys.platform == "linux":
        return TtyDriver.open(path, exclusive=exclusive)
    return PySerialDriver.open(path, exclusive=exclusive, token=token)
