"""What is said agrees with what is: help, manual, README and index come from the tables, and their lines parse."""

import importlib
import io
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from docopt import docopt

from serpipe import _index, docs, grammar, registry
from serpipe.commands import help as help_command
from serpipe.errors import OpenFailed, UsageError
from serpipe.options import DURATION, FLAG, MODE, SIZE, TEXT, Option, opt, table

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
MANUAL = (ROOT / "man/serpipe.1").read_text(encoding="utf-8")
ENDPOINTS, STAGES = docs.load_all()
ENTRIES = [*ENDPOINTS, *STAGES]


# --- what is generated is fresh ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", docs.generated(ROOT), ids=lambda path: path.name)
def test_generated_text_is_fresh(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == docs.generated(ROOT)[path], "run: python -m serpipe.docs --write"


def test_the_index_names_what_the_modules_register() -> None:
    for name, module in _index.ENDPOINTS.items():
        importlib.import_module(module)
        assert registry._entries["endpoint", name].cls.__module__ == module
    for name, module in _index.STAGES.items():
        importlib.import_module(module)
        assert registry._entries["stage", name].cls.__module__ == module
    assert {entry.name for entry in ENDPOINTS} == set(_index.ENDPOINTS)
    assert {entry.name for entry in STAGES} == set(_index.STAGES)


def test_check_and_write_from_the_shell(tmp_path: Path) -> None:
    """In a copy: fresh, then stale and said so, then written, then fresh again."""
    for name in ("serpipe", "man"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "README.md", tmp_path)

    def docs_main(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "serpipe.docs", *args], cwd=tmp_path, capture_output=True, text=True, check=False
        )

    assert docs_main("--check").returncode == 0
    manual = tmp_path / "man/serpipe.1"
    manual.write_text(MANUAL.replace(".It Cm connect-timeout", ".It Cm connect-patience"))
    stale = docs_main("--check")
    assert stale.returncode == 1
    assert "+.It Cm connect-timeout" in stale.stdout
    assert "man/serpipe.1: stale" in stale.stderr
    assert docs_main("--write").stdout == "man/serpipe.1: written\n"
    assert manual.read_text() == MANUAL
    assert docs_main("--check").returncode == 0
    assert docs_main().returncode == 2


def test_a_missing_mark_is_a_fault() -> None:
    with pytest.raises(LookupError, match="no place for the generated part 'b'"):
        docs.fill("<a>\nold\n</>\n", "<{}>", "</>", {"a": "new", "b": "new"})
    assert docs.fill("<a>\nold\n</>\n", "<{}>", "</>", {"a": "n\\1"}) == "<a>\nn\\1\n</>\n"


# --- the rows ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("default", "kind", "shown"),
    [
        (True, FLAG, "on"),
        (False, FLAG, ""),
        (None, TEXT, ""),
        ("x", TEXT, "x"),
        (0.01, DURATION, "10ms"),
        (2.0, DURATION, "2s"),
        (90.0, DURATION, "90s"),
        (300.0, DURATION, "5m"),
        (7200.0, DURATION, "2h"),
        (0.00025, DURATION, "250us"),
        (0.0, DURATION, "0s"),
        (65536, SIZE, "64k"),
        (1000, SIZE, "1000"),
        (0o660, MODE, "660"),
    ],
)
def test_a_default_is_shown_as_it_would_be_typed(default: object, kind: object, shown: str) -> None:
    option = Option(name="x", kind=kind, default=default, help="")
    assert docs.format_default(option) == shown
    if shown:
        assert kind.parse(shown) == default


def test_rows_say_what_must_be_given_and_what_the_body_is() -> None:
    from dataclasses import dataclass

    @dataclass(frozen=True, kw_only=True)
    class Spec:
        connect_timeout: float = opt(10.0, DURATION, "give up after this")
        nodelay: bool = opt(True, FLAG, "at once")
        path: str = opt(None, TEXT, "where", body=True, required=True)

    assert [(row.head, row.text) for row in map(docs.row_of, table(Spec))] == [
        ("connect-timeout=TIME", "give up after this (default 10s)"),
        ("nodelay=off", "at once (default on)"),
        ("path=TEXT", "where (the part after the colon; required)"),
    ]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry.kind} {entry.name}")
