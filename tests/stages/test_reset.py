"""DTR and RTS at once: the reset of an ESP board."""

import pytest
from esp_board import EspBoard
from fakes import FakeContext, Lanes

from serpipe.events import (
    Eof,
    Failed,
    GetModem,
    ModemReport,
    Opened,
    OutputReport,
    Purge,
    SetBreak,
    SetLine,
    SetModem,
)
from serpipe.grammar import parse_stage
from serpipe.stages.reset import HOLD


class Chain(Lanes):
    """The stage between a controller and a port whose lines are known; `port` answers what has reached it."""

    def __init__(self, word="reset:esp", dtr=True, rts=True):
        self.context = FakeContext()
        super().__init__(parse_stage(word).spec.make(self.context))
        self.dtr, self.rts = dtr, rts
        self.answered = 0
        self.back(Opened(), OutputReport(dtr=dtr, rts=rts, break_=False), ModemReport())
        self.left.take()

    def port(self):
        """The port answers the requests that it has not answered yet."""
        for event in self.right.emitted[self.answered :]:
            if type(event) is SetModem:
                self.dtr = self.dtr if event.dtr is None else event.dtr
                self.rts = self.rts if event.rts is None else event.rts
                self.back(OutputReport(answers=event.ref, dtr=self.dtr, rts=self.rts, break_=False))
        self.answered = len(self.right.emitted)

    @property
    def answers(self):
        """What the controller was told, replies first."""
        told = [*self.right.replied, *self.left.emitted]
        return [event for event in told if event.answers is not None]

    @property
    def board(self):
        """A board at the port, after all that has reached it."""
        board = EspBoard()
        board.watch(self.right.emitted)
        return board


# --- the pair ---------------------------------------------------------------------------------------------------------


def test_a_change_of_dtr_waits_for_its_rts_and_is_acknowledged_at_once():
    chain = Chain()
    chain.forward(dtr := SetModem(dtr=False))
    assert chain.right.emitted == []
    assert chain.right.replied == [OutputReport(answers=dtr.ref, dtr=False, rts=True, break_=False, virtual=True)]
    chain.advance(HOLD * 0.9)
    chain.forward(rts := SetModem(rts=False))
    assert chain.right.emitted == [SetModem(dtr=False, rts=False)]
    assert chain.right.emitted[0].ref == rts.ref
    chain.port()
    assert [a.answers for a in chain.answers] == [dtr.ref, rts.ref]
    chain.advance(10)
    assert len(chain.right.emitted) == 1


def test_an_rts_as_it_is_belongs_to_it_too():
    chain = Chain()
    chain.forward(SetModem(dtr=False), SetModem(rts=True))
    assert chain.right.emitted == [SetModem(dtr=False, rts=True)]


def test_without_an_rts_it_goes_on_by_itself_and_is_answered_once():
    chain = Chain()
    chain.forward(dtr := SetModem(dtr=False))
    chain.advance(HOLD - 0.001)
    assert chain.right.emitted == []
    chain.advance(0.002)
    assert chain.right.emitted == [SetModem(dtr=False)]
    assert chain.right.times == [pytest.approx(100 + HOLD)]
    assert chain.right.emitted[0].ref != dtr.ref
    chain.port()
    assert chain.left.emitted == [OutputReport(dtr=False, rts=True, break_=False)]
    assert [a.answers for a in chain.answers] == [dtr.ref]


@pytest.mark.parametrize(
    "later",
    [
        b"data",
        SetModem(),
        GetModem(),
        SetBreak(on=True),
        SetLine(baud=300),
        Purge(rx=True, tx=True),
        Eof(),
        SetModem(dtr=True, rts=False),
    ],
    ids=repr,
)
def test_whatever_else_comes_lets_it_go_first(later):
    chain = Chain()
    chain.forward(SetModem(dtr=False), later)
    assert chain.right.emitted == [SetModem(dtr=False), later]
    assert chain.right.emitted[1] is later
    chain.advance(1)
    assert len(chain.right.emitted) == 2


def test_another_change_of_dtr_lets_the_first_go_and_is_held_itself():
    chain = Chain()
    chain.forward(SetModem(dtr=False))
    chain.advance(0.1)
    chain.forward(SetModem(dtr=True))
    assert chain.right.emitted == [SetModem(dtr=False)]
    chain.advance(0.1)
    assert len(chain.right.emitted) == 1
    chain.forward(SetModem(rts=False))
    assert chain.right.emitted[1] == SetModem(dtr=True, rts=False)


def test_the_same_change_again_is_acknowledged_again_and_held_no_longer():
    chain = Chain()
    chain.forward(first := SetModem(dtr=False))
    chain.advance(0.1)
    chain.forward(second := SetModem(dtr=False))
    assert [a.answers for a in chain.answers] == [first.ref, second.ref]
    chain.advance(HOLD - 0.099)
    assert chain.right.emitted == [SetModem(dtr=False)]


def test_both_at_once_complete_a_held_change():
    chain = Chain()
    chain.forward(SetModem(dtr=False), both := SetModem(dtr=False, rts=False))
    assert chain.right.emitted == [both]


@pytest.mark.parametrize(
    "request_", [SetModem(dtr=True), SetModem(rts=False), SetModem(dtr=False, rts=False), SetModem()], ids=repr
)
def test_what_changes_no_dtr_alone_passes(request_):
    chain = Chain(dtr=True)
    chain.forward(request_)
    assert chain.right.emitted[0] is request_
    assert chain.right.replied == []


def test_a_dtr_that_nobody_knows_is_held():
    chain = Chain(dtr=None)
    chain.forward(SetModem(dtr=True))
    assert chain.right.emitted == []
    chain.forward(SetModem(rts=True), SetModem(dtr=True))
    assert chain.right.emitted == [SetModem(dtr=True, rts=True), SetModem(dtr=True)]


