"""PARMRK undone: whatever was marked and however it was cut, the pieces are what the UART saw."""

from hypothesis import given
from hypothesis import strategies as st

from serpipe.protocol.parmrk import BREAK, Bad, Unmarker

_good = st.lists(st.sampled_from([b"\xff", b"\x00", b"a"]) | st.binary(min_size=1, max_size=6), min_size=1).map(
    b"".join
)
_bad = st.binary(min_size=1, max_size=4).map(lambda data: Bad(data.replace(b"\x00", b"\x01")))
_pieces = st.lists(_good | _bad | st.just(BREAK), max_size=8)


def marked(pieces):
    """What a tty with PARMRK gives for these pieces (termios(3))."""
    out = b""
    for piece in pieces:
        if piece is BREAK:
            out += b"\xff\x00\x00"
        elif isinstance(piece, Bad):
            out += b"".join(b"\xff\x00" + bytes([c]) for c in piece.data)
        else:
            out += piece.replace(b"\xff", b"\xff\xff")
    return out


def joined(pieces):
    """Neighbours of a kind joined: what does not depend on cuts."""
    out = []
    for piece in pieces:
        last = out[-1] if out else None
        if isinstance(piece, bytes) and isinstance(last, bytes):
            out[-1] = last + piece
        elif isinstance(piece, Bad) and isinstance(last, Bad):
            out[-1] = Bad(last.data + piece.data)
        else:
            out.append(piece)
    return out


def test_plain_bytes_are_the_same_object():
    data = b"no mark in here"
    assert Unmarker().feed(data)[0] is data
    assert Unmarker().feed(b"") == []


def test_a_good_ff_a_break_and_bad_characters():
    data = b"ab\xff\xffc\xff\x00\x00d\xff\x00x\xff\x00\xffe"
    assert Unmarker().feed(data) == [b"ab\xffc", BREAK, b"d", Bad(b"x\xff"), b"e"]


def test_a_good_ff_before_zeros_is_no_break():
    assert Unmarker().feed(b"\xff\xff\x00\x00") == [b"\xff\x00\x00"]


def test_what_no_tty_sends_passes_as_it_is():
    assert Unmarker().feed(b"\xffa") == [b"\xffa"]


def test_reset_forgets_a_cut_mark():
    unmarker = Unmarker()
    assert unmarker.feed(b"a\xff\x00") == [b"a"]
    unmarker.reset()
    assert unmarker.feed(b"\x00b") == [b"\x00b"]


@given(_pieces)
def test_every_stream_comes_back(pieces):
    assert joined(Unmarker().feed(marked(pieces))) == joined(pieces)


@given(_pieces)
def test_cut_at_every_byte(pieces):
    unmarker = Unmarker()
    found = [piece for byte in marked(pieces) for piece in unmarker.feed(bytes([byte]))]
    assert joined(found) == joined(pieces)


@given(_pieces, st.data())
def test_cut_anywhere(pieces, data):
    stream = marked(pieces)
    at = data.draw(st.integers(0, len(stream)))
    unmarker = Unmarker()
    assert joined(unmarker.feed(stream[:at]) + unmarker.feed(stream[at:])) == joined(pieces)
