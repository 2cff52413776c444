"""Who is who: from process events to the begin, growth and end of tool calls.  Pure.

The caller reads a process's facts at its exec (the edge's work) and hands them in; everything else
is bookkeeping on process ids, O(1) per event.  Each process of the session is either in the
agent domain (``_agents``: the program it runs, shared by forks that did not exec) or a member of a
call.  Membership follows forks, so neither setsid nor a double fork leaves a call.
"""

from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from agentcgroup import evidence
from agentcgroup.boundary import AgentProcess, Verdict, carried_signs, first_verdict, judge, shape_of
from agentcgroup.habits import UNSEEN, Habits, Shape, whose
from agentcgroup.policy import Policy
from agentcgroup.process import Facts
from agentcgroup.text import clean_argv


@dataclass(frozen=True, slots=True)
class Begin:
    """A tool call (or a helper) began: ``pid`` is its root.  ``facts`` is None when it was gone at once.

    ``early`` are the processes that the root forked before its begin was known.
    """

    call: int
    pid: int
    verdict: Verdict
    facts: Facts | None
    at_ns: int
    early: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Join:
    """A process was born into a call; it may have been born before the call's root was placed."""

    call: int
    pid: int
    at_ns: int


@dataclass(frozen=True, slots=True)
class RootExited:
    """A call's root ended, with a status as wait(2) encodes it; None when its end was not seen."""

    call: int
    status: int | None
    at_ns: int


@dataclass(frozen=True, slots=True)
class Promoted:
    """A call turned out to be a runtime of the agent; ``runtime`` is the process that starts its commands."""

    call: int
    runtime: int
    why: str


_WHOLE_COMMAND_LINES = 64
"""Programs of the agent, the latest ones, whose command lines are kept whole: each may have 64 KB."""
_MOST_UNSURE = 4096
"""Calls whose kind may be decided again that are remembered; of older ones it stays."""


@dataclass(slots=True)
class _Unsure:
    """A call whose kind may be decided again: who started it, what the rules looked at, and what they said.

    ``by_policy``: an own command of a known agent, unless its root turns out to have been another program before.
    """

    parent: AgentProcess
    shape: Shape
    verdict: Verdict
    argv: tuple[str, ...] = ()
    by_policy: bool = False


