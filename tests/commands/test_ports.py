"""`serpipe ports`, on made-up ports."""

import json
import os
import pty
import subprocess
import sys

import pytest

from serpipe import _serial_find as find
from serpipe import _serial_lock as lock
from serpipe._serial_find import PortInfo
from serpipe._serial_lock import Holder
from serpipe.commands import ports
from serpipe.errors import UsageError

FTDI = PortInfo(
    "/dev/ttyUSB0",
    "FT232R USB UART",
    by_id="/dev/serial/by-id/usb-FTDI_A50285BI-if00-port0",
    by_path="/dev/serial/by-path/pci-0",
    vid=0x0403,
    pid=0x6001,
    serial="A50285BI",
    manufacturer="FTDI",
    product="FT232R USB UART",
    driver="ftdi_sio",
)
UART = PortInfo("/dev/ttyS0", "16550A UART", driver="serial")


@pytest.fixture
def some(monkeypatch):
    monkeypatch.setattr(find, "list_ports", lambda: [UART, FTDI])
    monkeypatch.setattr(lock, "holders", lambda paths: {"/dev/ttyUSB0": [Holder(4711, "picocom")]})


def test_columns(some, capsys):
    assert ports.run([]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines() == [
        "device        description      usb        serial    driver    used by             by-id",
        "/dev/ttyS0    16550A UART      -          -         serial    -                   -",
        "/dev/ttyUSB0  FT232R USB UART  0403:6001  A50285BI  ftdi_sio  picocom (pid 4711)  usb-FTDI_A50285BI-if00-port0",
    ]


def test_columns_that_are_empty_are_left_out(monkeypatch, capsys):
    monkeypatch.setattr(find, "list_ports", lambda: [UART])
    monkeypatch.setattr(lock, "holders", lambda paths: {})
    assert ports.run([]) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["device", "description", "driver"]


def test_json(some, capsys):
    assert ports.run(["--json"]) == 0
    uart, ftdi = json.loads(capsys.readouterr().out)
    assert ftdi == {
        "device": "/dev/ttyUSB0",
        "by_id": "/dev/serial/by-id/usb-FTDI_A50285BI-if00-port0",
        "by_path": "/dev/serial/by-path/pci-0",
        "description": "FT232R USB UART",
        "vid": "0403",
        "pid": "6001",
        "serial_number": "A50285BI",
        "manufacturer": "FTDI",
        "product": "FT232R USB UART",
        "driver": "ftdi_sio",
        "used_by": [{"pid": 4711, "program": "picocom"}],
    }
    assert uart.keys() == ftdi.keys()
    assert (uart["vid"], uart["serial_number"], uart["used_by"]) == (None, None, [])


def test_no_ports(monkeypatch, capsys):
    monkeypatch.setattr(find, "list_ports", list)
    assert ports.run([]) == 0
    assert capsys.readouterr() == ("", "no serial ports found\n")
    assert ports.run(["--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_help_and_what_it_does_not_know(capsys):
    assert ports.run(["--help"]) == 0
    assert capsys.readouterr().out == ports.HELP
    for argv in (["x"], ["--xml"], ["--json", "--json"]):
        with pytest.raises(UsageError, match="takes --json and nothing else"):
            ports.run(argv)


_ON_A_TERMINAL = """
import sys
from serpipe import _serial_find as find, _serial_lock as lock
from serpipe.commands import ports
find.list_ports = lambda: [find.PortInfo("/dev/ttyS[1]", "16550A UART", driver="serial")]
lock.holders = lambda paths: {}
code = ports.run([])
assert "rich" in sys.modules
sys.exit(code)
"""


def test_a_table_on_a_terminal():
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    done = subprocess.run([sys.executable, "-c", _ON_A_TERMINAL], stdout=slave, env=environment, check=False)
    os.close(slave)
    said = os.read(master, 65536).decode()
    os.close(master)
    assert done.returncode == 0
    assert "/dev/ttyS[1]" in said  # no markup of rich's
    assert "─" in said


def test_rich_is_not_imported_for_a_pipe():
    script = _ON_A_TERMINAL.replace('"rich" in', '"rich" not in')
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1] == "/dev/ttyS[1]  16550A UART  serial"


def test_this_machines_ports_can_be_listed(capsys):
    assert ports.run(["--json"]) == 0
    for port in json.loads(capsys.readouterr().out):
        assert os.path.exists(port["device"])
