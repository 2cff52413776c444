"""Follows a session's processes: which are the agent's, which belong to a call, and which begin one.

Events say it; where they were lost, /proc and the cgroups do.
"""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from agentcgroup import cgroup, process
from agentcgroup.call_client import announced
from agentcgroup.session.calls import Calls
from agentcgroup.session.layout import Layout
from agentcgroup.session.strays import Strays
from agentcgroup.sources import (
    Emptied,
    Event,
    Execed,
    Exited,
    Forked,
    Grown,
    HeldOut,
    HintSeen,
    HintUnread,
    Left,
    Lost,
    MemoryNews,
    Source,
    Victim,
    Waited,
)
from agentcgroup.tracker import Promoted, Tracker

_OLD_NS = 1_000_000_000
_AGAIN_S = 1.0
"""How long until something that could not be read is read again."""


class Follower:
    """Tells the calls of a session what its processes do.

    ``stub`` is the process that became the agent; ``stdio_of`` the one whose standard streams are the agent's own; ``last_event`` is
    when a process of the session ended last (CLOCK_MONOTONIC, seconds); ``agent_status`` how the stub ended (wait(2)), once that was told.
    """

    def __init__(
        self, tracker: Tracker, calls: Calls, source: Source, layout: Layout, stub: int, stdio_of: int,
        outsiders_call: bool, drain: Callable[[], None], later: Callable[[Callable[[], None]], object], log: Callable[[str], None],
    ) -> None:  # fmt: skip
        """``drain`` takes in what waits in the source; ``later`` does something when that is done.

        ``outsiders_call``: a program that a process from outside starts in the agent domain is a call (``docker exec``).
        """
        self._tracker, self._calls, self._source, self._layout = tracker, calls, source, layout
        self._stub, self.stdio_of, self._outsiders_call = stub, stdio_of, outsiders_call
        self._drain, self._later, self._log = drain, later, log
        self._agent_cgroup = cgroup.number(layout.agent)
        self.last_event = 0.0
        self.agent_status: int | None = None
        self._read_again_ns = 0
        self.strays = Strays(layout.top, self._home_of, self._came_back, log)
        self._is_to_read_again = False
        calls.is_the_agent = self._is_the_agent
        self._on: dict[type[Event], Callable[[Any], None]] = {
            Forked: self._forked,
            Execed: self._execed,
            Exited: self._exited,
            HeldOut: self._held_out,
            Lost: self._lost,
            Left: self._left,
            **dict.fromkeys((Emptied, HintSeen, HintUnread, MemoryNews, Victim, Waited, Grown), calls.news),
        }

    def deliver(self, event: Event) -> None:
        """Take in one event."""
        self._on[type(event)](event)

    def _forked(self, event: Forked) -> None:
        if self._calls.knows_of(event.child, event.at_ns):
            return
        if event.at_ns < self._read_again_ns and self._tracker.knows(event.child):
            return  # found already, and perhaps not where it was born
        if self._source.sees_inside and not self._tracker.knows(event.parent):
            if process.parent(event.parent) is None:
                # Of a parent that nobody told of and that has ended, nothing can be found out: the child has to do.
                if process.parent(event.child) is not None:
                    self._find_place(event.child)
                return
            self._source.watch_exit(event.parent)
            self._find_place(event.parent)
        if (joined := self._tracker.forked(event.parent, event.child, event.at_ns)) is not None:
            self._calls.placement.join(joined)

    def _execed(self, event: Execed) -> None:
        if self._calls.knows_of(event.pid, event.at_ns):
            return
        if not self._source.sees_inside and self._tracker.knows(event.pid):
            self._look_for(event.pid, self._tracker.call_of(event.pid))
        if self._tracker.is_agent(event.pid):
            self._agent_execed(event)
        elif (call := self._tracker.call_of(event.pid) or self._calls.placement.call_in(event.cgroup)) is not None:
            self._calls.said.execed(call, event.pid, event.argv)
            self._look_inside(call, event)
        elif event.cgroup == self._agent_cgroup and self._is_not_elsewhere(event.pid):
            self._find_place(event.pid, event.at_ns)
            if self._tracker.is_agent(event.pid):
                self._agent_execed(event)
        else:
            self._source.let_go(event.pid)

    def _is_not_elsewhere(self, pid: int) -> bool:
        """A process that started in the agent domain is there still, or it has ended."""
        try:
            return cgroup.of_process(pid) == self._layout.agent
        except ProcessLookupError:
            return True

    def _exited(self, event: Exited) -> None:
        call = self._tracker.call_of(event.pid)
        if call is None and not self._tracker.is_agent(event.pid):
            return
        self.last_event = time.monotonic()
        if event.pid == self._stub:
            self.agent_status = event.status
        if (ended := self._tracker.exited(event.pid, event.status, event.at_ns)) is not None:
            self._calls.root_exited(ended, event.ran_ns)
        elif call is not None and not self._tracker.size(call):
            self._calls.end_if_over(call)

    def _is_in_agent_domain(self, pid: int) -> bool:
        try:
            return cgroup.of_process(pid) == self._layout.agent
        except ProcessLookupError:
            return False

    def _is_in_session(self, pid: int) -> bool:
        try:
            return cgroup.of_process(pid).is_relative_to(self._layout.top)
        except ProcessLookupError:
            return False

    def _left(self, event: Left) -> None:
        """Somebody moved a process of the session away."""
        call = self._calls.placement.call_in(event.cgroup)
        self._look_for(event.pid, call if call is not None else self._tracker.call_of(event.pid))

    def _look_for(self, pid: int, call: int | None) -> None:
        """A process of a call, or of the agent (None), may have been moved out of the session."""
        home = self._layout.agent if call is None else self._calls.leaves().get(call)
        if home is not None and self.strays.look(pid, home) and call is not None:
            self._calls.left(call)

    def _home_of(self, pid: int) -> Path | None:
        """Where in the session a process belongs; None for one that is not known to be the session's."""
        if (call := self._tracker.call_of(pid)) is not None:
            return self._calls.leaves().get(call)
        return self._layout.agent if self._tracker.is_agent(pid) else None

    def _came_back(self, pid: int) -> None:
        """A process that had left is in the session again; what it did outside, nobody told of."""
        if not self._is_in_agent_domain(pid):
            return
        if self._tracker.knows(pid):
            self._catch_up(pid)
        else:
            self._source.watch_exit(pid)
            self._find_place(pid, time.monotonic_ns())

    def _held_out(self, event: HeldOut) -> None:
        self._log(f"process {event.pid} was not placed within {event.held_s * 1000:.0f} ms, and started anyway")
        self._catch_up(event.pid)

    def _lost(self, _: Lost) -> None:
        if not self._is_to_read_again:
            self._log("process events were lost: reading the session again")
            self._is_to_read_again = True
            self._later(self.resync)

    def _agent_execed(self, event: Execed) -> None:
        if (forker := self._tracker.forked_by(event.pid)) is not None:
            # A shell whose own start was not told, perhaps; then this belongs to its call.
            self._catch_up(forker)
            if (call := self._tracker.call_of(event.pid)) is not None:
                self._calls.said.execed(call, event.pid, event.argv)
                return
        # What was seen long ago may be over, and its number another's by now.
        there = time.monotonic_ns() < event.at_ns + _OLD_NS or self._is_in_agent_domain(event.pid)
        facts = process.at_start(event.pid, event.argv, process.facts(event.pid, self.stdio_of) if there else None)
        before = len(self._tracker.launched)
        begun = self._tracker.execed(event.pid, facts, event.at_ns)
        if begun is not None:
            self._calls.begin(begun, there)
            return
        self._source.let_go(event.pid)
        self._calls.decided_again()
        if len(self._tracker.launched) > before:
            taken = self._tracker.launched[-1]
            self._log(f"process {taken.pid} taken for the agent: {taken.verdict.why}")

    def _look_inside(self, call: int, event: Execed) -> None:
        """A program was started inside a call: it may tell whose the call is."""
        if self._tracker.is_unsure_root(event.pid):
            facts = process.at_start(event.pid, event.argv, process.facts(event.pid, self.stdio_of))
            if facts is not None:
                self._tracker.replaced(event.pid, facts)
                self._calls.decided_again()
        self._started_inside(call, event.pid)

    def _started_inside(self, call: int, pid: int) -> bool:
        """A program was started inside a call: where that shows that the call is the agent's runtime, it is treated as that."""
        if not self._tracker.is_candidate(call) or (child := process.facts(pid, self.stdio_of)) is None:
            return False
        promoted = self._tracker.started_inside(call, child, self._line(call, child.ppid))
        if promoted is None:
            return False
        self._later(partial(self._promote, promoted))
        return True

    def _line(self, call: int, pid: int | None) -> list[process.Facts]:
        """A process of a call, its parent, and so on, as far as they are in the call."""
        members = self._calls.processes_in(self._calls.leaves().get(call))
        line: list[process.Facts] = []
        while pid in members and (facts := process.facts(pid, self.stdio_of)) is not None:
            line.append(facts)
            pid = facts.ppid
        return line

    def _is_the_agent(self, call: int) -> bool:
        """Look at all that runs in a call, before it is stopped: some of what it started may not have been told."""
        leaf = self._calls.leaves().get(call) if self._tracker.is_candidate(call) else None
        return any(self._started_inside(call, pid) for pid in self._calls.processes_in(leaf))

    def _promote(self, promoted: Promoted) -> None:
        """Move a runtime to the agent domain, with what led to it; what it runs becomes calls."""
        leaf = self._calls.leaves().get(promoted.call)
        if leaf is None or not self._tracker.is_candidate(promoted.call):
            return
        chain = self._line(promoted.call, promoted.runtime)
        self._log(f"call {promoted.call}: taken for the agent: process {promoted.runtime} {promoted.why}")
        self._tracker.promote(promoted, chain)
        self._calls.move_to_agent(promoted.call)
        for facts in chain:
            self._source.watch_exit(facts.pid)
        self.resync()
        self._calls.became_agent(promoted.call, promoted.why)

    def look_first(self) -> None:
        """An agent that ran before anybody looked: events tell what it starts from now on, and not what started it."""
        for pid in sorted(self._calls.processes_in(self._layout.agent)):
            self._look_at(pid)
        self._read_again_ns = time.monotonic_ns()

    def _look_at(self, pid: int) -> None:
        """A process in the agent domain, known or not."""
        if not self._tracker.knows(pid):
            self._source.watch_exit(pid)  # its birth may have been before anybody looked
            if process.parent(pid) is not None:  # else it has ended meanwhile: events tell of it
                self._find_place(pid, time.monotonic_ns())
        elif (late := self._tracker.call_of(pid)) is not None:
            self._calls.placement.misplaced(late, pid)
        else:
            self._catch_up(pid)

    def resync(self) -> None:
        """Read anew where the session's processes are, when that can be read: the way back from lost events."""
        self._is_to_read_again = False
        try:
            self._read_again()
        except (cgroup.CgroupError, OSError) as error:
            self._log(f"the session is read again in {_AGAIN_S:.0f} s, for now it can't be: {error}")
            asyncio.get_running_loop().call_later(_AGAIN_S, self.resync)

    def _read_again(self) -> None:
        self._drain()  # what events tell in time need not be guessed
        seen = set()
        for call, leaf in self._calls.leaves().items():
            for pid in cgroup.processes(leaf):
                seen.add(pid)
                if not self._source.sees_inside and self._tracker.call_of(pid) != call:
                    self._tracker.adopt(pid, call)
        for pid in sorted(cgroup.processes(self._layout.agent)):
            seen.add(pid)
            self._look_at(pid)
        self._read_again_ns = time.monotonic_ns()
        gone = [pid for pid in self._tracker.known_pids() - seen if not self._is_in_session(pid)]
        self._drain()  # of those that ended since it was last looked, events tell how; only of the others is that not known
        for pid in gone:
            if not self._is_in_session(pid) and (ended := self._tracker.exited(pid, None, self._read_again_ns)) is not None:
                self._calls.root_exited(ended)
        self._drain()
        self._calls.share.ask_again()
        self._calls.check_all()

    def _find_place(self, pid: int, started_ns: int | None = None) -> None:
        """A process in the agent domain that no event told of: its ancestors say whose it is, so their places come first.

        ``started_ns``: when it started a program of its own, where that is known.
        """
        strangers = [pid]
        ancestor = process.parent(pid)
        while ancestor and not self._tracker.knows(ancestor):
            if self._is_in_agent_domain(ancestor):
                strangers.append(ancestor)
            ancestor = process.parent(ancestor)
        if ancestor and self._tracker.is_agent(ancestor):
            self._catch_up(ancestor)  # what it started is judged by what it runs
        for stranger in reversed(strangers):
            self._find_one_place(stranger, self._known_ancestor(stranger), started_ns)

    def _find_one_place(self, pid: int, ancestor: int | None, started_ns: int | None) -> None:
        now = time.monotonic_ns()
        if not ancestor and self._outsiders_call:
            if started_ns is not None:
                facts = process.facts(pid, self.stdio_of)
                self._calls.begin(self._tracker.declare(pid, started_ns, "started from outside", facts))
            return
        if not ancestor and (theirs := self._call_that_runs(process.command_line(pid))) is not None:
            # Of an orphan, nobody can say any more who forked it; what it runs, that call runs too.
            self._tracker.adopt(pid, theirs)
            self._calls.placement.misplaced(theirs, pid)
            return
        joined = self._tracker.forked(ancestor or self._stub, pid, now)
        if joined is not None:
            self._calls.placement.join(joined)
            self._calls.placement.misplaced(joined.call, pid)
        else:
            self._catch_up(pid)

    def _call_that_runs(self, line: tuple[str, ...]) -> int | None:
        """The call one of whose processes, placed or on their way, has this command line."""
        there, agents = self._calls.processes_in, self._layout.agent
        placed = ((pid, call) for call, leaf in self._calls.leaves().items() for pid in there(leaf))
        expected = ((pid, call) for pid in there(agents) if (call := self._tracker.call_of(pid)) is not None)
        return next((call for pid, call in (*placed, *expected) if line and process.command_line(pid) == line), None)

    def _known_ancestor(self, pid: int) -> int | None:
        """The nearest ancestor that belongs to the session."""
        ancestor = process.parent(pid)
        while ancestor and not self._tracker.knows(ancestor):
            ancestor = process.parent(ancestor)
        return ancestor

    def _catch_up(self, pid: int) -> None:
        """A process of the agent domain may have started a program that no event told of."""
        program, line = self._tracker.program_of(pid), process.command_line(pid)
        if program is None or not line or line == program.argv:
            return
        # What was forked off a program that renamed itself looks new, and isn't.
        if program.pid == pid or line != process.command_line(program.pid):
            self._agent_execed(Execed(pid, time.monotonic_ns()))

    def declare(self, pid: int, argv: tuple[str, ...], hint: str) -> str:
        """A process asks to be the root of a tool call; returns the name of its leaf."""
        self._drain()
        if not self._tracker.knows(pid):
            self._adopt_by_leaf(pid)
        if not self._tracker.is_root(pid):
            self._source.watch_exit(pid)
            if process.parent(pid) is None:
                raise ValueError(f"process {pid} has ended")
            self._calls.begin(self._tracker.declare(pid, time.monotonic_ns()))
        if not argv:
            # A command may be over before anybody looks at it; the one that is about to execute it still shows it.
            hint, argv = announced(process.command_line(pid))
        call = self._tracker.call_of(pid) or 0
        leaf = self._calls.stated(call, argv, hint) if argv else self._calls.said.await_command(call)
        return leaf.name if leaf else ""

    def _adopt_by_leaf(self, pid: int) -> None:
        """Births inside a leaf are not told by every source; where the process is says whose it is."""
        try:
            call = self._calls.placement.call_in(cgroup.number(cgroup.of_process(pid)))
        except (ProcessLookupError, cgroup.CgroupError):
            call = None
        if call is None:
            raise ValueError(f"process {pid} does not belong to this session")
        self._tracker.adopt(pid, call)
