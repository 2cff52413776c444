"""What is known of a leaf ends with that leaf, whatever is made at the same path afterwards."""

import asyncio
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agentcgroup import cgroup, systemd
from agentcgroup.classify import classify, split_budget
from agentcgroup.kernel import scheduler
from agentcgroup.model import CallRecord, Limits
from agentcgroup.policy import HostRule, load_policy
from agentcgroup.schedule import events as ev
from agentcgroup.session import places
from agentcgroup.session.acts import Acts
from agentcgroup.session.layout import Layout
from agentcgroup.session.live import Live, Placement
from agentcgroup.session.share import Share
from agentcgroup.session.watch import Watcher
from agentcgroup.tracker import Tracker
from tests.unit.folders import Folders, Watched, folders

__all__ = ["folders"]
MIB = 1 << 20
POLICY = load_policy()
DEFAULT = replace(
    classify(POLICY, split_budget(POLICY, 1 << 30), ()).limits, memory_high_bytes=64 * MIB, memory_max_bytes=80 * MIB
)


class Session:
    """The parts of a session that put processes into leaves and give these their limits."""

    def __init__(self, folders: Folders) -> None:
        self.folders = folders
        top = folders.make("session")
        self.tools = folders.make("session", "tools")
        folders.make("session", "agent")
        self.source = Watched()
        self.layout = Layout("x", self.source, top)
        self.live: dict[int, Live] = {}
        self.placement = Placement(self.live, self.layout, Tracker(POLICY, 1), True, 800, print)
        self.acts = Acts(print, lambda record, deed: None, 0.0, lambda live, notice: notice)
        began = ev.SessionBegan("x", "normal", 1 << 30)
        self.acts.share = self.share = Share(
            began, self.tools, "auto", HostRule(), self.source, self.live, self.acts.deed, lambda *_: None, lambda *_: None, print
        )
        self.placement.placed, self.placement.lost = self.share.adopt, self.share.ended

    def call(self, number: int) -> Live:
        self.live[number] = Live(CallRecord(number, 100 * number, ("x",), 0.0))
        return self.live[number]

    def place(self, live: Live, pid: int, limits: Limits = DEFAULT) -> bool:
        placed = self.placement.place(live, pid)
        while self.placement.bare:
            self.acts.apply_limits(self.placement.bare.pop(), limits)
        return placed

    def limits(self, live: Live) -> tuple[str, ...]:
        assert live.leaf is not None
        return tuple(cgroup.read(live.leaf, name) for name in ("memory.high", "memory.max", "memory.swap.max", "pids.max"))


@pytest.fixture
def session(folders: Folders) -> Iterator[Session]:
    yield Session(folders)


WANTED = (str(64 * MIB), str(80 * MIB), "0", str(DEFAULT.processes))


def test_a_call_whose_root_ended_before_it_was_placed_has_its_limits_all_the_same(session: Session) -> None:
    session.layout.prepare(1, DEFAULT)
    call = session.call(1)
    session.folders.ended.add(100)
    assert not session.place(call, 100)
    assert session.place(call, 101)
    assert session.limits(call) == WANTED


def test_a_spare_leaf_is_not_written_to_again(session: Session) -> None:
    session.layout.prepare(1, DEFAULT)
    (session.tools / "tool-1" / "memory.max").write_text("as it was made")
    call = session.call(1)
    session.place(call, 100)
    assert session.limits(call)[1] == "as it was made"


def test_a_spare_leaf_that_somebody_removed_or_replaced_is_made_again(session: Session) -> None:
    session.layout.prepare(1, DEFAULT)
    for number in (1, 2):
        session.folders.remove(session.tools / f"tool-{number}")
    (session.tools / "in-between").mkdir()  # so that the next folder has another number
    session.folders.make("session", "tools", "tool-2")
    for number in (1, 2):
        call = session.call(number)
        assert session.place(call, 100 * number)
        assert session.limits(call) == WANTED


def test_a_leaf_that_was_removed_under_its_call_is_made_again_with_its_limits(session: Session) -> None:
    call = session.call(1)
    session.place(call, 100)
    call.counts["oom_kill"] = 3
    assert call.leaf is not None
    first = call.cgroup_id
    session.folders.remove(call.leaf)
    (session.tools / "in-between").mkdir()
    assert session.place(call, 101)
    assert session.limits(call) == WANTED
    assert call.cgroup_id != first and call.counts == {}
    assert session.placement.call_in(first) is None and session.placement.call_in(call.cgroup_id) == 1


def test_a_leaf_that_nobody_got_into_is_not_watched_any_more(session: Session) -> None:
    session.layout.prepare(1, DEFAULT)
    session.folders.ended.add(100)
    session.place(session.call(1), 100)
    there = {leaf.stat().st_ino for leaf in session.tools.glob("tool-*")}
    assert session.source.places == there


