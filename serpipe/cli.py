"""The command line: options, exit codes, signals, and everything that is said on stderr.

Theory of operation
-------------------
The first word picks the command; everything else is the line of a pipeline. docopt-ng parses options out of `USAGE`,
which is also what ``--help`` prints and what the manual's option list is made from; words are the grammar's.
This is the only file that prints errors: one line per cause, the word with a caret under the fault where there is one, never
a traceback without -ddd.

A signal ends the pipeline in order: what was accepted is delivered for at most -t, everything is put back, then the
signal's default action is restored and the signal raised again, so that a shell loop and a service manager see it. A
second one does not wait for delivery.
"""

from __future__ import annotations

import importlib
import math
import os
import signal
import sys
from collections import deque
from typing import TYPE_CHECKING, Any

from serpipe import __version__
from serpipe.errors import BadValue, SerpipeError, UsageError, endpoint_lost, leaves

if TYPE_CHECKING:
    from serpipe.pipeline import Options, Pipeline, Plan

USAGE = """serpipe: serial plumbing. Wires two endpoints together, with stages between them.

Usage:
  serpipe [options] [-d]... ENDPOINT [STAGE ...] ENDPOINT
  serpipe COMMAND [ARG ...]

Options:
  -u, --right-only     bytes go left to right only
  -U, --left-only      bytes go right to left only
  -t TIME, --linger TIME
                       after one direction has ended, end when nothing has moved
                       for this long (default: 2s with a port, else 0.5s)
  -T TIME, --idle TIME
                       end, with exit code 5, when no byte has moved for this long;
                       behind a listener it ends the session of the idle client
  -x, --hex            show what passes as hex, on stderr (a hexdump stage, left)
  -v, --text           show what passes as text, on stderr; -x -v shows both
  --trace FILE         write every event at every position as JSON lines
  --explain            say what would run, what is inserted and what is the
                       default, and run nothing
  --ready-fd N         write one line, "ready LEFT RIGHT", to this descriptor when
                       both ends stand, and close it
  -q, --quiet          say only errors, and what a stage like checksum is there for
  -d, --debug          say more: -d sessions, negotiation and controls, -dd
                       details, -ddd tracebacks
  -V, --version        print the version
  -h, --help           print this help

Commands:
  emulate PROFILE[+FAULT...] [ENDPOINT]
                       an RFC 2217 server that misbehaves on purpose
  help [TOPIC]         explain an endpoint, a stage, a command or a subject
  ports [--json]       list the serial ports of this machine

"serpipe help" lists the endpoints and stages.
"""

COMMANDS = {"emulate": "serpipe.commands.emulate", "help": "serpipe.commands.help", "ports": "serpipe.commands.ports"}

_OPTIONS_TEXT = USAGE[USAGE.index("Options:") : USAGE.index("Commands:")]


class Voice:
    """What is said on stderr: lines, by level, and never so that a stalled terminal stalls the loop."""

    KEEP = 1000

    def __init__(self, verbosity: int = 0) -> None:
        self.verbosity = verbosity
        self._waiting: deque[str] = deque(maxlen=self.KEEP)

    def note(self, text: str, level: int) -> None:
        """Say a line if the level is wanted: -1 always, 0 unless -q, 1 with -d, 2 with -dd."""
        if level <= self.verbosity:
            self._waiting.append(f"serpipe: {text}\n")
            self._flush(block=False)

    def say(self, text: str) -> None:
        """Say a line now, whatever it takes."""
        self._waiting.append(text + "\n")
        self._flush(block=True)

    def _flush(self, *, block: bool) -> None:
        from serpipe._fdio import writable_now

        while self._waiting and (block or writable_now(2)):
            try:
                os.write(2, self._waiting.popleft().encode(errors="backslashreplace"))
            except OSError:  # stderr is closed or full: there is nowhere to say so
                return


def _split(argv: list[str]) -> dict[str, Any]:
    """The options and words of a pipeline's line. Raises UsageError where an option is not one of ours."""
    from docopt import DocoptExit, docopt, parse_options

    # docopt's own words for a wrong option are Python objects: what can be wrong is looked for first
    _check_options(argv, parse_options(_OPTIONS_TEXT))
    try:
        found: dict[str, Any] = docopt(
            "Usage: serpipe [options] [-d]... [--] [WORD]...\n\n" + _OPTIONS_TEXT, argv, default_help=False
        )
    except DocoptExit:
        raise UsageError("the options cannot be understood", cure="see serpipe --help") from None
    if found["--"]:
        found["WORD"] = [word for word in found["WORD"] if word != "--"]
    return found


