"""The live tool calls of a session: placed into leaves, watched, measured, acted upon, recorded.

This is the edge between the tracker and controller, which decide, and the cgroups, where it happens.
"""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from agentcgroup import cgroup, process
from agentcgroup import control_events as ctl
from agentcgroup.boundary import HELPER_AFTER_S
from agentcgroup.classify import Budget, classify
from agentcgroup.command import assignments, display, unwrap
from agentcgroup.controller import Controller
from agentcgroup.enforce import Choice
from agentcgroup.hints import VARIABLE
from agentcgroup.loops import Loop
from agentcgroup.model import CallRecord, CommandClass, Deed, Kind, Priority
from agentcgroup.notable import LEFT_BYTES
from agentcgroup.policy import HostRule, Policy
from agentcgroup.remembered import remembered
from agentcgroup.schedule import events as ev
from agentcgroup.session.acts import Acts
from agentcgroup.session.in_memory import InMemory
from agentcgroup.session.layout import Layout
from agentcgroup.session.leftovers import Leftovers
from agentcgroup.session.live import Live, Placement
from agentcgroup.session.marks import mark
from agentcgroup.session.pressure import Pressure
from agentcgroup.session.readings import Readings
from agentcgroup.session.recorder import Recorder
from agentcgroup.session.said import Said
from agentcgroup.session.share import Share, kill_words
from agentcgroup.session.strays import LEFT
from agentcgroup.session.watch import Watcher
from agentcgroup.sources import Emptied, Grown, HintSeen, HintUnread, MemoryNews, Source, Victim, Waited
from agentcgroup.text import clean_argv
from agentcgroup.tracker import Begin, Join, RootExited, Tracker
from agentcgroup.units import format_duration

_VICTIM_SCORE: dict[Priority, int] = {"high": 600, "normal": 800, "low": 1000}
"""oom_score_adj: where the kernel has to kill, low goes first.  An agent may have half of its session (policy), so its calls go
before it at any of these.
"""
_KEPT_RECORDS = 1000
_MOVING_S = 1.0
"""How long the processes of a call that turned out to be the agent are moved; what forks faster than that is found later."""
_LOOK_AGAIN_S = 1.0
_OUTLIVING_S = 0.5
"""A call whose processes stay this much longer than its root left something behind."""


