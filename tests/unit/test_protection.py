"""What the slice of all sessions protects, on folders; a list stands in for systemd."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from agentcgroup import systemd
from agentcgroup.errors import AgentCgroupError
from agentcgroup.host import protection
from agentcgroup.host.protection import Protection


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What systemd was told; a negative last figure makes it refuse once."""
    figures: list[int] = []

    def tell(memory_low: int) -> None:
        if figures and figures[-1] < 0:
            figures.pop()
            raise AgentCgroupError("refused")
        figures.append(memory_low)

    monkeypatch.setattr(systemd, "is_running", lambda: True)
    monkeypatch.setattr(systemd, "protect_slice", tell)
    monkeypatch.setattr(protection, "_SETTLE_S", 0.05)
    return figures


def session(base: Path, name: str, memory_low: int) -> Path:
    place = base / name
    place.mkdir(parents=True, exist_ok=True)
    (place / "memory.low").write_text(str(memory_low))
    return place


def live(steps: Callable[[Protection, Path], None], base: Path) -> Protection:
    base.mkdir(exist_ok=True)
    (base / "memory.low").write_text("0")

    async def run() -> Protection:
        one = Protection(print)
        steps(one, base)
        while one._telling is not None and not one._telling.done():
            await asyncio.sleep(0.01)
        return one

    return asyncio.run(run())


def test_the_slice_protects_what_its_sessions_protect_together_and_systemd_knows(tmp_path: Path, told: list[int]) -> None:
    def steps(one: Protection, base: Path) -> None:
        one.change(base, "a", session(base, "a", 100))
        one.change(base, "b", session(base, "b", 20))
        one.change(base, "a", session(base, "a", 300))
        one.change(base, "elsewhere", session(tmp_path / "docker", "c", 7))

    live(steps, tmp_path / "slice")
    assert int((tmp_path / "slice/memory.low").read_text()) == 320
    assert told == [320]  # once, what has lasted


def test_sessions_that_come_and_go_at_once_are_not_told(tmp_path: Path, told: list[int]) -> None:
    def steps(one: Protection, base: Path) -> None:
        one.change(base, "a", session(base, "a", 100))
        one.change(base, "a", None)

    live(steps, tmp_path / "slice")
    assert int((tmp_path / "slice/memory.low").read_text()) == 0
    assert told in ([], [0])


def test_what_systemd_refuses_is_told_again_with_the_next_session(tmp_path: Path, told: list[int]) -> None:
    told.append(-1)

    async def run() -> None:
        one, base = Protection(print), tmp_path / "slice"
        base.mkdir()
        for name in ("a", "b"):
            one.change(base, name, session(base, name, 50))
            assert one._telling is not None
            await one._telling

    asyncio.run(run())
    assert told == [100]
