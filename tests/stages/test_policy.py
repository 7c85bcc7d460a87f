"""What a controller may ask, and what it is told where it may not."""

import pytest
from fakes import FakeContext, Lanes
from memory import CONTROLLER, PORT, MemoryEndpoint
from trio.testing import wait_all_tasks_blocked

from serpipe.errors import BadValue, UsageError
from serpipe.events import (
    BreakReport,
    Drain,
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
    SetBreak,
    SetLine,
    SetModem,
)
from serpipe.grammar import parse_chain, parse_stage
from serpipe.lanes import Rules, Session
from serpipe.pipeline import Options, explain, plan
from serpipe.protocol.policy import PolicyOptions

FOUND = Line(115200, 8, "none", 1.0, "none")
FIRST = [
    Opened(peer="port"),
    LineReport(values=FOUND),
    OutputReport(dtr=True, rts=True, break_=False),
    ModemReport(cts=True),
]


class Chain(Lanes):
    """The stage that a word names, a controller on its left and a port on its right."""

    def __init__(self, word, *, know=True, session=""):
        self.context = FakeContext(session)
        super().__init__(parse_stage(word).spec.make(self.context))
        if know:
            self.back(*FIRST)
            self.left.take()

    @property
    def notes(self):
        return [text for level, text in self.context.notes if level == 0]

    def ask(self, *requests):
        """What the controller was answered at once, and what went on to the port."""
        self.right.replied.clear()
        self.right.take()
        self.forward(*requests)
        return list(self.right.replied), list(self.right.emitted)

    def tell(self, *reports):
        """What the controller gets of these."""
        self.left.take()
        self.back(*reports)
        return list(self.left.emitted)


# --- a setting that is denied -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["policy,settings=locked", "policy,deny=baud", "policy,allow=format+lines"])
def test_a_denied_setting_is_answered_with_the_value_in_force(word):
    chain = Chain(word)
    answered, passed = chain.ask(request := SetLine(baud=9600))
    assert passed == []
    assert answered == [LineReport(answers=request.ref, values=FOUND, requested=Line(baud=9600), virtual=True)]
    assert chain.notes == ["policy: client asks for 9600; the port stays at 115200 8N1 flow=none"]


def test_with_answer_asked_it_is_answered_with_the_value_asked():
    chain = Chain("policy,settings=locked,answer=asked", know=False)
    answered, passed = chain.ask(request := SetLine(baud=9600, flow="rtscts"))
    assert passed == []
    assert [a.answers for a in answered] == [request.ref]
    assert answered[0].values == answered[0].requested == Line(baud=9600, flow="rtscts")
    assert chain.notes == [
        "policy: client asks for 9600 flow=rtscts, and is told that it holds; the port stays as it is"
    ]


def test_ignored_settings_are_answered_as_asked_and_nobody_is_told():
    chain = Chain("policy,settings=ignore", know=True)
    answered, passed = chain.ask(SetLine(baud=9600))
    assert passed == []
    assert answered[0].values == Line(9600, 8, "none", 1.0, "none")
    assert chain.notes == []
    assert [level for level, _ in chain.context.notes] == [1]
    (told,), _ = Chain("policy,settings=ignore,answer=inforce").ask(SetLine(baud=9600))
    assert told.values == FOUND


def test_it_is_said_once_per_client_and_names_it():
    chain = Chain("policy,settings=locked", session="#3 10.0.0.7:5000")
    chain.ask(SetLine(baud=9600), SetLine(bytesize=7), SetLine(baud=300))
    assert len(chain.context.notes) == 3
    assert chain.notes == ["#3 10.0.0.7:5000: policy: client asks for 9600; the port stays at 115200 8N1 flow=none"]
    assert chain.context.notes[1][1].endswith("client asks for 7N1; the port stays at 115200 8N1 flow=none")


@pytest.mark.parametrize(
    "line", [Line(baud=115200), Line(baud=115000), Line(bytesize=8, parity="none"), Line(flow_in="none")]
)
def test_what_is_in_force_already_is_denied_in_silence(line):
    chain = Chain("policy,settings=locked")
    answered, passed = chain.ask(SetLine.of(line))
    assert passed == []
    assert answered[0].values == FOUND
    assert chain.context.notes == []


