"""Which process is the agent, and whose command a call is.  Pure: facts in, verdicts out.

**The agent.**  A program that a process of the agent domain started belongs to the agent, in this order:

1. A known agent's runtime (policy ``agents``): started by the same agent, by a launcher or by a script.  Its streams and its
   session do not matter: some agents run everything in a server that they start with streams of its own.
2. The program that started it, with the same script, once more: a runtime that re-executes itself, or starts a server mode of
   itself.  Not when its arguments hold a command for a shell: that is a sandbox around a call.
3. Its parent is a *launcher*: a program of the policy's ``launchers`` (npx, uv, sudo, ...), or a shell
   whose text runs one single program, which kept the session's stdout and stderr.
4. Its parent, no shell and no known agent, handed on the session's stdout and stderr (the very same open files: kcmp; or the same terminal,
   which Node opens anew once it has looked at it), in the same terminal session, to one program that is neither ``sh -c`` nor in a class of the policy (git, compilers, ...), and has
   no other such child: a shim.  A parent whose first such child ended and which starts another program is no launcher.
5. A shell without text or script, started by an agent: a persistent shell.  It stays in the agent domain, and each program
   that it starts is the model's.

A wrong guess is mended when the evidence comes (``evidence``): a "call" that starts captured shells as agents do is the agent.

**Whose command.**  Everything else is a call with a leaf of its own.  Whose it is decides what is counted and shown:

6. The known agent's own housekeeping (policy ``own``): ``own``.
7. A program, no shell's text, whose stdin and stdout both lead to somebody who talks with it: the agent's own, and a ``helper`` when it
   stays (``HELPER_AFTER_S``): an MCP or language server.  What its name or its variables say does not matter.
8. The *sign*: variables that the agent gives to the model's commands only.  Of a known agent the policy names them
   (``calls: environment``), and they count from the first command on that has one.  Of another, they are variables that several
   shells with a text got, that the agent itself does not have and its bare programs do not get; general ones (PAGER, GIT_..., LANG) are
   left out.  With it a command is the model's (``tool``), without it the agent's own.
9. Where there is no sign: a shell with a text is the model's.  Where some of them lead sessions of their own, the others are the agent's
   own; else where several run in another shell than ``sh``, those that ``sh`` runs are.  A bare program is the agent's own if this
   agent starts shells with text (save one that leads a session: its shell has become it), else the model's.

A program may be over, or may have become another, before anybody reads /proc: its arguments are then what the kernel told at its start
(the BPF monitor does, up to 2 KiB).  Of one that is over, nothing else is known: a shell's text is the model's if it is within what
the policy knows the agent to put around it (``unwrap``).  Where not even the arguments are known, it is the agent's own if this agent
starts bare programs beside its shells, else the model's.

A program that starts a shell with a text (a sandbox) counts as that shell.  8 and 9 are decided again for earlier commands when more
of the agent's habits is known (``habits``), and for a command whose root becomes another program, by the variables that it has then.
"""

import re
import shlex
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

from agentcgroup.classify import is_known_command
from agentcgroup.command import SHELLS, carried_text, external_commands, is_waiting_shell, program, shell_text
from agentcgroup.habits import Habits, Shape
from agentcgroup.habits import whose as whose_by_habit
from agentcgroup.model import Kind
from agentcgroup.policy import AgentRule, Policy
from agentcgroup.process import Facts

Role = Literal["agent", "shell"] | Kind

HELPER_AFTER_S = 10.0
"""A program that somebody talks with over pipes, and that lives this long, is a server; git and ripgrep with a pipe are not."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a new program is, and by which rule; ``agent`` names a known agent.

    ``again``: a program that started itself once more.  ``fed``: a shell that an agent keeps to give it the model's commands.  ``sure``: the rule does not depend on what this agent
    does later.
    """

    role: Role
    why: str
    agent: str | None = None
    fed: bool = False
    sure: bool = True
    again: bool = False

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
    exe: str = ""
    names: frozenset[str] = frozenset()
    habits: Habits = field(default_factory=Habits)
    starter: "AgentProcess | None" = None
    """The process of the agent that started it, where it is the agent by a rule and not by what ``run`` was told."""


def first_verdict(policy: Policy, argv: tuple[str, ...]) -> Verdict:
    """The verdict on the program that ``run`` itself started: always the agent domain."""
    known = _known(policy, argv)
    if known:
        return Verdict("agent", f"known agent {known.name}", known.name)
    return Verdict("shell" if is_waiting_shell(argv) else "agent", "started by run")


def judge(policy: Policy, child: Facts, parent: AgentProcess) -> Verdict:
    """The verdict on a program that ``parent``, a process of the agent domain, started."""
    if parent.verdict.fed:
        return Verdict("tool", f"fed to the shell that {parent.verdict.why}")
    if (agent := _agent(policy, child, parent)) is not None:
        return agent
    if is_waiting_shell(child.argv) and not child.argv[0].startswith("-") and parent.verdict.role == "agent":
        launcher = program(parent.argv) in SHELLS or program(parent.argv) in policy.launchers
        return Verdict("shell", f"a shell that {program(parent.argv)} keeps to feed it commands", fed=not launcher)
    return whose(policy, child, parent)


def _agent(policy: Policy, child: Facts, parent: AgentProcess) -> Verdict | None:
    """The verdict on a child that is the agent too (rules 1 to 4)."""
    if carried_signs(policy, child.names, parent):
        return None  # whatever the model has its agent start is a call
    known = _known(policy, child.argv)
    if known and parent.verdict.agent in (None, known.name):
        return Verdict("agent", f"known agent {known.name}", known.name)
    if _is_same_program(child, parent):
        return Verdict("agent", f"{program(parent.argv)} once more", parent.verdict.agent, again=True)
    if not parent.verdict.agent and (why := _launched(policy, child, parent)):
        return Verdict("agent", why)
    return None


