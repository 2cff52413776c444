"""What the scheduler knows of each call and session."""

from dataclasses import dataclass, field
from typing import Literal

from agentcgroup.schedule.events import Key
from agentcgroup.schedule.line import Line


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


@dataclass(slots=True)
class Session:
    """A session, the line that its calls stand in for its own budget, and how much those hold that are not frozen."""

    level: int
    line: Line[Key]
    calls: set[Key] = field(default_factory=set)
    running: int = 0
    """Bytes that calls hold which are not frozen: they may give them back."""
