"""Specs to words: help texts, the manual's option lists, the README's tables, the index of words.

Theory of operation
-------------------
Everything that is said about an option is made from the one table that `options.opt` fills, so that nothing said can
disagree with what the parser takes. The same rows are rendered three times: as plain text for ``serpipe help``, as
mdoc for ``man/serpipe.1`` and as Markdown for the README. Files that people write by hand hold generated parts between
two marks; ``python -m serpipe.docs --write`` puts fresh text between them and rewrites `_index.py`, ``--check`` says
what is stale, and exits 1.

The index says which module registers which word. Here, and only here, every module of the two folders is imported, and
what the registry then holds is written down, so that an ordinary start can do without. Modules are named by strings and
found by looking at the folders: this module stands below the endpoints and commands it describes, and none is known to it.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import sys
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serpipe import registry
from serpipe.options import FLAG, MODE, PATH, SIZE, TEXT, Kind, Option
from serpipe.registry import Entry

WIDTH = 80
"""Columns of a help text: what a terminal has that nobody has made wider."""

EXIT_CODES: tuple[tuple[int, str], ...] = (
    (0, "done"),
    (1, "the job ran and its answer is bad: a checksum that does not match"),
    (2, "a word of the command line cannot be understood"),
    (3, "an endpoint could not be opened, or was lost"),
    (4, "the peer broke the protocol, or refused what was required"),
    (5, "timed out"),
    (6, "no verdict: nothing came back"),
    (70, "a fault of serpipe's own"),
)
"""What the process ends with; where several things go wrong, the first in time decides."""

EXAMPLES: tuple[tuple[str, str], ...] = (
    ("serpipe pty:/tmp/lab3 rfc2217://lab3:4000", "a serial port of another machine, as a local tty"),
    ("serpipe rfc2217-listen:4000 /dev/ttyUSB0,115200", "this machine's port, for any RFC 2217 client"),
    ("serpipe pty:/tmp/dev hexdump loop:", "a device that echoes, all of it shown, no hardware"),
)

GRAMMAR = """\
A line of serpipe

  serpipe [OPTIONS] ENDPOINT [STAGE ...] ENDPOINT

  ENDPOINT = ( SCHEME:BODY | - | PATH | COMn ) {,KEY[=VALUE]}
  STAGE    = NAME[:ARG] {,KEY[=VALUE]}

Every endpoint and every stage is one word of the shell, and the order on the
line is the order in the chain. SCHEME://BODY is the same as SCHEME:BODY. A
stage acts on both directions; where it can be narrowed, dir=right is what goes
-> and dir=left what goes <-.

  -            is stdio:
  PATH         has a slash: a tty there is serial:, anything else file:. A bare
               path never creates; file:PATH may. A leading ~ is the home folder
  COMn         is serial:COMn
  ,KEY         alone switches on what is on or off: file:log,append
  ,115200      or ,9600n81 or ,8N1 sets the line of a port: /dev/ttyUSB0,115200
  %2C          is a comma in a body or a value, %25 a percent sign; there is no
               other escape

The body, up to the first comma, is the value of one option, and the help says
of which: pty:/tmp/a is pty:,link=/tmp/a.

A scheme that ends in -listen is a server. It listens on this machine's loopback
alone unless it is told an address: tcp-listen:0.0.0.0:4000 is open to the
network. Port 0 takes a free one, and says which.

IPv6 addresses have brackets, and then the shell wants quotes: 'tcp:[::1]:5000'.
Without quotes: tcp:5000,host=::1

The URLs of pySerial are taken as pasted: socket://HOST:PORT,
rfc2217://HOST:PORT?ign_set_control, loop://, spy://, hwgrep://, alt://.

Sizes may end in k M G (1024), times in us ms s m h d; a bare number is bytes or
seconds.
"""

LINE = """\
The settings of a serial line

Any port takes them as options, and takes the usual short forms as bare words:

  serpipe - /dev/ttyUSB0,115200          the rate
  serpipe - /dev/ttyUSB0,115200,8N1      rate and format
  serpipe - /dev/ttyUSB0,9600e71         both in one word, as ser2net spells it
  serpipe - /dev/ttyUSB0,baud=9600,parity=even,flow=hard

