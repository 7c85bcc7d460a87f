"""A serial port in the hands of a Python program: settings, lines and break, each asked and each answered.

The port is the built-in loopback device (RTS is joined to CTS, DTR to DSR and CD). Any other word of the command line
would do as well, and needs no other change: "/dev/ttyUSB0", "rfc2217://lab3:4000".
"""

import sys

import trio

import serpipe
from serpipe.events import BreakReport, GetModem, SetBreak, SetLine, SetModem


async def read(port: serpipe.Handle, count: int) -> bytes:
    """`count` bytes; what else the port reports on the way is printed."""
    data = b""
    while len(data) < count:
        event = await port.receive()
        if isinstance(event, bytes):
            data += event
        elif isinstance(event, BreakReport) and event.on:
            print(f"the port received a break behind {data!r}")
    return data


async def main(word: str) -> None:
    """Try each."""
    async with serpipe.open_endpoint(word) as port:
        line = await port.ask(SetLine(baud=115200, bytesize=7, parity="even"))
        print("in force:", line.values)

        for rts in (False, True):
            await port.ask(SetModem(rts=rts))
            lines = await port.ask(GetModem())
            print(f"RTS {'on' if rts else 'off'}: CTS reads {'on' if lines.cts else 'off'}")
            assert lines.cts == rts

        await port.send(b"before")
        await port.ask(SetBreak(on=True))
        await port.ask(SetBreak(on=False))
        await port.send(b"after")
        got = await read(port, 11)
        print("came back:", got)
        assert got == b"beforeafter"


if __name__ == "__main__":
    trio.run(main, sys.argv[1] if len(sys.argv) > 1 else "loop:,realtime=off")
