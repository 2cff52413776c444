"""The history: what is written is read again, by several at once, and shown without harm."""

import asyncio
import csv
import io
import os
import sqlite3
import subprocess
import threading
import time
from contextlib import closing
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentcgroup.errors import AgentCgroupError
from agentcgroup.history import figures as fig
from agentcgroup.history import page, show, store
from agentcgroup.history.writer import Writer
from agentcgroup.model import CallRecord, Deed
from agentcgroup.policy import HistoryRule
from agentcgroup.session import places
from agentcgroup.session.layout import Layout
from agentcgroup.session.live import Live
from agentcgroup.session.places import open_lock
from agentcgroup.session.recorder import Recorder, row_of
from agentcgroup.session.report import exit_words
from tests.unit.folders import Folders, Watched, folders

__all__ = ["folders"]

DAY = 86400.0
MOST = 100 << 20
WAIT = {"at_s": 4.0, "what": "waited 2.00 s", "why": "for other/1", "lasted_s": 2.0}
STOP = {"at_s": 6.0, "what": "stopped", "why": "memory", "lasted_s": None}


def call(number: int, started: float, took: float | None, **more: Any) -> dict[str, Any]:
    record = CallRecord(number, 100 + number, ("sh", "-c", f"make part{number}"), started, class_name="build")
    record.ended_s = None if took is None else started + took
    record.exit_status, record.memory_peak_bytes, record.cpu_s = 0, 50 << 20, 0.5
    return {**row_of(record), **more}


def session(identity: int | None = None, **more: Any) -> dict[str, Any]:
    row = {"id": identity or time.time_ns(), "name": "demo", "command": "agent", "priority": "normal", "budget_bytes": 1 << 30}
    return {**row, **more}


def sample(at: float, agent: int, calls: int, cpu: float) -> dict[str, Any]:
    return {"at_s": at, "agent_bytes": agent, "calls_bytes": calls, "cpu_s": cpu}


def complaints_of(file: Path, *sessions: dict[str, Any], keep_s: float = DAY, calls: int = 1) -> list[str]:
    """Write sessions, each with some calls, as governors do; returns what was complained of."""
    said: list[str] = []
    for one in sessions:
        writer = Writer(file, keep_s, MOST, said.append)
        writer.put("sessions", one)
        for number in range(1, calls + 1):
            writer.put("calls", {"session": one["id"], **call(number, number, None)})
            writer.call_ended(one, call(number, number, 2.0), [("calls", "ok", 1)])
        writer.put("samples", {"session": one["id"], **sample(1.0, 10, 20, 0.1)})
        writer.change_session(one["id"], duration_s=9.0, exit_status=0, loops=[])
        writer.forget_old()
        writer.close()
    return said


def test_a_session_is_read_as_it_was_written_and_a_call_that_ended_is_there_once(tmp_path: Path) -> None:
    file, one = tmp_path / "below" / "history.db", session()
    assert complaints_of(file, one, calls=3) == []
    with store.reading(file) as history:
        (found,) = store.sessions(history)
        assert {**found, **one} == found
        assert found["duration_s"] == 9.0
        assert store.calls_of(history, one["id"]) == [call(number, number, 2.0) for number in (1, 2, 3)]
        assert store.samples_of(history, one["id"]) == [sample(1.0, 10, 20, 0.1)]
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_a_call_that_outlives_its_root_has_the_figures_of_its_end(tmp_path: Path) -> None:
    file, one, said = tmp_path / "history.db", session(), list[str]()
    writer = Writer(file, DAY, MOST, said.append)
    writer.put("sessions", one)
    writer.put("calls", {"session": one["id"], **call(1, 1.0, 2.0, peak_bytes=None, cpu_s=None)})
    for _ in range(2):  # the next governor says it again
        writer.call_ended(one, call(1, 1.0, 2.0), [("calls", "ok", 1)])
    writer.close()
    with store.reading(file) as history:
        assert store.calls_of(history, one["id"]) == [call(1, 1.0, 2.0)]
        assert store.totals(history) == {("calls", "build", "ok"): 1.0}