What is not given is left as the device has it. Settings are printed back as
115200 8N1 flow=none.

"""


# --- what there is ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """One option as it is shown: ``key``, ``=KIND`` or "", what it is, and what holds where it is not given."""

    key: str
    value: str
    help: str
    default: str = ""
    required: bool = False
    body: bool = False

    @property
    def head(self) -> str:
        """``baud=RATE``."""
        return self.key + self.value

    @property
    def text(self) -> str:
        """The help with what else is to be known."""
        notes = ["the part after the colon"] if self.body else []
        if self.required:
            notes.append("required")
        elif self.default:
            notes.append(f"default {self.default}")
        return f"{self.help} ({'; '.join(notes)})" if notes else self.help


@dataclass(frozen=True, slots=True)
class Section:
    """The options of one layer of a word, and whose they are where it is not the word's own."""

    title: str
    rows: tuple[Row, ...]


def load_all() -> tuple[list[Entry], list[Entry]]:
    """Import every module of our own; the endpoints and the stages that they registered, by name."""
    for package_name in ("serpipe.endpoints", "serpipe.stages"):
        package = importlib.import_module(package_name)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{package_name}.{module.name}")
    own = [(group, e) for (group, _), e in sorted(registry._entries.items()) if e.cls.__module__.startswith("serpipe.")]
    return [e for group, e in own if group == "endpoint"], [e for group, e in own if group == "stage"]


def commands() -> dict[str, str]:
    """The commands there are, and the one line that each says of itself."""
    found = {}
    package = importlib.import_module("serpipe.commands")
    for module in pkgutil.iter_modules(package.__path__):
        if not module.name.startswith("_"):
            text = command_help(module.name)
            first = text.strip().splitlines()[0] if text else ""
            found[module.name] = re.sub(r"^serpipe \S+: ", "", first).rstrip(".")
    return found


def command_help(name: str) -> str:
    """The help text of one command; "" where there is no such command."""
    try:
        return str(importlib.import_module(f"serpipe.commands.{name}").HELP)
    except (ModuleNotFoundError, AttributeError):
        return ""


def main_usage() -> str:
    """The docopt text of the command itself. It is `cli.py`'s, which stands above: found by name, when it is asked for."""
    return str(importlib.import_module("serpipe.cli").USAGE)


def main_options() -> list[tuple[list[tuple[str, str]], str]]:
    """The options of the command: for each its flags with the name of their value, and its help in one line."""
    from docopt import parse_docstring_sections

    rows = []
    after = parse_docstring_sections(main_usage()).after_usage
    for block in re.split(r"^[ \t]+(?=-)", after, flags=re.M)[1:]:
        block = re.split(r"\n[ \t]*\n|\n(?=\S)", block, maxsplit=1)[0]  # what follows the list is no option's text
        forms, _, text = block.partition("  ")
        flags = [(flag, value) for flag, value in re.findall(r"(--?[\w-]+)(?:[ =]([^\s,]+))?", forms)]
        rows.append((flags, " ".join(text.split())))
    return rows


def carrier_of(entry: Entry) -> Entry | None:
    """What a codec runs over where nothing else is said."""
    return registry.find_endpoint(entry.over) if entry.kind == "codec" else None


def spelling(entry: Entry) -> str:
    """How the word is written, with its body: ``tcp:[HOST:]PORT``, ``hexdump[:PATH]``."""
    inner = carrier_of(entry) or entry
    body = entry.body or inner.body
    colon = "" if entry.kind == "stage" else ":"
    if body is None:
        return entry.name + colon
    if body.required:
        return f"{entry.name}:{body.kind.name}"
    return f"{entry.name}[:{body.kind.name}]" if entry.kind == "stage" else f"{entry.name}:[{body.kind.name}]"


