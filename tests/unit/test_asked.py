"""100,000 messages against what answers them: the daemon's own socket, and that of a session with a call, on folders as cgroups.

AGENTCGROUP_EXAMPLES=N asks a hundred times N.
"""

import asyncio
import json
import os
import random
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentcgroup import systemd
from agentcgroup.classify import Budget, split_budget
from agentcgroup.history.writer import Writer
from agentcgroup.model import Priority
from agentcgroup.policy import load_policy
from agentcgroup.service import daemon
from agentcgroup.service.orders import LONGEST_ORDER
from agentcgroup.session import callers, share
from agentcgroup.session.control import CONTROL_SOCKET
from agentcgroup.session.governor import Governor, Subject
from agentcgroup.session.layout import Layout
from tests.unit.folders import Folders, Watched, folders
from tests.unit.test_callers import WHOLE, ask, fuzzed

__all__ = ["folders"]
MESSAGES = 100 * int(os.environ.get("AGENTCGROUP_EXAMPLES") or 1000)
POLICY = load_policy()
VALUES: list[Any] = [
    None, -1, 0, 1, 2, 2**31, 2**70, 1.5, True, "", "x", "low", "high", "call", "run", "history", "/", "\x1b[31m", "\ud800", "\0", [], {},
    ["x"], [["x"]], {"x": 1}, "1" * 300, float("inf"), float("nan"), os.getpid(), os.getppid(), "memory:high", "memory:1P,cpu:-1,timeout:x",
]  # fmt: skip
WORDS = [
    "sh",
    "-c",
    "env",
    "A=1",
    "'",
    "((",
    "a;b",
    "AGENT_RESOURCE_HINT=memory:9M x",
    "cat <<EOF",
    "\x1b]0;x\x07",
    "\ud800",
    "nice",
    "",
    "-",
]
KEYS = [
    "version",
    "op",
    "call",
    "priority",
    "argv",
    "hint",
    "stub",
    "keeper",
    "name",
    "memory",
    "session",
    "since",
    "limit",
    "failed",
    "text",
]


def requests(count: int) -> Iterator[bytes]:
    """Requests that are nearly right, and many that are."""
    dice = random.Random(count)
    for number in range(count):
        op = dice.choice(["call", "call", "status", "freeze", "thaw", "priority", "run", "history", "explain"])
        request: dict[str, Any] = {"op": op}
        if op == "call":
            request |= {"argv": dice.choices(WORDS, k=dice.randrange(9)), "hint": str(dice.choice(VALUES))[:120]}
        elif op in ("run", "history", "explain"):
            request |= {"version": 1} | ({"session": dice.choice(["x", "../x", "", "\0"])} if op == "explain" else {})
        elif op != "status":
            request |= (
                {"priority": dice.choice(["low", "normal", "high"])} if op == "priority" else {"call": dice.randrange(1, 4)}
            )
        if op == "run":
            request |= {"argv": dice.choices(WORDS, k=2), "stub": os.getpid(), "keeper": dice.choice(VALUES), "name": "x"}
        for _ in range(dice.choice([0, 0, 0, 1, 3])):
            request[dice.choice(KEYS)] = dice.choice(VALUES)
        line = json.dumps(request).encode()
        yield line if number % 10 else line[: dice.randrange(len(line))]


