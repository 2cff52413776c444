"""What governs one session, whatever started it: its processes followed, its calls decided upon, its history written.

``run`` has a governor in a process of its own (``engine``); the daemon has one for each container (``contained``).
"""

import asyncio
import os
import signal
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from agentcgroup import background, cgroup, enforce, process
from agentcgroup.classify import Budget
from agentcgroup.command import display
from agentcgroup.errors import AgentCgroupError
from agentcgroup.history.writer import Writer
from agentcgroup.model import Priority
from agentcgroup.policy import HostRule, Policy
from agentcgroup.schedule.scheduler import LEVELS
from agentcgroup.session import account
from agentcgroup.session.agent_memory import AgentMemory
from agentcgroup.session.calls import Calls
from agentcgroup.session.control import Request, listen
from agentcgroup.session.follow import Follower
from agentcgroup.session.intake import Intake
from agentcgroup.session.layout import Layout
from agentcgroup.session.marks import mark, marked
from agentcgroup.session.places import leaves_in, lift
from agentcgroup.session.recorder import Recorder
from agentcgroup.session.report import build_report
from agentcgroup.session.snapshot import snapshot
from agentcgroup.session.watch import Watcher
from agentcgroup.sources import Source
from agentcgroup.text import LONGEST_LINE, clean
from agentcgroup.tracker import Tracker

_QUIET_S = 0.02
"""No event for this long after the agent's exit: what it did last has arrived."""
_LOG_LINES = 1000


@dataclass(frozen=True, slots=True)
class Subject:
    """What is governed.  ``stub`` is the agent's first process, ``stdio_of`` one that has the agent's own stdout and stderr."""

    name: str
    folder: Path
    policy: Policy
    budget: Budget
    priority: Priority
    argv: tuple[str, ...]
    enforcer: enforce.Choice
    stub: int
    stdio_of: int
    contained: bool = False
    """A container: what is started in it from outside is a call."""
    adopted: bool = False
    """Who governs it may change while it runs."""
    owner: int = 0
    """The user who may see and steer it, beside root."""


