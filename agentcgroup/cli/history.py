"""``agentcgroup history`` and ``agentcgroup report``."""

import time
from pathlib import Path
from typing import Annotated

import typer

from agentcgroup.cli.app import app
from agentcgroup.errors import AgentCgroupError


@app.command()
def history(
    session: Annotated[str | None, typer.Option(help="Only of sessions with this name.")] = None,
    class_name: Annotated[str | None, typer.Option("--class", help="Only commands of this class (test, build ...).")] = None,
    command: Annotated[str | None, typer.Option(help="Only commands with this text in them.")] = None,
    since: Annotated[str | None, typer.Option(help="Only calls that began this long ago at most, e.g. 2h or 7d.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only calls that did not exit with 0.")] = False,
    acted_on: Annotated[bool, typer.Option("--acted-on", help="Only calls that something was done to.")] = False,
    every: Annotated[bool, typer.Option("--all", help="All calls, the agent's own and its helpers included.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="The newest ones, so many at most.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="As comma-separated values.")] = False,
) -> int:
    """Tool calls of all sessions, running and ended: how long, how much memory, what was done to them and why.

    Without --all: the model's calls, and of these, where nothing else is asked for, those that were acted on, failed or were
    large; how many more there were is said below.  --json and --csv have all.
    """
    from agentcgroup.history.show import show
    from agentcgroup.history.store import Filter
    from agentcgroup.units import parse_duration

    if as_json and as_csv:
        raise AgentCgroupError("--json and --csv", "one or the other", "give one of them")
    try:
        begin = None if since is None else time.time() - parse_duration(since)
    except ValueError as error:
        raise AgentCgroupError("--since refused", str(error), "write 2h or 7d") from None
    every = every or as_json or as_csv
    asked_for = bool(class_name or command or failed or acted_on)
    chosen = Filter(
        session, class_name, command, begin, failed, acted_on, limit,
        kind="tool" if asked_for and not every and not acted_on else None, notable=not (asked_for or every),
    )  # fmt: skip
    return show(chosen, "json" if as_json else "csv" if as_csv else "table")


@app.command()
def report(
    session: Annotated[
        str | None, typer.Argument(help="The newest session of this name (default: all sessions of the history).")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The page's file (default: agentcgroup-SESSION.html here).")] = None,
) -> int:
    """A page with pictures: memory and processors over time, tool calls, what was done to them, and the figures of all of it."""
    from agentcgroup.history.page import write

    return write(session, out)
