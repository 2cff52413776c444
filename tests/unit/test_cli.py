"""The command line: what it refuses, in which words, with which exit code."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agentcgroup.call_client import announced, parse
from agentcgroup.errors import AgentCgroupError


def agentcgroup(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "agentcgroup", *words], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--name", "a b"], "session name 'a b' refused"),
        (["--name", "x" * 60], "1 to 40"),
        (["--memory", "lots"], "is not a size"),
        (["--memory", "1M"], "too small"),
        (["--policy", "/no/file"], "No such file"),
        (["--report", "/no/folder/x"], "can't be written"),
        (["--priority", "urgent"], "urgent"),
        (["--cpu-weight", "0"], "--cpu-weight"),
        (["--colour", "red"], "--colour"),
    ],
)
def test_run_refuses_bad_options_before_anything_starts(options: list[str], words: str, tmp_path: Path) -> None:
    done = agentcgroup("run", *options, "--", "touch", str(tmp_path / "ran"))
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["nonsense"], "nonsense"),
        (["run"], "no command"),
        (["run", "--memory", "big", "--", "true"], "is not a size"),
        (["run", "--memory", "101%", "--", "true"], "is not a size"),
        (["run", "--policy", "/none", "--", "true"], "No such file"),
        (["policy", "check", "/none"], "No such file"),
        (["policy", "explain"], "no command"),
        (["policy", "explain", "--hint", "memory:x", "--", "ls"], "ignored"),
        (["exec", "--", "true"], "not inside a session"),
        (["exec", "--bogus"], "unknown option"),
        (["exec", "--hint", "memory:high"], "no command"),
    ],
)
def test_bad_input_exits_2_with_a_clear_line_and_no_traceback(words: list[str], expected: str) -> None:
    done = agentcgroup(*words)
    assert done.returncode == 2
    assert expected in done.stderr
    assert done.stderr.startswith("agentcgroup: ")
    assert "Traceback" not in done.stderr


EVIL = "\x1b]0;owned\x07\u202e\udcff"


@pytest.mark.parametrize(
    "words",
    [
        ["policy", "explain", "--", EVIL],
        ["policy", "explain", "--", "sh", "-c", f"{EVIL} && make"],
        ["policy", "explain", "--agent", EVIL, "--", "ls"],
        ["policy", "check", f"/none/{EVIL}"],
        ["run", "--", f"/none/{EVIL}"],
        ["run", "--name", EVIL, "--", "true"],
        ["run", "--memory", EVIL, "--", "true"],
        ["run", f"--{EVIL}", "--", "true"],
        ["exec", "--hint", f"memory:{EVIL}", "--", "true"],
        ["explain", EVIL],
        ["explain", f"x/{EVIL}"],
        ["history", "--since", EVIL],
        ["report", EVIL],
        [EVIL],
    ],
)
def test_whatever_is_typed_nothing_reaches_the_terminal_but_text(words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "agentcgroup", *words], capture_output=True, env=os.environ | {"PYTHONUTF8": "1"}
    )
    said = (done.stdout + done.stderr).decode()
    assert said.strip()
    assert all(line.isprintable() for line in said.splitlines()), said
    assert "Traceback" not in said


def test_a_policy_file_may_have_any_name(tmp_path: Path) -> None:
    file = tmp_path / f"{EVIL}.yaml"
    file.write_text("version: 1\n")
    done = agentcgroup("policy", "check", str(file))
    assert done.returncode == 0
    assert all(line.isprintable() for line in (done.stdout + done.stderr).splitlines())


def test_a_command_that_is_not_there_is_127_as_a_shell_has_it() -> None:
    assert agentcgroup("run", "--", "/no/such/program").returncode == 127
    assert agentcgroup("run", "--", "/etc/passwd").returncode == 126


@pytest.mark.parametrize(
    "words", [[], ["run"], ["exec"], ["doctor"], ["cleanup"], ["policy"], ["policy", "check"], ["policy", "explain"]]
)
def test_every_command_has_help(words: list[str]) -> None:
    done = agentcgroup(*words, "--help")
    assert done.returncode == 0
    assert "Usage:" in done.stdout


def test_policy_explain_names_class_rule_and_limits() -> None:
    done = agentcgroup(
        "policy", "explain", "--memory", "2G", "--hint", "memory:512m,timeout:5m", "--", "bash", "-c", "cd x && pytest"
    )
    assert done.returncode == 0
    assert "classes: test (program pytest)" in done.stdout
    assert "512M, then kill" in done.stdout
    assert "5 min 0 s" in done.stdout


def test_policy_check_accepts_and_refuses(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text("version: 1\n")
    assert agentcgroup("policy", "check", str(file)).returncode == 0
    file.write_text("version: 1\nsession: {memory: -1}\n")
    done = agentcgroup("policy", "check", str(file))
    assert done.returncode == 2
    assert f"{file}:2: session.memory" in done.stderr


def test_the_arguments_of_exec() -> None:
    assert parse(["--hint", "memory:high", "--", "make", "-j"]) == ("memory:high", ["make", "-j"])
    assert parse(["--hint=cpu:low", "make", "--hint", "x"]) == ("cpu:low", ["make", "--hint", "x"])
    with pytest.raises(AgentCgroupError, match="bad hint"):
        parse(["--hint", "speed:high", "--", "make"])


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("python3 -m agentcgroup exec -- git --version", ("", ("git", "--version"))),
        ("/usr/bin/python3 /usr/bin/agentcgroup exec --hint memory:high -- sh exec", ("memory:high", ("sh", "exec"))),
        ("python3 -m agentcgroup exec --speed", ("", ())),
        ("docker exec it sh", ("", ())),
        ("", ("", ())),
    ],
)
def test_what_exec_is_about_to_execute_is_in_its_command_line(line: str, expected: tuple[str, tuple[str, ...]]) -> None:
    assert announced(tuple(line.split())) == expected