def _launched(policy: Policy, child: Facts, parent: AgentProcess) -> str | None:
    """Why the child continues the launch of the agent (rules 3 and 4); None when it doesn't."""
    name = program(parent.argv)
    if name in policy.launchers:
        return f"started by the launcher {name}"
    if not (child.keeps_stdio and child.sid == parent.sid):
        return None
    if name in SHELLS:
        text = shell_text(parent.argv)
        alone = text is not None and len(external_commands(text)) == 1
        return f"the one program that {name} -c runs" if alone else None
    if program(child.argv) in SHELLS or is_known_command(policy, child.argv):
        return None
    again = parent.handed_on > 0 and child.argv[:2] != parent.argv[:2]
    if parent.successor is not None or again:
        return None
    return f"{name} handed its output on to it"


def _is_same_program(child: Facts, parent: AgentProcess) -> bool:
    """Whether a program started itself: the same file, and the same script where it is an interpreter.

    A sandbox that an agent brings along is often the agent's own file: what it is to run stands in its arguments.
    """
    if not child.exe or child.exe != parent.exe or parent.verdict.role != "agent":
        return False
    name = program(child.argv)
    if name in SHELLS or any(program((word,)) in SHELLS for word in child.argv[1:]):
        return False
    script = script_of(child.argv)
    if script is None:
        return name in (program(parent.argv), "exe") and not any(word == "--" for word in child.argv)
    return script != "" and script == script_of(parent.argv)


def whose(policy: Policy, child: Facts, parent: AgentProcess) -> Verdict:
    """Whose command it is (rules 6 to 9); what is learnt of the agent's habits is kept in ``parent.habits``."""
    rule, habits, shape = _rule_of(policy, parent), parent.habits, shape_of(child, parent.names)
    talks = shape.text is None and child.is_piped
    if talks:
        habits.saw_program()
    else:
        habits.learn(shape)
    line = shlex.join(child.argv[:_MOST_WORDS])[:_LONGEST_LINE]
    if rule and any(re.search(pattern, line) for pattern in rule.own):
        return Verdict("own", f"own command of {rule.name}")
    if rule and any(re.search(pattern, line) for pattern in rule.helpers):
        return Verdict("helper", f"helper of {rule.name}")
    wraps = rule.unwrap if rule and shape.text is not None and child.has_ended else []
    if wraps and not any(re.search(pattern, shape.text or "") for pattern in wraps):
        return Verdict("own", "without what the agent puts around the model's commands, and over before more could be looked at")
    if talks:
        role: Role = "own" if habits.starts_shells or parent.verdict.agent else "tool"
        return Verdict(role, f"{program(parent.argv)} talks with it", sure=False)
    if carried_signs(policy, child.names, parent):
        # Not before one is seen: a later version of the agent may have others.
        habits.named = frozenset(rule.calls.environment) if rule else frozenset()
    if shape.text is None and not is_known_command(policy, child.argv):
        habits.programs += 1
    return Verdict(*whose_by_habit(habits.known(), shape), sure=False)


_LONGEST_LINE, _MOST_WORDS = 4096, 200
"""Characters and words of a command line that patterns see."""


def shape_of(child: Facts, agents_names: Collection[str]) -> Shape:
    """What of a command shows whose it is; ``agents_names`` are the variables that the agent itself has."""
    inherits = "PATH" in child.names or "PATH" not in agents_names
    return Shape(program(child.argv), carried_text(child.argv), child.leads_session, child.names - set(agents_names), inherits)


def carried_signs(policy: Policy, names: Collection[str], parent: AgentProcess) -> frozenset[str]:
    """Of the variables that the policy says only the model's commands of this agent have, those that are among ``names``."""
    rule = _rule_of(policy, parent)
    return (frozenset(rule.calls.environment) & frozenset(names)) - parent.names if rule else frozenset()


def _rule_of(policy: Policy, parent: AgentProcess) -> AgentRule | None:
    return next((one for one in policy.agents if one.name == parent.verdict.agent), None)


def _known(policy: Policy, argv: tuple[str, ...]) -> AgentRule | None:
    """The known agent whose runtime this is.  A shell's text may name an agent without being one."""
    while program(argv) == "env" and len(argv) > 1:  # as in a script's first line: env finds the interpreter, and becomes it
        argv = argv[1:]
    if program(argv) in SHELLS or program(argv) in policy.launchers:
        return None
    line = " ".join(_identity(argv))[:_LONGEST_LINE]
    return next((rule for rule in policy.agents if re.search(rule.runtime, line)), None)


_INTERPRETER = re.compile(r"node|nodejs|bun|deno|(python|pypy)[\d.]*")


def _identity(argv: tuple[str, ...]) -> tuple[str, ...]:
    """The words that say which program this is: the program, and an interpreter's script or module.

    The arguments after them may name any file, agents' included.
    """
    if not _INTERPRETER.fullmatch(program(argv)):
        return argv[:1]
    script = next((at for at, word in enumerate(argv[1:], 1) if not word.startswith("-")), 0)
    return argv[: script + 1]


def script_of(argv: tuple[str, ...]) -> str | None:
    """The script or module that an interpreter runs, empty if it runs none; None for what is no interpreter."""
    if not _INTERPRETER.fullmatch(program(argv)):
        return None
    at = next((at for at, word in enumerate(argv[1:], 1) if not word.startswith("-")), 0)
    return argv[at] if at and argv[at - 1] not in ("-c", "-e", "-p", "--eval", "--print") else ""
