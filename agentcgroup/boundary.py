"""Which process is the agent, and where a tool call begins.  Pure: facts in, verdicts out.

The rules, in order, for a program that a process of the agent domain started:

1. It matches a known agent's runtime (policy ``agents``) and no runtime was found yet, or its parent
   is that runtime and it kept the session's stdout and stderr (a runtime that re-executes itself).
2. Its parent is a *launcher*: a program of the policy's ``launchers`` (npx, uv, sudo, ...), or a shell
   whose text runs one single program, which kept the session's stdout and stderr.
3. Its parent, no shell, handed on the session's stdout and stderr (the very same open files: kcmp), in
   the same terminal session, to one program that is neither ``sh -c`` nor in a class of the policy
   (git, compilers, ...), and has no other such child: a shim or a re-execution.  Launchers pass their output on; tool calls are captured, for the agent
   must read what they say.  A parent whose first such child ended and which starts another program is
   no launcher (those end with their child): its later children are tool calls.
4. It is a shell without text or script, started by an agent: a persistent shell.  It stays in the agent
   domain, and each program it starts is a tool call.
5. It matches a helper of the known agent: a leaf of its own, not counted as a tool call.
6. Everything else is a tool call.

1 to 3 are the agent.  Where they are wrong for an agent, one line under ``agents`` in the policy
puts it right, and the summary shows what was taken for the agent and why.
"""

import re
import shlex
from dataclasses import dataclass
from typing import Literal

from agentcgroup.command import SHELLS, external_commands, is_waiting_shell, program, shell_text
from agentcgroup.model import Kind
from agentcgroup.policy import AgentRule, Policy
from agentcgroup.process import Facts

Role = Literal["agent", "shell"] | Kind


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a new program is, and by which rule; ``agent`` names a known agent."""

    role: Role
    why: str
    agent: str | None = None

    @property
    def kind(self) -> Kind:
        """What a call with this verdict is."""
        match self.role:
            case "agent" | "shell":
                return "tool"
            case kind:
                return kind


@dataclass(slots=True)
class AgentProcess:
    """A process of the agent domain: its latest program, and how it came to be there.

    ``successor`` is the pid that it handed its output on to, if it is a launcher; ``handed_on`` counts.
    """

    pid: int
    argv: tuple[str, ...]
    sid: int
    verdict: Verdict
    successor: int | None = None
    handed_on: int = 0


def first_verdict(policy: Policy, argv: tuple[str, ...]) -> Verdict:
    """The verdict on the program that ``run`` itself started: always the agent domain."""
    known = _known(policy, argv)
    if known:
        return Verdict("agent", f"known agent {known.name}", known.name)
    return Verdict("shell" if is_waiting_shell(argv) else "agent", "started by run")


def judge(policy: Policy, child: Facts, parent: AgentProcess, runtime_found: bool) -> Verdict:
    """The verdict on a program that ``parent``, a process of the agent domain, started."""
    known = _known(policy, child.argv)
    inherits = child.keeps_stdio and child.sid == parent.sid
    if known and (not runtime_found or (parent.verdict.agent == known.name and inherits)):
        return Verdict("agent", f"known agent {known.name}", known.name)
    if not runtime_found or not parent.verdict.agent:
        why = _launched(policy, child, parent, inherits)
        if why:
            return Verdict("agent", why)
    if is_waiting_shell(child.argv) and parent.verdict.role == "agent":
        return Verdict("shell", f"a shell that {program(parent.argv)} keeps to feed it commands")
    rule = next((one for one in policy.agents if one.name == parent.verdict.agent), None)
    line = shlex.join(child.argv[:200])[:4096]
    if rule and any(re.search(pattern, line) for pattern in rule.own):
        return Verdict("own", f"a command of {rule.name} itself")
    if rule and any(re.search(pattern, line) for pattern in rule.helpers):
        return Verdict("helper", f"helper of {rule.name}")
    return Verdict("tool", f"started by {program(parent.argv)}")


def _launched(policy: Policy, child: Facts, parent: AgentProcess, inherits: bool) -> str | None:
    """Why the child continues the launch of the agent (rules 2 and 3); None when it doesn't."""
    name = program(parent.argv)
    if name in policy.launchers:
        return f"started by the launcher {name}"
    if not inherits:
        return None
    if name in SHELLS:
        text = shell_text(parent.argv)
        alone = text is not None and len(external_commands(text)) == 1
        return f"the one program that {name} -c runs" if alone else None
    if program(child.argv) in SHELLS or any(program(child.argv) in rule.programs for rule in policy.classes):
        return None
    again = parent.handed_on > 0 and child.argv[:2] != parent.argv[:2]
    if parent.successor is not None or again:
        return None
    return f"{name} handed its output on to it"


def _known(policy: Policy, argv: tuple[str, ...]) -> AgentRule | None:
    """The known agent whose runtime this is.  A shell's text may name an agent without being one."""
    if program(argv) in SHELLS or program(argv) in policy.launchers:
        return None
    line = " ".join(_identity(argv))[:4096]
    return next((rule for rule in policy.agents if re.search(rule.runtime, line)), None)


def _identity(argv: tuple[str, ...]) -> tuple[str, ...]:
    """The words that say which program this is: the program, and an interpreter's script or module.

    The arguments after them may name any file, agents' included.
    """
    if not re.fullmatch(r"node|nodejs|bun|deno|(python|pypy)[\d.]*", program(argv)):
        return argv[:1]
    script = next((at for at, word in enumerate(argv[1:], 1) if not word.startswith("-")), 0)
    return argv[: script + 1]
