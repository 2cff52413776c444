"""What the calls of a session hold in files in memory, and what ended ones left there: no process to stop gives it back."""

import contextlib
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from agentcgroup import cgroup, tmpfs
from agentcgroup.control_events import InFiles, Notice, Reason
from agentcgroup.notable import LEFT_BYTES
from agentcgroup.session.layout import Layout
from agentcgroup.session.live import Live
from agentcgroup.session.places import KEEPER
from agentcgroup.units import format_size

_OF_MEMORY: tuple[Reason, ...] = ("memory", "kernel", "budget", "session", "room", "stalled")
_OF_ITS_OWN: tuple[Reason, ...] = ("memory", "kernel")
"""Reasons that lie in the call alone."""


class InMemory:
    """Of one session; ``began`` is its start (CLOCK_MONOTONIC)."""

    def __init__(self, layout: Layout, live: Mapping[int, Live], began: float) -> None:
        self._layout, self._live = layout, live
        self._began_at = time.time() - (time.monotonic() - began)

    def explain(self, live: Live, notice: Notice) -> Notice:
        """What a call is told, with the files in memory where they are what is in the way."""
        if notice.reason not in _OF_MEMORY or live.leaf is None:
            return notice
        with contextlib.suppress(cgroup.CgroupError, ValueError):  # the call is told and stopped all the same
            own = cgroup.tmpfs(live.leaf)
            if own >= LEFT_BYTES and 2 * own >= int(cgroup.read(live.leaf, "memory.current")):
                return replace(notice, files=InFiles(own, True, self._named(live.record.started_s)))
            left = self._left() if notice.reason not in _OF_ITS_OWN else 0
            if left >= LEFT_BYTES and 4 * left >= int(cgroup.read(self._layout.tools, "memory.current")):
                return replace(notice, files=InFiles(left, False, self._named(0.0)))
        return notice

    def left_by(self, live: Live) -> tuple[str, str] | None:
        """What a call left whose processes have ended, in words, and the files; None where it is not worth a word."""
        with contextlib.suppress(cgroup.CgroupError):
            if live.leaf is not None and (left := cgroup.tmpfs(live.leaf)) >= LEFT_BYTES:
                return f"left {format_size(left)} in memory", self._named(live.record.started_s) or "files in tmpfs"
        return None

    def at_the_end(self) -> dict[str, Any]:
        """What the session leaves: ``bytes``, and the largest ``files``.  Its cgroups must be there still."""
        left, files = 0, ""
        with contextlib.suppress(cgroup.CgroupError):
            left = cgroup.tmpfs(self._layout.top)
            files = self._named(0.0) if left >= LEFT_BYTES else ""
        return {"bytes": left, "files": files}

    def _left(self) -> int:
        """What calls left that have ended."""
        theirs = sum(cgroup.tmpfs(live.leaf) for live in self._live.values() if live.leaf is not None)
        return max(0, cgroup.tmpfs(self._layout.tools) - theirs)

    def _named(self, since_s: float) -> str:
        """Files written since ``since_s`` seconds of the session, by whoever the agent runs as; it may have ended, the keeper is there."""
        for pid in (*cgroup.processes(self._layout.agent), *cgroup.processes(self._layout.top / KEEPER)):
            return tmpfs.words(tmpfs.files_of(pid, self._began_at + since_s))
        return ""
