"""The live view: what its rows hold, its keys, and that it fits a small terminal and many sessions."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from textual.widgets import DataTable, Static

from agentcgroup.service import status
from agentcgroup.service.top import Top, bar, rows


def call(number: int, **more: Any) -> dict[str, Any]:
    return {"call": number, "command": f"make part{number}", "class": "build", "started_s": 10.0 * number, "bytes": number << 20,
            "limit_bytes": 100 << 20, "cpu_s": 1.0, "rung": "", "held": False, "why": "", "waits_s": None, **more}  # fmt: skip


def session(name: str, *calls: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"session": name, "command": "agent", "priority": "normal", "age_s": 100.0, "agent_bytes": 10 << 20, "calls_bytes": 20 << 20,
            "budget_bytes": 1 << 30, "ended_calls": 3, "enforcer": "cgroup (as asked)", "pressure": {"memory": 0.0, "cpu": 12.0},
            "calls": list(calls), "recent": [], **more}  # fmt: skip


def keys(found: list[tuple[str, list[Any]]]) -> list[str]:
    return [key for key, _ in found]


def test_calls_stand_below_their_session_in_the_order_that_was_asked_for() -> None:
    found = [session("small", call(1), call(2)), session("large", call(1), calls_bytes=500 << 20)]
    assert keys(rows(found, "memory", "")) == ["large", "large/1", "small", "small/2", "small/1"]
    assert keys(rows(found, "time", "")) == ["large", "large/1", "small", "small/1", "small/2"]
    assert keys(rows(found, "name", "")) == ["large", "large/1", "small", "small/1", "small/2"]


def test_a_filter_keeps_what_has_the_text_and_the_session_around_it() -> None:
    found = [session("one", call(1), call(2)), session("two", call(3))]
    assert keys(rows(found, "name", "part2")) == ["one", "one/2"]
    assert keys(rows(found, "name", "two")) == ["two", "two/3"]
    assert rows(found, "name", "nowhere") == []


def test_who_waits_and_who_does_not_answer_is_said() -> None:
    waiting = call(1, rung="freeze", why="for other/2: all memory is taken", waits_s=2.0)
    found = rows([session("a", waiting, call(2, held=True)), {"session": "b", "error": "no answer"}], "name", "")
    words = {key: " ".join(map(str, cells)) for key, cells in found}
    assert "frozen 2.00 s for other/2" in words["a/1"]
    assert "frozen by an operator" in words["a/2"]
    assert "no answer" in words["b"]


@given(st.integers(0, 1 << 45) | st.none(), st.integers(0, 1 << 45) | st.none())
def test_a_bar_is_ten_cells_or_nothing(used: int | None, of: int | None) -> None:
    assert len(bar(used, of)) in (0, 10)
    assert bar(used, of).plain.count("█") == (10 if used is not None and of and used >= of else bar(used, of).plain.count("█"))


@pytest.mark.parametrize("size", [(80, 24), (200, 60)])
def test_it_shows_fifty_sessions_and_freezes_the_call_under_the_cursor(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [session(f"agent-{number:02}", call(1), age_s=float(number)) for number in range(50)]
    asked: list[tuple[str, dict[str, Any]]] = []

    def ask(name: str, **request: Any) -> dict[str, Any]:
        asked.append((name, request))
        return {"done": request["op"]}

    monkeypatch.setattr(status, "sessions", lambda: found)
    monkeypatch.setattr(status, "ask", ask)

    async def use() -> None:
        app = Top()
        async with app.run_test(size=size) as pilot:
            await app.workers.wait_for_complete()
            await pilot.pause()
            table = app.query_one(DataTable)
            assert table.row_count == 100
            assert "50 sessions, 50 calls, 0 wait; by memory" in str(app.query_one("#head", Static).content)
            await pilot.press("f")  # a session, no call
            assert asked == []
            await pilot.press("down", "f")
            assert asked == [("agent-00", {"op": "freeze", "call": 1})]
            await pilot.press("p")
            assert asked[1:] == [("agent-00", {"op": "priority", "priority": "low"})]
            await pilot.press("s", "s", "s", "slash", *"part1", "enter")
            await pilot.pause()
            assert "by name, only 'part1'" in str(app.query_one("#head", Static).content)
            await pilot.press("q")

    asyncio.run(use())


def test_what_a_session_answers_is_shown_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "sessions", lambda: [session("a", call(1))])
    monkeypatch.setattr(status, "ask", lambda name, **request: {"error": "[bold]no[/bold] [link=x"})

    async def use() -> None:
        app = Top()
        async with app.run_test() as pilot:
            await app.workers.wait_for_complete()
            await pilot.pause()
            await pilot.press("down", "f")
            await pilot.pause()
            assert [(one.message, one.markup) for one in app._notifications] == [("[bold]no[/bold] [link=x", False)]
            await pilot.press("q")

    asyncio.run(use())
