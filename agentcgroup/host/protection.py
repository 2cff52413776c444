"""What sessions protect from reclaim, added up in their slice: the kernel honours it only as far as the slice does, too.

The slice is systemd's unit.  Whenever systemd reads its units again (``systemctl daemon-reload``) it writes the slice's files anew, so it
has to know the figure; the file is written here as well, for asking systemd takes a while.
"""

import asyncio
import contextlib
from pathlib import Path

from agentcgroup import background, cgroup, systemd
from agentcgroup.errors import AgentCgroupError

_SETTLE_S = 1.0
"""Sessions come and go; systemd hears of what has lasted this long."""


class Protection:
    """``memory.low`` of the slice of all sessions."""

    def __init__(self, log: background.Log) -> None:
        self._log = log
        self._sessions: dict[str, int] = {}
        self._told = 0
        self._telling: asyncio.Task[None] | None = None

    def change(self, base: Path, name: str, place: Path | None) -> None:
        """A session has another protection, or none any more (``place`` is None).  Sessions outside ``base``, the slice, do not count."""
        self._sessions.pop(name, None)
        with contextlib.suppress(cgroup.CgroupError):
            if place is not None and place.parent == base:
                self._sessions[name] = int(cgroup.read(place, "memory.low"))
            cgroup.write(base, "memory.low", self._wanted)
        if self._wanted != self._told and (self._telling is None or self._telling.done()) and systemd.is_running():
            self._telling = background.start("telling systemd what sessions protect", self._tell(), self._log)

    @property
    def _wanted(self) -> int:
        return sum(self._sessions.values())

    async def _tell(self) -> None:
        while self._wanted != self._told:
            await asyncio.sleep(_SETTLE_S)
            wanted = self._wanted
            try:
                await asyncio.to_thread(systemd.protect_slice, wanted)
            except AgentCgroupError as error:
                # What the file says holds until systemd writes it; the next session tries again.
                self._log(f"systemd does not know what sessions protect: {error}")
                return
            self._told = wanted
