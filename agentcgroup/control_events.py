"""What the controller hears, and what it answers.  Sizes in bytes, times in seconds.

A call is named by its number in its session.  No action names the agent domain: there is no way to write one.
"""

from dataclasses import dataclass
from typing import Literal

from agentcgroup.hints import Hint
from agentcgroup.model import CommandClass, Limits, Usage

# Events


@dataclass(frozen=True, slots=True)
class Began:
    """A call began; ``granted`` is what the policy gives its command."""

    call: int
    granted: CommandClass


@dataclass(frozen=True, slots=True)
class Reclassified:
    """The call's command is known only now (``agentcgroup exec``)."""

    call: int
    granted: CommandClass


@dataclass(frozen=True, slots=True)
class Hinted:
    """A process of the call declared a need."""

    call: int
    hint: Hint


@dataclass(frozen=True, slots=True)
class Measured:
    """The call's memory, read because it crossed its limit or because ``Measure`` asked."""

    call: int
    usage: Usage


@dataclass(frozen=True, slots=True)
class BudgetCrossed:
    """All calls together crossed the session's share, or ``MeasureAll`` asked; the memory of each, and whether one waits for memory."""

    usages: dict[int, Usage]
    waits: bool = False


@dataclass(frozen=True, slots=True)
class ProcessesRefused:
    """The call reached its limit on processes: a fork failed."""

    call: int


@dataclass(frozen=True, slots=True)
class KernelKilled:
    """The kernel's out-of-memory killer was faster than we; the most that the call held, in bytes."""

    call: int
    peak: int


@dataclass(frozen=True, slots=True)
class NoRoom:
    """The host's scheduler found that waiting does not help, and chose this call; bytes, seconds, and why in words."""

    call: int
    held: int
    capacity: int
    waited_s: float
    why: str


@dataclass(frozen=True, slots=True)
class Stalled:
    """For how long in all every process of the call at once has waited for memory (PSI's ``full``)."""

    call: int
    stalled_s: float


@dataclass(frozen=True, slots=True)
class Computed:
    """Processors are short; the time that each call has used of them, in seconds."""

    used_s: dict[int, float]


@dataclass(frozen=True, slots=True)
class Ended:
    """The call is over."""

    call: int


@dataclass(frozen=True, slots=True)
class Tick:
    """Nothing happened but time."""


Event = (
    Began
    | Reclassified
    | Hinted
    | Measured
    | BudgetCrossed
    | ProcessesRefused
    | KernelKilled
    | NoRoom
    | Stalled
    | Computed
    | Ended
    | Tick
)


# Actions

Reason = Literal["memory", "budget", "time", "processes", "kernel", "session", "room", "stalled"]


@dataclass(frozen=True, slots=True)
class InFiles:
    """Memory that files in tmpfs take: the call's ``own``, or what ended calls left; ``named`` is the largest ones in words."""

    held: int
    own: bool
    named: str


@dataclass(frozen=True, slots=True)
class Notice:
    """What an agent is told of a call.  Bytes, seconds; ``most`` is what a memory hint could get.

    ``left_by``: it is not of the call that is told of it, but of what this earlier command left running.  ``files``: where these are
    in the way.
    """

    reason: Reason
    stopped: bool
    class_name: str
    used: float
    limit: float
    expected: int | None = None
    most: int | None = None
    left_by: str = ""
    files: InFiles | None = None


@dataclass(frozen=True, slots=True)
class SetLimits:
    call: int
    limits: Limits
    why: str


@dataclass(frozen=True, slots=True)
class Measure:
    """Read the call's memory and report it."""

    call: int


@dataclass(frozen=True, slots=True)
class MeasureAll:
    """Read the memory of all calls and report it."""


@dataclass(frozen=True, slots=True)
class Revoke:
    """What the calls were granted and have not taken is not there: each asks before it grows."""


@dataclass(frozen=True, slots=True)
class Brake:
    """The call is being slowed (by the kernel, at its ``memory.high``) until the given time at most."""

    call: int
    until_s: float
    why: str


@dataclass(frozen=True, slots=True)
class Release:
    """The call came back below its limit in time."""

    call: int
    why: str


@dataclass(frozen=True, slots=True)
class Tell:
    """Say it on the call's stderr; the call goes on."""

    call: int
    notice: Notice


@dataclass(frozen=True, slots=True)
class Stop:
    """Freeze, tell, kill: one action, because a freeze without its kill would be a call left frozen."""

    call: int
    notice: Notice
    why: str


Action = SetLimits | Measure | MeasureAll | Revoke | Brake | Release | Tell | Stop
