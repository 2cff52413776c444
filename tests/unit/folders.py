"""Plain folders that stand in for cgroups: each has the control files of a new one, and goes when it is removed."""

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agentcgroup import cgroup, process
from agentcgroup.sources import Source

NEW = {
    "memory.max": "max", "memory.high": "max", "memory.low": "0", "memory.swap.max": "max", "memory.oom.group": "0",
    "memory.current": "0", "memory.peak": "0", "pids.max": "max", "cpu.weight": "100", "cpu.max": "max 100000", "cgroup.freeze": "0",
    "cgroup.procs": "", "cgroup.subtree_control": "", "cgroup.controllers": "cpu memory pids",
    "memory.events.local": "high 0\nmax 0\noom_kill 0", "pids.events": "max 0", "cgroup.events": "populated 0\nfrozen 0",
    "memory.stat": "anon 0\nfile 0\nshmem 0\ninactive_file 0\nactive_file 0", "cpu.stat": "usage_usec 0",
}  # fmt: skip


@dataclass
class Folders:
    """Folders below ``top`` as cgroups; processes whose number is in ``ended`` can't be moved."""

    top: Path
    ended: set[int] = field(default_factory=set)

    def make(self, *parts: str) -> Path:
        path = self.top.joinpath(*parts)
        path.mkdir(parents=True, exist_ok=path == self.top)
        for name, value in NEW.items():
            (path / name).write_text(value)
        return path

    def remove(self, path: Path) -> bool:
        shutil.rmtree(path, ignore_errors=True)
        return True

    def add(self, path: Path, pid: int) -> bool:
        if pid in self.ended:
            return False
        before = (path / "cgroup.procs").read_text() if path.exists() else ""
        cgroup.write(path, "cgroup.procs", f"{before}{pid}\n")
        return True


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folders:
    found = Folders(tmp_path)

    def create(path: Path) -> None:
        try:
            found.make(str(path))
        except OSError as error:
            raise cgroup.CgroupError(path, "creating", error) from None

    def write(path: Path, name: str, value: str | int) -> None:
        try:
            descriptor = os.open(path / name, os.O_WRONLY | os.O_TRUNC)
        except OSError as error:
            raise cgroup.CgroupError(path, f"writing {name}", error) from None
        with os.fdopen(descriptor, "w") as file:
            file.write(str(value))

    monkeypatch.setattr(cgroup, "write", write)
    monkeypatch.setattr(cgroup, "create", create)
    monkeypatch.setattr(cgroup, "add", found.add)
    monkeypatch.setattr(cgroup, "remove", found.remove)
    monkeypatch.setattr(process, "prefer_as_victim", lambda pid, score: None)
    return found


class Watched(Source):
    """A source that only remembers which cgroups it was asked to watch, by their numbers."""

    sees_inside = sees_memory = True

    def __init__(self) -> None:
        self.places: set[int] = set()

    def watch_call(self, cgroup: Path) -> None:
        self.places.add(cgroup.stat().st_ino)

    def watch_agent(self, cgroup: Path) -> None:
        self.places.add(cgroup.stat().st_ino)

    def forget(self, cgroup_id: int) -> None:
        self.places.discard(cgroup_id)