_REFUSED = {
    "b": "a rate is the port's: write it behind the endpoint, as /dev/ttyUSB0,115200",
}


def _check_options(argv: list[str], known: list[Any]) -> None:
    """Raise UsageError, with the fault marked, where an option is unknown, ambiguous or lacks its value."""
    longs = {option.longer: option for option in known}
    shorts = {option.short[1:]: option for option in known if option.short}
    words = iter(argv)
    for word in words:
        if word == "--":
            return
        if word.startswith("--"):
            name, equals, _ = word.partition("=")
            matches = [name] if name in longs else [long for long in longs if long.startswith(name)]
            span = (0, len(name))
            if len(matches) != 1:
                from serpipe.grammar import nearest

                cure = (
                    f"it could be {' or '.join(matches)}" if matches else nearest(name, longs) or "see serpipe --help"
                )
                raise UsageError(f"there is no option {name}", word=word, span=span, cure=cure)
            takes_value = longs[matches[0]].argcount
            if takes_value and not equals and next(words, None) is None:
                raise UsageError(f"{matches[0]} needs a value", word=word, span=span, cure="see serpipe --help")
            if equals and not takes_value:
                raise UsageError(f"{matches[0]} takes no value", word=word, span=(len(name), len(word)))
        elif word.startswith("-") and word != "-" and not word.startswith("-,"):
            for i, letter in enumerate(word[1:], 1):
                if letter not in shorts:
                    cure = _REFUSED.get(letter, "see serpipe --help")
                    raise UsageError(f"there is no option -{letter}", word=word, span=(i, i + 1), cure=cure)
                if shorts[letter].argcount:
                    if i == len(word) - 1 and next(words, None) is None:
                        raise UsageError(
                            f"-{letter} needs a value", word=word, span=(i, i + 1), cure="see serpipe --help"
                        )
                    break


def _time(option: str, text: str) -> float:
    from serpipe.options import parse_duration

    try:
        return parse_duration(text)
    except BadValue as error:
        raise UsageError(f"{option}: {error}", word=text, span=(0, len(text))) from None


def _options(found: dict[str, Any]) -> Options:
    from serpipe.pipeline import Options

    if found["--right-only"] and found["--left-only"]:
        raise UsageError("-u and -U together let no byte through", cure="give one of them")
    ready_fd: int | None = None
    if (text := found["--ready-fd"]) is not None:
        try:
            ready_fd = int(text)
            os.fstat(ready_fd)
        except (ValueError, OSError):
            cure = f"open it first: serpipe --ready-fd {text} ... {text}>ready"
            raise UsageError(
                f"--ready-fd: {text!r} is no open descriptor", word=text, span=(0, len(text)), cure=cure
            ) from None
        if ready_fd in (0, 1) and any(word == "-" or word.startswith("stdio:") for word in found["WORD"]):
            raise UsageError(
                f"--ready-fd {text}: that descriptor carries the data of stdio:",
                word=text,
                span=(0, len(text)),
                cure="take another, as 3",
            )
    dump = ""
    if found["--hex"] or found["--text"]:
        both = found["--hex"] and found["--text"]
        dump = "hexdump,format=" + ("canonical" if both else "hex" if found["--hex"] else "text")
    return Options(
        one_way="->" if found["--right-only"] else "<-" if found["--left-only"] else None,
        linger=None if found["--linger"] is None else _time("-t", found["--linger"]),
        idle=math.inf if found["--idle"] is None else _time("-T", found["--idle"]) or math.inf,
        dump=dump,
        trace=found["--trace"] or "",
        ready_fd=ready_fd,
    )


def main(argv: list[str] | None = None) -> int:
    """The console script. Returns the exit code; a signal that ended it is raised again."""
    argv = sys.argv[1:] if argv is None else argv
    _fill_closed_descriptors()
    voice = Voice()
    try:
        return _main(argv, voice)
    except KeyboardInterrupt:  # before the pipeline took the signal over
        return _die_of(signal.SIGINT)
    except BrokenPipeError:  # the reader of a command's output has gone (serpipe help | head)
        _silence_stdout()
        return 0
    except OSError as error:  # nothing else lets one out: a command's product could not be written
        _silence_stdout()
        return report(endpoint_lost("standard output", error), voice, argv)
    except BaseException as error:
        if isinstance(error, SystemExit):
            raise
        return report(error, voice, argv)


