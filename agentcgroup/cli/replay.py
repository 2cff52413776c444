"""``agentcgroup replay`` and ``agentcgroup simulate``."""

import json
from pathlib import Path
from typing import Annotated

import typer

from agentcgroup.cli.app import app
from agentcgroup.errors import AgentCgroupError

Traces = Annotated[Path | None, typer.Option(help="File of recorded runs (default: the one that AGENTCGROUP_TRACES names).")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


@app.command()
def replay(
    runs: Annotated[list[str], typer.Argument(help="Recorded runs: TASK[@MODEL][:PRIORITY], one session each.")],
    traces: Traces = None,
    speed: Annotated[float, typer.Option(min=0.1, max=1000, help="Times as fast as recorded.")] = 10.0,
    memory: Annotated[str | None, typer.Option(help="What all sessions together may use, e.g. 2G.")] = None,
    control: Annotated[bool, typer.Option(help="In sessions, or in plain cgroups.")] = True,
    hints: Annotated[bool, typer.Option(help="Whether each call says how much memory it needs.")] = False,
    cpu: Annotated[bool, typer.Option(help="Use the processors as recorded, too.")] = True,
    as_json: Json = False,
) -> None:
    """Play recorded agent runs at the same time, as real processes with real memory, and say how each fared."""
    from agentcgroup.replay import perform

    entries = [perform.entry(number, text, traces) for number, text in enumerate(runs, 1)]
    outcomes = perform.replay(entries, perform.Settings(speed, cpu, hints), memory, control)
    typer.echo(json.dumps([outcome.row() for outcome in outcomes]) if as_json else perform.table(outcomes))


@app.command()
def simulate(
    traces: Traces = None,
    memory: Annotated[str, typer.Option(help="Memory of the hosts, separated by commas.")] = "16G,128G",
    minutes: Annotated[float, typer.Option(min=1, max=1440, help="Virtual time.")] = 20,
    seed: Annotated[int, typer.Option(help="The same seed gives the same result.")] = 1,
    plot: Annotated[Path | None, typer.Option(help="Draw a picture (.png or .svg).")] = None,
    as_json: Json = False,
) -> None:
    """How many agents fit on a host: static limits, no control and AgentCgroup on recorded runs, in virtual time."""
    from agentcgroup.replay import simulate as sim
    from agentcgroup.replay.traces import default_file, load
    from agentcgroup.units import parse_size

    try:
        sizes = [parse_size(size) for size in memory.split(",")]
    except ValueError as error:
        raise AgentCgroupError("--memory refused", str(error), "write 16G,128G") from None
    recorded = load(traces or default_file())
    results = []
    for size in sizes:
        results.append(sim.compare(recorded, sim.Case(size, 60 * minutes, seed)))
        if not as_json:
            typer.echo(sim.describe(results[-1]) + "\n")
    if as_json:
        typer.echo(json.dumps(results))
    if plot is not None:
        sim.plot(results, plot)
