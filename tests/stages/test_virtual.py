"""The stage that answers where no port is."""

import pytest
from fakes import FakeContext, Lanes

from serpipe.events import (
    BreakReport,
    Drain,
    Drained,
    Eof,
    Failed,
    GetModem,
    GetSignature,
    Line,
    LineReport,
    ModemReport,
    Opened,
    OutputReport,
    Purge,
    PurgeDone,
    Request,
    SetBreak,
    SetLine,
    SetModem,
    Signature,
)
from serpipe.stages.virtual import Virtual

DEFAULT = Line(9600, 8, "none", 1.0, "none")
FIRST = [
    Opened(peer="virtual", virtual=True),
    LineReport(values=DEFAULT, virtual=True),
    OutputReport(dtr=True, rts=True, break_=False, virtual=True),
    ModemReport(cts=True, dsr=True, dcd=True, virtual=True),
]


def lanes(**options):
    return Lanes(Virtual(**options).make(FakeContext()))


@pytest.mark.parametrize(
    ("towards", "left", "right"), [("left", FIRST, []), ("right", [], FIRST), ("both", FIRST, FIRST)]
)
def test_first_events_go_to_whom_it_serves(towards, left, right):
    chain = lanes(towards=towards)
    assert chain.left.emitted == left
    assert chain.right.emitted == right


def test_initial_values():
    chain = lanes(towards="left", **Virtual.bare_word("115200"), parity="even")
    assert chain.left.emitted[1].values == Line(115200, 8, "even", 1.0, "none")
    assert Virtual(towards="left").describe() == "virtual,towards=left 9600 8N1 flow=none"


def test_it_remembers_and_answers_as_asked():
    chain = lanes(towards="left")
    requests = [
        SetLine(baud=57600, flow="rtscts"),
        SetLine(),
        SetModem(dtr=False),
        SetBreak(on=True),
        SetModem(),
        GetModem(),
        Purge(rx=True, tx=True),
        Drain(),
    ]
    chain.forward(*requests)
    line = Line(57600, 8, "none", 1.0, "rtscts")
    assert chain.right.emitted == []
    answers = chain.right.replied
    assert [a.answers for a in answers] == [r.ref for r in requests]
    refs = iter(requests)

    def said(kind, **values):
        return kind(answers=next(refs).ref, virtual=True, **values)

    assert answers == [
        said(LineReport, values=line, requested=Line(baud=57600, flow="rtscts")),
        said(LineReport, values=line),
        said(OutputReport, dtr=False, rts=True, break_=False),
        said(OutputReport, dtr=False, rts=True, break_=True),
        said(OutputReport, dtr=False, rts=True, break_=True),
        said(ModemReport, cts=True, dsr=True, dcd=True),
        said(PurgeDone, rx=True, tx=True),
        said(Drained),
    ]


def test_signature():
    chain = lanes(towards="left")
    chain.forward(GetSignature())
    (answer,) = chain.right.replied
    assert isinstance(answer, Signature)
    assert answer.text.startswith(b"serpipe ")


def test_a_request_it_does_not_know_is_answered():
    class Novel(Request):
        pass

    chain = lanes(towards="left")
    chain.forward(novel := Novel())
    (answer,) = chain.right.replied
    assert isinstance(answer, Failed)
    assert (answer.answers, answer.why) == (novel.ref, "unsupported")


def test_what_is_not_asked_of_it_passes():
    chain = lanes(towards="left")
    passing = [b"bytes", SetLine(baud=300), BreakReport(), Eof()]
    chain.left.take()
    chain.back(*passing)
    assert all(a is b for a, b in zip(chain.left.emitted, passing, strict=True))
    chain.forward(b"bytes", BreakReport(), Eof())
    assert chain.right.emitted == [b"bytes", BreakReport(), Eof()]
    assert chain.right.replied == chain.left.replied == []


def test_between_two_controllers_each_has_its_own_memory():
    chain = lanes(towards="both")
    chain.forward(SetLine(baud=300))
    chain.back(SetLine())
    assert chain.right.replied[0].values.baud == 300
    assert chain.left.replied[0].values == DEFAULT
