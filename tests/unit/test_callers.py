"""Sockets that anybody may ask at: what one user does hurts no other, whatever is said, and whoever does not listen."""

import asyncio
import json
import os
import random
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agentcgroup.service.orders import ASKED, Ended
from agentcgroup.session import callers, control
from agentcgroup.session.control import CONTROL_SOCKET, listen

ME = os.getuid()


def served(
    folder: Path, work: Callable[[str], Awaitable[None]], status: Callable[[], dict[str, Any]], owner: int = ME
) -> list[str]:
    """Serve a session's socket while ``work`` is done; what was logged."""
    log: list[str] = []

    async def main() -> None:
        server = await listen(folder, lambda *_: "tool-1", status, lambda *_: None, owner, log.append)
        try:
            await work(str(folder / CONTROL_SOCKET))
        finally:
            server.close()

    asyncio.run(main())
    return log


async def ask(place: str, line: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(place, limit=8 << 20)
    writer.write(line)
    try:
        return await asyncio.wait_for(reader.readline(), 20)
    finally:
        writer.close()


def test_status_is_made_once_for_many_who_ask_at_once_and_anew_after_a_change(tmp_path: Path) -> None:
    made: list[int] = []

    def status() -> dict[str, Any]:
        made.append(1)
        return {"n": len(made)}

    async def work(place: str) -> None:
        answers = await asyncio.gather(*(ask(place, b'{"op":"status"}\n') for _ in range(50)))
        assert {json.loads(answer)["n"] for answer in answers} == {1}
        await ask(place, b'{"op":"priority","priority":"low"}\n')
        assert json.loads(await ask(place, b'{"op":"status"}\n'))["n"] == 2

    served(tmp_path, work, status)


def test_who_does_not_read_an_answer_is_cut_off_and_nothing_of_it_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callers, "READ_WITHIN_S", 0.5)
    large = {"text": "x" * (2 << 20)}

    async def work(place: str) -> None:
        deaf = []
        for _ in range(40):
            channel = socket.socket(socket.AF_UNIX)
            channel.connect(place)
            channel.sendall(b'{"op":"status"}\n')
            deaf.append(channel)
        await asyncio.sleep(0.2)
        assert len(json.loads(await ask(place, b'{"op":"status"}\n'))["text"]) == 2 << 20
        before = len(list(Path("/proc/self/fd").iterdir()))
        while len(list(Path("/proc/self/fd").iterdir())) > before - 35:
            await asyncio.sleep(0.05)  # ends when the server has closed its ends
        for channel in deaf:
            channel.close()

    served(tmp_path, work, lambda: large)
    assert not callers.CALLERS._waiting


def test_a_user_has_so_many_connections_and_others_theirs() -> None:
    bounds = callers.Callers()
    held = [bounds.connection(1000) for _ in range(callers.MOST_CONNECTIONS)]
    for one in held:
        one.__enter__()
    with pytest.raises(callers.TooMuchError, match="close some"), bounds.connection(1000):
        pass
    with bounds.connection(1001), bounds.connection(0):
        pass
    for one in held:
        one.__exit__(None, None, None)
    with bounds.connection(1000):
        pass
    assert not bounds._connections


def test_who_asks_too_often_waits_alone() -> None:
    async def main() -> None:
        bounds = callers.Callers()
        fast = [asyncio.create_task(bounds.turn(1000)) for _ in range(int(callers.BURST) + 20)]
        await asyncio.sleep(0)
        await asyncio.wait_for(bounds.turn(1001), 0.01)
        assert sum(not task.done() for task in fast) >= 15
        for task in fast:
            task.cancel()

    asyncio.run(main())


