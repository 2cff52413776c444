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
from agentcgroup.notable import deed_words, own_words, well_words
from agentcgroup.session.report import exit_words, kind_words, or_dash
from agentcgroup.text import csv_cell
from agentcgroup.units import format_duration, format_size

Row = dict[str, Any]
Format = Literal["table", "json", "csv"]
_WIDEST_COMMAND = 60
_MOST_BY_DAEMON = 1000


def show(chosen: store.Filter, form: Format) -> int:
    """Print the calls; exit code 0, also when there is none.  A user without rights is shown its own, by the daemon."""
    found, rest = of_own(chosen) if os.geteuid() else _of_all(chosen)
    if form == "json":
        print(json.dumps(found))
    elif form == "csv":
        _csv(found)
    else:
        _table(found, rest)
    return 0


def _of_all(chosen: store.Filter) -> tuple[list[Row], Row]:
    with store.reading(store.FILE) as history:
        return store.calls(history, chosen), store.folded(history, chosen) if chosen.notable else {}


def of_own(chosen: store.Filter) -> tuple[list[Row], Row]:
    """The caller's own calls, as the daemon shows them, and what the filter left out.  Raises AgentCgroupError."""
    from agentcgroup.service.status import ask_daemon

    conditions = {key: value for key, value in asdict(chosen).items() if value is not None}
    answer = ask_daemon(op="history", **{**conditions, "limit": min(chosen.limit, _MOST_BY_DAEMON)})
    if "error" in answer:
        raise AgentCgroupError("the history is root's, and the daemon does not show it", answer["error"], "use sudo")
    return list(answer["calls"]), answer.get("folded") or {}


def _csv(found: list[Row]) -> None:
    """One row a call; what was done to it as its words, one after another."""
    if not found:
        return
    writer = csv.DictWriter(sys.stdout, list(found[0]))
    writer.writeheader()
    for call in found:
        cells = {**call, "deeds": deed_words(call["deeds"], every=True)}
        writer.writerow({name: csv_cell(value) for name, value in cells.items()})


def _table(found: list[Row], rest: Row) -> None:
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
        cells = [began, f"{call['session']}/{call['call']}", call["command"], kind_words(call["class"], call["kind"]),
                 *(or_dash(call[name], words) for name, words in (
                     ("duration_s", format_duration), ("peak_bytes", format_size), ("mean_bytes", format_size), ("cpu_s", format_duration))),
                 exit_words(call["exit_status"]), deed_words(call["deeds"])]  # fmt: skip
        table.add_row(*map(Text, cells))
    lines = rest_lines(rest)
    console.print(table if found else f"agentcgroup: no {'call to be shown here' if any(lines) else 'such call in the history'}")
    for line in filter(None, lines):
        console.print(Text(line))


def rest_lines(rest: Row) -> tuple[str, ...]:
    """What a table leaves out (``store.folded``), in words."""
    if not rest:
        return ()
    helpers = rest["helpers"]
    return (
        well_words(rest["well"], "--all shows them"),
        f"+ {helpers} helper{'' if helpers == 1 else 's'} of agents" if helpers else "",
        own_words(rest["own"], rest["owns"]),
    )
