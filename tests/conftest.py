"""What the tests share: real peers and real ttys, and a watch over what is left open.

Theory of operation
-------------------
A test that needs a program of Debian's says so, `@pytest.mark.peer("ser2net")`. Where the program is missing the test is
skipped and named in the summary; where CI is set it fails, since a machine that checks everything must have everything.

Nothing here sleeps in order to wait. socat and ser2net say on their output when they stand, and that line is what the
fixtures wait for.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import tty
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from fakes_cancel import open_descriptors

ROOT = Path(__file__).parent.parent
_SEARCH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])
_PATIENCE = 20.0
"""Seconds after which a peer that has not said that it stands is taken for dead."""
_missing: Counter[str] = Counter()
_drains: dict[int, threading.Thread] = {}


# --- peers ------------------------------------------------------------------------------------------------------------


@functools.cache
def find_peer(name: str) -> str | None:
    """Where a program is, the sbin folders included, which are not on a user's PATH; None where it is missing.

    `python3-gensio` is a module of the system's own Python, and means that Python where it has it.
    """
    if name == "python3-gensio":
        python = "/usr/bin/python3"
        if not os.path.exists(python):
            return None
        found = subprocess.run([python, "-c", "import gensio"], stderr=subprocess.DEVNULL, check=False).returncode == 0
        return python if found else None
    return shutil.which(name, path=_SEARCH)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, or fail where CI is set, a test whose peer is not on this machine."""
    wanted = [name for mark in item.iter_markers("peer") for name in mark.args]
    missing = [name for name in wanted if find_peer(name) is None]
    if not missing:
        return
    _missing.update(missing)
    reason = f"needs {', '.join(missing)}, which this machine does not have"
    if os.environ.get("CI"):
        pytest.fail(f"{reason}, and CI is set: install it", pytrace=False)
    pytest.skip(reason)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which peers were missing, and how many tests that cost."""
    if _missing:
        what = ", ".join(f"{name} ({count} tests)" for name, count in sorted(_missing.items()))
        terminalreporter.write_line(f"missing peers: {what}", yellow=True)


def wait_for_line(process: subprocess.Popen[bytes], pattern: str, seconds: float = _PATIENCE) -> str:
    """The output of `process` (stderr joined to stdout) up to the line that has `pattern` in it.

    Fails the test where the process ends or falls silent before. What comes later is read and thrown away by a thread,
    so that the peer never blocks on a full pipe.
    """
    assert process.stdout is not None
    fd = process.stdout.fileno()
    said = b""
    deadline = time.monotonic() + seconds
    while not re.search(pattern.encode() + b".*\n", said):
        ready, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
        chunk = os.read(fd, 65536) if ready else b""
        if not chunk:
            what = "ended" if ready else "fell silent"
            pytest.fail(f"{process.args!r} {what} before it said {pattern!r}:\n{said.decode(errors='replace')}")
        said += chunk

    def drain() -> None:
        with contextlib.suppress(OSError, ValueError):
            while os.read(fd, 65536):
                pass

    _drains[process.pid] = threading.Thread(target=drain, daemon=True)
    _drains[process.pid].start()
    return said.decode(errors="replace")


@contextlib.contextmanager
def running(*argv: str) -> Iterator[subprocess.Popen[bytes]]:
    """A peer that runs for as long as the block, its output in one pipe; killed at the end, whatever it does."""
    program = find_peer(argv[0])
    assert program is not None, f"{argv[0]} is missing: mark the test @pytest.mark.peer({argv[0]!r})"
    process = subprocess.Popen(
        [program, *argv[1:]], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.pid in _drains:
            _drains.pop(process.pid).join(1)  # it ends with the process, whose output it reads
        assert process.stdout is not None
        process.stdout.close()


# --- ttys -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def pty_pair() -> Iterator[tuple[int, int]]:
    """(master, slave) of a raw pty, blocking, closed at the end unless the test has closed them."""
    master, slave = os.openpty()
    tty.setraw(slave)
    identity = {fd: os.fstat(fd) for fd in (master, slave)}
    yield master, slave
    for fd, stat in identity.items():
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(fd), stat):  # the number may belong to somebody else by now
                os.close(fd)


@pytest.fixture
def socat_ptys(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """Two linked raw ptys, as a null modem cable: what is written to one is read from the other."""
    left, right = tmp_path / "socat-a", tmp_path / "socat-b"
    ends = [f"pty,raw,echo=0,link={path}" for path in (left, right)]
    with running("socat", "-d", "-d", *ends) as process:
        wait_for_line(process, "starting data transfer loop")
        yield left, right


Ser2net = Callable[..., int]


@pytest.fixture
def ser2net(tmp_path: Path) -> Iterator[Ser2net]:
    """`ser2net(device, "9600n81,local", accepter="telnet(rfc2217),tcp")`: starts one, gives its TCP port on 127.0.0.1.

    ser2net cannot print the port it got for 0, so a free one is chosen before, and another where somebody was faster.
    """
    with contextlib.ExitStack() as stack:
        count = 0

        def start(device: str | Path, settings: str = "9600n81,local", accepter: str = "telnet(rfc2217),tcp") -> int:
            nonlocal count
            for _ in range(20):
                count += 1
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", 0))
                    port: int = probe.getsockname()[1]
                config = tmp_path / f"ser2net-{count}.yaml"
                config.write_text(
                    f"connection: &c1\n  accepter: {accepter},127.0.0.1,{port}\n"
                    f"  connector: serialdev,{device},{settings}\n"
                )
                attempt = contextlib.ExitStack()
                process = attempt.enter_context(running("ser2net", "-r", "-n", "-d", "-u", "-c", str(config)))
                said = wait_for_line(process, "Ready")
                if "Address already in use" not in said:
                    stack.push(attempt)
                    return port
                attempt.close()
            pytest.fail("no TCP port stayed free long enough for ser2net")

        yield start


# --- serpipe itself ---------------------------------------------------------------------------------------------------


@dataclass
class Serpipe:
    """A serpipe process that stands. `left` and `right` are where its ends are: an address, a path, or ``-``."""

    process: subprocess.Popen[bytes]
    left: str
    right: str
    log: Path

    @property
    def said(self) -> str:
        """What it has said on stderr so far."""
        return self.log.read_text(errors="replace")

    def end(self, number: int = signal.SIGTERM, seconds: float = 15) -> int:
        """Send it the signal, unless it has ended, and wait; the exit code, negative for a signal."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(seconds)


