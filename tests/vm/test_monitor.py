"""What the BPF monitor tells of a leaf's memory, and what a session makes of retry loops."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentcgroup import cgroup
from agentcgroup.policy import MonitorRule
from agentcgroup.sources import Emptied, Event, MemoryNews, Victim, Waited
from agentcgroup.sources.monitor import Monitor
from tests.vm.harness import assert_nothing_left, policy, script


@pytest.fixture
def leaf() -> Iterator[Path]:
    top = cgroup.mount_point() / f"monitor-test-{os.getpid()}"
    cgroup.create(top)
    cgroup.enable_controllers(top, cgroup.mount_point())
    cgroup.create(top / "leaf")
    yield top / "leaf"
    cgroup.remove(top / "leaf")
    cgroup.remove(top)


def hear(leaf: Path, *argv: str) -> list[Event]:
    """What the monitor says while a program runs in the leaf."""
    monitor = Monitor(MonitorRule(hold=0, stalled=0.01))
    assert not [what for what in monitor.without if "functions" in what]
    monitor.watch_call(leaf)
    said: list[Event] = []
    subprocess.run(["sh", "-c", 'echo 0 >"$0/cgroup.procs" && exec "$@"', str(leaf), *argv], check=False)
    time.sleep(0.1)
    monitor.drain(said.append)
    monitor.close()
    return said


def whats(said: list[Event]) -> set[str]:
    return {event.what for event in said if isinstance(event, MemoryNews)}


def test_fast_growth_is_told_in_steps(leaf: Path, hog: str) -> None:
    growth = [event for event in hear(leaf, hog, "300") if isinstance(event, MemoryNews) and event.what == "growth"]
    # Under software emulation 300 MiB take longer than the 10 ms a step may take; some steps are fast enough.
    assert len(growth) <= 300 / 32 + 1
    assert {event.cgroup for event in growth} <= {cgroup.number(leaf)}


def test_slow_growth_is_not_told(leaf: Path) -> None:
    assert whats(hear(leaf, "/bin/true")) == set()


def test_going_over_the_limit_is_told_and_so_is_the_wait_it_costs(leaf: Path, hog: str) -> None:
    cgroup.write(leaf, "memory.swap.max", 0)
    cgroup.write(leaf, "memory.high", 32 << 20)
    said = hear(leaf, hog, "40")
    assert "over" in whats(said)
    stalls = [event for event in said if isinstance(event, Waited) and event.resource == "memory"]
    assert stalls
    assert all(event.time_s >= 0.01 for event in stalls)


def test_a_victim_is_named_and_so_is_its_leaf(leaf: Path, hog: str) -> None:
    cgroup.write(leaf, "memory.swap.max", 0)
    cgroup.write(leaf, "memory.max", 32 << 20)
    said = hear(leaf, hog, "100")
    assert whats(said) >= {"full", "oom"}
    victims = [event for event in said if isinstance(event, Victim)]
    assert [event.cgroup for event in victims] == [cgroup.number(leaf)]
    assert Emptied(cgroup.number(leaf)) in said
    assert said.index(victims[0]) < said.index(Emptied(cgroup.number(leaf)))


def test_a_held_program_is_in_its_leaf_before_its_first_instruction(tmp_path: Path) -> None:
    monitor = Monitor(MonitorRule(hold=0.05))
    monitor.close()
    if monitor.without:
        pytest.skip("this kernel's execve can't be held: it lacks CONFIG_FUNCTION_ERROR_INJECTION")
    rule = policy(tmp_path, "monitor: {hold: 2s}\n")
    done, said = script(tmp_path, [{"command": "read line < /proc/self/cgroup; echo $line"}] * 10, "--policy", str(rule))
    assert [call["stdout"].strip().rpartition("/")[2] for call in said] == [f"tool-{number}" for number in range(1, 11)]
    assert done.report["source_figures"]["holds"] >= 10
    assert_nothing_left()


def test_a_retry_loop_is_found_and_what_it_leaves_is_given_back(tmp_path: Path) -> None:
    wasteful = {"command": "dd if=/dev/zero of=$(mktemp -p /scratch) bs=1M count=40 conv=fsync 2>/dev/null; sleep 0.3"}
    done, said = script(tmp_path, [{"command": "true"}, *[wasteful] * 5, {"command": "sleep 1"}])
    assert [call["returncode"] for call in said] == [0] * 7
    (loop,) = done.report["loops"]
    assert len(loop["calls"]) == 5
    assert loop["left_bytes"] > 64 << 20
    assert loop["reclaimed_bytes"] > 32 << 20
    assert "loop: 5 times dd if=/dev/zero" in done.stderr
    assert_nothing_left()


def test_what_a_retry_loop_leaves_running_is_ended_by_policy(tmp_path: Path) -> None:
    leaving = {"command": "sleep 77 >/dev/null 2>&1 & sleep 1"}
    rule = policy(tmp_path, "loops: {processes: end}\n")
    done, _ = script(tmp_path, [leaving] * 4, "--policy", str(rule))
    ended = [call["call"] for call in done.calls if any(deed["what"] == "ended" for deed in call["deeds"])]
    assert len(ended) == 3
    assert done.report["loops"][0]["ended_calls"] == ended
    assert_nothing_left()
