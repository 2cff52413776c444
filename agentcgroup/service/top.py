"""``agentcgroup top``: what runs now, live in a terminal."""

from typing import Any, ClassVar

from rich.text import Text
from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import DataTable, Footer, Input, Static

from agentcgroup.service import status
from agentcgroup.units import format_duration

_EVERY_S = 1.0
_BAR = 10
_COLUMNS = ("session", "memory", "", "CPU", "time", "what it does")
"""What has no bounds is last: a narrow terminal shows the rest."""
_SORTS = ("memory", "CPU", "time", "name")
_PRIORITIES = ("high", "normal", "low")
_RECENT = 4


def bar(used: int | None, of: int | None) -> Text:
    """How full it is, in ten cells: green, yellow from three quarters on, red from nine tenths."""
    if used is None or not of:
        return Text("")
    share = min(1.0, used / of)
    full = round(_BAR * share)
    return Text("█" * full + "░" * (_BAR - full), style="red" if share >= 0.9 else "yellow" if share >= 0.75 else "green")


def rows(found: list[dict[str, Any]], sort: str, wanted: str) -> list[tuple[str, list[Any]]]:
    """The table: a row for each session and below it one for each of its calls, as key and cells.  Pure.

    Only sessions and calls with ``wanted`` in their text are shown.
    """
    made: list[tuple[str, list[Any]]] = []
    for one in sorted(found, key=lambda one: _rank(one, sort)):
        if "error" in one:
            made.append((one["session"], [Text(one["session"], style="bold"), *[""] * 4, Text(one["error"], style="red")]))
            continue
        text = f"{one['session']} {one['command']}"
        calls = [call for call in one["calls"] if wanted in f"{text} {call['command']} {call['class']}"]
        if wanted not in text and not calls:
            continue
        held = (one["agent_bytes"] or 0) + (one["calls_bytes"] or 0)
        pressure = " ".join(f"{name} {percent:.0f} %" for name, percent in one["pressure"].items() if percent)
        made.append((one["session"], [
            Text(f"{one['session']} [{one['priority']}]", style="bold"), status.size(held), bar(held, one["budget_bytes"]), "",
            format_duration(one["age_s"]), _doing(f"pressure: {pressure}" if pressure else "", "", one["command"], "bold"),
        ]))  # fmt: skip
        for call in sorted(calls, key=lambda call: _rank_call(call, sort)):
            number, command, kind, took, memory, _, cpu, doing = status.call_cells(one, call)
            made.append((f"{one['session']}/{number}", [
                Text(f"  {number} {kind}"), memory, bar(call["bytes"], call["limit_bytes"]), cpu, took,
                _doing(doing, "yellow", command, ""),
            ]))  # fmt: skip
    return made


def _doing(state: str, style: str, command: str, command_style: str) -> Text:
    """What slows it, where something does, and its command."""
    return Text.assemble(*([(f"{state}  ", style)] if state else []), (command, command_style))


def _rank(one: dict[str, Any], sort: str) -> Any:
    if sort == "name" or "error" in one:
        return (0.0, one["session"])
    value = {
        "memory": (one["agent_bytes"] or 0) + (one["calls_bytes"] or 0),
        "CPU": sum(call["cpu_s"] or 0 for call in one["calls"]),
        "time": one["age_s"],
    }[sort]
    return (-float(value), one["session"])


def _rank_call(call: dict[str, Any], sort: str) -> Any:
    value = {"memory": call["bytes"] or 0, "CPU": call["cpu_s"] or 0, "time": -call["started_s"], "name": 0}[sort]
    return (-float(value), call["call"])


class Top(App[None]):
    """The terminal's view."""

    TITLE = "agentcgroup"
    CSS = "DataTable { height: 1fr; } #recent { height: auto; max-height: 6; } #find { display: none; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "sort", "sort"),
        Binding("slash", "find", "filter"),
        Binding("f", "hold('freeze')", "freeze"),
        Binding("t", "hold('thaw')", "thaw"),
        Binding("p", "priority", "priority"),
        Binding("q", "quit", "quit"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._sort, self._wanted = _SORTS[0], ""
        self._found: list[dict[str, Any]] = []

    def compose(self) -> ComposeResult:
        yield Static(id="head")
        yield DataTable(cursor_type="row")
        yield Static(id="recent")
        yield Input(placeholder="text of sessions and commands to show", id="find")
        yield Footer()

    def on_mount(self) -> None:
        self.query_one(DataTable).add_columns(*_COLUMNS)
        self.set_interval(_EVERY_S, self.look)
        self.look()

    @work(thread=True, exclusive=True)
    def look(self) -> None:
        """Ask all sessions, beside the terminal."""
        found = status.sessions()
        self.call_from_thread(self.show, found)

    def show(self, found: list[dict[str, Any]]) -> None:
        """Put what was found into the table; the cursor stays on its row."""
        self._found = found
        table = self.query_one(DataTable)
        at = table.cursor_row
        table.clear()
        for key, cells in rows(found, self._sort, self._wanted):
            table.add_row(*cells, key=key)
        table.move_cursor(row=min(at, table.row_count - 1) if table.row_count else 0)
        running = sum(call.get("kind", "tool") == "tool" for one in found for call in one.get("calls", ()))
        waiting = sum(bool(call["rung"]) for one in found for call in one.get("calls", ()))
        filtered = f", only {self._wanted!r}" if self._wanted else ""
        self.query_one("#head", Static).update(
            Text(f"{len(found)} sessions, {running} calls, {waiting} wait; by {self._sort}{filtered}", style="reverse")
        )
        deeds = [(one["session"], one["age_s"] - deed["at_s"], deed) for one in found for deed in one.get("recent", ())]
        latest = sorted(deeds, key=lambda entry: entry[1])[:_RECENT]
        self.query_one("#recent", Static).update(Text("\n".join(
            f"{format_duration(max(0.0, ago))} ago  {session}/{deed['call']}: {deed['what']} ({deed['why']})" for session, ago, deed in latest
        )))  # fmt: skip

    def action_sort(self) -> None:
        """The next order."""
        self._sort = _SORTS[(_SORTS.index(self._sort) + 1) % len(_SORTS)]
        self.show(self._found)

    def action_find(self) -> None:
        """Ask for a text."""
        field = self.query_one("#find", Input)
        field.display = True
        field.focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self._wanted = event.value
        event.input.display = False
        self.query_one(DataTable).focus()
        self.show(self._found)

    def action_hold(self, what: str) -> None:
        """Freeze or thaw the call under the cursor."""
        session, call = self._chosen()
        if call:
            self._ask(session, op=what, call=int(call))
        elif session:
            self.notify("choose a call", severity="warning")

    def action_priority(self) -> None:
        """The next priority for the session under the cursor: high, normal, low, high."""
        session, _ = self._chosen()
        now = next((one.get("priority") for one in self._found if one["session"] == session), None)
        if now is not None:
            self._ask(session, op="priority", priority=_PRIORITIES[(_PRIORITIES.index(now) + 1) % len(_PRIORITIES)])

    def _chosen(self) -> tuple[str, str]:
        """The session and the call under the cursor; empty for none."""
        table = self.query_one(DataTable)
        if not table.row_count:
            return "", ""
        session, _, call = str(table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value).partition("/")
        return session, call

    def _ask(self, session: str, **request: Any) -> None:
        answer = status.ask(session, **request)
        if "error" in answer:
            self.notify(answer["error"], severity="error", markup=False)
        self.look()


def run() -> int:
    """Show it until ``q``; exit code 0."""
    Top().run()
    return 0
