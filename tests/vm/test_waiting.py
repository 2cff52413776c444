"""Sessions that share a host too small for all their bursts at once: who waits, who goes on, what they are told."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentcgroup.host.arbiter import NAME, SOCKET
from tests.vm.harness import AGENTS, SLICE, assert_nothing_left, command, frozen, once_frozen, until, wait_for

pytestmark = pytest.mark.outer_kernels

HINT = "AGENT_RESOURCE_HINT=memory:450M"
HOST_MIB = 700


@pytest.fixture
def small_host() -> Iterator[None]:
    """All sessions together have HOST_MIB; the host process forgets earlier sessions first."""
    deadline = time.monotonic() + 20
    while SOCKET.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    limit_slice(f"MemoryMax={HOST_MIB}M", "MemorySwapMax=0")
    yield
    limit_slice("MemoryMax=infinity", "MemorySwapMax=infinity")


def limit_slice(*properties: str) -> None:
    subprocess.run(["systemctl", "set-property", "--runtime", SLICE.name, *properties], check=True)


def start(folder: Path, name: str, agent: str, *options: str) -> "subprocess.Popen[str]":
    """Start a session whose agent is a shell that runs ``agent``."""
    rule = folder / "generous.yaml"
    rule.write_text("version: 1\ndefault: {memory: 100%}\n")
    words = command(
        "--name", name, "--policy", str(rule), "--report", str(folder / f"{name}.json"), *options, agent=["sh", "-c", agent]
    )
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(run: "subprocess.Popen[str]", folder: Path, name: str) -> dict[str, Any]:
    _, words = run.communicate(timeout=400)
    assert run.returncode == 0, words
    return dict(json.loads((folder / f"{name}.json").read_text()))


def tool(program: str, hint: str = "") -> str:
    """A tool call as a shell command; its output is captured, as an agent's would be."""
    return f"x=$({hint} {program} 2>&1)"


def when(file: Path) -> str:
    """The beginning of an agent that waits for a file."""
    return f"until [ -e {file} ]; do sleep 0.3; done; "