class Calls:
    """All calls of one session, live ones and records of ended ones."""

    def __init__(
        self, policy: Policy, budget: Budget, layout: Layout, tracker: Tracker, source: Source, watcher: Watcher,
        priority: Priority, enforcer: Choice, recorder: Recorder, start_host: Callable[[HostRule], None],
        log: Callable[[str], None], note: Callable[[CallRecord, Deed], None], began: float, marks: bool,
    ) -> None:  # fmt: skip
        """``marks``: keep with each leaf what another governor would need to take the call up."""
        self._marks = marks
        self._policy, self._budget, self._source = policy, budget, source
        self._layout, self._tracker, self._watcher = layout, tracker, watcher
        self._log, self._began, self._recorder = log, began, recorder
        self._live: dict[int, Live] = {}
        self.in_memory = InMemory(layout, self._live, began)
        self._acts = Acts(log, note, began, self.in_memory.explain)
        self._controller = Controller(policy, budget)
        # Agents repeat themselves: nearly all recorded runs have the same command three times in a row.
        self._class_of = remembered(partial(classify, policy, budget))
        patterns = tuple(pattern for agent in policy.agents for pattern in agent.unwrap)
        self._unwrapped = remembered(lambda argv: unwrap(argv, patterns))
        self.placement = Placement(self._live, layout, tracker, source.sees_inside, _VICTIM_SCORE[priority], log)
        self._timer: asyncio.TimerHandle | None = None
        self._ending = False
        self._default = self._class_of((), "tool").limits
        self._new: dict[int, Kind] = {}
        self._earlier: dict[int, float] = {}
        """Roots of calls that an earlier governor acted upon, and when these began."""
        self.records: list[CallRecord] = []
        self.ended: Counter[Kind] = Counter()
        """Calls that are over, by whose they were."""
        session = ev.SessionBegan(layout.name, priority, budget.tools_high)
        self.share = Share(
            session, layout.tools, enforcer, policy.host, source, self._live, self._acts.deed, self._no_room, start_host, log
        )
        self._pressure = Pressure(self._live, self.share.slowed_s)
        self.placement.placed = self.share.adopt
        self.placement.lost = self._leaf_lost
        self.is_the_agent: Callable[[int], bool] = lambda call: False
        """Looks once more, before a call is stopped, whether it is the agent's runtime; then it is treated as that."""
        self._acts.share, self._acts.live = self.share, self._live
        self._leftovers = Leftovers(policy.loops, layout.tools, log, self._acts.spawn)
        self.said = Said(self._live, source.sees_inside, self._command_known, self._step, log)
        self._readings = Readings(self._live, watcher, self._step, self._killed)
        self._watcher.file(layout.tools / "memory.events.local", self._readings.budget_event)

    # What the tracker says

    def begin(self, begun: Begin, there: bool = True) -> None:
        """A call began: place its root at once (if it is still ``there``); ``settle`` does the rest when the roots of all calls are placed.

        What a process allocates before it is placed stays charged to where it was.
        """
        argv = begun.facts.argv if begun.facts else ()
        live = Live(CallRecord(begun.call, begun.pid, argv, self._seconds(begun.at_ns)))
        live.record.cwd = begun.facts.cwd if begun.facts else ""
        live.record.sign = begun.verdict.why
        if begun.facts is not None and begun.facts.is_piped and begun.verdict.role == "own" and not begun.verdict.sure:
            asyncio.get_running_loop().call_later(HELPER_AFTER_S, self._stays, begun.call)
        live.awaits_command = not argv
        self._live[begun.call] = live
        self.records.append(live.record)
        if there and self.placement.place(live, begun.pid):
            live.record.placed_after_ms = (live.settled_ns - begun.at_ns) / 1e6
        for pid in begun.early:
            self.placement.join(Join(begun.call, pid, begun.at_ns))
            self.placement.misplaced(begun.call, pid)
        self._new[begun.call] = begun.verdict.kind
        self.decided_again()

    def restore(self, call: int, leaf: Path, facts: dict[str, Any]) -> None:
        """A call that an earlier daemon had; ``facts`` are those that it kept with the leaf."""
        members = cgroup.processes(leaf)
        root = int(facts.get("pid", 0)) or next(iter(members), 0)
        if root in members:
            self._source.watch_exit(root)
        over = facts.get("ended_s") is not None
        # Of what is born and ends in a leaf, not every source tells; the root's end may still be on its way to us.
        self._tracker.restore(call, root, {*(() if over else (root,)), *(() if self._source.sees_inside else members)})
        argv = next(filter(None, (process.command_line(pid) for pid in (root, *members) if pid in members)), ())
        began_s = float(facts["started_s"]) if facts else self._acts.now()
        live = Live(CallRecord(call, root, argv or tuple(facts.get("argv", ())), began_s))
        live.record.ended_s, live.record.exit_status = facts.get("ended_s"), facts.get("exit_status")
        self._earlier[root] = began_s
        self._live[call] = live
        self.records.append(live.record)
        self.placement.restore(live, self._layout.adopt_leaf(leaf))
        kind = facts.get("kind")
        self._new[call] = kind if kind in ("own", "helper") else "tool"

    def recover(self, facts: dict[str, Any], leaf: Path) -> None:
        """A call that ended under an earlier daemon, and whose record is still with its leaf."""
        self._earlier[int(facts["pid"])] = float(facts["ended"]["started_s"])
        self._recorder.recover(facts["ended"], leaf)

    def knows_of(self, pid: int, at_ns: int) -> bool:
        """Whether an earlier governor has acted upon what is told of a process that is a call's root: it may be told again."""
        began_s = self._earlier.get(pid)
        return began_s is not None and self._seconds(at_ns) <= began_s

    def _take_up(self, call: int, kind: Kind) -> None:
        """Class, limits and hints of a call that was placed."""
        live = self._live[call]
        if not live.record.argv and live.leaf is not None:
            # The root was gone before it could be looked at; a child that it forked still shows its program.
            lines = (process.command_line(pid) for pid in self.processes_in(live.leaf))
            live.record.argv = next(filter(None, lines), ())
        self._step(ctl.Began(call, self._classify(live, kind)))
        self._note_command(live)
        if not self._source.sees_inside:
            self.said.hinted(live, process.hint_text(live.record.pid))
        # What a model types in front of a command is in the text before any process has it in its
        # environment: the limit is there before the burst.
        for text in assignments(live.record.argv, VARIABLE):
            self.said.hinted(live, text)
        self._recorder.call_began(live)
        self._mark(live)
        self.end_if_over(call)

    def _mark(self, live: Live) -> None:
        """Keep with the leaf what another governor could not find out."""
        if self._marks and live.leaf is not None:
            record = live.record
            argv = ["sh", "-c", record.command or display(record.argv, 200)] if record.argv else []
            facts = {name: getattr(record, name) for name in ("pid", "started_s", "kind", "ended_s", "exit_status")}
            mark(live.leaf, facts | {"argv": argv})

    def _classify(self, live: Live, kind: Kind) -> CommandClass:
        record = live.record
        found = self._unwrapped(record.argv)
        granted = self._class_of(found.argv, kind)
        record.command = found.command
        record.kind, record.class_name, record.rule = granted.kind, granted.name, granted.rule
        record.expected_bytes = granted.expected_bytes
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
        self.said.settle()

    def stated(self, call: int, argv: tuple[str, ...], hint: str) -> Path | None:
        """The call's command is this; returns the leaf."""
        self.settle()
        return self.said.stated(call, argv, hint)

    def _command_known(self, live: Live) -> None:
        """It turned out what a call's command is."""
        self._step(ctl.Reclassified(live.record.call, self._classify(live, live.record.kind)))
        self._note_command(live)

    def _note_command(self, live: Live) -> None:
        """Is this the same command again?"""
        record = live.record
        if record.kind == "tool" and not live.awaits_command:
            self._leftovers.began(record)
            if record.ended_s is not None:
                self._look_for_leftovers(record.call)

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
            live.record.outlived_by = len(set(self.processes_in(live.leaf)) - {live.record.pid})
        self.end_if_over(ended.call)
        if ended.call in self._live and ended.call not in self._new:
            self._recorder.goes_on(live)
        if ended.call in self._live:
            self._mark(live)
        if live.record.kind == "tool":
            self._look_for_leftovers(ended.call)

    def _stays(self, call: int) -> None:
        """A program of the agent that somebody talks with is there still: a server."""
        if (live := self._live.get(call)) is not None and live.record.ended_s is None and live.record.kind == "own":
            live.record.sign = f"{live.record.sign}, and it stays"
            self._is_of_kind(live, "helper")

    def decided_again(self) -> None:
        """Of some calls the agent's later ones told whose they are."""
        again, self._tracker.decided_again[:] = list(self._tracker.decided_again), []
        for call, verdict in again:
            if call in self._new:
                self._new[call] = verdict.kind
            record = next((one for one in reversed(self.records) if one.call == call), None)
            if record is None:
                continue
            record.sign = verdict.why
            if (live := self._live.get(call)) is not None and call not in self._new:
                self._is_of_kind(live, verdict.kind)
            elif live is None and record.kind != verdict.kind:
                self.ended.subtract({record.kind: 1, verdict.kind: -1})
                record.kind = verdict.kind
                self._recorder.kind_changed(record)

    def _is_of_kind(self, live: Live, kind: Kind) -> None:
        """It turned out whose command a live call is."""
        if live.record.kind != kind:
            self._step(ctl.Reclassified(live.record.call, self._classify(live, kind)))
            self._mark(live)

    def move_to_agent(self, call: int) -> None:
        """Move all of a call's processes to the agent domain, those that are born meanwhile included."""
        if (live := self._live.get(call)) is None or live.leaf is None:
            return
        self.placement.leave_alone(live)
        deadline = time.monotonic() + _MOVING_S
        while (found := self.processes_in(live.leaf)) and time.monotonic() < deadline:
            for pid in found:
                cgroup.add(self._layout.agent, pid)
                process.prefer_as_victim(pid, 0)
        if live.held or live.wait is not None:
            cgroup.freeze(live.leaf, False)

    def left(self, call: int) -> None:
        """A process of a call was moved out of the session by another's hand: said once; the rest is in the log."""
        live = self._live.get(call)
        if live is not None and all(deed.what != LEFT for deed in live.record.deeds):
            self._acts.deed(live, LEFT, "moved by another's hand")

    def became_agent(self, call: int, why: str) -> None:
        """A call turned out to be the agent's runtime, whose processes have left its leaf."""
        if (live := self._live.get(call)) is not None:
            self._acts.deed(live, "taken for the agent", why)
            live.record.kind, live.record.sign = "own", why
            self.end_if_over(call)

    def _look_for_leftovers(self, call: int) -> None:
        """A call's root has ended: what a retry loop left running may have to end."""
        for live in self._leftovers.root_ended(call, self._live):
            if live.leaf is not None:
                self._acts.deed(live, "ended", "left running by a retry loop")
                cgroup.kill(live.leaf)

    def _watch(self, live: Live) -> None:
        """Watch a call's leaf, and give it the limits that were decided before it had one."""
        call, leaf = live.record.call, live.leaf
        if leaf is None or call not in self._live:
            return
        if self._tracker.is_candidate(call):
            self._source.tell_programs(leaf)
        if limits := self._controller.limits_of(call):
            self._acts.apply_limits(live, limits)
        self._readings.watch(live, leaf, memory=not self._source.sees_memory)
        if not self._source.sees_inside:
            live.handles.append(self._watcher.file(leaf / "cgroup.events", lambda text: self.end_if_over(call)))
        if call not in self._live:  # over already
            self._forget(live)
        asyncio.get_running_loop().call_soon(self.prepare)

    def prepare(self) -> None:
        """Have leaves ready for the next calls, with the limits of a command that no class knows."""
        self._layout.prepare(self._tracker.next_call, self._default)

    # What the kernel says

    def _killed(self, live: Live) -> None:
        if not live.killed:
            live.killed = True
            self._acts.deed(live, "killed by the kernel", "out of memory")
            peak = 0
            with contextlib.suppress(cgroup.CgroupError):
                peak = int(cgroup.read(live.leaf, "memory.peak")) if live.leaf else 0
            self._step(ctl.KernelKilled(live.record.call, peak))

    def news(self, event: Emptied | HintSeen | HintUnread | MemoryNews | Grown | Victim | Waited) -> None:
        """What the kernel tells of a leaf: its end, a hint at a program's start, its memory."""
        call = self.placement.call_in(event.cgroup)
        if isinstance(event, (HintSeen, HintUnread)):
            # The root starts its program before it is in its leaf.
            call = call or self._tracker.call_of(event.pid)
            if call is not None and isinstance(event, HintSeen):
                self.said.hint_seen(call, event.text)
            elif call is not None:
                self.said.hint_unread(call, event.pid)
        elif call is None or (live := self._live.get(call)) is None:
            return
        elif isinstance(event, Grown):
            self.share.grown(live, event.amount)
        elif isinstance(event, MemoryNews):
            self._readings.measure(call)
        elif isinstance(event, Waited):
            if (found := self._pressure.heard(call, event)) is not None:
                self._step(found)
        elif isinstance(event, Victim):
            self._killed(live)
        elif isinstance(event, Emptied):
            self.end_if_over(call)

    def _no_room(self, live: Live, kill: ev.Kill) -> None:
        """The host's scheduler chose this call to go."""
        self._step(ctl.NoRoom(live.record.call, kill.held, kill.capacity, kill.waited_s, kill_words(kill)))

    # What is done

    def _step(self, event: ctl.Event) -> None:
        for action in self._controller.step(event, time.monotonic()):
            if isinstance(action, ctl.MeasureAll):
                self._readings.measure_all()
            elif isinstance(action, ctl.Revoke):
                self.share.full()
            elif isinstance(action, ctl.Measure):
                self._readings.measure(action.call)
            elif (live := self._live.get(action.call)) is not None:
                if isinstance(action, ctl.Stop) and self.is_the_agent(action.call):
                    self._log(f"call {action.call}: not stopped: it is the agent's runtime")
                    continue
                self._acts.do(live, action)
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

    # The end

    def end_if_over(self, call: int) -> None:
        """The call is over when its leaf is empty and no process that events told of is left."""
        live = self._live.get(call)
        if live is None or call in self._new or self._tracker.size(call):
            return
        try:
            if live.leaf is not None and cgroup.populated(live.leaf):
                return
        except cgroup.CgroupError as error:
            self._log(f"call {call}: whether it is over is looked at once more: {error}")
            asyncio.get_running_loop().call_later(_LOOK_AGAIN_S, self.end_if_over, call)
            return
        self._end(live)

    def _end(self, live: Live) -> None:
        call = live.record.call
        self._tracker.is_over(call)
        self.share.ended(live)
        del self._live[call]
        self._new.pop(call, None)
        self._forget(live)
        record = live.record
        now = self._acts.now()
        if record.ended_s is None:
            record.ended_s = now
        if record.outlived_by and now - record.ended_s > _OUTLIVING_S and not self._ending:
            self._acts.deed(live, f"{record.outlived_by} of its processes outlived it", format_duration(now - record.ended_s))
        elif not self._ending:
            record.outlived_by = 0  # they ended with their root, a moment later
        if live.leaf is not None:
            self.placement.gone(live)
            self._source.forget(live.cgroup_id)
            self._read_final(live, live.leaf)
            self._acts.remember(record)
            if (record.memory_peak_bytes or 0) >= LEFT_BYTES and (left := self.in_memory.left_by(live)):
                self._acts.deed(live, *left)
        record.argv = clean_argv(record.argv)  # what is kept of thousands of calls
        self._step(ctl.Ended(call))
        self._recorder.call_ended(record, live.leaf or self._leaf_for_record(call))
        self.ended[record.kind] += 1
        if self._marks and len(self.records) > 2 * _KEPT_RECORDS:
            # A container may run for months; what is older is in the history.
            self.records = [one for one in self.records[:-_KEPT_RECORDS] if one.call in self._live] + self.records[
                -_KEPT_RECORDS:
            ]

    def _leaf_for_record(self, call: int) -> Path | None:
        """A call that ended before it was placed: where there is to be another governor, it gets a leaf to keep its record with."""
        if not self._marks:
            return None
        try:
            leaf = self._layout.take_leaf(call)
        except cgroup.CgroupError:  # the container is gone
            return None
        self._source.forget(leaf.number)
        return leaf.path

    def _leaf_lost(self, live: Live) -> None:
        """Somebody removed the leaf of a call: what watched it watches nothing any more."""
        self._forget(live)
        self.share.ended(live)  # it begins anew with its next leaf

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

    def end_all(self) -> None:
        """The session is over, and so is every call, whatever events were missed."""
        for live in self.live():
            self._end(live)

    @property
    def loops(self) -> list[Loop]:
        """The retry loops found so far."""
        return self._leftovers.found

    def change_priority(self, priority: Priority) -> None:
        """All calls, those that run included, have another priority."""
        self.placement.score = _VICTIM_SCORE[priority]
        for live in self.live():
            for pid in self.processes_in(live.leaf):
                process.prefer_as_victim(pid, _VICTIM_SCORE[priority])
        self.share.change_priority(priority)

    def hold(self, call: int, frozen: bool) -> None:
        """An operator stops a call, or lets it go on (unless others make it wait).  Raises ValueError for a call that does not run."""
        live = self._live.get(call)
        if live is None or live.leaf is None:
            raise ValueError(f"call {call} does not run")
        if live.held != frozen:
            live.held = frozen
            if frozen or live.wait is None or live.wait.rung != "freeze":
                cgroup.freeze(live.leaf, frozen)
            self._acts.deed(live, "frozen" if frozen else "thawed", "by an operator")

    def live(self) -> list[Live]:
        """Those that run, in the order in which they began."""
        return list(self._live.values())

    def processes_in(self, place: Path | None) -> list[int]:
        """The processes in a cgroup of the session, if there is one; none where they can't be read, which is said."""
        try:
            return cgroup.processes(place) if place is not None else []
        except cgroup.CgroupError as error:
            self._log(f"processes are not known: {error}")
            return []

    def leaves(self) -> dict[int, Path]:
        """The leaf of each live call."""
        return {call: live.leaf for call, live in self._live.items() if live.leaf is not None}

    def session_ends(self) -> None:
        """Whatever is still alive ends with the session: say so in its record."""
        self._ending = True
        for live in self._live.values():
            self._acts.deed(live, "ended with the session", f"{len(self.processes_in(live.leaf))} processes were left")

    def _seconds(self, at_ns: int) -> float:
        """The kernel's time of an event in seconds since the session began."""
        return at_ns / 1e9 - self._began

    async def close(self) -> None:
        """Finish what was begun to be told."""
        if self._timer is not None:
            self._timer.cancel()
        await self._acts.finish()
