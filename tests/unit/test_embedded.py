"""A whole ``run`` without a daemon, on folders that stand in for cgroups: its life cycle, and what it leaves when something is lacking."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the governing process needs root's view of processes")


def words(folder: Path, *options: str, agent: str = "exit 7") -> list[str]:
    return [sys.executable, "-m", "tests.agents.foldered", str(folder), "--name", "x", *options, "--", "sh", "-c", agent]


def run(folder: Path, *options: str, agent: str = "exit 7", **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        words(folder, *options, agent=agent), capture_output=True, text=True, timeout=60, env={**os.environ, "TMPDIR": str(folder), **environment}
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done


def left(folder: Path) -> list[str]:
    """Sessions and cgroups that are still there."""
    found = [*folder.glob("run/sessions/*"), *folder.glob("cgroup/agentcgroup.slice/agentcgroup-*")]
    return [str(one.relative_to(folder)) for one in found]


def test_a_session_runs_reports_and_leaves_nothing(tmp_path: Path) -> None:
    done = run(tmp_path, "--report", str(tmp_path / "r.json"), "--memory", "1G", agent="echo out; exit 7")
    assert (done.returncode, done.stdout) == (7, "out\n")
    assert "agentcgroup: session x" in done.stderr
    report = json.loads((tmp_path / "r.json").read_text())
    assert (report["budget"]["session"], os.waitstatus_to_exitcode(report["agent"]["exit"])) == (1 << 30, 7)
    assert left(tmp_path) == []


def test_how_the_agent_ended_is_known_however_long_the_summary_takes(tmp_path: Path) -> None:
    report, shown = tmp_path / "r.json", tmp_path / "shown"
    environment = {**os.environ, "IMPORTS_WAIT_FOR": str(shown)}
    with subprocess.Popen(words(tmp_path, "--report", str(report)), stderr=subprocess.PIPE, env=environment) as front:
        try:
            _until(report.exists)
        finally:
            shown.touch()
            front.communicate(timeout=60)
    assert os.waitstatus_to_exitcode(json.loads(report.read_text())["agent"]["exit"]) == 7


@pytest.mark.parametrize("forks", range(4))
def test_where_there_may_be_no_more_processes_it_says_so_and_leaves_nothing(tmp_path: Path, forks: int) -> None:
    done = run(tmp_path, NO_FORKS=str(forks))
    assert done.returncode == 2
    assert "can't be started: EAGAIN" in done.stderr
    assert "TasksMax=" in done.stderr
    assert left(tmp_path) == []


def test_a_host_process_that_can_not_be_forked_again_ends_nothing(tmp_path: Path) -> None:
    assert run(tmp_path, NO_FORKS="4").returncode == 7
    assert left(tmp_path) == []


def test_where_there_may_be_no_threads_it_runs_or_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    done = run(tmp_path, NO_THREADS="1")
    assert done.returncode == 2
    assert "can't start new thread" in done.stderr
    assert left(tmp_path) == []


def test_without_the_right_to_a_higher_priority_it_runs_with_its_own(tmp_path: Path) -> None:
    prefix = ["setpriv", "--bounding-set=-sys_nice", "--inh-caps=-sys_nice"]
    done = subprocess.run([*prefix, *words(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 7, done.stderr
    assert left(tmp_path) == []


def test_what_is_refused_is_refused_with_the_governing_processs_own_words(tmp_path: Path) -> None:
    for options, expected in ((["--name", "a b"], "session name 'a b' refused"), (["--policy", "/no/file"], "No such file")):
        done = run(tmp_path, *options)
        assert done.returncode == 2
        assert expected in done.stderr
        assert left(tmp_path) == []


def test_a_governing_process_that_is_killed_during_set_up_leaves_nothing(tmp_path: Path) -> None:
    done = run(tmp_path, KILL="engine")
    assert (done.returncode, "ended before the session began" in done.stderr) == (2, True), done.stderr
    assert left(tmp_path) == []


def test_a_front_that_is_killed_during_set_up_leaves_nothing_and_its_agent_never_runs(tmp_path: Path) -> None:
    assert run(tmp_path, KILL="front", agent=f"touch {tmp_path}/ran").returncode == -signal.SIGKILL
    _until(lambda: left(tmp_path) == [])
    assert not (tmp_path / "ran").exists()


def test_when_the_governing_process_dies_the_agent_goes_on_and_the_session_is_still_somebodys(tmp_path: Path) -> None:
    front = subprocess.Popen(
        words(tmp_path, agent="while [ ! -e go ]; do sleep 0.05; done; exit 5"), cwd=tmp_path, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent.parent)},
    )  # fmt: skip
    lock = tmp_path / "run/sessions/x/lock"
    control = tmp_path / "run/sessions/x/control.sock"
    _until(control.exists)
    _until(lambda: _agent_runs(front.pid))
    engine = next(
        pid
        for pid in _children(front.pid)
        if _leads_a_session(pid) and _says(pid, "foldered") and _fds(pid, "run/sessions/x/engine.err")
    )
    os.kill(engine, signal.SIGKILL)
    _until(lambda: engine not in _children(front.pid))
    with open(lock) as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    (tmp_path / "go").touch()
    _, err = front.communicate(timeout=60)
    assert front.returncode == 5, err
    assert "the governing process of this session died (killed); the agent ran on without limits" in err
    assert left(tmp_path) == []


def _until(true: Any) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _says(pid: int, text: str) -> bool:
    return text in Path(f"/proc/{pid}/cmdline").read_text()


def _agent_runs(front: int) -> bool:
    return any(not _says(pid, "foldered") for pid in _children(front))


def _leads_a_session(pid: int) -> bool:
    return os.getsid(pid) == pid


def _fds(pid: int, name: str) -> bool:
    return any(name in os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir())
