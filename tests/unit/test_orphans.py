"""Whose a process is whose parent has ended before anybody was told of either: real processes, folders as cgroups."""

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agentcgroup import cgroup
from agentcgroup.policy import load_policy
from agentcgroup.process import Facts
from agentcgroup.session.calls import Calls
from agentcgroup.session.follow import Follower
from agentcgroup.session.layout import Layout
from agentcgroup.sources import Forked, Lost
from agentcgroup.tracker import Begin, Tracker
from tests.unit.folders import Folders, Watched, folders

__all__ = ["folders"]
AGENT = 4_194_305  # no process has this number


class Heard:
    """What a follower tells the calls of its session, written down."""

    def __init__(self, leaves: dict[int, Path]) -> None:
        self.begun: list[Begin] = []
        self._leaves = leaves
        self.placement = SimpleNamespace(call_in=lambda _: None, join=lambda _: None, misplaced=lambda *_: None)
        self.share = SimpleNamespace(ask_again=lambda: None)

    def begin(self, begun: Begin, there: bool = True) -> None:
        self.begun.append(begun)

    def knows_of(self, pid: int, at_ns: int) -> bool:
        return False

    def leaves(self) -> dict[int, Path]:
        return self._leaves

    def processes_in(self, place: Path | None) -> list[int]:
        return cgroup.processes(place) if place is not None else []

    def decided_again(self) -> None: ...

    def news(self, event: object) -> None: ...

    def check_all(self) -> None: ...


@pytest.fixture
def orphan() -> Iterator[tuple[int, int]]:
    """A process that has ended, and a child of it that goes on."""
    with subprocess.Popen(["sh", "-c", "sleep 61 >/dev/null & echo $!"], stdout=subprocess.PIPE, text=True) as parent:
        child = int(parent.communicate()[0])
    yield parent.pid, child
    subprocess.run(["kill", str(child)], check=True)


@pytest.fixture
def layout(folders: Folders, orphan: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> Layout:
    made = Layout("x", Watched(), folders.make("session"))
    folders.make("session", "agent")
    folders.make("session", "tools", "tool-1")
    monkeypatch.setattr(cgroup, "of_process", lambda pid: made.agent if pid in orphan else folders.top)
    return made


def follow(layout: Layout, tracker: Tracker, heard: Heard) -> tuple[Follower, list[Callable[[], object]]]:
    """A follower, and what it wants to be done later."""
    later: list[Callable[[], object]] = []
    tracker.execed(AGENT, Facts(AGENT, 1, 1, ("node", "agent.js"), "/", True), 1)
    follower = Follower(
        tracker, cast(Calls, cast(Any, heard)), Watched(), layout, AGENT, AGENT, False, lambda: None, later.append, print
    )  # fmt: skip
    return follower, later


def test_an_orphan_of_an_unknown_parent_is_no_part_of_the_agent(layout: Layout, orphan: tuple[int, int]) -> None:
    tracker, heard = Tracker(load_policy(), AGENT), Heard({})
    follow(layout, tracker, heard)[0].deliver(Forked(*orphan, time.monotonic_ns()))
    assert [begun.pid for begun in heard.begun] == [orphan[1]]
    assert not tracker.knows(orphan[0])


def test_an_orphan_that_runs_what_a_call_runs_is_of_that_call(layout: Layout, orphan: tuple[int, int]) -> None:
    with subprocess.Popen(["sleep", "61"]) as other:
        leaf = layout.tools / "tool-1"
        (leaf / "cgroup.procs").write_text(f"{other.pid}\n")
        tracker, heard = Tracker(load_policy(), AGENT), Heard({1: leaf})
        follow(layout, tracker, heard)[0].deliver(Forked(*orphan, time.monotonic_ns()))
        other.kill()
    assert heard.begun == []
    assert tracker.call_of(orphan[1]) == 1


def test_a_session_is_read_again_once_however_many_losses_are_told_before(layout: Layout) -> None:
    follower, later = follow(layout, Tracker(load_policy(), AGENT), Heard({}))
    follower.deliver(Lost())
    follower.deliver(Lost())
    (read_again,) = later
    read_again()
    follower.deliver(Lost())
    assert later == [read_again, read_again]
