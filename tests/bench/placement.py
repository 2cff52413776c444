"""How much of what a tool call allocates right after exec is charged outside its leaf, and how long it takes to get there.

An agent in a session runs a program that touches 20 MiB as its first thing.  What its leaf was charged at most is compared with
the same program started in a leaf to begin with; the rest went to the agent domain.  With the hold of new programs, without it, and
with the process connector.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.bench.table import publish

SIZE_MIB = 20
CALLS = 100
AGENT = "import subprocess, sys\nfor _ in range(int(sys.argv[1])): subprocess.run(sys.argv[2:], check=True)"
VARIANTS = {
    "held": ("bpf", "monitor: {hold: 500ms}"),
    "monitor, not held": ("bpf", "monitor: {hold: 0}"),
    "connector": ("connector", ""),
}


def session(variant: str, *argv: str) -> list[dict[str, float]]:
    """Run CALLS tool calls in a session; returns the records of those that ran the program."""
    events, text = VARIANTS[variant]
    with tempfile.TemporaryDirectory() as folder:
        rule, report = Path(folder, "policy.yaml"), Path(folder, "report.json")
        rule.write_text(f"version: 1\n{text}\n")
        subprocess.run([sys.executable, "-m", "agentcgroup", "run", "--events", events, "--policy", str(rule), "--report", str(report),
                        "--", sys.executable, "-c", AGENT, str(CALLS), *argv], check=True, stderr=subprocess.DEVNULL)  # fmt: skip
        return [call for call in json.loads(report.read_text())["calls"] if argv[0] in (call["argv"] or [""])[0]]


def main(file: Path, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(folder, "burst"))
        subprocess.run(["gcc", "-O1", "-o", program, "tests/vm/burst.c"], check=True)
        # Started in its leaf to begin with: a shell that is placed long before it starts the program.
        inside = session("connector", "sh", "-c", f"sleep 0.2; {program} {SIZE_MIB}; true")
        whole = statistics.median(call["memory_peak_bytes"] for call in inside)
        samples: dict[str, list[float]] = {}
        outside: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
        for _ in range(rounds):
            for variant in VARIANTS:
                for call in session(variant, program, str(SIZE_MIB)):
                    charged = call["memory_peak_bytes"] or 0
                    outside[variant].append(100 * max(0.0, 1 - charged / whole))
                    if call["placed_after_ms"] is not None:
                        samples.setdefault(f"placed after exec, {variant}", []).append(call["placed_after_ms"])
    notes = {}
    for variant, shares in outside.items():
        notes[f"{variant}: % charged outside the leaf, mean of {len(shares)}"] = statistics.mean(shares)
        notes[f"{variant}: % charged outside the leaf, worst"] = max(shares)
    publish("placement", "milliseconds", samples, "placed after exec, held", file, notes)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