@pytest.fixture
def serpipe_process(tmp_path: Path) -> Iterator[Callable[..., Serpipe]]:
    """`serpipe_process("pty:P", "rfc2217://H:P")`: starts it, waits until it stands, and ends it after the test."""
    started: list[Serpipe] = []

    def start(*words: str) -> Serpipe:
        log = tmp_path / f"serpipe-{len(started)}.log"
        read_end, write_end = os.pipe()
        with open(read_end) as ready, open(log, "wb") as stderr:
            argv = [sys.executable, "-m", "serpipe", "--ready-fd", str(write_end), *words]
            process = subprocess.Popen(
                argv, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, pass_fds=[write_end]
            )
            os.close(write_end)
            found = Serpipe(process, "-", "-", log)
            started.append(found)
            line = ready.readline().split()
        if len(line) != 3 or line[0] != "ready":
            pytest.fail(f"{argv[5:]} did not stand: {line}, exit code {process.wait(15)}\n{found.said}")
        found.left, found.right = line[1:]
        return found

    yield start
    for each in started:
        try:
            each.end()
        except subprocess.TimeoutExpired:
            each.process.kill()
            each.process.wait()
            pytest.fail(f"{each.process.args!r} did not end on SIGTERM\n{each.said}")
        finally:
            assert each.process.stdout is not None
            each.process.stdout.close()


# --- leaks ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_leaks() -> Callable[[], contextlib.AbstractContextManager[None]]:
    """`with no_leaks():` holds that the block leaves no descriptor open that was not open before."""

    @contextlib.contextmanager
    def check() -> Iterator[None]:
        before = open_descriptors()
        yield
        left = {fd: what for fd, what in open_descriptors().items() if before.get(fd) != what}
        assert not left, f"left open: {left}"

    return check
