"""`serpipe emulate`: an RFC 2217 server that misbehaves on purpose, for trying clients.

Theory of operation
-------------------
The command is a pipeline like any other: a listener at its left end, a port at its right, `loop:` unless another is named.
The listener is `rfc2217-listen:`'s with another codec, `protocol/emulate.py`'s, so who is served when, what is put back
after a client, signals and the start line are the main line's own. What `run` gives back is that line's plan.

A server that ends a connection by itself (busy, closes, a value that its program dies of) says so by its codec's `over`:
what it had to say is written, then the connection is closed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import trio

from serpipe.endpoints.base import Caps, Context, Endpoint, EndpointSpec, Listener, ListenOptions
from serpipe.endpoints.rfc2217 import Rfc2217Client, Rfc2217Listen
from serpipe.errors import BadValue, EndpointLost, UsageError
from serpipe.events import Report
from serpipe.options import parse_address, parse_duration, parse_size
from serpipe.pipeline import Options, Plan, plan
from serpipe.protocol.emulate import FAULTS, PACKET_LIMIT, PROFILES, Behaviour, Emulated, Faults

_LATE = 1.0
_OPTIONS = Options()


def _columns(rows: dict[str, str]) -> str:
    width = max(map(len, rows))
    import textwrap

    return "\n".join(
        textwrap.fill(text, 80, initial_indent=f"  {name:<{width}}  ", subsequent_indent=" " * (width + 4))
        for name, text in rows.items()
    )


HELP = f"""serpipe emulate: an RFC 2217 server that misbehaves on purpose, for trying clients.

Usage:
  serpipe emulate [--listen=ADDRESS] [--ready-fd=N] [--quiet] [--debug] PROFILE [ENDPOINT]
  serpipe emulate --help

Options:
  --listen=ADDRESS  where to listen, [HOST:]PORT; 0 takes a free port and says
                    which, and without a host it is this machine's loopback
                    [default: 4000]
  --ready-fd=N      write one line, "ready ADDRESS -", to this descriptor when it
                    stands, and close it
  -q, --quiet       say only errors
  -d, --debug       say every command, decoded, with its answer
  -h, --help        show this help

PROFILE is a server, and any number of faults behind it: sredird+late=2s+banner.
Servers:
{_columns({name: behaviour.summary for name, behaviour in PROFILES.items()})}

Faults:
{_columns(dict(FAULTS))}

ENDPOINT is the port behind it. Without one it is a loopback: what is sent comes
back, RTS is joined to CTS, DTR to DSR and CD.

ser2net, sredird and pyserial answer as those programs were measured to; cisco,
lantronix and esp are made from descriptions of theirs.
"""


def parse_profile(word: str) -> tuple[Behaviour, Faults]:
    """The server and its faults out of ``sredird+late=2s+banner``. Raises UsageError, with the fault marked."""
    at = 0
    behaviour: Behaviour | None = None
    given: dict[str, Any] = {}
    for text in word.split("+"):
        name, equals, value = text.partition("=")
        span = at, at + len(name)
        value_span = at + len(name) + 1, at + len(text)
        at += len(text) + 1
        known = PROFILES if behaviour is None else FAULTS
        if name not in known:
            what = "server" if behaviour is None else "fault"
            raise UsageError(f"there is no {what} {name!r}", word=word, span=span, cure=_cure(name, what))
        if behaviour is None:
            if equals:
                raise UsageError(f"{name} takes no value", word=word, span=value_span)
            behaviour = PROFILES[name]
            continue
        try:
            field, found = _fault(name, value, bool(equals))
        except BadValue as error:
            raise UsageError(f"{name}: {error}", word=word, span=value_span if equals else span) from None
        if field in given:
            raise UsageError(f"{name} is given twice", word=word, span=span)
        given[field] = found
    assert behaviour is not None
    return behaviour, Faults(**given)


def _cure(name: str, what: str) -> str:
    from serpipe.grammar import nearest

    here, there = (PROFILES, FAULTS) if what == "server" else (FAULTS, PROFILES)
    if name in there:
        return (
            f"{name} is a fault: put a server before it, as serpipe+{name}"
            if what == "server"
            else f"{name} is a server, which comes first"
        )
    return nearest(name, here) or "known: " + " ".join(here)


def _fault(name: str, value: str, has_value: bool) -> tuple[str, Any]:
    """(field of Faults, its value). Raises BadValue."""
    if name == "late":
        return "late", parse_duration(value) if has_value else _LATE
    if name == "packet":
        if not has_value:
            raise BadValue("it needs a size or a time, as packet=64 or packet=20ms")
        if value.endswith("s"):
            seconds = parse_duration(value)
            if not seconds:
                raise BadValue("a packet needs some time")
            return "packet_time", seconds
        size = parse_size(value)
        if not 1 <= size <= PACKET_LIMIT:
            raise BadValue(f"a packet has 1 to {PACKET_LIMIT} bytes")
        return "packet_size", size
    if has_value:
        raise BadValue("it takes no value")
    return name.replace("-", "_"), True


class EmulatedClient(Rfc2217Client):
    """One client of an emulated server: a controller."""

    def __init__(self, carrier: Endpoint, spec: EmulatedListen, context: Context) -> None:
        super().__init__(carrier, Rfc2217Listen(carrier=None), context)

        def log(text: str) -> None:
            context.note(f"{carrier.title}: {text}", 1)

        banner = f"Welcome to an emulated {spec.words}\r\n".encode()
        self.server = Emulated(spec.behaviour, spec.faults, banner=banner, log=log)
        self.codec = self._codec = self.server

    async def _read(self) -> None:
        await super()._read()
        if self.server.over and self._error is None:
            await self._end()
            self._error = EndpointLost(self.name, "ended by the emulated server, as the real one would")
        if self._codec.backlog:  # what was late, or gathered, is due
            self._kick.set()

    async def _send_bytes(self, data: bytes) -> None:
        await super()._send_bytes(data)
        self._set_alarm()

    async def _report(self, report: Report) -> None:
        await super()._report(report)
        self._set_alarm()


class EmulatedListener(Listener):
    """A carrier's listener whose clients meet the emulated server."""

    def __init__(self, inner: Listener, spec: EmulatedListen, nursery: trio.Nursery, context: Context) -> None:
        self._inner = inner
        self._spec = spec
        self._nursery = nursery
        self._context = context
        self.where = inner.where
        self.title = f"{inner.title} -> emulated {spec.words}"

    async def accept(self) -> EmulatedClient:
        """The next client that is served at all."""
        while True:
            client = EmulatedClient(await self._inner.accept(), self._spec, self._context)
            try:
                await client.greet()
            except EndpointLost:
                await _close(client)
                continue
            except BaseException:
                await _close(client)
                raise
            if client.server.over:
                self._context.note(f"{client.title}: turned away, as the emulated server does", 1)
                self._nursery.start_soon(_turn_away, client)
                continue
            self._nursery.start_soon(client.write_own)
            return client

    async def aclose(self) -> None:
        """Stop listening."""
        await self._inner.aclose()


