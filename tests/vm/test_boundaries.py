"""Tool-call boundaries: a real agent, launched in every way that agents are, and processes that try to get away."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.vm.harness import AGENTS, TRIES, assert_nothing_left, policy, script, session, witness

MINI = [sys.executable, str(AGENTS / "mini.py")]
LAUNCHES = {
    "directly": MINI,
    "through sh -c": ["sh", "-c", f"cd /tmp && {MINI[0]} {MINI[1]} $0 $1; exit $?"],
    "through a Node shim": ["node", str(AGENTS / "shim.js"), *MINI],
    "by a runtime that re-executes itself": [sys.executable, str(AGENTS / "reexec.py"), MINI[1]],
}


@pytest.mark.parametrize("launch", LAUNCHES)
def test_each_call_of_a_real_agent_has_its_own_leaf_and_the_agent_never_leaves_its_domain(launch: str, tmp_path: Path) -> None:
    transcript = tmp_path / "transcript.json"
    with witness() as seen:
        done = session(tmp_path, "--memory", "640M", agent=[*LAUNCHES[launch], str(tmp_path / "repo"), str(transcript)])
    assert done.code == 0, done.stderr + done.stdout
    steps = [call for call in done.calls if call["argv"][:2] == ["/bin/sh", "-c"] and call["cwd"].endswith("repo")]
    assert len(steps) == 15
    assert len({call["leaf"] for call in steps}) == 15
    # Calls shorter than the look of the witness can't all have been seen; those that take time must have been.
    long = {call["leaf"] for call in steps if call["duration_s"] > 0.12}
    assert len(long) >= 6
    assert long <= seen.seen()
    assert len(seen.seen()) >= 12
    assert seen.elsewhere == set()
    leaf_pids = set().union(*seen.leaves.values())
    taken = {one["pid"] for one in done.report["agent"]["processes"]}
    assert taken
    assert not taken & leaf_pids
    assert taken <= seen.agent
    messages = json.loads(transcript.read_text())["messages"]
    assert any("agentcgroup: this command was stopped" in str(message["content"]) for message in messages)
    assert_nothing_left()


def test_every_process_of_a_storm_is_accounted_to_its_call(tree: str, tmp_path: Path) -> None:
    count, size = TRIES * 2 or 24, 31
    own = tmp_path / "own-list"
    calls = [{"command": f"{tree} {size} {own} call{number}"} for number in range(count)]
    done, _ = script(tmp_path, calls, "--memory", "1G", parallel=8)
    lines = [line.split() for line in own.read_text().splitlines()]
    by_tag: dict[str, list[tuple[int, str]]] = {}
    for tag, pid, where in lines:
        by_tag.setdefault(tag, []).append((int(pid), where))
    records = {call["argv"][2].split()[-1]: call for call in done.calls if tree in " ".join(call["argv"])}
    assert len(records) == len(by_tag) == count
    assert len(lines) == count * size
    wrong = []
    for tag, processes in by_tag.items():
        leaf = records[tag]["leaf"]
        # The root writes its line at once, before its leaf may be there; the others at the end of their lives.
        wrong += [(tag, pid, where) for pid, where in processes if pid != records[tag]["pid"] and not where.endswith(f"/tools/{leaf}")]
        assert records[tag]["processes"] >= size
    roots = [one for one in wrong if one[1] in {record["pid"] for record in records.values()}]
    assert [one for one in wrong if one not in roots] == [], f"{len(wrong)} of {len(lines)}"
    assert len({record["leaf"] for record in records.values()}) == count
    assert_nothing_left()


def test_what_outlives_its_root_stays_in_its_leaf_until_the_session_ends(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    calls = [{"command": f"setsid sh -c 'trap \"echo ended > {mark}\" TERM; sleep 60 & wait' >/dev/null 2>&1 & sleep 0.3"}, {"command": "sleep 0.2"}]
    done, _ = script(tmp_path, calls)
    left = done.calls[0]
    assert left["outlived_by"] >= 1
    assert any("ended with the session" in deed["what"] for deed in left["deeds"])
    assert mark.read_text() == "ended\n"
    assert_nothing_left()


def test_each_command_of_a_persistent_shell_is_a_tool_call(tmp_path: Path) -> None:
    agent = """
