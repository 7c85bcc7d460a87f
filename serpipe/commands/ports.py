"""`serpipe ports`: which serial ports this machine has, and who uses them.

Theory of operation
-------------------
What is known of the ports comes from `_serial_find`, who has them open from `_serial_lock`; no port is opened for it. A
person at a terminal gets a table that fits its width, a pipe gets aligned columns without ornament and a line per port, and
``--json`` a list of objects whose keys are all there at all times, for a script.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from serpipe import _serial_find as find
from serpipe import _serial_lock as lock
from serpipe.errors import UsageError

HELP = """serpipe ports: list the serial ports of this machine.

Usage:
  serpipe ports [--json]
  serpipe ports --help

Options:
  --json      a list of objects, for scripts
  -h, --help  show this help

Nothing is opened, so no DTR moves. "used by" is who has the port open now, as far as this user may know. The by-id
name stays the same when the adapter is plugged in elsewhere: use it in scripts, or usb=VID:PID:SERIAL.
"""

_COLUMNS = ("device", "description", "usb", "serial", "driver", "used by", "by-id")


def _row(port: find.PortInfo, used_by: list[lock.Holder]) -> tuple[str, ...]:
    by_id = port.by_id.rpartition("/")[2]
    users = ", ".join(map(str, used_by))
    return port.device, port.description, port.usb, port.serial, port.driver, users, by_id


def _object(port: find.PortInfo, used_by: list[lock.Holder]) -> dict[str, Any]:
    return {
        "device": port.device,
        "by_id": port.by_id or None,
        "by_path": port.by_path or None,
        "description": port.description,
        "vid": f"{port.vid:04x}" if port.vid is not None else None,
        "pid": f"{port.pid:04x}" if port.pid is not None else None,
        "serial_number": port.serial or None,
        "manufacturer": port.manufacturer or None,
        "product": port.product or None,
        "driver": port.driver or None,
        "used_by": [{"pid": holder.pid, "program": holder.name} for holder in used_by],
    }


def _plain(rows: list[tuple[str, ...]]) -> str:
    """Aligned columns; one that is empty in every row is left out."""
    kept = [i for i in range(len(_COLUMNS)) if any(row[i] for row in rows)]
    lines = [[_COLUMNS[i] for i in kept], *([row[i] or "-" for i in kept] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(kept))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _table(rows: list[tuple[str, ...]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    kept = [i for i in range(len(_COLUMNS)) if any(row[i] for row in rows)]
    for i in kept:
        table.add_column(_COLUMNS[i], no_wrap=_COLUMNS[i] == "device", overflow="fold")
    for row in rows:
        table.add_row(*(Text(row[i] or "-") for i in kept))
    Console(file=sys.stdout).print(table)


def run(argv: list[str]) -> int:
    """List the ports; `argv` is what follows the command's name. Raises UsageError."""
    from docopt import DocoptExit, docopt

    try:
        arguments = docopt(HELP, ["ports", *argv], default_help=False)
    except DocoptExit:
        raise UsageError(
            "ports takes --json and nothing else", word=" ".join(argv), cure="serpipe ports --help"
        ) from None
    if arguments["--help"]:
        print(HELP, end="")
        return 0
    ports = find.list_ports()
    users = lock.holders([port.device for port in ports])
    listed = [(port, users.get(port.device, [])) for port in ports]
    if arguments["--json"]:
        print(json.dumps([_object(*item) for item in listed], indent=2))
    elif not ports:
        print("no serial ports found", file=sys.stderr)
    elif sys.stdout.isatty():
        _table([_row(*item) for item in listed])
    else:
        print(_plain([_row(*item) for item in listed]))
    return 0