def _fill_closed_descriptors() -> None:
    """Put /dev/null on those of 0, 1 and 2 that are closed, before anything else gets their numbers.

    Not writable on 1, so that data sent there is an error and not lost; `stdio:` sees by this that there is none.
    """
    for fd, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(fd)
        except OSError:
            null = os.open(os.devnull, flags)  # the lowest that is free: this one
            if null != fd:
                os.dup2(null, fd)
                os.close(null)
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 (it stands for the process's own)


def _silence_stdout() -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


def _main(argv: list[str], voice: Voice) -> int:
    if not argv:
        raise UsageError("nothing to do: a chain needs two endpoints", cure="see serpipe --help")
    if argv[0] in COMMANDS:
        run: Any = importlib.import_module(COMMANDS[argv[0]]).run
        done: int | tuple[Plan, int] = run(argv[1:])
        sys.stdout.flush()
        if isinstance(done, int):
            return done
        planned, voice.verbosity = done  # the command is a line of its own, and runs as one
        return _run(planned, voice)
    found = _split(argv)
    voice.verbosity = -1 if found["--quiet"] else int(found["--debug"])
    if found["--help"]:
        print(USAGE, end="", flush=True)
        return 0
    if found["--version"]:
        print(f"serpipe {__version__}", flush=True)
        return 0
    from serpipe import registry
    from serpipe.grammar import nearest, parse_chain
    from serpipe.pipeline import explain, plan

    words = found["WORD"]
    if words and words[0].isalpha() and (near := nearest(words[0], [*COMMANDS, *registry.endpoint_names()])):
        raise UsageError(
            f"{words[0]!r} is neither a command nor an endpoint", word=words[0], span=(0, len(words[0])), cure=near
        )
    planned = plan(parse_chain(words), _options(found))
    if found["--explain"]:
        print("\n".join(explain(planned)), flush=True)
        return 0
    return _run(planned, voice)


def _run(planned: Any, voice: Voice) -> int:
    import trio

    caught: list[int] = []

    async def watch(pipeline: Pipeline, signals: Any) -> None:
        async for number in signals:
            caught.append(number)
            if len(caught) == 1:
                pipeline.stop()
            else:
                pipeline.abort()

    async def work() -> None:
        from serpipe.pipeline import Pipeline

        pipeline = Pipeline(planned, voice.note, lambda line: voice.note(line, 0))
        names = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # under nohup it stays ignored
            names.append(signal.SIGHUP)
        with trio.open_signal_receiver(*names) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch, pipeline, signals)
                await pipeline.run()
                nursery.cancel_scope.cancel()

    code = 0
    try:
        trio.run(work)
    except BaseException as error:
        code = report(error, voice, sys.argv[1:])
    if caught:
        return _die_of(caught[0])
    return code


def _die_of(number: int) -> int:
    """End by the signal itself, so that who started us sees it; the exit code where even that is held off."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    return 128 + number


def report(error: BaseException, voice: Voice, argv: list[str]) -> int:
    """Print an error, a line per cause; the exit code of the first."""
    code = 0
    said = set()
    for leaf in leaves(error):
        if isinstance(leaf, UsageError):
            text = render_usage(leaf, argv)
        elif isinstance(leaf, SerpipeError):
            text = f"serpipe: {leaf}"
        else:
            import trio

            if isinstance(leaf, trio.Cancelled):
                continue
            text = (
                f"serpipe: a fault of serpipe's own: {type(leaf).__name__}: {leaf} (-ddd shows where; please report it)"
            )
        if text not in said:
            said.add(text)
            voice.say(text)
        code = code or (leaf.exit_code if isinstance(leaf, SerpipeError) else 70)
    if voice.verbosity >= 3:
        import traceback

        voice.say("".join(traceback.format_exception(error)).rstrip())
    return code or 70


def render_usage(error: UsageError, argv: list[str]) -> str:
    """The error, and under it the line as typed with a caret below the fault."""
    lines = [f"serpipe: {error}"]
    if error.word and error.span is not None:
        shown = error.word
        start, end = error.span
        before = ""
        # a value stands in a word of its own, or at the end of its option's: -tabc, --linger=abc
        at = next((i for i, arg in enumerate(argv) if arg == error.word), None)
        if at is None:
            at = next((i for i, arg in enumerate(argv) if arg.startswith("-") and arg.endswith(error.word)), None)
        if at is not None:
            joined = argv[at][: len(argv[at]) - len(error.word)]
            before = "".join(f"{arg} " for arg in argv[:at]) + joined
            shown = " ".join([error.word, *argv[at + 1 :]])
        if len(before) + len(shown) > 100:  # a long line would wrap and leave the caret under nothing
            before, shown = "", error.word
        lines.append(f"  {before}{shown}")
        lines.append("  " + " " * (len(before) + start) + "^" * max(1, end - start))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
