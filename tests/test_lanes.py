"""Sessions over endpoints in memory: order, purge, back-pressure, failure and the end."""

import math

import pytest
import trio
from fakes import joined
from hypothesis import given, settings
from hypothesis import strategies as st
from memory import CONTROLLER, PLAIN, PORT, TWO_WAY, MemoryEndpoint
from trio.testing import wait_all_tasks_blocked

from serpipe.endpoints.base import Caps
from serpipe.errors import EndpointLost, TimedOut
from serpipe.events import (
    Eof,
    GetModem,
    Line,
    LineReport,
    ModemReport,
    Purge,
    PurgeDone,
    SetBreak,
    SetLine,
)
from serpipe.lanes import INBOX_BYTES, REPLIES, Rules, Session
from serpipe.stages.base import Stage


class Chain:
    """A session over two endpoints in memory."""

    def __init__(self, left=TWO_WAY, right=TWO_WAY, stages=(), inbox=None, **rules):
        self.left = MemoryEndpoint("left", left)
        self.right = MemoryEndpoint("right", right)
        self.notes = []
        if inbox is None:
            inbox = (left.role, right.role) != ("plain", "plain")
        self.session = Session(
            self.left,
            self.right,
            stages,
            left,
            right,
            "inbox" if inbox else "direct",
            Rules(**rules),
            lambda text, level: self.notes.append((level, text)),
        )

    async def run(self):
        await self.session.run()


class Upper(Stage):
    """Something that changes the bytes, so that a test sees they went through."""

    def forward(self, event, out):
        out.emit(event.upper() if type(event) is bytes else event)

    def back(self, event, out):
        out.emit(event.lower() if type(event) is bytes else event)


class Echo(Stage):
    """Answers every SetLine from where it stands."""

    def forward(self, event, out):
        if isinstance(event, SetLine):
            out.reply(LineReport(values=event.line, answers=event.ref))
        else:
            out.emit(event)


class Hold(Stage):
    """Releases ten bytes a second, and takes ten at a time."""

    def __init__(self):
        self.queue = []

    def forward(self, event, out):
        self.queue.append(event)
        if type(event) is bytes:
            out.wake(out.now + 1)
        else:
            self._flush(out)

    def tick(self, now, out):
        self._flush(out)

    def _flush(self, out):
        while self.queue:
            out.emit(self.queue.pop(0))

    def held(self, direction):
        return sum(len(e) for e in self.queue if type(e) is bytes) if direction == "->" else 0

    def room(self, direction):
        return None if direction == "<-" else 10 if not self.queue else 0

    def discard(self, direction):
        if direction == "<-":
            return 0
        dropped = self.held("->")
        self.queue = [e for e in self.queue if type(e) is not bytes]
        return dropped


@pytest.mark.parametrize("inbox", [False, True], ids=["direct", "inbox"])
async def test_bytes_go_both_ways_through_the_stages_in_order(inbox):
    chain = Chain(stages=[Upper(), Stage()], inbox=inbox)
    chain.left.feed(b"abc", b"def", Eof())
    chain.right.feed(b"XYZ", Eof())
    await chain.run()
    assert joined(chain.right.got) == [b"ABCDEF", Eof()]
    assert joined(chain.left.got) == [b"xyz", Eof()]


async def test_controls_keep_their_place_among_the_bytes():
    chain = Chain(CONTROLLER, PORT, [Upper(), Stage(), Upper()])
    first, second = SetLine(baud=9600), SetBreak(on=True)
    chain.left.feed(b"abc", first, b"de", second, b"f", Eof())
    await chain.run()
    assert chain.right.got == [b"ABC", first, b"DE", second, b"F", Eof()]
    assert [e.answers for e in chain.left.got if not isinstance(e, Eof)] == [first.ref, second.ref]


async def test_a_reply_enters_the_other_lane_behind_its_stage():
    seen = []

    class Spy(Stage):
        def __init__(self, name):
            self.name = name

        def back(self, event, out):
            seen.append((self.name, type(event).__name__))
            out.emit(event)

    chain = Chain(CONTROLLER, PLAIN, [Spy("a"), Echo(), Spy("b")])
    chain.left.feed(SetLine(baud=300))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(chain.run)
        await chain.left.until(lambda e: e.got)
        nursery.cancel_scope.cancel()
    assert seen == [("a", "LineReport")]
    assert chain.left.got[0].values == Line(baud=300)


async def test_a_reply_reaches_a_lane_in_the_direct_gear_too():
    chain = Chain(stages=[Echo()], inbox=False)
    chain.left.feed(SetLine(baud=300))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(chain.run)
        await chain.left.until(lambda e: e.got)
        nursery.cancel_scope.cancel()


