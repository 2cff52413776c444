"""What is to be done: a pure state machine from events and time to actions.

One controller governs one session.  It never reads a clock, a file or a process; the same class runs
live and in the tests.  The ladder for a call that exceeds its memory:

* observe: below its limit nothing is done;
* brake: above it, the kernel itself slows every allocation (``memory.high``), for at most ``brake_s``;
  a call that comes back below the limit is released;
* freeze, tell, kill: a call still above after that, or half-way to the kernel's own kill, is stopped
  with an explanation that is on its stderr before it dies.

All calls of a session together are on the same ladder: above their share of the session the kernel slows them all; the one
that holds most is stopped when that has not helped in time and none of them waits for the others.

A call that is kept waiting for memory most of the time counts as out of memory, too.  Which calls wait for each
other's memory is decided for the whole host (``schedule``); a call that has to go for that is stopped here.  Where
processors are short, calls that have used much of them come after those that have not.
"""

from dataclasses import dataclass, field, replace

from agentcgroup import control_events as ev
from agentcgroup.classify import Budget, apply_hint, merge_hints
from agentcgroup.hints import NONE, Hint
from agentcgroup.model import CommandClass, Limits
from agentcgroup.policy import Policy

KILL_RETRY_S = 1.0
"""A killed call that is still there after this long is killed again."""
OVER = 0.98
"""Share of the limit from which firm memory counts as over it: the kernel batches its accounting."""

THRASHING = 0.7
"""Share of the time in which all processes of a call wait for memory, from which it gets nowhere."""
SINKS = ((10.0, 4), (1.0, 2))
"""Seconds of processor time from which a call's weight is divided, and by what.  Recorded calls take 1-2 s at the median."""


@dataclass(slots=True)
class _Call:
    granted: CommandClass
    limits: Limits
    began_s: float
    hint: Hint = NONE
    braked_until_s: float | None = None
    stopped: tuple[float, ev.Stop] | None = None
    peak: int = 0
    stalled_from: tuple[float, float] | None = None
    sunk: int = 1
    told: set[ev.Reason] = field(default_factory=set)


