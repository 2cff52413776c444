"""What we cost programs outside any session: forks, page faults, system calls, switches between tasks.

Each program is run alone and with everything attached (the monitor, and the scheduler where the kernel can have it), in turn,
three times each, of which the fastest counts.  At the end, where bpftool is there, the kernel's own count of the time that each
hook takes (BPF_ENABLE_STATS).
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from agentcgroup.kernel.libbpf import library
from agentcgroup.kernel.scheduler import Scheduler, lacking
from agentcgroup.policy import MonitorRule
from agentcgroup.sources.monitor import Monitor
from tests.bench.table import publish

LACKING = lacking()
PROGRAMS = {
    "forks": "for (int i = 0; i < 500; i++) { int p = fork(); if (!p) _exit(0); waitpid(p, 0, 0); }",
    "page faults": "for (int i = 0; i < 4; i++) { char *m = mmap(0, 64 << 20, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);"
    " madvise(m, 64 << 20, MADV_NOHUGEPAGE); for (long k = 0; k < 64 << 20; k += 4096) m[k] = 1; munmap(m, 64 << 20); }",
    "system calls": "for (int i = 0; i < 500000; i++) getppid();",
    "switches": "int a[2], b[2]; char c = 0; if (pipe(a) || pipe(b)) return 1; if (!fork()) { for (;;) { if (read(a[0], &c, 1) != 1) _exit(0);"
    " if (write(b[1], &c, 1) != 1) _exit(1); } } for (int i = 0; i < 8000; i++)"
    " { if (write(a[1], &c, 1) != 1 || read(b[0], &c, 1) != 1) return 1; } close(a[1]);",
}
HEAD = "#define _GNU_SOURCE\n#include <sys/mman.h>\n#include <sys/wait.h>\n#include <unistd.h>\nint main(void) { %s return 0; }\n"


def nanoseconds_per_run(folder: str) -> dict[str, float]:
    """Mean time of each hook, by the kernel's own count, while the programs run."""
    if shutil.which("bpftool") is None:
        return {}
    monitor = Monitor(MonitorRule())
    counting = library().bpf_enable_stats(0)  # as long as the descriptor is open
    try:
        for name in PROGRAMS:
            subprocess.run([f"{folder}/{name}"], check=True)
        shown = json.loads(subprocess.run(["bpftool", "-j", "prog", "show"], capture_output=True, check=True).stdout)
    finally:
        os.close(counting)
        monitor.close()
    ran = (one for one in shown if one.get("run_cnt") and one.get("name", "").startswith(("on_", "instead_", "hold_")))
    return {f"{one['name']}: nanoseconds per run, of {one['run_cnt']}": one["run_time_ns"] / one["run_cnt"] for one in ran}


@contextlib.contextmanager
def everything(attached: bool) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        if attached:
            stack.enter_context(contextlib.closing(Monitor(MonitorRule())))
            if not LACKING:
                stack.enter_context(contextlib.closing(Scheduler()))
        yield


def milliseconds(program: str) -> float:
    """On one processor: where the kernel puts two processes that wake each other changes the time by half."""
    began = time.perf_counter()
    subprocess.run(["taskset", "-c", str(max(os.sched_getaffinity(0))), program], check=True)
    return (time.perf_counter() - began) * 1000


def main(file: Path, rounds: int) -> None:
    samples: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, body in PROGRAMS.items():
            source = Path(folder, "program.c")
            source.write_text(HEAD % body)
            subprocess.run(["gcc", "-O1", "-o", f"{folder}/{name}", source], check=True)
        for turn in range(4 * rounds + 1):
            for attached in (False, True) if turn % 2 else (True, False):
                with everything(attached):
                    for name in PROGRAMS:
                        took = min(milliseconds(f"{folder}/{name}") for _ in range(3))
                        if turn:
                            samples.setdefault(f"{name}, {'attached' if attached else 'alone'}", []).append(took)
        notes = nanoseconds_per_run(folder)
    for name in PROGRAMS:
        pairs = zip(samples[f"{name}, attached"], samples[f"{name}, alone"], strict=True)
        ratios = sorted(attached / alone for attached, alone in pairs)
        notes[f"{name}: attached / alone, median of pairs"] = ratios[len(ratios) // 2]
    publish("bystander", "milliseconds", samples, "forks, alone", file, notes)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