async def test_a_blocked_sink_stops_the_source():
    chain = Chain(PLAIN, PORT)
    chain.right.block()
    piece = b"x" * 65536
    chain.left.feed(*[piece] * 100)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(chain.run)
        await wait_all_tasks_blocked()
        assert chain.left.taken * len(piece) <= INBOX_BYTES + 2 * len(piece)
        nursery.cancel_scope.cancel()


async def test_a_source_is_not_read_while_its_answers_wait():
    requests = [SetLine(baud=i + 1) for i in range(3 * REPLIES)]

    class Blocked(MemoryEndpoint):
        async def _report(self, report):
            await self._gate.wait()
            self._keep(report)

    chain = Chain(CONTROLLER, PLAIN, [Echo()])
    chain.left.__class__ = Blocked
    chain.left.block()
    chain.left.feed(*requests, Eof())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(chain.run)
        await wait_all_tasks_blocked()
        assert chain.left.taken <= 2 * REPLIES + 3
        chain.left.unblock()
    assert [e.answers for e in chain.left.got[:-1]] == [r.ref for r in requests]


async def test_a_purge_overtakes_a_blocked_sink():
    chain = Chain(CONTROLLER, PORT, [Stage()])
    chain.right.block()
    purge = Purge(tx=True)
    chain.left.feed(b"a" * 1000, b"b" * 1000, SetLine(baud=1200))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(chain.run)
        await wait_all_tasks_blocked()
        chain.left.feed(purge, b"after", Eof())
    assert chain.right.got == [SetLine(baud=1200), purge, b"after", Eof()]


async def test_purge_of_one_direction_leaves_the_other_alone():
    chain = Chain(CONTROLLER, PORT)
    chain.left.block()
    chain.right.feed(b"received")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(chain.run)
        await wait_all_tasks_blocked()
        chain.left.feed(Purge(tx=True))
        await wait_all_tasks_blocked()
        chain.left.unblock()
        await chain.left.until(lambda e: len(e.got) == 2)
        nursery.cancel_scope.cancel()
    assert chain.left.got == [b"received", PurgeDone(tx=True, answers=chain.left.got[1].answers)]


async def test_purge_done_drops_what_was_received_before_it():
    chain = Chain(CONTROLLER, PORT)
    chain.left.block()
    chain.right.feed(b"old", b"older")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(chain.run)
        await wait_all_tasks_blocked()
        chain.left.feed(Purge(rx=True))
        await chain.left.until(lambda e: e.got)
        chain.right.feed(b"new", Eof())
        await chain.left.until(lambda e: Eof() in e.got)
        nursery.cancel_scope.cancel()
    assert [type(e) for e in chain.left.got] == [PurgeDone, bytes, Eof]
    assert chain.left.data == b"new"


async def test_a_purge_answered_from_memory_drops_nothing_of_a_stream():
    class Forgetful(Stage):
        def forward(self, event, out):
            if isinstance(event, Purge):
                out.reply(PurgeDone(rx=True, answers=event.ref, virtual=True))

    chain = Chain(CONTROLLER, PLAIN, [Forgetful()])
    chain.left.block()
    chain.right.feed(b"the head ", b"of a file", Eof())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(chain.run)
        await wait_all_tasks_blocked()
        chain.left.feed(Purge(rx=True))
        await wait_all_tasks_blocked()
        chain.left.unblock()
        await chain.left.until(lambda e: Eof() in e.got)
        nursery.cancel_scope.cancel()
    assert chain.left.data == b"the head of a file"


