"""Words to specs: which class stands behind `tcp:`, `rfc2217:` or `hexdump`.

Theory of operation
-------------------
A module registers its words by decorating frozen dataclasses with `@endpoint`, `@codec` or `@stage`. Which module holds
which word stands in the generated `_index.py`, so that a start imports only the modules of the words on the line. A word
that the index does not know is looked up among the entry points `serpipe.endpoints` and `serpipe.stages`, and only
then is importlib.metadata (37 ms) imported.

A codec (Telnet with RFC 2217) wraps a plain endpoint, its carrier: `rfc2217:` is the codec over its default carrier
`tcp`, `rfc2217+unix:` the same over another, and `rfc2217-listen:` the codec's listening side over `tcp-listen`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from serpipe.options import Option, table

T = TypeVar("T", bound=type)
EntryKind = Literal["endpoint", "codec", "stage"]


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of one registered word."""

    name: str
    kind: EntryKind
    cls: Any
    summary: str
    """One line for tables and help."""
    example: str
    over: str = ""
    """A codec's default carrier."""

    @property
    def options(self) -> tuple[Option, ...]:
        """The rows of its option table."""
        return table(self.cls)

    @property
    def body(self) -> Option | None:
        """The option that the word's body is the value of."""
        return next((o for o in self.options if o.body), None)

    @property
    def text(self) -> str:
        """The prose of its help: the class's docstring."""
        import inspect

        return inspect.getdoc(self.cls) or ""


_entries: dict[tuple[str, str], Entry] = {}


def _register(kind: EntryKind, name: str, summary: str, example: str, over: str = "") -> Callable[[T], T]:
    def keep(cls: T) -> T:
        _entries["stage" if kind == "stage" else "endpoint", name] = Entry(name, kind, cls, summary, example, over)
        return cls

    return keep


def endpoint(name: str, *, summary: str, example: str) -> Callable[[T], T]:
    """Register the decorated frozen dataclass, an `EndpointSpec`, as the scheme `name`."""
    return _register("endpoint", name, summary, example)


def codec(name: str, *, over: str, summary: str, example: str) -> Callable[[T], T]:
    """Register a `CodecSpec` as the scheme `name`, over the carrier `over` unless ``name+CARRIER:`` says another."""
    return _register("codec", name, summary, example, over)


def stage(name: str, *, summary: str, example: str) -> Callable[[T], T]:
    """Register the decorated frozen dataclass, a `StageSpec`, as the stage `name`."""
    return _register("stage", name, summary, example)


def _find(group: Literal["endpoint", "stage"], name: str) -> Entry | None:
    from serpipe import _index

    if (group, name) not in _entries:
        index = _index.ENDPOINTS if group == "endpoint" else _index.STAGES
        if name in index:
            importlib.import_module(index[name])
        else:
            from importlib.metadata import entry_points

            for point in entry_points(group=f"serpipe.{group}s", name=name):
                point.load()
    return _entries.get((group, name))


def find_endpoint(name: str) -> Entry | None:
    """The endpoint or codec registered as `name`, its module imported; None where there is none."""
    return _find("endpoint", name)


def find_stage(name: str) -> Entry | None:
    """The stage registered as `name`, its module imported; None where there is none."""
    return _find("stage", name)


def endpoint_names() -> list[str]:
    """Every scheme of our own, sorted."""
    from serpipe import _index

    return sorted(_index.ENDPOINTS)


def stage_names() -> list[str]:
    """Every stage of our own that users may write, sorted."""
    from serpipe import _index

    return sorted(_index.STAGES)
