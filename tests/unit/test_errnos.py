"""What an errno means is what is done and said: without descriptors or room, nobody is taken for ended, gone or a stranger."""

import asyncio
import os
import resource
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agentcgroup import cgroup, systemd
from agentcgroup.control_events import Notice
from agentcgroup.errors import AgentCgroupError
from agentcgroup.service.orders import Order, check_processes
from agentcgroup.session.governor import Governor, Subject
from agentcgroup.session.layout import Layout
from agentcgroup.session.voice import stop_call
from tests.unit.folders import Folders, Watched, folders
from tests.unit.test_asked import governed

__all__ = ["folders", "governed"]
NOTICE = Notice("memory", True, "default", 100 << 20, 50 << 20)


@contextmanager
def no_descriptors() -> Iterator[None]:
    """As in a process that has opened as many files as it may."""
    lowest = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture
def sleeper() -> Iterator[int]:
    """A process that only sleeps."""
    with subprocess.Popen(["sleep", "100"]) as child:
        yield child.pid
        child.kill()


def test_a_cgroup_that_can_not_be_read_is_not_an_empty_one(folders: Folders) -> None:
    leaf = folders.make("leaf")
    for read in (cgroup.populated, cgroup.processes):
        with no_descriptors(), pytest.raises(cgroup.CgroupError, match="EMFILE"):
            read(leaf)
        assert not read(folders.top / "gone")


def test_a_call_is_not_over_because_nobody_can_look(governed: tuple[Path, Subject, Layout]) -> None:
    _, subject, layout = governed

    async def main() -> list[str]:
        one = Governor(subject, layout, Watched(), "folders", lambda rule: None)
        await one.start(lambda: None)
        one._tracker.forked(subject.stub, os.getpid(), time.monotonic_ns())
        one.follower.declare(os.getpid(), ("make",), "")
        with no_descriptors():
            one._tracker.exited(os.getpid(), 0, time.monotonic_ns())
            one.calls.end_if_over(1)
        assert [live.record.call for live in one.calls.live()] == [1]
        one.calls.end_if_over(1)
        assert one.calls.live() == []
        await one.let_all_go()
        await one.close()
        return list(one._log_lines)

    assert any("EMFILE" in line for line in asyncio.run(main()))


def test_that_a_call_without_a_leaf_can_not_be_stopped_is_said(sleeper: int) -> None:
    async def stop(pid: int) -> None:
        with no_descriptors():
            await stop_call(pid, None, time.monotonic(), NOTICE)

    with pytest.raises(OSError, match="Too many open files"):
        asyncio.run(stop(sleeper))


def test_without_descriptors_nobodys_child_is_called_a_stranger(sleeper: int) -> None:
    order = Order(version=1, op="run", argv=["x"], stub=sleeper, keeper=sleeper, name="x")
    with no_descriptors(), pytest.raises(AgentCgroupError, match="EMFILE"):
        check_processes(order, os.getpid(), os.getuid())
    check_processes(order, os.getpid(), os.getuid())


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("System.Error.ENOSPC", "No space left on device", "make room in /run"),
        ("org.freedesktop.DBus.Error.InvalidArgs", "no such thing", "journalctl"),
    ],
)
def test_what_systemd_answers_is_not_blamed_on_the_bus(name: str, text: str, expected: str) -> None:
    from jeepney import DBusAddress, HeaderFields, new_error, new_method_call

    call = new_method_call(DBusAddress("/x", "a.b", "a.b"), "X")
    call.header.serial = 1
    call.header.fields[HeaderFields.sender] = ":1.1"
    said = systemd._refused("starting x", new_error(call, name, "s", (text,)))
    assert (name in said.why, text in said.why, expected in said.do, "bus" in said.do) == (True, True, True, False)
