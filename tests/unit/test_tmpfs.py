"""Files in memory: what of them is named, and what a call is told where they are in the way."""

import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentcgroup import tmpfs
from agentcgroup.control_events import InFiles, Notice, Reason
from agentcgroup.feedback import LONGEST_BYTES, render
from agentcgroup.model import CallRecord
from agentcgroup.session.in_memory import InMemory
from agentcgroup.session.layout import Layout
from agentcgroup.session.live import Live
from tests.unit.folders import Folders, Watched, folders

__all__ = ["folders"]
MIB = 1 << 20
FILES = InFiles(720 * MIB, False, "/dev/shm/a 240M, /dev/shm/b 240M")


@pytest.fixture
def prefix() -> Iterator[str]:
    """What the names of a test's files in /dev/shm begin with."""
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        yield file.name
        for path in Path("/dev/shm").glob(f"{Path(file.name).name}-*"):
            path.unlink()


def test_the_largest_files_of_the_user_are_named_and_no_others(prefix: str) -> None:
    for name, size in (("a", 2), ("b", 3), ("c", 4), ("d", 5), ("another", 6)):
        Path(f"{prefix}-{name}").write_bytes(b"x" * (size * MIB))
    Path(f"{prefix}-link").symlink_to(f"{prefix}-d")
    Path(f"{prefix}-small").write_bytes(b"x")
    with open(f"{prefix}-empty", "wb") as hole:
        hole.truncate(1 << 40)
    if os.geteuid():
        Path(f"{prefix}-another").unlink()  # only root can give files away
    else:
        os.chown(f"{prefix}-another", 12345, 12345)
    found = [file for file in tmpfs.files_of(os.getpid(), 0.0) if file[0].startswith(prefix)]
    assert found == [(f"{prefix}-d", 5 * MIB), (f"{prefix}-c", 4 * MIB), (f"{prefix}-b", 3 * MIB)]
    assert tmpfs.words(found).endswith(f", {prefix}-b 3M")
    assert tmpfs.files_of(os.getpid(), time.time() + 60) == []


def test_a_name_is_made_fit_to_be_shown(prefix: str) -> None:
    Path(os.fsdecode(f"{prefix}-\x1b[31m\n".encode() + b"\xff" * 90)).write_bytes(b"x" * MIB)
    (name,) = [name for name, _ in tmpfs.files_of(os.getpid(), 0.0) if name.startswith(prefix)]
    assert name.isprintable()
    assert len(name) <= 80


def test_what_is_mounted_over_a_name_is_not_looked_at() -> None:
    """Somebody may have mounted what hangs."""
    folder = os.open("/", os.O_RDONLY)
    try:
        assert tmpfs._look(folder, b"proc") is None
        assert tmpfs._look(folder, b"etc") is not None
        assert tmpfs._look(folder, b"etc/passwd/none") is None
    finally:
        os.close(folder)


def test_of_a_process_that_is_gone_and_of_places_that_it_does_not_share_nothing_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * MIB)
    assert tmpfs.files_of(os.getpid(), 0.0, [str(tmp_path), "/no/such"]) == []
    assert tmpfs.files_of(1 << 30, 0.0) == []


class Session:
    """Two calls on folders that stand in for cgroups: 1 runs; what others left is in ``tools``."""

    def __init__(self, folders: Folders, own: int, left: int, more: int = 0) -> None:
        top = folders.make("session")
        self.layout = Layout("s", Watched(), top)
        for path, shmem, current in (
            (folders.make("session", "agent"), 0, 0),
            (folders.make("session", "tools"), own + left, own + left + more),
            (folders.make("session", "tools", "tool-1"), own, own + more),
        ):
            (path / "memory.stat").write_text(f"anon {more}\nshmem {shmem}")
            (path / "memory.current").write_text(str(current))
        (top / "memory.stat").write_text(f"shmem {own + left}")
        (top / "agent" / "cgroup.procs").write_text(f"{os.getpid()}\n")
        self.live = Live(CallRecord(1, 100, ("sh",), 0.0), leaf=top / "tools" / "tool-1")
        self.in_memory = InMemory(self.layout, {1: self.live}, time.monotonic())

    def told(self, reason: Reason) -> InFiles | None:
        return self.in_memory.explain(self.live, Notice(reason, True, "x", 1.0, 1.0)).files


@pytest.mark.parametrize("reason", ["budget", "room", "session", "stalled"])
def test_a_call_that_runs_into_what_earlier_ones_left_is_told_of_that(reason: Reason, folders: Folders) -> None:
    session = Session(folders, own=0, left=720 * MIB, more=100 * MIB)
    told = session.told(reason)
    assert told is not None
    assert (told.held, told.own) == (720 * MIB, False)


@pytest.mark.parametrize("reason", ["memory", "kernel"])
def test_at_a_calls_own_limit_only_its_own_files_are_in_the_way(reason: Reason, folders: Folders) -> None:
    assert Session(folders, own=0, left=720 * MIB, more=100 * MIB).told(reason) is None


def test_what_the_call_itself_wrote_is_told_as_its_own(folders: Folders, prefix: str) -> None:
    session = Session(folders, own=240 * MIB, left=0, more=10 * MIB)
    Path(f"{prefix}-mine").write_bytes(b"x" * MIB)
    told = session.told("memory")
    assert told is not None
    assert (told.held, told.own) == (240 * MIB, True)
    assert f"{prefix}-mine 1M" in told.named
    assert session.in_memory.left_by(session.live) == ("left 240M in memory", told.named)
    assert session.in_memory.at_the_end() == {"bytes": 240 * MIB, "files": told.named}


@pytest.mark.parametrize(("own", "left", "more"), [(0, 0, 800), (10, 10, 0), (40, 40, 800)])
def test_files_that_are_not_in_the_way_are_not_spoken_of(own: int, left: int, more: int, folders: Folders) -> None:
    session = Session(folders, own * MIB, left * MIB, more * MIB)
    assert [session.told(reason) for reason in ("memory", "budget", "time", "processes")] == [None] * 4


@pytest.mark.parametrize("reason", ["memory", "budget", "session", "room", "stalled", "kernel"])
def test_who_is_told_of_files_is_not_told_to_do_less(reason: Reason) -> None:
    text = render(Notice(reason, True, "x", 10.0, 5.0, most=7, files=FILES), as_json=False).decode()
    assert "720M of this session's memory, left by earlier commands, is files in memory (tmpfs, such as /dev/shm)" in text
    assert "/dev/shm/b 240M" in text
    assert "remove what is not needed" in text
    assert "narrower scope" not in text and "AGENT_RESOURCE_HINT" not in text
    long = InFiles(1, True, ", ".join(["\N{REPLACEMENT CHARACTER}" * 80 + " 1.5G"] * 3))
    line = render(Notice(reason, True, "x", 10.0, 5.0, files=long), as_json=True)
    assert len(line) <= LONGEST_BYTES and "of what it used" in json.loads(line)["agentcgroup"]["what_happened"]
