"""Everything that can go wrong, by whose fault it is and what the process exits with.

    SerpipeError                         exit
      UsageError                          2    a word of the command line cannot be understood
      EndpointError                       3    an endpoint could not be opened, or was lost
        OpenFailed
        EndpointLost
      ProtocolError                       4    a peer broke the protocol, or refused what was required
        LocalProtocolError               70      (ours)
        RemoteProtocolError               4      (theirs)
      PeerRefused                         4    the peer speaks the protocol and refuses what was required
      TimedOut                            5
      CheckFailed                         1    the job ran, and its answer is bad

Theory of operation: errors of the operating system and of trio are mapped once, at the endpoint's edge, by
`describe_os_error`; above that edge only these classes are seen. Each carries the text a user reads: what was wrong, in
the user's own words, and what would be right. Only `cli.py` prints them.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from typing import ClassVar


class SerpipeError(Exception):
    """Base of all. `str()` is the one line a user reads; `cure`, where known, is what to do about it."""

    exit_code: ClassVar[int] = 70

    def __init__(self, text: str, cure: str = "") -> None:
        super().__init__(text)
        self.text = text
        self.cure = cure

    def __str__(self) -> str:
        return f"{self.text}; {self.cure}" if self.cure else self.text


class UsageError(SerpipeError):
    """A word cannot be understood. `word` is the word as typed and `span` the faulty part of it, for the caret."""

    exit_code = 2

    def __init__(self, text: str, *, word: str = "", span: tuple[int, int] | None = None, cure: str = "") -> None:
        super().__init__(text, cure)
        self.word = word
        self.span = span


class BadValue(ValueError):
    """A value does not fit its option; `str()` says what would. Raised by converters, turned into a UsageError.

    `key` names the option at fault where a spec finds it only when it sees all of them together.
    """

    def __init__(self, text: str, key: str = "") -> None:
        super().__init__(text)
        self.key = key


class EndpointError(SerpipeError):
    """Something happened to an endpoint; `endpoint` is the word that named it."""

    exit_code = 3

    def __init__(self, endpoint: str, text: str, cure: str = "") -> None:
        super().__init__(f"{endpoint}: {text}", cure)
        self.endpoint = endpoint


class OpenFailed(EndpointError):
    """It could not be opened."""


class EndpointLost(EndpointError):
    """It was open, and is gone: unplugged, reset by its peer, closed by its reader."""


class ProtocolError(SerpipeError):
    """A protocol was broken."""

    exit_code = 4


class LocalProtocolError(ProtocolError):
    """By us: a fault of serpipe."""

    exit_code = 70


class RemoteProtocolError(ProtocolError):
    """By the peer. `offset` counts the bytes received before the fault, `sample` are the bytes at it."""

    def __init__(self, text: str, *, offset: int = 0, sample: bytes = b"") -> None:
        super().__init__(f"{text} (at byte {offset}: {sample[:16].hex(' ')})" if sample else text)
        self.offset = offset
        self.sample = sample


class PeerRefused(EndpointError):
    """The peer answered, and refuses what was required."""

    exit_code = 4


class TimedOut(EndpointError):
    """The peer did not answer in time, or nothing moved for as long as `-T` allows."""

    exit_code = 5


class CheckFailed(SerpipeError):
    """The job ran and its answer is bad: a checksum that does not match."""

    exit_code = 1


_CURES = {
    errno.ENOENT: ("no such file or device", "check the path"),
    errno.EACCES: ("permission denied", "check its owner and mode"),
    errno.EPERM: ("operation not permitted", ""),
    errno.EBUSY: ("busy: another program has it", "close that program (fuser shows which)"),
    errno.ECONNREFUSED: ("connection refused", "nothing listens there: check the port, and that the server runs"),
    errno.ETIMEDOUT: ("no answer", "the host is down, or a firewall drops the packets"),
    errno.EHOSTUNREACH: ("no route to the host", "check the address and the network"),
    errno.ENETUNREACH: ("the network cannot be reached", "check the address and the network"),
    errno.EADDRINUSE: (
        "the address is in use",
        "another program listens there: choose another port, or 0 for a free one",
    ),
    errno.EADDRNOTAVAIL: (
        "the address is not one of this machine's",
        "use an address of this machine, or 0.0.0.0 for all",
    ),
    errno.ENOSPC: ("the disk is full", "free some room; what was written so far is kept"),
    errno.EDQUOT: ("the disk quota is used up", "free some room; what was written so far is kept"),
    errno.EFBIG: ("the file would be larger than allowed", "check ulimit -f"),
    errno.EISDIR: ("is a folder", "name a file in it"),
    errno.ENOTDIR: ("a part of the path is not a folder", "check the path"),
    errno.ENOTTY: ("is not a terminal device", "use file: for a file"),
    errno.EROFS: ("the file system is read-only", ""),
    errno.EMFILE: ("too many open files", "raise ulimit -n"),
    errno.EIO: ("the device is gone, or its other end was closed", ""),
    errno.ENXIO: ("there is no such device behind it", ""),
    errno.ENODEV: ("there is no such device behind it", ""),
    errno.ECONNRESET: ("the connection was reset by the peer", ""),
    errno.EPIPE: ("closed by its reader", ""),
}


def describe_os_error(error: OSError) -> tuple[str, str]:
    """What an OSError says to a user: (cause, cure); the cure may be empty."""
    if isinstance(error, socket.gaierror):
        return "the name does not resolve", "check its spelling, or use the address itself"
    if error.errno in _CURES:
        return _CURES[error.errno]
    if error.errno is not None:
        return os.strerror(error.errno).lower(), ""
    return str(error).lower() or type(error).__name__, ""


def open_failed(endpoint: str, error: OSError) -> OpenFailed:
    """The OpenFailed that says what this OSError means for this endpoint."""
    cause, cure = describe_os_error(error)
    return OpenFailed(endpoint, cause, cure)


def endpoint_lost(endpoint: str, error: OSError) -> EndpointLost:
    """The EndpointLost that says what this OSError means for this endpoint."""
    cause, cure = describe_os_error(error)
    return EndpointLost(endpoint, cause, cure)


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The single errors in an exception, however deep the groups, in the order they were raised."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error
