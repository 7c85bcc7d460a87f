"""Whole pipelines, cancelled at each step a task of theirs takes: nothing stays open, linked, locked or set."""

import os
import tty

import pytest
import trio
from fakes_cancel import cancel_at_every_step

from serpipe import _termios2
from serpipe.events import SetLine
from serpipe.grammar import parse_chain
from serpipe.pipeline import Options, Pipeline, plan


class Lines:
    """A pipeline in the background; `where` are its two ends once it stands."""

    def __init__(self, nursery, *words):
        read, self._ready = os.pipe()
        self._read = read
        self.pipeline = Pipeline(plan(parse_chain(words), Options(ready_fd=self._ready)), lambda text, level: None)
        nursery.start_soon(self.pipeline.run)

    async def stand(self):
        await trio.lowlevel.wait_readable(self._read)
        return os.read(self._read, 1000).decode().split()[1:]

    def close(self):
        pipe = os.fstat(self._read)
        try:
            if os.path.samestat(
                os.fstat(self._ready), pipe
            ):  # else the pipeline has closed it, and the number is another's
                os.close(self._ready)
        except OSError:
            pass
        os.close(self._read)


async def exchange(fd, data):
    """Write to a tty of the test's and read the same back."""
    os.write(fd, data)
    got = b""
    while len(got) < len(data):
        await trio.lowlevel.wait_readable(fd)
        got += os.read(fd, 1000)
    assert got == data


def test_a_pty_before_a_port(tmp_path):
    link = tmp_path / "port"

    async def scenario():
        async with trio.open_nursery() as nursery:
            lines = Lines(nursery, f"pty:{link},lines=follow", "hexdump:/dev/null,append", "loop:,realtime=off")
            try:
                await lines.stand()
                program = os.open(link, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
                try:
                    _termios2.put(program, _termios2.with_line(_termios2.get(program), SetLine(baud=57600).line))
                    await exchange(program, b"hello")
                finally:
                    os.close(program)
            finally:
                lines.close()
            nursery.cancel_scope.cancel()

    cancel_at_every_step(scenario, lambda: _empty(tmp_path), every=1)


def _empty(folder):
    assert list(folder.iterdir()) == []


def test_rfc2217_from_end_to_end(tmp_path):
    from serpipe import open_endpoint

    async def scenario():
        async with trio.open_nursery() as nursery:
            lines = Lines(nursery, "rfc2217-listen:0", "checksum", "loop:,realtime=off")
            try:
                where, _ = await lines.stand()
                async with open_endpoint(f"rfc2217:{where}", note=lambda text, level: None) as port:
                    report = await port.ask(SetLine(baud=19200))
                    assert report.values.baud == 19200
                    await port.send(b"\xff\r\0")
            finally:
                lines.close()
            nursery.cancel_scope.cancel()

    cancel_at_every_step(scenario, every=1)


def test_a_tcp_relay():
    async def scenario():
        async with trio.open_nursery() as nursery:
            far = Lines(nursery, "tcp-listen:0", "loop:,realtime=off")
            near = None
            try:
                where, _ = await far.stand()
                near = Lines(nursery, "tcp-listen:0", f"tcp:{where}")
                where, _ = await near.stand()
                stream = await trio.open_tcp_stream("127.0.0.1", int(where.rpartition(":")[2]))
                async with stream:
                    await stream.send_all(b"there and back")
                    assert await stream.receive_some(100)
            finally:
                far.close()
                if near is not None:
                    near.close()
            nursery.cancel_scope.cancel()

    cancel_at_every_step(scenario, every=1)


@pytest.mark.parametrize("stage", ["pace:1000000", "virtual"])
def test_a_serial_port_is_put_back(stage):
    master, slave = os.openpty()
    tty.setraw(slave)
    before = _termios2.get(slave)
    path = os.ttyname(slave)

    async def scenario():
        async with trio.open_nursery() as nursery:
            lines = Lines(nursery, "tcp-listen:0", stage, f"serial:{path},19200,7e2")
            try:
                where, _ = await lines.stand()
                stream = await trio.open_tcp_stream("127.0.0.1", int(where.rpartition(":")[2]))
                async with stream:
                    await stream.send_all(b"to the port")
                    os.set_blocking(master, False)
                    await trio.lowlevel.wait_readable(master)
                    os.read(master, 100)
            finally:
                lines.close()
            nursery.cancel_scope.cancel()

    def check():
        assert _termios2.get(slave) == before
        locks = [
            name for name in os.listdir("/var/lock") if name.startswith("LCK..") and os.path.basename(path) in name
        ]
        assert locks == []

    try:
        cancel_at_every_step(scenario, check, every=1)
    finally:
        os.close(master)
        os.close(slave)
