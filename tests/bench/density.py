"""How many replayed agents one small host holds: with static limits at their peaks, without control, and with agentcgroup.

Agents play recorded runs (their own memory, and tool calls that are processes of their own) 10 times as fast as recorded, without
using the processors.  As many are played first as fit if each is given the highest peak of all (static limits), then more, without
control, with agentcgroup, which knows nothing of the calls before it sees them (ours), and with agentcgroup told by each call what
it needs at most (ours+hints).
"""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agentcgroup.model import MIB
from agentcgroup.replay import perform
from agentcgroup.replay.perform import Entry, Outcome, Settings
from agentcgroup.replay.split import agent_and_calls
from agentcgroup.replay.traces import Run, default_file, load

HOST_MIB = 3600
SPEED = 10.0
NUMBERS = (6, 8)
VARIANTS = ("none", "ours", "ours+hints")


def chosen() -> list[Run]:
    """Runs of at most ten minutes with a burst of at least 150 MiB above what their agent has, in the order of the file."""
    return [run for run in load(default_file()) if run.duration_s <= 600 and run.calls and _burst(run) >= 150 * MIB]


def _burst(run: Run) -> int:
    _, calls = agent_and_calls(run)
    return max((size for call in calls for _, size in call.points), default=0)


def play(variant: str, number: int) -> list[Outcome]:
    runs = chosen()
    entries = [Entry(f"{place}", runs[place % len(runs)]) for place in range(number)]
    controlled = variant.startswith("ours")
    if controlled:
        perform.wait_for_quiet_host()
    place = perform.limited_sessions(HOST_MIB * MIB) if controlled else perform.plain_cgroups(HOST_MIB * MIB)
    with place as start:
        return perform.play(entries, Settings(speed=SPEED, cpu=False, hints=variant == "ours+hints"), start)


def main(file: Path, rounds: int) -> None:
    peak = max(run.peak for run in chosen()) // MIB
    static = max(1, HOST_MIB // peak)
    print(f"host of {HOST_MIB} MiB; highest peak of {len(chosen())} runs {peak} MiB: static limits allow {static} agents")
    done: list[dict[str, Any]] = []
    for turn in range(rounds):
        for variant, number in [("none", static), *((variant, number) for number in NUMBERS for variant in VARIANTS)]:
            outcomes = play(variant, number)
            done.append({"round": turn, "variant": variant, "agents": number, "outcomes": [asdict(one) for one in outcomes]})
            alive = [one for one in outcomes if one.took_s is not None]
            slower = sum((one.took_s or 0) for one in alive) / sum(entry_s(one) for one in alive) if alive else float("nan")
            print(f"round {turn + 1}, {number} agents, {variant}: {len(alive)} finished, {sum(one.killed for one in outcomes)} killed, "
                  f"{slower:.3f} of the recorded time, {sum(one.waits for one in outcomes)} waits", flush=True)  # fmt: skip
    file.write_text(
        json.dumps({"name": "density", "kernel": os.uname().release, "static": static, "runs": done}, indent=1) + "\n"
    )


def entry_s(outcome: Outcome) -> float:
    """How long the run should take."""
    runs = chosen()
    return runs[int(outcome.name) % len(runs)].duration_s / SPEED


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
