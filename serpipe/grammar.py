"""The words of a command line: endpoints, stages, and what is wrong with them.

Theory of operation
-------------------
    ENDPOINT = ( SCHEME ":" BODY | "-" | PATH | COMn ) { "," KEY [ "=" VALUE ] }        "SCHEME://BODY" is the same
    STAGE    = NAME [ ":" ARG ] { "," KEY [ "=" VALUE ] }

A word is cut at its commas. The head names a class in the registry, the body is the value of that class's body field, and
every further piece is a key with a value, a bare flag, or a bare word that the class itself understands (`115200`,
`8N1`). In a body or a value ``%2C`` is a comma and ``%25`` a percent sign. A codec's word is a stack of layers
(`rfc2217+unix-listen:`): each key belongs to the one layer that has it, the body to the innermost.

Every piece remembers where in the word it stood, so that an error can put a caret under the fault. `UsageError` carries
the word and the span; how it is printed is `cli.py`'s business.

A word with a slash and no scheme is a path; what lies there decides what it is. pySerial's URLs are taken as pasted.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from serpipe import registry
from serpipe.errors import BadValue, UsageError
from serpipe.options import FLAG, Option, key_of
from serpipe.registry import Entry


@dataclass(frozen=True, slots=True)
class Parsed:
    """A word that was understood: the spec it stands for, and the text, for messages."""

    word: str
    name: str
    spec: Any


@dataclass(frozen=True, slots=True)
class Chain:
    """A whole line: two endpoints and what stands between."""

    left: Parsed
    stages: tuple[Parsed, ...]
    right: Parsed


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part of a word, with where it stands in it."""

    text: str
    at: int

    @property
    def span(self) -> tuple[int, int]:
        return self.at, self.at + len(self.text)

    def cut(self, start: int, end: int | None = None) -> _Piece:
        return _Piece(self.text[start:end], self.at + start)

    @property
    def value(self) -> str:
        """The text with its escapes undone."""
        return re.sub("%(2C|2c|25)", lambda m: "%" if m[1] == "25" else ",", self.text)


_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(?=:)")
_COM = re.compile(r"COM\d+$", re.I)
_LINE_WORDS = {"none", "odd", "even", "mark", "space", "rtscts", "xonxoff", "dsrdtr", "hard", "soft"}
_PYSERIAL = {"socket": "tcp", "alt": "serial", "hwgrep": "serial"}
_PYSERIAL_ONLY = {
    "cp2110": "that is pySerial's HID bridge, which serpipe does not support; its tty, if it has one, works"
}


def nearest(text: str, names: Iterable[str]) -> str:
    """``did you mean tcp?``, or "" where nothing is near."""
    import difflib

    close = difflib.get_close_matches(text.lower(), list(names), n=2, cutoff=0.6)
    return f"did you mean {' or '.join(close)}?" if close else ""


def _pieces(word: str) -> list[_Piece]:
    found = []
    at = 0
    for text in word.split(","):
        found.append(_Piece(text, at))
        at += len(text) + 1
    return found


def _fault(word: str, piece: _Piece, text: str, cure: str = "") -> UsageError:
    return UsageError(text, word=word, span=piece.span, cure=cure)


def _layers(word: str, scheme: _Piece) -> list[Entry]:
    """The registered layers that a scheme names, outermost first."""
    name = scheme.text.lower()
    listening = name.endswith("-listen")
    parts = name.removesuffix("-listen").split("+")
    suffix = "-listen" if listening else ""
    entries = []
    for i, part in enumerate(parts):
        entry = registry.find_endpoint(part + suffix)
        if entry is None:
            at = scheme.cut(sum(len(p) + 1 for p in parts[:i]), sum(len(p) + 1 for p in parts[: i + 1]) - 1 or None)
            known = registry.endpoint_names()
            if registry.find_stage(part) is not None:
                cure = f"{part} is a stage: it stands between the two endpoints"
            elif listening and registry.find_endpoint(part) is not None:
                cure = f"there is {part}:, and it cannot listen"
            else:
                cure = nearest(name, known) or "known: " + " ".join(known)
            raise _fault(word, scheme if len(parts) == 1 else at, f"there is no endpoint {part + suffix}:", cure)
        entries.append(entry)
        if entry.kind == "endpoint" and i < len(parts) - 1:
            raise _fault(word, scheme, f"{entry.name}: carries bytes itself and wraps nothing")
    if entries[-1].kind == "codec":
        carrier = registry.find_endpoint(entries[-1].over)
        if carrier is None:
            raise LookupError(entries[-1].over)
        entries.append(carrier)
    return entries


def _convert(word: str, option: Option, piece: _Piece) -> Any:
    try:
        return option.kind.parse(piece.value)
    except BadValue as error:
        raise _fault(word, piece, f"{option.key}: {error}") from None