# --- answers ----------------------------------------------------------------------------------------------------------


def test_an_acknowledgement_does_not_overtake_an_earlier_answer():
    chain = Chain()
    chain.forward(rts := SetModem(rts=False), dtr := SetModem(dtr=False))
    assert chain.right.replied == []
    chain.port()
    assert chain.left.emitted == [
        OutputReport(answers=rts.ref, dtr=True, rts=False, break_=False),
        OutputReport(answers=dtr.ref, dtr=False, rts=False, break_=False, virtual=True),
    ]


def test_a_port_that_answers_out_of_order_gets_every_answer_through():
    chain = Chain()
    requests = [SetModem(rts=False), SetModem(), SetModem(dtr=False)]
    chain.forward(*requests)
    chain.back(OutputReport(answers=requests[1].ref), OutputReport(answers=requests[0].ref))
    assert [a.answers for a in chain.answers] == [requests[i].ref for i in (1, 0, 2)]


def test_a_report_that_is_older_than_a_change_does_not_undo_it():
    """The answer to the first change comes after the second was asked for, and is no news of DTR."""
    chain = Chain()
    chain.forward(SetModem(dtr=False, rts=False), again := SetModem(dtr=False))
    chain.back(OutputReport(dtr=True))
    chain.forward(SetModem(dtr=False))
    assert chain.right.emitted[1] is again
    assert len(chain.right.emitted) == 3


def test_a_port_that_does_not_take_it_is_named_and_the_truth_is_news():
    chain = Chain()
    chain.forward(SetModem(dtr=False))
    chain.advance(1)
    (request,) = chain.right.emitted
    in_force = OutputReport(dtr=True, rts=True)
    chain.back(Failed(answers=request.ref, why="unsupported", in_force=in_force, text="no lines here"))
    assert chain.left.emitted == [in_force]
    assert chain.context.notes == [(0, "reset: DTR was acknowledged, and the port did not take it: no lines here")]
    chain.forward(SetModem(dtr=False))
    chain.advance(1)
    chain.back(Failed(answers=chain.right.emitted[1].ref))
    assert chain.left.emitted == [in_force]


def test_from_the_right_and_not_with_dir_right():
    chain = Chain(dtr=None)
    chain.back(SetModem(dtr=True), SetModem(rts=True))
    assert chain.left.emitted == [SetModem(dtr=True, rts=True)]
    chain = Chain("reset:esp,dir=right")
    chain.back(SetModem(dtr=True))
    assert chain.left.emitted == [SetModem(dtr=True)]


def test_it_says_itself():
    assert parse_stage("reset:esp").spec.describe() == "reset:esp"
    assert parse_stage("reset:esp,dir=left").spec.describe() == "reset:esp,dir=left"


# --- the sequences of esptool -----------------------------------------------------------------------------------------


CLASSIC = "D0|R1|D0|W0.1|D1|R0|D1|W0.05|D0"
"""With the DTR that esptool sets again behind each RTS."""
CLASSIC_OLD = "D0|R1|W0.1|D1|R0|W0.05|D0"
TIGHT = "D0|R0|D1|R1|D0|R1|W0.1|D1|R0|W0.05|D0|R0|D0"
"""The unix-tight reset from a client that has to set the lines one after the other."""
HARD = "R1|D0|W0.1|R0|D0"


def play(chain, sequence, latency):
    """Each step when the acknowledgement of the one before has come, `latency` seconds later."""
    for step in sequence.split("|"):
        value = step[1:]
        if step[0] == "W":
            chain.advance(float(value))
            continue
        request = SetModem(dtr=value == "1") if step[0] == "D" else SetModem(rts=value == "1")
        chain.forward(request)
        chain.port()
        assert any(a.answers == request.ref for a in chain.answers)
        chain.advance(latency)
        chain.port()
    chain.run_dry()
    chain.port()


@pytest.mark.parametrize("latency", [0.0, 0.0005, 0.05, 0.1, 0.14])
@pytest.mark.parametrize("start", ["D1|R1", "D0|R0", "D1|R0"])
@pytest.mark.parametrize("sequence", [CLASSIC, CLASSIC_OLD, TIGHT])
def test_the_way_into_the_bootloader(sequence, start, latency):
    chain = Chain()
    play(chain, start, latency)
    before = len(chain.right.emitted)
    play(chain, sequence, latency)
    board = chain.board
    assert board.starts == ["bootloader"]
    assert board.seen[-1] == (False, False)
    assert (False, True) in board.seen[before:]


@pytest.mark.parametrize("sequence", [CLASSIC, CLASSIC_OLD, TIGHT])
def test_without_the_stage_the_application_starts_on_the_way(sequence):
    board = EspBoard()
    chain = Chain("reset:esp,dir=left")
    play(chain, sequence, 0.05)
    board.watch(chain.right.emitted)
    assert board.starts[0] == "application"


def test_a_hard_reset_starts_the_application_once():
    chain = Chain()
    play(chain, "D0|R0", 0.05)
    play(chain, HARD, 0.05)
    assert chain.board.starts == ["application"]


def test_the_unix_tight_reset_of_a_client_that_sets_both_at_once_passes_unchanged():
    steps = [(0, 0), (1, 1), (0, 1), (1, 0), (0, 0)]
    chain = Chain()
    requests = [SetModem(dtr=bool(dtr), rts=bool(rts)) for dtr, rts in steps]
    chain.forward(*requests)
    assert all(a is b for a, b in zip(chain.right.emitted, requests, strict=True))
    assert chain.board.starts == ["bootloader"]
