"""Processes that are moved out of a session by another's hand: real processes in real cgroups, told by either source."""

import contextlib
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from agentcgroup import cgroup
from agentcgroup.policy import MonitorRule, load_policy
from agentcgroup.session.calls import Calls
from agentcgroup.session.follow import Follower
from agentcgroup.session.layout import Layout
from agentcgroup.sources import Source
from agentcgroup.sources.connector import Connector
from agentcgroup.sources.monitor import Monitor
from agentcgroup.tracker import Tracker
from tests.unit.test_follow import Heard

SOURCES = pytest.mark.parametrize("source", [lambda: Monitor(MonitorRule(hold=0)), Connector], ids=["bpf", "connector"])
AGENT = "for line in iter(input, ''): exec(line)"


class Session:
    """An agent that does what it is told, in cgroups of its own; and what was said of it."""

    def __init__(self, source: Source, top: Path) -> None:
        self.source, self.outside = source, top / "outside"
        self.layout = Layout("x", source, top / "session")
        for part in (self.outside, self.layout.top, self.layout.agent, self.layout.tools):
            part.mkdir(parents=True)
        source.watch_agent(self.layout.agent)
        enter = f"import os; open({str(self.layout.agent)!r} + '/cgroup.procs', 'w').write('0'); os.write(1, b'in')"
        words = [sys.executable, "-c", f"{enter}\n{AGENT}"]
        self.agent = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        assert self.agent.stdout is not None
        self.agent.stdout.read(2)
        source.watch_exit(self.agent.pid)
        self.heard, self.log = Heard(), list[str]()
        self.tracker = Tracker(load_policy(), self.agent.pid)
        self.follower = Follower(
            self.tracker, cast(Calls, cast(Any, self.heard)), source, self.layout, self.agent.pid, self.agent.pid, False,
            lambda: None, lambda do: None, self.log.append,
        )  # fmt: skip

    def order(self, line: str) -> None:
        assert self.agent.stdin is not None
        assert self.agent.stdout is not None
        self.agent.stdin.write(f"{line}; os.write(1, b'ok')\n".encode())
        self.agent.stdout.read(2)

    def listen(self, until: Callable[[], object], seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while not until() and time.monotonic() < deadline:
            select.select([self.source], [], [], 0.1)
            self.source.drain(self.follower.deliver)


@contextlib.contextmanager
def session(source: Source) -> Iterator[Session]:
    top = cgroup.mount_point() / f"strays-test-{os.getpid()}"
    one = Session(source, top)
    try:
        yield one
    finally:
        source.close()
        one.agent.kill()
        assert cgroup.drain(top, 20)
        one.agent.communicate()


@SOURCES
def test_who_is_moved_out_is_taken_back_with_what_it_started_there_and_that_is_said(source: Callable[[], Source]) -> None:
    with session(source()) as one:
        one.order("import subprocess")
        one.listen(lambda: False, 0.3)
        cgroup.add(one.outside, one.agent.pid)
        one.order("child = subprocess.Popen(['sleep', '60'], stdout=-3, stderr=-3)")
        one.listen(lambda: one.log)
        assert cgroup.processes(one.outside) == []
        assert one.agent.pid in cgroup.processes(one.layout.agent)
        assert [begun.facts.argv for begun in one.heard.begun if begun.facts] == [("sleep", "60")]
        assert one.log == one.follower.strays.notes
        assert (
            f"left its place, moved to {one.outside.relative_to(cgroup.mount_point())} by another program: taken back"
            in one.log[0]
        )


def test_what_a_container_engine_moved_stays_where_it_is_and_that_is_said() -> None:
    with session(Monitor(MonitorRule(hold=0))) as one:
        one.order("import subprocess")
        one.listen(lambda: False, 0.3)
        engines = one.outside / "libpod-7.scope"
        engines.mkdir()
        cgroup.add(engines, one.agent.pid)
        one.listen(lambda: one.log)
        assert cgroup.processes(engines) == [one.agent.pid]
        assert "moved to " in one.log[0]
        assert "by a container engine: it runs without this session's limits" in one.log[0]


def test_whoever_moves_a_process_away_again_and_again_means_it() -> None:
    with session(Monitor(MonitorRule(hold=0))) as one:
        one.order("import subprocess")
        for _ in range(6):
            before = len(one.log)
            cgroup.add(one.outside, one.agent.pid)
            one.listen(lambda: len(one.log) > before)  # noqa: B023
        assert "taken back" in one.log[4]
        assert "it was moved away 6 times" in one.log[5]
        assert cgroup.processes(one.outside) == [one.agent.pid]
        one.agent.kill()
        one.listen(lambda: one.follower.agent_status is not None)
        assert one.follower.agent_status == 9  # where it is, its end is told


def test_a_kernel_that_does_not_tell_who_is_moved_has_a_monitor_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from agentcgroup.kernel.libbpf import KernelTypes

    has = KernelTypes.has_target
    monkeypatch.setattr(KernelTypes, "has_target", lambda types, section: "attach_task" not in section and has(types, section))
    with session(Monitor(MonitorRule(hold=0))) as one:
        one.order("import subprocess; child = subprocess.Popen(['sleep', '60'], stdout=-3, stderr=-3)")
        one.listen(lambda: one.heard.begun)
        assert len(one.heard.begun) == 1