def _build(word: str, shown: str, entries: Sequence[Entry], body: _Piece | None, rest: Sequence[_Piece]) -> Any:
    """The spec of a stack of layers out of a body and options."""
    rows: dict[str, tuple[int, Option]] = {}
    for depth, entry in enumerate(entries):
        for option in entry.options:
            rows[option.key] = depth, option
    values: list[dict[str, Any]] = [{} for _ in entries]
    where: dict[str, _Piece] = {}

    def keep(depth: int, name: str, value: Any, piece: _Piece) -> None:
        if name in values[depth]:
            first = where[key_of(name)].text
            raise _fault(word, piece, f"{key_of(name)} is given twice, by {first!r} already")
        values[depth][name] = value
        where[key_of(name)] = piece

    inner = len(entries) - 1
    of_body = entries[inner].body
    if body is not None and body.text:
        if of_body is None:
            raise _fault(word, body, f"{shown} takes nothing after its colon", f"as {entries[0].example}")
        keep(inner, of_body.name, _convert(word, of_body, body), body)
    for piece in rest:
        key_text, equals, _ = piece.text.partition("=")
        key = piece.cut(0, len(key_text))
        if not piece.text:
            raise _fault(word, _Piece(",", max(0, piece.at - 1)), "there is an option missing at this comma")
        row = rows.get(key.text.lower())
        if row is not None:
            depth, option = row
            if equals:
                keep(depth, option.name, _convert(word, option, piece.cut(len(key_text) + 1)), piece)
            elif option.kind is FLAG:
                keep(depth, option.name, True, piece)
            else:
                raise _fault(word, piece, f"{option.key} needs a value", f"{option.key}= takes {option.kind.fits}")
            continue
        for depth, entry in enumerate(entries):
            bare = getattr(entry.cls, "bare_word", None)
            named = bare(piece.value) if bare is not None and not equals else None
            if named:
                for name, value in named.items():
                    keep(depth, name, value, piece)
                break
        else:
            cure = nearest(key.text, rows) or ("known: " + " ".join(rows) if rows else "it has no options")
            if "baud" in rows and not equals and (key.text[:1].isdigit() or key.text.lower() in _LINE_WORDS):
                cure = "settings are written 115200, 8N1, 9600n81, or with their names: parity=even, flow=rtscts"
            raise _fault(word, key, f"{shown} has no option {key.text}", cure)
    if of_body is not None and of_body.required and of_body.name not in values[inner]:
        end = _Piece("", len(word.split(",")[0]))
        raise _fault(word, end, f"{shown} needs {of_body.kind.fits}", f"as {entries[0].example}")
    spec = None
    for depth in range(inner, -1, -1):
        try:
            extra = {"carrier": spec} if depth < inner else {}
            spec = entries[depth].cls(**values[depth], **extra)
        except BadValue as error:
            piece = where.get(error.key, body or _Piece(word, 0))
            raise _fault(word, piece, f"{error.key}: {error}" if error.key else f"{shown}: {error}") from None
    return spec


def _of_path(word: str, head: str) -> str:
    """The scheme of a bare path, by what lies there. Raises UsageError; OpenFailed where that cannot be seen."""
    path = os.path.expanduser(head.replace("%2C", ",").replace("%2c", ",").replace("%25", "%"))
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        if path.startswith("/dev/"):
            return "serial"  # which says, when it is opened, what ports there are
        raise UsageError(
            f"there is no {head}", word=word, span=(0, len(head)), cure=f"file:{head} makes a file of that name"
        ) from None
    except OSError as error:
        from serpipe.errors import open_failed

        raise open_failed(head, error) from error
    if stat.S_ISSOCK(mode):
        return "unix"
    if stat.S_ISCHR(mode) and _is_tty(path):
        return "serial"
    if stat.S_ISDIR(mode):
        raise UsageError(f"{head} is a folder", word=word, span=(0, len(head)), cure="name a file or a device in it")
    return "file"


def _is_tty(path: str) -> bool:
    """Whether a character device is a terminal, told by its driver and not by opening it: an open can reset a board."""
    number = os.stat(path).st_rdev
    driver = f"/sys/dev/char/{os.major(number)}:{os.minor(number)}/subsystem"
    if os.path.exists(driver):
        return os.path.basename(os.path.realpath(driver)) == "tty"
    return os.path.basename(path).startswith(("tty", "cu.")) or os.path.dirname(os.path.realpath(path)) == "/dev/pts"


def _pyserial_query(word: str, head: _Piece) -> tuple[_Piece, list[_Piece]]:
    """A pasted URL's ``?a&b=c`` as pieces like our own options; the rest of the head."""
    before, question, query = head.text.partition("?")
    pieces = []
    at = head.at + len(before) + 1
    for text in query.split("&") if question and query else []:
        key, equals, value = text.partition("=")
        pieces.append(_Piece(key.replace("_", "-") + equals + value, at))
        at += len(text) + 1
    return head.cut(0, len(before)), pieces


def parse_endpoint(word: str) -> Parsed:
    """The endpoint that a word names. Raises UsageError; OpenFailed where a bare path cannot be looked at."""
    parsed, stages = _parse_endpoint(word)
    if stages:
        raise UsageError("spy:// stands only in a whole chain", word=word, span=(0, 3), cure="write a hexdump stage")
    return parsed