def test_what_is_known_so_far_of_a_call_is_in_the_history_soon_after_its_root_has_ended(tmp_path: Path, folders: Folders) -> None:
    file, said = tmp_path / "history.db", list[str]()
    top, leaf = folders.make("session"), folders.make("session", "tools", "tool-1")
    (leaf / "memory.peak").write_text(str(300 << 20))
    (leaf / "cpu.stat").write_text("usage_usec 1500000")

    async def run(writer: Writer) -> int:
        recorder = Recorder(HistoryRule(sample=0.01), Layout("demo", Watched(), top), time.monotonic(), 0, writer, said.append)
        recorder.session_began(name="demo", command="agent", priority="normal", owner=0, budget_bytes=1 << 30)
        live = Live(CallRecord(1, 100, ("server", "&"), 0.0), leaf=leaf)
        recorder.call_began(live)
        await asyncio.sleep(0.05)  # it is looked at several times before this is over
        live.record.ended_s, live.record.exit_status = 2.0, 0
        recorder.goes_on(live)
        await asyncio.sleep(0.05)
        recorder.close()
        return recorder.id

    writer = Writer(file, DAY, MOST, said.append)
    identity = asyncio.run(run(writer))
    writer.close()
    with store.reading(file) as history:
        (found,) = store.calls_of(history, identity)
    assert (found["duration_s"], found["exit_status"], found["peak_bytes"], found["cpu_s"]) == (2.0, 0, 300 << 20, 1.5)
    assert said == []


def test_sessions_that_write_at_the_same_time_all_get_everything_in(tmp_path: Path) -> None:
    file, said = tmp_path / "history.db", list[str]()
    rows = [session(number, name=f"n{number}") for number in range(1, 9)]
    late = [{**row, "id": time.time_ns() + row["id"]} for row in rows]
    threads = [threading.Thread(target=lambda row=row: said.extend(complaints_of(file, row, calls=20))) for row in late]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == []
    with store.reading(file) as history:
        assert len(store.calls(history, store.Filter(limit=1000))) == 8 * 20


def test_a_call_counts_once_however_often_its_end_is_said_and_whoever_waits_is_told(tmp_path: Path) -> None:
    file, one, done = tmp_path / "history.db", session(), list[int]()
    complaints_of(file, one)
    writer = Writer(file, DAY, MOST, pytest.fail)
    for number in (1, 2):  # the first is there already
        writer.call_ended(one, call(number, number, 5.0), [("calls", "ok", 1)], lambda number=number: done.append(number))  # type: ignore[misc]
    writer.close()
    with store.reading(file) as history:
        assert [row["duration_s"] for row in store.calls_of(history, one["id"])] == [2.0, 5.0]
        assert store.totals(history) == {("calls", "build", "ok"): 2}
    assert done == [1, 2]


def test_who_waits_is_told_also_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "history.db").mkdir()
    said, done = list[str](), list[int]()
    writer = Writer(tmp_path / "history.db", DAY, MOST, said.append)
    writer.call_ended(session(), call(1, 1, 1.0), [], lambda: done.append(1))
    writer.close()
    assert done == [1]
    assert "could not be written" in said[0]


def test_what_is_older_than_the_policy_keeps_goes_with_all_that_belongs_to_it(tmp_path: Path) -> None:
    file, old, new = tmp_path / "history.db", session(time.time_ns() - int(3 * DAY * 1e9), name="old"), session()
    complaints_of(file, old, new)
    with store.reading(file) as history:
        assert [one["name"] for one in store.sessions(history)] == ["demo"]
        assert history.execute("SELECT count(*) FROM calls").fetchone()[0] == 1
        assert history.execute("SELECT count(*) FROM samples").fetchone()[0] == 1


