"""What `rfc2217-listen:` lets its clients do, seen by pySerial; and esptool's way into an ESP's bootloader."""

import json
import threading

import esptool.reset
import pytest
import serial
from esp_board import EspBoard

import serpipe
from serpipe.events import GetModem, LineReport, OutputReport, SetLine, SetModem
from serpipe.protocol.words import from_json

# pySerial's client starts its thread by the old names, and leaves the socket of a failed open to the collector
pytestmark = [
    pytest.mark.filterwarnings("ignore:set(Daemon|Name).*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

LOOP = "loop:,realtime=off"


def wait_until(condition, what):
    """Poll what another process writes, which has no event for it."""
    pause = threading.Event()
    for _ in range(1000):
        if condition():
            return
        pause.wait(0.01)
    pytest.fail(f"never {what}")


def echoes(port, data):
    port.write(data)
    return port.read(len(data)) == data


# --- policy -----------------------------------------------------------------------------------------------------------


def test_a_locked_port_refuses_pyserial_another_rate(serpipe_process):
    """Which is what the RFC says: the value in force comes back, and pySerial takes it for an error."""
    server = serpipe_process("rfc2217-listen:0,locked=115200n81", LOOP)
    with serial.serial_for_url(f"rfc2217://{server.left}", 115200, timeout=10) as port:
        with pytest.raises(ValueError, match="baudrate"):
            port.baudrate = 9600
    with pytest.raises(ValueError, match="baudrate"):
        serial.serial_for_url(f"rfc2217://{server.left}", 9600)
    wait_until(lambda: server.said.count("policy:") == 2, "said once per client")
    for line in server.said.splitlines()[1:]:
        assert line.endswith("policy: client asks for 9600; the port stays at 115200 8N1 flow=none")


@pytest.mark.parametrize("options", ["locked=115200n81,answer=asked", "settings=ignore,locked=115200n81"])
def test_a_locked_port_that_answers_as_asked_lets_pyserial_go_on(options, serpipe_process, tmp_path):
    trace = tmp_path / "trace"
    server = serpipe_process("--trace", str(trace), f"rfc2217-listen:0,{options}", LOOP)
    with serial.serial_for_url(f"rfc2217://{server.left}", 57600, timeout=10) as port:
        port.baudrate = 9600
        port.bytesize = 7
        port.parity = "E"
        port.rtscts = True
        assert echoes(port, bytes(range(256)) * 4)
    server.end()
    asked = [event for event in at_the_port(trace) if type(event) is SetLine and event.line]
    assert asked == [SetLine(baud=115200, bytesize=8, parity="none", stopbits=1)]
    said = "policy: client asks for 57600, and is told that it holds; the port stays at 115200 8N1 flow=none"
    assert server.said.count("policy:") == (0 if "ignore" in options else 1)
    assert (said in server.said) is ("ignore" not in options)


def test_what_is_denied_does_not_reach_the_port_and_pyserial_can_work(serpipe_process, tmp_path):
    trace = tmp_path / "trace"
    server = serpipe_process("--trace", str(trace), "rfc2217-listen:0,allow=baud+format+flow,answer=asked", LOOP)
    with serial.serial_for_url(f"rfc2217://{server.left}", 57600, timeout=10) as port:
        port.dtr = False
        port.rts = False
        port.break_condition = True
        port.break_condition = False
        port.reset_input_buffer()
        port.reset_output_buffer()
        assert echoes(port, b"all the same")
        port.baudrate = 300
    server.end()
    passed = [event for event in at_the_port(trace) if type(event) is not bytes]
    assert {type(event) for event in passed} <= {SetLine, GetModem, type(passed[-1])}
    assert SetLine(baud=300) in passed


async def test_a_serpipe_client_reads_what_holds(serpipe_process):
    server = serpipe_process("rfc2217-listen:0,locked=115200n81,deny=lines", LOOP)
    async with serpipe.open_endpoint(f"rfc2217://{server.left}") as port:
        told = await port.ask(SetLine(baud=9600, parity="even"))
        assert isinstance(told, LineReport)
        assert (told.values.baud, told.values.parity) == (115200, "none")
        lines = await port.ask(SetModem(dtr=False, rts=False))
        assert isinstance(lines, OutputReport)
        assert (lines.dtr, lines.rts) == (True, True)


# --- reset=esp --------------------------------------------------------------------------------------------------------


def at_the_port(trace):
    """What reached the port, out of the trace: the last position of the lane that leads there."""
    lines = [json.loads(line) for line in trace.read_text().splitlines()]
    last = max(line["position"] for line in lines)
    return [from_json(line["event"]) for line in lines if line["lane"] == "->" and line["position"] == last]


def board_after(trace):
    board = EspBoard()
    board.watch(at_the_port(trace))
    return board


def into_reset_tight(port, reset_delay):
    """The unix-tight reset, by a client that can set the lines only one after the other."""
    custom = f"D0|R0|D1|R1|D0|R1|W0.1|D1|R0|W{reset_delay}|D0|R0|D0"
    esptool.reset.CustomReset(port, custom)()


RESETS = {
    "classic": lambda port: esptool.reset.ClassicReset(port, 0.05)(),
    "classic, as a custom sequence": lambda port: esptool.reset.CustomReset(port, "D0|R1|W0.1|D1|R0|W0.05|D0")(),
    "unix-tight": lambda port: into_reset_tight(port, 0.05),
}


@pytest.mark.parametrize("query", ["", "?ign_set_control"])
@pytest.mark.parametrize("reset", RESETS)
def test_esptool_gets_into_the_bootloader(reset, query, serpipe_process, tmp_path):
    trace = tmp_path / "trace"
    server = serpipe_process("--trace", str(trace), "rfc2217-listen:0,reset=esp", LOOP)
    with serial.serial_for_url(f"rfc2217://{server.left}{query}", 115200, timeout=10) as port:
        RESETS[reset](port)
        assert echoes(port, b"\xc0\x00\x08\x24\x00")
    server.end()
    board = board_after(trace)
    assert board.starts == ["bootloader"], board.seen
    assert board.seen[-1] == (False, False)


def test_without_the_option_esptools_reset_starts_the_application_on_the_way(serpipe_process, tmp_path):
    trace = tmp_path / "trace"
    server = serpipe_process("--trace", str(trace), "rfc2217-listen:0", LOOP)
    with serial.serial_for_url(f"rfc2217://{server.left}", 115200, timeout=10) as port:
        RESETS["classic"](port)
    server.end()
    assert board_after(trace).starts[0] == "application"


async def test_the_unix_tight_reset_of_serpipes_own_client(serpipe_process, tmp_path):
    trace = tmp_path / "trace"
    server = serpipe_process("--trace", str(trace), "rfc2217-listen:0,reset=esp", LOOP)
    async with serpipe.open_endpoint(f"rfc2217://{server.left}") as port:
        for dtr, rts in [(False, False), (True, True), (False, True), (True, False), (False, False)]:
            told = await port.ask(SetModem(dtr=dtr, rts=rts))
            assert isinstance(told, OutputReport)
            assert (told.dtr, told.rts) == (dtr, rts)
    server.end()
    board = board_after(trace)
    assert board.starts == ["bootloader"]
    assert board.seen == [(False, False), (True, True), (False, True), (True, False), (False, False)]


def test_a_hard_reset_starts_the_application_once(serpipe_process, tmp_path):
    trace = tmp_path / "trace"
    server = serpipe_process("--trace", str(trace), "rfc2217-listen:0,reset=esp", LOOP)
    with serial.serial_for_url(f"rfc2217://{server.left}", 115200, timeout=10) as port:
        RESETS["classic"](port)
        esptool.reset.HardReset(port)()
    server.end()
    assert board_after(trace).starts == ["bootloader", "application"]
