"""One owner per port: against ourselves, against other programs, and against what dead ones leave."""

import fcntl
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from serpipe import _serial_lock as lock
from serpipe._serial_lock import Busy, Holder, PortLock


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "LOCK_FOLDER", str(tmp_path))
    return tmp_path


@pytest.fixture
def tty():
    master, slave = os.openpty()
    path = os.ttyname(slave)
    yield slave, path
    os.close(master)
    os.close(slave)


@pytest.fixture
def dead_pid():
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def _is_up(cat):
    """Wait until it has its name: Popen returns a moment before."""
    cat.stdin.write(b"x")
    cat.stdin.flush()
    assert cat.stdout.read(1) == b"x"


@pytest.fixture
def live():
    """Another live process."""
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    _is_up(child)
    yield child
    child.kill()
    child.communicate()


def test_the_file_is_made_and_goes(tty, folder):
    fd, path = tty
    held = PortLock.take(fd, path)
    file = folder / f"LCK..{os.path.basename(path)}"
    assert held.file == str(file)
    assert file.read_text() == f"{os.getpid():10d}\n"
    assert file.stat().st_mode & 0o777 == 0o644
    assert os.listdir(folder) == [file.name]
    held.release()
    held.release()
    assert os.listdir(folder) == []


def test_a_second_open_in_this_process_is_refused_and_named(tty):
    fd, path = tty
    held = PortLock.take(fd, path)
    other = os.open(path, os.O_RDWR | os.O_NOCTTY)
    with pytest.raises(Busy, match=rf"in use by (this process \(pid {os.getpid()}\)|another program)"):
        PortLock.take(other, path)
    held.release()
    PortLock.take(other, path).release()
    os.close(other)


def test_a_live_owner_of_the_file_is_named(tty, folder, live):
    fd, path = tty
    file = Path(lock.lock_file(path))
    file.write_text(f"{live.pid:10d}\n")
    with pytest.raises(Busy) as caught:
        PortLock.take(fd, path)
    assert caught.value.holders == [Holder(live.pid, "cat")]
    assert str(caught.value) == f"in use by cat (pid {live.pid})"
    assert file.read_text() == f"{live.pid:10d}\n"
    # nothing is held after a refusal
    other = os.open(path, os.O_RDWR | os.O_NOCTTY)
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(other)


def test_a_binary_lock_file_is_understood(tty, live):
    fd, path = tty
    Path(lock.lock_file(path)).write_bytes(struct.pack("i", live.pid))
    with pytest.raises(Busy, match=f"pid {live.pid}"):
        PortLock.take(fd, path)


def test_a_name_after_the_pid_is_understood(tty, live):
    fd, path = tty
    Path(lock.lock_file(path)).write_text(f"{live.pid:10d} minicom root\n")
    with pytest.raises(Busy, match=f"pid {live.pid}"):
        PortLock.take(fd, path)


@pytest.mark.parametrize("content", ["dead", "ours", "garbage", "empty", "huge"])
def test_a_stale_file_is_replaced(tty, dead_pid, content):
    fd, path = tty
    text = {
        "dead": f"{dead_pid:10d}\n",
        "ours": f"{os.getpid():10d}\n",  # left by a process before us that had our number
        "garbage": "who knows\n",
        "empty": "",
        "huge": "99999999999999999999\n",
    }[content]
    file = Path(lock.lock_file(path))
    file.write_text(text)
    held = PortLock.take(fd, path)
    assert file.read_text() == f"{os.getpid():10d}\n"
    held.release()
    assert not file.exists()


def test_without_the_folder_flock_alone_holds(tty, monkeypatch):
    fd, path = tty
    monkeypatch.setattr(lock, "LOCK_FOLDER", "/nonexistent/folder")
    held = PortLock.take(fd, path)
    assert held.file is None
    other = os.open(path, os.O_RDWR | os.O_NOCTTY)
    with pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(other)
    held.release()


def test_a_file_that_is_no_longer_ours_stays(tty, live):
    fd, path = tty
    held = PortLock.take(fd, path)
    file = Path(lock.lock_file(path))
    file.write_text(f"{live.pid:10d}\n")
    held.release()
    assert file.exists()


def test_the_file_is_named_after_the_node_and_not_the_link(tty, tmp_path):
    _, path = tty
    link = tmp_path / "by-id-name"
    link.symlink_to(path)
    assert lock.lock_file(str(link)) == lock.lock_file(path)


def test_holders_finds_who_has_it_open(tty):
    _, path = tty
    assert [h.pid for h in lock.holders([path])[path]] == [os.getpid()]
    other_master, other = os.openpty()
    other_path = os.ttyname(other)
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=other)
    os.close(other)
    try:
        _is_up(child)
        found = lock.holders([path, other_path, "/nonexistent"])
        assert found[other_path] == [Holder(child.pid, "cat")]
        assert set(found) == {path, other_path}
    finally:
        child.kill()
        child.communicate()
        os.close(other_master)


@pytest.mark.peer("picocom")
def test_picocom_holds_its_port(tty):
    fd, path = tty
    user_master, user = os.openpty()  # picocom needs a terminal of its own, to talk to its user
    # a session of its own too, since at its end it signals its whole process group
    picocom = subprocess.Popen(["picocom", path], stdin=user, stdout=user, stderr=user, start_new_session=True)
    try:
        said = b""
        while b"Terminal ready" not in said:
            said += os.read(user_master, 4096)
        with pytest.raises(Busy, match=rf"picocom \(pid {picocom.pid}\)"):
            PortLock.take(fd, path)
    finally:
        picocom.terminate()
        picocom.wait()
        os.close(user)
        os.close(user_master)
