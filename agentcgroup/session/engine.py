"""The governing process of a session ("embedded mode"): events in, decisions, cgroups out.

It runs in a session of its own, deaf to the terminal, beside the process that the user started
(``front``).  When that one dies, it goes on until the agent ends, so that nothing is left behind; when
it dies itself, the front takes back every limit.  It is told the end of the agent by the front, or
sees it by pidfd.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import tempfile
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentcgroup import cgroup, process
from agentcgroup.classify import Budget
from agentcgroup.errors import AgentCgroupError
from agentcgroup.policy import Policy
from agentcgroup.session.calls import Calls
from agentcgroup.session.control import listen
from agentcgroup.session.layout import Layout
from agentcgroup.session.places import end_session, release
from agentcgroup.session.report import build_report
from agentcgroup.session.watch import Watcher
from agentcgroup.sources import (
    Emptied,
    Event,
    Execed,
    Exited,
    Forked,
    HeldOut,
    HintSeen,
    Lost,
    MemoryNews,
    Source,
    Victim,
    Waited,
)
from agentcgroup.sources.choice import Choice, open_source
from agentcgroup.tracker import Tracker

_QUIET_S = 0.02
"""No event for this long after the agent's exit: what it did last has arrived."""
_FRONT_PATIENCE_S = 1.0
"""The agent's end is seen by pidfd before the front says with which status; a front that is stopped is not waited for."""
_LOOK_AGAIN_S = 0.5
_LOG_LINES = 1000


@dataclass(frozen=True, slots=True)
class Plan:
    """All that the engine needs to know of a session; ``stub`` is the process that becomes the agent."""

    name: str
    folder: Path
    policy: Policy
    budget: Budget
    cpu_weight: int
    priority: str
    argv: tuple[str, ...]
    events: Choice
    report: Path | None
    stub: int
    keeper: int
    front: int


