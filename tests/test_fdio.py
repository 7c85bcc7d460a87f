"""Reads and writes on real pipes: what a cancellation or a discard leaves behind."""

import os
import socket
import struct

import pytest
import trio

from serpipe._fdio import LEAST, MOST, TURNS, FdIO, SideSink, Threaded


@pytest.fixture
def pipe():
    read, write = os.pipe()
    yield read, write
    for fd in (read, write):
        try:
            os.close(fd)
        except OSError:
            pass


async def test_a_write_that_is_cancelled_before_it_began_has_written_nothing(pipe):
    io = FdIO.of_fd(pipe[1])
    for _ in range(3 * TURNS):  # whichever call it is that takes a checkpoint
        with trio.CancelScope() as scope:
            scope.cancel()
            await io.write_all(b"payload")
        if scope.cancelled_caught:
            assert io.unsent == 7
            return
        os.read(pipe[0], 100)
    pytest.fail("no call took a checkpoint")


async def test_reads_grow_with_the_stream_and_shrink_with_it(tmp_path):
    left, right = socket.socketpair()
    with left, right:
        for sock in (left, right):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        io = FdIO.of_socket(right)
        left.setblocking(False)
        left.send(bytes(LEAST + MOST))
        assert len(io.take()) == LEAST
        assert len(io.take()) > LEAST
        while io.take():
            pass
        left.send(b"x")
        io.take()
        assert io._size == LEAST


async def test_a_reset_is_seen_without_reading():
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()) as client:
            peer, _ = server.accept()
            io = FdIO.of_socket(client)
            peer.sendall(b"unread")
            await io.wait_readable()
            assert io.broken() is None
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()
            with trio.fail_after(10):
                while io.broken() is None:
                    await trio.lowlevel.checkpoint()


async def test_a_half_closed_peer_is_not_broken():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        peer, _ = server.accept()
        with peer:
            peer.shutdown(socket.SHUT_WR)
            io = FdIO.of_socket(client)
            await io.wait_readable()
            assert io.broken() is None


async def test_a_thread_that_ended_between_two_calls_is_not_waited_for(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"first")
    fd = os.open(path, os.O_RDONLY)
    io = Threaded(fd)
    with trio.move_on_after(0):
        await io.wait_readable()
    with trio.fail_after(10):
        await io.wait_readable()
        await io.wait_readable()  # what was read has not been taken yet: there is nothing to wait for
    assert io.take() == b"first"
    os.close(fd)


async def test_lanes_that_write_to_one_sink_do_not_mix(pipe):
    sink = SideSink(pipe[1], "pipe")
    rows = [bytes([65 + i]) * 5000 for i in range(20)]
    got = bytearray()

    async def read():
        os.set_blocking(pipe[0], False)
        while len(got) < 100_000:
            await trio.lowlevel.wait_readable(pipe[0])
            got.extend(os.read(pipe[0], 1000))

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            for row in rows:
                nursery.start_soon(sink.write, row)
    sink.close()
    assert sorted(bytes(got[i : i + 5000]) for i in range(0, len(got), 5000)) == rows
