"""What the scheduler knows of each call and session."""

from dataclasses import dataclass, field
from typing import Literal

from agentcgroup.schedule.events import Key
from agentcgroup.schedule.line import Line

_HAD = 0.9
_GAVE_BACK = 0.8
"""Shares of what was announced: reached the one and fell below the other, the announced burst is over."""


@dataclass(slots=True)
class Call:
    """A call as the scheduler knows it: sizes in bytes, times in seconds as it was told them."""

    key: Key
    level: int
    seq: int
    limit: int
    announced: int
    held: int = 0
    grant: int = 0
    peak: int = 0
    rung: Literal["", "brake", "freeze"] = ""
    since_s: float = 0.0
    until_s: float = 0.0
    waited_s: float = 0.0
    grew_from: int = 0
    grew_at_s: float = float("-inf")
    brake_used: bool = False
    killed: bool = False
    gives_back: int = 0

    @property
    def used(self) -> int:
        """What counts as taken: what was granted, or more, where it was faster than we."""
        return max(self.held, self.grant)

    def note_held(self, held: int) -> None:
        """It was seen to hold so much: the burst that it announced may be over."""
        self.held, self.peak = held, max(self.peak, held)
        if self.peak >= _HAD * self.announced and held < _GAVE_BACK * self.announced:
            self.announced = 0

    def need(self, step: int, growing: bool) -> int:
        """What it may want beyond what it has.

        One step more is kept for everybody: since they come one after the other, that is one step in all.  A call that is growing
        is taken to grow by as much again.
        """
        # What has not begun and waits can't have it before another ends: that is no reason for the other to wait, too.
        if self.rung == "freeze" and not self.grant:
            return 0
        wanted = max(self.announced, 2 * self.held - self.grew_from if growing else 0, self.used + step)
        return max(0, min(wanted, self.limit) - self.used)

    def least(self, step: int, most: int) -> int:
        """With less room than this it does not go on; ``most`` is all there is.

        It begins to grow when all that it announced is free: begun with less, it could come to hold memory that it can't use, and
        one of those that wait for each other would have to go.
        """
        if self.grant == 0 and self.announced:
            return max(step, min(self.announced - self.held, most))
        return min(step, self.announced - self.used) if self.announced > self.used else step

    def ask_at(self, step: int) -> int:
        """A little before its grant is used up, so that the answer is there in time; not before it has had what it announced."""
        return max(self.held, self.grant - (0 if self.grant >= self.announced > self.held else step))


@dataclass(slots=True)
class Session:
    """A session, the line that its calls stand in for its own budget, and how much those hold that are not frozen."""

    level: int
    line: Line[Key]
    calls: set[Key] = field(default_factory=set)
    running: int = 0
    """Bytes that calls hold which are not frozen: they may give them back."""
