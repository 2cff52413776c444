"""The history of real sessions: the same as their reports, and what a governor that dies leaves of it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agentcgroup.history.store import FILE
from tests.vm.harness import command, governor, policy, script, wait_for

pytestmark = pytest.mark.one_kernel


def agentcgroup(*words: str) -> str:
    return subprocess.run([sys.executable, "-m", "agentcgroup", *words], capture_output=True, text=True, check=True).stdout


def test_the_history_tells_of_each_call_what_the_report_tells(hog: str, tmp_path: Path) -> None:
    calls = [{"command": f"AGENT_RESOURCE_HINT=memory:high {hog} 100 3; true"}, {"command": "exit 3"}, {"command": f"{hog} 600"}]
    rule = policy(tmp_path, "default: {memory: 200M}\n")
    done, _ = script(tmp_path, calls, "--name", "told", "--memory", "1G", "--policy", str(rule))
    kept = json.loads(agentcgroup("history", "--session", "told", "--json"))
    pairs = [
        (call["call"], call["command"], call["duration_s"], call["peak_bytes"], call["exit_status"], call["deeds"])
        for call in kept
    ]
    assert pairs == [
        (call["call"], call["command"], call["duration_s"], call["memory_peak_bytes"], call["exit_status"], call["deeds"])
        for call in done.calls
    ]
    assert kept[0]["hint"] == "memory:high"
    assert 10 << 20 < kept[0]["mean_bytes"] <= kept[0]["peak_bytes"]
    assert len(agentcgroup("history", "--session", "told", "--csv").splitlines()) == 4
    assert [call["call"] for call in json.loads(agentcgroup("history", "--session", "told", "--failed", "--json"))] == [2, 3]
    assert "stopped (memory" in agentcgroup("history", "--session", "told", "--acted-on")
    page = tmp_path / "page.html"
    assert agentcgroup("report", "told", "--out", str(page)) == f"{page}\n"
    assert "1 command was stopped alone" in page.read_text()
    assert ">told<" in Path(agentcgroup("report", "--out", str(page)).strip()).read_text()


def test_a_call_whose_governor_was_killed_is_not_forgotten(tmp_path: Path) -> None:
    began, killed = tmp_path / "began", tmp_path / "killed"
    call = f"sleep 2.5; touch {began}; until [ -e {killed} ]; do sleep 0.1; done"
    words = command("--name", "orphan", agent=["sh", "-c", f"sh -c '{call}' | cat; true"])
    with subprocess.Popen(words, stderr=subprocess.DEVNULL) as run:
        wait_for(began)
        os.kill(governor(run.pid), signal.SIGKILL)
        killed.touch()
        assert run.wait() == 0
    kept = json.loads(agentcgroup("history", "--session", "orphan", "--json"))
    assert [(call["duration_s"], call["exit_status"]) for call in kept if "touch" in call["command"]] == [(None, None)]


def test_a_session_goes_on_where_its_history_cannot_be_written(tmp_path: Path) -> None:
    kept = FILE.parent.rename(FILE.parent.with_name("kept")) if FILE.parent.exists() else None
    FILE.parent.write_text("in the way")
    try:
        done, _ = script(tmp_path, [{"command": "true"}])
        assert done.code == 0
        assert sum("history could not be written" in line for line in done.report["log"]) == 1
    finally:
        FILE.parent.unlink()
        if kept:
            kept.rename(FILE.parent)
