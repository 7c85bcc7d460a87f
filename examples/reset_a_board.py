"""The way into an ESP's bootloader across a network, with and without `reset=esp`, and no board.

A board makes EN and IO0 out of DTR and RTS: RTS alone holds the chip in reset, DTR alone pulls IO0 low, both together do
neither. When EN rises the chip starts its bootloader where IO0 is low, else the application. esptool sets DTR and RTS one
after the other; each is an acknowledgement apart, which is long enough to start the application on the way.

This program plays esptool's classic reset with pySerial to a server of serpipe's, whose port is the built-in device, and
reads in the server's trace which changes reached the port. With a board it would be
serpipe rfc2217-listen:4000,reset=esp /dev/ttyUSB0 and esptool --port rfc2217://localhost:4000
"""

import json
import os
import subprocess
import sys
import tempfile
import time

import serial

CLASSIC_RESET = (("dtr", False), ("rts", True), 0.1, ("dtr", True), ("rts", False), 0.05, ("dtr", False))


def play(address: str) -> None:
    """esptool's sequence: a pair sets a line, a number is a wait in seconds."""
    with serial.serial_for_url(f"rfc2217://{address}", 115200) as port:
        for step in CLASSIC_RESET:
            if isinstance(step, float):
                time.sleep(step)
            else:
                setattr(port, *step)


def changes_at_the_port(options: str) -> list[tuple[bool, bool]]:
    """(DTR, RTS) at the port after each change, while the sequence is played through a server with these options."""
    with tempfile.TemporaryDirectory() as folder:
        trace = os.path.join(folder, "trace")
        read_end, write_end = os.pipe()
        words = ["--quiet", "--trace", trace, "--ready-fd", str(write_end), f"rfc2217-listen:0{options}", "loop:"]
        server = subprocess.Popen([sys.executable, "-m", "serpipe", *words], pass_fds=[write_end])
        os.close(write_end)
        try:
            with open(read_end) as ready:
                play(ready.readline().split()[1])  # "ready 127.0.0.1:40123 -"
        finally:
            server.terminate()
            server.wait()
        with open(trace) as file:
            lines = [json.loads(line) for line in file]
    last = max(line["position"] for line in lines)
    dtr = rts = True
    found = []
    for line in lines:
        event = line["event"]
        if line["lane"] == "->" and line["position"] == last and event["event"] == "SetModem":
            dtr, rts = event.get("dtr", dtr), event.get("rts", rts)
            if not found or found[-1] != (dtr, rts):
                found.append((dtr, rts))
    return found


def starts(changes: list[tuple[bool, bool]]) -> list[str]:
    """What the chip starts, each time that EN rises."""
    found = []
    was_in_reset = False
    for dtr, rts in changes:
        in_reset = rts and not dtr
        if was_in_reset and not in_reset:
            found.append("bootloader" if dtr and not rts else "application")
        was_in_reset = in_reset
    return found


def main() -> int:
    """0 where the one starts the application and the other does not."""
    found = {}
    for options in ("", ",reset=esp"):
        changes = changes_at_the_port(options)
        found[options] = starts(changes)
        print(f"rfc2217-listen:0{options}")
        print("  DTR RTS at the port: " + "  ".join(f"{dtr:d} {rts:d}" for dtr, rts in changes))
        print("  the chip starts:     " + ", ".join(found[options]))
    return 0 if found[""][0] == "application" and found[",reset=esp"] == ["bootloader"] else 1


if __name__ == "__main__":
    sys.exit(main())
