"""The house's order: who may import whom, and what a start must not load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "serpipe"

# From the ground up; a module may import its own floor and those below it.
_FLOORS: list[tuple[str, ...]] = [
    ("events", "errors", "_"),
    ("protocol",),
    ("grammar", "registry", "options", "docs"),
    ("endpoints", "stages"),
    ("pipeline", "lanes", "serve", "reconnect", "share", "trace", "api"),
    ("commands",),
    ("cli",),
    ("__main__",),
]
_PROTOCOL_MAY = {"serpipe.options"}
"""What protocol/ may import although it stands above: the Kinds that its option tables are made of."""
_BASES = {"serpipe.endpoints.base", "serpipe.stages.base"}
"""The two contracts: whoever writes an endpoint or a stage imports its own."""
_IO = {"trio", "os", "socket", "serial", "select", "termios", "fcntl", "subprocess", "tty", "pty", "threading", "time"}


def floor(module: str) -> int:
    """The floor of a module of ours by its dotted name; serpipe/__init__ is on the ground."""
    parts = module.split(".")
    if len(parts) == 1:
        return 0
    for number, names in enumerate(_FLOORS):
        if parts[1] in names:
            return number
    if parts[1].startswith("_"):
        return 0
    raise AssertionError(f"{module} has no floor: give it one in this test, and in the design")


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> list[tuple[str, int, bool]]:
    """Everything that a file imports, wherever in it: the module, the line, and whether it is for types alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno, id(node) in for_types) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            assert node.module is not None
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                is_module = (ROOT / Path(*name.split("."))).with_suffix(".py").exists()
                is_package = (ROOT / Path(*name.split(".")) / "__init__.py").exists()
                found.append((name if is_module or is_package else node.module, node.lineno, id(node) in for_types))
    return found


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_a_module_imports_only_from_below(path: Path) -> None:
    mine = module_name(path)
    if mine == "serpipe":  # it hands out names of floors above, when they are first used
        assert all(only_types for module, _, only_types in imports(path) if module.startswith("serpipe"))
        return
    faults = []
    for module, line, only_types in imports(path):
        where = f"{path.relative_to(ROOT)}:{line} imports {module}"
        if mine.startswith("serpipe.protocol") and module.split(".")[0] in _IO:
            faults.append(f"{where}: protocol/ does no input and output, and has no clock")
        if module.split(".")[0] != "serpipe":
            continue
        if floor(module) > floor(mine) and not (mine.startswith("serpipe.protocol") and module in _PROTOCOL_MAY):
            if not (only_types and module in _BASES):
                faults.append(f"{where}: it stands above")
        elif floor(module) == floor(mine) and mine.split(".")[1] in ("endpoints", "stages"):
            own_base = f"serpipe.{mine.split('.')[1]}.base"
            if module != own_base and module != f"serpipe.{mine.split('.')[1]}":
                faults.append(f"{where}: endpoints and stages know nothing of each other")
        elif mine.startswith("serpipe.commands.") and module.startswith("serpipe.commands."):
            faults.append(f"{where}: commands know nothing of each other")
    assert not faults, "\n".join(faults)


def test_events_stand_on_nothing_of_ours() -> None:
    assert not [module for module, *_ in imports(PACKAGE / "events.py") if module.startswith("serpipe")]


def loaded_by(code: str) -> set[str]:
    """The modules that a fresh Python has loaded after `code`."""
    script = f"{code}\nimport sys\nprint(*sys.modules, sep='\\n', file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=True,
    )
    return set(done.stderr.split())


_LAZY = {
    "serial", "rich", "ssl", "asyncio", "docopt", "argparse", "tomllib", "fastcrc", "importlib.metadata", "difflib",
    "json", "logging", "hashlib", "serpipe.docs", "serpipe.commands.help",
}  # fmt: skip


def test_importing_the_command_line_loads_little() -> None:
    loaded = loaded_by("import serpipe.cli")
    assert not loaded & (_LAZY | {"trio"})
    assert not {name for name in loaded if name.startswith(("serpipe.endpoints.", "serpipe.stages."))}


def test_importing_the_package_loads_nothing() -> None:
    loaded = loaded_by("import serpipe")
    assert {name for name in loaded if name.startswith("serpipe")} == {"serpipe"}
    assert not loaded & (_LAZY | {"trio"})


def test_a_line_loads_the_modules_of_its_words_alone() -> None:
    """Beside trio, and what trio itself loads, which is ssl and much more."""
    with_trio = loaded_by("import trio, docopt")
    loaded = loaded_by("import serpipe.cli; assert serpipe.cli.main(['--explain', 'null:', 'tcp:localhost:9']) == 0")
    assert not (loaded - with_trio) & _LAZY
    words = {name for name in loaded if name.startswith(("serpipe.endpoints.", "serpipe.stages."))}
    assert {"serpipe.endpoints.null", "serpipe.endpoints.tcp"} <= words
    assert not words & {"serpipe.endpoints.serial", "serpipe.endpoints.pty", "serpipe.stages.checksum"}


def test_fastcrc_and_pyserial_come_with_their_words() -> None:
    loaded = loaded_by("from serpipe import registry; registry.find_stage('pace')")
    assert not loaded & {"fastcrc", "serial", "trio", "rich"}
