"""Leaves and their limits: what a leaf has is known of that very cgroup, not of its name."""

from pathlib import Path

import pytest

from agentcgroup import cgroup
from agentcgroup.model import MIB, Limits
from agentcgroup.session.layout import Layout
from agentcgroup.sources import Source

LIMITS = Limits(64 * MIB, 80 * MIB)


FILES = ("memory.oom.group", "memory.high", "memory.max", "memory.swap.max", "pids.max", "cpu.weight", "cpu.max")


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """A session's tree of plain folders: what the kernel does when a cgroup is made, its control files, is done here."""

    def create(place: Path) -> None:
        place.mkdir()
        for name in FILES:
            (place / name).write_text("max\n")

    monkeypatch.setattr(cgroup, "create", create)
    (tmp_path / "tools").mkdir()
    return Layout("demo", Source(), tmp_path)


def empty(leaf: Path) -> None:
    """Remove a folder that stands for a cgroup, with its files."""
    for file in leaf.iterdir():
        file.unlink()
    leaf.rmdir()


def test_a_leaf_that_was_kept_ready_is_known_to_have_its_limits_once(layout: Layout) -> None:
    layout.prepare(1, LIMITS)
    leaf = layout.take_leaf(1)
    assert layout.given(leaf) == LIMITS
    assert layout.given(leaf) is None


@pytest.mark.parametrize("again", ["taken", "renewed"])
def test_a_leaf_that_was_made_anew_has_no_limits_and_gets_them_all(layout: Layout, again: str) -> None:
    layout.prepare(1, LIMITS)
    leaf = layout.take_leaf(1)
    empty(leaf)
    leaf = layout.take_leaf(1) if again == "taken" else layout.renew_leaf(leaf)
    given = layout.given(leaf)
    assert given is None
    cgroup.limit(leaf, LIMITS, given)
    assert (leaf / "memory.max").read_text().strip() == str(80 * MIB)
    assert (leaf / "memory.high").read_text().strip() == str(64 * MIB)