def test_of_a_leaf_that_an_earlier_governor_made_nothing_is_taken_for_granted(session: Session) -> None:
    leaf = session.folders.make("session", "tools", "tool-7")
    for name, value in (("pids.max", "17"), ("cpu.weight", "1"), ("memory.swap.max", "0")):
        (leaf / name).write_text(value)
    call = session.call(7)
    session.placement.restore(call, session.layout.adopt_leaf(leaf))
    session.acts.apply_limits(call, replace(DEFAULT, processes=None, swap_max_bytes=None))
    assert cgroup.read(leaf, "pids.max") == cgroup.read(leaf, "memory.swap.max") == "max"
    assert cgroup.read(leaf, "cpu.weight") == str(DEFAULT.cpu_weight)


def test_letting_go_touches_only_the_cgroups_that_are_ours(folders: Folders) -> None:
    top = folders.make("docker-abc.scope")
    folders.make("docker-abc.scope", "agent")
    folders.make("docker-abc.scope", "tools")
    ours = folders.make("docker-abc.scope", "tools", "tool-1")
    theirs = [
        folders.make("docker-abc.scope", *parts) for parts in (("docker", "inner"), ("agent", "x"), ("tools", "tool-1", "x"))
    ]
    values = {"memory.max": "104857600", "memory.high": "1000", "cpu.max": "50000 100000", "cgroup.freeze": "1"}
    for place in (top, ours, *theirs):
        for name, value in values.items():
            (place / name).write_text(value)
    places.lift(top)
    assert [cgroup.read(ours, name) for name in values] == ["max", "max", "max", "0"]
    for place in (top, *theirs):
        assert {name: cgroup.read(place, name) for name in values} == values


def test_the_process_that_a_caller_gives_as_its_keeper_can_neither_fork_nor_take_memory(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroup, "mount_point", lambda: folders.top)
    monkeypatch.setattr(systemd, "is_running", lambda: False)
    folders.make()
    folders.make(systemd.SLICE)
    Layout("x", Watched()).create(100, 101, split_budget(POLICY, 1 << 30), "normal", 100, 100)
    keeper = places.session_cgroup("x") / places.KEEPER
    assert cgroup.read(keeper, "cgroup.procs").split() == ["101"]
    assert int(cgroup.read(keeper, "memory.max")) <= 16 * MIB
    assert [cgroup.read(keeper, name) for name in ("memory.swap.max", "pids.max", "cpu.weight")] == ["0", "1", "1"]


def test_only_folders_that_are_named_as_leaves_are_leaves(tmp_path: Path) -> None:
    for name in ("tool-12", "tool-x", "tool-", "tool-²", "tool-007", "tool-1-x", "tool-" + "9" * 200):
        (tmp_path / "tools" / name).mkdir(parents=True)
    assert places.leaves_in(tmp_path) == {12: tmp_path / "tools" / "tool-12"}


def test_a_watch_that_has_ended_can_not_end_another_one(tmp_path: Path) -> None:
    async def run() -> None:
        watcher = Watcher()
        seen: list[str | None] = []
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        keeps = os.open(pipe, os.O_RDWR)
        ended = watcher.file(pipe, seen.append)  # it can't be read at an offset, as a cgroup's file that is gone can't
        other = watcher.file(Path("/proc/self/mounts"), lambda text: None)
        assert seen == [None] and other != ended
        watcher.forget(ended)
        watcher.forget(ended)
        assert other in watcher._watches
        watcher.close()
        os.close(keeps)

    asyncio.run(run())


def test_all_threads_are_given_though_some_end_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    threads = [threading.Thread(target=over.wait) for _ in range(3)]
    late = threading.Thread(target=over.wait)
    for thread in threads:
        thread.start()
    asked: list[int] = []

    def set_scheduler(thread: int, policy: int, parameter: os.sched_param) -> None:
        asked.append(thread)
        if len(asked) == 2:
            late.start()
            raise ProcessLookupError(3, "gone")

    monkeypatch.setattr(os, "sched_setscheduler", set_scheduler)
    scheduler.give(os.getpid())
    ids = {thread.native_id for thread in (*threads, late)}
    over.set()
    for thread in (*threads, late):
        thread.join()
    assert ids <= set(asked) and len(asked) == len(set(asked))


def test_a_process_is_late_once_however_often_that_is_said(session: Session) -> None:
    call = session.call(1)
    for _ in range(2):
        session.placement.misplaced(1, 101)
    assert call.misplaced == 1
    assert session.placement.fetch()
    assert not session.placement.fetch()
    assert call.misplaced == 0


def test_all_may_read_a_calls_limits_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        cgroup.create(tmp_path / "leaf")
    finally:
        os.umask(before)
    assert (tmp_path / "leaf").stat().st_mode & 0o777 == 0o755