@pytest.mark.parametrize("answer", ["inforce", "asked"])
def test_what_is_not_known_is_asked_of_the_port(answer):
    chain = Chain(f"policy,deny=baud,answer={answer}", know=False)
    chain.tell(LineReport(values=Line(bytesize=8)))
    answered, passed = chain.ask(request := SetLine(baud=9600))
    if answer == "asked":
        assert passed == []
        assert answered[0].values.baud == 9600
        return
    assert answered == []
    assert passed == [SetLine()]
    assert passed[0].ref == request.ref
    told = chain.tell(LineReport(answers=request.ref, values=FOUND))
    assert told == [LineReport(answers=request.ref, values=FOUND, requested=Line(baud=9600))]
    assert chain.notes == ["policy: client asks for 9600; the port stays at 115200 8N1 flow=none"]


def test_what_the_port_cannot_say_either_is_refused():
    chain = Chain("policy,deny=baud+lines", know=False)
    _, (request,) = chain.ask(SetLine(baud=9600))
    (told,) = chain.tell(LineReport(answers=request.ref, values=Line(bytesize=8)))
    assert isinstance(told, Failed)
    assert (told.answers, told.why, told.in_force.values) == (request.ref, "refused", Line(bytesize=8))
    _, (request,) = chain.ask(SetModem(dtr=True))
    (told,) = chain.tell(OutputReport(answers=request.ref, rts=True))
    assert (told.answers, told.why, told.in_force) == (request.ref, "refused", OutputReport(rts=True))


@pytest.mark.parametrize(
    ("answer", "values"),
    [("inforce", Line(19200, 8, "none", 1.0, "none")), ("asked", Line(19200, 7, "even", 1.0, "none"))],
)
def test_of_a_setting_with_both_the_allowed_part_goes_on_and_one_answer_comes(answer, values):
    chain = Chain(f"policy,deny=format,answer={answer}")
    answered, passed = chain.ask(request := SetLine(baud=19200, bytesize=7, parity="even"))
    assert answered == []
    assert passed == [SetLine(baud=19200)]
    assert passed[0].ref == request.ref
    in_force = Line(19200, 8, "none", 1.0, "none")
    told = chain.tell(LineReport(answers=request.ref, values=in_force, requested=Line(baud=19200)))
    assert told == [LineReport(answers=request.ref, values=values, requested=request.line)]


def test_a_failure_of_the_allowed_part_is_the_answer():
    chain = Chain("policy,deny=format")
    _, (request,) = chain.ask(SetLine(baud=19200, bytesize=7))
    failed = Failed(answers=request.ref, why="refused", in_force=LineReport(values=FOUND))
    assert chain.tell(failed) == [failed]


def test_an_answer_neither_overtakes_an_earlier_one_nor_is_older_than_it():
    """A request on its way may change what is in force: what comes behind it is asked of the port, in order."""
    chain = Chain("policy,deny=format")
    answered, passed = chain.ask(first := SetLine(baud=300), second := SetLine(parity="odd"))
    assert answered == []
    assert [r.ref for r in passed] == [first.ref, second.ref]
    assert passed[1] == SetLine()
    now = Line(300, 8, "none", 1.0, "none")
    told = chain.tell(LineReport(answers=first.ref, values=now), LineReport(answers=second.ref, values=now))
    assert [(t.answers, t.values) for t in told] == [(first.ref, now), (second.ref, now)]
    assert told[1].requested == Line(parity="odd")
    (answer,), _ = chain.ask(SetLine(parity="odd"))
    assert answer.values == now


def test_questions_and_what_is_allowed_pass_as_they_are():
    chain = Chain("policy,deny=baud+format+flow+lines+break+purge")
    passing = [b"x", SetLine(), SetModem(), SetBreak(), GetModem(), GetSignature(), Drain(), Eof()]
    answered, _ = chain.ask(*passing)
    assert answered == []
    assert all(a is b for a, b in zip(chain.right.emitted, passing, strict=True))
    free = Chain("policy")
    passing = [SetLine(baud=300), SetModem(dtr=False), SetBreak(on=True), Purge(rx=True, tx=True)]
    answered, passed = free.ask(*passing)
    assert answered == []
    assert all(a is b for a, b in zip(passed, passing, strict=True))


# --- lines, breaks, purges --------------------------------------------------------------------------------------------


def test_denied_lines_are_answered_as_they_stand():
    chain = Chain("policy,deny=lines")
    answered, passed = chain.ask(request := SetModem(dtr=False))
    assert passed == []
    assert answered == [OutputReport(answers=request.ref, dtr=True, rts=True, break_=False, virtual=True)]
    assert chain.notes == ["policy: client asks for DTR off; the port stays at DTR on RTS on break off"]
    assert chain.ask(SetModem(rts=True))[0][0].rts is True
    assert len(chain.context.notes) == 1
    _, passed = chain.ask(SetBreak(on=True))
    assert passed == [SetBreak(on=True)]


