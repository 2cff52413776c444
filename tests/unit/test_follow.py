"""Which processes are whose, where events came late or not at all: real processes, folders as cgroups."""

import itertools
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agentcgroup import cgroup
from agentcgroup.policy import load_policy
from agentcgroup.session.calls import Calls
from agentcgroup.session.follow import Follower
from agentcgroup.session.layout import Layout
from agentcgroup.sources import Event, Execed, Forked
from agentcgroup.tracker import Begin, Tracker
from tests.unit.folders import Folders, Watched, folders

__all__ = ["folders"]
SHELL = "exec 3<&0; read x; (head -n 1 <&3; tail -n 1 <&3) & wait"
INIT = f"import subprocess; subprocess.run(['sh', '-c', {SHELL!r}])"


class Heard:
    """What a follower tells the calls of its session, written down."""

    def __init__(self) -> None:
        self.begun: list[Begin] = []
        self.said = SimpleNamespace(execed=lambda *_: None)
        self.placement = SimpleNamespace(call_in=lambda _: None, join=lambda _: None, misplaced=lambda *_: None)

    def begin(self, begun: Begin, there: bool = True) -> None:
        self.begun.append(begun)

    def knows_of(self, pid: int, at_ns: int) -> bool:
        return False

    def leaves(self) -> dict[int, Path]:
        return {}

    def processes_in(self, place: Path | None) -> list[int]:
        return cgroup.processes(place) if place is not None else []

    def decided_again(self) -> None:
        pass

    def news(self, event: Event) -> None:
        pass


@pytest.fixture
def init() -> Iterator[subprocess.Popen[bytes]]:
    """The init of a container, and below it an agent: a shell that waits until it may start a command."""
    with subprocess.Popen(["/sbin/docker-init", "-c", INIT], executable=sys.executable, stdin=subprocess.PIPE) as started:
        yield started


def child_of(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    deadline = time.monotonic() + 60
    while not (found := children.read_text().split()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return int(found[0])


@pytest.fixture
def line(init: subprocess.Popen[bytes]) -> tuple[int, int, int, int]:
    """The init, the shell that is the agent, a fork of that, and the command that it started."""
    assert init.stdin is not None
    shell = child_of(init.pid)
    init.stdin.write(b"go\n")
    init.stdin.flush()
    subshell = child_of(shell)
    return init.pid, shell, subshell, child_of(subshell)


@pytest.fixture
def follower(folders: Folders, init: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch) -> Follower:
    layout = Layout("x", Watched(), folders.make("session"))
    folders.make("session", "agent")
    folders.make("session", "tools")
    monkeypatch.setattr(cgroup, "of_process", lambda pid: layout.agent)
    heard = cast(Calls, cast(Any, Heard()))
    return Follower(
        Tracker(load_policy(), init.pid), heard, Watched(), layout, init.pid, init.pid, True, lambda: None, lambda do: None, print
    )  # fmt: skip


def begun(follower: Follower) -> list[int]:
    return [one.pid for one in cast(Heard, follower._calls).begun]


def test_below_an_init_that_nobody_looked_at_yet_the_agent_is_what_it_started_and_no_call(
    follower: Follower, line: tuple[int, int, int, int]
) -> None:
    _, shell, subshell, command = line
    follower.deliver(Forked(subshell, command, time.monotonic_ns()))
    assert follower._tracker.is_agent(shell)
    assert follower._tracker.is_agent(subshell)
    assert begun(follower) == []
    follower._find_place(command, time.monotonic_ns())
    assert begun(follower) == [command]


def test_events_of_what_an_init_started_may_be_there_before_the_session_is_read(
    follower: Follower, line: tuple[int, int, int, int]
) -> None:
    before_ns = time.monotonic_ns()
    (follower._layout.agent / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in line))
    follower.look_first()
    for parent, child in itertools.pairwise(line):
        follower.deliver(Forked(parent, child, before_ns))
    follower.deliver(Execed(line[-1], before_ns))
    assert begun(follower) == [line[-1]]