def test_of_a_session_that_lasts_for_long_the_new_calls_stay(tmp_path: Path) -> None:
    file, one = tmp_path / "history.db", session(time.time_ns() - int(3 * DAY * 1e9))
    writer = Writer(file, DAY, MOST, pytest.fail)
    writer.put("sessions", one)
    for number, at in enumerate((0, DAY, 2.5 * DAY), 1):
        writer.call_ended(one, call(number, at, 1.0), [])
    writer.forget_old()
    writer.close()
    with store.reading(file) as history:
        assert [row["call"] for row in store.calls_of(history, one["id"])] == [3]
    writer = Writer(file, 0.1, MOST, pytest.fail)
    writer.forget_old()  # it has nothing any more, and comes back with its next call
    writer.call_ended(one, call(4, 3 * DAY, 1.0), [])
    writer.close()
    with store.reading(file) as history:
        assert [row["call"] for row in store.calls_of(history, one["id"])] == [4]


def test_there_is_never_more_than_the_policy_lets_be_and_the_oldest_go(tmp_path: Path) -> None:
    file, one = tmp_path / "history.db", session()
    writer = Writer(file, DAY, 1 << 20, pytest.fail)
    writer.put("sessions", one)
    sizes = []
    for number in range(1, 20001):
        writer.call_ended(one, call(number, number / 1e3, 1.0), [])
        if number % 5000 == 0:
            writer.close()
            sizes.append(file.stat().st_size)
            writer = Writer(file, DAY, 1 << 20, pytest.fail)
    writer.close()
    with store.reading(file) as history:
        kept = [row["call"] for row in store.calls_of(history, one["id"])]
    assert kept == list(range(20001 - len(kept), 20001))
    assert 5000 < len(kept) < 15000
    assert max(sizes) < 1.2 * (1 << 20)


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (store.Filter(), [1, 2, 3, 4, 5]),
        (store.Filter(session="demo", name="build"), [1, 2, 3, 4, 5]),
        (store.Filter(session="other"), []),
        (store.Filter(text="part2"), [2]),
        (store.Filter(text="%"), []),
        (store.Filter(failed=True), [2]),
        (store.Filter(acted_on=True), [3]),
        (store.Filter(limit=2), [4, 5]),
        (store.Filter(since=1_000_000_002.5), [3, 4, 5]),
        (store.Filter(kind="own"), [4]),
        (store.Filter(notable=True), [2, 3]),
        (store.Filter(notable=True, limit=1), [3]),
    ],
)
def test_each_condition_of_a_filter_holds(chosen: store.Filter, expected: list[int], tmp_path: Path) -> None:
    file, one = tmp_path / "history.db", session(1_000_000_000 * 10**9)
    writer = Writer(file, 1e9, MOST, lambda _: None)
    writer.put("sessions", one)
    weighed = {"deeds": [{**STOP, "what": "limits set (CPU weight 50)"}]}
    calls: tuple[dict[str, Any], ...] = (
        weighed,
        {"exit_status": 256},
        {"deeds": [STOP]},
        {"kind": "own", "peak_bytes": 1 << 30},
        {"kind": "helper"},
    )
    for number, more in enumerate(calls, 1):
        writer.put("calls", {"session": one["id"], **call(number, float(number), 0.5, **more)})
    writer.close()
    with store.reading(file) as history:
        assert [found["call"] for found in store.calls(history, chosen)] == expected
        if chosen.notable:
            assert store.folded(history, chosen) == {"well": 1, "own": {"make part4": 1}, "owns": 1, "helpers": 1}


def test_no_cell_of_a_spreadsheet_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, one = tmp_path / "history.db", session(command="=agent")
    writer = Writer(file, DAY, MOST, pytest.fail)
    writer.put("sessions", one)
    evil = [{**STOP, "what": "=1+1", "why": "\x1b]0;x\x07"}]
    writer.put("calls", {"session": one["id"], **call(1, 1.0, 0.5, command='=HYPERLINK("http://x","y")', hint="@x", deeds=evil)})
    writer.close()
    monkeypatch.setattr(store, "FILE", file)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    show.show(store.Filter(), "csv")
    head, row = csv.reader(io.StringIO(capsys.readouterr().out))
    found = dict(zip(head, row, strict=True))
    assert found["command"] == '\'=HYPERLINK("http://x","y")'
    assert (found["hint"], found["deeds"]) == ("'@x", "'=1+1 (\N{REPLACEMENT CHARACTER}]0;x\N{REPLACEMENT CHARACTER})")