def test_denied_lines_answered_as_asked():
    chain = Chain("policy,deny=lines+break,answer=asked")
    (lines,), _ = chain.ask(SetModem(dtr=False))
    (broken,), _ = chain.ask(SetBreak(on=True))
    assert (lines.dtr, lines.rts, lines.break_) == (False, True, False)
    assert (broken.dtr, broken.rts, broken.break_) == (True, True, True)


def test_a_denied_break_whose_state_is_not_known_is_asked_of_the_port():
    chain = Chain("policy,deny=break", know=False)
    answered, (request,) = chain.ask(SetBreak(on=True))
    assert (answered, request) == ([], SetBreak())
    (told,) = chain.tell(OutputReport(answers=request.ref, dtr=True, break_=False))
    assert told == OutputReport(answers=request.ref, dtr=True, break_=False)
    assert chain.notes == ["policy: client asks for break on; the port stays at DTR on break off"]


def test_a_denied_purge_is_answered_out_of_memory():
    chain = Chain("policy,deny=purge")
    answered, passed = chain.ask(request := Purge(rx=True, tx=True))
    assert passed == []
    assert answered == [PurgeDone(answers=request.ref, rx=True, tx=True, virtual=True)]
    assert not chain.stage.heeds(request, "->")
    assert Chain("policy,deny=purge,dir=left").stage.heeds(request, "->")
    assert Chain("policy").stage.heeds(request, "->")


@pytest.mark.parametrize("word", ["policy,deny=purge", "policy"])
async def test_a_denied_purge_drops_nothing_on_its_way(word, nursery):
    """Neither in the inbox of a lane whose port takes nothing, nor in the port's own send."""
    client, port = MemoryEndpoint("client", CONTROLLER), MemoryEndpoint("port", PORT)
    stage = parse_stage(word).spec.make(FakeContext())
    session = Session(client, port, [stage], CONTROLLER, PORT, "inbox", Rules(), lambda text, level: None)
    nursery.start_soon(session.run)
    port.block()
    client.feed(b"first")
    await wait_all_tasks_blocked()
    client.feed(b"second", purge := Purge(rx=True, tx=True), b"third")
    await wait_all_tasks_blocked()
    port.unblock()
    await client.until(lambda c: any(getattr(event, "answers", None) == purge.ref for event in c.got))
    await port.until(lambda p: b"third" in p.data)
    assert port.data == (b"third" if word == "policy" else b"firstsecondthird")
    session.stop()


# --- locked= ----------------------------------------------------------------------------------------------------------

LOCKED = Line(115200, 8, "none", 1.0)


def test_a_locked_setting_is_asked_for_when_the_port_stands_and_after_each_reopening():
    chain = Chain("policy,locked=115200n81", know=False)
    assert chain.stage.follows
    assert not Chain("policy,settings=locked").stage.follows
    for _ in range(2):
        told = chain.tell(*FIRST)
        assert told == FIRST
        (request,) = chain.left.replied
        assert request == SetLine.of(LOCKED)
        chain.left.replied.clear()
        assert chain.tell(LineReport(answers=request.ref, values=FOUND, requested=LOCKED)) == [LineReport(values=FOUND)]
    assert chain.context.notes == []


def test_a_request_that_comes_before_the_lock_stands_is_answered_with_what_the_lock_made():
    chain = Chain("policy,locked=115200n81", know=False)
    before = Line(9600, 8, "none", 1.0, "none")
    chain.tell(Opened(), LineReport(values=before))
    (lock,) = chain.left.replied
    answered, (asked,) = chain.ask(SetLine(baud=115200))
    assert (answered, asked) == ([], SetLine())
    told = chain.tell(LineReport(answers=lock.ref, values=FOUND), LineReport(answers=asked.ref, values=FOUND))
    assert [t.answers for t in told] == [None, asked.ref]
    assert told[1].values == FOUND
    assert chain.notes == []


@pytest.mark.parametrize("why", ["", "refused", "timeout"])
def test_a_lock_that_the_port_does_not_take_is_said(why):
    chain = Chain("policy,locked=115200n81", know=False)
    before = LineReport(values=Line(9600, 8, "none", 1.0, "none"))
    chain.tell(Opened(), before)
    (lock,) = chain.left.replied
    if why:
        answer = Failed(answers=lock.ref, why=why, in_force=before)
    else:
        answer = LineReport(answers=lock.ref, values=before.values)
    assert chain.tell(answer) == [before]
    did_not = "confirm" if why == "timeout" else "take"
    assert chain.notes == [f"policy: the port did not {did_not} 115200 8N1; in force is 9600 8N1 flow=none"]


