"""A terminal's settings with any bit rate, its lines, break and queues: termios2 and the tty ioctls.

Theory of operation
-------------------
Python's `termios` knows only the rates that have a Bxxx constant. On Linux TCGETS2 and TCSETS2 carry the rate as a
number (BOTHER), and read it back as what the driver encoded (ioctl_tty(2), termios(3)). `Termios` is one such
structure; `get` and `put` move it; `line_of` and `with_line` translate between it and `Line`. On systems without
termios2 the same functions go through `termios` and its list of rates.

`with_line` changes only what the Line says, so that a port is otherwise left as it is. On a UART of the kernel's own
nothing here waits, but for `put(..., DRAIN)`, `drain` and, while the transmitter is busy, `set_break`: those are for worker
threads. Behind a USB adapter `put`, `get_modem`, `put_modem` and `flush` are messages on the bus too, a millisecond or
more each; `get`, `unsent`, `unread` and `counters` never leave the kernel.
"""

from __future__ import annotations

import array
import fcntl
import os
import platform
import struct
import sys
import termios
from dataclasses import dataclass, replace
from typing import NamedTuple

from serpipe.events import Flow, Line, Parity

_FORMAT = "4IB19s2I"
_SIZE = struct.calcsize(_FORMAT)
_TCGETS2, _TCSETS2 = 0x802C542A, 0x402C542B
HAS_TERMIOS2 = sys.platform == "linux" and not platform.machine().startswith(
    ("mips", "sparc", "alpha", "ppc", "parisc")
)

NOW, DRAIN, FLUSH = 0, 1, 2
"""When `put` acts: at once, after the output has drained, and dropping unread input too (TCSETS2, TCSETSW2, TCSETSF2)."""

_CBAUD, _BOTHER, _CIBAUD_SHIFT = 0o10017, 0o10000, 16
EXTPROC = 0o200000
_CMSPAR = 0o10000000000
_CRTSCTS = getattr(termios, "CRTSCTS", 0o20000000000)

TIOCSBRK, TIOCCBRK = getattr(termios, "TIOCSBRK", 0x5427), getattr(termios, "TIOCCBRK", 0x5428)
_RATES = {getattr(termios, name): int(name[1:]) for name in dir(termios) if name[0] == "B" and name[1:].isdigit()}
_CODES = {rate: code for code, rate in _RATES.items()}


@dataclass(frozen=True, slots=True)
class Termios:
    """One struct termios2. Speeds are plain numbers, bit/s; 0 is a hang-up, not a rate."""

    iflag: int
    oflag: int
    cflag: int
    lflag: int
    line: int
    cc: bytes
    ispeed: int
    ospeed: int


def get(fd: int) -> Termios:
    """The settings of the terminal at `fd`; on a pty's master, those of its slave. Raises OSError (ENOTTY)."""
    if HAS_TERMIOS2:
        buffer = bytearray(_SIZE)
        fcntl.ioctl(fd, _TCGETS2, buffer)
        return Termios(*struct.unpack(_FORMAT, buffer))
    try:
        iflag, oflag, cflag, lflag, ispeed, ospeed, cc = termios.tcgetattr(fd)
    except termios.error as error:
        raise OSError(*error.args) from None
    chars = bytes(c if isinstance(c, int) else c[0] for c in cc)
    return Termios(
        iflag, oflag, cflag, lflag, 0, chars, _RATES.get(ispeed or 0, ispeed or 0), _RATES.get(ospeed or 0, ospeed or 0)
    )


def put(fd: int, t: Termios, when: int = NOW) -> None:
    """Set the terminal at `fd`. Raises OSError (EINVAL where the driver refuses a value)."""
    if HAS_TERMIOS2:
        packed = struct.pack(_FORMAT, t.iflag, t.oflag, t.cflag, t.lflag, t.line, t.cc, t.ispeed, t.ospeed)
        fcntl.ioctl(fd, _TCSETS2 + when, packed)
        return
    speeds = [_CODES.get(t.ispeed, t.ispeed), _CODES.get(t.ospeed, t.ospeed)]
    try:
        termios.tcsetattr(fd, when, [t.iflag, t.oflag, t.cflag, t.lflag, *speeds, list(t.cc)])
    except termios.error as error:
        raise OSError(*error.args) from None


