"""How fast a low call's memory grows before, during and after a high one's need; and how long the brake takes to act.

The low one grows without end (and gives back what it had, again and again); after a second the high one stalls at its own
memory.high for a second; then it is gone.  In the kernel, the stall itself brakes the low one; with cgroup files a governor
hears through the ring buffer that its limit was met, and writes cpu.max.  The delay is from the stall to the first task held, and
from the record to the end of the write.
"""

import select
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from agentcgroup import cgroup
from agentcgroup.enforce import CgroupFiles, Enforcer, InKernel
from agentcgroup.kernel.scheduler import Scheduler, read_figures
from agentcgroup.kernel.selftest import leaves
from agentcgroup.policy import MonitorRule
from agentcgroup.sources import Event, MemoryNews
from agentcgroup.sources.monitor import Monitor
from tests.bench.table import publish

PROGRAM = """
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
int main(int argc, char **argv)
{
	long bytes = atol(argv[1]) << 20;

	if (read(0, &(char){0}, 1) < 0)
		return 1;
	for (;;) {
		char *memory = mmap(0, bytes, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		madvise(memory, bytes, MADV_NOHUGEPAGE);
		for (long at = 0; at < bytes; at += 4096)
			memory[at] = 1;
		munmap(memory, bytes);
	}
}
"""
PHASE_S = 1.0


def start(program: str, mib: int, leaf: Path, enforcer: Enforcer) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen([program, str(mib)], stdin=subprocess.PIPE)
    cgroup.add(leaf, process.pid)
    enforcer.adopt(leaf, process.pid)
    assert process.stdin is not None
    process.stdin.close()
    return process


def touched(leaf: Path) -> int:
    """Pages that a leaf's programs touched for the first time."""
    return cgroup.read_table(leaf, "memory.stat")["pgfault"]


def rate(leaf: Path, seconds: float) -> float:
    """MiB a second."""
    before, began = touched(leaf), time.monotonic()
    time.sleep(seconds)
    return (touched(leaf) - before) * 4096 / (time.monotonic() - began) / (1 << 20)


def in_kernel(program: str, rounds: dict[str, list[float]]) -> None:
    scheduler = Scheduler()
    low_enforcer, high_enforcer = (InKernel("sched_ext", scheduler.calls_id, rank=rank) for rank in (2, 0))
    with leaves(2) as [low, high]:
        grower = start(program, 64, low, low_enforcer)
        time.sleep(0.2)
        before = rate(low, PHASE_S)
        cgroup.write(high, "memory.high", 16 << 20)
        needy = start(program, 64, high, high_enforcer)
        during = rate(low, PHASE_S)
        needy.kill()
        needy.wait()
        time.sleep(0.1)
        after = rate(low, PHASE_S)
        grower.kill()
        grower.wait()
    figures = read_figures(scheduler.figures_id)
    for name, value in (("before", before), ("during", during), ("after", after)):
        rounds.setdefault(f"sched_ext, {name}", []).append(value)
    # A bucket's middle stands for what is in it, in milliseconds.
    for bucket, times in enumerate(figures.reactions):
        rounds.setdefault("delay sched_ext, ms", []).extend([0.75 * 2**bucket / 1000] * times)
    for bucket, times in enumerate(figures.delays):
        rounds.setdefault("charge to hold, ms", []).extend([0.75 * 2**bucket / 1000] * times)
    scheduler.close()


def by_files(program: str, rounds: dict[str, list[float]]) -> None:
    enforcer = CgroupFiles()
    monitor = Monitor(MonitorRule())
    with leaves(2) as [low, high]:
        monitor.watch_call(high)
        grower = start(program, 64, low, enforcer)
        time.sleep(0.2)
        before = rate(low, PHASE_S)
        cgroup.write(high, "memory.high", 16 << 20)
        needy = start(program, 64, high, enforcer)
        delays: list[float] = []

        def heard(event: Event) -> None:
            if isinstance(event, MemoryNews) and not delays:
                enforcer.brake(low)
                delays.append((time.monotonic_ns() - event.at_ns) / 1e6)

        begun, at = touched(low), time.monotonic()
        while time.monotonic() < at + PHASE_S:
            select.select([monitor], [], [], 0.1)
            monitor.drain(heard)
        during = (touched(low) - begun) * 4096 / (time.monotonic() - at) / (1 << 20)
        needy.kill()
        needy.wait()
        enforcer.release(low, None)
        time.sleep(0.1)
        after = rate(low, PHASE_S)
        grower.kill()
        grower.wait()
    for name, value in (("before", before), ("during", during), ("after", after)):
        rounds.setdefault(f"cgroup files, {name}", []).append(value)
    rounds.setdefault("delay cgroup files, ms", []).extend(delays)
    monitor.close()


def main(file: Path, rounds: int) -> None:
    samples: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder, "program.c"), f"{folder}/program"
        source.write_text(PROGRAM)
        subprocess.run(["gcc", "-O1", "-o", program, source], check=True)
        for _ in range(rounds):
            in_kernel(program, samples)
            by_files(program, samples)
    notes = {f"{name}, p50": statistics.median(values) for name, values in samples.items() if name.endswith("ms") and values}
    rates = {name: values for name, values in samples.items() if not name.endswith("ms")}
    publish("brake", "MiB/s", rates, "sched_ext, before", file, notes)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
