"""What all running sessions are doing: each is asked at its own socket.  For ``status``, ``top`` and the metrics."""

import json
import socket
from pathlib import Path
from typing import Any

from agentcgroup.session.control import CONTROL_SOCKET
from agentcgroup.session.places import DAEMON_SOCKET, SESSIONS, check_name
from agentcgroup.session.report import kind_words
from agentcgroup.text import clean_data
from agentcgroup.units import format_duration, format_size

_PATIENCE_S = 2.0
_LARGEST_ANSWER = 64 << 20
_OTHERS = "may not ask"


def sessions() -> list[dict[str, Any]]:
    """A snapshot of each session (``session.snapshot``) that this user may see, by name; of one that does not answer, an ``error``."""
    try:
        folders = sorted(folder for folder in SESSIONS.iterdir() if folder.is_dir())
    except FileNotFoundError:
        return []
    found = [_ask(folder) for folder in folders]
    return [one for one in found if _OTHERS not in one.get("error", "")]


def ask(session: str, **request: Any) -> dict[str, Any]:
    """A session's answer; with ``error`` where it did not do, or there is none."""
    return _ask(SESSIONS / check_name(session), **request)


def ask_daemon(**request: Any) -> dict[str, Any]:
    """The daemon's answer (``service.orders``); with ``error`` where it refuses, or there is none."""
    return _talk(DAEMON_SOCKET, {"version": 1, **request}, "agentcgroup daemon does not run")


def _ask(folder: Path, **request: Any) -> dict[str, Any]:
    answer = _talk(folder / CONTROL_SOCKET, request or {"op": "status"}, "its governor has died, or is stopped")
    return {"session": folder.name, **answer}


def _talk(place: Path, request: dict[str, Any], otherwise: str) -> dict[str, Any]:
    try:
        with socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(_PATIENCE_S)
            asking.connect(str(place))
            asking.sendall(json.dumps(request).encode() + b"\n")
            with asking.makefile("rb") as lines:
                answer = json.loads(lines.readline(_LARGEST_ANSWER))
    except (OSError, ValueError, RecursionError) as error:
        return {"error": f"no answer ({type(error).__name__}): {otherwise}"}
    return clean_data(answer) if isinstance(answer, dict) else {"error": "not understood"}


def show(as_json: bool) -> int:
    """Print what runs now; exit code 0, also when nothing does."""
    found = sessions()
    if as_json:
        print(json.dumps(found))
        return 0
    _print(found)
    return 0


def _print(found: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 140
    if not found:
        console.print("agentcgroup: no session runs")
    for one in found:
        if "error" in one:
            console.print(Text(f"{one['session']}: {one['error']}"))
            continue
        console.print(Text(session_words(one)))
        for note in one.get("notes", ()):
            console.print(Text(f"  note: {note}"))
        table = Table(box=None, pad_edge=False, show_header=bool(one["calls"]), header_style="bold")
        table.add_column("  call", justify="right")
        table.add_column("command", overflow="ellipsis", no_wrap=True, max_width=60)
        table.add_column("class")
        for name in ("time", "memory", "limit", "CPU"):
            table.add_column(name, justify="right")
        table.add_column("now", overflow="fold")
        for call in one["calls"]:
            table.add_row(*map(Text, call_cells(one, call)))
        if one["calls"]:
            console.print(table)


def session_words(one: dict[str, Any]) -> str:
    """A session in one line."""
    own = one.get("ended", {}).get("own", 0)
    return (
        f"{one['session']}: {one['command']} [{one['priority']}], {format_duration(one['age_s'])}, agent {size(one['agent_bytes'])}, "
        f"calls {size(one['calls_bytes'])} of {size(one['budget_bytes'])}, {one['ended_calls']} calls ended{f' (and {own} of the agent itself)' if own else ''}, enforcer {one['enforcer'].split(' ')[0]}"
    )


def call_cells(one: dict[str, Any], call: dict[str, Any]) -> list[str]:
    """A running call as the cells of a table: number, command, class, time, memory, limit, CPU, and whether it waits."""
    doing = "frozen by an operator" if call["held"] else ""
    if call["rung"]:
        doing = f"{'frozen' if call['rung'] == 'freeze' else 'braked'} {format_duration(call['waits_s'])} {call['why']}"
    return [str(call["call"]), call["command"], kind_words(call["class"], call.get("kind", "tool")), format_duration(max(0.0, one["age_s"] - call["started_s"])),
            size(call["bytes"]), size(call["limit_bytes"]), "-" if call["cpu_s"] is None else format_duration(call["cpu_s"]),
            doing]  # fmt: skip


def size(value: int | None) -> str:
    """Bytes in words, ``-`` for what could not be read."""
    return "-" if value is None else format_size(value)