def raw(t: Termios) -> Termios:
    """The same, with no translation, echo, signals or line editing: bytes go through as they are (cfmakeraw(3)).

    Flow control, EXTPROC and what `Line` covers stay as they are.
    """
    keep = termios.IXON | termios.IXOFF | termios.IXANY
    cc = bytearray(t.cc)
    cc[termios.VMIN], cc[termios.VTIME] = 1, 0
    return replace(
        t,
        iflag=t.iflag & keep,
        oflag=t.oflag & ~termios.OPOST,
        cflag=t.cflag | termios.CREAD | termios.CLOCAL,
        lflag=t.lflag & EXTPROC if sys.platform == "linux" else 0,
        cc=bytes(cc),
    )


_SIZES = {5: termios.CS5, 6: termios.CS6, 7: termios.CS7, 8: termios.CS8}
_PARITIES: dict[Parity, int] = {
    "none": 0,
    "odd": termios.PARENB | termios.PARODD,
    "even": termios.PARENB,
    "mark": termios.PARENB | _CMSPAR | termios.PARODD,
    "space": termios.PARENB | _CMSPAR,
}


_FLOWS = ("none", "rtscts", "xonxoff")


def line_of(t: Termios) -> Line:
    """The serial line that these settings describe."""
    size = next(bits for bits, flag in _SIZES.items() if t.cflag & termios.CSIZE == flag)
    parity: Parity = "none"
    if t.cflag & termios.PARENB:
        mask = termios.PARENB | termios.PARODD | _CMSPAR
        parity = next(name for name, flags in _PARITIES.items() if flags == t.cflag & mask)
    two = bool(t.cflag & termios.CSTOPB)
    flow: Flow = "none"
    flow_in: Flow = "none"
    if t.cflag & _CRTSCTS:
        flow = flow_in = "rtscts"
    else:
        if t.iflag & termios.IXON:
            flow = "xonxoff"
        if t.iflag & termios.IXOFF:
            flow_in = "xonxoff"
    stopbits = (1.5 if size == 5 else 2.0) if two else 1.0
    return Line(t.ospeed or None, size, parity, stopbits, flow, flow_in)


def with_line(t: Termios, line: Line) -> Termios:
    """The settings changed to what `line` says; what it leaves None stays, and so does what a tty cannot do.

    That is: flow control by DSR, DTR or DCD, and inbound RTS apart from outbound CTS, since CRTSCTS is one bit for both
    and follows the outbound one. Where the line says `flow` alone, it goes for both directions.
    """
    iflag, cflag, ispeed, ospeed = t.iflag, t.cflag, t.ispeed, t.ospeed
    if line.baud is not None:
        ispeed = ospeed = line.baud
        if HAS_TERMIOS2:
            cflag = cflag & ~(_CBAUD | _CBAUD << _CIBAUD_SHIFT) | _CODES.get(line.baud, _BOTHER)
    if line.bytesize is not None:
        cflag = cflag & ~termios.CSIZE | _SIZES[line.bytesize]
    if line.parity is not None:
        cflag = cflag & ~(termios.PARENB | termios.PARODD | _CMSPAR) | _PARITIES[line.parity]
    if line.stopbits is not None:
        cflag = cflag & ~termios.CSTOPB | (termios.CSTOPB if line.stopbits > 1 else 0)
    if line.flow is not None or line.flow_in is not None:
        now = line_of(t)
        flow = line.flow if line.flow in _FLOWS else now.flow
        flow_in = line.flow_in if line.flow_in is not None else line.flow
        flow_in = flow_in if flow_in in _FLOWS else now.flow_in
        iflag &= ~(termios.IXON | termios.IXOFF)
        cflag &= ~_CRTSCTS
        if flow == "rtscts":
            cflag |= _CRTSCTS
        iflag |= (termios.IXON if flow == "xonxoff" else 0) | (termios.IXOFF if flow_in == "xonxoff" else 0)
    return replace(t, iflag=iflag, cflag=cflag, ispeed=ispeed, ospeed=ospeed)


