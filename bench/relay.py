"""What a relay costs: serpipe in its three gears beside socat, and RFC 2217 beside pySerial, in one run, as ratios.

Run it with the Python that serpipe is installed for: ``python bench/relay.py [MIB] [ROUNDS]``. The rounds are
interleaved, so that what else the machine does hits all of them alike; the ratios are what to read, the MB/s depend on
the machine. Nothing here is a gate: a change to a hot path is measured before and after, with this, on one machine.
"""

from __future__ import annotations

import os
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PIECE = bytes(range(255)) * 1024
"""No FF in it: the RFC 2217 listener is measured with the same bytes, and there FF is a command."""


@contextmanager
def sink() -> Iterator[tuple[int, list[int], threading.Event]]:
    """A TCP server that swallows one connection; how much, and when it ended."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        count = [0]
        ended = threading.Event()

        def swallow() -> None:
            client, _ = server.accept()
            buffer = bytearray(1 << 20)
            with client:
                while got := client.recv_into(buffer):
                    count[0] += got
            ended.set()

        threading.Thread(target=swallow, daemon=True).start()
        yield server.getsockname()[1], count, ended


@contextmanager
def process(argv: list[str], ready: bool) -> Iterator[int]:
    """A relay; the TCP port that it listens on."""
    read, write = os.pipe()
    if ready:
        argv = [sys.executable, "-m", "serpipe", "-q", "--ready-fd", str(write), *argv]
    started = subprocess.Popen(argv, pass_fds=[write], stderr=None if ready else subprocess.PIPE)
    os.close(write)
    if ready:
        with os.fdopen(read) as line:
            port = int(line.readline().split()[1].rpartition(":")[2])
    else:
        os.close(read)
        assert started.stderr is not None
        for said in started.stderr:
            if b"listening on" in said:
                port = int(said.rstrip().rpartition(b":")[2])
                break
    try:
        yield port
    finally:
        started.terminate()
        started.wait()
        if started.stderr is not None:
            started.stderr.close()


def push(port: int, size: int) -> None:
    """Send `size` bytes to a port, then end."""
    with socket.create_connection(("127.0.0.1", port)) as sock:
        for _ in range(size // len(PIECE)):
            sock.sendall(PIECE)
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(65536):  # a close with something unread would be a reset
            pass


def relay(words: Callable[[int], list[str]], ready: bool, size: int) -> tuple[float, float]:
    """(MB/s, CPU ms per GB of the relay, its start not counted)."""
    speed, cpu = _relay(words, ready, size)
    _, idle = _relay(words, ready, 0)
    return speed, (cpu - idle) * 1e3 / (size / 1e9)


def _relay(words: Callable[[int], list[str]], ready: bool, size: int) -> tuple[float, float]:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with sink() as (port, count, ended), process(words(port), ready) as listening:
        began = time.perf_counter()
        threading.Thread(target=push, args=(listening, size), daemon=True).start()
        ended.wait(120)
        took = time.perf_counter() - began
        assert count[0] == size, f"{count[0]} of {size} arrived"
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return size / took / 1e6, cpu


def rfc2217(client: str, size: int) -> tuple[float, float]:
    """Through serpipe's server and the loop device and back, by our client or pySerial's: (MB/s there and back, CPU)."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with process(["rfc2217-listen:0", "loop:,realtime=off"], True) as port:
        ours = (
            "import trio, serpipe, sys\n"
            "async def main():\n"
            " size = int(sys.argv[2]); data = bytes(range(256)) * (size // 256); got = 0\n"
            " async with serpipe.open_endpoint(sys.argv[1]) as port, trio.open_nursery() as nursery:\n"
            "  nursery.start_soon(port.send, data)\n"
            "  while got < size:\n"
            "   event = await port.receive(); got += len(event) if type(event) is bytes else 0\n"
            "trio.run(main)\n"
        )
        theirs = (
            "import serial, sys, threading\n"
            "size = int(sys.argv[2]); data = bytes(range(256)) * (size // 256)\n"
            "port = serial.serial_for_url(sys.argv[1], timeout=100)\n"
            "threading.Thread(target=lambda: [port.write(data[i:i+65536]) for i in range(0, size, 65536)]).start()\n"
            "assert len(port.read(size)) == size\n"
            "port.close()\n"
        )
        began = time.perf_counter()
        code = ours if client == "serpipe" else theirs
        subprocess.run([sys.executable, "-c", code, f"rfc2217://127.0.0.1:{port}", str(size)], check=True)
        took = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return size / took / 1e6, cpu * 1e3 / (size / 1e9)


def main() -> None:
    """Measure, and print a table."""
    mib = int(sys.argv[1]) if len(sys.argv) > 1 else 256
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    size = (mib << 20) // len(PIECE) * len(PIECE)
    cases: dict[str, Callable[[], tuple[float, float]]] = {}
    if socat := shutil.which("socat"):
        listen = "TCP-LISTEN:0,bind=127.0.0.1"
        cases["socat -b 8192"] = lambda: relay(lambda p: [socat, "-d", "-d", listen, f"TCP:127.0.0.1:{p}"], False, size)
        cases["socat -b 262144"] = lambda: relay(
            lambda p: [socat, "-d", "-d", "-b", "262144", listen, f"TCP:127.0.0.1:{p}"], False, size
        )
    cases["serpipe, splice"] = lambda: relay(lambda p: ["tcp-listen:0,once", f"tcp:{p}"], True, size)
    cases["serpipe, direct, one stage"] = lambda: relay(
        lambda p: ["tcp-listen:0,once", "hexdump:/dev/null,dir=left,append", f"tcp:{p}"], True, size
    )
    cases["serpipe, inbox (rfc2217-listen)"] = lambda: relay(
        lambda p: ["rfc2217-listen:0,once", f"tcp:{p}"], True, size
    )
    small = 8 << 20
    cases["rfc2217 to loop: and back, serpipe"] = lambda: rfc2217("serpipe", small)
    cases["rfc2217 to loop: and back, pySerial"] = lambda: rfc2217("pyserial", small // 8)
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, run in cases.items():
            results[name].append(run())
    base = statistics.median(speed for speed, _ in next(iter(results.values())))
    print(f"{'':38} {'MB/s':>7} {'ratio':>6} {'CPU ms/GB':>10}    ({mib} MiB, median of {rounds})")
    for name, rows in results.items():
        speed = statistics.median(row[0] for row in rows)
        cpu = statistics.median(row[1] for row in rows)
        print(f"{name:38} {speed:7.1f} {speed / base:6.2f} {cpu:10.0f}")


if __name__ == "__main__":
    main()
