"""Cancellation, tried at every place where it can strike.

Theory of operation: between two checkpoints a task runs as one step, and trio tells an instrument of each.
`cancel_at_every_step` runs a scenario once for each k: at the k-th step of any of its tasks the whole of it is cancelled,
so that the others are hit where they wait, and this one at its next checkpoint. It ends with the first run that
completes before its k-th step comes; by then the cancellation has been tried at each step there is. After every run no
descriptor may be open that was not open before, and the caller's own check (no link, no lock, settings as they were)
must hold.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Awaitable, Callable

import trio


def open_descriptors() -> dict[int, str]:
    """Each open descriptor of this process and what it stands for."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            pass  # the one that listed the folder
    return found


class _CancelAt(trio.abc.Instrument):
    """Cancels `scope` at the `step`-th step of a task that runs inside `root`."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.seen = 0
        self.root: trio.lowlevel.Task | None = None
        self.scope: trio.CancelScope | None = None

    def _inside(self, task: trio.lowlevel.Task) -> bool:
        here: trio.lowlevel.Task | None = task
        while here is not None and here is not self.root:
            here = here.parent_nursery.parent_task if here.parent_nursery is not None else None
        return here is not None

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Count, and strike."""
        if self.scope is None or self.root is None or not self._inside(task):
            return
        self.seen += 1
        if self.seen == self.step:
            self.scope.cancel()


def cancel_at_every_step(
    scenario: Callable[[], Awaitable[object]],
    check: Callable[[], object] | None = None,
    *,
    every: int = 1,
    limit: int = 5000,
    patience: float = 10.0,
) -> int:
    """Run `scenario` again and again, cancelled at step 1, 1 + every, ...; returns the number of runs.

    Called from a plain (not async) test, since each run is a `trio.run` of its own. `scenario` opens whatever it needs
    and raises nothing when cancelled but `trio.Cancelled`. `check()` runs after each. Raises AssertionError where a
    descriptor is left open, where a run takes longer than `patience` seconds or where `limit` steps are not enough. An
    error tells the step in a note.
    """
    for runs, step in enumerate(range(1, limit + 1, every), 1):
        before = open_descriptors()
        instrument = _CancelAt(step)

        async def main(instrument: _CancelAt = instrument) -> bool:
            with trio.CancelScope() as scope:
                instrument.root = trio.lowlevel.current_task()
                instrument.scope = scope
                try:
                    await scenario()
                finally:
                    instrument.scope = None
            return instrument.seen >= instrument.step

        started = time.monotonic()
        try:
            struck = trio.run(main, instruments=[instrument])
            took = time.monotonic() - started
            assert took < patience, f"the run took {took:.1f} s"
            gc.collect()
            _assert_nothing_open(before)
            if check is not None:
                check()
        except BaseException as error:
            error.add_note(f"cancelled at step {step}")
            raise
        if not struck:
            return runs
    raise AssertionError(f"the scenario takes more than {limit} steps")


def _assert_nothing_open(before: dict[int, str]) -> None:
    """No descriptor that was not there before. A thread that was left to itself is given a second to close its own."""
    deadline = time.monotonic() + 1
    while left := {fd: what for fd, what in open_descriptors().items() if before.get(fd) != what}:
        if time.monotonic() > deadline:
            raise AssertionError(f"left open: {left}")
        time.sleep(0.005)
