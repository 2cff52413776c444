"""What the tests in the virtual host share: sessions, agents, and a witness that reads the cgroup tree from outside."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from agentcgroup.session.places import RUN, SESSIONS

AGENTS = Path(__file__).parent.parent / "agents"
SLICE = Path("/sys/fs/cgroup/agentcgroup.slice")
TRIES = int(os.environ.get("AGENTCGROUP_TRIES") or 0)
"""How often the tests that repeat themselves do so; 0: their own, quick number."""

EVENTS = pytest.mark.parametrize("events", ["bpf", pytest.param("connector", marks=pytest.mark.first_kernel)])
"""For tests whose result must not depend on where events come from.  The connector is what old kernels need, and has not changed."""


@dataclass
class Outcome:
    """How a session ended: exit code, what it printed, its report."""

    code: int
    stdout: str
    stderr: str
    report: dict[str, Any]

    @property
    def calls(self) -> list[dict[str, Any]]:
        return list(self.report["calls"])


def command(*options: str, agent: list[str]) -> list[str]:
    return [sys.executable, "-m", "agentcgroup", "run", *options, "--", *agent]


def session(folder: Path, *options: str, agent: list[str], **kwargs: Any) -> Outcome:
    """Run an agent in a session and return how it ended."""
    report = folder / "report.json"
    done = subprocess.run(
        command("--report", str(report), *options, agent=agent),
        capture_output=True,
        text=True,
        timeout=800 + 10 * TRIES,
        **kwargs,
    )
    return Outcome(done.returncode, done.stdout, done.stderr, json.loads(report.read_text()) if report.exists() else {})


def script(
    folder: Path, calls: Sequence[Mapping[str, str | float]], *options: str, parallel: int = 1, before: tuple[str, ...] = ()
) -> tuple[Outcome, list[dict[str, Any]]]:
    """Run calls by the scripted agent in a session; returns the outcome and the agent's transcript."""
    spec, transcript = folder / "spec.json", folder / "transcript.json"
    spec.write_text(json.dumps({"calls": calls, "parallel": parallel}))
    agent = [*before, sys.executable, str(AGENTS / "scripted.py"), str(spec), str(transcript)]
    outcome = session(folder, *options, agent=agent)
    assert transcript.exists(), outcome.stderr
    return outcome, json.loads(transcript.read_text())["calls"]


def policy(folder: Path, text: str) -> Path:
    """A policy file."""
    file = folder / "policy.yaml"
    file.write_text("version: 1\n" + text)
    return file


def assert_nothing_left() -> None:
    """No session's cgroup, folder or process is left, within the moment that systemd takes to remove a scope."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and (list(SLICE.glob("agentcgroup-*")) or list(SESSIONS.iterdir())):
        time.sleep(0.1)
    assert list(SLICE.glob("agentcgroup-*")) == []
    assert list(RUN.glob("sessions/*")) == []


def wait_for(path: Path, seconds: float = 240) -> None:
    """Wait until a file or folder is there."""
    until(path.exists, f"{path} did not appear", seconds)


def until(condition: Callable[[], Any], words: str, seconds: float = 240) -> None:
    """Wait until something is so; ``words`` say what never was."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, words
        time.sleep(0.05)


def frozen() -> list[Path]:
    """The leaves that are frozen, of all sessions."""
    found = []
    for file in SLICE.glob("*/tools/*/cgroup.freeze"):
        with suppress(OSError):
            if file.read_text().strip() == "1":
                found.append(file.parent)
    return found


@contextmanager
def once_frozen(go_on: Path) -> Iterator[None]:
    """Make a file as soon as a call has been frozen for a second: what another one holds memory for, however slow the machine is."""

    def watch() -> None:
        with suppress(AssertionError):  # whoever waited for nothing is found out by what the sessions report
            until(frozen, "nobody was frozen")
            time.sleep(1)
        go_on.touch()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def own_processes(run: int) -> list[int]:
    """The processes that run forked for itself: the governor, and what holds the session's cgroup open."""
    children = Path(f"/proc/{run}/task/{run}/children")
    found = []
    for pid in map(int, children.read_text().split()) if children.exists() else []:
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
        if b"agentcgroup" in line and "agentcgroup.slice" not in Path(f"/proc/{pid}/cgroup").read_text():
            found.append(pid)
    return found


def governor(run: int) -> int:
    """The governing process of a run."""
    (found,) = (pid for pid in own_processes(run) if os.getsid(pid) == pid)
    return found


def kill_all(pids: list[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


@dataclass
class Witness:
    """What was seen of the cgroup tree from outside: processes per leaf, and of the agent domain."""

    leaves: dict[str, set[int]] = field(default_factory=dict)
    agent: set[int] = field(default_factory=set)
    elsewhere: set[int] = field(default_factory=set)
    stop: threading.Event = field(default_factory=threading.Event)

    def look(self) -> None:
        for scope in SLICE.glob("agentcgroup-*.scope"):
            for leaf in (scope / "tools").glob("*"):
                if leaf.is_dir():
                    self._read(leaf, self.leaves.setdefault(leaf.name, set()))
            self._read(scope / "agent", self.agent)
            self._read(scope, self.elsewhere)
            self._read(scope / "tools", self.elsewhere)

    def seen(self) -> set[str]:
        """Leaves that had a process."""
        return {name for name, pids in self.leaves.items() if pids}

    @staticmethod
    def _read(cgroup: Path, into: set[int]) -> None:
        with suppress(OSError):
            into.update(int(line) for line in (cgroup / "cgroup.procs").read_text().split())


@contextmanager
def witness() -> Iterator[Witness]:
    """Watch the tree in the background."""
    eye = Witness()

    def watch() -> None:
        while not eye.stop.is_set():
            eye.look()
            time.sleep(0.03)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield eye
    finally:
        eye.stop.set()
        thread.join()