def _parse_endpoint(word: str) -> tuple[Parsed, list[Parsed]]:
    head, *rest = _pieces(word)
    if not word:
        raise UsageError("an empty word is no endpoint", word=word, span=(0, 0))
    if head.text == "-":
        return _parsed(word, "stdio", [_entry("stdio")], None, rest), []
    scheme_match = _SCHEME.match(head.text)
    if scheme_match is None:
        if "/" in head.text or head.text.startswith("~"):
            name = _of_path(word, head.text)
            entry = registry.find_endpoint(name)
            if entry is None:
                raise UsageError(f"{head.text} is a socket, and there is no {name}: here", word=word, span=head.span)
            return _parsed(word, name, [entry], head, rest), []
        if _COM.match(head.text):
            return _parsed(word, "serial", [_entry("serial")], head, rest), []
        known = registry.endpoint_names()
        cure = nearest(head.text, known)
        if registry.find_stage(head.text.lower()) is not None:
            cure = f"{head.text} is a stage: it stands between the two endpoints"
        elif cure:
            cure += " An endpoint has a colon or a slash, or is -"
        else:
            cure = "an endpoint has a colon or a slash, or is -: " + " ".join(f"{n}:" for n in known)
        raise UsageError(f"{head.text!r} is no endpoint", word=word, span=head.span, cure=cure)
    scheme = head.cut(0, scheme_match.end())
    body = head.cut(scheme_match.end() + 1)
    name = scheme.text.lower()
    if body.text.startswith("//"):
        body = body.cut(2)
        if name == "spy":
            return _spy(word, body, rest)
        if name in _PYSERIAL_ONLY:
            raise _fault(word, scheme, f"there is no endpoint {name}:", _PYSERIAL_ONLY[name])
        body, query = _pyserial_query(word, body)
        if name in _PYSERIAL:
            if name == "hwgrep":
                rest = [_Piece("grep=" + body.text, body.at), *rest]
                body = body.cut(0, 0)
            query = [piece for piece in query if not piece.text.startswith(("class=", "logging="))]
            scheme = replace(scheme, text=_PYSERIAL[name])
        rest = [*query, *rest]
    entries = _layers(word, scheme)
    return _parsed(word, scheme.text.lower(), entries, body, rest), []


def _entry(name: str) -> Entry:
    entry = registry.find_endpoint(name)
    if entry is None:
        raise LookupError(name)
    return entry


def _parsed(word: str, name: str, entries: list[Entry], body: _Piece | None, rest: Sequence[_Piece]) -> Parsed:
    return Parsed(word, name, _build(word, f"{name}:", entries, body, rest))


def _spy(word: str, body: _Piece, rest: Sequence[_Piece]) -> tuple[Parsed, list[Parsed]]:
    """pySerial's spy://PORT?file=F&raw&all: the port, and a hexdump beside it."""
    inner, query = _pyserial_query(word, body)
    text = ",".join([inner.text, *(piece.text for piece in rest)])
    if not _SCHEME.match(text) and "/" not in text:
        text = "serial:" + text
    path = next((piece.text[5:] for piece in query if piece.text.startswith("file=")), "")
    parsed, stages = _parse_endpoint(text)
    return parsed, [*stages, parse_stage("hexdump" + (f":{path}" if path else ""))]


def parse_stage(word: str) -> Parsed:
    """The stage that a word names. Raises UsageError."""
    head, *rest = _pieces(word)
    name, colon, _ = head.text.partition(":")
    entry = registry.find_stage(name.lower()) if name else None
    if entry is None:
        known = registry.stage_names()
        if head.text == "-" or "/" in head.text or registry.find_endpoint(name.lower()) is not None:
            cure = "an endpoint stands only first or last; between them stand stages: " + " ".join(known)
        else:
            cure = nearest(name, known) or "known: " + " ".join(known)
        raise UsageError(f"there is no stage {name!r}", word=word, span=(0, len(name) or len(word)), cure=cure)
    body = head.cut(len(name) + 1) if colon else None
    return Parsed(word, entry.name, _build(word, entry.name, [entry], body, rest))


def parse_chain(words: Sequence[str]) -> Chain:
    """A whole line. Raises UsageError, and OpenFailed as `parse_endpoint` does."""
    if len(words) < 2:
        given = words[0] if words else ""
        if given:
            parse_endpoint(given)  # what is wrong with the one word comes first
        raise UsageError(
            "a chain needs two endpoints, one at each end",
            word=given,
            span=(len(given), len(given)),
            cure="as serpipe pty:/tmp/port rfc2217://lab3:4000",
        )
    left, after_left = _parse_endpoint(words[0])
    stages = [parse_stage(word) for word in words[1:-1]]
    right, before_right = _parse_endpoint(words[-1])
    return Chain(left, (*after_left, *stages, *before_right), right)
