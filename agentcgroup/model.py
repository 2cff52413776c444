"""The nouns: limits, usage, tool calls, and what was done to them.  Frozen, no I/O."""

from dataclasses import dataclass, field
from typing import Literal

from agentcgroup.hints import Hint

Priority = Literal["high", "normal", "low"]
Kind = Literal["tool", "own", "helper"]
"""Whose command a call is: the model's (what is counted and shown as tool calls), the agent's own housekeeping (git polls, ``ps``),
or a long-lived server of the agent (MCP, language server).
"""
OnLimit = Literal["kill", "tell", "nothing"]
Resource = Literal["memory", "time", "processes"]

MIB = 1 << 20
LARGEST_STATUS = 0xFFFF
"""Of how a process ended, as wait(2) encodes it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one leaf is given.  Bytes, processes, seconds; None = no limit of its own.

    ``memory_high_bytes`` is the limit the policy means: crossing it wakes us while the kernel slows
    the call.  ``memory_max_bytes`` lies a grace above it, so that we can stop the call with an
    explanation before the kernel would kill it without one.
    """

    memory_high_bytes: int
    memory_max_bytes: int
    swap_max_bytes: int | None = 0
    processes: int | None = None
    cpu_weight: int = 100
    cpu_cores: float | None = None
    time_s: float | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """A leaf's memory at one moment, in bytes.  ``firm`` is what reclaim could not give back: no page cache."""

    current: int
    firm: int


@dataclass(frozen=True, slots=True)
class CommandClass:
    """What the policy says of one kind of command, limits resolved to this session's budget."""

    name: str
    rule: str
    kind: Kind
    limits: Limits
    on_memory: OnLimit
    on_time: OnLimit
    on_processes: OnLimit
    brake_s: float
    expected_bytes: int | None


@dataclass(frozen=True, slots=True)
class Deed:
    """Something done to a call: when (seconds since the session's start), what, why in words, and for how long (seconds)."""

    at_s: float
    what: str
    why: str
    lasted_s: float | None = None


@dataclass(slots=True)
class CallRecord:
    """One call as it is reported.  Times in seconds since the session's start, sizes in bytes.

    ``sign`` says by what its kind was told.
    """

    call: int
    pid: int
    argv: tuple[str, ...]
    started_s: float
    kind: Kind = "tool"
    sign: str = ""
    class_name: str = "default"
    rule: str = ""
    expected_bytes: int | None = None
    cwd: str = ""
    command: str = ""
    leaf: str | None = None
    placed_after_ms: float | None = None
    ended_s: float | None = None
    exit_status: int | None = None
    memory_peak_bytes: int | None = None
    memory_mean_bytes: int | None = None
    cpu_s: float | None = None
    processes: int = 1
    outlived_by: int = 0
    stalled_s: float | None = None
    waited_s: float | None = None
    hint: Hint = field(default_factory=Hint)
    limits: Limits | None = None
    deeds: list[Deed] = field(default_factory=list)
    deeds_left_out: int = 0
