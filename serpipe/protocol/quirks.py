"""What is known of other people's RFC 2217 servers: by what they are recognised, and where each departs from the RFC.

Theory of operation
-------------------
`PROFILES` is one table. A server is recognised by its signature, where it told one, else by the negotiations that it opens
with, which come before anything is asked and so cost nothing (`identify`). Several servers that open with nothing, or with
the same bytes, cannot be told apart like that; they have rows for whoever asks more (a signature, a probe), and a client
takes such a server for `UNKNOWN`, of which nothing is assumed.

A row says three things, in the terms of the client: what must not be sent (`never`, and `unasked` for what is sent only
where somebody asks for it), what is not answered (`silent`), and which answers are not to be believed (`wrong`). The rows
were measured against ser2net 4.3.11, gensio 2.6.2, pySerial 3.5 and sredird 2.2.1, and read in the source of the others
(hub4com, esp_rfc2217_server, igrr's rfc2217-server, esp-rs); `notes` says in words what has no column.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Ban = Literal["signature", "iac in a command", "poll without a value", "one-byte rate", "suspend", "NOP", "AYT", "BRK"]
"""Something sent that does harm."""

_SETTINGS = ("baud", "bytesize", "parity", "stopbits", "flow", "flow_in", "break_", "dtr", "rts")
TOPICS: Final = frozenset(
    (
        *_SETTINGS,
        *(name + "?" for name in _SETTINGS),
        "signature",
        "modem",
        "line state",
        "line mask",
        "modem mask",
        "purge",
    )
)
"""What a server may answer or not: a setting by its name in `comport.SETTINGS`, the question for it with a ``?`` behind."""


@dataclass(frozen=True, slots=True)
class Profile:
    """One kind of server."""

    name: str
    """As ``serpipe emulate`` and the log call it."""
    title: str
    """Who it is, in words."""
    opening: bytes = b""
    """The negotiations that it opens with; empty where they do not tell it from others."""
    signatures: tuple[bytes, ...] = ()
    """What its signature begins with."""
    never: frozenset[Ban] = frozenset()
    """Must not be sent, whoever asks."""
    unasked: frozenset[Ban] = frozenset()
    """Is sent only where somebody asks for it: some of its kind take harm."""
    silent: frozenset[str] = frozenset()
    """Topics that it does not answer."""
    wrong: frozenset[str] = frozenset()
    """Topics whose answers say nothing about what is in force."""
    notes: tuple[str, ...] = ()

    def forbids(self, body: bytes) -> str:
        """Why this body of a COM-PORT command (code and value, undoubled) must not be sent; "" where it may."""
        if "iac in a command" in self.never and 255 in body:
            return f"{self.title} takes a command with a byte of 255 in it apart, and its rest for data"
        if "signature" in self.never and body == b"\0":
            return f"{self.title} does not survive the question for its signature"
        if "suspend" in self.never and body[:1] == b"\x08":
            return f"{self.title} takes SUSPEND for a change of flow control"
        return ""


def _bans(*names: Ban) -> frozenset[Ban]:
    return frozenset(names)


def _topics(*names: str) -> frozenset[str]:
    return frozenset(names)


UNKNOWN: Final = Profile("unknown", "a server that is not known")

PROFILES: Final = (
    Profile(
        "serpipe",
        "serpipe",
        opening=bytes.fromhex("FFFD2C FFFB00 FFFD00 FFFB03 FFFD03 FFFB01"),
        signatures=(b"serpipe",),
    ),
    Profile(
        "ser2net",
        "ser2net or another gensio server",
        opening=bytes.fromhex("FFFB03 FFFD03 FFFB01 FFFE01 FFFD00 FFFB00 FFFD2C"),
        signatures=(b"ser2net", b"gensio"),
        never=_bans("suspend", "one-byte rate"),
        unasked=_bans("signature"),
        silent=_topics("modem", "line state"),
        wrong=_topics("break_?", "flow_in", "flow_in?"),
        notes=(
            "an illegal value and 1.5 stop bits get no answer at all",
            "both masks are answered with a notification instead of 110 or 111",
            "on a pty a change of DTR or RTS is never acknowledged",
            "a rate of one byte makes it answer in one byte for good",
            "gensiot -a without a signature of its own dies of the question for it",
        ),
    ),
    Profile(
        "pyserial",
        "pySerial's example server, or one made of it",
        opening=bytes.fromhex("FFFB01 FFFB03 FFFD00 FFFB2C"),
        never=_bans("one-byte rate"),
        silent=_topics("signature", "break_?", "dtr?", "rts?", "flow_in", "flow_in?", "line mask", "modem mask"),
        notes=(
            "an illegal parity or stop size, a rate of one byte and an empty mask end the whole program",
            "commands are carried out before the data that came in front of them in the same segment",
        ),
    ),
    Profile(
        "esp",
        "esp_rfc2217_server",  # it is made of pySerial's, and opens as that does
        signatures=(),
        never=_bans("one-byte rate"),
        silent=_topics(
            "signature", "break_?", "dtr", "dtr?", "rts", "rts?", "flow_in", "flow_in?", "line mask", "modem mask"
        ),
        notes=("DTR on runs a whole reset sequence of the board",),
    ),
    Profile(
        "sredird",
        "sredird",
        opening=bytes.fromhex("FFFB00 FFFD00 FFFB01 FFFB03 FFFD03 FFFD2C"),
        signatures=(b"SRedird",),
        never=_bans("iac in a command", "poll without a value", "one-byte rate", "NOP", "AYT", "BRK"),
        silent=_topics("modem", "line state"),
        wrong=_topics("dtr", "rts", "flow_in"),
        notes=(
            "commands are read by a fixed length: what is longer leaks into the data, what is shorter eats some of it",
            "DTR, RTS and inbound flow control are acknowledged with the outbound flow control",
            "a rate it does not know becomes 9600, 1.5 stop bits become 1",
            "CR NUL is added and removed in a direction without BINARY",
        ),
    ),
    Profile(
        "cisco",
        "Cisco IOS",
        silent=_topics("signature"),
        notes=("rates are one byte, as a draft of the RFC had them",),
    ),
    Profile(
        "lantronix",
        "a Lantronix box",
        notes=(
            "the roles are reversed: it refuses WILL COM-PORT, and answers DO COM-PORT with WILL",
            "two commands may stand in one subnegotiation, and a mask of 255 is not doubled",
        ),
    ),
    Profile(
        "hub4com",
        "hub4com",
        silent=_topics("signature", "modem", "line state"),
        wrong=_topics("flow", "flow_in"),
        notes=("any flow control is acknowledged with none",),
    ),
    Profile(
        "igrr",
        "igrr's rfc2217-server for ESP-IDF",
        silent=_topics("signature"),
        wrong=_topics("bytesize", "parity", "stopbits"),
        notes=(
            "what is received with 255 in it is not doubled before 0.3.1",
            "a command that is cut between two segments ends up in the data",
        ),
    ),
    Profile(
        "esp-rs",
        "esp-rs rfc2217-rs",
        never=_bans("signature"),
        silent=_topics("flow_in", "flow_in?", "modem", "line state", "line mask", "modem mask"),
        wrong=_topics("dtr?", "rts?"),
        notes=("WONT, DONT, an unknown command and a foreign subnegotiation end the program",),
    ),
)

BY_PROFILE: Final = {profile.name: profile for profile in PROFILES}


def identify(opening: bytes, signature: bytes | None = None) -> Profile:
    """Who a server is: by what its signature begins with, else by the negotiations it sent first, else `UNKNOWN`.

    `opening` is everything it negotiated so far; a part of an opening is not enough.
    """
    if signature:
        for profile in PROFILES:
            if signature.startswith(profile.signatures):
                return profile
    for profile in PROFILES:
        if profile.opening and opening.startswith(profile.opening):
            return profile
    return UNKNOWN
