"""Checksums by name: any digest of hashlib, any CRC of the catalogue, crc32 and adler32.

Theory of operation
-------------------
A CRC is called by its name in the catalogue of parametrised CRC algorithms, `crc-16/modbus`; there is no such thing as
"the" CRC-16, so a width alone is taken only where the catalogue itself has it as a second name. Names are
compared without case, hyphens, underscores and slashes: `SHA3-256`, `sha3_256` and `crc16modbus` are understood.

All are computed as the bytes come. A CRC's value is written big-endian, as many bytes as it is wide, whatever
order its own protocol puts it on the wire. fastcrc is imported only when a CRC of the catalogue is asked for.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import re
import zlib
from collections.abc import Callable
from typing import Protocol

from serpipe.errors import BadValue
from serpipe.options import Kind

_Update = Callable[[bytes, int], int]

_ZLIB: dict[str, tuple[_Update, int]] = {"crc32": (zlib.crc32, 0), "adler32": (zlib.adler32, 1)}
_SHAKE_SIZES = {"shake_128": 32, "shake_256": 64}
"""Bytes taken from a digest of any length: twice its strength, as for every other."""
_SECOND_NAMES = {
    "crc-8": "crc-8/smbus",
    "crc-16": "crc-16/arc",
    "arc": "crc-16/arc",
    "crc-16/lha": "crc-16/arc",
    "crc-16/ccitt": "crc-16/kermit",
    "crc-16/ccitt-true": "crc-16/kermit",
    "crc-ccitt": "crc-16/kermit",
    "kermit": "crc-16/kermit",
    "crc-16/ccitt-false": "crc-16/ibm-3740",
    "crc-16/x-25": "crc-16/ibm-sdlc",
    "x-25": "crc-16/ibm-sdlc",
    "modbus": "crc-16/modbus",
    "xmodem": "crc-16/xmodem",
    "crc-16/acorn": "crc-16/xmodem",
    "crc-32c": "crc-32/iscsi",
    "crc-32/castagnoli": "crc-32/iscsi",
    "crc-32/posix": "crc-32/cksum",
    "cksum": "crc-32/cksum",
    "crc-64": "crc-64/ecma-182",
}
"""Further names that the catalogue itself gives."""


class Checksum(Protocol):
    """One checksum being computed."""

    name: str
    size: int
    """Bytes of the value."""

    def update(self, data: bytes) -> None:
        """Take these bytes in."""

    def value(self) -> bytes:
        """The value over all bytes so far."""


class _Hash:
    def __init__(self, name: str) -> None:
        self.name = name
        self._hash = hashlib.new(name, usedforsecurity=False)
        self._length = _SHAKE_SIZES.get(name)
        self.size = self._length or self._hash.digest_size
        self.update = self._hash.update

    def value(self) -> bytes:
        if self._length is not None:
            return self._hash.digest(self._length)  # type: ignore[call-arg]  # the shake digests alone take a length
        return self._hash.digest()


class _Crc:
    def __init__(self, name: str, size: int, compute: _Update, initial: int | None = None) -> None:
        self.name = name
        self.size = size
        self._compute = compute
        self._value = initial

    def update(self, data: bytes) -> None:
        self._value = self._compute(data, self._value)  # type: ignore[arg-type]  # None: the algorithm's own start

    def value(self) -> bytes:
        if self._value is None:
            self.update(b"")
            assert self._value is not None
        return self._value.to_bytes(self.size, "big")


def _plain(name: str) -> str:
    return re.sub(r"[-_/\s]", "", name.lower())


def _catalogue() -> dict[str, tuple[str, int]]:
    """The CRCs of the catalogue: their names as written there -> (function in fastcrc, bytes)."""
    return {
        f"crc-{bits}/{function.replace('_', '-')}": (function, bits // 8)
        for bits in (8, 16, 32, 64)
        for function in importlib.import_module(f"fastcrc.crc{bits}").algorithms_available
    }


def names() -> list[str]:
    """Every name there is, sorted."""
    return sorted({*_ZLIB, *_catalogue(), *(name.lower() for name in hashlib.algorithms_available)})


def find(name: str) -> str:
    """The one spelling of an algorithm's name. Raises BadValue with the nearest names."""
    wanted = _plain(name)
    easy = {_plain(known): known.lower() for known in (*hashlib.algorithms_available, *_ZLIB)}
    if wanted in easy:
        return easy[wanted]
    catalogue = {_plain(known): known for known in _catalogue()}
    catalogue |= {_plain(second): known for second, known in _SECOND_NAMES.items()}
    if wanted in catalogue:
        return catalogue[wanted]
    near = difflib.get_close_matches(name.lower(), [*names(), *_SECOND_NAMES], 3, 0.5)
    hint = f"; the nearest: {', '.join(near)}" if near else "; try sha256, crc32 or crc-16/modbus"
    raise BadValue(f"{name!r} is no checksum{hint}")


def make(name: str) -> Checksum:
    """A fresh checksum of that name. Raises BadValue."""
    known = find(name)
    if known in _ZLIB:
        compute, initial = _ZLIB[known]
        return _Crc(known, 4, compute, initial)
    if known.startswith("crc-"):
        function, size = _catalogue()[known]
        return _Crc(known, size, getattr(importlib.import_module(f"fastcrc.crc{size * 8}"), function))
    try:
        return _Hash(known)
    except ValueError:
        raise BadValue(f"{known} is not provided by this machine's OpenSSL; sha256 always is") from None


def parse_names(text: str) -> tuple[str, ...]:
    """The algorithms in a list as `sha256+crc-16/modbus`. Raises BadValue."""
    found = tuple(make(name).name for name in text.split("+"))
    for at, name in enumerate(found):
        if name in found[:at]:
            raise BadValue(f"{name} is given twice")
    return found


ALGORITHMS = Kind(
    "NAME",
    parse_names,
    "sha256, md5, blake2b, crc32, crc-16/modbus, …; several with +",
    ("sha256", "sha1", "md5", "crc32"),
)


def parse_hex(text: str) -> bytes:
    """A value as people paste it: any case, `0x` before it, and spaces or colons in it. Raises BadValue."""
    digits = re.sub(r"[\s:]", "", text.lower().removeprefix("0x"))
    if not re.fullmatch(r"[0-9a-f]+", digits) or len(digits) % 2:
        raise BadValue(f"{text!r} is not a value in hex, two digits a byte")
    return bytes.fromhex(digits)


HEX = Kind("HEX", parse_hex, "a value in hex, two digits a byte")
