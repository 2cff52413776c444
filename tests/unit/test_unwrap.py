"""What agents put around a command, and what reading a text may cost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentcgroup.classify import classify, split_budget
from agentcgroup.command import assignments, identity, key, simple_commands, unwrap
from agentcgroup.policy import load_policy
from agentcgroup.shell_grammar import LONGEST_BYTES, MOST_NODES, MOST_STEPS, Cost, parse

POLICY = load_policy()
BUDGET = split_budget(POLICY, 2 << 30)


def bash(text: str) -> list[str]:
    return ["/bin/bash", "-c", text]


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        (bash("source /r/snapshot-bash-1.sh 2>/dev/null || true && shopt -u extglob && eval 'cd x && pytest | tail' < /dev/null && pwd -P >| /tmp/c-1-cwd"),
         "cd x && pytest | tail"),
        (["/proc/self/exe", "--sandboxed", "{}", "--", "/bin/bash", "-lc", "pytest -x"], "pytest -x"),
        (["/proc/self/exe", "--sandboxed", "x" * 38_000, "/bin/bash", "-lc", "pytest -x"], "pytest -x"),
        (bash("{ pytest -x; }; __code=$?; pgrep -g 0 >/tmp/f 2>&1; exit $__code"), "pytest -x"),
        (bash("shopt -u promptvars nullglob; trap 'rm x' EXIT; pytest -x && ls"), "pytest -x && ls"),
        (bash("bash <<'EOF'\nmake all\nEOF"), "make all"),
        (bash("( cd x && pytest ) 2>&1"), "cd x && pytest"),
        (bash("bash -c -l 'pytest'"), "pytest"),
        (["sh", "-c", "--", "pytest -x"], "pytest -x"),
        (bash("cd x && pytest"), "cd x && pytest"),
        (bash("for i in 1 2; do pytest; done"), "for i in 1 2; do pytest; done"),
        (bash("eval 'never closed"), "eval 'never closed"),
    ],
)  # fmt: skip
def test_the_command_that_the_model_wrote_is_found(argv: list[str], command: str) -> None:
    assert unwrap(argv).command == command


SHIPPED = tuple(pattern for agent in POLICY.agents for pattern in agent.unwrap)


@pytest.mark.parametrize("command", ["ls -la", "echo a | sort; python3 -c 'print(1)'", "cat <<'END'\nit's here\nEND\ngit log"])
def test_the_shipped_policy_takes_off_what_claude_code_and_codex_put_around_a_command(command: str) -> None:
    quoted = "'" + command.replace("'", "'\"'\"'") + "'"
    settings = "{ \\builtin unalias -- 'which'; \\builtin unset -f -- 'which'; } >/dev/null 2>&1 || true"
    opened = "" if "<<" in command else " < /dev/null"
    claude = bash(f"source /h/s.sh 2>/dev/null || true && {settings} && eval {quoted}{opened} && pwd -P >| /tmp/claude-1a2b-cwd")
    variables = "\n".join(
        f'if [ -n "${{SET_{number}}}" ]; then export V{number}="$O{number}"; else unset V{number}; fi' for number in range(99)
    )
    codex = [
        "/proc/self/exe",
        "--run-as-process-setup",
        "5",
        "",
        "/w",
        "/bin/bash",
        *bash(f"{variables}\n\nexec '/bin/bash' -c {quoted}"),
    ]
    wanted = unwrap(bash(command)).command
    assert (unwrap(claude, SHIPPED).command, unwrap(codex, SHIPPED).command) == (wanted, wanted)
    # What it is classed by is the text itself, lines and all.
    classes = {classify(POLICY, BUDGET, unwrap(argv, SHIPPED).argv).name for argv in (bash(command), claude, codex)}
    assert classes == {classify(POLICY, BUDGET, bash(command)).name}


def test_a_policy_says_what_an_agent_puts_around_a_command() -> None:
    found = unwrap(bash("x" * 38_000 + "\nrun<<pytest -x>>"), [r"run<<(?P<command>.*)>>\Z"])
    assert (found.command, found.steps[-1]) == ("pytest -x", "a pattern of the policy")


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        (bash("cat >/dev/null <<'EOF'\nit's\nEOF\npytest"), "test"),
        (bash("cat > Makefile <<EOF\nmake all\nEOF"), "explore"),
        (["bash", "-eo", "pipefail", "-c", "pytest"], "test"),
        (["bwrap", "--bind", "/", "/", "--", "bash", "-c", "pytest"], "test"),
        (["some-helper", "--profile", "x", "--", "pytest"], "test"),
        (["python3", "-u", "-m", "pytest"], "test"),
        (bash("2>/dev/null pytest"), "test"),
        (["npx", "jest"], "test"),
        (["conda", "run", "-n", "env", "pytest"], "test"),
        (["yarn", "jest"], "test"),
        (["npm", "run", "test:unit"], "test-of-build-tool"),
        (bash("{ pytest; }; __code=$?; pgrep -g 0 >/tmp/f; exit $__code"), "test"),
        (bash("for i in 1 2; do pytest; done"), "test"),
        (bash("pytest; echo 'never closed"), "default"),
        (bash("cd github-mcp && pytest"), "test"),
        (bash("npm install gopls"), "install"),
        (bash("grep -rn clangd src"), "explore"),
        (["npx", "@playwright/mcp@latest"], "mcp-server"),
        (["npx", "-y", "@upstash/context7-mcp@latest"], "mcp-server"),
        (["npx", "mcp-remote", "http://localhost"], "mcp-server"),
        (["node", "/x/server-filesystem/dist/index.js", "/src"], "mcp-server"),
        (["node", "/x/pyright-langserver", "--stdio"], "language-server"),
    ],
)  # fmt: skip
def test_a_class_is_that_of_the_programs_that_are_run(argv: list[str], name: str) -> None:
    assert classify(POLICY, BUDGET, argv).name == name


def test_a_text_that_runs_a_server_is_the_model_s_call() -> None:
    assert classify(POLICY, BUDGET, bash("npx @playwright/mcp@latest")).kind == "tool"
    assert classify(POLICY, BUDGET, ["npx", "@playwright/mcp@latest"]).kind == "helper"


def test_the_program_behind_a_launcher_is_named_without_its_version() -> None:
    (words,) = simple_commands(["uv", "run", "--directory", "/x", "server.py"])
    assert identity(words) == "server.py"
    assert identity(["@playwright/mcp@latest"]) == "@playwright/mcp"


@pytest.mark.parametrize(
    ("text", "values"),
    [("H=a make", ["a"]), ("export H=a; x", ["a"]), ("env H=a x", ["a"]), ("H=a bash -c ls", ["a"]), ("bash -c 'H=b ls'", ["b"]),
     ("echo H=a; sleep 6", []), ("git log --grep=H=a", []), ("cat <<E\nH=a\nE", []), ("ls # H=a", []), ("echo 'x; H=a make'", [])],
)  # fmt: skip
def test_only_an_assignment_that_is_made_is_a_hint(text: str, values: list[str]) -> None:
    assert assignments(bash(text), "H") == values


def test_what_changes_with_each_call_is_no_part_of_the_key() -> None:
    assert key("pytest >/tmp/claude-1a2b-cwd") == key("pytest >/tmp/claude-9f8e-cwd")
    assert key("pytest tests/a.py") != key("pytest tests/b.py")
    assert key("sleep 5") != key("sleep 6")


@pytest.mark.parametrize(
    "unit",
    [
        "a;",
        "a|",
        "(",
        "$((((",
        "$(",
        "${a",
        "'",
        '"',
        "`",
        "snapshot-",
        "cat <<E\n",
        "<<",
        "a=(",
        "{ ",
        "if ",
        "case a in b) ",
        "[[ a ",
        "a&&",
        "eval ",
    ],
)
@pytest.mark.parametrize("size", [1000, 4000, 16_000, 63_000])
def test_no_text_takes_more_than_a_bounded_number_of_steps(unit: str, size: int) -> None:
    cost = Cost()
    parse((unit * size)[:size], cost)
    assert cost.steps <= MOST_STEPS + 1
    assert cost.nodes <= MOST_NODES + 1
    assert (cost.steps == 0) if size > LONGEST_BYTES else True
    assert simple_commands(bash((unit * size)[:size]))


@given(st.lists(st.sampled_from([*"a|;&(){}$\"'`<>= \n", "<<E", "[[", "if ", "do ", "case ", "$(", "eval "]), max_size=3000))
def test_the_cost_of_any_text_is_bounded(parts: list[str]) -> None:
    cost = Cost()
    parse("".join(parts), cost)
    assert cost.steps <= MOST_STEPS + 1
    assert cost.nodes <= MOST_NODES + 1