async def _close(client: Endpoint) -> None:
    with trio.CancelScope(shield=True):
        await client.aclose()


async def _turn_away(client: EmulatedClient) -> None:
    try:
        await client.finish()
    finally:
        await client.aclose()


@dataclass(frozen=True, kw_only=True)
class EmulatedListen(EndpointSpec):
    """The left end of the pipeline."""

    caps: ClassVar[Caps] = Caps(role="controller", half_close=True, listens=True)

    carrier: Any
    behaviour: Behaviour
    faults: Faults
    words: str
    """The profile as the user wrote it."""

    def describe(self) -> str:
        """``emulate sredird+late, tcp-listen 127.0.0.1:4000``."""
        return f"emulate {self.words}, {self.carrier.describe()}"

    def listening(self) -> ListenOptions:
        """As the carrier does."""
        found: ListenOptions = self.carrier.listening()
        return found

    async def listen(self, nursery: trio.Nursery, context: Context) -> EmulatedListener:
        """Stand. Raises OpenFailed."""
        return EmulatedListener(await self.carrier.listen(nursery, context), self, nursery, context)


def plan_of(
    profile: str, behind: str = "loop:,realtime=off", listen: str = "4000", options: Options = _OPTIONS
) -> Plan:
    """The plan of such a server. Raises UsageError."""
    from serpipe.endpoints.tcp import TcpListen
    from serpipe.grammar import Chain, Parsed, parse_endpoint

    behaviour, faults = parse_profile(profile)
    try:
        address = parse_address(listen)
    except BadValue as error:
        raise UsageError(f"--listen: {error}", word=listen, span=(0, len(listen))) from None
    carrier = TcpListen(address=address)
    spec = EmulatedListen(carrier=carrier, behaviour=behaviour, faults=faults, words=profile)
    return plan(Chain(Parsed(profile, "emulate", spec), (), parse_endpoint(behind)), options)


def run(argv: list[str]) -> int | tuple[Plan, int]:
    """What is to run, and how much it says; `argv` is what follows the command's name. Raises UsageError."""
    from docopt import DocoptExit, docopt

    try:
        arguments = docopt(HELP, ["emulate", *argv], default_help=False)
    except DocoptExit:
        raise UsageError(
            "emulate takes a profile, perhaps an endpoint, --listen, --ready-fd, -q and -d",
            word=" ".join(argv),
            cure="as serpipe emulate sredird+late --listen 4000",
        ) from None
    if arguments["--help"]:
        print(HELP, end="")
        return 0
    options = replace(Options(), ready_fd=_descriptor(arguments["--ready-fd"]))
    planned = plan_of(
        arguments["PROFILE"], arguments["ENDPOINT"] or "loop:,realtime=off", arguments["--listen"], options
    )
    return planned, -1 if arguments["--quiet"] else int(arguments["--debug"])


def _descriptor(text: str | None) -> int | None:
    """An open descriptor's number. Raises UsageError."""
    if text is None:
        return None
    try:
        number = int(text)
        os.fstat(number)
    except (ValueError, OSError):
        cure = f"open it first: serpipe emulate --ready-fd {text} ... {text}>ready"
        raise UsageError(
            f"--ready-fd: {text!r} is no open descriptor", word=text, span=(0, len(text)), cure=cure
        ) from None
    return number