def test_every_word_explains_itself(entry: registry.Entry) -> None:
    assert entry.summary
    assert not entry.summary.endswith(".")
    assert "\n" not in entry.summary
    assert entry.text, "the class's docstring is the prose of its help"
    assert not entry.text.startswith(entry.cls.__name__ + "("), "that is the dataclass's own, not prose"
    for option in entry.options:
        assert option.help, option.key
        assert not option.help.endswith("."), option.key
        assert re.fullmatch(r"[a-z][a-z0-9-]*", option.key)
    text = docs.entry_text(entry)
    assert entry.summary in text
    for option in entry.options:
        assert re.search(rf"^  {re.escape(option.key)}\b", text, re.M)
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry.kind} {entry.name}")
def test_the_example_of_every_word_parses(entry: registry.Entry) -> None:
    if entry.kind == "stage":
        assert grammar.parse_stage(entry.example).name == entry.name
    else:
        assert parses(entry.example)


@pytest.mark.parametrize("entry", ENDPOINTS, ids=lambda entry: entry.name)
def test_keys_of_the_layers_of_a_word_are_unique(entry: registry.Entry) -> None:
    layers = [layer for layer in (entry, docs.carrier_of(entry)) if layer is not None]
    keys = [option.key for layer in layers for option in layer.options]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry.kind} {entry.name}")
def test_defaults_that_are_shown_are_understood(entry: registry.Entry) -> None:
    for option in entry.options:
        shown = "" if option.shown_default else docs.format_default(option)
        if shown:
            assert option.kind.parse(shown) == option.default, option.key


def parses(word: str) -> bool:
    """Whether an endpoint's word is understood; that its device is not on this machine is no fault of the word."""
    try:
        grammar.parse_endpoint(word)
    except OpenFailed:
        return True
    return True


# --- help -------------------------------------------------------------------------------------------------------------


def said_by_help(*argv: str) -> str:
    out = io.StringIO()
    with redirect_stdout(out):
        assert help_command.run(list(argv)) == 0
    return out.getvalue()


def test_help_alone_lists_everything() -> None:
    text = said_by_help()
    for entry in ENTRIES:
        assert re.search(rf"^  {re.escape(docs.spelling(entry))}", text, re.M), entry.name
    for name in docs.commands():
        assert re.search(rf"^  {name}\b", text, re.M), name
    for flags, _ in docs.main_options():
        assert all(flag in text for flag, _ in flags)
    for code, _ in docs.EXIT_CODES:
        assert re.search(rf"^  +{code}  ", text, re.M)
    assert max(map(len, text.splitlines())) <= docs.WIDTH + 2


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry.kind} {entry.name}")
def test_help_on_a_word(entry: registry.Entry) -> None:
    topic = entry.name if entry.kind == "stage" else entry.name + ":"
    assert said_by_help(topic) == docs.entry_text(entry)
    assert said_by_help(entry.name.upper())


def test_help_on_a_codec_shows_the_carriers_options_too() -> None:
    text = said_by_help("rfc2217")
    assert "Options of tcp:" in text
    assert "connect-timeout=TIME" in text
    assert said_by_help("rfc2217+tcp:") == text


@pytest.mark.parametrize("topic", ["endpoints", "stages", "line", "grammar", "exit", "-"])
def test_help_on_a_subject(topic: str) -> None:
    text = said_by_help(topic)
    assert text.endswith("\n")
    assert max(map(len, text.splitlines())) <= docs.WIDTH


@pytest.mark.parametrize("command", docs.commands())
def test_help_on_a_command_is_its_own(command: str) -> None:
    text = said_by_help(command)
    assert f"serpipe {command}" in text
    assert "Usage:" in text


def test_the_settings_shown_by_help_line_are_understood() -> None:
    for line in said_by_help("line").splitlines():
        if line.startswith("  serpipe"):
            assert parses(line.split()[2])


@pytest.mark.parametrize(
    ("topic", "cure"),
    [("tpc", "did you mean tcp"), ("hexdum", "did you mean hexdump"), ("exits", "did you mean exit"), ("qqq", "help")],
)
def test_help_on_nothing_known_names_what_is_near(topic: str, cure: str) -> None:
    with pytest.raises(UsageError) as caught:
        help_command.run([topic])
    assert caught.value.word == topic
    assert caught.value.span == (0, len(topic))
    assert cure in caught.value.cure


def test_help_takes_one_topic() -> None:
    with pytest.raises(UsageError, match="one topic"):
        help_command.run(["tcp", "file"])
    assert said_by_help("--help") == help_command.HELP


# --- the manual -------------------------------------------------------------------------------------------------------