def test_a_port_on_the_left_is_locked_too():
    chain = Chain("policy,locked=115200", know=False)
    chain.forward(Opened())
    assert chain.right.replied == [SetLine(baud=115200)]


# --- directions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["policy,deny=lines", "policy,deny=lines,dir=left"])
def test_it_judges_what_comes_from_the_right(word):
    chain = Chain(word, know=False)
    chain.forward(*FIRST)
    chain.back(request := SetModem(dtr=False))
    assert chain.left.emitted == []
    assert chain.left.replied == [OutputReport(answers=request.ref, dtr=True, rts=True, break_=False, virtual=True)]


def test_dir_narrows_it():
    chain = Chain("policy,deny=lines,dir=right", know=False)
    chain.back(request := SetModem(dtr=False))
    assert chain.left.emitted == [request]


def test_each_of_two_controllers_is_told_of_the_port_it_faces():
    chain = Chain("policy,deny=baud", know=False)
    chain.back(LineReport(values=FOUND))
    chain.forward(LineReport(values=Line(300, 8, "none", 1.0)))
    (right,), _ = chain.ask(SetLine(baud=50))
    assert right.values.baud == 115200
    chain.back(SetLine(baud=50))
    assert chain.left.replied[-1].values.baud == 300


def test_reports_of_every_kind_pass():
    chain = Chain("policy,settings=locked")
    passing = [ModemReport(), BreakReport(), OutputReport(dtr=False), LineReport(values=FOUND), b"x", Eof()]
    assert all(a is b for a, b in zip(chain.tell(*passing), passing, strict=True))


# --- words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "denied"),
    [
        ({}, ""),
        ({"settings": "locked"}, "baud format flow"),
        ({"settings": "ignore", "deny": ("break",)}, "baud format flow break"),
        ({"allow": ("lines", "break")}, "baud format flow purge"),
        ({"allow": ("lines", "break"), "locked": Line(baud=300)}, "baud format flow purge"),
        ({"deny": ("baud", "purge")}, "baud purge"),
    ],
)
def test_what_the_words_take_away(options, denied):
    assert PolicyOptions(**options).denied == set(denied.split())


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"allow": ("baud",), "deny": ("baud",)}, "deny"),
        ({"settings": "follow", "locked": Line(baud=300)}, "settings"),
        ({"settings": "locked", "allow": ("baud",)}, "allow"),
        ({"locked": Line(baud=300), "allow": ("flow",)}, "allow"),
    ],
)
def test_words_that_contradict_each_other(options, key):
    with pytest.raises(BadValue) as fault:
        PolicyOptions(**options)
    assert fault.value.key == key


@pytest.mark.parametrize("word", ["locked=fast", "locked=", "deny=speed", "deny=baud+", "answer=no", "settings=on"])
def test_words_that_are_none(word):
    with pytest.raises(UsageError):
        parse_stage(f"policy,{word}")


@pytest.mark.parametrize(
    "word",
    [
        "policy,locked=115200n81",
        "policy,settings=ignore,deny=lines+break,locked=8e1,answer=inforce",
        "policy,allow=lines+break",
        "policy,locked=300",
    ],
)
def test_a_policy_says_itself_in_words_that_mean_the_same(word):
    spec = parse_stage(word).spec
    assert parse_stage(spec.describe()).spec == spec


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_listener_brings_its_policy(side):
    listener = "rfc2217-listen:0,locked=115200n81,deny=break,reset=esp"
    words = [listener, "checksum", "loop:"] if side == "left" else ["loop:", "checksum", listener]
    planned = plan(parse_chain(words), Options(dump="hexdump"))
    names = [stage.parsed.spec.describe() for stage in planned.stages]
    away = "right" if side == "left" else "left"
    brought = [f"policy,deny=break,locked=115200n81,dir={away}", f"reset:esp,dir={away}"]
    if side == "left":
        assert names[:2] == brought
        assert names[3] == "checksum:sha256"
    else:
        assert names[-2:] == brought[::-1]
    assert sum("inserted: by the options of rfc2217-listen:" in line for line in explain(planned)) == 2


def test_between_two_controllers_the_policy_stands_next_to_its_own():
    planned = plan(parse_chain(["rfc2217-listen:0,deny=lines", "pty:/tmp/x"]))
    assert [stage.parsed.name for stage in planned.stages] == ["policy", "virtual"]
    planned = plan(parse_chain(["pty:/tmp/x", "rfc2217-listen:0,deny=lines"]))
    assert [stage.parsed.name for stage in planned.stages] == ["virtual", "policy"]
    assert plan(parse_chain(["rfc2217-listen:0", "loop:"])).stages == ()
