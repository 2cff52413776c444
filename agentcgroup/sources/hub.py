"""One source for many sessions: the daemon attaches to the kernel once, and each session gets what happened in its cgroups."""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from agentcgroup.cgroup import number
from agentcgroup.sources import Counts, Event, Lost, Source

_PATIENCE_S = 60.0
"""For the sessions of an earlier daemon to be found: what is longer than whatever they wait for (a container engine, a container that
forks), as what is taken out before one is there is lost to it.
"""

_TURN_S = 0.02
"""A session that has more to take in than this goes on after the others: what they wait, and the service manager, must not add up."""


class Hub:
    """Hands the events of a source out by the cgroup in which they happened: O(1) per event, however many sessions there are.

    What happened nowhere in particular (a source that does not know cgroups, lost events) goes to all.  Events are taken out of the
    source when all sessions that an earlier daemon left are there to get theirs, and the source is told how far they were acted upon.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self._parts: set[Part] = set()
        self._of: dict[int, Part] = {}
        self._coming: set[Part] = set()
        self._all_known = self._paused = False
        self._behind: dict[Part, int] = {}
        """Parts with events that wait, and where the source was before the first of these."""
        self._turns: deque[Part] = deque()
        self._then: deque[tuple[int, Callable[[], object]]] = deque()
        """What is to be done when the source is told that all before a position was acted upon."""
        self.before = 0
        """Where the source was before what was handed out last."""
        self.begun = asyncio.Event()
        self._patience = asyncio.get_running_loop().call_later(_PATIENCE_S, self._begin)

    def part(self) -> "Part":
        """A session's share of the source; the source waits for it until ``Part.begun`` is awaited, or it is closed."""
        part = Part(self)
        if not self.begun.is_set():
            self._coming.add(part)
        return part

    def all_known(self) -> None:
        """There is a part for each session that an earlier daemon left."""
        self._all_known = True
        self._begin_if_all_came()

    def pause(self) -> None:
        """Take nothing out any more: what waits is for the next daemon."""
        self._patience.cancel()
        if self.begun.is_set():
            self.source.on_ready(None)
            self.acted()
        self._paused = True

    def close(self) -> None:
        """Stop the source."""
        self.pause()
        self.source.close()

    def _begin_if_all_came(self) -> None:
        if self._all_known and not self._coming:
            self._begin()

    def _begin(self) -> None:
        if not self.begun.is_set() and not self._paused:
            self._patience.cancel()
            self.begun.set()
            self.source.on_ready(self._pull)

    def _pull(self) -> None:
        self.refresh()
        self.acted()

    def _deliver(self, event: Event) -> None:
        where = 0 if isinstance(event, Lost) else event.cgroup
        if not where:
            for part in list(self._parts):
                part.take(event)
        elif (one := self._of.get(where)) is not None:
            one.take(event)

    # For parts

    def came(self, part: "Part") -> None:
        """The part's session is there, or will never be."""
        self._coming.discard(part)
        self._begin_if_all_came()

    def join(self, part: "Part") -> None:
        self._parts.add(part)

    def leave(self, part: "Part", cgroups: set[int]) -> None:
        self._parts.discard(part)
        self._behind.pop(part, None)
        for one in cgroups:
            self._of.pop(one, None)

    def route(self, cgroup_id: int, part: "Part") -> None:
        self._of[cgroup_id] = part

    def unroute(self, cgroup_id: int) -> None:
        self._of.pop(cgroup_id, None)

    def refresh(self) -> None:
        """Hand out what waits in the source now."""
        if self.begun.is_set() and not self._paused:
            self.before = self.source.position()
            self.source.drain(self._deliver)

    def wants_turn(self, part: "Part") -> None:
        """The part is called when all others had their turns that wait for one; in between, others are heard who talk with us."""
        self._turns.append(part)
        if len(self._turns) == 1:
            asyncio.get_running_loop().call_soon(self._next_turn)

    def _next_turn(self) -> None:
        try:
            self._turns[0].turn()
        finally:
            self._turns.popleft()
            if self._turns:
                asyncio.get_running_loop().call_soon(self._next_turn)

    def is_behind(self, part: "Part", since: int | None) -> None:
        """The part has events that wait, the first since the source was there; None: it has none any more."""
        if since is None:
            self._behind.pop(part, None)
        else:
            self._behind[part] = since

    def acted(self) -> None:
        """Whatever was handed out and does not wait has had its effect; said between callbacks only, when nothing is half done."""
        if self._paused:
            return
        until = min(self._behind.values(), default=self.source.position())
        self.source.acted(until)
        while self._then and self._then[0][0] <= until:
            self._then.popleft()[1]()

    def when_acted(self, do: Callable[[], object]) -> None:
        """Do something when all that was handed out until now has had its effect; it may still wait with another part."""
        self._then.append((self.source.position(), do))
        self.acted()


class Part(Source):
    """A source as one session sees it."""

    def __init__(self, hub: Hub) -> None:
        self._hub, self._source = hub, hub.source
        self.name = hub.source.name
        self.sees_inside, self.sees_memory = hub.source.sees_inside, hub.source.sees_memory
        self._pending: deque[tuple[int, Event]] = deque()
        """Each with where the source was before it."""
        self._since: int | None = None
        """Where the source was before the first event that has not had all its effect."""
        self._unfinished = self._left = False
        self._turn_ends = math.inf
        self._cgroups: set[int] = set()
        self._callback: Callable[[], None] | None = None
        self._called = False

    def on_ready(self, callback: Callable[[], None] | None) -> None:
        self._callback, self._left = callback, callback is None
        if callback is None:
            self._hub.leave(self, self._cgroups)
        else:
            self._hub.join(self)

    async def begun(self) -> None:
        self._hub.came(self)
        await self._hub.begun.wait()

    def close(self) -> None:
        self._left = True
        self._hub.leave(self, self._cgroups)
        self._hub.came(self)

    def take(self, event: Event) -> None:
        """An event of this session; whoever drains is called once for all that come together."""
        self._pending.append((self._hub.before, event))
        self._say_how_far()
        self._call_soon()

    def unfinished(self, is_so: bool) -> None:
        self._unfinished = is_so
        self._say_how_far()

    def _say_how_far(self) -> None:
        if not self._unfinished or self._since is None:
            self._since = self._pending[0][0] if self._pending else None
        self._hub.is_behind(self, None if self._left else self._since)

    def _call_soon(self) -> None:
        if self._pending and not self._called and self._callback is not None:
            self._called = True
            self._hub.wants_turn(self)

    def turn(self) -> None:
        """The session takes in what waits; what is left when that has lasted long enough is for its next turn."""
        self._called = False
        if self._callback is not None and self._pending:
            self._turn_ends = time.monotonic() + _TURN_S
            try:
                self._callback()
            finally:
                self._turn_ends = math.inf
                self._call_soon()
        self._hub.acted()

    def drain(self, deliver: Callable[[Event], None]) -> None:
        self._hub.refresh()
        while self._pending:
            deliver(self._pending.popleft()[1])
            if time.monotonic() > self._turn_ends:
                break
        self._say_how_far()

    def when_acted(self, do: Callable[[], object]) -> None:
        self._hub.when_acted(do)

    def watch_agent(self, cgroup: Path) -> None:
        self._route(number(cgroup))
        self._source.watch_agent(cgroup)

    def watch_call(self, cgroup: Path) -> None:
        self._route(number(cgroup))
        self._source.watch_call(cgroup)

    def tell_programs(self, cgroup: Path) -> None:
        self._source.tell_programs(cgroup)

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
