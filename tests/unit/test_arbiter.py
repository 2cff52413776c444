"""The host process's conversation with governors, over a real socket; the scheduler's own decisions are in test_scheduler."""

import asyncio
import fcntl
import os
import socket
import time
from pathlib import Path
from typing import NoReturn

import pytest

from agentcgroup.host import arbiter as host
from agentcgroup.host import enforcement, wire
from agentcgroup.host.arbiter import Arbiter
from agentcgroup.kernel.libbpf import BpfError
from agentcgroup.policy import HostRule
from agentcgroup.schedule import events as ev
from agentcgroup.schedule.scheduler import Scheduler
from agentcgroup.session.places import open_lock

MIB = 1 << 20


async def connect(place: Path, name: str, budget: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_unix_connection(place)
    writer.write(wire.encode(wire.Hello(ev.SessionBegan(name, "normal", budget), "cgroup", f"/sys/fs/cgroup/{name}")))
    assert isinstance(wire.decode_action(await reader.readline()), wire.Enforce)
    return reader, writer


async def next_wait(reader: asyncio.StreamReader) -> ev.Wait:
    while not isinstance(found := wire.decode_action(await asyncio.wait_for(reader.readline(), 10)), ev.Wait):
        pass
    return found


def test_what_is_due_while_the_host_is_measured_is_said_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that waits a whole turn hears that it waits on; each look at the host's memory lets time pass, too."""

    monkeypatch.setattr("agentcgroup.host.arbiter._STALE_S", 0.0)
    monkeypatch.setattr(host, "can_brake", lambda: True)

    async def talk() -> None:
        arbiter = Arbiter(HostRule(memory=256 * MIB, reserve=MIB, step=MIB, brake=0.01, turn=0.3))
        server = await asyncio.start_unix_server(arbiter.serve, tmp_path / "sock")
        _, first = await connect(tmp_path / "sock", "first", 1 << 30)
        reader, second = await connect(tmp_path / "sock", "second", 1 << 30)
        first.write(wire.encode(ev.CallBegan(("first", 1), 1 << 30, 0, 0)))
        for held in range(4, 256, 4):
            first.write(wire.encode(ev.Wants(("first", 1), held * MIB)))
        await asyncio.sleep(0.2)
        second.write(wire.encode(ev.CallBegan(("second", 1), 1 << 30, 0, 0)))
        second.write(wire.encode(ev.Wants(("second", 1), 4 * MIB)))
        waits = [await next_wait(reader) for _ in range(3)]
        assert waits[2].until_s > waits[1].until_s > waits[0].until_s - 0.3
        assert waits[2].rung == "freeze"
        for writer in (first, second):
            writer.close()
        server.close()
        await asyncio.sleep(0.05)

    asyncio.run(talk())


def test_a_host_process_comes_after_one_that_is_about_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its socket is dead, and its lock still taken: a session that begins just then must not be left without a host process."""
    for name, file in (("_LOCK", "lock"), ("DAEMON_LOCK", "none"), ("_ERRORS", "errors"), ("SOCKET", "sock")):
        monkeypatch.setattr(host, name, tmp_path / file)
    with open(tmp_path / "lock", "a+") as before:
        fcntl.flock(before, fcntl.LOCK_EX)
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(tmp_path / "sock"))
        host.start(HostRule(memory=256 * MIB))
        time.sleep(0.2)
        with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
            client.connect(str(tmp_path / "sock"))

    async def greet() -> None:
        deadline = time.monotonic() + 30
        while True:
            try:
                _, writer = await connect(tmp_path / "sock", "first", 1 << 30)
                break
            except OSError:
                assert time.monotonic() < deadline, (tmp_path / "errors").read_text()
                await asyncio.sleep(0.01)
        writer.close()

    asyncio.run(greet())


def test_a_lock_names_who_holds_it_and_nobody_before(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("4194304")
    lock = open_lock(tmp_path / "lock")
    host._sign(lock)
    assert host._holder(lock) == os.getpid()
    os.close(lock)
    assert (tmp_path / "lock").read_text() == str(os.getpid())


def test_no_brake_is_asked_for_where_it_would_stop_holders_of_kernel_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is the host process, and when its policy is read again: the daemon asked for brakes on every kernel."""
    asked, rule = list[HostRule](), HostRule(brake=0.5, step=MIB)
    monkeypatch.setattr(host, "can_brake", lambda: False)
    monkeypatch.setattr(Scheduler, "__init__", lambda self, rule, capacity: asked.append(rule))
    monkeypatch.setattr(Scheduler, "change", lambda self, rule: asked.append(rule))
    monkeypatch.setattr(Arbiter, "_step", lambda self, event: None)
    Arbiter(rule, None).change(rule)
    assert [(one.brake, one.step) for one in asked] == [(0.0, 2 * MIB)] * 2


def test_a_session_hears_in_one_line_why_the_kernel_takes_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason was longer than a line may be: the session left, came back, heard it again, and no call ever waited for another."""

    def refuse() -> NoReturn:
        raise BpfError("the kernel refused the BPF programs", "prog 'x': " + "0: R1=ctx() R10=fp0 \x1b[2J " * 4000)

    monkeypatch.setattr(enforcement, "_LOAD", {"memcg_bpf": refuse, "sched_ext": refuse})

    async def talk() -> wire.Enforce:
        server = await asyncio.start_unix_server(Arbiter(HostRule()).serve, tmp_path / "sock")
        reader, writer = await asyncio.open_unix_connection(tmp_path / "sock", limit=wire.LONGEST_LINE)
        writer.write(wire.encode(wire.Hello(ev.SessionBegan("x", "normal", 1 << 30), "auto", "/none")))
        word = wire.decode_action(await asyncio.wait_for(reader.readline(), 10))
        writer.write(wire.encode(ev.CallBegan(("x", 1), 1 << 30)))
        assert isinstance(wire.decode_action(await asyncio.wait_for(reader.readline(), 10)), ev.Grant)
        writer.close()
        server.close()
        assert isinstance(word, wire.Enforce)
        return word

    word = asyncio.run(talk())
    assert word.name == "cgroup"
    assert len(word.why) < 1000
    assert word.why.isprintable()
