"""What goes wrong from outside: cgroups removed underneath, a stopped reader, process ids used again, storms."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.harness import SLICE, assert_nothing_left, command, governor, policy, script, until, wait_for

pytestmark = pytest.mark.outer_kernels
_TOLD_PER_SECOND = 16 / 0.134
"""What a leaf may say at most."""


@pytest.mark.one_kernel
def test_leaves_that_vanish_are_made_again(tmp_path: Path) -> None:
    spares = f"{SLICE}/agentcgroup-*/tools/tool-[2-9]"
    calls = [{"command": f"sleep 1; rmdir {spares}"}, *[{"command": "sleep 1; cat /proc/self/cgroup; true"}] * 3]
    done, said = script(tmp_path, calls)
    assert [call["returncode"] for call in said] == [0] * 4, said
    assert not [line for line in done.report["log"] if "not placed:" in line]
    assert [call["stdout"].strip().rpartition("/")[2] for call in said[1:]] == ["tool-2", "tool-3", "tool-4"]
    assert [call["leaf"] for call in done.calls] == ["tool-1", "tool-2", "tool-3", "tool-4"]
    assert all(call["memory_peak_bytes"] for call in done.calls[1:])
    assert_nothing_left()


@pytest.mark.one_kernel
def test_a_session_stopped_by_systemd_ends_in_order(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    agent = [sys.executable, "-c", "import subprocess; subprocess.run('sleep 600; true', shell=True, stdout=subprocess.PIPE)"]
    run = subprocess.Popen(command("--name", "halted", "--report", str(report), agent=agent), stderr=subprocess.PIPE, text=True)
    wait_for(procs := SLICE / "agentcgroup-halted.scope/tools/tool-1/cgroup.procs")
    until(lambda: len(procs.read_text().split()) == 2, "the call did not begin")
    subprocess.run(["systemctl", "stop", "agentcgroup-halted.scope"], check=True)
    _, err = run.communicate(timeout=240)
    assert run.returncode == -signal.SIGTERM  # as the agent ended
    assert "Traceback" not in err
    (call,) = json.loads(report.read_text())["calls"]
    assert call["command"] == "sleep 600; true"
    assert_nothing_left()


@pytest.mark.one_kernel
def test_a_governor_that_stood_still_catches_up(tmp_path: Path) -> None:
    """Calls begin, fork, and end while nobody reads; afterwards all are where they belong, and recorded."""
    report = tmp_path / "report.json"
    agent = f"""
import pathlib, subprocess, time
stopped, resumed = pathlib.Path({str(tmp_path / "stopped")!r}), pathlib.Path({str(tmp_path / "resumed")!r})
def call(text):
    return subprocess.Popen(text, shell=True, start_new_session=True, stdout=subprocess.PIPE)
pathlib.Path({str(tmp_path / "ready")!r}).touch()
while not stopped.exists(): time.sleep(0.05)
ended = [call(f"true {{number}}; true") for number in range(10)]
late = call("(sleep 200; true) & sleep 200; true")
for one in ended: one.wait()
pathlib.Path({str(tmp_path / "ended")!r}).touch()
while not resumed.exists(): time.sleep(0.05)
pids = [late.pid, *map(int, open(f"/proc/{{late.pid}}/task/{{late.pid}}/children").read().split())]
for pid in pids:
    for _ in range(300):
        place = open(f"/proc/{{pid}}/cgroup").read()
        if "/tools/" in place: break
        time.sleep(0.1)
    print(place)
late.kill()
"""
    run = subprocess.Popen(
        command("--report", str(report), agent=[sys.executable, "-c", agent]),
        stdout=subprocess.PIPE,
        text=True,
    )
    wait_for(tmp_path / "ready")
    time.sleep(0.5)
    stopped = governor(run.pid)
    os.kill(stopped, signal.SIGSTOP)
    (tmp_path / "stopped").touch()
    wait_for(tmp_path / "ended")
    os.kill(stopped, signal.SIGCONT)
    (tmp_path / "resumed").touch()
    out, _ = run.communicate(timeout=240)
    places = out.split()
    assert len(places) == 3
    assert len(set(places)) == 1
    assert "/tools/tool-" in places[0]
    assert len(json.loads(report.read_text())["calls"]) == 11
    assert_nothing_left()


@pytest.fixture
def few_process_ids() -> Iterator[None]:
    file = Path("/proc/sys/kernel/pid_max")
    before = file.read_text()
    file.write_text("400")
    yield
    file.write_text(before)


@pytest.mark.usefixtures("few_process_ids")
def test_process_ids_that_come_again_confuse_nobody(tmp_path: Path) -> None:
    calls = [{"command": f"sleep 0.02; /bin/true {number}; (exit {number % 7})"} for number in range(150)]
    done, said = script(tmp_path, calls)
    assert [call["returncode"] for call in said] == [number % 7 for number in range(150)]
    # Where nothing holds it, a very short call may be gone before it can be looked at.
    known = [(call["argv"][-1], one["command"]) for call, one in zip(done.calls, calls, strict=True) if call["argv"]]
    assert len(known) > 75
    assert all(seen == given for seen, given in known)
    assert [call["exit_status"] for call in done.calls] == [(number % 7) << 8 for number in range(150)]
    pids = [call["pid"] for call in done.calls]
    assert len(set(pids)) < len(pids)
    assert_nothing_left()


def test_storms_in_one_session_are_told_in_few_words_and_do_not_reach_the_other(bomb: str, hog: str, tmp_path: Path) -> None:
    stormy, quiet = tmp_path / "stormy", tmp_path / "quiet"
    stormy.mkdir()
    quiet.mkdir()
    report = stormy / "report.json"
    # Without the memory that a loop of hog would leave, nor an end to it.
    (stormy / "spec.json").write_text(
        json.dumps(
            {
                "calls": [{"command": f"{bomb} 7; true"}, {"command": f"while :; do {hog} 200; done & sleep 7; kill $!"}],
                "parallel": 2,
            }
        )
    )
    rule = policy(stormy, "default: {processes: 64}\n")
    agent = [sys.executable, "tests/agents/scripted.py", str(stormy / "spec.json"), str(stormy / "transcript.json")]
    storm = subprocess.Popen(command("--name", "stormy", "--policy", str(rule), "--report", str(report), agent=agent))
    wait_for(SLICE / "agentcgroup-stormy.scope/tools/tool-3")
    calls = [{"command": f"sleep 1; /bin/echo {number}; cat /proc/self/cgroup; true"} for number in range(8)]
    done, said = script(quiet, calls)
    assert storm.wait(timeout=400) == 0
    assert [call["argv"][-1] for call in done.calls] == [call["command"] for call in calls]
    assert [call["stdout"].split()[0] for call in said] == [str(number) for number in range(8)]
    assert [call["stdout"].strip().rpartition("/")[2] for call in said] == [call["leaf"] for call in done.calls]
    storms = json.loads(report.read_text())
    assert sum(call["processes"] for call in storms["calls"]) > 300
    assert storms["source_figures"]["records"] < 2 * _TOLD_PER_SECOND * storms["duration_s"] + 100
    assert storms["source_figures"]["lost"] == 0
    assert_nothing_left()
