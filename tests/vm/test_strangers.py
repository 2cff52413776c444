"""Agents that no policy names, and that are started in ways which hide their runtime."""

import contextlib
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.vm.harness import AGENTS, EVENTS, assert_nothing_left, command, session

pytestmark = pytest.mark.one_kernel


@pytest.mark.parametrize("way", ["plain", "touch"])
@pytest.mark.parametrize("terminal", [False, True], ids=["captured", "terminal"])
def test_a_node_agent_that_starts_itself_again_is_the_agent(tmp_path: Path, way: str, terminal: bool) -> None:
    report = tmp_path / "report.json"
    line = command("--report", str(report), "--memory", "512M", agent=["node", str(AGENTS / "again.js"), way])
    if terminal:
        pid, descriptor = pty.fork()
        if pid == 0:
            os.execvp(line[0], line)
        said = b""
        with contextlib.suppress(OSError):
            while part := os.read(descriptor, 65536):
                said += part
        os.waitpid(pid, 0)
    else:
        said = subprocess.run(line, capture_output=True, timeout=300).stdout
    assert b"read: hello" in said
    found = json.loads(report.read_text())
    assert [call["command"] for call in found["calls"]] == ["sleep 1; echo hello"]
    assert len(found["agent"]["processes"]) == 2
    assert_nothing_left()


@EVENTS
def test_a_daemon_that_runs_the_models_commands_is_the_agent_and_its_commands_are_calls(
    tmp_path: Path, hog: str, events: str
) -> None:
    results = tmp_path / "results.json"
    commands = ["sleep 1; echo first", "sleep 1; echo second", f"{hog} 900 5", "sleep 1; echo last"]
    agent = [sys.executable, str(AGENTS / "engine.py"), str(results), *commands]
    done = session(tmp_path, "--memory", "512M", "--events", events, agent=agent)
    assert done.code == 0, done.stderr
    first, second, hungry, last = json.loads(results.read_text())
    assert (first["stdout"], second["stdout"], last["stdout"]) == ("first\n", "second\n", "last\n"), done.stderr
    assert hungry["code"] == -9
    assert "agentcgroup: this command was stopped" in hungry["stderr"]
    told = [call for call in done.calls if call["kind"] == "tool" and call["command"] in commands]
    # What showed it to be the agent may have been over before it was one.
    assert [call["command"] for call in told][-2:] == commands[2:]
    assert any("as agents do" in one["why"] for one in done.report["agent"]["processes"])
    assert_nothing_left()
