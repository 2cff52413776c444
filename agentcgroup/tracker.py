"""Who is who: from process events to the begin, growth and end of tool calls.  Pure.

The caller reads a process's facts at its exec (the edge's work) and hands them in; everything else
is bookkeeping on process ids, O(1) per event.  Each process of the session is either in the
agent domain (``_agents``: the program it runs, shared by forks that did not exec) or a member of a
call.  Membership follows forks, so neither setsid nor a double fork leaves a call.
"""

from collections.abc import Collection
from dataclasses import dataclass

from agentcgroup.boundary import AgentProcess, Verdict, first_verdict, judge
from agentcgroup.policy import Policy
from agentcgroup.process import Facts


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
            return self._begin(pid, Verdict("tool", "ended before it could be looked at"), None, at_ns)
        if origin.pid == pid:
            self._became(origin, facts)
            return None
        verdict = judge(self._policy, facts, origin, any(one.verdict.agent for one in self.launched))
        if verdict.role in ("tool", "own", "helper"):
            return self._begin(pid, verdict, facts, at_ns)
        program = AgentProcess(pid, facts.argv, facts.sid, verdict)
        self._agents[pid] = program
        self.launched.append(program)
        if verdict.role == "agent":
            origin.successor = pid
            origin.handed_on += 1
        return None

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
        program.argv, program.sid = facts.argv, facts.sid
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
