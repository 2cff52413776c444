"""The agent's own memory: whoever started it is told on its terminal when it nears its cap, before the kernel kills it there."""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

from agentcgroup import background, cgroup, streams
from agentcgroup.classify import Budget
from agentcgroup.session.report import more_for_the_agent
from agentcgroup.units import format_size

_NEAR = 0.875
"""Of the cap; a runtime's heap grows by tens of MB at a time."""
_SOON_S, _SELDOM_S = 1.0, 5.0
"""It is looked at so often: from half of its cap on, and else."""
_PATIENCE_S = 0.5


class AgentMemory:
    """Looks at the agent's memory now and then, until it was told of."""

    def __init__(self, agent: Path, budget: Budget, process: int, log: Callable[[str], None]) -> None:
        """``agent`` is its cgroup, ``process`` its first process."""
        self._agent, self._budget, self._process, self._log = agent, budget, process, log
        self._next: asyncio.TimerHandle | None = None
        self._telling: asyncio.Task[None] | None = None

    def look(self) -> None:
        """Look now, and again in a while; once it was told, no more."""
        self.stop()
        if self._telling is not None:
            return
        cap = self._budget.agent_max
        try:
            held = int(cgroup.read(self._agent, "memory.current"))
            if held >= _NEAR * cap:
                held = self._kept(held)
        except cgroup.CgroupError:
            return  # it has ended
        if held >= _NEAR * cap:
            self._telling = background.start("telling of the agent's memory", self._tell(held), self._log)
        else:
            self._next = asyncio.get_running_loop().call_later(_SOON_S if held > cap // 2 else _SELDOM_S, self.look)

    def stop(self) -> None:
        """Look no more."""
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _kept(self, held: int) -> int:
        """Bytes without the page cache, which goes before anything is killed."""
        table = cgroup.read_table(self._agent, "memory.stat")
        return max(0, held - table["inactive_file"] - table["active_file"])

    async def _tell(self, held: int) -> None:
        budget = self._budget
        words = (
            f"the agent itself holds {format_size(held)} of its cap of {format_size(budget.agent_max)}, where the kernel kills it"
        )
        what = more_for_the_agent(budget.session, budget.agent_max)
        self._log(f"{words}; if it needs more, {what}")
        with contextlib.suppress(OSError):
            pidfd = os.pidfd_open(self._process)
            try:
                one = streams.stream(self._process, 2)
                if one is not None and cgroup.of_process(self._process) == self._agent:  # else it is another's number by now
                    # A terminal may be in raw mode, where a line feed alone does not go back to the left.
                    text = f"\r\nagentcgroup: {words}\r\n  if it needs more, {what}\r\n".encode()
                    await streams.write(one, pidfd, text, time.monotonic() + _PATIENCE_S)
            finally:
                os.close(pidfd)
