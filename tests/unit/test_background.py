"""Work beside the main path goes on when a piece of it fails, and says so."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agentcgroup import background, cgroup
from agentcgroup.errors import AgentCgroupError
from agentcgroup.host import arbiter, enforcement, wire
from agentcgroup.model import CallRecord, Limits
from agentcgroup.policy import HostRule
from agentcgroup.schedule import events as ev
from agentcgroup.service import docker
from agentcgroup.session import share as sharing
from agentcgroup.session.live import Live
from agentcgroup.sources import Source

MIB = 1 << 20


def until(true: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.01)


async def until_async(true: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "not in time"
        await asyncio.sleep(0.01)


def test_a_task_that_fails_says_so_in_one_line_and_is_counted() -> None:
    log: list[str] = []

    async def broken() -> None:
        raise ValueError("two\nlines")

    async def main() -> None:
        before = background.failures().get("this test", 0)
        task = background.start("this test", broken(), log.append)
        await asyncio.wait([task])
        await asyncio.sleep(0)
        assert background.failures()["this test"] == before + 1

    asyncio.run(main())
    assert log[0].startswith("this test failed: ValueError: two lines (in broken, test_background.py:")


def test_what_is_kept_doing_is_begun_again_after_each_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "_FIRST_PAUSE_S", 0.001)
    log: list[str] = []
    turns: list[int] = []

    async def sometimes() -> None:
        turns.append(1)
        if len(turns) < 4:
            raise OSError(5, "no luck")

    asyncio.run(background.keep_doing("luck", sometimes, log.append))
    assert (len(turns), len(log)) == (4, 3)


def test_an_event_loops_callback_that_raises_is_said() -> None:
    log: list[str] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        background.watch(loop, log.append)
        loop.call_soon(iter([]).__next__)
        await asyncio.sleep(0.01)

    asyncio.run(main())
    assert "StopIteration" in log[0]


# The link between a session and the host process


def live_call(folder: Path) -> Live:
    leaf = folder / "tool-1"
    leaf.mkdir()
    for name in ("memory.current", "cgroup.freeze", "cpu.max"):
        (leaf / name).write_text("0")
    limits = Limits(MIB, 2 * MIB, 0, 10, 100, None, None)
    return Live(CallRecord(1, 1, ("x",), 0.0), leaf=leaf, limits=limits)


def a_share(folder: Path, live: Live, log: list[str]) -> sharing.Share:
    return sharing.Share(
        ev.SessionBegan("x", "normal", 1 << 30), folder / "tools", "auto", HostRule(), Source(), {1: live},
        lambda *_: None, lambda *_: None, lambda _: None, log.append,
    )  # fmt: skip


def test_neither_a_write_that_fails_nor_a_word_that_is_not_understood_ends_the_link_to_the_host_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live, log, connections = live_call(tmp_path), list[str](), list[int]()
    monkeypatch.setattr(sharing, "SOCKET", tmp_path / "s")
    real = cgroup.write

    def without_descriptors(place: Path, name: str, value: str | int) -> None:
        if name == "cgroup.freeze" and str(value) == "1" and len(log) < 2:
            raise cgroup.CgroupError(place, "writing", OSError(24, "Too many open files"))
        real(place, name, value)

    monkeypatch.setattr(cgroup, "write", without_descriptors)

    async def host(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(1)
        await reader.readline()
        freeze = wire.encode(ev.Wait(("x", 1), "freeze", time.monotonic() + 60, None, "all memory is taken"))
        for line in (freeze, b"no JSON\n", b'["Wait", ' + b"[" * 50_000 + b"\n", b"x" * 200_000 + b"\n", freeze):
            writer.write(line)
        await reader.read()

    async def main() -> None:
        server = await asyncio.start_unix_server(host, tmp_path / "s")
        task = asyncio.create_task(a_share(tmp_path, live, log).keep())
        await until_async(lambda: live.leaf is not None and (live.leaf / "cgroup.freeze").read_text() == "1")
        assert not task.done()
        assert len(connections) == 1
        task.cancel()
        await asyncio.wait([task])
        server.close()

    asyncio.run(main())
    assert "call 1: not frozen: " in log[0]
    assert "EMFILE" in log[0]
    assert any("not understood" in line for line in log)


def test_a_reason_as_long_as_the_verifiers_log_reaches_the_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arbiter, "SOCKET", tmp_path / "s")

    def refuse() -> enforcement.Program:
        raise AgentCgroupError("refused", "EINVAL: libbpf: BEGIN" + '0: R1=ctx() "R10=fp0" \x1b\n' * 5000 + "END")

    monkeypatch.setattr(enforcement, "_LOAD", {"memcg_bpf": refuse, "sched_ext": refuse})

    async def main() -> None:
        async with arbiter.serving(arbiter.Arbiter(HostRule(), None)):
            reader, writer = await asyncio.open_unix_connection(tmp_path / "s", limit=wire.LONGEST_LINE)
            writer.write(wire.encode(wire.Hello(ev.SessionBegan("x", "normal", 1 << 30), "auto", str(tmp_path / "none"))))
            word = wire.decode_action(await asyncio.wait_for(reader.readline(), 20))
            assert "BEGIN" in word.why
            assert word.why.endswith("END")
            writer.close()
            await asyncio.sleep(0.01)

    asyncio.run(main())


@pytest.mark.parametrize("error", [OSError(12, "Cannot allocate memory"), KeyError("x"), RuntimeError("can't start new thread")])
def test_an_enforcer_whose_loading_fails_in_any_way_is_not_loading_for_ever(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> enforcement.Program:
        raise error

    monkeypatch.setattr(enforcement, "_LOAD", {"memcg_bpf": broken, "sched_ext": broken})
    heard: list[wire.Enforce] = []
    log: list[str] = []

    async def main() -> None:
        one = enforcement.Enforcement(log.append)
        one.join("a", "auto", heard.append)
        await until_async(lambda: heard)
        await asyncio.sleep(0)
        one.join("b", "auto", heard.append)
        await until_async(lambda: len(heard) > 2)

    asyncio.run(main())
    assert {word.name for word in heard} == {"cgroup"}
    assert type(error).__name__ in heard[0].why
    assert len(log) == 4


# A container engine


@contextmanager
def an_engine(place: Path, end: str) -> Iterator[list[str]]:
    """A container engine that is cut off after a moment each time it is asked for events: the ``end`` of what it says."""
    asked: list[str] = []

    def serve(channel: socket.socket) -> None:
        with channel, channel.makefile("rwb") as lines:
            while line := lines.readline():
                path = line.decode().split()[1]
                while lines.readline().strip():
                    pass
                asked.append(path)
                body = b'{"ApiVersion": "1.47", "Version": "28"}' if path.startswith("/version") else b"[]"
                if "/events" in path:
                    lines.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
                    piece = {"half": b'{"Type":"container","Ac', "odd": b'{"Type":"container"}', "list": b"[1]"}.get(end)
                    if piece:
                        lines.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                    lines.write(b"" if end == "reset" else b"0\r\n\r\n")
                    lines.flush()
                    channel.shutdown(socket.SHUT_RDWR)
                    return
                lines.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
                )
                lines.flush()

    def accept() -> None:
        while True:
            try:
                channel, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(channel,), daemon=True).start()

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        listener.listen(20)
        threading.Thread(target=accept, daemon=True).start()
        yield asked
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("end", ["half", "odd", "list", "reset", "graceful"])
def test_an_engine_that_is_cut_off_in_any_way_is_asked_again(end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker, "_FIRST_WAIT_S", 0.01)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/engine")
    listed: list[str] = []
    log: list[str] = []
    with an_engine(tmp_path / "engine", end) as asked:
        engine = docker.Engine("Docker", lambda _: None, listed.append, log.append)
        until(lambda: sum("/events" in path for path in asked) >= 3)
        engine.close()
    assert listed
    assert json.dumps(log).count("does not answer") <= len(listed)