class Tracker:
    """The processes of one session."""

    def __init__(self, policy: Policy, root: int) -> None:
        """``root`` is the process that ``run`` starts, before its exec."""
        self._policy = policy
        unknown = AgentProcess(root, (), 0, Verdict("agent", "started by run"))
        self._agents: dict[int, AgentProcess] = {root: unknown}
        self._parents: dict[int, int] = {}
        self._children: dict[int, set[int]] = {}
        self._members: dict[int, int] = {}
        self._roots: dict[int, int] = {}
        self._sizes: dict[int, int] = {}
        self._candidates: dict[int, evidence.Candidate] = {}
        self._unsure: OrderedDict[int, _Unsure] = OrderedDict()
        self.decided_again: list[tuple[int, Verdict]] = []
        """Calls, ended ones too, whose kind was decided again; whoever hears of it takes them out."""
        self.next_call = 1
        self.root = root
        self.launched: list[AgentProcess] = [unknown]
        """Every program that was taken for the agent, in order, for the summary."""

    def size(self, call: int) -> int:
        """How many live processes a call has."""
        return self._sizes.get(call, 0)

    def _enter(self, pid: int, call: int) -> None:
        self._members[pid] = call
        self._sizes[call] = self._sizes.get(call, 0) + 1

    def _leave(self, pid: int) -> None:
        call = self._members.pop(pid, None)
        if call is not None:
            self._sizes[call] -= 1
            if not self._sizes[call]:
                del self._sizes[call]

    def knows(self, pid: int) -> bool:
        """Whether the process belongs to the session."""
        return pid in self._agents or pid in self._members

    def call_of(self, pid: int) -> int | None:
        """The call a process is a member of."""
        return self._members.get(pid)

    def is_agent(self, pid: int) -> bool:
        """Whether the process belongs to the agent domain."""
        return pid in self._agents

    def known_pids(self) -> set[int]:
        """All processes of the session, as far as events told."""
        return self._agents.keys() | self._members.keys()

    def forked(self, parent: int, child: int, at_ns: int) -> Join | None:
        call = self._members.get(parent)
        if call is not None:
            self._enter(child, call)
            return Join(call, child, at_ns)
        program = self._agents.get(parent)
        if program is not None:
            self._agents[child] = program
            self._link(child, parent)
        return None

    def execed(self, pid: int, facts: Facts | None, at_ns: int) -> Begin | None:
        """A process of the agent domain started a program; a member's exec changes nothing here."""
        origin = self._agents.get(pid)
        if origin is None:
            return None
        if facts is None:
            verdict = Verdict(*whose(origin.habits.known(), UNSEEN), sure=False)
            begun = self._begin(pid, verdict, None, at_ns)
            self._may_change(begun.call, _Unsure(origin, UNSEEN, verdict))
            return begun
        if origin.pid == pid:
            if origin.starter is None or facts.exe == origin.exe:
                self._became(origin, facts)
                return None
            # It was taken for the agent by what it ran before.
            origin = origin.starter
        return self._judge(pid, facts, origin, at_ns)

    def _judge(self, pid: int, facts: Facts, origin: AgentProcess, at_ns: int) -> Begin | None:
        """A process of the agent domain started a program other than that of ``origin``."""
        before = origin.habits.known()
        verdict = judge(self._policy, facts, origin)
        if verdict.role not in ("agent", "shell"):
            begun = self._begin(pid, verdict, facts, at_ns)
            if (found := evidence.candidate(self._policy, verdict, facts, origin)) is not None:
                self._candidates[begun.call] = found
            shape, by_policy = shape_of(facts, origin.names), verdict.sure and verdict.role == "own"
            if (by_policy or not verdict.sure) and not (facts.is_piped and shape.text is None):
                self._may_change(begun.call, _Unsure(origin, shape, verdict, facts.argv, by_policy))
            if before != origin.habits.known():
                self._decide_again(origin.habits)
            return begun
        program = AgentProcess(pid, facts.argv, facts.sid, verdict, exe=facts.exe, names=facts.names)
        if origin.verdict.agent or verdict.again:
            program.starter, program.habits = origin, origin.habits
        self._agents[pid] = program
        self._remember(program)
        if verdict.role == "agent":
            origin.successor = pid
            origin.handed_on += 1
        return None

    def _may_change(self, call: int, unsure: _Unsure) -> None:
        self._unsure[call] = unsure
        if len(self._unsure) > _MOST_UNSURE:
            self._unsure.popitem(last=False)

    def is_unsure_root(self, pid: int) -> bool:
        """Whether the process is the root of a call whose kind may be decided again: what it becomes is of interest."""
        return self._roots.get(pid) in self._unsure

    def replaced(self, pid: int, facts: Facts) -> None:
        """The root of a call became another program: a sandbox that became a shell, perhaps, with the variables of the model's commands."""
        call = self._roots.get(pid)
        unsure = self._unsure.get(call) if call is not None else None
        if unsure is None:
            return
        habits, now = unsure.parent.habits, shape_of(facts, unsure.parent.names)
        before = habits.known()
        if facts.argv == unsure.argv and unsure.shape.text is None and unsure.shape.leads:
            # What was looked at was this program already, and its process had started another before: a shell that ran it in its own place.
            unsure.shape, unsure.by_policy = replace(unsure.shape, text=""), False
        elif not unsure.shape.seen:
            unsure.shape = now
        elif unsure.by_policy:
            return
        else:
            if carried_signs(self._policy, facts.names, unsure.parent) and unsure.shape.text is not None:
                rule = next(one for one in self._policy.agents if one.name == unsure.parent.verdict.agent)
                habits.named = frozenset(rule.calls.environment)
            elif not unsure.shape.inherits and now.text is not None:
                habits.learn(now)
            elif unsure.shape.inherits:
                return  # it had its variables from the start; what its text adds says nothing of the agent
            unsure.shape = Shape(unsure.shape.program, unsure.shape.text, now.leads, now.names, now.inherits)
        if before == habits.known():
            self._decide_one_again(self._roots[pid], unsure)
        else:
            self._decide_again(habits)

    def _decide_again(self, habits: Habits) -> None:
        """The agent's habits are known better: what was decided by them before is decided again."""
        for call, unsure in self._unsure.items():
            if unsure.parent.habits is habits:
                self._decide_one_again(call, unsure)

    def _decide_one_again(self, call: int, unsure: _Unsure) -> None:
        if unsure.by_policy:
            return
        known = unsure.parent.habits.known()
        verdict = Verdict(*whose(known, unsure.shape), sure=False)
        if verdict.role != unsure.verdict.role:
            self.decided_again.append((call, verdict))
            if (known.named or known.variables) & unsure.shape.names:
                self._candidates.pop(call, None)
        unsure.verdict = verdict

    def is_candidate(self, call: int) -> bool:
        """Whether a call may turn out to be a runtime: the programs that start in it are of interest."""
        return call in self._candidates

    def started_inside(self, call: int, child: Facts, line: Sequence[Facts]) -> Promoted | None:
        """A program was started inside a call, by the first of ``line`` (``evidence``): does that show that the call is a runtime?"""
        found = self._candidates.get(call)
        if found is None or not evidence.consider(found, child, line):
            return None
        return Promoted(call, line[0].pid, "starts commands as agents do")

    def promote(self, promoted: Promoted, chain: Collection[Facts]) -> None:
        """The call is the agent: ``chain``, from its root or what is left of it to its runtime, belongs to the agent domain.

        All its other processes are forgotten; they are to be found, and judged, as the agent's.
        """
        found = self._candidates.pop(promoted.call)
        for pid in [pid for pid, call in self._members.items() if call == promoted.call]:
            self._leave(pid)
        for pid in [pid for pid, call in self._roots.items() if call == promoted.call]:
            del self._roots[pid]
        verdict = Verdict("agent", promoted.why, found.agent)
        for facts in chain:
            program = AgentProcess(facts.pid, facts.argv, facts.sid, verdict, exe=facts.exe, names=facts.names)
            self._agents[facts.pid] = program
            self._remember(program)

    def _remember(self, program: AgentProcess) -> None:
        """Keep a program for the summary; of the command lines of earlier ones, what is shown."""
        self.launched.append(program)
        if len(self.launched) > _WHOLE_COMMAND_LINES:
            earlier = self.launched[-1 - _WHOLE_COMMAND_LINES]
            earlier.argv = clean_argv(earlier.argv)

    def is_over(self, call: int) -> None:
        """A call has ended: it can't turn out to be a runtime any more."""
        self._candidates.pop(call, None)

    def exited(self, pid: int, status: int | None, at_ns: int) -> RootExited | None:
        self._leave(pid)
        orphans, parent = self._children.pop(pid, set()), self._unlink(pid)
        for orphan in orphans:
            if parent is None:
                del self._parents[orphan]
            else:
                self._link(orphan, parent)
        program = self._agents.pop(pid, None)
        if program is not None:
            for other in self.launched:
                if other.successor == pid:
                    other.successor = None
        call = self._roots.pop(pid, None)
        return None if call is None else RootExited(call, status, at_ns)

    def declare(self, pid: int, at_ns: int, why: str = "declared with agentcgroup exec", facts: Facts | None = None) -> Begin:
        """The process is to be the root of a call of its own, whatever the boundary rules say."""
        self._roots.pop(pid, None)
        self._leave(pid)
        return self._begin(pid, Verdict("tool", why), facts, at_ns)

    def is_root(self, pid: int) -> bool:
        """Whether the process is the root of a call."""
        return pid in self._roots

    def adopt(self, pid: int, call: int) -> None:
        """A process was found in a call's leaf though no event told of it."""
        self._unlink(pid)
        self._agents.pop(pid, None)
        self._leave(pid)
        self._enter(pid, call)

    def restore(self, call: int, root: int, members: Collection[int]) -> None:
        """A call that an earlier daemon began, with the processes of its leaf; ``root`` is not among them if its end was seen."""
        for pid in members:
            self.adopt(pid, call)
        if root in members:
            self._roots[root] = call
        self.next_call = max(self.next_call, call + 1)

    def forked_by(self, pid: int) -> int | None:
        """Which process of the agent domain forked this one, if that one has not started a program since."""
        parent = self._parents.get(pid)
        return parent if parent in self._agents and self._agents[parent].pid != parent else None

    def program_of(self, pid: int) -> AgentProcess | None:
        """The program that a process of the agent domain was last known to run."""
        return self._agents.get(pid)

    def _became(self, program: AgentProcess, facts: Facts) -> None:
        """A process of the agent replaced its own program, as launchers do that exec what they start."""
        program.argv, program.sid, program.exe, program.names = facts.argv, facts.sid, facts.exe, facts.names
        if program.verdict.agent is None:
            verdict = first_verdict(self._policy, facts.argv)
            known = verdict.agent is not None or program.pid == self.root
            program.verdict = verdict if known else program.verdict

    def _begin(self, pid: int, verdict: Verdict, facts: Facts | None, at_ns: int) -> Begin:
        call = self.next_call
        self.next_call += 1
        early = []
        for member in self._take_family(pid):
            self._agents.pop(member, None)
            self._enter(member, call)
            if member != pid:
                early.append(member)
        self._roots[pid] = call
        return Begin(call, pid, verdict, facts, at_ns, tuple(early))

    def _link(self, child: int, parent: int) -> None:
        """Remember who forked a process of the agent domain; the forks of a dead process count as its parent's."""
        self._parents[child] = parent
        self._children.setdefault(parent, set()).add(child)

    def _unlink(self, child: int) -> int | None:
        parent = self._parents.pop(child, None)
        if parent is not None and (siblings := self._children.get(parent)) is not None:
            siblings.discard(child)
            if not siblings:
                del self._children[parent]
        return parent

    def _take_family(self, pid: int) -> list[int]:
        """The process and its descendants in the agent domain, parents first; their links are forgotten.

        One that started a program of its own was judged then, and stays what it is.
        """
        self._unlink(pid)
        family = [pid]
        for member in family:
            for child in sorted(self._children.pop(member, set())):
                del self._parents[child]
                if self._agents[child].pid != child:
                    family.append(child)
        return family
