"""The tool that cancels at every step does, and sees what is left open."""

import os

import pytest
import trio
from fakes_cancel import cancel_at_every_step


def test_every_step_is_struck_once_and_then_the_scenario_completes() -> None:
    reached: list[int] = []

    async def scenario() -> None:
        reached.append(0)
        for _ in range(5):
            await trio.lowlevel.checkpoint()
            reached[-1] += 1

    runs = cancel_at_every_step(scenario)
    assert reached[-1] == 5
    assert set(reached) == {0, 1, 2, 3, 4, 5}
    assert len(reached) == runs


def test_tasks_in_nurseries_are_counted_too() -> None:
    struck = []

    async def child() -> None:
        try:
            await trio.sleep(0.001)
        except trio.Cancelled:
            struck.append(1)
            raise

    async def scenario() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
            nursery.start_soon(child)

    assert cancel_at_every_step(scenario) > 3
    assert len(struck) >= 2


def test_a_descriptor_left_open_is_found_with_its_step() -> None:
    left = []

    async def scenario() -> None:
        left.append(os.dup(0))
        await trio.lowlevel.checkpoint()
        os.close(left[-1])

    with pytest.raises(AssertionError, match="left open") as caught:
        cancel_at_every_step(scenario)
    assert caught.value.__notes__ == ["cancelled at step 1"]
    os.close(left[-1])


def test_the_callers_check_runs_after_each() -> None:
    checks = []

    async def scenario() -> None:
        await trio.lowlevel.checkpoint()

    assert cancel_at_every_step(scenario, lambda: checks.append(1)) == len(checks)


def test_a_scenario_that_never_ends_is_given_up() -> None:
    async def scenario() -> None:
        while True:
            await trio.lowlevel.checkpoint()

    with pytest.raises(AssertionError, match="more than 20 steps"):
        cancel_at_every_step(scenario, limit=20)
