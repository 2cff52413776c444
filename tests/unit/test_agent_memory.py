"""Whoever started an agent is told on its stderr when it nears its cap; a folder stands in for its cgroup, and real processes for it."""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentcgroup import cgroup
from agentcgroup.classify import Budget, split_budget
from agentcgroup.policy import Policy
from agentcgroup.session import agent_memory
from agentcgroup.session.agent_memory import AgentMemory
from agentcgroup.session.report import more_for_the_agent

MIB = 1 << 20


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a cgroup that is ``tmp_path``, with a pipe as stderr."""
    with subprocess.Popen(["sleep", "100"], stderr=subprocess.PIPE) as process:
        monkeypatch.setattr(cgroup, "of_process", lambda pid="self": tmp_path if pid == process.pid else tmp_path / "elsewhere")
        monkeypatch.setattr(agent_memory, "_SELDOM_S", 0.05)
        monkeypatch.setattr(agent_memory, "_SOON_S", 0.02)
        yield process
        process.kill()


def holds(place: Path, held: int, cache: int = 0) -> None:
    (place / "memory.current").write_text(str(held * MIB))
    (place / "memory.stat").write_text(f"inactive_file {cache * MIB // 2}\nactive_file {cache * MIB // 2}\n")


def budget(policy: str = "") -> Budget:
    return split_budget(
        Policy.model_validate({"version": 1, "session": {"agent": {"memory_max": policy} if policy else {}}}), 2 << 30
    )


async def told(process: subprocess.Popen[bytes], log: list[str]) -> str:
    """What was written to the agent's stderr, when the log has a line."""
    while not log:
        await asyncio.sleep(0.01)
    assert process.stderr is not None
    return (await asyncio.to_thread(os.read, process.stderr.fileno(), 4096)).decode()


def test_an_agent_near_its_cap_is_told_of_once_with_what_to_set(agent: subprocess.Popen[bytes], tmp_path: Path) -> None:
    log: list[str] = []

    async def run() -> str:
        one = AgentMemory(tmp_path, budget(), agent.pid, log.append)
        holds(tmp_path, 300)
        one.look()
        await asyncio.sleep(0.2)
        assert not log
        holds(tmp_path, 1800)
        said = await told(agent, log)
        for _ in range(3):
            one.look()
        one.stop()
        return said

    said = asyncio.run(run())
    assert "the agent itself holds 1.8G of its cap of 1.9G" in said
    assert "--memory 4G" in said
    assert len(log) == 1


def test_page_cache_does_not_count(agent: subprocess.Popen[bytes], tmp_path: Path) -> None:
    log: list[str] = []

    async def run() -> None:
        one = AgentMemory(tmp_path, budget(), agent.pid, log.append)
        holds(tmp_path, 1900, cache=500)
        one.look()
        await asyncio.sleep(0.1)
        one.stop()

    asyncio.run(run())
    assert log == []


def test_a_number_that_is_another_process_by_now_is_not_written_to(
    agent: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[str] = []
    monkeypatch.setattr(cgroup, "of_process", lambda _: tmp_path / "elsewhere")

    async def run() -> None:
        one = AgentMemory(tmp_path, budget(), agent.pid, log.append)
        holds(tmp_path, 1900)
        one.look()
        while one._telling is None or not one._telling.done():
            await asyncio.sleep(0.01)

    asyncio.run(run())
    agent.kill()
    assert agent.stderr is not None
    assert (len(log), agent.stderr.read()) == (1, b"")


@pytest.mark.parametrize(
    ("session_mib", "policy", "cap_mib", "what"),
    [
        (2048, "", 1920, "--memory 4G"),
        (8192, "", 8192 - 512, "--memory 16G"),
        (256, "", 192, "--memory 512M"),
        (2048, "50%", 1024, "session.agent.memory_max"),
        (2048, "512M", 512, "session.agent.memory_max"),
    ],
)
def test_the_cap_leaves_a_call_its_reserve_and_what_bounds_it_is_named(
    session_mib: int, policy: str, cap_mib: int, what: str
) -> None:
    rule = Policy.model_validate({"version": 1, "session": {"agent": {"memory_max": policy} if policy else {}}})
    found = split_budget(rule, session_mib * MIB)
    assert found.agent_max == cap_mib * MIB
    assert what in more_for_the_agent(found.session, found.agent_max)
