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
    assert judge(POLICY, child(*program, keeps=True), agent(*parent)).role == "agent"


@pytest.mark.parametrize(
    "launcher", ["npx", "/usr/bin/uv", "sudo", "env", "/sbin/docker-init", "/run/podman-init", "catatonit", "tini", "dumb-init"]
)
def test_what_a_known_launcher_starts_is_the_agent_whatever_its_descriptors(launcher: str) -> None:
    assert judge(POLICY, child("some-agent", keeps=False, sid=99), agent(launcher)).role == "agent"


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
    assert judge(POLICY, facts, agent("python3", "agent.py")).role == "tool"


def test_commands_of_a_script_are_tool_calls_though_they_keep_its_output() -> None:
    for parent in (agent("bash", "-c", "make; ./run"), agent("bash", "script.sh"), agent("bash", role="shell")):
        assert judge(POLICY, child("./thing", keeps=True), parent).role == "tool"


def test_only_one_program_at_a_time_is_the_successor_of_a_launcher() -> None:
    assert judge(POLICY, child("./b", keeps=True), agent("node", "shim.js", successor=5, handed_on=1)).role == "tool"
    assert judge(POLICY, child("./b", keeps=True), agent("node", "shim.js", handed_on=1)).role == "tool"
    restarted = child("node", "shim.js", "--child", keeps=True)
    assert judge(POLICY, restarted, agent("node", "shim.js", handed_on=1)).role == "agent"


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
    assert judge(POLICY, child(*argv), agent("launch-it")).agent == name


@pytest.mark.parametrize(
    "argv", [["cat", "/root/gemini"], ["vim", "/x/codex"], ["bash", "-c", "claude -p x"], ["grep", "-r", "claude "]]
)
def test_an_agents_name_in_an_argument_makes_no_agent(argv: list[str]) -> None:
    assert judge(POLICY, child(*argv), agent("python3", "agent.py")).role == "tool"


def test_a_shell_that_an_agent_keeps_is_no_tool_call_but_its_commands_are() -> None:
    verdict = judge(POLICY, child("/bin/bash", "--norc"), agent("python3", "agent.py"))
    assert verdict.role == "shell"
    assert judge(POLICY, child("pytest"), agent("/bin/bash", "--norc", role="shell")).role == "tool"
    assert judge(POLICY, child("bash"), agent("/bin/bash", "--norc", role="shell")).role == "tool"


def test_the_known_agents_own_commands_are_not_tool_calls() -> None:
    claude = agent("claude", known="claude code")
    assert judge(POLICY, child("/usr/bin/rg", "--files"), claude).role == "own"
    assert judge(POLICY, child("/bin/bash", "-c", "rg x"), claude).role == "tool"


def test_a_known_agent_called_by_a_known_agent_as_a_tool_is_a_tool_call() -> None:
    assert judge(POLICY, child("codex", "exec", "x"), agent("claude", known="claude code")).role == "tool"


def runtime(
    *argv: str, known: str | None = None, exe: str = "", names: frozenset[str] = frozenset({"PATH", "HOME"})
) -> AgentProcess:
    return AgentProcess(1, argv, 10, Verdict("agent", "", known), exe=exe, names=names)


def started(*argv: str, streams: str = "nnn", lead: bool = True, exe: str = "/usr/bin/x", more: Sequence[str] = ()) -> Facts:
    """A program that an agent started: ``streams`` is a letter each (p: a pipe of its own, s: a socket, n: /dev/null, t: the terminal)."""
    kinds = {"p": "pipe:[7{}]", "s": "socket:[8{}]", "n": "/dev/null", "t": "/dev/pts/1"}
    named = [kinds[letter].format(number) for number, letter in enumerate(streams)]
    return Facts(
        2, 1, 2 if lead else 10, argv, "/", False, exe, (named[0], named[1], named[2]), frozenset({"PATH", "HOME", *more})
    )


def test_a_runtime_that_a_known_agent_starts_is_the_agent_whatever_its_streams_and_its_session() -> None:
    server = started("/opt/x/codex", "app-server", streams="ppp")
    assert judge(POLICY, server, runtime("codex", known="codex")).agent == "codex"
    by_script = started("/usr/bin/env", "node", "/lib/@openai/codex/bin/codex.js", "app-server", streams="ppp")
    assert judge(POLICY, by_script, runtime("codex", known="codex")).agent == "codex"


@pytest.mark.parametrize("streams", ["ttt", "ppp", "nps"])
def test_a_program_that_starts_itself_again_with_the_same_script_is_the_agent(streams: str) -> None:
    node = runtime("/usr/bin/node", "/x/cli.js", exe="/usr/bin/node")
    again = started(
        "/usr/bin/node", "--max-old-space-size=4096", "/x/cli.js", "second", streams=streams, lead=False, exe="/usr/bin/node"
    )
    assert judge(POLICY, again, node).role == "agent"
    native = started("/opt/agent", "serve", streams=streams, exe="/opt/agent")
    assert judge(POLICY, native, runtime("agent", exe="/opt/agent")).role == "agent"