def is_answer(line: bytes) -> bool:
    return isinstance(json.loads(line), dict)


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may ask as often as the tests do."""
    monkeypatch.setattr(callers, "PER_SECOND", 1e12)
    monkeypatch.setattr(callers, "BURST", 1e12)


@pytest.mark.usefixtures("unhurried")
def test_the_daemon_answers_whatever_it_is_asked_and_nothing_is_left_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(daemon, "FILE", tmp_path / "history.db")
    history = Writer(tmp_path / "history.db", 1e9, 1 << 30, print)
    history.put("sessions", {"id": 1, "name": "a", "command": "c", "priority": "normal", "owner": os.getuid(), "budget_bytes": 1})
    history.close()

    async def main() -> None:
        one = daemon.Daemon(POLICY, daemon.Options(None, "auto", "off"), "x")
        place = str(tmp_path / "socket")
        server = await asyncio.start_unix_server(one._asked, place, limit=LONGEST_ORDER)
        for line in [*WHOLE, b"x" * 300_000, *fuzzed(MESSAGES // 20), *requests(MESSAGES // 5)]:
            answer = await ask(place, line.replace(b"\n", b"") + b"\n")
            assert is_answer(answer) and b"ready" not in answer, (line[:300], answer)
        assert json.loads(await ask(place, b'{"version":1,"op":"history"}\n'))["calls"] == []
        server.close()
        await asyncio.sleep(0.05)  # the last connection's end
        assert (one._served, one._serving, dict(one._callers)) == ({}, set(), {})
        one._writer.close()

    asyncio.run(main())
    assert "failed" not in capsys.readouterr().err


@pytest.fixture
def governed(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, Subject, Layout]]:
    """A session on folders, whose agent sleeps."""
    monkeypatch.setattr(systemd, "is_running", lambda: False)
    monkeypatch.setattr(share, "SOCKET", folders.top / "no-host")
    monkeypatch.setattr(Watched, "drain", lambda self, deliver: None)
    monkeypatch.setattr(Watched, "on_ready", lambda self, callback: None)
    folder = folders.top / "run"
    folder.mkdir()
    layout = Layout("x", Watched(), folders.make("session"))
    for part in ("agent", "tools"):
        folders.make("session", part)
    policy = POLICY.model_copy(update={"history": POLICY.history.model_copy(update={"keep": 0.0})})
    with subprocess.Popen(["sleep", "1000"]) as agent:
        subject = Subject(
            "x",
            folder,
            policy,
            split_budget(POLICY, 1 << 30),
            "normal",
            ("sleep",),
            "cgroup",
            agent.pid,
            agent.pid,
            owner=os.getuid(),
        )
        try:
            yield folder, subject, layout
        finally:
            agent.kill()


@pytest.mark.usefixtures("unhurried")
def test_a_session_answers_whatever_it_is_asked_and_its_call_is_governed_afterwards(
    governed: tuple[Path, Subject, Layout],
) -> None:
    folder, subject, layout = governed

    async def main() -> tuple[list[str], dict[str, Any]]:
        governor = Governor(subject, layout, Watched(), "folders", lambda rule: None)
        await governor.start(lambda: None)
        # This process asks, so it is to be one of the session's.
        governor._tracker.forked(subject.stub, os.getpid(), time.monotonic_ns())
        place = str(folder / CONTROL_SOCKET)
        for line in [*WHOLE, *fuzzed(MESSAGES // 20), *requests(MESSAGES * 7 // 10)]:
            answer = await ask(place, line.replace(b"\n", b"")[:4000] + b"\n")
            assert is_answer(answer), (line[:300], answer)
        assert json.loads(await ask(place, b'{"op":"call","argv":["make","all"]}\n')) == {"leaf": "tool-1"}
        status = json.loads(await ask(place, b'{"op":"status"}\n'))
        await governor.let_all_go()
        await governor.close()
        return list(governor._log_lines), status

    log, status = asyncio.run(main())
    assert [line for line in log if "failed" in line] == []
    (call,) = status["calls"]
    assert (call["call"], call["command"], call["class"]) == (1, "make all", "build")
    assert call["limit_bytes"] == int((layout.tools / "tool-1/memory.high").read_text())


@pytest.mark.usefixtures("unhurried")
def test_of_many_wishes_for_another_priority_the_last_one_is_carried_out_and_few_others(
    governed: tuple[Path, Subject, Layout], monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemd is asked for each: a user's requests must not pile up there."""
    folder, subject, layout = governed
    go, changed = threading.Event(), list[str]()

    def change(budget: Budget, priority: Priority, weight: int) -> None:
        go.wait(20)
        changed.append(priority)

    monkeypatch.setattr(layout, "change_priority", change)

    async def main() -> None:
        governor = Governor(subject, layout, Watched(), "folders", lambda rule: None)
        await governor.start(lambda: None)
        for priority in ("low", "normal", "low", "normal") * 5:
            answer = await ask(str(folder / CONTROL_SOCKET), b'{"op":"priority","priority":"%s"}\n' % priority.encode())
            assert json.loads(answer) == {"done": "priority"}
        await ask(str(folder / CONTROL_SOCKET), b'{"op":"priority","priority":"low"}\n')
        go.set()
        while b'"priority": "low"' not in await ask(str(folder / CONTROL_SOCKET), b'{"op":"status"}\n') or not changed:
            await asyncio.sleep(0.01)
        await governor.let_all_go()
        await governor.close()

    asyncio.run(main())
    assert 1 <= len(changed) <= 2
    assert changed[-1] == "low"
