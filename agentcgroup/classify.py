"""Which class a command belongs to, and which limits that and its hints make.  Pure.

Every limit that comes out of here lies within the session's budget, whatever policy and hint say.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from agentcgroup.command import after_dashes, identity, module, program, shell_text, simple_commands
from agentcgroup.hints import Hint
from agentcgroup.model import MIB, CommandClass, Kind, Limits
from agentcgroup.policy import ClassRule, LimitsRule, Policy

SMALLEST_BUDGET_BYTES = 64 * MIB
"""Below this, not even an agent's idle runtime and one shell fit."""
_LEAST_RESERVE_BYTES = 128 * MIB
"""What an agent's own cap leaves for a call, in a session that has room: a shell with a small test or compiler run."""
SMALLEST_LIMIT_BYTES = 8 * MIB
"""No call gets less: the shell around a command alone needs a few MiB."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How a session's memory is split, in bytes.

    ``tools_high`` is where tool calls together are at their limit; ``tools_max`` the kernel's
    backstop above it; ``agent_low`` is protected for the agent's runtime, ``agent_max`` its cap.
    """

    session: int
    tools_high: int
    tools_max: int
    agent_low: int
    agent_max: int


def amount(value: float | int, whole: int) -> int:
    """Bytes of an amount of the policy: a share (float) of ``whole``, or bytes (int)."""
    return int(value * whole) if isinstance(value, float) else value