_pieces = st.lists(
    st.one_of(
        st.binary(min_size=1, max_size=20),
        st.builds(lambda baud: SetLine(baud=baud), st.integers(1, 10**6)),
        st.just("purge"),
        st.sampled_from(["block", "unblock", "settle"]),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(_pieces)
async def test_purge_against_a_model(steps):
    """Whatever the sink does: no control is lost, order holds, and only bytes before a purge that was read are dropped."""
    chain = Chain(CONTROLLER, PORT, [Stage(), Upper()])
    sent = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(chain.run)
        for step in steps:
            match step:
                case "block":
                    chain.right.block()
                case "unblock":
                    chain.right.unblock()
                case "settle":
                    await wait_all_tasks_blocked()
                case _:
                    event = Purge(tx=True) if step == "purge" else step
                    sent.append(event)
                    chain.left.feed(event)
        sent.append(Eof())
        chain.left.feed(Eof())
        await wait_all_tasks_blocked()
        chain.right.unblock()
        await chain.right.until(lambda e: Eof() in e.got)
        nursery.cancel_scope.cancel()

    def cut(events):
        """The controls, and the bytes before each, as the stages leave them."""
        runs, controls = [b""], []
        for event in events:
            if type(event) is bytes:
                runs[-1] += event.upper()
            else:
                controls.append(event)
                runs.append(b"")
        return runs, controls

    sent_runs, sent_controls = cut(sent)
    got_runs, got_controls = cut(chain.right.got)
    assert got_controls == sent_controls
    last_purge = max((i for i, c in enumerate(sent_controls) if isinstance(c, Purge)), default=-1)
    for i, (had, has) in enumerate(zip(sent_runs, got_runs, strict=True)):
        if i > last_purge:
            assert has == had, "bytes after the last purge are all there"
        else:
            assert has in had, "a purge drops, and changes nothing"


async def test_modem_reports_coalesce_while_the_sink_is_blocked():
    class Slow(MemoryEndpoint):
        async def _report(self, report):
            await self._gate.wait()
            self._keep(report)

    chain = Chain(CONTROLLER, PORT)
    chain.left.__class__ = Slow
    chain.left.block()
    chain.right.feed(ModemReport(cts=True, changed=frozenset({"cts"})))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(chain.run)
        await wait_all_tasks_blocked()
        chain.right.feed(ModemReport(dsr=True, changed=frozenset({"dsr"})))
        chain.right.feed(ModemReport(ri=True, changed=frozenset({"ri"})))
        await wait_all_tasks_blocked()
        chain.left.unblock()
        await chain.left.until(lambda e: len(e.got) == 2)
        nursery.cancel_scope.cancel()
    assert chain.left.got[1] == ModemReport(ri=True, changed=frozenset({"dsr", "ri"}))


async def test_a_stage_that_holds_stops_the_source_and_is_ticked(autojump_clock):
    chain = Chain(stages=[Hold()])
    chain.left.feed(b"x" * 100, Eof())
    chain.right.feed(Eof())
    await chain.run()
    assert chain.right.data == b"x" * 100
    assert trio.current_time() == pytest.approx(10, abs=1.1)


@pytest.mark.parametrize("inbox", [False, True], ids=["direct", "inbox"])
async def test_the_end_waits_for_the_other_lane_where_both_half_close(inbox, autojump_clock):
    chain = Chain(inbox=inbox)
    chain.left.feed(Eof())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(chain.run)
        await chain.right.until(lambda e: Eof() in e.got)
        await trio.sleep(3600)
        chain.right.feed(b"reply", Eof())
    assert chain.left.got == [b"reply", Eof()]


async def test_the_end_waits_for_quiet_where_an_end_cannot_half_close(autojump_clock):
    chain = Chain(TWO_WAY, PORT, linger=2)
    chain.left.feed(b"at", Eof())
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(chain.run)
        for _ in range(3):
            await trio.sleep(1.5)
            chain.right.feed(b"o")
    assert chain.left.data == b"ooo"
    assert trio.current_time() - began == pytest.approx(6.5, abs=0.1)
    assert chain.right.finished
    assert chain.left.got[-1] == Eof()


async def test_a_controller_that_leaves_is_not_waited_for(autojump_clock):
    chain = Chain(CONTROLLER, PORT, linger=2)
    chain.left.feed(b"bye", Eof())
    began = trio.current_time()
    await chain.run()
    assert trio.current_time() == began
    assert chain.right.data == b"bye"


async def test_idle_time_is_counted_from_the_last_byte(autojump_clock):
    chain = Chain(idle=5)
    async with trio.open_nursery() as nursery:

        async def late():
            await trio.sleep(4)
            chain.left.feed(b"x")

        nursery.start_soon(late)
        with pytest.raises(TimedOut):
            await chain.run()
    assert trio.current_time() == pytest.approx(9, abs=0.1)


async def test_what_came_before_a_failure_is_delivered_and_the_failure_raised(autojump_clock):
    for inbox in (False, True):
        chain = Chain(TWO_WAY, TWO_WAY, inbox=inbox)
        chain.right.feed(b"last words")
        chain.right.fail(EndpointLost("right", "gone"))
        with pytest.raises(EndpointLost, match="gone"):
            await chain.run()
        assert chain.left.data == b"last words"


async def test_one_way_drops_the_other(autojump_clock):
    chain = Chain(PLAIN, PORT, one_way="->")
    chain.left.feed(b"there", Eof())
    chain.right.feed(b"back")
    await chain.run()
    assert chain.right.data == b"there"
    assert chain.left.data == b""


async def test_what_takes_nothing_gets_nothing(autojump_clock):
    chain = Chain(Caps(writes=False), TWO_WAY)
    chain.left.feed(b"file", Eof())
    chain.right.feed(b"reply", Eof())
    await chain.run()
    assert chain.left.data == b""
    assert (1, "<- 5 bytes had nowhere to go") in chain.notes


async def test_stop_delivers_what_was_accepted(autojump_clock):
    chain = Chain(TWO_WAY, PORT, [Hold()], linger=100)
    chain.left.feed(b"x" * 30)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(chain.run)
        await wait_all_tasks_blocked()
        chain.session.stop()
    assert chain.right.data == b"x" * 30
    assert chain.right.got[-1] == Eof()
    assert not chain.notes


async def test_stop_counts_what_it_cannot_deliver(autojump_clock):
    chain = Chain(TWO_WAY, PORT, linger=0.5)
    chain.right.block()
    chain.left.feed(b"x" * 30, b"y" * 12)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(chain.run)
        await wait_all_tasks_blocked(0.001)
        chain.session.stop()
    assert trio.current_time() - began == pytest.approx(0.5, abs=0.01)
    assert chain.notes == [(0, "-> 42 bytes were accepted and not delivered")]


async def test_an_ending_session_gives_up_on_a_sink_that_takes_nothing(autojump_clock):
    chain = Chain(PORT, TWO_WAY, linger=0.5)
    chain.left.block()
    chain.right.feed(b"never read")
    chain.left.feed(Eof())
    with trio.fail_after(60):
        await chain.run()
    assert (0, "<- 10 bytes were accepted and not delivered") in chain.notes


async def test_a_silent_end_does_not_keep_the_session(autojump_clock):
    chain = Chain(TWO_WAY, Caps(reads=False), linger=math.inf)
    chain.left.feed(b"to a file", Eof())
    await chain.run()
    assert chain.right.got == [b"to a file", Eof()]


async def test_a_reply_travels_where_nothing_is_read(autojump_clock):
    chain = Chain(CONTROLLER, Caps(reads=False), [Echo()])
    chain.left.feed(SetLine(baud=1), GetModem())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(chain.run)
        await chain.left.until(lambda e: e.got)
        nursery.cancel_scope.cancel()


class Follower(Stage):
    """Goes by the port's settings, as pace does."""

    follows = True

    def __init__(self):
        self.baud = None
        self.at = []

    def forward(self, event, out):
        self.at.append(self.baud)
        out.emit(event)

    def back(self, event, out):
        if isinstance(event, LineReport):
            self.baud = event.values.baud
        out.emit(event)


async def test_a_stage_that_follows_the_port_hears_of_it_before_the_first_byte():
    stage = Follower()
    chain = Chain(TWO_WAY, PORT, [stage], linger=0)
    chain.left.feed(b"early", Eof())
    chain.right.feed(LineReport(values=Line(300)), ModemReport())
    await chain.run()
    assert stage.at == [300, 300]


async def test_a_stage_that_fails_to_write_beside_the_stream_is_an_error_and_not_a_crash(autojump_clock):
    class Full:
        name = "stderr"

        async def write(self, data):
            raise OSError(28, "No space left on device")

    class Writes(Stage):
        def forward(self, event, out):
            out.write(Full(), b"x")
            out.emit(event)

    chain = Chain(stages=[Writes()])
    chain.left.feed(b"abc")
    with pytest.raises(EndpointLost, match="the disk is full"):
        await chain.run()


async def test_a_peer_that_was_reset_behind_a_full_lane_is_noticed(autojump_clock):
    """Nothing reads it any more, since its bytes have nowhere to go; else the port would be lost to a dead client."""
    chain = Chain(CONTROLLER, PORT)
    chain.right.block()
    chain.left.feed(*[b"x" * 65536] * 20)
    chain.left.broken = lambda: EndpointLost("left", "reset")
    began = trio.current_time()
    with pytest.raises(EndpointLost, match="reset"):
        await chain.run()
    assert trio.current_time() - began < 10


async def test_a_failed_lane_ends_the_other_after_t_however_busy_it_is(autojump_clock):
    chain = Chain(TWO_WAY, TWO_WAY, linger=0.5)

    class Closed(MemoryEndpoint):
        async def _send_bytes(self, data):
            raise EndpointLost("left", "closed by its reader")

    chain.left.__class__ = Closed
    chain.right.feed(b"to nobody")
    began = trio.current_time()
    async with trio.open_nursery() as nursery:

        async def chatter():
            while True:
                chain.left.feed(b"y")
                await trio.sleep(0.1)

        nursery.start_soon(chatter)
        with pytest.raises(EndpointLost, match="closed by its reader"):
            await chain.run()
        nursery.cancel_scope.cancel()
    assert trio.current_time() - began < 2


async def test_a_port_is_sent_no_more_requests_while_its_answers_wait():
    """Law 8: a controller that takes nothing, and a port that answers at once."""

    class Deaf(MemoryEndpoint):
        async def _report(self, report):
            await trio.sleep_forever()

    chain = Chain(CONTROLLER, PORT)
    chain.left.__class__ = Deaf
    chain.left.feed(*[GetModem() for _ in range(20 * REPLIES)])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(chain.run)
        await wait_all_tasks_blocked()
        assert chain.right.answers_waiting < 4 * REPLIES
        nursery.cancel_scope.cancel()
