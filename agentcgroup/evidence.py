"""Evidence that a call is in truth an agent's runtime.  Pure.

Some agents start what runs their model's commands as one more program: with streams and a session of its own, or as a daemon
reached by a socket.  By the rules of ``boundary`` such a program is a call, and everything the model runs would be inside it.  What it
starts gives it away: commands in sessions of their own, or shells with a text, their output captured.

Only a program that the agent domain started can be taken for the agent, never one that runs inside a shell's text: a test
runner that captures its children's output is started by such a text.  And only if it is no command that the policy knows.
"""

from dataclasses import dataclass, field

from agentcgroup.boundary import AgentProcess, Verdict
from agentcgroup.classify import is_known_command
from agentcgroup.command import SHELLS, program, shell_text
from agentcgroup.policy import Policy
from agentcgroup.process import Facts

ENOUGH = 2
"""Points that make a runtime: a captured command in a session of its own has two (its shell may have become it), another captured shell one."""


@dataclass(slots=True)
class Candidate:
    """A call that may turn out to be a runtime, of a known ``agent`` perhaps: its root at its start, and the captured shells seen in it."""

    root: Facts
    agent: str | None
    seen: dict[int, int] = field(default_factory=dict)

    def points(self) -> int:
        return sum(self.seen.values())


def candidate(policy: Policy, verdict: Verdict, child: Facts, parent: AgentProcess) -> Candidate | None:
    """What is to be remembered of a call that ``parent`` began; None for one that can't be a runtime.

    Of an agent that starts no shells with text, a bare program is the model's: it can be a runtime only as long as that is not known
    (no call of it was the model's for sure), or where somebody talks with it over pipes.
    """
    may_be = (
        verdict.role in ("tool", "own", "helper")
        and not verdict.fed
        and parent.verdict.role == "agent"
        and not parent.verdict.fed
    )
    if not may_be or shell_text(child.argv) is not None or program(child.argv) in SHELLS:
        return None
    if is_known_command(policy, child.argv) or (verdict.role == "tool" and verdict.sure):
        return None
    if parent.habits.programs > MOST_BEFORE and not child.is_piped and not parent.habits.texts:
        return None
    return Candidate(child, parent.verdict.agent)


MOST_BEFORE = 3
"""Programs of no known class that an agent without shells started before: from then on they are its way to run the model's commands."""


def consider(found: Candidate, child: Facts, starter: Facts | None) -> bool:
    """Whether a program that ``starter`` started inside a candidate shows that it is a runtime."""
    if child.pid == found.root.pid or starter is None or program(starter.argv) in SHELLS:
        return False
    if child.ppid != starter.pid or not (child.leads_session or shell_text(child.argv)):
        return False
    out = child.streams[1]
    captured = out.startswith(("pipe:", "socket:", "/")) and not out.startswith("/dev/")
    if not captured or out in starter.streams or out in found.root.streams[1:]:
        return False
    if len(found.seen) < ENOUGH:
        found.seen[child.pid] = 2 if child.leads_session else 1
    return found.points() >= ENOUGH
