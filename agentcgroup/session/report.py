"""The report of a session, as JSON and as the table that ``run`` prints.

``build_report`` makes plain data from the records; ``print_summary`` shows it to a person.
"""

import dataclasses
import json
import os
import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from agentcgroup.boundary import AgentProcess
from agentcgroup.classify import Budget
from agentcgroup.command import display
from agentcgroup.kernel.scheduler import Figures
from agentcgroup.loops import Loop
from agentcgroup.model import LARGEST_STATUS, CallRecord
from agentcgroup.units import format_duration, format_size

SCHEMA = 1


def build_report(
    name: str, argv: Sequence[str], priority: str, budget: Budget, began_at: float, duration_s: float,
    agent_status: int | None, agent_peak: int | None, agent_kills: int, source: str, source_figures: dict[str, float],
    enforcer: str, figures: Figures | None,
    launched: Sequence[AgentProcess], records: Sequence[CallRecord], loops: Sequence[Loop], log: Sequence[str],
) -> dict[str, Any]:  # fmt: skip
    """Everything about a session as JSON-able data.  Sizes in bytes, times in seconds; ``started`` since the epoch."""
    return {
        "schema": SCHEMA,
        "session": name,
        "command": list(argv),
        "priority": priority,
        "kernel": os.uname().release,
        "source": source,
        "source_figures": source_figures,
        "enforcer": enforcer,
        "scheduler": figures._asdict() if figures else None,
        "started": began_at,
        "duration_s": duration_s,
        "budget": dataclasses.asdict(budget),
        "agent": {
            "exit": agent_status,
            "memory_peak_bytes": agent_peak,
            "out_of_memory_kills": agent_kills,
            "processes": [
                {
                    "pid": one.pid,
                    "argv": list(one.argv),
                    "why": one.verdict.why,
                    "known_as": one.verdict.agent,
                    "role": one.verdict.role,
                }
                for one in launched
            ],
        },
        "calls": [_call(record) for record in records],
        "loops": [dataclasses.asdict(loop) for loop in loops],
        "log": list(log),
    }


def _call(record: CallRecord) -> dict[str, Any]:
    data = dataclasses.asdict(record)
    data["duration_s"] = None if record.ended_s is None else max(0.0, record.ended_s - record.started_s)
    data["command"] = command_words(record)
    return data


def command_words(record: CallRecord) -> str:
    """The command of a call for people, as far as it is known."""
    if record.command:
        return display(("sh", "-c", record.command), 500)
    return display(record.argv, 500) if record.argv else "(ended before it could be looked at)"


def write_down(report: dict[str, Any], file: Path) -> None:
    """Write the report to a file; where that fails, the report says so (``report_error``)."""
    try:
        # A name of its own, made exclusively: the folder may be one that others can write, like /tmp.
        with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False) as partial:
            partial.write(json.dumps(report) + "\n")
        Path(partial.name).chmod(0o644)
        Path(partial.name).replace(file)
    except OSError as error:
        report["report_error"] = f"{file}: {error.strerror}"


def exit_words(status: int | None) -> str:
    """A wait(2) status for people: ``0``, ``1``, ``SIGKILL``."""
    if status is None or not 0 <= status <= LARGEST_STATUS:
        return "?"
    if os.WIFSIGNALED(status):
        try:
            return signal.Signals(os.WTERMSIG(status)).name
        except ValueError:
            return f"signal {os.WTERMSIG(status)}"
    return str(os.WEXITSTATUS(status))


def print_summary(report: dict[str, Any], out: TextIO) -> None:
    """The table at the end of ``run``: one line for each tool call, then what else is worth knowing."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=out, width=max(80, Console(file=out).width) if out.isatty() else 140, highlight=False)
    calls = [call for call in report["calls"] if call["kind"] == "tool"]
    helpers = [call for call in report["calls"] if call["kind"] != "tool"]
    table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left", title_style="")
    table.add_column("call", justify="right")
    table.add_column("command")
    table.add_column("class")
    for name in ("time", "peak", "limit", "CPU", "exit"):
        table.add_column(name, justify="right")
    table.add_column("what was done")
    width = max(16, console.width - _OTHER_COLUMNS)
    for call in calls + helpers:
        deeds = ", ".join(f"{deed['what']} ({deed['why']})" for deed in call["deeds"])
        cells = [str(call["call"]), _cut(call["command"], width), call["class_name"] + ("" if call["kind"] == "tool" else f" ({call['kind']})"),
                 or_dash(call["duration_s"], format_duration), or_dash(call["memory_peak_bytes"], format_size),
                 or_dash(call["limits"] and call["limits"]["memory_high_bytes"], format_size),
                 or_dash(call["cpu_s"], format_duration), exit_words(call["exit_status"]), deeds]  # fmt: skip
        table.add_row(*(Text(cell) for cell in cells))
    agent = report["agent"]
    budget = report["budget"]
    plural = "" if len(calls) == 1 else "s"
    console.print(Text(f"\nagentcgroup: session {report['session']}: {len(calls)} tool call{plural} in {format_duration(report['duration_s'])}"
                       f", budget {format_size(budget['session'])}, kernel {report['kernel']}, events from the {report['source']}, enforcer {report['enforcer']}"))  # fmt: skip
    if calls or helpers:
        console.print(table)
    for one in agent["processes"]:
        words = display(("sh", "-c", one.get("command") or display(one["argv"])), 70) if one["argv"] else "(never started)"
        console.print(Text(f"agent: process {one['pid']} {words} [{one['why']}]"))
    if agent["memory_peak_bytes"] is not None:
        console.print(
            Text(f"agent: peak {format_size(agent['memory_peak_bytes'])} of its cap {format_size(budget['agent_max'])}")
        )
    for loop in report["loops"]:
        left = f"left {format_size(loop['left_bytes'])} behind, {format_size(loop['reclaimed_bytes'])} reclaimed"
        console.print(
            Text(
                f"loop: {len(loop['calls'])} times {_cut(loop['command'], 60)} (calls {loop['calls'][0]}-{loop['calls'][-1]}), {left}"
            )
        )
    for line in report["log"]:
        if "ignored" in line or "not placed:" in line or "could not" in line:
            console.print(Text(f"note: {line.strip()}"))
    for words, meaning in _COUNTED_NOTES.items():
        if times := sum(words in line for line in report["log"]):
            console.print(Text(f"note: {meaning} ({times} times)"))
    if report.get("report_error"):
        console.print(Text(f"agentcgroup: the report was not written: {report['report_error']}"))
    if agent["out_of_memory_kills"]:
        console.print(Text(
            f"agentcgroup: the agent itself reached its memory cap of {format_size(budget['agent_max'])} and the kernel killed"
            f" {agent['out_of_memory_kills']} of its processes; nothing outside this session was affected.\n"
            "  raise session.agent.memory_max in a policy, or the session's --memory, if the agent needs more"))  # fmt: skip


_COUNTED_NOTES = {
    "events were lost": "process events were lost, and what they told read from the session itself",
    "was not placed within": "a program started before it was in its leaf",
}
"""What is logged each time it happens, and how the summary says it once."""
_OTHER_COLUMNS = 90
"""Characters that the columns beside the command want."""


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def or_dash(value: Any, words: Any) -> str:
    """The value in words, ``-`` for what is not known."""
    return "-" if value is None else str(words(value))