@pytest.mark.parametrize(
    "argv",
    [
        ("/usr/bin/node", "/x/other.js"),
        ("/usr/bin/node", "-e", "1"),
        ("/proc/self/exe", "--sandbox", "--", "/bin/bash", "-lc", "make"),
        ("/proc/self/exe", "--sandbox", "bash", "-c", "make"),
    ],
)
def test_another_script_or_a_sandbox_around_a_shell_is_no_second_start(argv: tuple[str, ...]) -> None:
    parent = runtime("/usr/bin/node", "/x/cli.js", exe="/usr/bin/node")
    assert judge(POLICY, started(*argv, exe="/usr/bin/node"), parent).role != "agent"


def test_variables_that_only_the_models_commands_have_tell_them_from_the_agents_own() -> None:
    parent = runtime("agent")
    assert judge(POLICY, started("git", "status", lead=False), parent).role == "tool"  # no sign yet
    for text in ("make", "make test"):
        assert judge(POLICY, started("bash", "-c", text, more=["AGENT_X", "PAGER"]), parent).role == "tool"
    assert judge(POLICY, started("git", "status", lead=False), parent).role == "own"
    assert judge(POLICY, started("sh", "-c", "ps aux | grep x", lead=False), parent).role == "own"
    assert judge(POLICY, started("make", more=["AGENT_X"]), parent).role == "tool"


def test_what_housekeeping_has_is_no_sign_where_the_models_commands_lead_sessions_without_it() -> None:
    parent = runtime("agent")
    assert judge(POLICY, started("sh", "-c", "git poll", lead=False, more=["POLL_X"]), parent).role == "tool"
    assert judge(POLICY, started("bash", "-lc", "make"), parent).role == "tool"
    assert judge(POLICY, started("bash", "-lc", "make test"), parent).role == "tool"
    assert parent.habits.known().variables == frozenset()
    assert judge(POLICY, started("sh", "-c", "git poll", lead=False, more=["POLL_X"]), parent).role == "own"


def test_general_variables_are_nobodys_sign() -> None:
    parent = runtime("agent")
    for text in ("make", "make test", "make install"):
        judge(POLICY, started("bash", "-c", text, more=["GIT_PAGER", "NO_COLOR", "LC_ALL", "TERM"]), parent)
    assert parent.habits.known().variables == frozenset()


def test_without_a_sign_a_shell_with_a_text_is_the_models_and_a_bare_program_the_agents_own_if_it_starts_such_shells() -> None:
    parent = runtime("agent")
    assert judge(POLICY, started("pytest"), parent).role == "tool"
    for text in ("make", "make test"):
        assert judge(POLICY, started("bash", "-lc", text), parent).role == "tool"
    assert judge(POLICY, started("git", "status", lead=False), parent).role == "own"
    # Its shell has become it before anybody looked.
    assert judge(POLICY, started("pytest"), parent).role == "tool"


def test_the_policys_variables_count_from_the_first_command_on_that_has_one() -> None:
    parent = runtime("claude", known="claude code")
    text = ("bash", "-c", "source /x/snapshot-bash-1.sh && eval 'make'")
    assert judge(POLICY, started(*text), parent).role == "tool"
    assert judge(POLICY, started(*text, more=["CLAUDE_CODE_CHILD_SESSION"]), parent).role == "tool"
    assert judge(POLICY, started("bash", "-c", "env"), parent).role == "own"


def test_who_is_talked_with_over_pipes_is_the_agents_own_whatever_its_name_and_variables() -> None:
    parent = runtime("claude", known="claude code")
    for argv in (("python3", "/x/mcp.py"), ("npx", "-y", "some-server"), ("gopls",)):
        assert judge(POLICY, started(*argv, streams="ppp", more=["CLAUDECODE"]), parent).role == "own"
    assert judge(POLICY, started("bash", "-c", "gopls", streams="ppp", more=["CLAUDECODE"]), parent).role == "tool"


def test_what_is_fed_to_an_agents_shell_never_becomes_the_agent() -> None:
    kept = AgentProcess(3, ("bash",), 3, Verdict("shell", "a shell that agent keeps", fed=True))
    assert judge(POLICY, started("claude", "-p", "x"), kept).role == "tool"


def test_each_agent_that_a_script_starts_is_one() -> None:
    script = agent("bash", "loop.sh")
    for _ in range(3):
        assert judge(POLICY, started("./claude", "-p", "x"), script).agent == "claude code"
