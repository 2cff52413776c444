"""A live tool call, and where its processes are: which leaf it has, and which of its processes are still outside."""

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from agentcgroup import cgroup, process
from agentcgroup.model import CallRecord, Limits
from agentcgroup.session.layout import Layout, Leaf
from agentcgroup.tracker import Join, Tracker

HINTS_AT_ONCE, HINTS_PER_S = 32.0, 1.0
"""Different hints of one call: so many at once, and so many a second after that.  Each may change limits."""


@dataclass(slots=True)
class Waiting:
    """Why a call is slowed or stopped, and since when (CLOCK_MONOTONIC, seconds); ``lift`` lets it go if nobody else does."""

    since_s: float
    rung: str
    why: str
    lift: asyncio.TimerHandle


@dataclass(slots=True)
class Live:
    """What is known of its leaf (``cgroup_id``, ``given``, ``new``: see ``Leaf``; ``limits``, ``counts``, ``handles``) ends with that leaf.

    ``settled_ns`` is when a process of it was moved last; ``misplaced`` counts those that may have to be.

    ``loose`` is how much of its memory was page cache when that was looked at last; at ``ask_at`` bytes it is to ask
    for more, and ``told`` is what the host process was told last that it had; ``announced`` is what it is known to need.  ``held``: an operator froze it.

    ``slowed_s`` is for how long enforcers made it sleep while it charged memory, ``slowed_by_it_s`` what the one in force said of that last.
    """

    record: CallRecord
    leaf: Path | None = None
    cgroup_id: int = 0
    given: Limits | None = None
    new: bool = True
    settled_ns: int = 0
    misplaced: int = 0
    handles: list[int | None] = field(default_factory=list)
    limits: Limits | None = None
    hint_text: str | None = None
    hints_left: float = HINTS_AT_ONCE
    hinted_s: float = 0.0
    hints_refused: bool = False
    awaits_command: bool = False
    counts: dict[str, int] = field(default_factory=dict)
    killed: bool = False
    stopped: bool = False
    loose: int = 0
    ask_at: int = 0
    told: int = 0
    announced: int = 0
    wait: Waiting | None = None
    held: bool = False
    slowed_s: float = 0.0
    slowed_by_it_s: float = 0.0


class Placement:
    """Puts the processes of live calls into their leaves."""

    def __init__(
        self, live: dict[int, Live], layout: Layout, tracker: Tracker, sees_inside: bool, score: int, log: Callable[[str], None]
    ) -> None:
        """``score``: the oom_score_adj of calls."""
        self._live, self._layout, self._tracker, self._log = live, layout, tracker, log
        self._sees_inside, self.score = sees_inside, score
        self._late: OrderedDict[tuple[int, int], None] = OrderedDict()
        self._by_cgroup: dict[int, int] = {}
        self.placed: Callable[[Path, int], None] = lambda leaf, pid: None
        """Told of every process that was put into a leaf."""
        self.lost: Callable[[Live], None] = lambda live: None
        """Told of every call whose leaf somebody removed, before that is forgotten."""
        self.bare: list[Live] = []
        """Calls whose leaf is new, and has no watches yet."""

    def call_in(self, cgroup_id: int) -> int | None:
        """The call that has the leaf with this id."""
        return self._by_cgroup.get(cgroup_id)

    def join(self, joined: Join) -> None:
        """A process was born into a call; if its parent was not in the leaf yet, neither is it.

        The parent may wait for its own move, or have been moved after the birth.  A source that sees inside
        tells only of those that were born outside.
        """
        live = self._live.get(joined.call)
        if live is None:
            return
        live.record.processes += 1
        if self._sees_inside or live.misplaced or joined.at_ns < live.settled_ns:
            self.misplaced(joined.call, joined.pid)

    def misplaced(self, call: int, pid: int) -> None:
        """A process of a call may be outside its leaf."""
        if (live := self._live.get(call)) is not None and (call, pid) not in self._late:
            live.misplaced += 1
            self._late[call, pid] = None

    def fetch(self) -> bool:
        """Look at one process that may be misplaced, and put it into its call's leaf; False when none was left.

        One at a time, so that the caller can look in between for the roots of new calls: each
        millisecond that a root waits, it forks more of these.
        """
        if not self._late:
            return False
        (call, pid), _ = self._late.popitem(last=False)
        live = self._live.get(call)
        if live is None:
            return True
        live.misplaced -= 1
        if self._tracker.call_of(pid) == call:
            with contextlib.suppress(ProcessLookupError):
                if cgroup.of_process(pid) != live.leaf:
                    self.place(live, pid)
        return True

    def place(self, live: Live, pid: int) -> bool:
        """Put a process into the call's leaf, made now if it has none; False when the process is gone."""
        try:
            placed = self._move(live, pid)
        except cgroup.CgroupError as error:
            self._log(f"call {live.record.call}: not placed: {error}")
            placed = False
        live.settled_ns = time.monotonic_ns()
        if placed:
            process.prefer_as_victim(pid, self.score)
            if live.leaf is not None:
                self.placed(live.leaf, pid)
        return placed

    def _move(self, live: Live, pid: int) -> bool:
        if live.leaf is not None:
            try:
                return cgroup.add(live.leaf, pid)
            except cgroup.CgroupError as error:
                if error.errno not in cgroup.GONE:
                    raise
            # Somebody removed it while it was empty.
            self._lose(live)
        return self._move_to_new(live, pid)

    def _move_to_new(self, live: Live, pid: int) -> bool:
        """Put the first process that is there into a leaf that is the call's from then on."""
        leaf = self._layout.take_leaf(live.record.call)
        placed = False
        try:
            placed = cgroup.add(leaf.path, pid)
        finally:
            if not placed:
                self._layout.drop(leaf)
        if placed:
            self.restore(live, leaf)
        return placed

    def _lose(self, live: Live) -> None:
        """The call's leaf is gone, and with it all that was written to it and counted there."""
        self._layout.lost(live.cgroup_id)
        self.lost(live)
        self.gone(live)
        live.leaf, live.limits = None, None
        live.counts.clear()
        live.loose = live.told = live.ask_at = 0

    def restore(self, live: Live, leaf: Leaf) -> None:
        """This is the call's leaf; its processes are in it."""
        live.leaf, live.record.leaf = leaf.path, leaf.path.name
        live.cgroup_id, live.given, live.new = leaf.number, leaf.given, leaf.new
        self._by_cgroup[live.cgroup_id] = live.record.call
        self.bare.append(live)

    def leave_alone(self, live: Live) -> None:
        """Put nobody into the call's leaf any more."""
        self._late = OrderedDict.fromkeys(late for late in self._late if late[0] != live.record.call)
        live.misplaced = 0

    def gone(self, live: Live) -> None:
        """A call is over: its leaf's id means nothing any more."""
        self._by_cgroup.pop(live.cgroup_id, None)
