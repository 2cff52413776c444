"""What a tool call pays: ``bash -c true`` as an agent runs it, timed by the agent.

The variants take turns, ten calls each: *plain* (no session), *transparent* (the same in a session), *exec*
(``agentcgroup exec --`` before it) and *systemd-run* (a scope per call).  The time is from the start of the process to the end of its
output and its exit status.  Plain and transparent are timed by one program, once outside and once inside a session; both
stay alive for all rounds and measure when they are told to, so that drift of the machine meets all alike.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

from tests.bench.table import publish

CALLS = 10
COMMANDS = {
    "plain": ["bash", "-c", "true"],
    "exec": [sys.executable, "-m", "agentcgroup", "exec", "--", "bash", "-c", "true"],
    "python start (for exec)": [sys.executable, "-c", "pass"],
    "systemd-run --scope": ["systemd-run", "--scope", "--quiet", "--collect", "bash", "-c", "true"],
}


def timer() -> None:
    """The agent: for each line with a variant's name on stdin, run its command and print the milliseconds it took."""
    for line in sys.stdin:
        taken = []
        for _ in range(CALLS):
            began = time.perf_counter()
            subprocess.run(COMMANDS[line.strip()], capture_output=True, start_new_session=True, check=True)
            taken.append((time.perf_counter() - began) * 1000)
            time.sleep(0.05)  # a model thinks between calls
        print(json.dumps(taken), flush=True)


class Agent:
    """A timing agent, in a session or not."""

    def __init__(self, *prefix: str) -> None:
        words = [*prefix, sys.executable, "-m", "tests.bench.toolcall", "--timer"]
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def measure(self, variant: str) -> list[float]:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(variant + "\n")
        self.process.stdin.flush()
        return list(json.loads(self.process.stdout.readline()))

    def end(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def main(file: Path, rounds: int) -> None:
    report = file.with_name("session.json")
    outside = Agent()
    inside = Agent(sys.executable, "-m", "agentcgroup", "run", "--report", str(report), "--")
    turns = {
        "plain": (outside, "plain"),
        "transparent": (inside, "plain"),
        "exec": (inside, "exec"),
        "python start (for exec)": (outside, "python start (for exec)"),
        "systemd-run --scope": (outside, "systemd-run --scope"),
    }
    samples: dict[str, list[float]] = {name: [] for name in turns}
    for turn in range(rounds + 1):
        for name, (agent, variant) in turns.items():
            taken = agent.measure(variant)
            if turn:  # the first round warms up caches
                samples[name] += taken
    outside.end()
    inside.end()
    calls = [call for call in json.loads(report.read_text())["calls"] if call["argv"][:1] == ["bash"]]
    placed = sorted(call["placed_after_ms"] for call in calls if call["placed_after_ms"] is not None)
    notes = {"share of calls that were placed in their leaf before they ended": len(placed) / len(calls)}
    if placed:
        notes["placed after exec, p50 ms"] = placed[len(placed) // 2]
    publish("toolcall", "milliseconds", samples, "plain", file, notes)


if __name__ == "__main__":
    if sys.argv[1] == "--timer":
        timer()
    else:
        main(Path(sys.argv[1]), int(sys.argv[2]))
