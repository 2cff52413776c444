"""A modelled host in virtual time: agents that do what was recorded, and a policy that shares the memory among them.

Time passes from event to event.  Memory grows at once to the next recorded size; what the model has no figure for
(reclaim, swap, processors) it leaves out.  With the policy ``ours`` the scheduler decides that runs live, too.
"""

import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from agentcgroup.classify import amount
from agentcgroup.model import MIB
from agentcgroup.policy import HostRule
from agentcgroup.replay.split import agent_and_calls
from agentcgroup.replay.traces import Run
from agentcgroup.schedule import events as ev
from agentcgroup.schedule.scheduler import ALLOWANCE, Scheduler

Kind = Literal["own", "begin", "grow", "end"]
Policy = Literal["ours", "none", "limit"]
_NOTICED = 2 * MIB
"""Changes of memory below this are left out: they decide nothing, and are most of what was recorded."""
_BRAKED_RATE = 50 * MIB
"""Bytes per second that a braked call still takes: 5 % of a processor at 1 GB/s."""

_RESTART_S = 10.0
"""How long it takes until an agent that was killed is started again."""


class Step(NamedTuple):
    """What an agent does ``after_s`` seconds after its previous step."""

    after_s: float
    kind: Kind
    size: int


def steps_of(run: Run) -> list[Step]:
    """A run as the steps of one agent, small changes left out."""
    agent, calls = agent_and_calls(run)
    timed: list[tuple[float, int, Kind, int]] = []
    for number, call in enumerate(calls):
        before, order = 0, 3 * number  # one call ends before the next begins, though it be at the same time
        timed.append((call.from_s, order, "begin", 0))
        for at_s, size in call.points:
            if abs(size - before) >= _NOTICED:
                timed.append((call.from_s + at_s, order + 1, "grow", size))
                before = size
        timed.append((call.to_s, order + 2, "end", 0))
    before = 0
    for at_s, size in agent.points:
        if abs(size - before) >= _NOTICED:
            timed.append((at_s, 3 * len(calls), "own", size))
            before = size
    timed.append((agent.to_s, 3 * len(calls) + 1, "own", 0))
    timed.sort(key=lambda one: one[:2])
    found, last = [], 0.0
    for at_s, _, kind, size in timed:
        found.append(Step(at_s - last, kind, size))
        last = at_s
    return found


@dataclass(slots=True)
class _Agent:
    number: int
    plan: list[Step] = field(default_factory=list)
    nominal_s: float = 0.0
    at: int = 0
    began_s: float = 0.0
    own: int = 0
    held: int = 0
    call: int = 0
    ask_at: int = 0
    grant: int = 0
    stopped: bool = False
    grows: bool = False
    version: int = 0


@dataclass(slots=True)
class Figures:
    """How it went: runs finished, calls and agents killed, seconds that the finished runs should have taken and took."""

    agents: int
    runs: int = 0
    killed: int = 0
    nominal_s: float = 0.0
    took_s: float = 0.0
    waits: int = 0
    byte_seconds: float = 0.0
    duration_s: float = 0.0

    @property
    def added(self) -> float:
        """Share by which runs took longer than recorded."""
        return self.took_s / self.nominal_s - 1 if self.nominal_s else 0.0

    @property
    def mean_bytes(self) -> float:
        """Memory in use, on average over the time."""
        return self.byte_seconds / self.duration_s if self.duration_s else 0.0


