"""How long after a kernel event the controller has decided, and how long until the kernel has been told.

Two events, each seen by the BPF monitor and, in turn, by a loop that looks every 100 ms (as daemons that poll PSI or memory.events
do): a program that starts in the agent domain (decided: it is a tool call; told: it is in its leaf), and, where the memory controller is
on v2, a leaf whose memory jumps (decided: what its limit will be; told: memory.high is written).  Times from the kernel's own time stamp.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from agentcgroup import cgroup, process
from agentcgroup import control_events as ctl
from agentcgroup.classify import classify, split_budget
from agentcgroup.controller import Controller
from agentcgroup.model import Limits
from agentcgroup.policy import MonitorRule, load_policy
from agentcgroup.sources import Event, Execed, MemoryNews
from agentcgroup.sources.monitor import Monitor
from agentcgroup.tracker import Tracker
from tests.bench.table import publish

PERIOD_S = 0.1
BURSTS = 10
POLICY = load_policy()
GROW = "import time\ntime.sleep(0.4)\nb = bytearray(24 << 20)\nfor i in range(0, len(b), 4096): b[i] = 1\ntime.sleep(0.4)"


class Case:
    """One kind of event: how to make it happen, and what to do about it."""

    def __init__(self, top: Path, monitor: Monitor) -> None:
        self.top, self.monitor = top, monitor
        self.event_ns = self.decided_ns = self.told_ns = 0

    def react(self, decide: Callable[[], Callable[[], object]]) -> None:
        """Decide, then tell the kernel; once for each event."""
        if self.decided_ns == 0:
            tell = decide()
            self.decided_ns = time.monotonic_ns()
            tell()
            self.told_ns = time.monotonic_ns()

    def forget(self) -> None:
        self.event_ns = self.decided_ns = self.told_ns = 0


class Boundary(Case):
    """A program starts in the agent domain."""

    name = "boundary"
    argv = ("sleep", "0.4")
    place = "agent"

    def decide(self, pid: int, at_ns: int) -> Callable[[], object]:
        tracker = Tracker(POLICY, os.getpid())
        tracker.forked(os.getpid(), pid, at_ns)
        begun = tracker.execed(pid, process.facts(pid, os.getppid()), at_ns)
        assert begun is not None
        return lambda: cgroup.add(self.top / "leaf", begun.pid)

    def heard(self, event: Event, act: bool) -> None:
        if isinstance(event, Execed):
            self.event_ns = event.at_ns
            if act:
                self.react(lambda: self.decide(event.pid, event.at_ns))

    def poll(self) -> None:
        if pids := cgroup.processes(self.top / "agent"):
            self.react(lambda: self.decide(pids[0], 0))


class Growth(Case):
    """A leaf's memory jumps by 24 MiB."""

    name = "growth"
    argv = (sys.executable, "-c", GROW)
    place = "leaf"

    def decide(self) -> Callable[[], object]:
        budget = split_budget(POLICY, 1 << 30)
        controller = Controller(POLICY, budget)
        controller.step(ctl.Began(1, classify(POLICY, budget, ("make",), "tool")), 0.0)
        controller.step(ctl.Measured(1, cgroup.usage(self.top / "leaf")), 0.1)
        limits = controller.limits_of(1)
        assert isinstance(limits, Limits)
        return lambda: cgroup.write(self.top / "leaf", "memory.high", limits.memory_high_bytes)

    def heard(self, event: Event, act: bool) -> None:
        if isinstance(event, MemoryNews) and not self.event_ns:
            self.event_ns = event.at_ns
            if act:
                self.react(self.decide)

    def poll(self) -> None:
        if int(cgroup.read(self.top / "leaf", "memory.current")) > 20 << 20:
            self.react(self.decide)


@contextlib.contextmanager
def place(memory: bool) -> Iterator[Path]:
    top = cgroup.mount_point() / f"reaction-{os.getpid()}"
    cgroup.create(top)
    if memory:
        cgroup.enable_controllers(top, cgroup.mount_point())
    for part in ("agent", "leaf"):
        cgroup.create(top / part)
    try:
        yield top
    finally:
        for part in ("agent", "leaf"):
            cgroup.remove(top / part)
        cgroup.remove(top)


async def burst(case: Boundary | Growth, polled: bool) -> tuple[float, float]:
    """One event; milliseconds until decided, and until told."""
    case.forget()
    loop = asyncio.get_running_loop()
    loop.add_reader(case.monitor.fileno(), lambda: case.monitor.drain(lambda event: case.heard(event, act=not polled)))
    child = subprocess.Popen(["sh", "-c", 'echo 0 >"$0/cgroup.procs" && exec "$@"', str(case.top / case.place), *case.argv])
    while child.poll() is None:
        await asyncio.sleep(PERIOD_S if polled else 0.02)
        if polled:
            case.poll()
    loop.remove_reader(case.monitor.fileno())
    case.monitor.drain(lambda event: None)
    assert case.event_ns and case.told_ns, f"{case.name}: nothing was seen"
    return (case.decided_ns - case.event_ns) / 1e6, (case.told_ns - case.event_ns) / 1e6


def main(file: Path, rounds: int) -> None:
    memory = "memory" in cgroup.read(cgroup.mount_point(), "cgroup.controllers").split()
    samples: dict[str, list[float]] = {}
    with place(memory) as top:
        monitor = Monitor(MonitorRule(step=4 << 20, step_time=1.0, hold=0))
        monitor.watch_agent(top / "agent")
        monitor.watch_call(top / "leaf")
        cases: list[Boundary | Growth] = [Boundary(top, monitor)]
        if memory and monitor.sees_memory:
            cases.append(Growth(top, monitor))
        for turn in range(rounds * BURSTS + 1):
            for case in cases:
                for who, polled in (("monitor", False), ("poller", True)):
                    decided, told = asyncio.run(burst(case, polled))
                    if turn:  # the first warms up
                        samples.setdefault(f"{case.name}, {who}: decided", []).append(decided)
                        samples.setdefault(f"{case.name}, {who}: told", []).append(told)
        monitor.close()
    publish("reaction", "milliseconds", samples, "boundary, monitor: told", file, {})


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
