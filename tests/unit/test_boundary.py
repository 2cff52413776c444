"""Who is the agent: the launch chains of FACTS, and what must not be taken for one."""

from collections.abc import Sequence

import pytest

from agentcgroup.boundary import AgentProcess, Verdict, first_verdict, judge
from agentcgroup.policy import load_policy
from agentcgroup.process import Facts

POLICY = load_policy()


def agent(
    *argv: str, known: str | None = None, successor: int | None = None, handed_on: int = 0, role: str = "agent"
) -> AgentProcess:
    return AgentProcess(1, argv, 10, Verdict(role, "", known), successor, handed_on)  # type: ignore[arg-type]


def child(*argv: str, keeps: bool = False, sid: int = 10) -> Facts:
    return Facts(2, 1, sid, argv, "/", keeps)


@pytest.mark.parametrize(
    ("parent", "program"),
    [
        (["sh", "-c", "cd /w && python3 agent.py; echo $?"], ["python3", "agent.py"]),
        (["node", "shim.js"], ["/opt/agent-native", "--x"]),
        (["python3", "agent.py"], ["python3", "-X", "utf8", "agent.py"]),
    ],
)
def test_a_launcher_and_what_it_hands_its_output_to_are_the_agent_together(parent: Sequence[str], program: Sequence[str]) -> None:
    assert judge(POLICY, child(*program, keeps=True), agent(*parent), False).role == "agent"


@pytest.mark.parametrize("launcher", ["npx", "/usr/bin/uv", "sudo", "env"])
def test_what_a_known_launcher_starts_is_the_agent_whatever_its_descriptors(launcher: str) -> None:
    assert judge(POLICY, child("some-agent", keeps=False, sid=99), agent(launcher), False).role == "agent"


@pytest.mark.parametrize(
    "facts",
    [
        child("/bin/sh", "-c", "pytest", sid=2),
        child("/bin/sh", "-c", "pytest", keeps=True),
        child("git", "init", keeps=True),
        child("uname", "-m"),
        child("some-program", keeps=True, sid=2),
    ],
)
def test_captured_output_a_shell_a_known_command_or_a_session_of_its_own_is_a_tool_call(facts: Facts) -> None:
    assert judge(POLICY, facts, agent("python3", "agent.py"), False).role == "tool"


def test_commands_of_a_script_are_tool_calls_though_they_keep_its_output() -> None:
    for parent in (agent("bash", "-c", "make; ./run"), agent("bash", "script.sh"), agent("bash", role="shell")):
        assert judge(POLICY, child("./thing", keeps=True), parent, False).role == "tool"


def test_only_one_program_at_a_time_is_the_successor_of_a_launcher() -> None:
    assert judge(POLICY, child("./b", keeps=True), agent("node", "shim.js", successor=5, handed_on=1), False).role == "tool"
    assert judge(POLICY, child("./b", keeps=True), agent("node", "shim.js", handed_on=1), False).role == "tool"
    restarted = child("node", "shim.js", "--child", keeps=True)
    assert judge(POLICY, restarted, agent("node", "shim.js", handed_on=1), False).role == "agent"


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        (["/usr/bin/claude", "-p", "x"], "claude code"),
        (["node", "--no-warnings", "/usr/lib/node_modules/@openai/codex/bin/codex.js"], "codex"),
        (["python3", "/opt/venv/bin/mini", "-t", "x"], "mini-swe-agent"),
        (["python3.12", "-m", "minisweagent.run"], "mini-swe-agent"),
    ],
)
def test_known_agents_are_recognised_by_program_script_or_module(argv: list[str], name: str) -> None:
    assert first_verdict(POLICY, tuple(argv)).agent == name
    assert judge(POLICY, child(*argv), agent("launch-it"), False).agent == name


@pytest.mark.parametrize(
    "argv", [["cat", "/root/gemini"], ["vim", "/x/codex"], ["bash", "-c", "claude -p x"], ["grep", "-r", "claude "]]
)
def test_an_agents_name_in_an_argument_makes_no_agent(argv: list[str]) -> None:
    assert judge(POLICY, child(*argv), agent("python3", "agent.py"), False).role == "tool"


def test_a_shell_that_an_agent_keeps_is_no_tool_call_but_its_commands_are() -> None:
    verdict = judge(POLICY, child("/bin/bash", "--norc"), agent("python3", "agent.py"), False)
    assert verdict.role == "shell"
    assert judge(POLICY, child("pytest"), agent("/bin/bash", "--norc", role="shell"), False).role == "tool"
    assert judge(POLICY, child("bash"), agent("/bin/bash", "--norc", role="shell"), False).role == "tool"


def test_the_known_agents_own_helpers_are_not_tool_calls() -> None:
    runtime = agent("claude", known="claude code")
    assert judge(POLICY, child("/usr/bin/rg", "--files"), runtime, True).role == "own"
    assert judge(POLICY, child("/bin/bash", "-c", "rg x"), runtime, True).role == "tool"


def test_a_known_agent_called_by_a_known_agent_as_a_tool_is_a_tool_call() -> None:
    assert judge(POLICY, child("codex", "exec", "x"), agent("claude", known="claude code"), True).role == "tool"