def test_a_file_that_cannot_be_written_is_said_once_and_holds_nothing_up(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = complaints_of(tmp_path / "file" / "history.db", session(), calls=5)
    assert len(said) == 1
    assert "could not be written" in said[0]


def test_a_history_of_an_older_version_is_brought_up_to_date_and_nothing_of_it_is_lost(tmp_path: Path) -> None:
    file, old, new = tmp_path / "history.db", session(), session(owner=1000, name="hers")
    complaints_of(file, old)
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript(
            "ALTER TABLE sessions DROP COLUMN owner; ALTER TABLE calls DROP COLUMN over; PRAGMA user_version = 1;"
        )
    assert complaints_of(file, new) == []
    with store.reading(file) as history:
        assert [(one["name"], one["owner"]) for one in store.sessions(history)] == [("demo", 0), ("hers", 1000)]
        assert [one["session"] for one in store.calls(history, store.Filter(owner=1000))] == ["hers"]


@pytest.mark.parametrize("damage", ["newer", "no database", "none"])
def test_a_history_that_cannot_be_read_is_refused_with_words(damage: str, tmp_path: Path) -> None:
    file = tmp_path / "history.db"
    if damage == "newer":
        with sqlite3.connect(file) as connection:
            connection.execute(f"PRAGMA user_version = {store.VERSION + 1}")
    elif damage == "no database":
        file.write_text("x" * 5000)
    with pytest.raises(AgentCgroupError), store.reading(file) as history:
        store.sessions(history)


def test_a_name_that_is_no_text_is_nobodys(tmp_path: Path) -> None:
    complaints_of(tmp_path / "history.db", session())
    with store.reading(tmp_path / "history.db") as history:
        assert store.sessions(history, "demo\udcff") == []
        assert store.calls(history, store.Filter(session="demo\udcff", text="\udcff", name="\udcff")) == []


def test_the_figures_of_a_session() -> None:
    calls = [
        call(1, 1.0, 4.0, deeds=[WAIT]),
        call(2, 3.0, 4.0, deeds=[STOP], exit_status=9, peak_bytes=300 << 20),
        call(3, 8.0, 1.0, kind="helper"),
        call(4, 9.0, None, **{"class": "test"}),
    ]
    one = {**session(), "duration_s": 12.0, "loops": [{"left_bytes": 5, "reclaimed_bytes": 3}]}
    found = fig.figures([(one, calls, [sample(2.0, 100 << 20, 60 << 20, 1.0), sample(3.0, 100 << 20, 140 << 20, 2.0)])])
    assert (found.sessions, found.calls, found.stopped, found.waits, found.waited_s) == (1, 3, 1, 1, 2.0)
    assert found.in_calls == pytest.approx(6.0 / 12.0)
    assert (found.peak, found.mean) == (400 << 20, 200 << 20)
    assert found.peak_to_mean == 2.0
    assert [(one.name, one.calls, one.failed, one.total_s) for one in found.classes] == [
        ("build", 2, 1, 8.0),
        ("test", 1, 0, 0.0),
    ]
    assert (found.loops, found.left_bytes, found.reclaimed_bytes) == (1, 5, 3)


def test_nothing_known_gives_a_page_all_the_same() -> None:
    empty = {**session(), "duration_s": None, "loops": [], "exit_status": None, "source": None, "enforcer": None}
    assert "No command had to be stopped or to wait." in page.page([(empty, [], [])], "demo")
    assert "All sessions" in page.page([], None)


class _Seen(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_data(self, data: str) -> None:
        self.text += data


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_no_command_becomes_markup(command: str) -> None:
    hostile = f"{command}</code></title><script>x</script>\"' onload=x"
    one = {**session(), "duration_s": 3.0, "loops": [], "exit_status": 0, "source": "x", "enforcer": "x", "command": hostile}
    text = page.page([(one, [call(1, 0.5, 1.0, command=hostile, deeds=[{**STOP, "why": hostile}])], [])], "demo")
    seen = _Seen()
    seen.feed(text)
    assert "script" not in seen.tags
    assert "http" not in text.replace(command, "")
    assert "<script>x</script>" in seen.text


@given(st.floats(0, 1e14), st.sampled_from([2.0, 10.0]))
def test_an_axis_has_a_handful_of_ticks_inside_the_picture(top: float, base: float) -> None:
    found = page.axis(top, 0.0, 100.0, str, base)
    assert all(0 <= at <= 100 for at, _ in found.ticks)
    assert top < 1e-9 or 2 <= len(found.ticks) <= 20
    assert 90 <= found.at(top) <= 100 or top < 1e-9


def test_the_deeds_of_a_record_reach_its_row() -> None:
    record = CallRecord(1, 2, ("make",), 0.0, deeds=[Deed(1.0, "stopped", "memory", None)])
    assert row_of(record)["deeds"] == [{"at_s": 1.0, "what": "stopped", "why": "memory", "lasted_s": None}]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["history", "--since", "yesterday"], "is not a duration"),
        (["history", "--json", "--csv"], "one or the other"),
        (["report", "--out", "/none/x.html"], "agentcgroup: "),
    ],
)
def test_bad_input_is_refused_with_words(words: list[str], expected: str) -> None:
    done = subprocess.run(["python3", "-m", "agentcgroup", *words], capture_output=True, text=True)
    assert done.returncode == 2
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


