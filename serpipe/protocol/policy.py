"""What a controller may do to a port: the words of a policy, and what they come to.

Theory of operation
-------------------
There are six things that a controller can ask a port for, `THINGS`. A policy takes some of them away. The same five options
belong to the stage `policy` and to the listeners that put one into their chain, so they have their one home here;
`policy_word` is how such a listener says them to the plan.

`deny=` names what is taken away, `allow=` what alone is left. `settings=` is short for the three that make up a line (rate,
format, flow control), and says how a client is treated that asks for one all the same: `locked` tells it the truth, and the
user that it asked; `ignore` lets it believe.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final, Literal

from serpipe.errors import BadValue
from serpipe.events import Line
from serpipe.options import Kind, choice, key_of, opt
from serpipe.protocol.line import format_frame, parse_word

LINE_FIELDS: Final[dict[str, tuple[str, ...]]] = {
    "baud": ("baud",),
    "format": ("bytesize", "parity", "stopbits"),
    "flow": ("flow", "flow_in"),
}
"""What of a `Line` each of the three is about."""
THINGS: Final = (*LINE_FIELDS, "lines", "break", "purge")


def _parse_things(text: str) -> tuple[str, ...]:
    found = tuple(text.lower().split("+"))
    for name in found:
        if name not in THINGS:
            raise BadValue(f"{name!r} is none of {', '.join(THINGS)}")
    return tuple(dict.fromkeys(found))


_THINGS = Kind("THINGS", _parse_things, "some of " + "+".join(THINGS) + ", joined by +", THINGS)


def _parse_setting(text: str) -> Line:
    line = parse_word(text)
    if line is None:
        raise BadValue(f"{text!r} is no setting, as 115200 or 9600n81")
    return line


_SETTING = Kind("SETTING", _parse_setting, "a rate, a format or both, as 115200, 8N1 or 9600n81")


def format_setting(line: Line) -> str:
    """As `locked=` takes it: ``115200n81``, ``115200``, ``n81``."""
    if line.bytesize is None:
        return str(line.baud)
    frame = format_frame(line)
    return f"{line.baud or ''}{frame[1].lower()}{frame[0]}{frame[2:]}"


@dataclass(frozen=True, kw_only=True)
class PolicyOptions:
    """A policy as options: a mixin for the specs that take one."""

    settings: Literal["follow", "locked", "ignore"] | None = opt(
        None,
        choice("follow", "locked", "ignore"),
        "rate, format and flow control that a client asks for: set, not set, or not set and acknowledged all the same",
        shown_default="follow, and locked where locked= is given",
    )
    allow: tuple[str, ...] = opt((), _THINGS, "what a client may do, and nothing else", shown_default="everything")
    deny: tuple[str, ...] = opt((), _THINGS, "what a client may not do", shown_default="nothing")
    locked: Line | None = opt(None, _SETTING, "set this at the start, and keep clients from changing it")
    answer: Literal["inforce", "asked"] | None = opt(
        None,
        choice("inforce", "asked"),
        "what is told to a client that asks for what it does not get: what holds, or what it asked for",
        shown_default="inforce, and asked with settings=ignore",
    )

    def __post_init__(self) -> None:
        """Raises BadValue where they contradict each other."""
        both = [name for name in self.allow if name in self.deny]
        if both:
            raise BadValue(f"{both[0]} is allowed and denied", "deny")
        if self.locked is not None and self.settings == "follow":
            raise BadValue("what is locked cannot follow: leave settings= out", "settings")
        line = [name for name in self.allow if name in LINE_FIELDS]
        if line and self._settings != "follow":
            key = "settings" if self.settings else "locked"
            raise BadValue(f"{line[0]} is allowed, and would not be: leave {key}= out, or use deny= alone", "allow")

    @property
    def _settings(self) -> Literal["follow", "locked", "ignore"]:
        return self.settings or ("follow" if self.locked is None else "locked")

    @property
    def denied(self) -> frozenset[str]:
        """Those of `THINGS` that do not reach the port."""
        taken = set(self.deny)
        if self.allow:
            taken |= set(THINGS) - set(self.allow)
        if self._settings != "follow":
            taken |= set(LINE_FIELDS)
        return frozenset(taken)

    @property
    def told_as_asked(self) -> bool:
        """Whether what was asked for is answered, and not what holds."""
        return self._settings == "ignore" if self.answer is None else self.answer == "asked"

    @property
    def silent(self) -> bool:
        """Whether the user is not told either of settings that were not made."""
        return self._settings == "ignore"

    @property
    def policy_word(self) -> str:
        """The stage that does this, ``policy,locked=115200n81``; "" where nothing was asked for."""
        words = ["policy"]
        for field in fields(PolicyOptions):
            value = getattr(self, field.name)
            if value != field.default:
                text = format_setting(value) if isinstance(value, Line) else value
                words.append(f"{key_of(field.name)}={text if isinstance(text, str) else '+'.join(text)}")
        return ",".join(words) if len(words) > 1 else ""
