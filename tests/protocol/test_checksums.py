"""Checksums by name."""

import hashlib
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serpipe.errors import BadValue
from serpipe.protocol.checksums import find, make, names, parse_hex, parse_names

CHECK = b"123456789"
"""What the catalogue gives its check values for."""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("crc-8/smbus", "f4"),
        ("crc-16/arc", "bb3d"),
        ("crc-16/modbus", "4b37"),
        ("crc-16/kermit", "2189"),
        ("crc-16/xmodem", "31c3"),
        ("crc-16/ibm-3740", "29b1"),
        ("crc-32/iso-hdlc", "cbf43926"),
        ("crc-32/iscsi", "e3069283"),
        ("crc-32/cksum", "765e7680"),
        ("crc-64/xz", "995dc9bbdf1939fa"),
        ("crc32", "cbf43926"),
        ("adler32", "091e01de"),
        ("md5", "25f9e794323b453885f5181f1b624d0b"),
        ("sha256", "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225"),
    ],
)
def test_check_values(name, value):
    checksum = make(name)
    assert checksum.name == name
    assert checksum.size == len(value) // 2
    checksum.update(CHECK)
    assert checksum.value().hex() == value


def test_every_name_makes_one():
    missing = []
    for name in names():
        try:
            checksum = make(name)
        except BadValue:
            missing.append(name)  # an OpenSSL without its old algorithms
            continue
        checksum.update(CHECK)
        assert len(checksum.value()) == checksum.size > 0
    assert not set(missing) & hashlib.algorithms_guaranteed
    assert len(names()) > 70


@given(st.lists(st.binary(max_size=100)), st.sampled_from(["crc-16/modbus", "crc-8/smbus", "crc-32/cksum", "crc32"]))
def test_the_value_does_not_depend_on_the_cuts(chunks, name):
    pieces, whole = make(name), make(name)
    for chunk in chunks:
        pieces.update(chunk)
        pieces.value()
    whole.update(b"".join(chunks))
    assert pieces.value() == whole.value()


def test_the_value_of_nothing():
    assert make("crc-16/modbus").value() == b"\xff\xff"
    assert make("crc32").value() == bytes(4)
    assert make("shake_128").value() == hashlib.shake_128().digest(32)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("SHA-256", "sha256"),
        ("sha3-256", "sha3_256"),
        ("CRC-16/MODBUS", "crc-16/modbus"),
        ("crc16modbus", "crc-16/modbus"),
        ("crc_32_iso_hdlc", "crc-32/iso-hdlc"),
        ("CRC-32", "crc32"),
        ("crc-32c", "crc-32/iscsi"),
        ("crc16", "crc-16/arc"),
        ("ccitt-false", None),
        ("CRC-16/CCITT-FALSE", "crc-16/ibm-3740"),
        ("xmodem", "crc-16/xmodem"),
    ],
)
def test_names_as_people_write_them(written, name):
    if name is None:
        with pytest.raises(BadValue):
            find(written)
    else:
        assert find(written) == name


@pytest.mark.parametrize(
    ("wrong", "near"), [("sha257", "sha256"), ("crc-16/modbuss", "crc-16/modbus"), ("zzz", "sha256")]
)
def test_an_unknown_name_says_the_nearest(wrong, near):
    with pytest.raises(BadValue, match=near):
        find(wrong)


def test_every_second_name_is_known():
    from serpipe.protocol.checksums import _SECOND_NAMES

    for second, name in _SECOND_NAMES.items():
        assert find(second) == name


def test_lists():
    assert parse_names("sha256+CRC-16/MODBUS") == ("sha256", "crc-16/modbus")
    for bad in ("", "sha256+", "md5+MD5", "nope"):
        with pytest.raises(BadValue):
            parse_names(bad)


def test_hex():
    assert parse_hex("0xCAfe") == parse_hex("ca:fe") == b"\xca\xfe"
    for bad in ("", "0x", "abc", "xy"):
        with pytest.raises(BadValue):
            parse_hex(bad)


def test_fastcrc_is_imported_only_for_a_crc():
    code = "import sys; from serpipe.protocol.checksums import make; make('sha256'); print('fastcrc' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
