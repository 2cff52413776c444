"""What an earlier call left running is stopped: whoever waits for it reads why."""

import asyncio
import errno
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from agentcgroup import cgroup
from agentcgroup import control_events as ctl
from agentcgroup.control_events import Notice
from agentcgroup.model import CallRecord
from agentcgroup.session import acts
from agentcgroup.session.acts import Acts
from agentcgroup.session.live import Live
from tests.unit.folders import Folders, folders

__all__ = ["folders"]
NOTICE = Notice("memory", True, "default", 100 << 20, 50 << 20)
LEFT_RUNNING = b"what an earlier command left running (gradle build) was stopped: it used 100M of memory, its limit is 50M"


class Session:
    """Calls 1 to 3, each a process that sleeps; they have these as their stdin.  The root of the first one has ended."""

    def __init__(self, folders: Folders, stdin: Mapping[int, int], stack: ExitStack) -> None:
        self.files: ctl.InFiles | None = None
        began = time.monotonic() - 60
        self.acts = Acts(print, lambda record, deed: None, began, lambda live, notice: replace(notice, files=self.files))
        self.live: dict[int, Live] = {}
        self.acts.live = self.live
        self.leaves: dict[int, Path] = {}
        self.processes = {}
        for call in (1, 2, 3):
            child = subprocess.Popen(["sleep", "60"], stdin=stdin.get(call), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            stack.callback(child.wait)
            stack.callback(child.kill)
            leaf = folders.make(f"tool-{call}")
            (leaf / "cgroup.procs").write_text(f"{child.pid}\n")
            self.leaves[child.pid], self.processes[call] = leaf, child
            self.live[call] = Live(CallRecord(call, child.pid, ("sleep", "60"), 1.0), leaf=leaf)
        self.live[1].record.command, self.live[1].record.ended_s = "gradle build", 2.0

    def do(self, action: ctl.Stop | ctl.Tell) -> None:
        async def act() -> None:
            self.acts.do(self.live[action.call], action)
            await self.acts.finish()

        asyncio.run(act())

    def heard(self, call: int) -> bytes:
        stderr = self.processes[call].stderr
        assert stderr is not None
        os.set_blocking(stderr.fileno(), False)
        return stderr.read() or b""


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def session(folders: Folders, stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> Session:
    one, two = socket.socketpair()
    found = Session(folders, {1: one.fileno(), 3: two.fileno()}, stack)
    one.close()
    two.close()
    monkeypatch.setattr(cgroup, "of_process", lambda pid: found.leaves[pid])
    return found


def test_the_call_that_talks_with_what_is_stopped_is_told_why_and_the_others_are_not(session: Session) -> None:
    session.do(ctl.Stop(1, NOTICE, "why"))
    assert LEFT_RUNNING in session.heard(3)
    assert session.heard(2) == b""
    assert b"this command was stopped" in session.heard(1)
    assert [deed.why for deed in session.live[3].record.deeds] == ["what call 1 left running was stopped"]


def test_where_nobody_is_seen_to_talk_with_it_all_that_run_are_told(session: Session) -> None:
    session.live[3].record.ended_s = 2.0
    session.do(ctl.Stop(1, NOTICE, "why"))
    assert LEFT_RUNNING in session.heard(2)
    assert session.heard(3) == b""


def test_where_nobody_can_look_who_talks_all_that_run_are_told(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(place: Path) -> list[int]:
        raise cgroup.CgroupError(place, "reading", OSError(errno.EMFILE, "too many open files"))

    async def tell(pid: int, *_: object) -> bool:
        said.append(pid)
        return True

    said: list[int] = []
    monkeypatch.setattr(cgroup, "processes", refuse)
    monkeypatch.setattr(acts, "tell_call", tell)
    asyncio.run(session.acts._tell_who_waits(session.live[1], NOTICE))
    assert said == [session.live[2].record.pid, session.live[3].record.pid]


def test_where_the_kernel_was_faster_all_that_run_are_told(session: Session) -> None:
    (session.live[1].leaf or Path()).joinpath("cgroup.procs").write_text("")
    session.do(ctl.Tell(1, Notice("kernel", True, "default", 100 << 20, 50 << 20)))
    for call in (2, 3):
        assert b"the kernel killed what an earlier command left running (gradle build) for memory" in session.heard(call)


def test_a_call_whose_root_runs_or_ended_just_now_ends_for_itself(session: Session) -> None:
    for ended_s in (None, session.acts.now()):
        session.live[1].record.ended_s = ended_s
        session.do(ctl.Stop(1, NOTICE, "why"))
    assert (session.heard(2), session.heard(3)) == (b"", b"")


@pytest.mark.parametrize("action", [ctl.Stop, ctl.Tell])
def test_a_call_reads_which_files_stand_in_its_way(action: type[ctl.Stop | ctl.Tell], session: Session) -> None:
    session.files = ctl.InFiles(720 << 20, False, "/dev/shm/a 240M")
    notice = Notice("budget", True, "default", 100 << 20, 800 << 20)
    session.do(ctl.Stop(2, notice, "why") if action is ctl.Stop else ctl.Tell(2, notice))
    said = session.heard(2)
    assert b"720M of this session's memory, left by earlier commands, is files in memory" in said
    assert b"/dev/shm/a 240M" in said
    assert b"narrower scope" not in said
