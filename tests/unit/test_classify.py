"""Classes and limits: the right class, and never more than the budget."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentcgroup.classify import (
    SMALLEST_BUDGET_BYTES,
    SMALLEST_LIMIT_BYTES,
    apply_hint,
    classify,
    grace,
    merge_hints,
    split_budget,
)
from agentcgroup.hints import Hint
from agentcgroup.policy import load_policy, parse_policy

POLICY = load_policy()
BUDGETS = st.integers(SMALLEST_BUDGET_BYTES, 1 << 44).map(lambda size: split_budget(POLICY, size))
HINTS = st.builds(
    Hint,
    memory=st.none() | st.sampled_from(["low", "medium", "high"]) | st.integers(1 << 20, 1 << 50),
    cpu=st.sampled_from([None, "low", "high"]),
    timeout_s=st.none() | st.floats(0.1, 1e5),
)
COMMANDS = st.lists(
    st.sampled_from(["pytest", "git", "ls", "pip install x", "gcc a.c", "./x", "cd y", "python3 -m pytest"]), min_size=1
).map(lambda parts: ["bash", "-c", " && ".join(parts)])


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        (["bash", "-c", "cd x && pip install -q y && pytest -x"], "test"),
        (["/bin/sh", "-c", "python3.12 -m pytest tests"], "test"),
        (["npm", "test"], "test-of-build-tool"),
        (["npm", "ci"], "install"),
        (["make", "-j4"], "build"),
        (["bash", "-lc", "git log | head"], "git"),
        (["bash", "-c", "grep -r x . | sort | uniq -c"], "explore"),
        (["bash", "-c", "grep -r x . && ./unknown"], "default"),
        (["node", "/x/pyright-langserver", "--stdio"], "language-server"),
        (["sh", "-c", "cd /only"], "default"),
        ([], "default"),
    ],
)
def test_a_command_gets_the_class_of_its_most_demanding_program(argv: list[str], name: str) -> None:
    assert classify(POLICY, split_budget(POLICY, 2 << 30), argv).name == name


def test_a_helper_is_not_a_tool_call() -> None:
    budget = split_budget(POLICY, 2 << 30)
    assert classify(POLICY, budget, ["gopls"]).kind == "helper"
    assert classify(POLICY, budget, ["git", "status"], "helper").kind == "helper"
    assert classify(POLICY, budget, ["git", "status"]).kind == "tool"


@given(BUDGETS)
def test_the_budget_is_split_without_a_rest_or_an_overdraft(budget):  # type: ignore[no-untyped-def]
    assert budget.tools_max + budget.agent_low <= budget.session
    assert 0 < budget.tools_high <= budget.tools_max
    assert budget.agent_low <= budget.agent_max <= budget.session


@given(BUDGETS, COMMANDS, HINTS)
def test_no_command_and_no_hint_gets_more_than_the_budget(budget, argv, hint):  # type: ignore[no-untyped-def]
    granted = classify(POLICY, budget, argv)
    for limits in (granted.limits, apply_hint(POLICY, budget, granted, hint)):
        assert limits.memory_high_bytes <= max(budget.tools_high, SMALLEST_LIMIT_BYTES)
        assert limits.memory_max_bytes <= budget.tools_max
        assert limits.memory_high_bytes <= limits.memory_max_bytes
        assert limits.memory_max_bytes - limits.memory_high_bytes <= grace(limits.memory_high_bytes)


@given(BUDGETS, HINTS, HINTS)
def test_a_second_hint_in_a_call_never_takes_away_what_the_first_declared(budget, first, second):  # type: ignore[no-untyped-def]
    granted = classify(POLICY, budget, ["./x"])
    merged = merge_hints(POLICY, budget, first, second)
    if first.memory is not None:
        one = apply_hint(POLICY, budget, granted, Hint(memory=first.memory))
        assert apply_hint(POLICY, budget, granted, merged).memory_high_bytes >= one.memory_high_bytes
    assert (merged.timeout_s or 0) >= (first.timeout_s or 0)


def test_a_hint_raises_and_lowers_within_the_budget() -> None:
    budget = split_budget(POLICY, 2 << 30)
    granted = classify(POLICY, budget, ["./x"])
    high = apply_hint(POLICY, budget, granted, Hint(memory="high"))
    low = apply_hint(POLICY, budget, granted, Hint(memory="low", cpu="low", timeout_s=9))
    assert low.memory_high_bytes < granted.limits.memory_high_bytes < high.memory_high_bytes == budget.tools_high
    assert (low.cpu_weight, low.time_s) == (25, 9)


def test_absolute_limits_and_first_match_win() -> None:
    policy = parse_policy(
        "version: 1\nclasses:\n  - {name: a, programs: [x], args: '^-b', limits: {memory: 100M, time: 5s, processes: 7, cpu_cores: 0.5}}\n"
        "  - {name: b, programs: [x], limits: {memory: 50M}}\n", "p")  # fmt: skip
    budget = split_budget(policy, 1 << 30)
    first = classify(policy, budget, ["x", "-b"])
    assert first.name == "a"
    assert (first.limits.memory_high_bytes, first.limits.time_s, first.limits.processes, first.limits.cpu_cores) == (
        100 << 20,
        5,
        7,
        0.5,
    )
    assert classify(policy, budget, ["x"]).name == "b"


@pytest.mark.parametrize("argv", [("sleep", "30"), ("sh", "-c", "exec sleep 30"), ("bash", "-c", "cd /x; sleep 30; echo done")])
def test_what_is_glue_beside_others_has_its_class_where_the_policy_names_it(argv: tuple[str, ...]) -> None:
    policy = parse_policy("version: 1\nclasses:\n  - {name: slow, programs: [sleep], limits: {time: 1s}}\n", "p")
    assert classify(policy, split_budget(policy, 1 << 30), argv).name == "slow"
    assert classify(POLICY, split_budget(POLICY, 1 << 30), ("bash", "-c", "sleep 1; git status")).name == "git"
