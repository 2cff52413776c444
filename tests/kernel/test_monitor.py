"""The BPF monitor on whatever kernel this runs on: real processes in real cgroups, natively and in the virtual host."""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentcgroup import cgroup
from agentcgroup.kernel.libbpf import BpfError
from agentcgroup.policy import MonitorRule
from agentcgroup.sources import Emptied, Event, Execed, Exited, Forked, HintSeen, HintUnread, Left, Lost, Waited
from agentcgroup.sources.choice import open_source
from agentcgroup.sources.connector import Connector
from agentcgroup.sources.monitor import Monitor

RULE = MonitorRule(hold=0, starved=0.02)


class Ear:
    """A monitor and what it said."""

    def __init__(self, monitor: Monitor, agent: Path, leaf: Path) -> None:
        self.monitor, self.agent, self.leaf = monitor, agent, leaf
        self.said: list[Event] = []

    def listen(self, seconds: float = 0.3) -> list[Event]:
        """What has been said, when nothing more was said for a while."""
        while select.select([self.monitor], [], [], seconds)[0]:
            self.monitor.drain(self.said.append)
        return self.said

    def run(self, place: Path, *argv: str, **environment: str) -> int:
        """Run a program in a cgroup; returns its pid when it has ended."""
        enter = ["sh", "-c", 'echo 0 >"$0/cgroup.procs" && exec "$@"', str(place)]
        child = subprocess.Popen([*enter, *argv], env={"PATH": os.environ["PATH"], **environment}, stdout=subprocess.DEVNULL)
        child.wait()
        return child.pid


@contextlib.contextmanager
def listening(ring_bytes: int = 1 << 20) -> Iterator[Ear]:
    top = cgroup.mount_point() / f"monitor-test-{os.getpid()}"
    monitor = Monitor(RULE, ring_bytes=ring_bytes)
    try:
        for part in (top, top / "agent", top / "leaf"):
            part.mkdir()
        monitor.watch_agent(top / "agent")
        monitor.watch_call(top / "leaf")
        yield Ear(monitor, top / "agent", top / "leaf")
    finally:
        monitor.close()
        for part in (top / "agent", top / "leaf", top):
            part.rmdir()


@pytest.fixture
def ear() -> Iterator[Ear]:
    with listening() as one:
        yield one


def test_births_programs_and_ends_in_the_agent_domain_are_told_in_order(ear: Ear) -> None:
    pid = ear.run(ear.agent, "sh", "-c", "/bin/true; exit 7")
    said = ear.listen()
    child = next(event.child for event in said if isinstance(event, Forked))
    assert [type(event) for event in said] == [Execed, Forked, Execed, Exited, Exited]
    assert said[1][:2] == (pid, child)
    assert [event.pid for event in said if isinstance(event, Execed)] == [pid, child]
    assert [event[:2] for event in said if isinstance(event, Exited)] == [(child, 0), (pid, 7 << 8)]
    assert all(0 <= time.monotonic_ns() - event.at_ns < 60e9 for event in said if isinstance(event, Forked | Execed | Exited))


def test_a_program_is_told_with_its_arguments_though_it_is_over_when_that_is_read(ear: Ear) -> None:
    ear.run(ear.agent, "sh", "-c", "/bin/true; exec echo it\\'s '' over")
    ear.run(ear.agent, "true", "x" * 3000)
    told = [event.argv for event in ear.listen() if isinstance(event, Execed)]
    assert told == [("sh", "-c", "/bin/true; exec echo it\\'s '' over"), ("/bin/true",), ("echo", "it's", "", "over"), ()]