class World:
    """One host and its agents; each draws a recorded run, and when that has ended, the next."""

    def __init__(
        self, runs: Sequence[list[Step]], agents: int, memory: int, policy: Policy, seed: int, limit: int | None = None,
        rule: HostRule | None = None,
    ) -> None:  # fmt: skip
        self._runs, self._memory, self._policy, self._limit = runs, memory, policy, limit
        self._random = random.Random(seed)
        self._rule = rule or HostRule()
        self._reserve = amount(self._rule.reserve, memory)
        self._agents = [_Agent(number) for number in range(agents)]
        self._heap: list[tuple[float, int, int]] = []
        self._used = self._own = 0
        self._now = 0.0
        self._tick_s: float | None = None
        self._scheduler = Scheduler(self._rule, memory - self._reserve) if policy == "ours" else None
        self.figures = Figures(agents)
        for agent in self._agents:
            if self._scheduler:
                self._scheduler.step(ev.SessionBegan(str(agent.number), "normal", memory), 0.0)
            self._draw(agent)
            heapq.heappush(self._heap, (self._random.uniform(0, 300), agent.number, agent.version))

    def run(self, seconds: float) -> Figures:
        """Let this much time pass."""
        heap, agents, figures = self._heap, self._agents, self.figures
        while heap and heap[0][0] <= seconds:
            now, number, version = heapq.heappop(heap)
            figures.byte_seconds += self._used * (now - self._now)
            self._now = now
            if number < 0:
                if now == self._tick_s:
                    self._tick_s = None
                    self._tell(ev.Tick())
            elif version == agents[number].version:
                self._step(agents[number])
        figures.duration_s = self._now
        return figures

    # Agents

    def _draw(self, agent: _Agent) -> None:
        agent.plan = self._random.choice(self._runs)
        agent.at = 0
        agent.began_s = -1.0
        agent.nominal_s = sum(step.after_s for step in agent.plan)

    def _step(self, agent: _Agent) -> None:
        """Do the agent's next step, and those that follow at the same time."""
        if agent.began_s < 0:
            agent.began_s = self._now
        while True:
            step = agent.plan[agent.at]
            if step.kind == "grow":
                agent.grows = True
                if not self._grow(agent, step.size):
                    return
                agent.grows = False
            elif step.kind == "own":
                self._take(agent, step.size - agent.own, own=True)
            elif step.kind == "begin":
                self._begin(agent)
            else:
                self._end(agent)
            if agent.at >= len(agent.plan) or agent.plan[agent.at] is not step:
                return  # it was killed on the way
            agent.at += 1
            if agent.at == len(agent.plan):
                self._finished(agent)
                return
            if after_s := agent.plan[agent.at].after_s:
                self._wake(agent, after_s)
                return

    def _wake(self, agent: _Agent, after_s: float) -> None:
        agent.version += 1
        heapq.heappush(self._heap, (self._now + after_s, agent.number, agent.version))

    def _finished(self, agent: _Agent) -> None:
        figures = self.figures
        figures.runs += 1
        figures.nominal_s += agent.nominal_s
        figures.took_s += self._now - agent.began_s
        self._draw(agent)
        self._wake(agent, 0.001)

    def _begin(self, agent: _Agent) -> None:
        agent.call += 1
        agent.held, agent.stopped = 0, False
        agent.ask_at = agent.grant = ALLOWANCE
        self._tell(ev.CallBegan((str(agent.number), agent.call), self._memory))

    def _end(self, agent: _Agent) -> None:
        self._take(agent, -agent.held)
        agent.stopped = False
        self._tell(ev.CallEnded((str(agent.number), agent.call)))

    def _grow(self, agent: _Agent, size: int) -> bool:
        """Whether the call could get the size now; else it goes on when it is woken."""
        while self._scheduler and size > agent.ask_at:
            if agent.stopped:
                return False
            if agent.ask_at > agent.held:
                self._take(agent, agent.ask_at - agent.held)
            asked, version = (agent.ask_at, agent.grant), agent.version
            self._tell(ev.Wants((str(agent.number), agent.call), agent.ask_at))
            if agent.stopped or agent.version != version or (agent.ask_at, agent.grant) == asked:
                return False
        self._take(agent, size - agent.held)
        return True

    def _take(self, agent: _Agent, change: int, own: bool = False) -> None:
        if own:
            agent.own += change
            self._own += change
        else:
            agent.held += change
        self._used += change
        if own and self._scheduler:
            self._tell(ev.Capacity(max(0, self._memory - self._reserve - self._own), self._reserve * 3 // 4))
        if change > 0:
            if self._limit is not None and self._policy == "limit" and agent.own + agent.held > self._limit:
                self._kill(agent)
            while self._used > self._memory and self._policy != "limit":
                self._kill(max(self._agents, key=lambda one: max(one.own, one.held)))

    def _kill(self, agent: _Agent) -> None:
        """The larger of an agent and its call is gone; without its agent the whole run is."""
        self.figures.killed += 1
        if agent.held >= agent.own:
            self._lose_call(agent)
            return
        self._end(agent)
        self._take(agent, -agent.own, own=True)
        self._draw(agent)
        self._wake(agent, _RESTART_S)

    def _lose_call(self, agent: _Agent) -> None:
        """The call is over before its time; its agent goes on with what comes after it."""
        self._end(agent)
        while agent.plan[agent.at].kind != "end":
            agent.at += 1
        agent.at += 1
        if agent.at == len(agent.plan):
            self._finished(agent)
        else:
            self._wake(agent, agent.plan[agent.at].after_s)

    # The scheduler

    def _tell(self, event: ev.Event) -> None:
        if self._scheduler is None:
            return
        for action in self._scheduler.step(event, self._now):
            self._act(action)
        deadline = self._scheduler.next_deadline()
        if deadline is not None and (self._tick_s is None or deadline < self._tick_s):
            self._tick_s = max(deadline, self._now)
            heapq.heappush(self._heap, (self._tick_s, -1, 0))

    def _act(self, action: ev.Action) -> None:
        agent = self._agents[int(action.key[0])]
        if action.key[1] != agent.call:
            return
        if isinstance(action, ev.Grant):
            agent.ask_at, agent.grant = action.ask_at, action.up_to
        elif isinstance(action, ev.Wait):
            self.figures.waits += not agent.stopped
            if action.rung == "freeze":
                agent.stopped = True
                agent.version += 1
            else:
                self._wake(agent, max(0, agent.grant - agent.held) / _BRAKED_RATE)
        elif isinstance(action, ev.Go):
            agent.stopped = False
            if agent.grows:
                self._wake(agent, 0.0)
        elif isinstance(action, ev.Look):
            self._tell(ev.Holds(action.key, agent.held))
        else:
            self.figures.killed += 1
            self._lose_call(agent)
