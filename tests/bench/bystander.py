"""What the attached monitor costs programs outside any session: forks, page faults, switches between tasks.

Each program is run alone and with the monitor attached, in turn.  At the end, where bpftool is there, the kernel's own count of
the time that each hook takes (BPF_ENABLE_STATS).
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from agentcgroup.kernel.libbpf import library
from agentcgroup.policy import MonitorRule
from agentcgroup.sources.monitor import Monitor
from tests.bench.table import publish

PROGRAMS = {
    "forks": "for (int i = 0; i < 1500; i++) { int p = fork(); if (!p) _exit(0); waitpid(p, 0, 0); }",
    "page faults": "for (int i = 0; i < 12; i++) { char *m = mmap(0, 64 << 20, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);"
    " madvise(m, 64 << 20, MADV_NOHUGEPAGE); for (long k = 0; k < 64 << 20; k += 4096) m[k] = 1; munmap(m, 64 << 20); }",
    "switches": "int a[2], b[2]; char c = 0; if (pipe(a) || pipe(b)) return 1; if (!fork()) { for (;;) { if (read(a[0], &c, 1) != 1) _exit(0);"
    " if (write(b[1], &c, 1) != 1) _exit(1); } } for (int i = 0; i < 40000; i++)"
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


def main(file: Path, rounds: int) -> None:
    samples: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, body in PROGRAMS.items():
            source = Path(folder, "program.c")
            source.write_text(HEAD % body)
            subprocess.run(["gcc", "-O1", "-o", f"{folder}/{name}", source], check=True)
        for turn in range(4 * rounds + 1):
            for name in PROGRAMS:
                for attached in (False, True) if turn % 2 else (True, False):
                    monitor = Monitor(MonitorRule()) if attached else None
                    began = time.perf_counter()
                    subprocess.run([f"{folder}/{name}"], check=True)
                    taken = (time.perf_counter() - began) * 1000
                    if monitor:
                        monitor.close()
                    if turn:
                        samples.setdefault(f"{name}, {'monitor attached' if attached else 'alone'}", []).append(taken)
        notes = nanoseconds_per_run(folder)
    for name in PROGRAMS:
        pairs = zip(samples[f"{name}, monitor attached"], samples[f"{name}, alone"], strict=True)
        ratios = sorted(attached / alone for attached, alone in pairs)
        notes[f"{name}: attached / alone, median of pairs"] = ratios[len(ratios) // 2]
    publish("bystander", "milliseconds", samples, "forks, alone", file, notes)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
