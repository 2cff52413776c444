"""Retry loops: the same command several times in a row, and what it leaves behind.  Pure.

85 to 97 % of recorded runs have three or more consecutive calls of one command, and up to 502 MB stayed
behind them (arXiv 2602.09345): page cache, files in memory, processes that never ended.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from agentcgroup.policy import LoopRule

Command = tuple[tuple[str, ...], ...]
"""What a call runs, without assignments and wrappers: two calls are the same when these are."""


@dataclass(slots=True)
class Loop:
    """A command that ran ``len(calls)`` times in a row.  ``left_bytes`` is what stayed charged after them at most."""

    command: str
    calls: list[int] = field(default_factory=list)
    left_bytes: int = 0
    reclaimed_bytes: int = 0
    ended_calls: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Reclaim:
    """Take this much back from what ended calls left behind."""

    loop: Loop
    amount: int


@dataclass(frozen=True, slots=True)
class EndLeftovers:
    """End the processes that an earlier call of the loop left running."""

    loop: Loop
    call: int


class Loops:
    """The runs of one command in a session, the current one and the loops found."""

    def __init__(self, rule: LoopRule) -> None:
        self._rule = rule
        self._key: Command = ()
        self._run = Loop("")
        self._standing = self._standing_before = 0
        self.found: list[Loop] = []

    def began(self, call: int, key: Command, command: str) -> None:
        """A tool call began; ``key`` says what it runs, ``command`` in words."""
        if key != self._key or not key:
            self._key, self._run = key, Loop(command)
            self._standing_before = self._standing
        self._run.calls.append(call)

    def ended(self, call: int, standing: int, lingering: Mapping[int, int]) -> list[Reclaim | EndLeftovers]:
        """The root of a call ended.

        ``standing`` is the memory charged to ended calls, in bytes; ``lingering`` that of each call whose
        root has ended and whose processes have not.
        """
        self._standing = standing
        run = self._run
        if call not in run.calls or len(run.calls) < self._rule.times:
            return []
        if run not in self.found:
            self.found.append(run)
        earlier = [one for one in run.calls if one in lingering and one != call and one not in run.ended_calls]
        left = max(0, standing - self._standing_before) + sum(lingering[one] for one in earlier)
        run.left_bytes = max(run.left_bytes, left)
        actions: list[Reclaim | EndLeftovers] = []
        if self._rule.processes == "end":
            run.ended_calls += earlier
            actions += [EndLeftovers(run, one) for one in earlier]
        if self._rule.reclaim_from and standing - self._standing_before >= self._rule.reclaim_from:
            actions.append(Reclaim(run, standing - self._standing_before))
        return actions
