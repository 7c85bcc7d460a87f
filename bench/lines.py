"""How fast DTR and RTS follow over RFC 2217: serpipe's client beside pySerial's, in front of serpipe's server, in one run.

A board is reset by edges of DTR and RTS ten milliseconds apart. Two things are measured: how long one acknowledged change
of both lines takes, and, for 100 changes asked for every 10 ms, how far apart they arrive at the port (by the trace of the
server, in which each has its time).

    python bench/lines.py [CHANGES]
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

OURS = """
import sys, time, trio, serpipe
from serpipe.events import SetModem
async def main():
    count = int(sys.argv[2])
    async with serpipe.open_endpoint(sys.argv[1]) as port:
        took = []
        for i in range(count):
            began = time.perf_counter()
            await port.ask(SetModem(dtr=bool(i % 2), rts=not i % 2))
            took.append(time.perf_counter() - began)
        due = trio.current_time()
        for i in range(count):
            await port.send(SetModem(dtr=bool(i % 2), rts=not i % 2))
            due += 0.01
            await trio.sleep_until(due)
        await port.ask(SetModem())
    print(*took)
trio.run(main)
"""

THEIRS = """
import sys, time, serial
count = int(sys.argv[2])
port = serial.serial_for_url(sys.argv[1])
def change(i):
    port.dtr = bool(i % 2)
    port.rts = not i % 2
took = []
for i in range(count):
    began = time.perf_counter()
    change(i)
    took.append(time.perf_counter() - began)
due = time.monotonic()
for i in range(count):
    change(i)
    due += 0.01
    time.sleep(max(0, due - time.monotonic()))
port.close()
print(*took)
"""


def measure(code: str, count: int) -> tuple[list[float], list[float]]:
    """(seconds of each acknowledged change, seconds between the later changes as they reach the port)."""
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace"
        read, write = os.pipe()
        words = ["rfc2217-listen:0", "loop:,realtime=off", "-q", "--trace", str(trace), "--ready-fd", str(write)]
        server = subprocess.Popen([sys.executable, "-m", "serpipe", *words], pass_fds=[write])
        os.close(write)
        with os.fdopen(read) as ready:
            address = ready.readline().split()[1]
        try:
            done = subprocess.run(
                [sys.executable, "-c", code, f"rfc2217://{address}", str(count)], stdout=subprocess.PIPE, check=True
            )
        finally:
            server.terminate()
            server.wait()
        rows = [json.loads(line) for line in trace.read_text().splitlines()]
    # a change of both lines is one request or two: the RTS part is its end
    times = [
        row["t"]
        for row in rows
        if row["lane"] == "->" and row["event"]["event"] == "SetModem" and row["event"].get("rts") is not None
    ]
    later = times[-count:] if code is OURS else times[-count - 1 : -1]  # pySerial drops RTS once more when it closes
    return [float(word) for word in done.stdout.split()], [b - a for a, b in itertools.pairwise(later)]


def main() -> None:
    """Measure, and print a table."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    print(f"{'':10} {'acknowledged change, ms':>32}   {'spacing at the port of changes every 10 ms, ms':>48}")
    print(
        f"{'client':10} {'median':>10} {'p99':>10} {'worst':>10}   {'median':>10} {'p1':>10} {'p99':>10} {'worst':>10}"
    )
    for name, code in (("serpipe", OURS), ("pySerial", THEIRS)):
        took, spacing = (sorted(1e3 * x for x in values) for values in measure(code, count))
        cells = [statistics.median(took), took[int(len(took) * 0.99)], took[-1]]
        gaps = [
            statistics.median(spacing),
            spacing[len(spacing) // 100],
            spacing[int(len(spacing) * 0.99)],
            spacing[-1],
        ]
        print(f"{name:10} " + " ".join(f"{x:10.2f}" for x in cells) + "   " + " ".join(f"{x:10.2f}" for x in gaps))


if __name__ == "__main__":
    main()
