"""Takes in what a session's source tells, in turns: new calls first, then the processes that are not where they belong.

Moving one process may take the kernel as long as an RCU grace period, and a storm of births makes hundreds of them late.  So after a
while all others have their turn: those who ask, deadlines, and whoever is to read the session again because events were lost,
which has to be while the parents of what was missed still live.
"""

import asyncio
import time
from collections.abc import Callable

from agentcgroup.session.live import Placement
from agentcgroup.sources import Event, Source

_TURN_S = 0.02
_LOOK_AGAIN_S = 0.5


class Intake:
    """``settle`` finishes what new calls need, when their roots are placed."""

    def __init__(
        self, source: Source, deliver: Callable[[Event], None], placement: Placement, settle: Callable[[], None]
    ) -> None:
        self._source, self._deliver, self._placement, self._settle = source, deliver, placement, settle
        self._loop = asyncio.get_running_loop()
        self._look_at = 0.0
        self._look_again: asyncio.TimerHandle | None = None
        self._next_turn: asyncio.Handle | None = None

    def drain(self) -> None:
        """Take in what waits in the source, and do what it calls for; who is late is placed for a turn, and in later ones."""
        self._take_in()
        if self._source.sees_inside:
            # What the kernel left out is noticed with the next record; the last ones have none after them.
            self._look_at = time.monotonic() + _LOOK_AGAIN_S
            if self._look_again is None:
                self._look_again = self._loop.call_later(_LOOK_AGAIN_S, self._drain_again)

    def close(self) -> None:
        """Take in nothing more."""
        for handle in (self._look_again, self._next_turn):
            if handle is not None:
                handle.cancel()

    def _drain_again(self) -> None:
        self._look_again, left_s = None, self._look_at - time.monotonic()
        if left_s > 0:
            self._look_again = self._loop.call_later(left_s, self._drain_again)
        else:
            self._take_in()

    def _take_in(self) -> None:
        self._source.unfinished(True)
        self._source.drain(self._deliver)
        self._place()

    def _place(self) -> None:
        ends = time.monotonic() + _TURN_S
        while self._placement.fetch():
            if time.monotonic() > ends:
                if self._next_turn is None:
                    self._next_turn = self._loop.call_soon(self._go_on)
                break
            self._source.drain(self._deliver)  # a new call's root comes first: each moment that it waits, it forks more of these
        self._settle()
        self._source.unfinished(self._next_turn is not None)

    def _go_on(self) -> None:
        self._next_turn = None
        self._place()