def format_default(option: Option) -> str:
    """What the help says the default is; "" where it is nothing that a user could write."""
    if option.shown_default or option.required:
        return option.shown_default
    value: Any = option.default
    if value is True:
        return "on"
    if value is None or value is False or value == "":
        return ""
    if option.kind is MODE and isinstance(value, int):
        return f"{value:o}"
    if option.kind.name.split("|")[0] == "TIME" and isinstance(value, (int, float)):
        return format_duration(value)
    if option.kind.name.split("|")[0] == SIZE.name and isinstance(value, int):
        return format_size(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def format_duration(seconds: float) -> str:
    """``10ms``, ``2s``, ``5m``: as the grammar takes it."""
    for unit, size in (("h", 3600.0), ("m", 60.0)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g}{unit}"
    if seconds == 0 or seconds >= 1:
        return f"{seconds:g}s"
    return f"{seconds * 1e3:g}ms" if seconds >= 1e-3 else f"{seconds * 1e6:g}us"


def format_size(size: int) -> str:
    """``4096`` as ``4k``: as the grammar takes it."""
    for unit, factor in (("G", 1024**3), ("M", 1024**2), ("k", 1024)):
        if size >= factor and size % factor == 0:
            return f"{size // factor}{unit}"
    return str(size)


def row_of(option: Option) -> Row:
    """One option as it is shown. A switch shows the value that changes it: ``append``, ``nodelay=off``."""
    value = "=" + option.kind.name
    if option.kind is FLAG:
        value = "=off" if option.default is True else ""
    return Row(option.key, value, option.help, format_default(option), option.required, option.body)


def sections(entry: Entry) -> list[Section]:
    """The options of a word, layer by layer."""
    found = [Section("Options", tuple(map(row_of, entry.options)))]
    carrier = carrier_of(entry)
    if carrier is not None:
        found.append(Section(f"Options of {carrier.name}:, which carries it", tuple(map(row_of, carrier.options))))
    return [section for section in found if section.rows]


_SPEAKS_FOR_ITSELF = {TEXT.name, PATH.name}


def kinds(entries: Iterable[Entry]) -> dict[str, str]:
    """What the capitals in the option lists stand for, where they stand for one thing only."""
    fits: dict[str, set[str]] = {}

    def see(kind: Kind) -> None:
        if kind.name.isupper() and kind.name not in _SPEAKS_FOR_ITSELF:
            fits.setdefault(kind.name, set()).add(kind.fits)

    for entry in entries:
        for option in entry.options:
            see(option.kind)
    return {name: texts.pop() for name, texts in sorted(fits.items()) if len(texts) == 1}


# --- plain text -------------------------------------------------------------------------------------------------------


def plain(prose: str) -> str:
    """A docstring's prose without its backticks, wrapped; what is indented stays as it is."""
    parts = []
    for paragraph in re.split(r"\n\s*\n", prose.strip()):
        text = paragraph.replace("``", "`").replace("`", "")
        parts.append(text if re.search(r"^ ", text, re.M) else textwrap.fill(" ".join(text.split()), WIDTH))
    return "\n\n".join(parts)


def columns(rows: Sequence[tuple[str, str]], indent: str = "  ", most: int = 26) -> str:
    """Two columns; a head that is too long for its own has a line to itself."""
    if not rows:
        return ""
    width = min(most, max(len(head) for head, _ in rows))
    lines = []
    for head, text in rows:
        body = textwrap.wrap(text, WIDTH - len(indent) - width - 2, break_on_hyphens=False) or [""]
        first = f"{indent}{head}"
        if len(head) > width:
            lines.append(first)
            first = indent + " " * width
        lines.append(f"{first:<{len(indent) + width}}  {body[0]}".rstrip())
        lines += [" " * (len(indent) + width + 2) + line for line in body[1:]]
    return "\n".join(lines)


def entry_text(entry: Entry) -> str:
    """All there is to say of one endpoint, codec or stage."""
    parts = [f"{spelling(entry)}    {entry.summary}", plain(entry.text), f"Example: {entry.example}"]
    layers = [e for e in (entry, carrier_of(entry)) if e is not None]
    for section in sections(entry):
        parts.append(f"{section.title}:\n" + columns([(row.head, row.text) for row in section.rows]))
    if any(hasattr(layer.cls, "bare_word") for layer in layers):
        parts.append("Bare words set the line too: ,115200 or ,9600n81 or ,8N1 (serpipe help line).")
    legend = kinds(layers)
    if legend:
        parts.append("\n".join(textwrap.fill(f"{name} is {fits}.", WIDTH) for name, fits in legend.items()))
    return "\n\n".join(part for part in parts if part) + "\n"


def list_text(entries: Iterable[Entry]) -> str:
    """A line for each word."""
    return columns([(spelling(entry), entry.summary) for entry in entries])


def exit_text() -> str:
    """The exit codes."""
    return (
        "What serpipe exits with\n\n"
        + columns([(f"{code:>2}", text) for code, text in EXIT_CODES])
        + "\n\nWhere several things go wrong, the first in time decides. On a signal serpipe"
        "\ncleans up and dies of that signal, so that a shell's loop and systemd see it.\n"
    )


def line_text() -> str:
    """The words of a serial line."""
    from serpipe.options import table
    from serpipe.protocol.line import FLOW, PARITY, LineOptions

    rows = [row_of(option) for option in table(LineOptions)]
    legend = [("parity", PARITY.fits), ("flow", FLOW.fits)]
    return LINE + columns([(row.head, row.text) for row in rows]) + "\n\n" + columns(legend) + "\n"


def overview() -> str:
    """What ``serpipe help`` says."""
    endpoints, stages = load_all()
    options = [
        (", ".join(flag + (f" {value}" if value else "") for flag, value in flags), text)
        for flags, text in main_options()
    ]
    return "\n".join(
        [
            "serpipe wires byte streams together, and serial control (baud, format, lines,",
            "break, purge) travels with the data, in order, and is answered.",
            "",
            "Usage:",
            "  serpipe [OPTIONS] ENDPOINT [STAGE ...] ENDPOINT",
            "  serpipe COMMAND ...",
            "",
            "Endpoints:",
            list_text(endpoints),
            "",
            "Stages, any number of them, between the two:",
            list_text(stages),
            "",
            "Commands:",
            columns(list(commands().items())),
            "",
            "Options:",
            columns(options),
            "",
            "Exits with:",
            columns([(f"{code:>2}", text) for code, text in EXIT_CODES]),
            "",
            "Examples:",
            *(f"  {line}\n      {what}" for line, what in EXAMPLES),
            "",
            "serpipe help TOPIC says more: an endpoint, a stage or a command by its name,",
            "endpoints, stages, line (serial settings), grammar, exit. All of it: man serpipe",
            "",
        ]
    )


# --- mdoc -------------------------------------------------------------------------------------------------------------


def sentence(text: str) -> str:
    """A line of help as a sentence. What begins with a word of ours, as `sha256` or `-x`, stays as it is."""
    if re.match(r"[a-z]+([ ,;:-]|$)", text):
        text = text[0].upper() + text[1:]
    return text if text.endswith(".") else text + "."


def mdoc_text(text: str) -> str:
    """Prose, safe on text lines: the roff escape, control lines, and bold for what stands in backticks."""
    text = text.replace("\\", "\\e").replace("``", "`").replace("…", "...")
    text = re.sub(r"`([^`]*)`", r"\\fB\1\\fR", text)
    text = text.replace("->", "\\->").replace(" - ", " \\- ")
    text = re.sub(r"(?<=[.!?]) (?=[A-Z\\])", "\n", text)  # a sentence begins on a line of its own
    return re.sub(r"^(?=[.'])", r"\\&", text, flags=re.M)


def mdoc_word(text: str) -> str:
    """One argument of a macro: never taken for a macro, a delimiter or two arguments."""
    text = text.replace("\\", "\\e").replace('"', "\\(dq")
    if re.fullmatch(r"[A-Z%][a-z0-9]{1,2}|[a-z]{2}|[.,:;()\[\]?!|]", text):
        text = "\\&" + text
    return f'"{text}"' if " " in text else text


def _mdoc_rows(rows: Iterable[Row]) -> list[str]:
    lines = [".Bl -tag -width Ds"]
    for row in rows:
        item = f".It Cm {mdoc_word(row.key)}"
        if row.value == "=off":
            item += " Ns = Ns Cm off"
        elif row.value:
            item += f" Ns = Ns Ar {mdoc_word(row.value[1:])}"
        lines.append(item)
        lines.append(mdoc_text(sentence(row.help)))
        if row.body:
            lines.append("This is the part after the colon.")
        if row.required:
            lines.append("It must be given.")
        elif row.default:
            lines.append(f"The default is {mdoc_text(row.default)}.")
    return [*lines, ".El"]


def _mdoc_prose(prose: str) -> list[str]:
    lines: list[str] = []
    for paragraph in re.split(r"\n\s*\n", prose.strip()):
        lines.append(".Pp")
        if re.search(r"^ ", paragraph, re.M):
            literal = [mdoc_text(line.replace("`", "")) for line in paragraph.splitlines()]
            lines[-1:] = [".Bd -literal -offset indent", *literal, ".Ed"]
        else:
            lines.append(mdoc_text(" ".join(paragraph.split())))
    return lines


def mdoc_entries(entries: Iterable[Entry]) -> str:
    """A subsection for each word."""
    lines: list[str] = []
    for entry in entries:
        lines += [f".Ss {mdoc_word(spelling(entry))}", mdoc_text(sentence(entry.summary)), *_mdoc_prose(entry.text)]
        lines += [".Pp", "Example:", f".Dl {mdoc_word(entry.example)}"]
        if entry.options:
            lines += [".Pp", "Options:", *_mdoc_rows(map(row_of, entry.options))]
        if entry.kind == "codec":
            lines += [".Pp", f"It takes the options of\n.Cm {entry.over}\\&:\nas well, which carries it."]
    return "\n".join(lines)


def mdoc_kinds(entries: Iterable[Entry]) -> str:
    """What the capitals in the lists stand for."""
    lines = [".Bl -tag -width Ds"]
    for name, fits in kinds(entries).items():
        lines += [f".It Ar {mdoc_word(name)}", mdoc_text(fits + ".")]
    return "\n".join([*lines, ".El"])


def mdoc_options() -> str:
    """The options of the command itself."""
    lines = [".Bl -tag -width Ds"]
    for flags, text in main_options():
        forms = []
        for flag, value in flags:
            form = f"Fl {flag[1:]}"
            if value:
                form += (" Ns = Ns Ar " if flag.startswith("--") else " Ar ") + mdoc_word(value)
            forms.append(form)
        lines += [".It " + " , ".join(forms), mdoc_text(sentence(text))]
    return "\n".join([*lines, ".El"])


def mdoc_exit() -> str:
    """The exit codes."""
    lines = [".Bl -tag -width Ds"]
    for code, text in EXIT_CODES:
        lines += [f".It {code}", mdoc_text(sentence(text))]
    return "\n".join([*lines, ".El"])


def _mdoc_usage(word: str) -> str:
    """A word of a usage line as macros: ``[--json]``, ``TOPIC``, ``...``."""
    if word.startswith("[") and word.endswith("]"):
        return f"Op {_mdoc_usage(word[1:-1])}"
    if word.startswith("-"):
        return f"Fl {mdoc_word(word[1:])}"
    return f"{'Ar' if word.isupper() else 'Cm'} {mdoc_word(word)}"


def mdoc_commands() -> str:
    """The commands, as their usage has them."""
    from docopt import parse_docstring_sections

    lines = [".Bl -tag -width Ds"]
    for name, summary in commands().items():
        for line in parse_docstring_sections(command_help(name)).usage_body.strip().splitlines():
            if not line.endswith("--help"):
                lines.append(" ".join([".It Cm", name, *map(_mdoc_usage, line.split()[2:])]))
        lines.append(mdoc_text(sentence(summary)))
    return "\n".join([*lines, ".El"])


# --- Markdown ---------------------------------------------------------------------------------------------------------


def _code(text: str) -> str:
    return "`" + text.replace("|", "\\|") + "`"


def markdown_table(entries: Iterable[Entry], title: str) -> str:
    """A table of words."""
    lines = [f"| {title} | What it is | Options |", "|---|---|---|"]
    for entry in entries:
        keys = " ".join(_code(row.key) for section in sections(entry)[:1] for row in section.rows)
        if entry.kind == "codec":
            keys = f"{keys} and those of {_code(entry.over + ':')}".removeprefix(" and ")
        summary = entry.summary.replace("|", "\\|")
        lines.append(f"| {_code(spelling(entry))} | {summary} | {keys} |")
    return "\n".join(lines)


def markdown_exit() -> str:
    """The exit codes."""
    return "\n".join(["| Exit | Means |", "|---|---|", *(f"| {code} | {text} |" for code, text in EXIT_CODES)])


# --- files ------------------------------------------------------------------------------------------------------------


def index_text(endpoints: Iterable[Entry], stages: Iterable[Entry]) -> str:
    """The whole of `_index.py`."""

    def dictionary(name: str, entries: Iterable[Entry]) -> list[str]:
        rows = sorted((entry.name, entry.cls.__module__) for entry in entries)
        return [f"{name}: dict[str, str] = {{", *(f'    "{word}": "{module}",' for word, module in rows), "}"]

    return "\n".join(
        [
            '"""Generated by ``python -m serpipe.docs --write``: which module registers which word. Do not edit."""',
            "",
            *dictionary("ENDPOINTS", endpoints),
            "",
            *dictionary("STAGES", stages),
            "",
        ]
    )


def fill(text: str, begin: str, end: str, parts: dict[str, str]) -> str:
    """`text` with each part between its marks replaced. Raises LookupError where a mark is missing."""
    for name, part in parts.items():
        marks = re.compile(f"({re.escape(begin.format(name))}\n).*?({re.escape(end)}\n)", re.S)
        text, count = marks.subn(lambda match, part=part: match[1] + part + "\n" + match[2], text)  # type: ignore[misc]
        if count != 1:
            raise LookupError(f"no place for the generated part {name!r}")
    return text


def generated(root: Path) -> dict[Path, str]:
    """Each file that is generated, or has generated parts, as it should read."""
    endpoints, stages = load_all()
    files = {root / "serpipe/_index.py": index_text(endpoints, stages)}
    manual = root / "man/serpipe.1"
    files[manual] = fill(
        manual.read_text(encoding="utf-8"),
        '.\\" generated: {}',
        '.\\" end of generated',
        {
            "options": mdoc_options(),
            "commands": mdoc_commands(),
            "endpoints": mdoc_entries(endpoints),
            "stages": mdoc_entries(stages),
            "values": mdoc_kinds([*endpoints, *stages]),
            "exit": mdoc_exit(),
        },
    )
    readme = root / "README.md"
    files[readme] = fill(
        readme.read_text(encoding="utf-8"),
        "<!-- generated: {} -->",
        "<!-- end of generated -->",
        {
            "endpoints": markdown_table(endpoints, "Endpoint"),
            "stages": markdown_table(stages, "Stage"),
            "exit": markdown_exit(),
        },
    )
    return files


def main(argv: Sequence[str]) -> int:
    """``--write`` or ``--check``, in a checkout."""
    root = Path(__file__).resolve().parent.parent
    if list(argv) not in (["--write"], ["--check"]) or not (root / "man/serpipe.1").exists():
        print("usage, in a checkout: python -m serpipe.docs (--write | --check)", file=sys.stderr)
        return 2
    stale = {
        path: text
        for path, text in generated(root).items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    }
    for path, text in stale.items():
        name = path.relative_to(root)
        if argv[0] == "--write":
            path.write_text(text, encoding="utf-8")
            print(f"{name}: written")
        else:
            import difflib

            now = path.read_text(encoding="utf-8") if path.exists() else ""
            sys.stdout.writelines(
                difflib.unified_diff(now.splitlines(True), text.splitlines(True), f"{name}", f"{name}, generated", n=1)
            )
            print(f"{name}: stale; python -m serpipe.docs --write", file=sys.stderr)
    return 1 if stale and argv[0] == "--check" else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