def get_modem(fd: int) -> int:
    """The TIOCM_ bits. Raises OSError: ENOTTY or EINVAL where there are no lines (a pty)."""
    bits = array.array("i", [0])
    fcntl.ioctl(fd, termios.TIOCMGET, bits)
    return bits[0]


def put_modem(fd: int, on: int, off: int) -> None:
    """Raise and drop lines (TIOCM_DTR, TIOCM_RTS) together, by one TIOCMSET. Raises OSError."""
    bits = get_modem(fd)
    fcntl.ioctl(fd, termios.TIOCMSET, struct.pack("i", (bits | on) & ~off))


class Counters(NamedTuple):
    """What a driver has counted since it was loaded (struct serial_icounter_struct): edges, characters, errors.

    `ri` counts trailing edges only; `overrun` are lost in the UART, `buffer` in the kernel.
    """

    cts: int
    dsr: int
    ri: int
    dcd: int
    rx: int
    tx: int
    framing: int
    overrun: int
    parity: int
    breaks: int
    buffer: int


_TIOCGICOUNT = 0x545D


def counters(fd: int) -> Counters:
    """The driver's counters (TIOCGICOUNT). Raises OSError: ENOTTY or EINVAL where it keeps none."""
    counts = array.array("i", [0] * 20)
    fcntl.ioctl(fd, _TIOCGICOUNT, counts)
    return Counters(*counts[:11])


def set_exclusive(fd: int, on: bool) -> None:
    """Have every further open of this terminal refused with EBUSY, but for root's (TIOCEXCL, TIOCNXCL). Raises OSError."""
    fcntl.ioctl(fd, termios.TIOCEXCL if on else termios.TIOCNXCL)


def set_break(fd: int, on: bool) -> None:
    """Start or end a break (TIOCSBRK, TIOCCBRK). To start one waits in the kernel for the transmitter. Raises OSError."""
    fcntl.ioctl(fd, TIOCSBRK if on else TIOCCBRK)


def unsent(fd: int) -> int:
    """Bytes that the kernel has not given to the transmitter (TIOCOUTQ); a pty always says 0. Raises OSError."""
    count = array.array("i", [0])
    fcntl.ioctl(fd, termios.TIOCOUTQ, count)
    return count[0]


def unread(fd: int) -> int:
    """Bytes waiting to be read (FIONREAD). Raises OSError."""
    count = array.array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, count)
    return count[0]


def flush(fd: int, *, rx: bool, tx: bool) -> None:
    """Drop what is queued in the kernel, received or unsent (tcflush(3)). Raises OSError."""
    if rx or tx:
        try:
            termios.tcflush(fd, termios.TCIOFLUSH if rx and tx else termios.TCIFLUSH if rx else termios.TCOFLUSH)
        except termios.error as error:
            raise OSError(*error.args) from None


def drain(fd: int) -> None:
    """Wait until everything has been transmitted (tcdrain(3)): for a worker thread. Raises OSError."""
    try:
        termios.tcdrain(fd)
    except termios.error as error:
        raise OSError(*error.args) from None


def is_pty(fd: int) -> bool:
    """Whether the terminal at `fd` is a pty's slave: it has no modem lines, baud clock or break."""
    if sys.platform == "linux":
        return os.major(os.fstat(fd).st_rdev) in range(136, 144)
    return os.ttyname(fd).startswith(("/dev/ttys", "/dev/pts/"))
