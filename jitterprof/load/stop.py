"""Ending a measurement early or on time, at the price of one list read per request."""

_NEVER = 1 << 62


class StopCell:
    """Workers stop taking requests once the clock passes `cell[0]`.

    `request` may be called from a signal handler or any thread; it can be repeated, the first reason stays.
    """

    def __init__(self) -> None:
        self.cell = [_NEVER]
        self.requested = False
        self.reason = ""

    def request(self, reason: str = "stopped on request") -> None:
        """No further request is issued; those under way end normally."""
        if not self.requested:
            self.reason = reason
        self.requested = True
        self.cell[0] = 0

    def arm(self, deadline_ns: int) -> None:
        """The latest time at which a request may start. A request to stop, earlier or concurrent, wins."""
        self.cell[0] = deadline_ns
        if self.requested:
            self.cell[0] = 0
