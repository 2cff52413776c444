"""How many agents fit on a host: policies compared on the same recorded runs in virtual time.

A *static* policy gives every agent the same limit, for nobody knows which run it will have: the highest peak of all
recorded runs (nobody is killed), or the 95th percentile of their memory over time (who needs more is killed).  *none* has no limit,
and the kernel kills when the host is full; *ours* has calls wait for each other.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentcgroup.errors import AgentCgroupError
from agentcgroup.replay.traces import Run
from agentcgroup.replay.world import Figures, Policy, Step, World, steps_of
from agentcgroup.units import format_size

ADDED = 0.05
"""A number of agents fits if nobody is killed and runs take at most this share longer."""


@dataclass(frozen=True, slots=True)
class Case:
    """What is simulated: hosts of ``memory`` bytes for ``seconds`` of virtual time, drawn with ``seed``."""

    memory: int
    seconds: float
    seed: int


@dataclass(frozen=True, slots=True)
class Row:
    """One policy with one number of agents."""

    policy: str
    figures: Figures

    def data(self) -> dict[str, Any]:
        """As JSON-able data."""
        figures = self.figures
        return {
            "policy": self.policy, "agents": figures.agents, "runs": figures.runs, "killed": figures.killed, "waits": figures.waits,
            "added": figures.added, "mean_bytes": figures.mean_bytes,
        }  # fmt: skip


def static_limit(runs: Sequence[Run], percent: int) -> int:
    """Memory that the runs stay below for so many percent of their time, in bytes; 100: the highest peak of all."""
    sizes = sorted(sample.memory for run in runs for sample in run.samples)
    return sizes[min(len(sizes) - 1, len(sizes) * percent // 100)]


def mean_demand(runs: Sequence[Run]) -> float:
    """Memory of a run, on average over time, in bytes."""
    return statistics.fmean(sample.memory for run in runs for sample in run.samples)


def play(plans: Sequence[list[Step]], policy: Policy, agents: int, case: Case, limit: int | None = None) -> Figures:
    """Simulate one host."""
    return World(plans, agents, case.memory, policy, case.seed, limit).run(case.seconds)


def fits(figures: Figures) -> bool:
    """Whether so many agents can be put on the host."""
    return figures.killed == 0 and figures.added <= ADDED


def most_that_fit(plans: Sequence[list[Step]], policy: Policy, case: Case, most: int) -> tuple[int, list[Row]]:
    """The largest number of agents that fits, found by halving between 1 and ``most``; and what was tried on the way."""
    low, high, tried = 0, most + 1, []
    while high - low > max(1, low // 50):
        number = (low + high) // 2
        tried.append(Row(policy, play(plans, policy, number, case)))
        if fits(tried[-1].figures):
            low = number
        else:
            high = number
    return low, tried


def compare(runs: Sequence[Run], case: Case) -> dict[str, Any]:
    """How many agents fit with each policy, and what happens to the others with as many as fit with ours."""
    plans = [steps_of(run) for run in runs]
    peak, usual, mean = static_limit(runs, 100), static_limit(runs, 95), mean_demand(runs)
    if case.memory < peak:
        raise AgentCgroupError(
            f"a host of {format_size(case.memory)} is too small", f"one run had {format_size(peak)}", "simulate a larger one"
        )
    bound = int(case.memory / mean)
    ours, tried = most_that_fit(plans, "ours", case, bound)
    uncontrolled, tried_none = most_that_fit(plans, "none", case, bound)
    static, static_usual = case.memory // peak, case.memory // usual
    rows = [
        Row("static, peak", play(plans, "limit", static, case, peak)),
        Row("static, P95", play(plans, "limit", static_usual, case, usual)),
        Row("none", play(plans, "none", ours, case)),
        Row("ours", play(plans, "ours", ours, case)),
    ]
    return {
        "memory": case.memory, "seconds": case.seconds, "seed": case.seed, "runs": len(runs), "peak_bytes": peak, "p95_bytes": usual,
        "mean_bytes": mean, "bound": bound, "fit": {"static, peak": static, "none": uncontrolled, "ours": ours},
        "rows": [row.data() for row in rows], "tried": [row.data() for row in tried + tried_none],
    }  # fmt: skip


def describe(result: dict[str, Any]) -> str:
    """The result as a table."""
    fit, bound = result["fit"], result["bound"]
    lines = [
        f"host of {format_size(result['memory'])}, {result['seconds']:.0f} s, seed {result['seed']}; {result['runs']} recorded runs: "
        f"highest peak {format_size(result['peak_bytes'])}, P95 {format_size(result['p95_bytes'])}, mean {format_size(int(result['mean_bytes']))}",
        f"{'policy':14} {'agents':>7} {'killed':>7} {'added time':>11} {'memory used':>12} {'waits':>7} {'runs':>7}",
    ]
    for row in result["rows"]:
        used = f"{100 * row['mean_bytes'] / result['memory']:.0f} %"
        lines.append(
            f"{row['policy']:14} {row['agents']:7} {row['killed']:7} {100 * row['added']:10.1f}% {used:>12} {row['waits']:7} {row['runs']:7}"
        )
    lines.append(
        f"agents that fit (nobody killed, at most {100 * ADDED:.0f} % longer): static peak {fit['static, peak']}, none {fit['none']}, ours {fit['ours']}"
    )
    lines.append(
        f"ours: {fit['ours'] / max(1, fit['static, peak']):.1f} times static peak limits, {100 * fit['ours'] / bound:.0f} % of the bound by mean demand ({bound})"
    )
    return "\n".join(lines)


def plot(results: Sequence[dict[str, Any]], file: Path) -> None:
    """Draw agents that fit, and kills against the number of agents, as PNG or SVG by the file's name."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise AgentCgroupError("--plot needs matplotlib", "it is not installed", "pip install 'agentcgroup[plot]'") from None
    picture = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = picture.subplots(1, 2)
    names = [format_size(result["memory"]) for result in results]
    for number, policy in enumerate(("static, peak", "none", "ours")):
        places = [place + 0.27 * (number - 1) for place in range(len(results))]
        left.bar(places, [result["fit"][policy] for result in results], width=0.25, label=policy)
    left.plot(range(len(results)), [result["bound"] for result in results], "k_", markersize=40, label="bound by mean demand")
    left.set_xticks(range(len(results)), names)
    left.set(title="Agents that fit on a host", yscale="log", ylabel="agents")
    left.legend()
    for policy in ("none", "ours"):
        tried = sorted((row["agents"], row["killed"]) for row in results[0]["tried"] if row["policy"] == policy)
        right.plot([agents for agents, _ in tried], [killed for _, killed in tried], "o-", label=policy)
    right.set(title=f"Killed on a host of {names[0]}", xlabel="agents", ylabel="tool calls and agents killed", yscale="symlog")
    right.legend()
    try:
        picture.savefig(file)
    except (OSError, ValueError) as error:
        raise AgentCgroupError(f"--plot {file} can't be written", str(error), "give a file that ends in .png or .svg") from None
