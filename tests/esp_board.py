"""What an ESP board makes of DTR and RTS: two transistors, and a chip that looks at IO0 when EN rises."""

from serpipe.events import SetModem


class EspBoard:
    """`set` is a SetModem at the port; `starts` is what the chip started, one entry per rise of EN."""

    def __init__(self, dtr=True, rts=True):
        self.dtr, self.rts = dtr, rts
        self.starts = []
        self.seen = []
        """(DTR, RTS) after each request."""

    @property
    def en(self):
        """RTS without DTR pulls it low."""
        return not (self.rts and not self.dtr)

    @property
    def io0(self):
        """DTR without RTS pulls it low."""
        return not (self.dtr and not self.rts)

    def set(self, request):
        was_in_reset = not self.en
        self.dtr = self.dtr if request.dtr is None else request.dtr
        self.rts = self.rts if request.rts is None else request.rts
        self.seen.append((self.dtr, self.rts))
        if was_in_reset and self.en:
            self.starts.append("application" if self.io0 else "bootloader")

    def watch(self, events):
        """Every SetModem among these that sets something, in their order."""
        for event in events:
            if type(event) is SetModem and event != SetModem():
                self.set(event)
