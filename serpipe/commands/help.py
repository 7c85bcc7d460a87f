"""``serpipe help [TOPIC]``: what there is, and all about one thing of it.

Theory of operation: the texts are `docs.py`'s, which makes them from the tables that the parser uses. Here a topic is
only looked up: a scheme with or without its colon, a stage, a command, or one of the subjects. Help is what was asked
for, so it goes to stdout.
"""

from __future__ import annotations

from serpipe import docs, registry
from serpipe.errors import UsageError
from serpipe.grammar import nearest

HELP = """serpipe help: explain an endpoint, a stage, a command or a subject.

Usage:
  serpipe help [TOPIC]

TOPIC is an endpoint (tcp or tcp:), a stage (hexdump), a command (ports), or
  endpoints   every endpoint, a line each
  stages      every stage, a line each
  line        the settings of a serial line: 115200,8N1
  grammar     how a line of serpipe is written
  exit        what serpipe exits with
"""

_SUBJECTS = {
    "endpoints": lambda: docs.list_text(docs.load_all()[0]) + "\n",
    "stages": lambda: docs.list_text(docs.load_all()[1]) + "\n",
    "line": docs.line_text,
    "grammar": lambda: docs.GRAMMAR,
    "exit": docs.exit_text,
}


def text_of(topic: str) -> str:
    """The help on one topic. Raises UsageError, with the nearest name, where there is none."""
    name = topic.lower().removesuffix(":") if topic != "-" else "stdio"
    if name in _SUBJECTS:
        return _SUBJECTS[name]()
    # a scheme with a carrier, as rfc2217+tcp:, is explained by the scheme
    entry = registry.find_endpoint(name) or (None if topic.endswith(":") else registry.find_stage(name))
    if entry is None and "+" in name:
        carrier, listening, _ = name.partition("-listen")
        entry = registry.find_endpoint(carrier.split("+")[0] + listening)
    if entry is not None:
        return docs.entry_text(entry)
    commands = docs.commands()
    if name in commands:
        return docs.command_help(name)
    names = [*registry.endpoint_names(), *registry.stage_names(), *commands, *_SUBJECTS]
    cure = nearest(name, names) or "serpipe help lists what there is"
    raise UsageError(f"there is no help on {topic!r}", word=topic, span=(0, len(topic)), cure=cure)


def run(argv: list[str]) -> int:
    """Print the help that `argv` asks for. Raises UsageError."""
    if argv in (["-h"], ["--help"]):
        print(HELP, end="")
        return 0
    if len(argv) > 1:
        raise UsageError("help takes one topic", word=argv[1], span=(0, len(argv[1])), cure="as serpipe help tcp")
    print(text_of(argv[0]) if argv else docs.overview(), end="")
    return 0