def grace(limit: int) -> int:
    """Room between a call's limit and the kernel's kill, in bytes.

    At 3 GB/s (the fastest recorded burst) 16 MiB last 5 ms, and ``memory.high`` slows the call long
    before the room is used up.
    """
    return max(16 * MIB, limit // 8)


def split_budget(policy: Policy, session_bytes: int) -> Budget:
    """Split a session's budget between the agent's protected baseline and the tool calls."""
    rule = policy.session.agent
    reserve = min(max(session_bytes // 16, _LEAST_RESERVE_BYTES), session_bytes // 4)
    agent_max = session_bytes - reserve if rule.memory_max is None else amount(rule.memory_max, session_bytes)
    agent_low = min(rule.baseline, session_bytes // 4)
    tools_max = session_bytes - agent_low
    return Budget(
        session=session_bytes,
        tools_high=max(tools_max - grace(tools_max), tools_max // 2),
        tools_max=tools_max,
        agent_low=agent_low,
        agent_max=max(agent_low, min(agent_max, session_bytes)),
    )


def classify(policy: Policy, budget: Budget, argv: Sequence[str], kind: Kind = "tool") -> CommandClass:
    """The class of a command.

    A line that runs several programs gets the class of the one that is granted most memory (an
    unrecognised program counts as ``default``): erring on the side of letting it run.  ``kind``
    is what the boundary rules say it is.  The class of a helper counts for its program alone, not for a
    command that names it.
    """
    by_class = shell_text(argv) is None  # what a text runs is the model's, whatever its class
    found = [_resolve(policy, budget, rule, why, kind, by_class) for rule, why in _matches(policy, argv)]
    tools = [one for one in found if one.kind == "tool"] or found
    return max(tools, key=lambda one: one.limits.memory_high_bytes)


def _matches(policy: Policy, argv: Sequence[str]) -> list[tuple[ClassRule | None, str]]:
    """The rule of each program of the command; what is only glue beside others counts where a class names it."""
    found: list[tuple[ClassRule | None, str]] = []
    for words in simple_commands(argv):
        rule, name = _rule_of(policy, tuple(words))
        if rule is None and words[0] in _GLUE:
            continue
        found.append((rule, f"classes: {rule.name} (program {name})" if rule else f"default ({name or 'no program'})"))
    return found or [(None, "default (no program)")]


_GLUE = frozenset(
    [
        "cd",
        "echo",
        "export",
        "source",
        ".",
        "true",
        "false",
        ":",
        "set",
        "test",
        "[",
        "exit",
        "shopt",
        "unset",
        "unalias",
        "alias",
        "trap",
        "pwd",
        "printf",
        "sleep",
        "wait",
        "read",
        "local",
        "return",
        "umask",
        "ulimit",
        "declare",
        "typeset",
        "readonly",
        "break",
        "continue",
        "shift",
        "eval",
        "pgrep",
        "xargs",
    ]
)

_LONGEST_ARGUMENTS = 1000
"""Characters of a command's arguments that a policy's expression sees."""


def is_known_command(policy: Policy, argv: Sequence[str]) -> bool:
    """Whether a class of the policy has the program itself (no shell is looked into)."""
    return bool(argv) and _rule_of(policy, tuple(argv))[0] is not None


def _rule_of(policy: Policy, words: tuple[str, ...]) -> tuple[ClassRule | None, str]:
    """The first class that has the program; what an unknown helper starts after ``--`` counts where the helper itself has no class."""
    found = _rule_of_program(policy, words)
    if found[0] is None and (inner := after_dashes(words)):
        behind = _rule_of_program(policy, tuple(inner))
        return behind if behind[0] else found
    return found


def _rule_of_program(policy: Policy, words: tuple[str, ...]) -> tuple[ClassRule | None, str]:
    """By name, with ``python -m NAME`` and versions seen as NAME, or by the expression of what the program is (``identity``)."""
    name, arguments = program(words), words[1:]
    names = [name, re.sub(r"[\d.]+$", "", name)]
    if (inner := module(words)) is not None:
        names, arguments = [inner[0].split(".")[0]], tuple(inner[1:])
    who = identity(words)[:_LONGEST_IDENTITY]
    text = " ".join(arguments[:100])[:_LONGEST_ARGUMENTS]
    for rule in policy.classes:
        if rule.regex and re.search(rule.regex, who):
            return rule, f"{who} as {rule.regex!r}"
        known = next((one for one in names if one in rule.programs), None)
        if known and (rule.args is None or re.search(rule.args, text)):
            return rule, known
    return None, names[0]


_LONGEST_IDENTITY = 300


def _resolve(policy: Policy, budget: Budget, rule: ClassRule | None, why: str, kind: Kind, by_class: bool) -> CommandClass:
    own = rule.limits if rule else LimitsRule()
    on = rule.on_limit if rule else None
    base, fallback = policy.default, policy.default_on_limit
    memory = amount(base.memory if own.memory is None else own.memory, budget.tools_high)
    high, top = memory_limits(budget, memory)
    limits = Limits(
        memory_high_bytes=high,
        memory_max_bytes=top,
        swap_max_bytes=base.swap if own.swap is None else own.swap,
        processes=own.processes or base.processes,
        cpu_weight=own.cpu_weight or base.cpu_weight,
        cpu_cores=own.cpu_cores or base.cpu_cores,
        time_s=(base.time if own.time is None else own.time) or None,
    )
    return CommandClass(
        name=rule.name if rule else "default",
        rule=why,
        kind=rule.kind if rule and by_class and rule.kind != "tool" else kind,
        limits=limits,
        on_memory=(on and on.memory) or fallback.memory,
        on_time=(on and on.time) or fallback.time,
        on_processes=(on and on.processes) or fallback.processes,
        brake_s=policy.session.brake,
        expected_bytes=rule.expected if rule else None,
    )


@lru_cache(maxsize=256)
def memory_limits(budget: Budget, wanted: int) -> tuple[int, int]:
    """``memory.high`` and ``memory.max`` for a wanted limit: cut to the budget, the grace above it included."""
    high = max(SMALLEST_LIMIT_BYTES, min(wanted, budget.tools_high))
    return high, min(high + grace(high), budget.tools_max)


def apply_hint(policy: Policy, budget: Budget, granted: CommandClass, hint: Hint) -> Limits:
    """The limits of a call of class ``granted`` that declared ``hint``; never beyond the budget."""
    limits = granted.limits
    high, top = limits.memory_high_bytes, limits.memory_max_bytes
    if hint.memory is not None:
        wanted = policy.hints.memory[hint.memory] if isinstance(hint.memory, str) else hint.memory
        high, top = memory_limits(budget, amount(wanted, budget.tools_high))
    return Limits(
        memory_high_bytes=high,
        memory_max_bytes=top,
        swap_max_bytes=limits.swap_max_bytes,
        processes=limits.processes,
        cpu_weight=policy.hints.cpu[hint.cpu] if hint.cpu else limits.cpu_weight,
        cpu_cores=limits.cpu_cores,
        time_s=hint.timeout_s or limits.time_s,
    )


def merge_hints(policy: Policy, budget: Budget, earlier: Hint, later: Hint) -> Hint:
    """Two hints given inside one call: each need counts, so the larger of each.

    A call holds every process of its command, so a later, smaller hint speaks only for a part of it.
    """

    def bytes_of(hint: Hint) -> int:
        wanted = policy.hints.memory[hint.memory] if isinstance(hint.memory, str) else hint.memory
        return -1 if wanted is None else amount(wanted, budget.tools_high)

    return Hint(
        memory=max(earlier, later, key=bytes_of).memory,
        cpu="high" if "high" in (earlier.cpu, later.cpu) else later.cpu or earlier.cpu,
        timeout_s=max(filter(None, (earlier.timeout_s, later.timeout_s)), default=None),
    )