class Controller:
    """Decisions for the calls of one session."""

    def __init__(self, policy: Policy, budget: Budget) -> None:
        self._policy = policy
        self._budget = budget
        self._calls: dict[int, _Call] = {}
        self._over_until_s: float | None = None

    def step(self, event: ev.Event, now_s: float) -> list[ev.Action]:
        """The actions that ``event`` at time ``now_s`` (seconds, any origin, never going back) calls for."""
        if isinstance(event, ev.Began):
            return self._began(event, now_s)
        if isinstance(event, ev.Tick):
            over = self._over_until_s is not None and now_s >= self._over_until_s
            return [
                *([ev.MeasureAll()] if over else []),
                *(action for call in list(self._calls) for action in self._due(call, now_s)),
            ]
        if isinstance(event, ev.BudgetCrossed):
            return self._budget_crossed(event, now_s)
        if isinstance(event, ev.Computed):
            return [action for call, used_s in event.used_s.items() for action in self._computed(call, used_s)]
        state = self._calls.get(event.call)
        if state is None:
            return []
        if isinstance(event, ev.Ended):
            del self._calls[event.call]
            return []
        if isinstance(event, ev.Reclassified):
            state.granted = event.granted
            return self._limits_changed(event.call, state, f"class {event.granted.name}")
        if isinstance(event, ev.Hinted):
            state.hint = merge_hints(self._policy, self._budget, state.hint, event.hint)
            return self._limits_changed(event.call, state, "hint")
        if isinstance(event, ev.Measured):
            return self._measured(event, state, now_s)
        if isinstance(event, ev.ProcessesRefused):
            return self._processes_refused(event.call, state, now_s)
        if isinstance(event, ev.Stalled):
            return self._stalled(event, state, now_s)
        if isinstance(event, ev.NoRoom):
            notice = self._notice("room", state, event.held, event.capacity)
            return self._stop(event.call, state, notice, now_s, event.why)
        return self._killed(event, state)

    def next_deadline(self) -> float | None:
        """When ``Tick`` is due next, in the time of ``step``; None while nothing is timed."""
        times = [] if self._over_until_s is None else [self._over_until_s]
        return min([*times, *(at for state in self._calls.values() for at in _deadlines(state))], default=None)

    def limits_of(self, call: int) -> Limits | None:
        """The limits in force for a call."""
        state = self._calls.get(call)
        return state.limits if state else None

    def _began(self, event: ev.Began, now_s: float) -> list[ev.Action]:
        limits = event.granted.limits
        self._calls[event.call] = _Call(event.granted, limits, now_s)
        return [ev.SetLimits(event.call, limits, event.granted.rule)]

    def _limits_changed(self, call: int, state: _Call, why: str) -> list[ev.Action]:
        limits = apply_hint(self._policy, self._budget, state.granted, state.hint)
        limits = replace(limits, cpu_weight=max(1, limits.cpu_weight // state.sunk))
        if limits == state.limits:
            return []
        if limits.memory_high_bytes != state.limits.memory_high_bytes:
            state.braked_until_s = None
        state.limits = limits
        return [ev.SetLimits(call, limits, why)]

    def _measured(self, event: ev.Measured, state: _Call, now_s: float) -> list[ev.Action]:
        usage, limits = event.usage, state.limits
        state.peak = max(state.peak, usage.current)
        if state.stopped or state.granted.on_memory == "nothing":
            return []
        if usage.firm < OVER * limits.memory_high_bytes:
            if state.braked_until_s is None:
                return []  # page cache: the kernel makes room by itself
            state.braked_until_s = None
            return [ev.Release(event.call, "back below its memory limit")]
        half_way = (limits.memory_high_bytes + limits.memory_max_bytes) / 2
        if state.braked_until_s is None and usage.firm < half_way and state.granted.brake_s > 0:
            state.braked_until_s = now_s + state.granted.brake_s
            return [ev.Brake(event.call, state.braked_until_s, "over its memory limit")]
        if state.braked_until_s is not None and now_s < state.braked_until_s and usage.firm < half_way:
            return []
        notice = self._notice("memory", state, max(state.peak, usage.current), limits.memory_high_bytes)
        return self._stop(event.call, state, notice, now_s)

    def _budget_crossed(self, event: ev.BudgetCrossed, now_s: float) -> list[ev.Action]:
        """All calls together are over, and stay so: the one that holds most is stopped, the younger of equals."""
        over_until_s, self._over_until_s = self._over_until_s, None
        holding = {call: usage for call, usage in event.usages.items() if call in self._calls}
        total = sum(usage.firm for usage in holding.values())
        if total < OVER * self._budget.tools_high or any(self._calls[call].stopped for call in holding):
            return []
        victim = max(holding, key=lambda call: (holding[call].firm, call))
        state = self._calls[victim]
        if total < (self._budget.tools_high + self._budget.tools_max) / 2:
            # The kernel slows them, and who grows has to wait; where some of them do, it is decided elsewhere who has to go.
            first = over_until_s is None
            if over_until_s is None or event.waits:
                over_until_s = now_s + state.granted.brake_s
            if now_s < over_until_s:
                self._over_until_s = over_until_s
                return [ev.Revoke()] if first else []
        state.peak = max(state.peak, holding[victim].current)
        notice = self._notice("budget", state, holding[victim].current, self._budget.tools_high)
        return self._stop(victim, state, notice, now_s)

    def _stalled(self, event: ev.Stalled, state: _Call, now_s: float) -> list[ev.Action]:
        """Grinding for half an hour is no better than a clear end: told and stopped when it gets nowhere for too long."""
        limit_s = self._policy.session.thrash
        if state.stalled_from is None:
            state.stalled_from = now_s, event.stalled_s
            return []
        since_s, before_s = state.stalled_from
        if event.stalled_s - before_s < THRASHING * (now_s - since_s):
            state.stalled_from = now_s, event.stalled_s
            return []
        if not limit_s or now_s - since_s < limit_s or state.granted.on_memory == "nothing":
            return []
        return self._stop(event.call, state, self._notice("stalled", state, event.stalled_s - before_s, now_s - since_s), now_s)

    def _computed(self, call: int, used_s: float) -> list[ev.Action]:
        """Short calls first: one that has used a processor for seconds has half the weight, for longer a quarter."""
        state = self._calls.get(call)
        if state is None or len(self._calls) == 1:
            return []
        state.sunk = next((divisor for from_s, divisor in SINKS if used_s >= from_s), 1)
        return self._limits_changed(call, state, f"used {used_s:.0f} s of processor time while others wait")

    def _killed(self, event: ev.KernelKilled, state: _Call) -> list[ev.Action]:
        """Below its own limit it is killed where the session's memory is full, or all sessions' together."""
        if event.peak >= (limit := state.limits.memory_high_bytes):
            notice = self._notice("kernel", state, event.peak, limit)
        else:
            notice = self._notice("session", state, event.peak, self._budget.session)
        return self._tell_once(event.call, state, replace(notice, stopped=True))

    def _processes_refused(self, call: int, state: _Call, now_s: float) -> list[ev.Action]:
        limit = state.limits.processes or 0
        if state.granted.on_processes == "kill":
            return self._stop(call, state, self._notice("processes", state, limit, limit), now_s)
        if state.granted.on_processes == "tell":
            return self._tell_once(call, state, self._notice("processes", state, limit, limit))
        return []

    def _due(self, call: int, now_s: float) -> list[ev.Action]:
        state = self._calls[call]
        if state.stopped:
            at, stop = state.stopped
            if now_s < at:
                return []
            state.stopped = now_s + KILL_RETRY_S, stop
            return [stop]
        if state.braked_until_s is not None and now_s >= state.braked_until_s:
            return [ev.Measure(call)]
        time_s = state.limits.time_s
        if time_s is not None and now_s >= state.began_s + time_s and "time" not in state.told:
            notice = self._notice("time", state, now_s - state.began_s, time_s)
            if state.granted.on_time == "kill":
                return self._stop(call, state, notice, now_s)
            return self._tell_once(call, state, notice, aloud=state.granted.on_time == "tell")
        return []

    def _stop(self, call: int, state: _Call, notice: ev.Notice, now_s: float, why: str = "") -> list[ev.Action]:
        if state.stopped:
            return []
        why = f"{notice.reason}: {why or state.granted.rule}"
        stop = ev.Stop(call, replace(notice, stopped=True), why)
        state.stopped = now_s + KILL_RETRY_S, stop
        state.braked_until_s = None
        return [stop]

    def _tell_once(self, call: int, state: _Call, notice: ev.Notice, aloud: bool = True) -> list[ev.Action]:
        if notice.reason in state.told or state.stopped:
            return []
        state.told.add(notice.reason)
        return [ev.Tell(call, notice)] if aloud else []

    def _notice(self, reason: ev.Reason, state: _Call, used: float, limit: float) -> ev.Notice:
        more = self._budget.tools_high > state.limits.memory_high_bytes
        return ev.Notice(
            reason, False, state.granted.name, used, limit, state.granted.expected_bytes,
            self._budget.tools_high if more else None,
        )  # fmt: skip


def _deadlines(state: _Call) -> list[float]:
    if state.stopped:
        return [state.stopped[0]]
    times = [] if state.braked_until_s is None else [state.braked_until_s]
    if state.limits.time_s is not None and "time" not in state.told and state.granted.on_time != "nothing":
        times.append(state.began_s + state.limits.time_s)
    return times