class Engine:
    """Governs one session from the first process to the last."""

    def __init__(self, plan: Plan, channel: socket.socket, source: Source, source_words: str) -> None:
        self._plan = plan
        self._source, self._source_words = source, source_words
        self._channel = channel
        self._layout = Layout(plan.name, source)
        self._tracker = Tracker(plan.policy, plan.stub)
        self._log_lines: deque[str] = deque(maxlen=_LOG_LINES)
        self._began = time.monotonic()
        self._began_at = time.time()
        self._over = asyncio.Event()
        self._front_is_done = asyncio.Event()
        self._agent_status: int | None = None
        self._agent_kills = 0
        self._last_event = 0.0
        self._read_again_ns = 0
        self._look_again: asyncio.TimerHandle | None = None
        self._calls: Calls
        self._stdio_of = plan.front
        self._on: dict[type[Event], Callable[[Any], None]] = {
            Forked: self._forked,
            Execed: self._execed,
            Exited: self._exited,
            Emptied: self._of_calls,
            HintSeen: self._of_calls,
            MemoryNews: self._of_calls,
            Victim: self._of_calls,
            Waited: self._of_calls,
            HeldOut: self._held_out,
            Lost: self._events_lost,
        }

    async def run(self) -> None:
        """Set the session up, govern it, end it.  Setup errors go to the front, which shows them."""
        plan = self._plan
        watcher = Watcher()
        try:
            self._layout.create(plan.stub, plan.keeper, plan.budget, plan.cpu_weight, plan.policy.session.agent.cpu_weight)
            self._calls = Calls(
                plan.policy, plan.budget, self._layout, self._tracker, self._source, watcher, self._log, self._began
            )
            server = await listen(plan.folder, self._declare)
            watcher.exit_of(os.pidfd_open(plan.stub), lambda _: self._over.set())
        except (AgentCgroupError, OSError) as error:
            _give_up(plan, self._channel, error)
            return
        watcher.file(self._layout.agent / "memory.events.local", self._agent_memory_event)
        self._calls.prepare()
        loop = asyncio.get_running_loop()
        loop.add_reader(self._source.fileno(), self._drain)
        loop.add_reader(self._channel.fileno(), self._front_speaks)
        self._send({"ready": str(self._layout.top)})
        await self._over.wait()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._front_is_done.wait(), _FRONT_PATIENCE_S)
        await self._quiet()
        agent_peak = self._agent_figures()
        await self._end_processes()
        loop.remove_reader(self._source.fileno())
        server.close()
        await self._calls.close()
        self._layout.drop_spares()
        watcher.close()
        if not end_session(plan.name):
            self._log(f"{self._layout.top} could not be removed")
        self._report(agent_peak)
        release(plan.folder)

    # Events

    def _drain(self) -> None:
        self._take_in()
        if self._source.sees_inside and self._look_again is None:
            # What the kernel left out is noticed with the next record; the last ones have none after them.
            self._look_again = asyncio.get_running_loop().call_later(_LOOK_AGAIN_S, self._drain_again)

    def _drain_again(self) -> None:
        self._look_again = None
        self._take_in()

    def _take_in(self) -> None:
        """Take in all events that wait; processes of calls are placed, and calls get what they need."""
        self._source.drain(self._deliver)
        while self._calls.placement.fetch():
            self._source.drain(self._deliver)
        self._calls.settle()

    def _deliver(self, event: Event) -> None:
        self._on[type(event)](event)

    def _forked(self, event: Forked) -> None:
        if event.at_ns < self._read_again_ns and self._tracker.knows(event.child):
            return  # found already, and perhaps not where it was born
        if self._source.sees_inside and not self._tracker.knows(event.parent):
            self._find_place(event.parent)
        if (joined := self._tracker.forked(event.parent, event.child, event.at_ns)) is not None:
            self._calls.placement.join(joined)

    def _execed(self, event: Execed) -> None:
        if self._tracker.is_agent(event.pid):
            self._agent_execed(event)
        elif (call := self._tracker.call_of(event.pid)) is not None:
            self._calls.execed(call, event.pid)
        elif self._source.sees_inside and self._is_in_agent_domain(event.pid):
            self._find_place(event.pid)
        else:
            self._source.let_go(event.pid)

    def _exited(self, event: Exited) -> None:
        call = self._tracker.call_of(event.pid)
        if call is None and not self._tracker.is_agent(event.pid):
            return
        self._last_event = time.monotonic()
        if (ended := self._tracker.exited(event.pid, event.status, event.at_ns)) is not None:
            self._calls.root_exited(ended, event.ran_ns)
        elif call is not None and not self._tracker.size(call):
            self._calls.end_if_over(call)

    def _is_in_agent_domain(self, pid: int) -> bool:
        try:
            return cgroup.of_process(pid) == self._layout.agent
        except ProcessLookupError:
            return False

    def _of_calls(self, event: Emptied | HintSeen | MemoryNews | Victim | Waited) -> None:
        self._calls.news(event)

    def _held_out(self, event: HeldOut) -> None:
        self._log(f"process {event.pid} was not placed within {event.held_s * 1000:.0f} ms, and started anyway")
        self._catch_up(event.pid)

    def _events_lost(self, _: Lost) -> None:
        self._log("process events were lost: reading the session again")
        asyncio.get_running_loop().call_soon(self._resync)

    def _agent_execed(self, event: Execed) -> None:
        if (forker := self._tracker.forked_by(event.pid)) is not None:
            # A shell whose own start was not told, perhaps; then this belongs to its call.
            self._catch_up(forker)
            if (call := self._tracker.call_of(event.pid)) is not None:
                self._calls.execed(call, event.pid)
                return
        facts = process.facts(event.pid, self._stdio_of)
        before = len(self._tracker.launched)
        begun = self._tracker.execed(event.pid, facts, event.at_ns)
        if begun is not None:
            self._calls.begin(begun)
            return
        self._source.let_go(event.pid)
        if len(self._tracker.launched) > before:
            taken = self._tracker.launched[-1]
            self._log(f"process {taken.pid} taken for the agent: {taken.verdict.why}")

    def _resync(self) -> None:
        """Read anew where the session's processes are: the way back from lost events."""
        seen = set()
        for call, leaf in self._calls.leaves().items():
            for pid in cgroup.processes(leaf):
                seen.add(pid)
                if not self._source.sees_inside and self._tracker.call_of(pid) != call:
                    self._tracker.adopt(pid, call)
        for pid in sorted(cgroup.processes(self._layout.agent)):
            seen.add(pid)
            if not self._tracker.knows(pid):
                self._find_place(pid)
            elif (late := self._tracker.call_of(pid)) is not None:
                self._calls.placement.misplaced(late, pid)
            else:
                self._catch_up(pid)
        self._read_again_ns = time.monotonic_ns()
        for pid in self._tracker.known_pids() - seen:
            if process.parent(pid) is None and (ended := self._tracker.exited(pid, None, self._read_again_ns)) is not None:
                self._calls.root_exited(ended)
        self._drain()
        self._calls.check_all()

    def _find_place(self, pid: int) -> None:
        """A process in the agent domain that no event told of: its ancestors say whose it is."""
        now = time.monotonic_ns()
        ancestor = process.parent(pid)
        while ancestor and not self._tracker.knows(ancestor):
            ancestor = process.parent(ancestor)
        parent = ancestor or self._plan.stub
        joined = self._tracker.forked(parent, pid, now)
        if joined is not None:
            self._calls.placement.join(joined)
            self._calls.placement.misplaced(joined.call, pid)
        else:
            self._catch_up(pid)

    def _catch_up(self, pid: int) -> None:
        """A process of the agent domain may have started a program that no event told of."""
        program, line = self._tracker.program_of(pid), process.command_line(pid)
        if program is None or not line or line == program.argv:
            return
        # What was forked off a program that renamed itself looks new, and isn't.
        if program.pid == pid or line != process.command_line(program.pid):
            self._agent_execed(Execed(pid, time.monotonic_ns()))

    def _agent_memory_event(self, text: str | None) -> None:
        kills = next((int(line.split()[1]) for line in (text or "").splitlines() if line.startswith("oom_kill ")), 0)
        if kills > self._agent_kills:
            self._agent_kills = kills
            self._log("a process of the agent itself was killed by the kernel: the agent reached its own memory cap")

    # The front, and the explicit form of a tool call

    def _front_speaks(self) -> None:
        try:
            data = self._channel.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            # The front died (kill -9).  The agent goes on, and so do we.
            asyncio.get_running_loop().remove_reader(self._channel.fileno())
            self._log("run has died: the session goes on without it")
            self._stdio_of = self._plan.stub
            self._front_is_done.set()
            return
        self._agent_status = json.loads(data)["exit"]
        self._front_is_done.set()
        self._over.set()

    def _declare(self, pid: int) -> str:
        """A process asks to be the root of a tool call; returns the name of its leaf."""
        self._drain()
        if not self._tracker.knows(pid):
            self._adopt_by_leaf(pid)
        if not self._tracker.is_root(pid):
            self._source.watch_exit(pid)
            if process.parent(pid) is None:
                raise ValueError(f"process {pid} has ended")
            self._calls.begin(self._tracker.declare(pid, time.monotonic_ns()))
        leaf = self._calls.await_command(self._tracker.call_of(pid) or 0)
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

    # The end

    async def _quiet(self) -> None:
        """Wait until the events of what happened before the agent's exit have arrived."""
        while (left := self._last_event + _QUIET_S - time.monotonic()) > 0:
            await asyncio.sleep(left)
            self._drain()

    async def _end_processes(self) -> None:
        """End what is left in the session: SIGTERM, a grace, and the rest is killed when the cgroups are removed."""
        self._calls.check_all()
        parts = (self._layout.tools, self._layout.agent)
        left = [pid for part in parts for pid in cgroup.all_processes(part)]
        if not left:
            return
        self._log(f"the agent has ended: ending {len(left)} processes that it left")
        self._calls.session_ends()
        process.signal_all(left, signal.SIGTERM)
        deadline = time.monotonic() + self._plan.policy.session.end_grace
        while any(cgroup.populated(part) for part in parts) and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        for part in parts:
            cgroup.kill(part)
        await asyncio.sleep(_QUIET_S)
        self._drain()
        self._calls.check_all()

    def _agent_figures(self) -> int | None:
        """The agent's peak; its kills are read once more, for the kernel announces them up to 10 ms late."""
        try:
            self._agent_memory_event(cgroup.read(self._layout.agent, "memory.events.local"))
            return int(cgroup.read(self._layout.agent, "memory.peak"))
        except cgroup.CgroupError:
            return None

    def _report(self, agent_peak: int | None) -> None:
        plan = self._plan
        report = build_report(
            plan.name, plan.argv, plan.priority, plan.budget, self._began_at, time.monotonic() - self._began,
            self._agent_status, agent_peak, self._agent_kills, self._source_words, self._source.figures(), self._tracker.launched,
            self._calls.records, self._calls.loops, list(self._log_lines),
        )  # fmt: skip
        text = json.dumps(report)
        if plan.report is not None:
            try:
                # A name of its own, made exclusively: the folder may be one that others can write, like /tmp.
                with tempfile.NamedTemporaryFile("w", dir=plan.report.parent, delete=False) as partial:
                    partial.write(text + "\n")
                Path(partial.name).chmod(0o644)
                Path(partial.name).replace(plan.report)
            except OSError as error:
                report["report_error"] = f"{plan.report}: {error.strerror}"
        self._send({"report": report})

    def _send(self, message: dict[str, Any]) -> None:
        _send(self._channel, message)

    def _log(self, line: str) -> None:
        self._log_lines.append(f"{time.monotonic() - self._began:9.3f} {line}")
        with open(self._plan.folder / "log", "a") as file:
            file.write(self._log_lines[-1] + "\n")


def govern(plan: Plan, channel: socket.socket) -> None:
    """Govern the planned session; ``channel`` leads to the front."""
    try:
        source, words = open_source(plan.policy.monitor, plan.events)
    except AgentCgroupError as error:
        _give_up(plan, channel, error)
        return

    async def run() -> None:
        await Engine(plan, channel, source, words).run()

    try:
        asyncio.run(run())
    finally:
        source.close()


def _give_up(plan: Plan, channel: socket.socket, error: Exception) -> None:
    """The session can't be set up: leave nothing of it, let the front say why."""
    end_session(plan.name)
    release(plan.folder)
    _send(channel, {"error": str(error)})


def _send(channel: socket.socket, message: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # the front is gone; the report file, if any, is written
        channel.setblocking(True)
        channel.sendall(json.dumps(message).encode() + b"\n")
        channel.setblocking(False)
