"""A session's cgroups: ``agent`` for the agent's runtime, ``tools/tool-<n>`` for its calls.

The calls have a parent of their own (``tools``) instead of lying beside the agent: it lets the kernel
wake us, and slow the calls, when all of them together near the session's budget, without the agent
being slowed as it would be by a limit on the session; and the agent's share of the processors
does not shrink with the number of calls.  ``keeper`` holds one sleeping process: systemd removes a scope
at the moment it is empty, and with it the figures of the call that ended last.
"""

import contextlib
import errno
import time
from dataclasses import dataclass, replace
from pathlib import Path

from agentcgroup import cgroup, systemd
from agentcgroup.classify import Budget
from agentcgroup.model import Limits, Priority
from agentcgroup.session.places import AGENT, KEEPER, TOOLS, leaf_of, session_cgroup
from agentcgroup.sources import Source

_TOOLS_CPU_WEIGHT = 100
_MOVING_S = 5.0
"""A container that forks faster than its processes can be moved for this long is not divided."""
_KEEPER_LIMITS = {"memory.max": 16 << 20, "memory.swap.max": 0, "pids.max": 1, "cpu.weight": 1}
"""It only sleeps; but whoever asks the daemon for a session chooses the process."""
_SPARES = 3
"""Leaves that are kept ready: agents run a few calls at once at most."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """The cgroup of one call.

    Its ``number`` is the kernel's id of it, which is given out once: a leaf that was removed and made again has the same path and
    another number, and nothing that was written to the first one.  ``given``: the limits that were written to it; None: none
    by us.  ``new``: nobody else has written any either.
    """

    path: Path
    number: int
    given: Limits | None = None
    new: bool = True


class Layout:
    """The cgroups of one session."""

    def __init__(self, name: str, source: Source, top: Path | None = None) -> None:
        """``top``: the session's cgroup, where it is not the one that follows from its name."""
        self.name = name
        self._source = source
        self.top = top or session_cgroup(name)
        self.agent = self.top / AGENT
        self.tools = self.top / TOOLS
        self._keeper = self.top / KEEPER
        self._spares: dict[Path, Leaf] = {}

    def create(self, stub: int, keeper: int, budget: Budget, priority: Priority, cpu_weight: int, agent_cpu_weight: int) -> None:
        """Make the session's cgroups and move ``stub`` into the agent domain; it must not have run yet."""
        self.create_top(self.name, [stub, keeper], budget, priority, cpu_weight)
        self.create_parts(stub, keeper, budget, priority, agent_cpu_weight)

    @staticmethod
    def create_top(name: str, pids: list[int], budget: Budget, priority: Priority, cpu_weight: int) -> None:
        """Make the session's own cgroup, with these processes in it where systemd makes it.

        What is protected from reclaim is the agent's baseline, and of a session of high priority all.
        """
        protected, top = _protected(budget, priority), session_cgroup(name)
        if systemd.is_running():
            systemd.start_scope(name, pids, budget.session, protected, cpu_weight)
            return
        top.parent.mkdir(exist_ok=True)
        cgroup.enable_controllers(top.parent, cgroup.mount_point())
        cgroup.create(top)
        cgroup.write(top, "memory.max", budget.session)
        cgroup.write(top, "memory.low", protected)
        cgroup.write(top, "cpu.weight", cpu_weight)

    def create_parts(self, stub: int, keeper: int, budget: Budget, priority: Priority, agent_cpu_weight: int) -> None:
        """Divide the session's cgroup, and move its processes to where they belong."""
        for part in (self.agent, self.tools, self._keeper):
            cgroup.create(part)
        self._source.watch_agent(self.agent)
        cgroup.add(self.agent, stub)
        cgroup.add(self._keeper, keeper)
        self._limit_parts(budget, _protected(budget, priority), agent_cpu_weight)
        for name, value in _KEEPER_LIMITS.items():
            # No swap files where the kernel was built or booted without swap.
            with contextlib.suppress(cgroup.CgroupError) if name == "memory.swap.max" else contextlib.nullcontext():
                cgroup.write(self._keeper, name, value)

    def take_over(self, budget: Budget, priority: Priority, agent_cpu_weight: int) -> None:
        """Divide the cgroup of a container that runs: all that is in it becomes the agent; leaves that are there stay.

        Raises CgroupError where that can't be done.
        """
        for part in (self.agent, self.tools):
            if not part.exists():
                cgroup.create(part)
        self._source.watch_agent(self.agent)
        deadline = time.monotonic() + _MOVING_S
        # Whoever is born meanwhile is found the next time.
        while (found := cgroup.processes(self.top)) and time.monotonic() < deadline:
            for pid in found:
                cgroup.add(self.agent, pid)
        self._limit_parts(budget, _protected(budget, priority), agent_cpu_weight)

    def change_priority(self, budget: Budget, priority: Priority, cpu_weight: int) -> None:
        """What follows from a session's priority, for one that runs; a container's own weight is its engine's."""
        protected = _protected(budget, priority)
        cgroup.write(self.tools, "memory.low", protected - budget.agent_low)
        if self.top != session_cgroup(self.name):
            return
        if systemd.is_running():
            systemd.change_scope(self.name, protected, cpu_weight)
        else:
            cgroup.write(self.top, "memory.low", protected)
            cgroup.write(self.top, "cpu.weight", cpu_weight)

    def watch_again(self) -> None:
        """The session's cgroups are there already; be told of the agent's from now on."""
        self._source.watch_agent(self.agent)

    def _limit_parts(self, budget: Budget, protected: int, agent_cpu_weight: int) -> None:
        cgroup.enable_controllers(self.tools, self.top)
        cgroup.write(self.agent, "memory.low", budget.agent_low)
        cgroup.write(self.agent, "memory.max", budget.agent_max)
        cgroup.write(self.agent, "cpu.weight", agent_cpu_weight)
        cgroup.write(self.tools, "memory.low", protected - budget.agent_low)
        cgroup.write(self.tools, "memory.high", budget.tools_high)
        cgroup.write(self.tools, "memory.max", budget.tools_max)
        cgroup.write(self.tools, "cpu.weight", _TOOLS_CPU_WEIGHT)

    def take_leaf(self, call: int) -> Leaf:
        """A leaf for a call: a spare one if there is one of its number, else a new one."""
        path = leaf_of(self.top, call)
        spare = self._spares.pop(path, None)
        if spare is not None:
            with contextlib.suppress(cgroup.CgroupError):
                if cgroup.number(path) == spare.number:
                    return spare
            self._source.forget(spare.number)  # somebody removed it
        return self._make(path)

    def adopt_leaf(self, path: Path) -> Leaf:
        """The leaf of a call that an earlier governor had."""
        self._source.watch_call(path)
        return Leaf(path, cgroup.number(path), new=False)

    def lost(self, number: int) -> None:
        """Somebody removed the leaf of this number while a call had it."""
        self._source.forget(number)

    def prepare(self, next_call: int, limits: Limits) -> None:
        """Have the leaves of the next calls ready, so that making them is not on those calls' way."""
        wanted = {leaf_of(self.top, call) for call in range(next_call, next_call + _SPARES)}
        for path in self._spares.keys() - wanted:
            self.drop(self._spares.pop(path))
        for path in wanted - self._spares.keys():
            if path.exists():
                continue  # an earlier daemon's, not yet looked at
            with contextlib.suppress(cgroup.CgroupError):
                leaf = self._make(path)
                cgroup.limit(path, limits)
                self._spares[path] = replace(leaf, given=limits)

    def give_back(self, leaf: Path) -> None:
        """Remove a leaf that kept the record of its call for the next daemon, when that will not be told of the call again."""
        self._source.when_acted(lambda: cgroup.remove(leaf))

    def is_spare(self, leaf: Path) -> bool:
        """Whether the leaf is one that is kept ready here."""
        return leaf in self._spares

    def drop_spares(self) -> None:
        """Remove the leaves that were kept ready."""
        while self._spares:
            self.drop(self._spares.popitem()[1])

    def drop(self, leaf: Leaf) -> None:
        """Remove a leaf that no call has."""
        self._source.forget(leaf.number)
        cgroup.remove(leaf.path)

    def _make(self, path: Path) -> Leaf:
        new = True
        try:
            cgroup.create(path)
        except cgroup.CgroupError as error:
            if error.errno != errno.EEXIST:
                raise
            new = False
        self._source.watch_call(path)
        # A command is several processes: half of it killed is of no use to anyone.
        cgroup.write(path, "memory.oom.group", 1)
        return Leaf(path, cgroup.number(path), new=new)


def _protected(budget: Budget, priority: Priority) -> int:
    """Bytes of a session that reclaim is to leave alone."""
    return budget.session if priority == "high" else budget.agent_low
