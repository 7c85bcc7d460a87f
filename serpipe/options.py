"""One table for every option: what a field of a spec says about itself.

Theory of operation
-------------------
An endpoint or a stage is declared as a frozen dataclass whose fields are made by `opt()`. The field carries, as
metadata, everything anybody needs to know about the option: its kind (which converts and names what it takes), unit,
default and one line of help. Grammar, errors, ``serpipe help``, the manual's option lists and the completions are all
made from that one table (`table()`); there is no second place to keep in step.

A `Kind` converts text to a value, or raises `BadValue` with what would fit. Kinds know nothing of endpoints.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from serpipe.errors import BadValue

_METADATA = "serpipe"


@dataclass(frozen=True, slots=True)
class Kind:
    """How the text of a value becomes a value. `name` is what the help shows in its place (``baud=RATE``)."""

    name: str
    parse: Callable[[str], Any]
    fits: str
    """What would fit, for errors and help: ``a number of seconds, as 10ms or 2s``."""
    choices: tuple[str, ...] = ()
    """The values there are, where they can be listed: for nearest names and completion."""


@dataclass(frozen=True, slots=True)
class Option:
    """One row of the table."""

    name: str
    kind: Kind
    default: Any
    help: str
    body: bool = False
    """The value of the word's body (`tcp:HERE`)."""
    required: bool = False
    shown_default: str = ""

    @property
    def key(self) -> str:
        """The word as users type it."""
        return key_of(self.name)


def key_of(field_name: str) -> str:
    """The key for a field: ``connect_timeout`` is typed ``connect-timeout``; a trailing ``_`` dodges a Python keyword."""
    return field_name.rstrip("_").replace("_", "-")


def opt(
    default: Any, kind: Kind, help: str, *, body: bool = False, required: bool = False, shown_default: str = ""
) -> Any:
    """A field of a spec. `shown_default` is what the help says where the default is not a plain value."""
    return dataclasses.field(
        default=default,
        metadata={
            _METADATA: {
                "kind": kind,
                "help": help,
                "body": body,
                "required": required,
                "shown_default": shown_default,
            }
        },
    )


def table(spec: type) -> tuple[Option, ...]:
    """The options of a spec class, in the order they are declared."""
    rows = []
    for f in dataclasses.fields(spec):
        if _METADATA in f.metadata:
            rows.append(Option(name=f.name, default=f.default, **f.metadata[_METADATA]))
    return tuple(rows)


# --- kinds ------------------------------------------------------------------------------------------------------------


def _number(text: str) -> float:
    if not re.fullmatch(r"\d+(\.\d*)?|\.\d+", text):
        raise ValueError(text)
    return float(text)


def integer(low: int = 0, high: int | None = None, name: str = "N") -> Kind:
    """A whole number between `low` and `high`, decimal or 0x…."""
    fits = f"a whole number from {low}" + (f" to {high}" if high is not None else "")

    def parse(text: str) -> int:
        try:
            value = int(text, 0) if text.lower().startswith("0x") else int(text)
        except ValueError:
            raise BadValue(f"{text!r} is not {fits}") from None
        if value < low or (high is not None and value > high):
            raise BadValue(f"{text} is out of range: {fits}")
        return value

    return Kind(name, parse, fits)


_SWITCH = {"on": True, "yes": True, "1": True, "true": True, "off": False, "no": False, "0": False, "false": False}


def _switch(text: str) -> bool:
    try:
        return _SWITCH[text.lower()]
    except KeyError:
        raise BadValue(f"{text!r} is neither on nor off") from None


FLAG = Kind("on|off", _switch, "on or off; the bare key means on", ("on", "off"))
"""A switch: ``eof``, ``eof=on``, ``eof=off``."""


def _text(text: str) -> str:
    return text


TEXT = Kind("TEXT", _text, "any text")


def _path(text: str) -> str:
    if not text:
        raise BadValue("a path is missing")
    return os.path.expanduser(text)


PATH = Kind("PATH", _path, "a path; a leading ~ is the home folder")


def choice(*names: str, **aliases: str) -> Kind:
    """One of `names`; `aliases` are further spellings (``hard="rtscts"``), with ``_`` standing for ``-``."""
    known = {n: n for n in names} | {k.replace("_", "-"): v for k, v in aliases.items()}

    def parse(text: str) -> str:
        try:
            return known[text.lower()]
        except KeyError:
            raise BadValue(f"{text!r} is none of {', '.join(names)}") from None

    return Kind("|".join(names), parse, "one of " + ", ".join(names), tuple(names))


_TIME_UNITS = {"": 1.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(text: str) -> float:
    """Seconds out of ``10ms``, ``2s``, ``1.5``, ``5m``, ``2h``. Raises BadValue."""
    match = re.fullmatch(r"([\d.]+)\s*(us|ms|s|min|m|h|d|)", text.lower())
    try:
        if match is None:
            raise ValueError
        return _number(match[1]) * _TIME_UNITS[match[2]]
    except ValueError:
        raise BadValue(f"{text!r} is not a time, as 10ms, 2s or 5m") from None


DURATION = Kind("TIME", parse_duration, "a time, as 10ms, 2s or 5m; a bare number is seconds")

_SIZE_UNITS = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}


def parse_size(text: str) -> int:
    """Bytes out of ``4096``, ``64k``, ``1M``, ``2G`` (k M G are 1024). Raises BadValue."""
    match = re.fullmatch(r"([\d.]+)([kmg]?)b?", text.lower())
    try:
        if match is None:
            raise ValueError
        return round(_number(match[1]) * _SIZE_UNITS[match[2]])
    except ValueError:
        raise BadValue(f"{text!r} is not a size, as 4096, 64k or 1M (k M G are 1024)") from None


SIZE = Kind("SIZE", parse_size, "a size in bytes, as 4096, 64k or 1M (k M G are 1024)")


def _mode(text: str) -> int:
    if not re.fullmatch(r"0?[0-7]{3}", text):
        raise BadValue(f"{text!r} is not a file mode, as 660")
    return int(text, 8)


MODE = Kind("MODE", _mode, "a file mode in octal, as 660")


def optional(kind: Kind, *words: str) -> Kind:
    """`kind`, or one of `words` (``off``), which stand for themselves."""

    def parse(text: str) -> Any:
        return text.lower() if text.lower() in words else kind.parse(text)

    return Kind(kind.name + "|" + "|".join(words), parse, kind.fits + ", or " + " or ".join(words), words)


def parse_port(text: str) -> int:
    """A TCP or UDP port number. Raises BadValue."""
    if not re.fullmatch(r"\d{1,5}", text) or int(text) > 65535:
        raise BadValue(f"{text!r} is not a port number from 0 to 65535")
    return int(text)


def parse_address(text: str) -> tuple[str | None, int]:
    """(host, port) out of ``host:port``, ``[v6]:port`` or ``port`` alone (host None). Raises BadValue."""
    if match := re.fullmatch(r"\[([^\]]*)\]:(.*)", text):
        return match[1], parse_port(match[2])
    host, colon, port = text.rpartition(":")
    if colon and ":" in host:
        raise BadValue(f"an IPv6 address needs brackets before its port: [{host}]:{port}")
    if not colon and not re.fullmatch(r"\d+", text):
        raise BadValue(f"{text!r} has no port: HOST:PORT")
    return (host or None), parse_port(port)


ADDRESS = Kind("[HOST:]PORT", parse_address, "HOST:PORT, [IPv6]:PORT, or PORT alone")
