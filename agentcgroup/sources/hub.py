"""One source for many sessions: the daemon attaches to the kernel once, and each session gets what happened in its cgroups."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from agentcgroup.cgroup import number
from agentcgroup.sources import Counts, Event, Lost, Source

_EARLY = 1 << 16
"""Events that wait for their session at most."""


class Hub:
    """Hands the events of a source out by the cgroup in which they happened: O(1) per event, however many sessions there are.

    What happened nowhere in particular (a source that does not know cgroups, lost events) goes to all.
    """

    def __init__(self, source: Source, patience_s: float = 0.0) -> None:
        """``patience_s``: for so long, what happened where no session is yet waits for one (sessions are taken up again)."""
        self.source = source
        self._until_s = time.monotonic() + patience_s
        self._early: deque[Event] = deque(maxlen=_EARLY)
        self._parts: set[Part] = set()
        self._of: dict[int, Part] = {}
        source.on_ready(self._pull)

    def part(self) -> "Part":
        """A session's share of the source."""
        return Part(self)

    def close(self) -> None:
        """Stop the source."""
        self.source.on_ready(None)
        self.source.close()

    def _pull(self) -> None:
        self.source.drain(self._deliver)

    def _deliver(self, event: Event) -> None:
        where = 0 if isinstance(event, Lost) else event.cgroup
        if where:
            if (part := self._of.get(where)) is not None:
                part.take(event)
            elif self._until_s:
                self._wait(event)
        else:
            for part in list(self._parts):
                part.take(event)

    def _wait(self, event: Event) -> None:
        if time.monotonic() < self._until_s:
            self._early.append(event)
        else:
            self._until_s = 0.0
            self._early.clear()

    # For parts

    def join(self, part: "Part") -> None:
        self._parts.add(part)

    def leave(self, part: "Part", cgroups: set[int]) -> None:
        self._parts.discard(part)
        for one in cgroups:
            self._of.pop(one, None)

    def route(self, cgroup_id: int, part: "Part") -> None:
        self._of[cgroup_id] = part
        # Of a copy, for sessions are set up in other threads; each cgroup is routed once.
        for event in list(self._early):
            if not isinstance(event, Lost) and event.cgroup == cgroup_id:
                part.take(event)

    def unroute(self, cgroup_id: int) -> None:
        self._of.pop(cgroup_id, None)

    def refresh(self) -> None:
        """Hand out what waits in the source now."""
        self._pull()


class Part(Source):
    """A source as one session sees it."""

    def __init__(self, hub: Hub) -> None:
        self._hub, self._source = hub, hub.source
        self.name = hub.source.name
        self.sees_inside, self.sees_memory = hub.source.sees_inside, hub.source.sees_memory
        self._pending: deque[Event] = deque()
        self._cgroups: set[int] = set()
        self._callback: Callable[[], None] | None = None
        self._called = False

    def on_ready(self, callback: Callable[[], None] | None) -> None:
        self._callback = callback
        if callback is None:
            self._hub.leave(self, self._cgroups)
        else:
            self._hub.join(self)

    def take(self, event: Event) -> None:
        """An event of this session; whoever drains is called once for all that come together."""
        self._pending.append(event)
        if not self._called and self._callback is not None:
            self._called = True
            asyncio.get_running_loop().call_soon(self._call)

    def _call(self) -> None:
        self._called = False
        if self._callback is not None and self._pending:
            self._callback()

    def drain(self, deliver: Callable[[Event], None]) -> None:
        self._hub.refresh()
        while self._pending:
            deliver(self._pending.popleft())

    def watch_agent(self, cgroup: Path) -> None:
        self._route(number(cgroup))
        self._source.watch_agent(cgroup)

    def watch_call(self, cgroup: Path) -> None:
        self._route(number(cgroup))
        self._source.watch_call(cgroup)

    def _route(self, cgroup_id: int) -> None:
        self._cgroups.add(cgroup_id)
        self._hub.route(cgroup_id, self)

    def forget(self, cgroup_id: int) -> None:
        self._cgroups.discard(cgroup_id)
        self._hub.unroute(cgroup_id)

    def watch_exit(self, pid: int) -> None:
        self._source.watch_exit(pid)

    def let_go(self, pid: int) -> None:
        self._source.let_go(pid)

    def ask_at(self, cgroup_id: int, amount: int) -> None:
        self._source.ask_at(cgroup_id, amount)

    def counts(self, cgroup: Path) -> Counts | None:
        return self._source.counts(cgroup)

    def figures(self) -> dict[str, float]:
        return self._source.figures()
