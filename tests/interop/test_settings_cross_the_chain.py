"""README's second promise, with Debian's ser2net at the far end: what a program sets on our pty is set at the far port."""

import os
import subprocess
import threading
import tty
from pathlib import Path

import pytest

from serpipe import _termios2

SIZE = 4 << 20
BETWEEN = {"nothing": [], "filters": ["hexdump:{tmp}/dump", "checksum", "pace:16M/s"]}


def carried(source: int, sink: int, data: bytes) -> bytes:
    """What is read from `sink` while `data` is written to `source`: as much, or what there is when it ends."""
    got = bytearray()

    def read() -> None:
        while len(got) < len(data):
            got.extend(os.read(sink, 65536))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(source, rest) :]
    reader.join(60)
    return bytes(got)


@pytest.mark.peer("socat", "ser2net")
@pytest.mark.parametrize("between", BETWEEN)
def test_stty_on_our_pty_sets_the_far_port(between, socat_ptys, ser2net, serpipe_process, tmp_path: Path) -> None:
    far, device = socat_ptys
    link = tmp_path / "tty"
    stages = [stage.format(tmp=tmp_path) for stage in BETWEEN[between]]
    serpipe = serpipe_process(f"pty:{link}", *stages, f"rfc2217://127.0.0.1:{ser2net(far)}")
    # the far tty is looked at through a descriptor of our own, and its other end is the device
    descriptors = [os.open(path, os.O_RDWR | os.O_NOCTTY) for path in (link, far, device)]
    program, watch, wire = descriptors
    try:
        tty.setraw(wire)
        subprocess.run(["stty", "-F", str(link), "57600"], check=True)
        data = os.urandom(SIZE)
        assert carried(program, wire, data) == data
        assert _termios2.get(watch).ospeed == 57600
        assert carried(wire, program, data) == data
        assert serpipe.end() == -15, serpipe.said
        assert not os.path.lexists(link)
    finally:
        for fd in descriptors:
            os.close(fd)
