"""Ports out of a made-up sysfs: the folders and links that Linux has for each kind of port."""

import os

import pytest

from serpipe import _serial_find as find
from serpipe._serial_find import PortInfo, UsbName
from serpipe.endpoints.serial import Serial
from serpipe.errors import OpenFailed


class Machine:
    """Builds /sys and /dev under a folder."""

    def __init__(self, root):
        self.sys, self.dev = root / "sys", root / "dev"
        (self.sys / "class/tty").mkdir(parents=True)
        self.dev.mkdir()

    def _write(self, folder, **files):
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text + "\n")
        return folder

    def _link(self, link, target):
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(target, link.parent))

    def tty(self, name, device=None, **files):
        home = device if device is not None else self.sys / "devices/virtual"
        tty = self._write(home / "tty" / name, **files)
        if device is not None:
            self._link(tty / "device", device)
        self._link(self.sys / "class/tty" / name, tty)
        (self.dev / name).touch()

    def driver(self, device, name):
        self._link(device / "driver", self._write(self.sys / "bus/drivers" / name))

    def uart(self, name, kind, driver="serial", **files):
        parent = self._write(self.sys / f"devices/pnp0/{name}")
        self.driver(parent, driver)
        port = self._write(parent / "ctrl" / "port")
        self.driver(port, "port")
        self.driver(parent / "ctrl", "ctrl")
        self.tty(name, port, type=kind, **files)

    def usb(self, name, place, vid, pid, serial="", product="", driver="ftdi_sio", interface="", on_bus=True):
        adapter = self._write(
            self.sys / f"devices/pci0000:00/usb1/{place}",
            idVendor=vid,
            idProduct=pid,
            serial=serial,
            product=product,
            manufacturer="Maker",
        )
        function = self._write(adapter / f"{place}:1.{name[-1]}", bInterfaceNumber="00")
        if interface:
            self._write(function, interface=interface)
        device = self._write(function / name) if on_bus else function  # usb-serial has a bus of its own, cdc_acm not
        self.driver(device, driver)
        self.tty(name, device)

    def link(self, kind, link, name):
        self._link(self.dev / "serial" / kind / link, self.dev / name)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    made = Machine(tmp_path.resolve())
    monkeypatch.setattr(find, "SYSFS", made.sys)
    monkeypatch.setattr(find, "DEV", made.dev)
    return made


def test_an_empty_machine(machine):
    assert find.list_ports() == []


def test_a_machine_without_sysfs(tmp_path, monkeypatch):
    monkeypatch.setattr(find, "SYSFS", tmp_path / "none")
    assert find.list_ports() == []


def test_uarts_there_are_and_those_there_are_not(machine):
    machine.uart("ttyS0", "4", console="Y")
    machine.uart("ttyS1", "0")  # a number nothing answers to
    machine.uart("ttyAMA0", "32", driver="uart-pl011")
    machine.tty("tty1")
    machine.tty("ptmx")
    assert find.list_ports() == [
        PortInfo(str(machine.dev / "ttyAMA0"), "UART", driver="uart-pl011"),
        PortInfo(str(machine.dev / "ttyS0"), "16550A UART, this machine's console", driver="serial"),
    ]


def test_usb_adapters(machine):
    machine.usb("ttyUSB0", "1-2", "0403", "6001", "A50285BI", "FT232R USB UART")
    machine.usb("ttyACM0", "1-3", "2341", "0043", "", "", driver="cdc_acm", on_bus=False)
    machine.link("by-id", "usb-FTDI_FT232R-if00", "ttyUSB0")
    machine.link("by-path", "pci-0000:00-usb-0:2", "ttyUSB0")
    acm, usb = find.list_ports()
    assert usb == PortInfo(
        device=str(machine.dev / "ttyUSB0"),
        description="FT232R USB UART",
        by_id=str(machine.dev / "serial/by-id/usb-FTDI_FT232R-if00"),
        by_path=str(machine.dev / "serial/by-path/pci-0000:00-usb-0:2"),
        vid=0x0403,
        pid=0x6001,
        serial="A50285BI",
        manufacturer="Maker",
        product="FT232R USB UART",
        driver="ftdi_sio",
    )
    assert usb.usb == "0403:6001"
    assert (acm.description, acm.driver, acm.usb) == ("Maker", "cdc_acm", "2341:0043")


def test_ports_are_in_the_order_people_count(machine):
    for n in (10, 2, 1):
        machine.usb(f"ttyUSB{n}", f"1-{n}", "0403", "6001")
    assert [os.path.basename(p.device) for p in find.list_ports()] == ["ttyUSB1", "ttyUSB2", "ttyUSB10"]


def test_the_port_behind_a_link(machine):
    machine.usb("ttyUSB0", "1-2", "0403", "6001")
    machine.link("by-id", "usb-x", "ttyUSB0")
    info = find.port_of(str(machine.dev / "serial/by-id/usb-x"))
    assert info is not None
    assert info.usb == "0403:6001"
    assert find.port_of(str(machine.dev / "nothing")) is None
    assert find.port_of("/dev/pts/0") is None


def test_short_names(machine):
    machine.usb("ttyUSB0", "1-2", "0403", "6001")
    machine.link("by-id", "usb-x", "ttyUSB0")
    assert find.device_path("ttyUSB0") == str(machine.dev / "ttyUSB0")
    assert find.device_path("usb-x") == str(machine.dev / "serial/by-id/usb-x")
    assert find.device_path("./here") == "./here"


def test_usb_numbers_find_their_port(machine):
    machine.usb("ttyUSB0", "1-2", "0403", "6001", "AAA")
    machine.usb("ttyUSB1", "1-3", "0403", "6001", "BBB")
    machine.usb("ttyUSB2", "1-4", "1a86", "7523", product="CH340")
    name = str(machine.dev / "ttyUSB")
    assert Serial(usb=UsbName(0x0403, 0x6001, "bbb")).find() == name + "1"
    assert Serial(usb=UsbName(0x1A86, 0x7523)).find() == name + "2"
    with pytest.raises(OpenFailed) as caught:
        Serial(usb=UsbName(0x0403, 0x6001)).find()
    assert str(caught.value) == (
        f"usb=0403:6001: 2 ports fit: {name}0 (AAA), {name}1 (BBB); add the serial number, or name the device"
    )
    with pytest.raises(OpenFailed) as caught:
        Serial(usb=UsbName(0x0403, 0x6001, "CCC")).find()
    assert str(caught.value) == (
        f"usb=0403:6001:CCC: no such adapter; there are: {name}0 0403:6001:AAA, {name}1 0403:6001:BBB, {name}2 1a86:7523"
    )


def test_no_adapter_at_all(machine):
    with pytest.raises(OpenFailed, match="no such adapter; no USB serial port is plugged in"):
        Serial(usb=UsbName(1, 2)).find()


def test_an_expression_finds_the_first_port(machine):
    import re

    machine.usb("ttyUSB0", "1-2", "0403", "6001", "AAA", "FT232R USB UART")
    machine.usb("ttyUSB1", "1-3", "1a86", "7523", "", "CH340")
    for text, number in (("vid:pid=1A86:7523", 1), ("ft232", 0), ("ttyUSB", 0), ("SER=AAA", 0), ("ch34[01]", 1)):
        assert Serial(grep=re.compile(text, re.I)).find() == str(machine.dev / f"ttyUSB{number}")
    with pytest.raises(OpenFailed, match="found in no port's name or description; there are:"):
        Serial(grep=re.compile("nothing like it")).find()
