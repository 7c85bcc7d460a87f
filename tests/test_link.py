"""The locked symbolic link: whose it is, and that nobody else's is ever touched."""

import os
import signal
import subprocess
import sys

import pytest

from serpipe._link import Link
from serpipe.errors import OpenFailed

HOLDER = """
import sys
from serpipe._link import Link
link = Link.claim("pty:X", sys.argv[1])
link.point(sys.argv[2])
print("held", flush=True)
sys.stdin.read()
"""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def holder():
    """`holder(path, target)`: another process that holds the link."""
    started = []

    def start(path, target="/dev/pts/9999"):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(path), target], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        started.append(process)
        assert process.stdout.readline() == b"held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def test_made_and_removed(tmp_path):
    link = Link.claim("pty:x", str(tmp_path / "x"))
    assert names(tmp_path) == [".x.lock"]
    link.point("/dev/pts/1")
    assert os.readlink(tmp_path / "x") == "/dev/pts/1"
    link.point("/dev/pts/2")
    assert os.readlink(tmp_path / "x") == "/dev/pts/2"
    assert names(tmp_path) == [".x.lock", "x"]
    link.release()
    link.release()
    assert names(tmp_path) == []


def test_a_live_one_is_an_error_that_names_the_process(tmp_path, holder):
    process = holder(tmp_path / "x")
    with pytest.raises(OpenFailed, match=rf"^pty:x: the link belongs to a running serpipe \(process {process.pid}\); "):
        Link.claim("pty:x", str(tmp_path / "x"))
    assert names(tmp_path) == [".x.lock", "x"]
    process.stdin.close()
    assert process.wait() == 0


def test_the_same_process_cannot_hold_it_twice(tmp_path, no_leaks):
    first = Link.claim("pty:x", str(tmp_path / "x"))
    with no_leaks(), pytest.raises(OpenFailed, match="running serpipe"):
        Link.claim("pty:x", str(tmp_path / "x"))
    first.release()
    Link.claim("pty:x", str(tmp_path / "x")).release()


@pytest.mark.parametrize("target", ["/dev/pts/9999", "/dev/null"])
def test_a_dead_ones_link_is_replaced_whatever_it_leads_to_now(tmp_path, holder, target):
    process = holder(tmp_path / "x", target)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert names(tmp_path) == [".x.lock", "x"]
    link = Link.claim("pty:x", str(tmp_path / "x"))
    assert os.readlink(tmp_path / "x") == target, "not before there is something to point at"
    link.point("/dev/pts/2")
    assert os.readlink(tmp_path / "x") == "/dev/pts/2"
    link.release()
    assert names(tmp_path) == []


def test_a_dead_one_while_it_moved_its_link(tmp_path, holder):
    process = holder(tmp_path / "x", "/dev/pts/1")
    process.kill()
    process.wait()
    (tmp_path / ".x.lock").write_text(f"{process.pid}\n/dev/pts/1\n/dev/pts/2\n")
    link = Link.claim("pty:x", str(tmp_path / "x"))
    link.point("/dev/pts/3")
    link.release()
    assert names(tmp_path) == []


def test_a_lock_without_a_link_is_taken_over(tmp_path):
    (tmp_path / ".x.lock").write_text("1\n/dev/pts/1\n")
    link = Link.claim("pty:x", str(tmp_path / "x"))
    link.point("/dev/pts/3")
    link.release()
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda path: path.write_bytes(b"mine"), "there is a file of that name; remove it, or choose another path"),
        (lambda path: path.mkdir(), "there is a folder of that name; remove it, or choose another path"),
        (
            lambda path: path.symlink_to("/dev/null"),
            "there is a link of that name, to /dev/null, that is not serpipe's",
        ),
        (lambda path: path.symlink_to("nowhere"), "there is a link of that name, to nowhere, that is not serpipe's"),
    ],
)
def test_what_is_not_ours_is_never_touched(tmp_path, make, text, no_leaks):
    make(tmp_path / "x")
    before = os.lstat(tmp_path / "x")
    with no_leaks(), pytest.raises(OpenFailed) as caught:
        Link.claim("pty:x", str(tmp_path / "x"))
    assert str(caught.value).startswith(f"pty:x: {text}")
    assert os.lstat(tmp_path / "x") == before
    assert names(tmp_path) == ["x"]


def test_a_link_that_replaced_a_dead_ones_is_foreign(tmp_path, holder):
    process = holder(tmp_path / "x")
    process.kill()
    process.wait()
    (tmp_path / "x").unlink()
    (tmp_path / "x").symlink_to("/dev/zero")
    with pytest.raises(OpenFailed, match="not serpipe's"):
        Link.claim("pty:x", str(tmp_path / "x"))
    assert os.readlink(tmp_path / "x") == "/dev/zero"


def test_a_file_that_came_between_claim_and_point_stays(tmp_path):
    link = Link.claim("pty:x", str(tmp_path / "x"))
    (tmp_path / "x").write_bytes(b"mine")
    with pytest.raises(OpenFailed, match="there is a file"):
        link.point("/dev/pts/1")
    link.release()
    assert (tmp_path / "x").read_bytes() == b"mine"
    assert names(tmp_path) == ["x"]


def test_what_took_our_name_is_left_there(tmp_path):
    link = Link.claim("pty:x", str(tmp_path / "x"))
    link.point("/dev/pts/1")
    (tmp_path / "x").unlink()
    (tmp_path / "x").write_bytes(b"mine")
    link.release()
    assert (tmp_path / "x").read_bytes() == b"mine"
    assert names(tmp_path) == ["x"]


def test_a_removed_lock_file_locks_nothing(tmp_path, monkeypatch):
    """The owner removes the lock file between another's open and its flock: the other must start again."""
    import fcntl

    first = Link.claim("pty:x", str(tmp_path / "x"))
    flock = fcntl.flock
    opened = []

    def after_the_first_is_gone(fd, how):
        opened.append(os.fstat(fd).st_ino)
        first.release()
        flock(fd, how)

    monkeypatch.setattr(fcntl, "flock", after_the_first_is_gone)
    second = Link.claim("pty:x", str(tmp_path / "x"))
    monkeypatch.undo()
    assert len(opened) == 2
    with pytest.raises(OpenFailed, match="running serpipe"):
        Link.claim("pty:x", str(tmp_path / "x"))
    second.release()


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("missing/x", "no such file or device"),
        ("folder/", "this is a folder"),
        ("file/x", "a part of the path is not a folder"),
        ("n" * 250, "name too long"),
    ],
)
def test_a_place_that_takes_no_link(tmp_path, path, text, no_leaks):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with no_leaks(), pytest.raises(OpenFailed, match=text):
        Link.claim("pty:x", f"{tmp_path}/{path}")


def test_a_folder_that_goes_with_its_link(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    link = Link.claim("pty:x", str(folder / "x"))
    link.point("/dev/pts/1")
    for name in names(folder):
        (folder / name).unlink()
    folder.rmdir()
    link.release()
    assert names(tmp_path) == []


def test_a_path_relative_to_a_folder_that_is_left(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    link = Link.claim("pty:x", "x")
    link.point("/dev/pts/1")
    monkeypatch.chdir("/")
    link.release()
    assert names(tmp_path) == []