import subprocess, sys, time
shell = subprocess.Popen(["bash", "--norc"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
for text in ["sleep 0.31", "X=5", "sleep 0.32; echo $X"]:
    shell.stdin.write(text + "\\n")
shell.stdin.close()
print(shell.stdout.read())
"""
    with witness() as seen:
        done = session(tmp_path, agent=[sys.executable, "-c", agent])
    assert [call["argv"] for call in done.calls] == [["sleep", "0.31"], ["sleep", "0.32"]]
    assert done.stdout == "5\n\n"
    assert {call["leaf"] for call in done.calls} <= seen.seen()
    roles = [one["role"] for one in done.report["agent"]["processes"]]
    assert roles == ["agent", "shell"]


def test_a_script_as_the_agent_has_its_commands_as_tool_calls(tmp_path: Path) -> None:
    done = session(tmp_path, agent=["bash", "-c", "sleep 0.1; sleep 0.2; exit 3"])
    assert done.code == 3
    assert [call["argv"] for call in done.calls] == [["sleep", "0.1"], ["sleep", "0.2"]]


def test_long_lived_helpers_have_leaves_but_are_not_tool_calls(tmp_path: Path) -> None:
    helpers = policy(tmp_path, "classes:\n  - {name: server, kind: helper, regex: 'my-mcp-server'}\n")
    agent = """
import subprocess
helper = subprocess.Popen(["sh", "-c", "exec -a my-mcp-server sleep 60 || sleep 60"], stdout=subprocess.PIPE)
subprocess.run("sleep 0.2", shell=True, capture_output=True, start_new_session=True)
helper.kill()
"""
    done = session(tmp_path, "--policy", str(helpers), agent=[sys.executable, "-c", agent])
    assert [(call["kind"], call["class_name"]) for call in done.calls] == [("helper", "server"), ("tool", "default")]
    assert "1 tool call in" in done.stderr


def test_lost_events_are_made_good_by_reading_the_session_again(tmp_path: Path) -> None:
    """The engine is stopped while a call begins and forks; a burst elsewhere overruns its socket."""
    agent = f"""
import os, signal, subprocess, sys, time
engines = [int(p) for p in os.listdir("/proc") if p.isdigit() and os.path.exists(f"/proc/{{p}}/cmdline")
           and b"agentcgroup" in open(f"/proc/{{p}}/cmdline", "rb").read() and os.getsid(int(p)) == int(p)]
for engine in engines: os.kill(engine, signal.SIGSTOP)
call = subprocess.Popen("sleep 3; true", shell=True, start_new_session=True, stdout=subprocess.PIPE)
subprocess.run([sys.executable, "-c", {_STORM!r}])
for engine in engines: os.kill(engine, signal.SIGCONT)
time.sleep(1.5)
print(open(f"/proc/{{call.pid}}/cgroup").read())
call.wait()
"""
    done = session(tmp_path, agent=[sys.executable, "-c", agent])
    assert any("events were lost" in line for line in done.report["log"]), done.report["log"]
    assert "/tools/tool-" in done.stdout
    assert_nothing_left()


_STORM = """
import os
for _ in range(25000):
    pid = os.fork()
    if pid == 0: os._exit(0)
    os.waitpid(pid, 0)
"""


def test_exec_declares_a_call_with_its_hint(tmp_path: Path) -> None:
    exec_ = f"{sys.executable} -m agentcgroup exec"
    calls = [
        {"command": f"{exec_} --hint memory:high,timeout:60s -- sh -c 'cat /proc/self/cgroup; sleep 0.2'"},
        {"command": f"true; {exec_} -- git --version; true"},
        {"command": f"{exec_} --hint bogus -- true"},
        {"command": f"{exec_} -- /no/such/program"},
    ]
    done, said = script(tmp_path, calls)
    assert said[0]["returncode"] == 0
    first = next(call for call in done.calls if call["hint"]["timeout_s"] == 60.0)
    assert first["argv"][:2] == ["sh", "-c"]
    assert first["limits"]["memory_high_bytes"] == done.report["budget"]["tools_high"]
    assert said[0]["stdout"].strip().endswith(f"/tools/{first['leaf']}")
    assert any(call["argv"] == ["git", "--version"] and call["class_name"] == "git" for call in done.calls)
    assert said[2]["returncode"] == 2
    assert "hint 'bogus' ignored" in said[2]["stderr"]
    assert said[3]["returncode"] == 127
    assert_nothing_left()


def test_exec_outside_a_session_says_so() -> None:
    done = subprocess.run([sys.executable, "-m", "agentcgroup", "exec", "--", "true"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "not inside a session" in done.stderr
