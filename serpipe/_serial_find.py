"""Which serial ports this machine has, and what is known of each.

Theory of operation
-------------------
On Linux sysfs says it all: a tty with a `device` link has hardware behind it, a 8250 of type 0 is a number that no UART
answers to, and the folders above the device tell the USB adapter (idVendor, serial) and the driver. It is read here and not
by pySerial, which hides the UARTs of most ARM boards and, on kernels from 6.5, lists every number that no UART
answers to. Elsewhere pySerial lists the ports; that was never run on macOS or Windows.

Nothing is opened: looking at a port must not raise its DTR.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

SYSFS = Path("/sys")
DEV = Path("/dev")

_UARTS = {1: "8250", 2: "16450", 3: "16550", 4: "16550A"}
"""PORT_ numbers of linux/serial.h that people know by name."""
_GLUE = ("port", "ctrl")
"""Drivers of the serial-base bus, which stand between a UART's driver and its tty."""


@dataclass(frozen=True, slots=True)
class PortInfo:
    """One port. What is not known is None or empty."""

    device: str
    description: str = ""
    by_id: str = ""
    """The name under /dev/serial/by-id, which stays when the adapter moves to another socket."""
    by_path: str = ""
    """The name under /dev/serial/by-path, which stays with the socket."""
    vid: int | None = None
    pid: int | None = None
    serial: str = ""
    manufacturer: str = ""
    product: str = ""
    driver: str = ""

    @property
    def usb(self) -> str:
        """``0403:6001``, or "" where it is no USB device."""
        return f"{self.vid:04x}:{self.pid:04x}" if self.vid is not None and self.pid is not None else ""

    @property
    def words(self) -> str:
        """All of it, USB numbers as pySerial's hwgrep:// spells them, for `grep=`."""
        hwid = f"USB VID:PID={self.usb.upper()} SER={self.serial}" if self.usb else ""
        return "\n".join(
            (self.device, self.by_id, self.by_path, self.description, self.manufacturer, hwid, self.driver)
        )


@dataclass(frozen=True, slots=True)
class UsbName:
    """A USB adapter by its numbers and, where several have the same, its serial number."""

    vid: int
    pid: int
    serial: str = ""

    def __str__(self) -> str:
        return f"{self.vid:04x}:{self.pid:04x}" + (f":{self.serial}" if self.serial else "")

    def matches(self, port: PortInfo) -> bool:
        """Whether the port is one of this adapter's; serial numbers compare without regard to case."""
        same = (port.vid, port.pid) == (self.vid, self.pid)
        return same and (not self.serial or port.serial.lower() == self.serial.lower())


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _hex(text: str) -> int | None:
    return int(text, 16) if re.fullmatch(r"[0-9a-fA-F]+", text) else None


def _above(device: Path) -> Iterable[Path]:
    """The device's folder and those above it, up to the bus's root."""
    top = (SYSFS / "devices").resolve()
    return (folder for folder in (device, *device.parents) if folder.is_relative_to(top) and folder != top)


def _links(folder: Path) -> dict[str, str]:
    """Which link of this folder leads to which node's name."""
    try:
        return {os.path.basename(os.path.realpath(link)): str(link) for link in sorted(folder.iterdir())}
    except OSError:
        return {}


def _sysfs_port(tty: Path, by_id: dict[str, str], by_path: dict[str, str]) -> PortInfo | None:
    """What sysfs says of one tty; None where it is no serial port."""
    if not (tty / "device").exists():
        return None
    uart = _read(tty / "type")
    if uart == "0":
        return None
    folders = list(_above((tty / "device").resolve()))
    drivers = (os.path.basename(os.path.realpath(f / "driver")) for f in folders if (f / "driver").exists())
    driver = next((d for d in drivers if d not in _GLUE), "")
    name = tty.name
    port = PortInfo(str(DEV / name), by_id=by_id.get(name, ""), by_path=by_path.get(name, ""), driver=driver)
    usb = next((f for f in folders if (f / "idVendor").exists()), None)
    if usb is not None:
        function = next((_read(f / "interface") for f in folders if (f / "bInterfaceNumber").exists()), "")
        product = _read(usb / "product")
        manufacturer = _read(usb / "manufacturer")
        description = product or manufacturer or "USB serial port"
        if function and function not in description:
            description += f", {function}"
        return replace(
            port,
            description=description,
            vid=_hex(_read(usb / "idVendor")),
            pid=_hex(_read(usb / "idProduct")),
            serial=_read(usb / "serial"),
            manufacturer=manufacturer,
            product=product,
        )
    description = f"{_UARTS[int(uart)]} UART" if uart.isdigit() and int(uart) in _UARTS else "UART" if uart else "tty"
    if _read(tty / "console") == "Y":
        description += ", this machine's console"
    return replace(port, description=description)


def _order(port: PortInfo) -> list[tuple[int, str]]:
    """ttyUSB2 before ttyUSB10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", port.device)]


def _sysfs_ports() -> Iterable[PortInfo]:
    by_id, by_path = _links(DEV / "serial/by-id"), _links(DEV / "serial/by-path")
    try:
        ttys = sorted((SYSFS / "class/tty").iterdir())
    except OSError:
        return
    for tty in ttys:
        port = _sysfs_port(tty, by_id, by_path)
        if port is not None:
            yield port


def _pyserial_ports() -> Iterable[PortInfo]:
    from serial.tools.list_ports import comports

    for port in comports():
        yield PortInfo(
            device=port.device,
            description=port.description if port.description != "n/a" else "",
            vid=port.vid,
            pid=port.pid,
            serial=port.serial_number or "",
            manufacturer=port.manufacturer or "",
            product=port.product or "",
        )


def list_ports() -> list[PortInfo]:
    """Every serial port of this machine, by name; ptys are none."""
    return sorted(_sysfs_ports() if sys.platform == "linux" else _pyserial_ports(), key=_order)


def port_of(path: str) -> PortInfo | None:
    """What is known of the port at this path, whatever link it is reached by; None for a pty."""
    if sys.platform == "linux":  # one folder to look at, and not all of them
        tty = SYSFS / "class/tty" / os.path.basename(os.path.realpath(path))
        return _sysfs_port(tty, {}, {}) if not os.path.realpath(path).startswith("/dev/pts/") else None
    return next((port for port in list_ports() if port.device == path), None)


def device_path(name: str) -> str:
    """The path that a user's short form stands for: `ttyUSB0`, or a name out of /dev/serial/by-id; a path is itself."""
    if "/" in name or os.name != "posix":
        return name
    by_id = DEV / "serial/by-id" / name
    return str(by_id if by_id.is_symlink() or by_id.exists() else DEV / name)
