"""Serpipe's main job, run once on this machine, with no hardware.

A serpipe server is started: it offers a serial port over RFC 2217 (Telnet with serial control), and the port is the
built-in loopback device, which sends back what it receives. This program connects to it, sends 1 MiB with every awkward
byte pair in it, changes the baud rate halfway, and reads everything back. The bytes must be the same, and the answer to
the change of the baud rate must stand exactly between the two halves.

Run it with the Python that serpipe is installed for: .venv/bin/python examples/first_run.py
"""

import hashlib
import os
import subprocess
import sys
import time

import trio

import serpipe
from serpipe.errors import SerpipeError
from serpipe.events import LineReport, SetLine

OLD, NEW = 9600, 57600


def make_pattern() -> bytes:
    """512 KiB: every pair of two bytes once (FF next to anything is what Telnet stumbles over), four rounds of it."""
    pairs = b"".join(bytes((first, second)) for first in range(256) for second in range(256))
    return pairs * 4


def start_server() -> tuple[subprocess.Popen[bytes], str]:
    """A server process of its own, on a free TCP port of this machine; it tells the port when it stands."""
    read_end, write_end = os.pipe()
    words = ["rfc2217-listen:0", "loop:,realtime=off", "--ready-fd", str(write_end), "--quiet"]
    server = subprocess.Popen([sys.executable, "-m", "serpipe", *words], pass_fds=[write_end])
    os.close(write_end)
    with open(read_end) as ready:
        line = ready.readline()  # "ready 127.0.0.1:40123 -", or nothing if the server could not start
    if not line:
        server.wait()
        sys.exit("first_run: the server did not start; what it said stands above")
    return server, line.split()[1]


async def there_and_back(address: str) -> bool:
    """Send both halves with the change between them; whether all of it came back as it must."""
    half = make_pattern()
    sent, received = hashlib.sha256(), hashlib.sha256()
    change = SetLine(baud=NEW)
    received_before_change, count, answer = -1, 0, None

    async with serpipe.open_endpoint(f"rfc2217://{address}") as port:
        report = await port.ask(SetLine(baud=OLD))
        print(f"  baud rate at the start      {report.values.baud}, set by us and reported back by the port")

        async def send() -> None:
            for event in (half, change, half):
                if isinstance(event, bytes):
                    sent.update(event)
                await port.send(event)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            with trio.move_on_after(60):
                while count < 2 * len(half) or answer is None:
                    event = await port.receive()
                    if isinstance(event, bytes):
                        received.update(event)
                        count += len(event)
                    elif getattr(event, "answers", None) == change.ref:
                        answer, received_before_change = event, count
            nursery.cancel_scope.cancel()

    in_force = answer.values.baud if isinstance(answer, LineReport) else None
    same = count == 2 * len(half) and sent.digest() == received.digest()
    in_order = received_before_change == len(half)
    print(f"  baud rate halfway           asked for {NEW}, the port answers {in_force}")
    print(f"  where the answer stands     behind byte {received_before_change} of {count} ({len(half)} is its place)")
    print(f"  sent      SHA-256 of {2 * len(half)} bytes  {sent.hexdigest()}")
    print(f"  received  SHA-256 of {count} bytes  {received.hexdigest()}")
    return same and in_order and in_force == NEW


def main() -> int:
    """0 where everything came back as it must, else 1."""
    started = time.monotonic()
    server, address = start_server()
    good = False
    try:
        print(f"A serpipe server offers a loopback serial port on {address}: what we send comes back.")
        print("We talk to it through TCP and RFC 2217, and change the baud rate in the middle of the data:")
        good = trio.run(there_and_back, address)
    except* SerpipeError as errors:
        print(*errors.exceptions, sep="\n")
    finally:
        server.terminate()
        server.wait()
    if good:
        print(f"Every byte came back unchanged, the new baud rate in its place. ({time.monotonic() - started:.1f} s)")
        return 0
    print("Something is wrong: the lines above do not agree. Please report them.")
    return 1


if __name__ == "__main__":
    sys.exit(main())