class Governor:
    """Governs one session whose cgroups are there already."""

    def __init__(
        self, subject: Subject, layout: Layout, source: Source, source_words: str, start_host: Callable[[HostRule], None],
        writer: Writer | None = None,
    ) -> None:  # fmt: skip
        """``source_words`` says which source it is, and why; ``start_host`` starts the host process where there is none.

        ``writer``: of the history, where several sessions have one together.
        """
        self._subject, self._layout = subject, layout
        self._source, self._source_words = source, source_words
        kept = marked(layout.top) if subject.adopted else {}
        self._first = subject.contained and not kept
        """Nobody has governed what runs there already."""
        self.began = float(kept.get("began", time.monotonic()))
        self._priority: Priority = kept.get("priority", subject.priority)
        self._wished = self._priority
        self._began_at = time.time() - (time.monotonic() - self.began)
        self._log_lines: deque[str] = deque(maxlen=_LOG_LINES)
        self._agent_kills = 0
        self._left: dict[str, Any] = {"bytes": 0, "files": ""}
        self._watcher = Watcher()
        self._tracker = Tracker(subject.policy, subject.stub)
        self._recorder = Recorder(subject.policy.history, layout, self.began, int(kept.get("id", 0)), writer, self.log)
        self._tracker.next_call = int(kept.get("next_call", 1))
        if subject.adopted:
            self._mark()
        note = partial(account.note, subject.folder)
        self.calls = Calls(
            subject.policy, subject.budget, layout, self._tracker, source, self._watcher, self._priority, subject.enforcer,
            self._recorder, start_host, self.log, note, self.began, subject.adopted,
        )  # fmt: skip
        self.follower = Follower(
            self._tracker, self.calls, source, layout, subject.stub, subject.stdio_of, subject.contained,
            self.drain, asyncio.get_running_loop().call_soon, self.log,
        )  # fmt: skip
        self._agent_memory = AgentMemory(layout.agent, subject.budget, subject.stub, self.log)
        self._intake = Intake(source, self.follower.deliver, self.calls.placement, self.calls.settle)
        self._server: asyncio.Server
        self._changing: asyncio.Task[None] | None = None
        self._sharing: asyncio.Task[None]

    async def start(self, agent_ended: Callable[[], None], over: bool = False) -> None:
        """Begin to govern.  Raises OSError when the agent is gone already, unless that is known (``over``)."""
        subject = self._subject
        if over:
            agent_ended()
        else:
            try:
                agent = os.pidfd_open(subject.stub)
            except OSError:
                self._watcher.close()
                self._recorder.close()
                raise
            self._watcher.exit_of(agent, lambda _: agent_ended())
        self._server = await listen(subject.folder, self.follower.declare, self._snapshot, self._steer, subject.owner, self.log)
        self._watcher.file(self._layout.agent / "memory.events.local", self._agent_memory_event)
        self._agent_memory.look()
        self.calls.prepare()
        self._recorder.session_began(
            name=subject.name, command=display(subject.argv, 200), priority=self._priority, owner=subject.owner,
            budget_bytes=subject.budget.session,
        )  # fmt: skip
        self._sharing = asyncio.create_task(self.calls.share.keep())
        self._source.on_ready(self.drain)

    def _mark(self) -> None:
        """Keep what the next governor of this session can't find out; of one that dies, the leaves tell which call is next."""
        facts = {"id": self._recorder.id, "began": self.began, "next_call": self._tracker.next_call, "priority": self._priority}
        mark(self._layout.top, facts)

    async def take_up(self) -> None:
        """Find what runs already, and what an earlier governor of this session left."""
        theirs = leaves_in(self._layout.top)
        ready = []
        for call, leaf in sorted(theirs.items()):
            facts = marked(leaf)
            if "ended" in facts:
                self._tracker.next_call = max(self._tracker.next_call, call + 1)
                self.calls.recover(facts, leaf)
            elif facts or cgroup.populated(leaf):
                self.calls.restore(call, leaf, facts)
            elif not self._layout.is_spare(leaf):
                cgroup.remove(leaf)
                ready.append(call)
        # What was kept ready was for the next calls.
        self._tracker.next_call = max(self._tracker.next_call, *ready[:1], 1)
        if self._first:
            self.follower.look_first()  # before this waits, and events come
        await self._source.begun()
        self.follower.resync()

    # Events

    def drain(self) -> None:
        """Take in what waits in the source, and do what it calls for."""
        self._intake.drain()

    def _agent_memory_event(self, text: str | None) -> None:
        kills = next((int(line.split()[1]) for line in (text or "").splitlines() if line.startswith("oom_kill ")), 0)
        if kills > self._agent_kills:
            self._agent_kills = kills
            self.log("a process of the agent itself was killed by the kernel: the agent reached its own memory cap")
        elif text is not None:  # perhaps it was at its cap
            self._agent_memory.look()

    def log(self, line: str) -> None:
        """Write down what happened, with the time since the session's start."""
        self._log_lines.append(f"{time.monotonic() - self.began:9.3f} {clean(line, LONGEST_LINE)}")
        account.append(self._subject.folder / "log", self._log_lines[-1])

    def _snapshot(self) -> dict[str, Any]:
        subject = self._subject
        return snapshot(
            self._layout, self.calls, self._source.figures(), self.follower.strays.notes, session=subject.name, command=display(subject.argv, 200),
            priority=self._priority, budget_bytes=subject.budget.session, age_s=time.monotonic() - self.began,
            source=self._source_words, last_call=self._tracker.next_call - 1,
        )  # fmt: skip

    # What operators ask for

    def _steer(self, request: Request, uid: int) -> None:
        """Do what its owner, or root, asks.  Raises ValueError where that can't be."""
        if request.op == "priority":
            if request.priority is None:
                raise ValueError('which priority? {"op": "priority", "priority": "low"} is understood')
            highest = self._subject.policy.users.priority
            if uid and LEVELS[request.priority] < LEVELS[highest]:
                raise ValueError(f"priority {request.priority} refused: users may have {highest} at most (users: priority)")
            self._wished = request.priority
            if self._changing is None or self._changing.done():
                self._changing = background.start("a change of priority", self._change_priority(), self.log)
        elif request.call is None:
            raise ValueError(f'which call? {{"op": "{request.op}", "call": 7}} is understood')
        else:
            self.calls.hold(request.call, request.op == "freeze")

    async def _change_priority(self) -> None:
        """To the one that was wished for last; of many wishes, those in between cost nothing."""
        while self._priority != self._wished:
            priority = self._priority = self._wished
            weight = self._subject.policy.session.cpu_weight[priority]
            try:
                # systemd is asked, and waited for.
                await asyncio.to_thread(self._layout.change_priority, self._subject.budget, priority, weight)
            except AgentCgroupError as error:
                self.log(f"its weight and protection stay: {error}")
            self.calls.change_priority(priority)
            self._mark()
            self.log(f"priority is {priority} from now on")

    # The end

    async def quiet(self) -> None:
        """Wait until the events of what happened before the agent's exit have arrived."""
        self.drain()  # its end was perhaps told before them
        while (left := self.follower.last_event + _QUIET_S - time.monotonic()) > 0:
            await asyncio.sleep(left)
            self.drain()

    async def let_all_go(self) -> None:
        """Nobody waits any more."""
        self._sharing.cancel()
        await asyncio.gather(self._sharing, return_exceptions=True)

    async def end_processes(self) -> None:
        """End what is left in the session: SIGTERM, a grace, and the rest is killed when the cgroups are removed."""
        self.calls.check_all()
        parts = (self._layout.tools, self._layout.agent)
        left = [pid for part in parts for pid in cgroup.all_processes(part)]
        if left:
            await self._end(left, parts)
        self.calls.end_all()
        self._left = self.calls.in_memory.at_the_end()

    async def _end(self, left: list[int], parts: tuple[Path, ...]) -> None:
        self.log(f"the agent has ended: ending {len(left)} processes that it left")
        self.calls.session_ends()
        process.signal_all(left, signal.SIGTERM)
        deadline = time.monotonic() + self._subject.policy.session.end_grace
        while any(cgroup.populated(part) for part in parts) and time.monotonic() < deadline:
            await asyncio.sleep(_QUIET_S)
        for part in parts:
            cgroup.kill(part)
        await asyncio.sleep(_QUIET_S)
        self.drain()

    def agent_peak(self) -> int | None:
        """The agent's peak; its kills are read once more, for the kernel announces them up to 10 ms late."""
        try:
            self._agent_memory_event(cgroup.read(self._layout.agent, "memory.events.local"))
            return int(cgroup.read(self._layout.agent, "memory.peak"))
        except cgroup.CgroupError:
            return None

    async def suspend(self) -> None:
        """Let everything go, without limits; another governor takes it up."""
        await self.let_all_go()
        await self.close()
        lift(self._layout.top)
        self._mark()
        self._recorder.close()

    async def close(self) -> None:
        """Govern no more."""
        self._source.on_ready(None)
        self._agent_memory.stop()
        self._intake.close()
        self._server.close()
        await self.calls.close()
        self._layout.drop_spares()
        self._watcher.close()

    def report(self, agent_status: int | None, agent_peak: int | None) -> dict[str, Any]:
        """The session's report, kept in the history and for ``explain``; its cgroups are gone."""
        subject, duration_s = self._subject, time.monotonic() - self.began
        self._recorder.session_ended(
            duration_s=duration_s, priority=self._priority, exit_status=agent_status, agent_peak_bytes=agent_peak, source=self._source_words,
            enforcer=self.calls.share.enforcer_words, loops=[asdict(loop) for loop in self.calls.loops],
        )  # fmt: skip
        report = build_report(
            subject.name, subject.argv, self._priority, subject.budget, self._began_at, duration_s,
            agent_status, agent_peak, self._agent_kills, self._source_words, self._source.figures(),
            self.calls.share.enforcer_words, self.calls.share.figures(), self._tracker.launched,
            self.calls.records, self.calls.loops, self._left, list(self._log_lines),
        )  # fmt: skip
        account.keep(subject.name, report, subject.owner, self._tracker.next_call - 1)
        return report