def test_what_takes_time_takes_turns_whatever_is_asked_in_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change makes the next status be made anew; a user who alternates the two has a share of the time all the same."""
    monkeypatch.setattr(control, "peer", lambda writer: (os.getpid(), 4242))
    monkeypatch.setattr(callers, "time", SimpleNamespace(monotonic=lambda: 0.0, thread_time=time.thread_time))
    bounds = callers.Callers()
    monkeypatch.setattr(control, "CALLERS", bounds)
    made: list[int] = []

    def status() -> dict[str, Any]:
        made.append(1)
        until = time.thread_time() + 0.02
        while time.thread_time() < until:
            pass
        return {}

    async def work(place: str) -> None:
        for _ in range(5):
            await ask(place, b'{"op":"call"}\n')
            await ask(place, b'{"op":"status"}\n')

    served(tmp_path, work, status, owner=4242)
    assert len(made) == 5
    # Five times 20 ms: so much of the user's tenth of the time, in turns, beside one for each request.
    assert callers.BURST - bounds._tokens[4242][0] > 5 * 0.02 * callers.PER_SECOND / 0.1 - 1


@pytest.mark.parametrize("line", [b"x" * 9000, b"\xff\n", b"{}\n"])
def test_what_is_no_request_is_answered_with_why(tmp_path: Path, line: bytes) -> None:
    async def work(place: str) -> None:
        assert "error" in json.loads(await ask(place, line))

    assert served(tmp_path, work, dict) == []


def test_an_unreadable_status_is_said_and_the_socket_goes_on(tmp_path: Path) -> None:
    def broken() -> dict[str, Any]:
        raise OverflowError("too large")

    async def work(place: str) -> None:
        assert "failed" in json.loads(await ask(place, b'{"op":"status"}\n'))["error"]
        assert json.loads(await ask(place, b'{"op":"call"}\n')) == {"leaf": "tool-1"}

    assert "OverflowError" in served(tmp_path, work, broken)[0]


PIECES = [
    b"{", b"}", b"[", b"]", b'"op"', b":", b",", b'"run"', b'"status"', b'"history"', b"1e999", b"-1", b"Infinity", b"NaN", b"null",
    b'"exit"', str(2**70).encode(), b'"\\ud800"', b'"\\u0000"', b"\xff\xfe", b"true", b'"version"', b"1", b'"call"', b'"argv"', b"[" * 50,
]  # fmt: skip
WHOLE = [
    b'{"op":"status"}', b'{"op":"call"}', b'{"exit": 0}', b'{"exit": -1}', b'{"exit": Infinity}', b'{"exit": 1099511627776}',
    b'{"version":1,"op":"history","since":1e400}', b'{"version":1,"op":"history","limit":0}', b"[" * 100_000, b'{"a":' * 50_000,
    b'{"version":1,"op":"run","argv":["x"],"stub":2,"keeper":99999999999999999999,"name":"x"}',
]  # fmt: skip


def fuzzed(count: int) -> list[bytes]:
    """Lines that are nearly requests, and some that are nothing; always the same ones."""
    dice = random.Random(14)
    return WHOLE + [b"".join(dice.choices(PIECES, k=dice.randrange(1, 12))) for _ in range(count)]


def test_no_message_does_more_than_be_refused(tmp_path: Path) -> None:
    """100,000 messages against what reads the daemon's, a session's and an ended session's lines."""
    for line in fuzzed(100_000):
        for read in (ASKED.validate_json, Ended.model_validate_json):
            try:
                read(line)
            except ValueError:
                continue

    async def work(place: str) -> None:
        for line in fuzzed(1000):
            await ask(place, line.replace(b"\n", b"")[:4000] + b"\n")
        assert json.loads(await ask(place, b'{"op":"status"}\n')) == {"n": 1}

    assert served(tmp_path, work, lambda: {"n": 1}) == []


@pytest.mark.parametrize(
    "text", ['{"exit": 1180591620717411303424}', '{"exit": -1}', '{"exit": Infinity}', '{"exit": 1.5}', '{"exit": true}', "{}"]
)
def test_a_status_that_no_process_can_end_with_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="1 validation error"):
        Ended.model_validate_json(text)
