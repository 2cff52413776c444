"""The report of a session, as JSON and as the table that ``run`` prints.

``build_report`` makes plain data from the records; ``print_summary`` shows it to a person.
"""

import dataclasses
import json
import os
import signal
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from agentcgroup import notable
from agentcgroup.command import display
from agentcgroup.files import write_anew
from agentcgroup.model import LARGEST_STATUS, CallRecord
from agentcgroup.session.strays import LEFT
from agentcgroup.text import LONGEST, clean, clean_argv, clean_lines, shorten
from agentcgroup.units import format_duration, format_size

if TYPE_CHECKING:  # run imports this beside an agent that starts: no more than it needs
    from agentcgroup.boundary import AgentProcess
    from agentcgroup.classify import Budget
    from agentcgroup.kernel.scheduler import Figures
    from agentcgroup.loops import Loop

SCHEMA = 1


def build_report(
    name: str, argv: Sequence[str], priority: str, budget: "Budget", began_at: float, duration_s: float,
    agent_status: int | None, agent_peak: int | None, agent_kills: int, source: str, source_figures: dict[str, float],
    enforcer: str, figures: "Figures | None",
    launched: "Sequence[AgentProcess]", records: Sequence[CallRecord], loops: "Sequence[Loop]",
    left: dict[str, Any], log: Sequence[str],
) -> dict[str, Any]:  # fmt: skip
    """Everything about a session as JSON-able data.  Sizes in bytes, times in seconds; ``started`` since the epoch.

    ``left`` is what it leaves in files in memory (``InMemory.at_the_end``).
    """
    return {
        "schema": SCHEMA,
        "session": name,
        "command": list(clean_argv(argv)),
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
                    "argv": list(clean_argv(one.argv)),
                    "why": clean(one.verdict.why),
                    "known_as": one.verdict.agent,
                    "role": one.verdict.role,
                }
                for one in launched
            ],
        },
        "calls": [_call(record) for record in records],
        "loops": [dataclasses.asdict(loop) for loop in loops],
        "left_in_memory": left,
        "log": list(log),
    }


def _call(record: CallRecord) -> dict[str, Any]:
    data = dataclasses.asdict(record)
    data["argv"] = list(clean_argv(record.argv))
    data["cwd"], data["sign"] = clean(record.cwd), clean(record.sign)
    data["duration_s"] = None if record.ended_s is None else max(0.0, record.ended_s - record.started_s)
    data["command"] = command_words(record)
    return data


def command_words(record: CallRecord) -> str:
    """The command of a call for people, as far as it is known."""
    return clean(record.command) or (display(record.argv, LONGEST) if record.argv else "(ended before it could be looked at)")


def write_down(report: dict[str, Any], file: Path) -> None:
    """Write the report to a file; where that fails, the report says so (``report_error``)."""
    try:
        write_anew(file, (json.dumps(report) + "\n").encode())
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
    """The end of ``run``: the calls that are worth a line, the rest in few words, then what else is worth knowing."""
    from rich.console import Console
    from rich.text import Text

    console = Console(file=out, width=max(80, Console(file=out).width) if out.isatty() else 140, highlight=False)
    calls = [call for call in report["calls"] if call["kind"] == "tool"]
    plural = "" if len(calls) == 1 else "s"
    ranks = Counter(rank_of(call) for call in calls)
    fates = ", ".join(f"{ranks[rank]} {rank}" for rank in notable.ORDER if rank != "well" and ranks[rank])
    took = format_duration(report["duration_s"])
    console.print(
        Text(
            f"\nagentcgroup: session {report['session']}: {len(calls)} tool call{plural} in {took}{f': {fates}' if fates else ''}"
        )
    )
    lines, well = _lines(report["calls"])
    if lines:
        console.print(_table(lines, console.width))
    own = Counter(call["command"] for call in report["calls"] if call["kind"] == "own")
    folded = (
        notable.well_words(well, f"agentcgroup history --all --session {report['session']} shows them"),
        notable.own_words(own),
    )
    for line in (*folded, *_agent_lines(report), *_notes(report)):
        if line:
            console.print(Text(clean_lines(line)))


def _lines(calls: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], int]:
    """The calls that get a line each, those that were stopped first; and how many of the model's do not."""
    tools = [(call, rank_of(call)) for call in calls if call["kind"] == "tool"]
    well = sum(rank == "well" for _, rank in tools)
    chosen = [(call, rank) for call, rank in tools if rank != "well" or well <= _FEW]
    chosen += [(call, rank) for call in calls if call["kind"] == "own" and (rank := rank_of(call)) in ("stopped", "acted on")]
    chosen.sort(key=lambda one: (notable.order(one[1]) if one[1] == "stopped" else 1, one[0]["call"]))
    first = [call for call, _ in chosen[:_MOST_LINES]]
    first += [call for call in calls if call["kind"] == "helper"][:_MOST_HELPERS]
    return first, sum(call["kind"] == "tool" for call in calls) - sum(call["kind"] == "tool" for call in first)


def rank_of(call: Mapping[str, Any]) -> notable.Rank:
    """Why a call of a report is worth a line."""
    return notable.rank(call["deeds"], call["exit_status"], call["memory_peak_bytes"])


def kind_words(call_class: str, kind: str) -> str:
    """The class of a call, and whose it is if it is not the model's."""
    return call_class if kind == "tool" else f"{call_class} ({'agent' if kind == 'own' else kind})"


