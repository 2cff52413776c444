"""``agentcgroup history``: tool calls as a table, as JSON, or as CSV."""

import csv
import json
import os
import sys
import time
from dataclasses import asdict
from typing import Any, Literal

from agentcgroup.errors import AgentCgroupError
from agentcgroup.history import store
from agentcgroup.session.report import exit_words, or_dash
from agentcgroup.units import format_duration, format_size

Format = Literal["table", "json", "csv"]
_WIDEST_COMMAND = 60
_MOST_BY_DAEMON = 1000


def show(chosen: store.Filter, form: Format) -> int:
    """Print the calls; exit code 0, also when there is none.  A user without rights is shown its own, by the daemon."""
    found = _of_own(chosen) if os.geteuid() else _of_all(chosen)
    if form == "json":
        print(json.dumps(found))
    elif form == "csv":
        _csv(found)
    else:
        _table(found)
    return 0


def _of_all(chosen: store.Filter) -> list[dict[str, Any]]:
    with store.reading(store.FILE) as history:
        return store.calls(history, chosen)


def _of_own(chosen: store.Filter) -> list[dict[str, Any]]:
    from agentcgroup.service.status import ask_daemon

    conditions = {key: value for key, value in asdict(chosen).items() if value is not None}
    answer = ask_daemon(op="history", **{**conditions, "limit": min(chosen.limit, _MOST_BY_DAEMON)})
    if "error" in answer:
        raise AgentCgroupError("the history is root's, and the daemon does not show it", answer["error"], "use sudo")
    return list(answer["calls"])


def _csv(found: list[dict[str, Any]]) -> None:
    """One row a call; what was done to it as its words, one after another."""
    if not found:
        return
    writer = csv.DictWriter(sys.stdout, list(found[0]))
    writer.writeheader()
    for call in found:
        writer.writerow({**call, "deeds": deed_words(call)})


def deed_words(call: dict[str, Any]) -> str:
    """What was done to a call, in words."""
    return ", ".join(f"{deed['what']} ({deed['why']})" for deed in call["deeds"])


def _table(found: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 160
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("began", "call", "command", "class"):
        table.add_column(name, overflow="ellipsis", no_wrap=True, max_width=_WIDEST_COMMAND)
    for name in ("time", "peak", "mean", "CPU", "exit"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("what was done", overflow="fold")
    for call in found:
        began = time.strftime("%m-%d %H:%M:%S", time.localtime(call["started_at"]))
        cells = [began, f"{call['session']}/{call['call']}", call["command"], call["class"],
                 *(or_dash(call[name], words) for name, words in (
                     ("duration_s", format_duration), ("peak_bytes", format_size), ("mean_bytes", format_size), ("cpu_s", format_duration))),
                 exit_words(call["exit_status"]), deed_words(call)]  # fmt: skip
        table.add_row(*map(Text, cells))
    console.print(table if found else "agentcgroup: no such call in the history")