@pytest.mark.parametrize("left_out", [{"on_fork", "on_exec", "on_exit"}, set()], ids=["alone", "beside the first"])
def test_a_second_program_tells_what_the_first_one_was_left_out_for(left_out: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel leaves one out cannot be chosen: here it is always, or never."""
    monkeypatch.setattr("agentcgroup.sources.monitor._is_needless", lambda name: name in left_out)
    monkeypatch.setattr("agentcgroup.sources.monitor._NEEDED", {"on_populated"})
    with listening() as ear:
        pid = ear.run(ear.agent, "sh", "-c", "/bin/true; exec sh -c 'exit 7'")
        said = ear.listen()
    child = next(event.child for event in said if isinstance(event, Forked))
    assert [(type(event), getattr(event, "pid", pid)) for event in said] == [
        (Execed, pid), (Forked, pid), (Execed, child), (Exited, child), (Execed, pid), (Exited, pid)
    ]  # fmt: skip


def test_a_program_that_nothing_told_of_is_told_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its birth was told; a subshell, which starts none, has only its end."""
    monkeypatch.setattr("agentcgroup.sources.monitor._is_needless", lambda name: name in {"on_exec", "again_exec"})
    monkeypatch.setattr("agentcgroup.sources.monitor._NEEDED", {"on_populated"})
    with listening() as ear:
        ear.run(ear.agent, "sh", "-c", "/bin/true; (:); exit 7")
        said = ear.listen()
    children = [event.child for event in said if isinstance(event, Forked)]
    assert [(type(event), event.pid) for event in said if isinstance(event, Execed | Exited)] == [
        (Execed, children[0]), (Exited, children[0]), (Exited, children[1])
    ]  # fmt: skip


def test_a_birth_that_nothing_told_of_is_told_with_the_end_of_its_parent_and_before_its_program(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An orphan (the subshell) has nobody left who could say whose it is."""
    monkeypatch.setattr("agentcgroup.sources.monitor._is_needless", lambda name: name in {"on_fork", "again_fork"})
    monkeypatch.setattr("agentcgroup.sources.monitor._NEEDED", {"on_populated"})
    with listening() as ear:
        os.mkfifo(gate := tmp_path / "gate")
        sh = ear.run(ear.agent, "sh", "-c", f"(read line <{gate}; /bin/true; :) &")
        before = [type(event) for event in ear.listen()]
        gate.write_text("\n")
        said = ear.listen()
    orphan, program = (event.child for event in said if isinstance(event, Forked))
    assert before == [Execed, Forked, Exited]
    assert said[1][:2] == (sh, orphan)
    assert said[3][:2] == (orphan, program)
    assert [(type(event), getattr(event, "pid", 0)) for event in said[4:]] == [
        (Execed, program),
        (Exited, program),
        (Exited, orphan),
    ]


def test_a_process_that_came_from_a_call_is_told_as_born_before_its_children(ear: Ear) -> None:
    """Births inside a call are not told, and this one goes to the agent domain by itself."""
    ear.run(ear.leaf, "sh", "-c", f"(echo 0 >{ear.agent}/cgroup.procs; (:); :); :")
    born = [event for event in ear.listen() if isinstance(event, Forked)]
    assert len(born) == 2
    assert born[1].parent == born[0].child


def test_the_end_by_a_signal_and_of_a_threaded_program_is_told_once(ear: Ear) -> None:
    ear.run(ear.agent, "sh", "-c", "kill -9 $$")
    ear.run(
        ear.agent, sys.executable, "-c", "import threading, os\nfor _ in range(8): threading.Thread(target=lambda: None).start()"
    )
    statuses = [event.status for event in ear.listen() if isinstance(event, Exited)]
    assert statuses == [signal.SIGKILL, 0]
    assert not any(isinstance(event, Forked) for event in ear.said)


def test_processes_elsewhere_are_not_told(ear: Ear) -> None:
    subprocess.run(["sh", "-c", "/bin/true; /bin/true"], check=True)
    assert ear.listen() == []


def test_inside_a_call_processes_are_counted_and_only_its_end_is_told(ear: Ear) -> None:
    ear.run(ear.leaf, "sh", "-c", "for i in $(seq 50); do /bin/true; done")
    said = ear.listen()
    assert [event for event in said if not isinstance(event, Waited)] == [Emptied(cgroup.number(ear.leaf))]
    counts = ear.monitor.counts(ear.leaf)
    assert counts is not None
    assert counts.forks >= 50


def test_a_hint_is_read_at_the_start_of_a_program(ear: Ear) -> None:
    ear.run(ear.agent, "/bin/true", AGENT_RESOURCE_HINT="memory:high,timeout:5m")
    long = {f"V{number}": "x" * 100 * number for number in range(40)}
    ear.run(
        ear.agent,
        "/bin/true",
        **long,
        NOT_AGENT_RESOURCE_HINT="memory:1",
        OTHER="AGENT_RESOURCE_HINT=memory:2",
        AGENT_RESOURCE_HINT="memory:3g",
    )
    ear.run(ear.agent, "/bin/true", OTHER="AGENT_RESOURCE_HINT=memory:2", HUGE="AGENT_RESOURCE_HINT=" * 500)
    assert [event.text for event in ear.listen() if isinstance(event, HintSeen)] == ["memory:high,timeout:5m", "memory:3g"]


def test_a_hint_behind_a_large_environment_is_read_or_said_to_be_unread(ear: Ear) -> None:
    def run(place: Path, *environment: str) -> int:
        return ear.run(place, "env", "-i", *environment, "/bin/true")  # a shell would put them into an order of its own

    hint = "AGENT_RESOURCE_HINT=memory:3g"
    run(ear.leaf, *(f"V{number}=x" for number in range(1100)), hint)
    run(ear.agent, *(f"V{number}={'x' * 100_000}" for number in range(3)), hint)
    assert [event.text for event in ear.listen() if isinstance(event, HintSeen)] == ["memory:3g", "memory:3g"]
    assert not any(isinstance(event, HintUnread) for event in ear.said)
    many = [f"V{number}=x" for number in range(6000)]
    pids = [run(place, *many, hint) for place in (ear.leaf, ear.agent)]
    said = ear.listen()
    assert {event.pid for event in said if isinstance(event, HintUnread)} == set(pids)
    assert sum(isinstance(event, HintSeen) for event in said) == 2


def test_inside_a_call_only_a_new_hint_is_told(ear: Ear) -> None:
    ear.run(ear.leaf, "sh", "-c", "/bin/true; AGENT_RESOURCE_HINT=memory:2g /bin/true; AGENT_RESOURCE_HINT=memory:2g /bin/true;"
            "AGENT_RESOURCE_HINT=memory:3g /bin/true", AGENT_RESOURCE_HINT="memory:1g")  # fmt: skip
    hints = [event for event in ear.listen() if isinstance(event, HintSeen)]
    # The last word of a call counts, so that a hint comes back when the first one is seen again.
    assert [event.text for event in hints] == ["memory:1g", "memory:2g", "memory:3g"]
    assert {event.cgroup for event in hints} == {cgroup.number(ear.leaf)}


def test_what_a_call_makes_the_kernel_say_is_bounded_and_the_rest_is_counted(ear: Ear) -> None:
    began = time.monotonic()
    ear.run(ear.leaf, "sh", "-c", "for i in $(seq 400); do AGENT_RESOURCE_HINT=memory:${i}m /bin/true; done")
    windows = (time.monotonic() - began) / 0.134 + 2
    hints = [event for event in ear.listen() if isinstance(event, HintSeen)]
    counts = ear.monitor.counts(ear.leaf)
    assert counts is not None
    assert len(hints) <= 16 * windows
    assert counts.folded + len(hints) >= 400 or len(hints) == 400


def test_waiting_for_a_processor_is_told_and_counted(ear: Ear) -> None:
    one = min(os.sched_getaffinity(0))
    spin = (
        f"import os, time\nos.sched_setaffinity(0, {{{one}}})\nend = time.monotonic() + 0.5\nwhile time.monotonic() < end: pass"
    )
    ear.run(ear.leaf, "sh", "-c", f"{sys.executable} -c '{spin}' & {sys.executable} -c '{spin}'; wait")
    waited = [event for event in ear.listen() if isinstance(event, Waited) and event.resource == "cpu"]
    assert waited
    assert all(event.time_s >= RULE.starved for event in waited)
    counts = ear.monitor.counts(ear.leaf)
    assert counts is not None
    assert counts.waited_s >= 0.1


def test_records_that_find_no_room_are_noticed() -> None:
    with listening(ring_bytes=4096) as ear:
        ear.run(ear.agent, "sh", "-c", "for i in $(seq 30); do /bin/true; done")
        assert Lost() in ear.listen()
        ear.said.clear()
        ear.run(ear.agent, "/bin/true")
        assert [type(event) for event in ear.listen()] == [Execed, Exited]
        assert ear.monitor.figures()["lost"] > 0


def taken_over(monitor: Monitor, ring_bytes: int) -> Monitor:
    """What a daemon has that comes after one with this monitor."""
    left = {name: [os.dup(one) for one in descriptors] for name, descriptors in monitor.to_keep().items()}
    return Monitor(RULE, ring_bytes=ring_bytes, kept={monitor.kind: left})


def test_what_was_taken_out_and_not_acted_upon_is_told_to_the_next_daemon() -> None:
    with listening() as ear:
        ear.run(ear.agent, "/bin/true")
        ear.listen()
        ear.monitor.acted(ear.monitor.position())
        ear.run(ear.agent, "/bin/false")
        before = len(ear.said)
        ear.listen()
        late = ear.said[before:]
        second = Ear(taken_over(ear.monitor, 1 << 20), ear.agent, ear.leaf)
        assert second.listen() == late
        assert [type(event) for event in late] == [Execed, Exited]
        second.monitor.acted(second.monitor.position())
        third = Ear(taken_over(ear.monitor, 1 << 20), ear.agent, ear.leaf)
        assert third.listen() == []
        second.run(ear.agent, "/bin/true")
        assert [type(event) for event in third.listen()] == [Execed, Exited]
        third.monitor.close()
        second.monitor.close()


def test_what_was_not_acted_upon_and_is_overwritten_counts_as_lost() -> None:
    with listening(ring_bytes=4096) as ear:
        for _ in range(12):
            ear.run(ear.agent, "/bin/true")
            ear.listen(0.05)
        assert Lost() not in ear.said
        second = Ear(taken_over(ear.monitor, 4096), ear.agent, ear.leaf)
        second.monitor.drain(second.said.append)
        assert second.said == [Lost()]
        second.monitor.close()


def test_a_cgroup_that_vanishes_is_forgotten(ear: Ear) -> None:
    ear.leaf.rmdir()
    assert ear.monitor.counts(ear.leaf) is None
    ear.leaf.mkdir()
    ear.run(ear.leaf, "/bin/true")
    assert ear.listen() == []


def test_without_the_object_the_connector_takes_over_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BpfError, match="can't be opened"):
        Monitor(RULE, tmp_path / "none.bpf.o")
    broken = tmp_path / "broken.bpf.o"
    broken.write_bytes(b"\x7fELF nonsense")
    monkeypatch.setattr("agentcgroup.sources.monitor.object_path", lambda name: broken)
    with pytest.raises(BpfError):
        open_source(RULE, "bpf")
    source, words = open_source(RULE, "auto")
    assert isinstance(source, Connector)
    assert "can't be opened" in words
    source.close()


def test_who_is_moved_out_by_anothers_hand_is_told_with_the_place_it_left_and_so_is_its_end(ear: Ear) -> None:
    agent = subprocess.Popen(
        ["sh", "-c", 'echo 0 >"$0/cgroup.procs"; exec sh -c "read x; exit 3"', str(ear.agent)], stdin=subprocess.PIPE
    )
    ear.listen()
    cgroup.add(ear.leaf, agent.pid)
    inner = subprocess.Popen(
        ["sh", "-c", 'echo 0 >"$0/cgroup.procs"; (read x; exit 0); true', str(ear.leaf)], stdin=subprocess.PIPE
    )
    ear.listen()
    assert not [event for event in ear.said if isinstance(event, Left)]
    (child,) = (int(pid) for pid in Path(f"/proc/{inner.pid}/task/{inner.pid}/children").read_text().split())
    for pid in (agent.pid, child):
        cgroup.add(ear.leaf.parent, pid)
    left = [event for event in ear.listen() if isinstance(event, Left)]
    assert left == [Left(cgroup.number(ear.leaf), agent.pid), Left(cgroup.number(ear.leaf), child)]
    for process in (inner, agent):
        assert process.stdin is not None
        process.stdin.close()
        process.wait()
    assert [event.status for event in ear.listen() if isinstance(event, Exited) and event.pid == agent.pid] == [3 << 8]