def agentcgroup(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-m", "agentcgroup", *words], capture_output=True, text=True, timeout=600)


def deeds(report: dict[str, Any], what: str) -> list[dict[str, Any]]:
    return [deed for call in report["calls"] for deed in call["deeds"] if deed["what"].startswith(what)]


@pytest.mark.parametrize(
    ("events", "hint"),
    [
        ("bpf", HINT),
        pytest.param("bpf", "", marks=pytest.mark.one_kernel),
        pytest.param("connector", HINT, marks=pytest.mark.one_kernel),
    ],
)
def test_two_bursts_that_do_not_fit_at_once_both_finish(
    tmp_path: Path, steps: str, small_host: None, events: str, hint: str
) -> None:
    options = ("--memory", "1G", "--events", events)
    enough = tmp_path / "enough"
    first = start(tmp_path, "first", "sleep 1; " + tool(f"{steps} 420:{enough}", hint), *options, "--priority", "high")
    after = when(tmp_path / "enough.420")
    second = start(tmp_path, "second", after + tool(f"{steps} 420:0.5", hint), *options, "--priority", "low")
    with once_frozen(enough):
        high, low = finish(first, tmp_path, "first"), finish(second, tmp_path, "second")
    waited = deeds(low, "waited")
    # Where both began before either could be told, the first may wait for a moment, too.
    assert sum(deed["lasted_s"] for deed in deeds(high, "waited")) < 0.5
    assert "first/" in waited[-1]["why"], waited
    assert sum(deed["lasted_s"] for deed in waited) > 0
    assert not [deed for report in (high, low) for deed in deeds(report, "stopped")]
    assert_nothing_left()
    told = agentcgroup("explain", "second").stdout
    assert "for first/" in told
    assert f"second/{max(call['call'] for call in low['calls'] if call['deeds'])}: " in told


@pytest.mark.one_kernel
def test_what_fits_at_once_is_left_alone(tmp_path: Path, steps: str, small_host: None) -> None:
    enough, names = tmp_path / "enough", ("first", "second")
    held = {name: tool(f"{steps} 200:{enough}-{name}") for name in names}
    runs = [start(tmp_path, name, held[name], "--memory", "400M") for name in names]
    for name in names:
        wait_for(tmp_path / f"enough-{name}.200")
    for run, name in zip(runs, names, strict=True):
        (tmp_path / f"enough-{name}").touch()
        assert not deeds(finish(run, tmp_path, name), "waited")


@pytest.mark.one_kernel
@pytest.mark.parametrize("victim", ["host", "host and governor"])
def test_nobody_stays_frozen_when_the_host_process_dies(tmp_path: Path, steps: str, small_host: None, victim: str) -> None:
    enough = tmp_path / "enough"
    first = start(tmp_path, "first", tool(f"{steps} 420:{enough}"), "--memory", "1G", "--priority", "high")
    # Frozen for what it says that it needs; let go by the host process's death, both do fit.
    call = tool(f"{steps} 180:{enough}", HINT)
    second = start(tmp_path, "second", when(tmp_path / "enough.420") + call, "--memory", "1G", "--priority", "low")
    until(frozen, "nobody was frozen")
    (host,) = (int(folder.name) for folder in Path("/proc").glob("[0-9]*") if NAME.encode() in read(folder / "comm"))
    os.kill(host, signal.SIGKILL)
    if victim != "host":
        subprocess.run(["pkill", "-KILL", "-f", "agentcgroup run --name second"], check=True)
    if victim == "host":
        # Let go at once; a new host process comes, and may stop it again.
        until(lambda: not frozen(), "somebody stayed frozen")
    enough.touch()
    if victim == "host":
        assert finish(first, tmp_path, "first")["calls"]
        assert finish(second, tmp_path, "second")["calls"]
    else:
        second.wait(240)
        first.communicate(timeout=240)
        subprocess.run([sys.executable, "-m", "agentcgroup", "cleanup", "--end"], check=True)
        assert not frozen()
    assert_nothing_left()


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.mark.one_kernel
def test_when_waiting_can_not_help_one_is_stopped_and_its_agent_is_told(tmp_path: Path, steps: str, small_host: None) -> None:
    """Each has half and wants all: the one of the lower priority goes."""
    go_on = tmp_path / "go-on"
    agent = f"{steps} 300:{go_on} 600:1 >{tmp_path}/out 2>{tmp_path}/told"
    low = start(tmp_path, "low", agent, "--memory", "1G", "--priority", "low")
    wait_for(tmp_path / "go-on.300")
    (tmp_path / "go-on.300").unlink()
    high = start(tmp_path, "high", f"x=$({steps} 300:{go_on} 600:1)", "--memory", "1G", "--priority", "high")
    wait_for(tmp_path / "go-on.300")
    go_on.touch()
    assert not deeds(finish(high, tmp_path, "high"), "stopped")
    low.communicate(timeout=240)
    report = json.loads((tmp_path / "low.json").read_text())
    assert deeds(report, "stopped"), report
    [stopped] = deeds(report, "stopped")
    assert "wait for each other" in stopped["why"]
    assert "waiting did not help" in (tmp_path / "told").read_text()
    assert_nothing_left()


@pytest.mark.one_kernel
def test_three_real_agents_at_once_all_complete_and_are_told_apart(tmp_path: Path) -> None:
    """Their bursts of 320 MiB do not fit beside each other: who waited, for whom, and how long is in the summaries."""
    deadline = time.monotonic() + 20
    while SOCKET.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    limit_slice("MemoryMax=580M", "MemorySwapMax=0")  # one burst and what the others hold, but no two bursts
    try:
        runs = {}
        for priority in ("high", "normal", "low"):
            agent = [sys.executable, str(AGENTS / "mini.py"), str(tmp_path / priority)]
            options = (
                "--name",
                f"mini-{priority}",
                "--memory",
                "580M",
                "--priority",
                priority,
                "--report",
                str(tmp_path / f"{priority}.json"),
            )
            runs[priority] = subprocess.Popen(
                command(*options, agent=agent), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        ended = {priority: (*run.communicate(timeout=800), run.returncode) for priority, run in runs.items()}
    finally:
        limit_slice("MemoryMax=infinity", "MemorySwapMax=infinity")
    for priority, (_, summary, code) in ended.items():
        assert code == 0, (priority, summary)
    reports = {priority: json.loads((tmp_path / f"{priority}.json").read_text()) for priority in runs}
    killed = [deed for report in reports.values() for deed in deeds(report, "killed by the kernel")]
    assert not killed, [(priority, report["calls"]) for priority, report in reports.items()]
    waited = {priority: sum(deed["lasted_s"] for deed in deeds(report, "waited")) for priority, report in reports.items()}
    # Which of them meet depends on how fast each came to its burst.
    waits = [priority for priority, seconds in waited.items() if seconds > 0]
    assert sum(waited.values()) > 0.5, waited
    for priority in waits:
        assert "waited" in ended[priority][1]
    assert any("for mini-" in deed["why"] for report in reports.values() for deed in deeds(report, "waited"))
    assert_nothing_left()


def recorded(task: str, burst_at: int) -> dict[str, Any]:
    """A run of 16 s whose one call has a burst of six seconds."""
    return {"task": task, "model": "m", "samples": [[at, 250 if burst_at <= at < burst_at + 6 else 40, 20] for at in range(16)],
            "calls": [{"t": burst_at - 0.5, "end": burst_at + 6.5, "tool": "Bash", "command": "pytest -x"}]}  # fmt: skip


@pytest.mark.one_kernel
@pytest.mark.parametrize("control", ["--control", "--no-control"])
def test_recorded_runs_are_played_with_and_without_control(tmp_path: Path, control: str) -> None:
    traces = tmp_path / "runs.jsonl"
    # The second's burst comes in the middle of the first's: who is first must not depend on the machine.
    traces.write_text("".join(f"{json.dumps(recorded(*run))}\n" for run in (("two/first", 4), ("two/second", 6))))
    words = (
        "replay",
        "two/first:high",
        "two/second:low",
        "--traces",
        str(traces),
        "--speed",
        "3",
        "--memory",
        "420M",
        "--hints",
        control,
    )
    done = agentcgroup(*words, "--json")
    assert done.returncode == 0, done.stderr
    high, low = json.loads(done.stdout)
    if control == "--control":
        assert (high["killed"], low["killed"]) == (0, 0), (high, low)
        assert low["waits"] > 0, (high, low)
    else:
        assert high["killed"] + low["killed"] > 0
        assert low["waits"] == 0
    assert high["overhead"] < 0.9
    assert_nothing_left()


@pytest.mark.one_kernel
def test_bad_input_to_replay_and_explain_is_refused() -> None:
    for words, expected in (
        (("replay", "x", "--traces", "/none"), "can't be read"),
        (("replay", "x:royal", "--traces", "/none"), "high, normal or low"),
        (("simulate", "--traces", "/none"), "can't be read"),
        (("simulate", "--memory", "much"), "is not a size"),
        (("explain", "nobody"), "no session"),
        (("explain", "a/b"), "not the number of a call"),
    ):
        done = agentcgroup(*words)
        assert done.returncode == 2, words
        assert expected in done.stderr
        assert "Traceback" not in done.stderr
