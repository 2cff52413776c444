"""What waiting costs: the processor time of 64 sessions whose agents do nothing, with the BPF monitor and with the process connector.

Each is looked at on a quiet machine and while programs that belong to no session are started one after the other.  The figures
are those of the governing processes together, in percent of one processor, in spans of ten seconds.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.bench.table import publish
from tests.vm.harness import SLICE, governor, wait_for

SESSIONS = 64
SPAN_S = 10.0


def processor_ns(pids: list[int]) -> int:
    return sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for pid in pids)


def memory_mib(pid: int) -> float:
    """Its share of the memory: what it shares with others is divided by their number."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def percent(pids: list[int], busy: bool) -> float:
    """Processor time of the processes in one span, as a share of one processor."""
    before, end = processor_ns(pids), time.monotonic() + SPAN_S
    while (left := end - time.monotonic()) > 0:
        if busy:
            subprocess.run(["/bin/true"], check=True)
        else:
            time.sleep(left)
    return (processor_ns(pids) - before) / SPAN_S / 1e7


def main(file: Path, rounds: int) -> None:
    samples: dict[str, list[float]] = {}
    notes: dict[str, float] = {}
    for events in ("bpf", "connector"):
        runs = []
        for number in range(SESSIONS):
            words = ["run", "--name", f"idle-{number}", "--memory", "64M", "--events", events, "--", "sleep", "3600"]
            runs.append(subprocess.Popen([sys.executable, "-m", "agentcgroup", *words], stderr=subprocess.DEVNULL))
            wait_for(SLICE / f"agentcgroup-idle-{number}.scope/tools/tool-1")
        governors = [governor(run.pid) for run in runs]
        time.sleep(3)
        for _ in range(rounds + 1):
            samples.setdefault(f"{events}, quiet", []).append(percent(governors, busy=False))
            samples.setdefault(f"{events}, busy elsewhere", []).append(percent(governors, busy=True))
        notes[f"{events}: memory of one governor, MiB"] = sum(map(memory_mib, governors)) / SESSIONS
        for run in runs:
            run.terminate()
        for run in runs:
            run.wait()
    publish("idle", f"% of one processor, {SESSIONS} governors", samples, "connector, busy elsewhere", file, notes)


if __name__ == "__main__":
    os.environ.pop("AGENTCGROUP_SESSION", None)
    main(Path(sys.argv[1]), int(sys.argv[2]))
