"""Memory: the hungry call is stopped alone and its agent is told, however its stderr is made."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.vm.harness import EVENTS, TRIES, assert_nothing_left, command, once_frozen, policy, script, session

SMALL = "default: {memory: 64M}\n"


def told(call: dict[str, str]) -> bool:
    text = call["stdout"] + call["stderr"]
    return "agentcgroup: this command was stopped: it used" in text and "its limit is 64M" in text


@pytest.mark.parametrize("kind", ["pipe", *(pytest.param(kind, marks=pytest.mark.one_kernel) for kind in ("pty", "file"))])
def test_the_hungry_call_is_stopped_alone_with_an_explanation_every_time(kind: str, hog: str, tmp_path: Path) -> None:
    tries = TRIES or 5
    hungry = {"command": f"echo before >&2; {hog} 600; echo not reached", "stderr": kind}
    small = {"command": f"{hog} 20", "stderr": kind}
    done, said = script(tmp_path, [hungry, small] * tries, "--memory", "1G", "--policy", str(policy(tmp_path, SMALL)))
    assert done.code == 0, done.stderr
    assert [call["returncode"] for call in said[1::2]] == [0] * tries
    killed = [call["returncode"] in (-9, 137) and told(call) and "not reached" not in call["stdout"] for call in said[::2]]
    assert killed == [True] * tries
    assert all("before" in call["stdout"] + call["stderr"] for call in said[::2])
    assert done.report["agent"]["out_of_memory_kills"] == 0
    records = [call for call in done.calls if call["exit_status"] == 9]
    assert len(records) == tries
    assert all(any(deed["what"] == "stopped" for deed in record["deeds"]) for record in records)
    assert_nothing_left()


@EVENTS
def test_a_hint_inside_the_command_text_raises_the_limit_of_a_call_that_fails_without_it(
    events: str, hog: str, tmp_path: Path
) -> None:
    plain, hinted = f"{hog} 150; true", f"cd /; AGENT_RESOURCE_HINT=memory:high {hog} 150; true"
    exported = f"export AGENT_RESOURCE_HINT=memory:200m; {hog} 150"
    absurd = f"AGENT_RESOURCE_HINT=memory:lots,cpu:low {hog} 20; true"
    calls = [{"command": text} for text in (plain, hinted, exported, absurd)]
    done, said = script(tmp_path, calls, "--events", events, "--memory", "1G", "--policy", str(policy(tmp_path, SMALL)))
    assert [call["returncode"] for call in said] == [-9, 0, 0, 0]
    assert said[1]["stdout"] == "had 150\n"
    assert done.calls[1]["limits"]["memory_high_bytes"] == done.report["budget"]["tools_high"]
    assert done.calls[2]["limits"]["memory_high_bytes"] == 200 << 20
    assert sum("memory:lots" in line for line in done.report["log"]) == 1
    assert "memory:lots" in done.stderr


@pytest.mark.one_kernel
def test_a_hint_never_gets_more_than_the_session_has(hog: str, tmp_path: Path) -> None:
    text = f"AGENT_RESOURCE_HINT=memory:50g {hog} 900"
    done, said = script(tmp_path, [{"command": text}], "--memory", "400M")
    assert said[0]["returncode"] == -9
    assert done.calls[0]["limits"]["memory_max_bytes"] <= done.report["budget"]["tools_max"]
    assert "agentcgroup: this command was stopped" in said[0]["stderr"]


@pytest.mark.one_kernel
def test_feedback_as_one_line_of_json(hog: str, tmp_path: Path) -> None:
    call = {"command": f"export AGENTCGROUP_FEEDBACK=json; exec sh -c '{hog} 600; true'"}
    _, said = script(tmp_path, [call], "--policy", str(policy(tmp_path, SMALL)))
    body = json.loads(said[0]["stderr"])["agentcgroup"]
    assert body["limit"] == "memory"
    assert body["used"] >= body["allowed"] == 64 << 20


@pytest.mark.one_kernel
def test_a_call_that_threw_its_stderr_away_is_told_on_stdout(hog: str, tmp_path: Path) -> None:
    _, said = script(tmp_path, [{"command": f"exec {hog} 600 2>/dev/null"}], "--policy", str(policy(tmp_path, SMALL)))
    assert "agentcgroup: this command was stopped" in said[0]["stdout"]


def test_page_cache_at_the_limit_stops_nobody(tmp_path: Path) -> None:
    text = "dd if=/dev/zero of=/scratch/tmp/big bs=1M count=200 2>/dev/null && cat /scratch/tmp/big >/dev/null; rm /scratch/tmp/big; echo fine"
    done, said = script(tmp_path, [{"command": text}], "--memory", "1G", "--policy", str(policy(tmp_path, SMALL)))
    assert said[0]["stdout"] == "fine\n"
    assert done.calls[0]["deeds"] == []


@EVENTS
def test_several_calls_of_one_session_that_do_not_fit_together_wait_for_each_other(
    events: str, steps: str, tmp_path: Path
) -> None:
    enough = tmp_path / "enough"
    calls = [
        {"command": f"{steps} 250:{enough}"},
        {"command": f"until [ -e {enough}.250 ]; do sleep 0.1; done; {steps} 320:1"},
    ]
    rule = policy(tmp_path, "default: {memory: 100%}\n")
    with once_frozen(enough):
        done, said = script(tmp_path, calls, "--events", events, "--memory", "640M", "--policy", str(rule), parallel=2)
    assert [call["returncode"] for call in said] == [0, 0], done.stderr
    assert [deed for call in done.calls for deed in call["deeds"] if deed["what"].startswith("waited")]
    assert done.report["agent"]["out_of_memory_kills"] == 0


def test_a_leaking_agent_is_stopped_at_its_own_cap_with_a_message_and_its_neighbour_goes_on(hog: str, tmp_path: Path) -> None:
    over = tmp_path / "over"
    agent = ["sh", "-c", f"until [ -e {over} ]; do sleep 0.3; done"]
    other = subprocess.Popen(command("--name", "neighbour", agent=agent), stderr=subprocess.PIPE, text=True)
    done = session(tmp_path, "--memory", "512M", agent=[hog, "1500"])
    assert done.code == -9
    assert "the agent itself reached its memory cap of 384M" in done.stderr
    assert done.report["agent"]["out_of_memory_kills"] == 1
    over.touch()
    assert other.wait(240) == 0
    assert "out of memory" not in (other.stderr.read() if other.stderr else "")
    assert_nothing_left()


@pytest.mark.one_kernel
def test_an_agent_that_nears_its_own_cap_is_told_of_before(hog: str, tmp_path: Path) -> None:
    done = session(tmp_path, "--memory", "512M", agent=[hog, "360", "8"])
    assert done.code == 0
    assert "of its cap of 384M, where the kernel kills it" in done.stderr
    assert "--memory 1G" in done.stderr


@EVENTS
def test_limits_on_time_and_processes_are_explained(events: str, tmp_path: Path) -> None:
    text = "classes:\n  - {name: slow, programs: [sleep], limits: {time: 1s}}\n  - {name: many, programs: [python3], limits: {processes: 6}}\n"
    storm = "python3 -c 'import os, time\nfor _ in range(20):\n  try:\n    if os.fork() == 0: time.sleep(0.5); os._exit(0)\n  except OSError: pass'"
    calls = [
        {"command": "exec sleep 30"},
        {"command": storm},
        {"command": "AGENT_RESOURCE_HINT=timeout:1500ms sh -c 'while :; do :; done'"},
    ]
    _, said = script(tmp_path, calls, "--events", events, "--policy", str(policy(tmp_path, text)))
    assert said[0]["returncode"] == -9
    assert "its limit is 1.00 s" in said[0]["stderr"]
    assert said[1]["returncode"] == 0
    assert "could not start more processes: its limit is 6" in said[1]["stderr"]
    assert said[2]["returncode"] == -9
    assert "its limit is 1.50 s" in said[2]["stderr"]


@EVENTS
def test_tool_calls_are_the_kernels_victims_before_the_agent(events: str, tmp_path: Path) -> None:
    calls = [{"command": "sleep 1; cat /proc/self/oom_score_adj"}]
    agent_score = int(Path("/proc/self/oom_score_adj").read_text())
    _, said = script(tmp_path, calls, "--events", events)
    assert said[0]["stdout"] == "800\n"  # of normal priority: those of a high one have less, of a low one more
    assert agent_score < 600
