"""Every example runs by itself, here and now, and ends with 0."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted(path.name for path in (ROOT / "examples").iterdir() if path.suffix in (".py", ".sh"))


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A PATH whose `serpipe` is this checkout under this Python, and a home and a temporary folder of their own."""
    folder = tmp_path / "bin"
    folder.mkdir()
    command = folder / "serpipe"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m serpipe "$@"\n')
    command.chmod(0o755)
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    path = os.pathsep.join([str(folder), os.environ.get("PATH", os.defpath)])
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "TMPDIR": str(scratch)}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs_and_leaves_nothing(name: str, environment: dict[str, str]) -> None:
    interpreter = sys.executable if name.endswith(".py") else "sh"
    done = subprocess.run(
        [interpreter, str(ROOT / "examples" / name)],
        env=environment,
        cwd=environment["HOME"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, f"{name} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert done.stdout, "an example shows something"
    assert os.listdir(environment["TMPDIR"]) == [], "it left something in the temporary folder"


def test_the_first_run_says_what_happened(environment: dict[str, str]) -> None:
    """What a newcomer sees of README's first command."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples/first_run.py")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    sums = [line.split()[-1] for line in done.stdout.splitlines() if "SHA-256" in line]
    assert len(sums) == 2
    assert sums[0] == sums[1]
    assert "1048576 bytes" in done.stdout
    assert "the port answers 57600" in done.stdout
    assert "Every byte came back unchanged" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name.endswith(".sh")])
def test_a_shell_example_is_plain_sh_and_executable(name: str) -> None:
    path = ROOT / "examples" / name
    assert path.read_text().startswith("#!/bin/sh\n")
    assert os.access(path, os.X_OK)
    subprocess.run(["sh", "-n", str(path)], check=True)
    assert "sleep" not in path.read_text(), "wait for --ready-fd, not for the clock"
