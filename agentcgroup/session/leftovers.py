"""What retry loops leave behind in a session: found when a call ends, reclaimed or ended by policy.

``loops`` decides; here is what it needs to know, and what it has the kernel do.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

from agentcgroup import cgroup
from agentcgroup.command import display, key
from agentcgroup.loops import Loop, Loops, Reclaim
from agentcgroup.model import CallRecord
from agentcgroup.policy import LoopRule
from agentcgroup.session.live import Live
from agentcgroup.units import format_size


class Leftovers:
    """The retry loops of one session, and what stays charged to its calls' parent cgroup after them."""

    def __init__(
        self, rule: LoopRule, tools: Path, log: Callable[[str], None], spawn: Callable[[Coroutine[Any, Any, None]], None]
    ) -> None:
        self._loops, self._tools, self._log, self._spawn = Loops(rule), tools, log, spawn

    @property
    def found(self) -> list[Loop]:
        """The loops found so far."""
        return self._loops.found

    def began(self, record: CallRecord) -> None:
        """The command of a call is known: is it the same as the last?"""
        command = ((key(record.command),),) if record.command else ()
        self._loops.began(record.call, command, display(("sh", "-c", record.command), 120))

    def root_ended(self, call: int, live: Mapping[int, Live]) -> list[Live]:
        """A call's root has ended: memory that its loop left is reclaimed; returns the calls to be ended."""
        try:
            held = {number: _charged(one.leaf) for number, one in live.items() if one.leaf is not None}
            standing = _charged(self._tools) - sum(held.values())
        except cgroup.CgroupError:
            return []
        lingering = {number: size for number, size in held.items() if live[number].record.ended_s is not None}
        to_end = []
        for action in self._loops.ended(call, max(0, standing), lingering):
            if isinstance(action, Reclaim):
                self._spawn(self._reclaim(action))
            else:
                to_end.append(live[action.call])
        return to_end

    async def _reclaim(self, action: Reclaim) -> None:
        try:
            taken = await asyncio.to_thread(cgroup.reclaim, self._tools, action.amount)
        except cgroup.CgroupError as error:
            self._log(f"nothing reclaimed of what {action.loop.command} left: {error}")
            return
        action.loop.reclaimed_bytes += taken
        self._log(f"{format_size(taken)} reclaimed of what {len(action.loop.calls)} calls of {action.loop.command} left")


def _charged(place: Path) -> int:
    return int(cgroup.read(place, "memory.current"))
