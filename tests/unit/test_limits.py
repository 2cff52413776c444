"""The budget of a container follows the limits that others set on its cgroup, and above."""

import asyncio
from pathlib import Path

import pytest

from agentcgroup import cgroup
from agentcgroup.history.writer import Writer
from agentcgroup.policy import load_policy
from agentcgroup.service.contained import Container, _Governed, wishes
from agentcgroup.service.limits import memory_limit, telling_of_changes
from tests.unit.folders import Folders, Watched, folders

__all__ = ["folders"]

MIB = 1 << 20


@pytest.fixture
def top(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A container's cgroup, two below the topmost."""
    monkeypatch.setattr(cgroup, "mount_point", lambda: folders.top)
    folders.make("slice")
    return folders.make("slice", "docker-1.scope")


def limit(place: Path, mib: int) -> None:
    (place / "memory.max").write_text(f"{mib * MIB}\n")


@pytest.mark.parametrize(
    ("own", "above", "label", "expected"),
    [
        (None, 400, None, 400),
        (300, 400, None, 300),
        (500, 400, None, 400),
        (300, None, "200m", 200),
        (300, None, "2g", 300),
        (None, None, "200m", 200),
    ],
)
def test_the_budget_is_the_lowest_of_all_that_limits_it(
    top: Path, own: int | None, above: int | None, label: str | None, expected: int
) -> None:
    for place, mib in ((top, own), (top.parent, above)):
        if mib is not None:
            limit(place, mib)
    container = Container("1", "x", 1, ("x",), {"agentcgroup.memory": label} if label else {})
    writer = Writer(top / "history.db", 1, 1, print)
    governed = _Governed(
        container, top, "x", top, load_policy(), wishes(container), Watched(), "", writer, asyncio.Event()
    )  # fmt: skip
    writer.close()
    assert governed.memory() == expected * MIB


def test_where_nothing_is_limited_there_is_no_limit(top: Path) -> None:
    assert memory_limit(top) is None


@pytest.mark.parametrize("above", [False, True])
def test_who_writes_a_limit_is_heard(top: Path, above: bool) -> None:
    told: list[int | None] = []

    async def hear() -> None:
        with telling_of_changes(top, lambda: told.append(memory_limit(top))):
            await asyncio.sleep(0.05)
            assert not told
            limit(top.parent if above else top, 256)
            await asyncio.sleep(0.05)
        limit(top, 128)
        await asyncio.sleep(0.05)

    asyncio.run(hear())
    assert told and told[-1] == 256 * MIB


def test_a_limit_that_can_not_be_watched_is_said(top: Path) -> None:
    (top / "memory.max").unlink(missing_ok=True)
    (top / "memory.max").symlink_to("memory.max")

    async def watch() -> None:
        with pytest.raises(OSError, match="symbolic links"), telling_of_changes(top, lambda: None):
            pass

    asyncio.run(watch())
