"""What the scheduler hears, and what it answers.  Sizes in bytes, times in seconds of any clock that never goes back.

A call is named by its session's name and its number.
"""

from dataclasses import dataclass
from typing import Literal

from agentcgroup.model import Priority

Key = tuple[str, int]


# Events


@dataclass(frozen=True, slots=True)
class SessionBegan:
    """A session wants to share the host; ``budget`` is what its calls may use together."""

    session: str
    priority: Priority
    budget: int


@dataclass(frozen=True, slots=True)
class SessionEnded:
    """A session is gone, with all of its calls."""

    session: str


@dataclass(frozen=True, slots=True)
class PriorityChanged:
    """A session's calls, those that run included, have another priority from now on."""

    session: str
    priority: Priority


@dataclass(frozen=True, slots=True)
class CallBegan:
    """``limit`` is the most that the call is allowed.

    ``held`` is not 0 for one that ran before it was told of, ``waits`` says that it was made to wait by another scheduler.
    """

    key: Key
    limit: int
    announced: int = 0
    held: int = 0
    waits: bool = False


@dataclass(frozen=True, slots=True)
class Announced:
    """How much the call says, or its history says, that it needs at most; its limit may have changed with that."""

    key: Key
    announced: int
    limit: int


@dataclass(frozen=True, slots=True)
class Wants:
    """The call has grown to ``held``, where it was to ask for more."""

    key: Key
    held: int


@dataclass(frozen=True, slots=True)
class Holds:
    """The answer to ``Look``."""

    key: Key
    held: int


@dataclass(frozen=True, slots=True)
class Full:
    """The calls of its session together hold more than their share; this one holds so much."""

    key: Key
    held: int


@dataclass(frozen=True, slots=True)
class CallEnded:
    """The call is over, and what it held is free."""

    key: Key


@dataclass(frozen=True, slots=True)
class Capacity:
    """What all calls of the host may hold together from now on, and what there is beyond that to get them out of a deadlock."""

    total: int
    reserve: int = 0


@dataclass(frozen=True, slots=True)
class Tick:
    """Nothing happened but time."""


Event = SessionBegan | SessionEnded | PriorityChanged | CallBegan | Announced | Wants | Holds | Full | CallEnded | Capacity | Tick


# Actions


@dataclass(frozen=True, slots=True)
class Grant:
    """The call may grow to ``up_to``, and is to ask again at ``ask_at``.

    Not a limit: nothing slows it until it has asked.  But ``firm``, while memory is scarce: an enforcer that can, then
    slows what grows beyond it until the answer is there.
    """

    key: Key
    up_to: int
    ask_at: int
    firm: bool = False


@dataclass(frozen=True, slots=True)
class Wait:
    """The call may not grow now: it is slowed (``brake``) or stopped (``freeze``) until ``until_s`` at most.

    ``for_key`` is the call whose need comes first, None when it is simply that all is taken.
    """

    key: Key
    rung: Literal["brake", "freeze"]
    until_s: float
    for_key: Key | None
    why: str


@dataclass(frozen=True, slots=True)
class Go:
    """The call goes on, having waited this long."""

    key: Key
    waited_s: float
    why: str


@dataclass(frozen=True, slots=True)
class Look:
    """Say what the call holds now."""

    key: Key


@dataclass(frozen=True, slots=True)
class Kill:
    """Nothing else helps: end the call, and tell its agent why."""

    key: Key
    held: int
    capacity: int
    waited_s: float
    why: str


Action = Grant | Wait | Go | Look | Kill
