"""An emulated server that stands in this process, for tests."""

from contextlib import asynccontextmanager

import trio

from serpipe.commands.emulate import plan_of
from serpipe.pipeline import Pipeline


@asynccontextmanager
async def emulated(profile, behind="loop:,realtime=off", notes=None):
    """Its TCP port on 127.0.0.1."""
    stands = trio.Event()
    said = []

    def start_line(line):
        said.append(line)
        stands.set()

    def note(text, level):
        if notes is not None:
            notes.append(text)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(Pipeline(plan_of(profile, behind, "0"), note, start_line).run)
        with trio.fail_after(10):
            await stands.wait()
        assert f"emulated {profile} -> " in said[0]
        yield int(said[0].split(" (")[0].rpartition(":")[2])
        nursery.cancel_scope.cancel()
