"""``agentcgroup policy explain``: what a policy means for one command."""

from collections.abc import Sequence
from pathlib import Path

from agentcgroup.boundary import AgentProcess, Verdict, judge
from agentcgroup.classify import apply_hint, classify
from agentcgroup.command import display, simple_commands, unwrap
from agentcgroup.errors import AgentCgroupError
from agentcgroup.habits import Habits, Shape
from agentcgroup.hints import parse_hint
from agentcgroup.policy import Policy, load_policy
from agentcgroup.process import Facts
from agentcgroup.session.embedded import session_budget
from agentcgroup.text import LONGEST_LINE, clean
from agentcgroup.units import format_duration, format_size


def explain(
    argv: tuple[str, ...],
    policy_file: Path | None,
    memory: str | None,
    hint_text: str,
    agent: str = "",
    environment: Sequence[str] = (),
) -> int:
    """Print class, rule and limits of a command, and whose it is where ``agent`` starts it; returns the exit code."""
    if not argv:
        raise AgentCgroupError("no command", do="agentcgroup policy explain -- CMD...")
    hint, complaints = parse_hint(hint_text)
    if complaints:
        raise AgentCgroupError("bad hint", "; ".join(complaints), "for example --hint memory:high")
    policy = load_policy(policy_file)
    budget = session_budget(policy, memory)
    found = unwrap(argv, tuple(pattern for agent in policy.agents for pattern in agent.unwrap))
    granted = classify(policy, budget, found.argv)
    classes = [(words, classify(policy, budget, words)) for words in simple_commands(found.argv)]
    limits = apply_hint(policy, budget, granted, hint)
    none = "none"
    rows = {
        "command": found.command + (f" ({', then '.join(found.steps)})" if found.steps else ""),
        "programs": ", ".join(f"{display(words[:1])}: {one.name}" for words, one in classes) or none,
        "class": granted.name + (" (a helper: not counted as a tool call)" if granted.kind == "helper" else ""),
        "rule": granted.rule + (f", hint {hint_text}" if hint else ""),
        "memory": f"{format_size(limits.memory_high_bytes)}, then {granted.on_memory} (the kernel's own limit: {format_size(limits.memory_max_bytes)})",
        "swap": none if limits.swap_max_bytes is None else format_size(limits.swap_max_bytes),
        "processes": f"{limits.processes or none}, then {granted.on_processes}",
        "time": f"{format_duration(limits.time_s)}, then {granted.on_time}" if limits.time_s else none,
        "cpu": f"weight {limits.cpu_weight}" + (f", at most {limits.cpu_cores:g} cores" if limits.cpu_cores else ""),
        "of": f"{format_size(budget.tools_high)} for tool calls in a session of {format_size(budget.session)}",
    }
    if agent:
        rows["whose"] = _whose(policy, argv, agent, environment)
    for key, value in rows.items():
        print(f"{key:10} {clean(value, LONGEST_LINE)}")
    return 0


_WHOSE = {
    "tool": "the model's call", "own": "the agent's own command", "helper": "a server of the agent",
    "agent": "the agent itself", "shell": "a shell that the agent feeds commands",
}  # fmt: skip


def _whose(policy: Policy, argv: tuple[str, ...], agent: str, environment: Sequence[str]) -> str:
    """What the command is when this agent starts it with its output captured and these variables in its environment."""
    rule = next((one for one in policy.agents if one.name == agent), None)
    if rule is None:
        known = ", ".join(one.name for one in policy.agents) or "none"
        raise AgentCgroupError(f"no agent {agent!r} in the policy", do=f"known agents: {known}")
    habits = Habits()
    for text in ("1", "2", "3"):  # of an agent that has started some of the model's commands
        habits.learn(Shape("bash", text, True, frozenset()))
    if environment and rule.calls.environment:
        habits.named = frozenset(rule.calls.environment)
    parent = AgentProcess(1, (agent,), 1, Verdict("agent", f"known agent {agent}", agent), habits=habits)
    child = Facts(2, 1, 2, argv, "/", keeps_stdio=False, names=frozenset(environment))
    verdict = judge(policy, child, parent)
    return f"{_WHOSE[verdict.role]} ({verdict.why})"