def _table(calls: Sequence[dict[str, Any]], width: int) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("call", justify="right")
    table.add_column("command")
    table.add_column("class")
    for name in ("time", "peak", "limit", "CPU", "exit"):
        table.add_column(name, justify="right")
    table.add_column("what was done")
    widest = max(16, width - _OTHER_COLUMNS)
    for call in calls:
        cells = [str(call["call"]), shorten(call["command"], widest), kind_words(call["class_name"], call["kind"]),
                 or_dash(call["duration_s"], format_duration), or_dash(call["memory_peak_bytes"], format_size),
                 or_dash(call["limits"] and call["limits"]["memory_high_bytes"], format_size),
                 or_dash(call["cpu_s"], format_duration), exit_words(call["exit_status"]), notable.deed_words(call["deeds"])]  # fmt: skip
        table.add_row(*(Text(clean(cell)) for cell in cells))
    return table


def _agent_lines(report: dict[str, Any]) -> Iterator[str]:
    """What was taken for the agent, how its calls were told, what it took, and what the host offered."""
    agent = report["agent"]
    for one in agent["processes"][:_MOST_AGENTS]:
        words = clean(" ".join(one["argv"]), 70) if one["argv"] else "(never started)"
        yield f"agent: process {one['pid']} {words} [{one['why']}]"
    if len(agent["processes"]) > _MOST_AGENTS:
        yield f"agent: and {len(agent['processes']) - _MOST_AGENTS} more processes"
    kinds = {"tool": "calls told by", "own": "its own commands by", "helper": "helpers by"}
    told = []
    for kind, words in kinds.items():
        signs = Counter(call["sign"] for call in report["calls"] if call["kind"] == kind and call.get("sign"))
        if signs:
            told.append(f"{words}: {', '.join(f'{sign} ({times})' for sign, times in signs.most_common(_MOST_SIGNS))}")
    if told:
        yield f"agent: {'; '.join(told)}"
    if agent["memory_peak_bytes"] is not None:
        yield f"agent: peak {format_size(agent['memory_peak_bytes'])} of its cap {format_size(report['budget']['agent_max'])}"
    yield (f"host: budget {format_size(report['budget']['session'])}, kernel {report['kernel']}, events from the {report['source']},"
           f" enforcer {report['enforcer']}")  # fmt: skip


def _notes(report: dict[str, Any]) -> Iterator[str]:
    """What else is worth knowing."""
    for loop in report["loops"]:
        left = f"left {format_size(loop['left_bytes'])} behind, {format_size(loop['reclaimed_bytes'])} reclaimed"
        yield f"loop: {len(loop['calls'])} times {shorten(loop['command'], 60)} (calls {loop['calls'][0]}-{loop['calls'][-1]}), {left}"
    left = report["left_in_memory"]
    if left.get("bytes", 0) >= notable.LEFT_BYTES:
        named = f": {left['files']}" if left["files"] else ""
        yield f"note: it left {format_size(left['bytes'])} in files in memory (tmpfs, such as /dev/shm), which stay until they are removed{named}"
    told = [line.strip() for line in report["log"] if any(sign in line for sign in _NOTED)]
    yield from (f"note: {line}" for line in told[:_MOST_NOTES])
    if len(told) > _MOST_NOTES:
        yield f"note: and {len(told) - _MOST_NOTES} more like these"
    for words, meaning in _COUNTED_NOTES.items():
        if times := sum(words in line for line in report["log"]):
            yield f"note: {meaning} ({times} times)"
    if report.get("report_error"):
        yield f"agentcgroup: the report was not written: {report['report_error']}"
    if kills := report["agent"]["out_of_memory_kills"]:
        yield (f"agentcgroup: the agent itself reached its memory cap of {format_size(report['budget']['agent_max'])} and the kernel killed"
               f" {kills} of its processes; nothing outside this session was affected.\n"
               f"  if it needs more, {more_for_the_agent(report['budget']['session'], report['budget']['agent_max'])}")  # fmt: skip


def more_for_the_agent(session_bytes: int, cap_bytes: int) -> str:
    """What to set so that an agent has more memory: the cap leaves a quarter of the session at most, unless a policy says otherwise."""
    if cap_bytes < session_bytes - session_bytes // 4:
        return f"raise session.agent.memory_max in the policy, which is {format_size(cap_bytes)} now"
    return f"give the session more: --memory {format_size(2 * session_bytes)}"


_NOTED = ("ignored", "not placed:", LEFT, "could not")
"""Lines of the log that have one of these are for the summary."""
_COUNTED_NOTES = {
    "events were lost": "process events were lost, and what they told read from the session itself",
    "was not placed within": "a program started before it was in its leaf",
}
"""What is logged each time it happens, and how the summary says it once."""
_OTHER_COLUMNS = 90
"""Characters that the columns beside the command want."""
_FEW = 5
"""So many calls that all went well are shown as they are."""
_MOST_LINES, _MOST_HELPERS, _MOST_AGENTS, _MOST_SIGNS, _MOST_NOTES = 40, 10, 10, 3, 20
"""Lines of the summary, whatever an agent does."""


def or_dash(value: Any, words: Any) -> str:
    """The value in words, ``-`` for what is not known."""
    return "-" if value is None else str(words(value))