def test_no_number_ends_the_writing_and_none_that_cannot_be_is_kept(tmp_path: Path) -> None:
    file, said = tmp_path / "h.db", list[str]()
    writer = Writer(file, DAY, 1 << 30, said.append)
    one = session(7, budget_bytes=2**70)
    writer.put("sessions", one)
    for number, status in enumerate((2**70, -1, 1 << 40, 9), 1):
        writer.call_ended(one, call(number, float(number), 1.0, exit_status=status, peak_bytes=2**80), ())
    writer.change_session(7, exit_status=-1)
    writer.close()
    with store.reading(file) as history:
        found = store.calls(history, store.Filter())
    assert said == []
    assert [one["exit_status"] for one in found] == [None, None, None, 9]
    assert found[0]["peak_bytes"] == 2**63 - 1


def test_a_mistake_in_one_row_is_said_and_the_others_are_written(tmp_path: Path) -> None:
    file, said = tmp_path / "h.db", list[str]()
    writer = Writer(file, DAY, 1 << 30, said.append)
    one = session(7)
    writer.call_ended(one, call(1, 1.0, 1.0, deeds=[object()]), ())
    writer.call_ended(one, call(2, 1.0, 1.0), ())
    writer.close()
    assert len(said) == 1
    with store.reading(file) as history:
        assert [one["call"] for one in store.calls(history, store.Filter())] == [2]


def test_a_damaged_history_is_set_aside_and_a_new_one_is_begun(tmp_path: Path) -> None:
    file, said = tmp_path / "h.db", list[str]()
    file.write_bytes(b"no database, but long enough to be one" * 200)
    writer = Writer(file, DAY, 1 << 30, said.append)
    writer.call_ended(session(7), call(1, 1.0, 1.0), ())
    writer.close()
    assert "is damaged" in said[0]
    assert len(list(tmp_path.glob("h.db.damaged-*"))) == 1
    with store.reading(file) as history:
        assert len(store.calls(history, store.Filter())) == 1


@pytest.mark.parametrize("status", [2**70, -1, 1 << 40])
def test_what_an_older_version_took_for_a_status_is_shown_as_not_known(status: int) -> None:
    assert exit_words(status) == "?"


@pytest.mark.parametrize("umask", [0, 0o077])
def test_all_may_look_into_the_run_folder_and_only_root_may_change_it_whatever_the_umask(
    umask: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "RUN", tmp_path / "run")
    before = os.umask(umask)
    try:
        places.make_run()
        places.make_run()
    finally:
        os.umask(before)
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o755


def test_a_lock_is_its_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        os.close(open_lock(tmp_path / "lock"))
        (tmp_path / "old").touch(0o666)
        os.close(open_lock(tmp_path / "old"))
    finally:
        os.umask(before)
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in ("lock", "old")} == {0o600}
