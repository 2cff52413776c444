"""The live tool calls of a session: placed into leaves, watched, measured, acted upon, recorded.

This is the edge between the tracker and controller, which decide, and the cgroups, where it happens.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from agentcgroup import cgroup, process
from agentcgroup import controller as ctl
from agentcgroup.classify import Budget, classify
from agentcgroup.command import assignments
from agentcgroup.hints import VARIABLE, parse_hint
from agentcgroup.loops import Loop
from agentcgroup.model import CallRecord, CommandClass, Deed, Limits
from agentcgroup.policy import Policy
from agentcgroup.session.layout import Layout
from agentcgroup.session.leftovers import Leftovers
from agentcgroup.session.live import Live, Placement
from agentcgroup.session.voice import stop_call, tell_call
from agentcgroup.session.watch import Watcher
from agentcgroup.sources import Emptied, HintSeen, MemoryNews, Source, Victim, Waited
from agentcgroup.tracker import Begin, Join, RootExited, Tracker
from agentcgroup.units import format_duration, format_size

_OUTLIVING_S = 0.5
"""A call whose processes stay this much longer than its root left something behind."""


class Calls:
    """All calls of one session, live ones and records of ended ones."""

    def __init__(
        self, policy: Policy, budget: Budget, layout: Layout, tracker: Tracker, source: Source, watcher: Watcher,
        log: Callable[[str], None], began: float,
    ) -> None:  # fmt: skip
        self._policy, self._budget, self._source = policy, budget, source
        self._layout, self._tracker, self._watcher = layout, tracker, watcher
        self._log, self._began = log, began
        self._controller = ctl.Controller(policy, budget)
        # Agents repeat themselves: nearly all recorded runs have the same command three times in a row.
        self._class_of = lru_cache(maxsize=256)(partial(classify, policy, budget))
        self._live: dict[int, Live] = {}
        self.placement = Placement(self._live, layout, tracker, source.sees_inside, log)
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._complained: set[str] = set()
        self._ending = False
        self._default = self._class_of((), False).limits
        self._new: dict[int, bool] = {}
        self._execs: deque[tuple[int, int]] = deque()
        self._hints: deque[tuple[int, str]] = deque()
        self.records: list[CallRecord] = []
        self._leftovers = Leftovers(policy.loops, layout.tools, log, self._spawn)
        self._watcher.file(layout.tools / "memory.events.local", self._budget_event)

    # What the tracker says

    def begin(self, begun: Begin) -> None:
        """A call began: place its root at once; ``settle`` does the rest when the roots of all calls are placed.

        What a process allocates before it is placed stays charged to where it was.
        """
        argv = begun.facts.argv if begun.facts else ()
        live = Live(CallRecord(begun.call, begun.pid, argv, self._seconds(begun.at_ns)))
        live.record.cwd = begun.facts.cwd if begun.facts else ""
        live.awaits_command = not argv
        self._live[begun.call] = live
        self.records.append(live.record)
        if self.placement.place(live, begun.pid):
            live.record.placed_after_ms = (live.settled_ns - begun.at_ns) / 1e6
        for pid in begun.early:
            self.placement.join(Join(begun.call, pid, begun.at_ns))
            self.placement.misplaced(begun.call, pid)
        self._new[begun.call] = begun.verdict.role == "helper"

    def _take_up(self, call: int, helper: bool) -> None:
        """Class, limits and hints of a call that was placed."""
        live = self._live[call]
        if not live.record.argv and live.leaf is not None:
            # The root was gone before it could be looked at; a child that it forked still shows its program.
            lines = (process.command_line(pid) for pid in cgroup.processes(live.leaf))
            live.record.argv = next(filter(None, lines), ())
        self._step(ctl.Began(call, self._classify(live, helper)))
        self._note_command(live)
        if not self._source.sees_inside:
            self._hinted(live, process.hint_text(live.record.pid))
        # What a model types in front of a command is in the text before any process has it in its
        # environment: the limit is there before the burst.
        for text in assignments(live.record.argv, VARIABLE):
            self._hinted(live, text)
        self.end_if_over(call)

    def _classify(self, live: Live, helper: bool = False) -> CommandClass:
        record = live.record
        granted = self._class_of(record.argv, helper)
        record.kind, record.class_name, record.rule = granted.kind, granted.name, granted.rule
        return granted

    def settle(self) -> None:
        """When all processes are where they belong: finish what new calls need.

        Their leaves get their watches, and they get their class, their limits and their hints.
        """
        while self.placement.bare:
            self._watch(self.placement.bare.pop())
        while self._new:
            call = next(iter(self._new))
            self._take_up(call, self._new.pop(call))
        while self._execs:
            self._look_at(*self._execs.popleft())
        while self._hints:
            call, text = self._hints.popleft()
            if call in self._live:
                self._hinted(self._live[call], text)

    def execed(self, call: int, pid: int) -> None:
        """A process of a call started a program: ``settle`` looks at it, when the call's own class is known."""
        self._execs.append((call, pid))

    def _look_at(self, call: int, pid: int) -> None:
        """A started program's environment may hold a hint, and it may be the awaited command."""
        live = self._live.get(call)
        if live is None:
            return
        if live.awaits_command and pid == live.record.pid:
            self._command_known(live, pid)
        if not self._source.sees_inside:
            self._hinted(live, process.hint_text(pid))

    def _command_known(self, live: Live, pid: int) -> None:
        argv = process.command_line(pid)
        if argv:
            live.awaits_command = False
            live.record.argv = argv
            self._step(ctl.Reclassified(live.record.call, self._classify(live)))
            self._note_command(live)

    def _note_command(self, live: Live) -> None:
        """Is this the same command again?"""
        record = live.record
        if record.kind == "tool" and not live.awaits_command:
            self._leftovers.began(record)
            if record.ended_s is not None:
                self._look_for_leftovers(record.call)

    def _hinted(self, live: Live, text: str | None) -> None:
        """A hint was given for the call, in an environment or in the command's own text."""
        if not text or text == live.hint_text:
            return
        live.hint_text = text
        hint, complaints = parse_hint(text)
        for complaint in complaints:
            if complaint not in self._complained:
                self._complained.add(complaint)
                self._log(f"call {live.record.call}: {complaint}")
        if hint:
            live.record.hint = hint
            self._step(ctl.Hinted(live.record.call, hint))

    def await_command(self, call: int) -> Path | None:
        """The next exec of the call's root is its command; returns the leaf."""
        live = self._live.get(call)
        if live is None:
            return None
        live.awaits_command = True
        return live.leaf

    def root_exited(self, ended: RootExited, ran_ns: int | None = None) -> None:
        """The root of a call ended; ``ran_ns`` is all that is known of a call that ended before it was placed."""
        live = self._live.get(ended.call)
        if live is None:
            return
        live.record.exit_status = ended.status
        live.record.ended_s = self._seconds(ended.at_ns)
        if live.leaf is None:
            live.record.cpu_s = None if ran_ns is None else ran_ns / 1e9
        else:
            live.record.outlived_by = len(set(cgroup.processes(live.leaf)) - {live.record.pid})
        self.end_if_over(ended.call)
        if live.record.kind == "tool":
            self._look_for_leftovers(ended.call)

    def _look_for_leftovers(self, call: int) -> None:
        """A call's root has ended: what a retry loop left running may have to end."""
        for live in self._leftovers.root_ended(call, self._live):
            if live.leaf is not None:
                self._deed(live, "ended", "left running by a retry loop")
                cgroup.kill(live.leaf)

    def _watch(self, live: Live) -> None:
        """Watch a call's leaf, and give it the limits that were decided before it had one."""
        call, leaf = live.record.call, live.leaf
        if leaf is None or call not in self._live:
            return
        if limits := self._controller.limits_of(call):
            self._apply_limits(live, limits)
        watch = self._watcher.file
        live.handles = [
            watch(leaf / "pids.events", lambda text: self._count(call, "pids", text, "max", ctl.ProcessesRefused(call)))
        ]
        if not self._source.sees_memory:
            live.handles.append(watch(leaf / "memory.events.local", lambda text: self._memory_event(call, text)))
        if not self._source.sees_inside:
            live.handles.append(watch(leaf / "cgroup.events", lambda text: self.end_if_over(call)))
        if call not in self._live:  # over already
            self._forget(live)
        asyncio.get_running_loop().call_soon(self.prepare)

    def prepare(self) -> None:
        """Have leaves ready for the next calls, with the limits of a command that no class knows."""
        self._layout.prepare(self._tracker.next_call, self._default)

    # What the kernel says

    def _memory_event(self, call: int, text: str | None) -> None:
        live = self._live.get(call)
        if live is None or text is None:
            return
        if self._rose(live, "high", text, "high") | self._rose(live, "max", text, "max"):
            self._measure(call, live)
        if self._rose(live, "oom_kill", text, "oom_kill"):
            self._killed(live)

    def _killed(self, live: Live) -> None:
        if not live.killed:
            live.killed = True
            self._deed(live, "killed by the kernel", "out of memory")
            self._step(ctl.KernelKilled(live.record.call))

    def news(self, event: Emptied | HintSeen | MemoryNews | Victim | Waited) -> None:
        """What the kernel tells of a leaf: its end, a hint at a program's start, its memory."""
        call = self.placement.call_in(event.cgroup)
        if isinstance(event, HintSeen):
            # The root starts its program before it is in its leaf.
            call = call or self._tracker.call_of(event.pid)
            if call is not None:
                self._hints.append((call, event.text))
        elif call is None or (live := self._live.get(call)) is None:
            return
        elif isinstance(event, MemoryNews):
            self._measure(call, live)
        elif isinstance(event, Victim):
            self._killed(live)
        elif isinstance(event, Emptied):
            self.end_if_over(call)

    def _count(self, call: int, key: str, text: str | None, name: str, event: ctl.Event) -> None:
        live = self._live.get(call)
        if live is not None and text is not None and self._rose(live, key, text, name):
            self._step(event)

    def _rose(self, live: Live, key: str, text: str, name: str) -> bool:
        """Whether a counter of an events file is higher than last time."""
        count = next((int(line.split()[1]) for line in text.splitlines() if line.split()[0] == name), 0)
        rose = count > live.counts.get(key, 0)
        live.counts[key] = count
        return rose

    def _budget_event(self, text: str | None) -> None:
        """All calls together reached the session's share (or the file was read for the first time)."""
        if text is None or not any(live.leaf for live in self._live.values()):
            return
        usages = {}
        for call, live in self._live.items():
            with contextlib.suppress(cgroup.CgroupError):
                if live.leaf is not None:
                    usages[call] = cgroup.usage(live.leaf)
        self._step(ctl.BudgetCrossed(usages))

    def _measure(self, call: int, live: Live) -> None:
        with contextlib.suppress(cgroup.CgroupError):
            if live.leaf is not None:
                self._step(ctl.Measured(call, cgroup.usage(live.leaf)))

    # What is done

    def _step(self, event: ctl.Event) -> None:
        for action in self._controller.step(event, time.monotonic()):
            self._act(action)
        self._set_timer()

    def _set_timer(self) -> None:
        deadline = self._controller.next_deadline()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if deadline is not None:
            # Never sooner than 20 ms: a deadline that has passed waits for its measurement.
            delay = max(deadline - time.monotonic(), 0.02)
            self._timer = asyncio.get_running_loop().call_later(delay, self._step, ctl.Tick())

    def _act(self, action: ctl.Action) -> None:
        live = self._live.get(action.call)
        if live is None:
            return
        if isinstance(action, ctl.SetLimits):
            live.record.limits = action.limits
            if live.limits is not None:
                high = format_size(action.limits.memory_high_bytes)
                self._deed(live, f"limits set (memory {high})", action.why)
            self._apply_limits(live, action.limits)
        elif isinstance(action, ctl.Measure):
            self._measure(action.call, live)
        elif isinstance(action, ctl.Brake):
            self._deed(live, "braked", action.why)
        elif isinstance(action, ctl.Release):
            self._deed(live, "released", action.why)
        elif isinstance(action, ctl.Tell):
            self._deed(live, "told", action.notice.reason)
            self._spawn(self._deliver(tell_call, live, action.notice))
        else:
            self._deed(live, "stopped", action.why)
            self._spawn(self._deliver(stop_call, live, action.notice))

    def _apply_limits(self, live: Live, limits: Limits) -> None:
        if live.leaf is None:
            return
        try:
            cgroup.limit(live.leaf, limits, live.limits or self._layout.given(live.leaf))
            live.limits = limits
        except cgroup.CgroupError as error:
            if cgroup.populated(live.leaf):
                self._log(f"call {live.record.call}: limits not set: {error}")

    async def _deliver(
        self, way: Callable[[int, Path | None, ctl.Notice], Awaitable[bool]], live: Live, notice: ctl.Notice
    ) -> None:
        """Tell or stop a call; say so in the log where nobody could be told."""
        if not await way(live.record.pid, live.leaf, notice):
            self._log(f"call {live.record.call}: nobody could be told: {notice.reason}")

    # The end

    def end_if_over(self, call: int) -> None:
        """The call is over when its leaf is empty and no process that events told of is left."""
        live = self._live.get(call)
        if (
            live is None
            or call in self._new
            or self._tracker.size(call)
            or (live.leaf is not None and cgroup.populated(live.leaf))
        ):
            return
        del self._live[call]
        self._forget(live)
        record = live.record
        now = self._now()
        if record.ended_s is None:
            record.ended_s = now
        if record.outlived_by and now - record.ended_s > _OUTLIVING_S and not self._ending:
            self._deed(live, f"{record.outlived_by} of its processes outlived it", format_duration(now - record.ended_s))
        elif not self._ending:
            record.outlived_by = 0  # they ended with their root, a moment later
        if live.leaf is not None:
            self.placement.gone(live)
            self._read_final(live, live.leaf)
            cgroup.remove(live.leaf)
        self._step(ctl.Ended(call))

    def _forget(self, live: Live) -> None:
        while live.handles:
            self._watcher.forget(live.handles.pop())

    def _read_final(self, live: Live, leaf: Path) -> None:
        record = live.record
        if counts := self._source.counts(leaf):
            record.processes += counts.forks
            record.stalled_s, record.waited_s = counts.stalled_s, counts.waited_s
        with contextlib.suppress(cgroup.CgroupError):
            record.memory_peak_bytes = int(cgroup.read(leaf, "memory.peak"))
            record.cpu_s = cgroup.read_table(leaf, "cpu.stat")["usage_usec"] / 1e6

    def check_all(self) -> None:
        """End the calls that are over, whatever events were missed."""
        for call in list(self._live):
            self.end_if_over(call)

    @property
    def loops(self) -> list[Loop]:
        """The retry loops found so far."""
        return self._leftovers.found

    def leaves(self) -> dict[int, Path]:
        """The leaf of each live call."""
        return {call: live.leaf for call, live in self._live.items() if live.leaf is not None}

    def session_ends(self) -> None:
        """Whatever is still alive ends with the session: say so in its record."""
        self._ending = True
        for live in self._live.values():
            self._deed(
                live, "ended with the session", f"{len(cgroup.processes(live.leaf)) if live.leaf else 0} processes were left"
            )

    async def close(self) -> None:
        """Finish what was begun to be told."""
        if self._timer is not None:
            self._timer.cancel()
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _deed(self, live: Live, what: str, why: str) -> None:
        live.record.deeds.append(Deed(self._now(), what, why))
        self._log(f"call {live.record.call}: {what} ({why})")

    def _now(self) -> float:
        return time.monotonic() - self._began

    def _seconds(self, at_ns: int) -> float:
        """The kernel's time of an event in seconds since the session began."""
        return at_ns / 1e9 - self._began

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
