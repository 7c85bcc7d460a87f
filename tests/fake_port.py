"""A serial port in memory that answers as a UART would, and keeps what it is given."""

from dataclasses import replace

from serpipe.events import (
    Drain,
    Drained,
    Failed,
    GetModem,
    GetSignature,
    Line,
    LineReport,
    ModemReport,
    OutputReport,
    Purge,
    PurgeDone,
    Request,
    SetBreak,
    SetLine,
    SetModem,
    Signature,
)

AS_FOUND = Line(baud=9600, bytesize=8, parity="none", stopbits=1, flow="none")
MODEM = ModemReport(cts=True, dsr=True)


class FakePort:
    """`do(event)` is the answer to a Request, None for anything else; `written` is all it was given.

    It has no inbound flow control and no 1.5 stop bits beyond 5 bits; `rounding` is what its divisor makes of a rate.
    """

    def __init__(self, line=AS_FOUND):
        self.line = line
        self.outputs = OutputReport(dtr=False, rts=False, break_=False)
        self.modem = MODEM
        self.written = []
        self.fail = False
        self.rounding = lambda baud: min(baud, 4_000_000)

    def do(self, event):
        self.written.append(event)
        if not isinstance(event, Request):
            return None
        if self.fail:
            return Failed(answers=event.ref)
        return replace(self._do(event), answers=event.ref)

    def _do(self, request):
        match request:
            case SetLine():
                wanted = replace(request.line, flow_in=None)
                if wanted.stopbits == 1.5 and (wanted.bytesize or self.line.bytesize) != 5:
                    wanted = replace(wanted, stopbits=None)
                if wanted.baud is not None:
                    wanted = replace(wanted, baud=self.rounding(wanted.baud))
                self.line = wanted.over(self.line)
                return LineReport(values=self.line, requested=request.line)
            case SetModem(dtr=dtr, rts=rts):
                self.outputs = replace(
                    self.outputs,
                    dtr=self.outputs.dtr if dtr is None else dtr,
                    rts=self.outputs.rts if rts is None else rts,
                )
                return self.outputs
            case SetBreak(on=on):
                self.outputs = replace(self.outputs, break_=self.outputs.break_ if on is None else on)
                return self.outputs
            case GetModem():
                return self.modem
            case Purge(rx=rx, tx=tx):
                return PurgeDone(rx=rx, tx=tx)
            case Drain():
                return Drained()
            case GetSignature():
                return Signature(text=b"ser2net")
