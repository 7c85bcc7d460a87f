"""The one ticker of a process: calls back, every 20 ms, whatever must be polled, and only while something needs it.

Theory of operation
-------------------
A pty's termios and a UART's modem lines have no event that always comes. All of them are looked at from one task, which
is started by the first `subscribe()` and ends with the last unsubscription, so an idle process sleeps. Callbacks are
plain calls: cheap, never blocking, and they must not raise.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

PERIOD = 0.02


class _Ticker:
    def __init__(self) -> None:
        self.callbacks: dict[object, Callable[[], None]] = {}
        self.scope: trio.CancelScope | None = None

    async def run(self) -> None:
        with trio.CancelScope() as self.scope:
            while self.callbacks:  # the last may have gone before this task came to run
                await trio.sleep(PERIOD)
                for callback in list(self.callbacks.values()):
                    callback()


_current: trio.lowlevel.RunVar[_Ticker | None] = trio.lowlevel.RunVar("serpipe ticker", default=None)


def subscribe(callback: Callable[[], None]) -> Callable[[], None]:
    """Have `callback` called every `PERIOD` seconds; returns what ends it (idempotent)."""
    ticker = _current.get()
    if ticker is None:
        ticker = _Ticker()
        _current.set(ticker)
        trio.lowlevel.spawn_system_task(ticker.run)
    key = object()
    ticker.callbacks[key] = callback

    def unsubscribe() -> None:
        ticker.callbacks.pop(key, None)
        if not ticker.callbacks and _current.get() is ticker:
            _current.set(None)
            if ticker.scope is not None:
                ticker.scope.cancel()

    return unsubscribe