@pytest.mark.peer("mandoc")
def test_the_manual_is_clean() -> None:
    done = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "warning", "man/serpipe.1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == ""
    assert done.returncode == 0


@pytest.mark.peer("mandoc")
def test_the_manual_shows_every_option_as_it_is_typed() -> None:
    """Rendered: the escapes and macros of the source must not have eaten anything."""
    done = subprocess.run(
        ["mandoc", "-T", "utf8", "-O", "width=400", "man/serpipe.1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    shown = re.sub(".\b", "", done.stdout).replace("\N{MINUS SIGN}", "-").replace("\N{HYPHEN}", "-")
    for entry in ENTRIES:
        assert re.search(rf"^ +{re.escape(docs.spelling(entry))}$", shown, re.M), entry.name
        for option in entry.options:
            assert re.search(rf"^ +{re.escape(docs.row_of(option).head)}( |$)", shown, re.M), (entry.name, option.key)
    for flags, _ in docs.main_options():
        for flag, value in flags:
            separator = "=" if flag.startswith("--") else " "
            assert flag + (separator + value if value else "") in shown


@pytest.mark.parametrize(
    ("text", "roff"),
    [
        (".start", "\\&.start"),
        ("'quote", "\\&'quote"),
        ("back\\slash", "back\\eslash"),
        ("`word` and ``two``", "\\fBword\\fR and \\fBtwo\\fR"),
        ("One. Two", "One.\nTwo"),
    ],
)
def test_text_is_safe_in_the_manual(text: str, roff: str) -> None:
    assert docs.mdoc_text(text) == roff


@pytest.mark.parametrize(
    ("word", "argument"), [("No", "\\&No"), ("rw", "rw"), ("a b", '"a b"'), ('say"', "say\\(dq"), ("-", "-")]
)
def test_words_are_safe_in_the_manual(word: str, argument: str) -> None:
    assert docs.mdoc_word(word).replace("\\&rw", "rw") == argument


# --- README, and every line that users may paste ----------------------------------------------------------------------


def shell_blocks() -> list[str]:
    return re.findall(r"^```sh\n(.*?)^```$", README, re.M | re.S)


def test_the_first_two_blocks_are_the_two_commands() -> None:
    first, second = shell_blocks()[:2]
    assert first == ("python3 -m venv .venv && .venv/bin/pip install -q . && .venv/bin/python examples/first_run.py\n")
    assert second == ("python3 -m venv .venv && .venv/bin/pip install -q '.[test]' && .venv/bin/python -m pytest -q\n")


def pasted_lines() -> list[str]:
    """Every line that starts serpipe, in the README, the manual, the help and the examples."""
    shown = re.findall(r"^\.Dl (.*)$", MANUAL, re.M)
    for literal in re.findall(r"^\.Bd -literal.*\n((?s:.*?))^\.Ed$", MANUAL, re.M):
        shown += literal.splitlines()
    manual = [line.replace("\\e", "\\").replace("\\-", "-") for line in shown]
    sources = [*"".join(shell_blocks()).splitlines(), *manual, *(line for line, _ in docs.EXAMPLES)]
    return sorted({line for line in sources if re.match(r"(printf .* \| )?serpipe .*[:/-]", line)})


@pytest.mark.parametrize("line", pasted_lines())
def test_a_line_to_paste_is_understood(line: str) -> None:
    """Its words are parsed as serpipe would; its devices need not be on this machine."""
    words = shlex.split(line.split(" | ")[-1], comments=True)[1:]
    words = [word for word in words if word != "&" and not re.match(r"\d>", word)]
    if words[0] in docs.commands():
        docopt(docs.command_help(words[0]), words, default_help=False)
        return
    while words and words[0].startswith("-") and words[0] != "-":
        option = words.pop(0)
        flags = {flag: value for row, _ in docs.main_options() for flag, value in row}
        assert option in flags, line
        if flags[option]:
            words.pop(0)
    assert len(words) >= 2
    assert parses(words[0])
    for word in words[1:-1]:
        grammar.parse_stage(word)
    assert parses(words[-1])


def test_there_are_ten_lines_to_paste_in_the_readme() -> None:
    assert len([line for line in pasted_lines() if line in README]) >= 10


def test_the_python_in_the_readme_runs() -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```$", README, re.M | re.S)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("57600\n", "")


def test_every_link_in_the_readme_to_a_file_leads_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", README):
        assert (ROOT / target).exists(), target
