"""Which enforcer a session takes, of those that the host process has in force."""

from pathlib import Path

import pytest

from agentcgroup import enforce
from agentcgroup.enforce import CgroupFiles
from agentcgroup.host import wire
from agentcgroup.kernel.libbpf import BpfError
from agentcgroup.policy import HostRule
from agentcgroup.schedule import events as ev
from agentcgroup.session import share as module
from agentcgroup.session.share import Share
from tests.unit.folders import Folders, Watched, folders

__all__ = ["folders"]


class Recorded(CgroupFiles):
    """An enforcer that says what it was made with, and can't be attached where ``fails``."""

    fails = False

    def __init__(self, name: str, calls: int, rank: int, tools: Path, ops: int, slowed: int) -> None:
        if self.fails and ops:
            raise BpfError("memcg struct_ops can't be attached to the cgroup", "EBUSY")
        self.made = name, ops


@pytest.mark.parametrize(
    ("name", "ours", "fails", "expected", "words"),
    [
        ("sched_ext", True, False, ("sched_ext", 9), "the best"),
        ("sched_ext", True, True, ("sched_ext", 0), "the best; memcg struct_ops can't be attached to the cgroup: EBUSY"),
        ("sched_ext", False, False, ("sched_ext", 0), "the best; memcg struct_ops are not used: a container's cgroup"),
        ("memcg_bpf", True, False, ("memcg_bpf", 9), "the best"),
        ("memcg_bpf", False, False, None, "memcg struct_ops are not used: a container's cgroup is removed by its engine"),
    ],
)
def test_nothing_is_attached_to_a_cgroup_that_others_remove(
    folders: Folders, monkeypatch: pytest.MonkeyPatch, name: enforce.Name, ours: bool, fails: bool, expected: object, words: str
) -> None:
    monkeypatch.setattr(module, "InKernel", Recorded)
    monkeypatch.setattr(Recorded, "fails", fails)
    monkeypatch.setattr(module, "session_cgroup", lambda _: folders.top / ("scope" if ours else "elsewhere"))
    tools = folders.make("scope", "tools")
    began = ev.SessionBegan("x", "normal", 1 << 30)
    share = Share(
        began, tools, "auto", HostRule(), Watched(), {}, lambda *_: None, lambda *_: None, lambda _: None, lambda _: None
    )
    enforcer, word = share._take(wire.Enforce(name, "the best", 7, 8, 9, 10))
    assert getattr(enforcer, "made", None) == expected
    assert word.name == ((expected and name) or "cgroup")
    assert word.why.startswith(words)
