"""The scheduler of tool calls beside the kernel's own: shares, short calls under load, throughput, neighbours, switches.

In each round the same loads run in the same cgroups with the same weights, once as they are (default) and once in the hands
of the sched_ext scheduler.  The overload is four busy programs on each processor.
"""

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from agentcgroup import cgroup
from agentcgroup.enforce import CgroupFiles, Enforcer, InKernel
from agentcgroup.kernel.scheduler import Scheduler
from agentcgroup.kernel.selftest import leaves
from tests.bench.table import publish

PROCESSORS = os.cpu_count() or 1
OVERLOAD = 4 * PROCESSORS
WEIGHTS = (100, 200, 400)
SHORT_MS = 20
SHORT_CALLS = 20
LOOPS = 30_000_000


class Loads:
    """Starts the load program in leaves, under one scheduler or the other."""

    def __init__(self, program: str, enforcer: Enforcer) -> None:
        self._program, self._enforcer = program, enforcer

    def start(self, leaf: Path | None, *words: str | int) -> "subprocess.Popen[str]":
        command = [self._program, *map(str, words)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if leaf is not None:
            cgroup.add(leaf, process.pid)
            self._enforcer.adopt(leaf, process.pid)
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
        return process

    @contextlib.contextmanager
    def hogs(self, *where: Path) -> Iterator[None]:
        running = [self.start(leaf, "spin", 10_000_000) for leaf in where]
        time.sleep(0.3)
        try:
            yield
        finally:
            for process in running:
                process.kill()
                process.wait()

    def measured(self, process: "subprocess.Popen[str]") -> list[float]:
        return [float(line) for line in process.communicate()[0].split()]


def shares(loads: Loads, found: list[Path]) -> list[float]:
    """How far each share of three saturated leaves is from its weight's, in percent."""
    for leaf, weight in zip(found, WEIGHTS, strict=True):
        cgroup.write(leaf, "cpu.weight", weight)
    with loads.hogs(*(leaf for leaf in found for _ in range(PROCESSORS))):
        before = [cgroup.read_table(leaf, "cpu.stat")["usage_usec"] for leaf in found]
        time.sleep(8)
        used = [cgroup.read_table(leaf, "cpu.stat")["usage_usec"] - one for leaf, one in zip(found, before, strict=True)]
    return [100 * abs(one / sum(used) / (weight / sum(WEIGHTS)) - 1) for one, weight in zip(used, WEIGHTS, strict=True)]


def short_calls(loads: Loads, found: list[Path]) -> list[float]:
    """How long calls take that need SHORT_MS of a processor, each in a leaf of its own, in milliseconds."""
    times = []
    with loads.hogs(*(found[number % 4] for number in range(OVERLOAD))):
        for number in range(SHORT_CALLS):
            leaf = found[0].parent / f"short-{number}"
            cgroup.create(leaf)
            times += [us / 1000 for us in loads.measured(loads.start(leaf, "spin", SHORT_MS))]
            cgroup.drain(leaf, 5.0)
    return times


def throughput(loads: Loads, found: list[Path]) -> list[float]:
    """How long it takes until a fixed amount of work in all leaves is done, in milliseconds."""
    began = time.monotonic()
    for process in [loads.start(found[number % 4], "work", LOOPS) for number in range(OVERLOAD)]:
        process.communicate()
    return [1000 * (time.monotonic() - began)]


def neighbour(loads: Loads, found: list[Path]) -> list[float]:
    """How late a program outside wakes up while the leaves are busy, in milliseconds."""
    with loads.hogs(*(found[number % 4] for number in range(OVERLOAD))):
        return [us / 1000 for us in loads.measured(loads.start(None, "wake", 200))]


def switches(loads: Loads, found: list[Path]) -> list[float]:
    """A byte through a pipe to another process of the same leaf, in milliseconds."""
    return [us / 1000 for us in loads.measured(loads.start(found[0], "pipe", 20_000))]


MEASURES = {"share error, %": shares, "20 ms call": short_calls, "work": throughput, "neighbour": neighbour, "switch": switches}


def main(file: Path, rounds: int) -> None:
    samples: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        program = f"{folder}/load"
        subprocess.run(["gcc", "-O1", "-o", program, Path(__file__).parent / "load.c"], check=True)
        for turn in range(rounds):
            for handed in (False, True) if turn % 2 else (True, False):
                scheduler = Scheduler() if handed else None
                enforcer = InKernel("sched_ext", scheduler.calls_id, rank=1) if scheduler else CgroupFiles()
                loads = Loads(program, enforcer)
                for name, measure in MEASURES.items():
                    with leaves(3 if measure is shares else 4) as found:
                        samples.setdefault(f"{name}, {'sched_ext' if handed else 'default'}", []).extend(measure(loads, found))
                enforcer.close()
                if scheduler:
                    scheduler.close()
    notes = {}
    for name in MEASURES:
        ours, default = (samples[f"{name}, {which}"] for which in ("sched_ext", "default"))
        notes[f"{name}: sched_ext / default, p50"] = statistics.median(ours) / statistics.median(default)
        notes[f"{name}: sched_ext / default, p99"] = _p99(ours) / _p99(default)
    notes["share error, largest, %"] = max(samples["share error, %, sched_ext"])
    publish("sched", "milliseconds", samples, "20 ms call, default", file, notes)


def _p99(values: list[float]) -> float:
    return sorted(values)[min(len(values) - 1, int(0.99 * len(values)))]


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
