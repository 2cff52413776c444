"""Evidence that a call is in truth an agent's runtime.  Pure.

Some agents start what runs their model's commands as one more program: with streams and a session of its own, or as a daemon
reached by a socket.  By the rules of ``boundary`` such a program is a call, and everything the model runs would be inside it.  What it
starts gives it away: shells with a text, their output captured, as only agents start them again and again.

Nothing that the model runs may gain by this, for the agent has no limits of its own.  So only a program that the agent domain started
is looked at, and not one that the policy or the agent's habits know as a command, that has the sign of the model's commands, or whose
arguments hold a text for a shell.  Inside it only its own programs count: never what a shell's text started, as test runners are.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from agentcgroup.boundary import AgentProcess, Verdict, carried_signs
from agentcgroup.classify import is_known_command
from agentcgroup.command import SHELLS, carried_text, program
from agentcgroup.policy import Policy
from agentcgroup.process import Facts

ENOUGH = 2
"""Points that make a runtime: a captured shell in a session of its own has two, another captured shell has one."""
MOST_BEFORE = 3
"""Programs of no known class that an agent without shells started before: from then on they are its way to run the model's commands."""
_MOST_PROGRAMS = 64


@dataclass(slots=True)
class Candidate:
    """A call that may turn out to be a runtime, of a known ``agent`` perhaps.

    ``root`` is its root at its start, ``programs`` what root and its programs started besides shells (file and arguments), and ``seen`` the
    captured shells.
    """

    root: Facts
    agent: str | None
    programs: set[tuple[str, tuple[str, ...]]] = field(default_factory=set)
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
    if not may_be or carried_text(child.argv) is not None or program(child.argv) in SHELLS:
        return None
    if is_known_command(policy, child.argv) or (verdict.role == "tool" and verdict.sure):
        return None
    if carried_signs(policy, child.names, parent):
        return None
    if verdict.role == "tool" and parent.habits.known().variables & child.names:
        return None
    if parent.habits.programs > MOST_BEFORE and not child.is_piped and not parent.habits.starts_shells:
        return None
    return Candidate(child, parent.verdict.agent, {_identity(child)})


def consider(found: Candidate, child: Facts, line: Sequence[Facts]) -> bool:
    """Whether a program that was started inside a candidate shows that it is a runtime.

    ``line``: who started it, who started that one, and so on, as far as they are in the call.
    """
    if child.pid == found.root.pid or not line or child.ppid != line[0].pid or not _is_its_own(found, line):
        return False
    if program(child.argv) in SHELLS or carried_text(child.argv) is not None:
        return carried_text(child.argv) is not None and _is_captured(found, child, line[0])
    if len(found.programs) < _MOST_PROGRAMS:
        found.programs.add(_identity(child))
    return False


def _is_captured(found: Candidate, shell: Facts, starter: Facts) -> bool:
    out = shell.streams[1]
    captured = out.startswith(("pipe:", "socket:", "/")) and not out.startswith("/dev/")
    if not captured or out in starter.streams or out in found.root.streams[1:]:
        return False
    if len(found.seen) < ENOUGH:
        found.seen[shell.pid] = 2 if shell.leads_session else 1
    return found.points() >= ENOUGH


def _is_its_own(found: Candidate, line: Sequence[Facts]) -> bool:
    """Whether no shell's text stands between the root and the starter.

    A daemon has lost the root from its line: it is the root's own if it is a program that was seen before it forked away.
    """
    if any(program(one.argv) in SHELLS or carried_text(one.argv) is not None for one in line):
        return False
    return line[-1].pid == found.root.pid or _identity(line[-1]) in found.programs


def _identity(of: Facts) -> tuple[str, tuple[str, ...]]:
    return of.exe, of.argv
