"""The summary: what a person reads when a session has ended."""

import io
import json
import os
import pty
import stat
from pathlib import Path
from typing import Any

import pytest

from agentcgroup import files
from agentcgroup.boundary import AgentProcess, Verdict
from agentcgroup.classify import split_budget
from agentcgroup.loops import Loop
from agentcgroup.model import CallRecord, Deed, Kind, Limits
from agentcgroup.policy import load_policy
from agentcgroup.session.recorder import row_of, totals_of
from agentcgroup.session.report import build_report, exit_words, print_summary, write_down

EVIL = "=HYPERLINK(1)\x1b]0;x\x07\n\u202emake\udcff" + 120 * 1024 * "a"
BUDGET = split_budget(load_policy(), 1 << 30)
STOPPED = CallRecord(
    1, 200, ("/bin/sh", "-c", "pytest -x\ntests/"), 0.5, class_name="test", leaf="tool-1", ended_s=2.0, exit_status=9,
    memory_peak_bytes=600 << 20, cpu_s=1.25, limits=Limits(500 << 20, 560 << 20), deeds=[Deed(1.5, "stopped", "memory: classes: test")],
)  # fmt: skip
LOOP = Loop("pytest -x", [4, 5, 6], 120 << 20, 100 << 20)
UNSEEN = CallRecord(2, 201, (), 3.0)
SERVER = CallRecord(3, 202, ("gopls",), 3.0, kind="helper")


def summary(*calls: CallRecord, kills: int = 0, left: dict[str, Any] | None = None, log: tuple[str, ...] = ()) -> str:
    agent = AgentProcess(100, ("python3", "agent.py"), 1, Verdict("agent", "started by run"))
    report = build_report("s", ["python3", "agent.py"], "normal", BUDGET, 0.0, 5.0, 0, 30 << 20, kills, "test", {}, "cgroup", None, [agent],
                          calls or [STOPPED, UNSEEN, SERVER], [LOOP], left or {}, log)  # fmt: skip
    out = io.StringIO()
    print_summary(json.loads(json.dumps(report)), out)
    return out.getvalue()


def test_each_call_has_a_line_with_its_figures_and_what_was_done() -> None:
    text = " ".join(summary().split())
    assert "2 tool calls in 5.00 s" in text
    assert "1 pytest -x tests/ test 1.50 s 600M 500M 1.25 s SIGKILL stopped (memory: classes: test)" in text
    assert "2 (ended before it could be looked at) default - - - - ?" in text
    assert "loop: 3 times pytest -x (calls 4-6), left 120M behind, 100M reclaimed" in text
    assert "gopls default (helper)" in text
    assert "agent: process 100 python3 agent.py [started by run]" in text


def test_a_leaking_agent_and_ignored_hints_are_mentioned() -> None:
    text = summary(kills=1, log=("1.0 call 1: hint 'x' ignored: known hints are",))
    assert "the agent itself reached its memory cap of 896M" in text
    assert "note: 1.0 call 1: hint 'x' ignored" in text
    assert "reached its memory cap" not in summary()


def test_who_left_its_place_is_mentioned() -> None:
    line = "1.0 process 7 (su) left its place, moved to user.slice/x by a login: taken back"
    assert f"note: {line}" in summary(log=(line,))


def test_what_a_session_left_in_files_in_memory_is_said_where_it_is_much() -> None:
    words = "note: it left 720M in files in memory (tmpfs, such as /dev/shm), which stay until they are removed: /dev/shm/a 240M"
    assert words in " ".join(summary(left={"bytes": 720 << 20, "files": "/dev/shm/a 240M"}).split())
    assert "files in memory" not in summary(left={"bytes": 1 << 20, "files": ""})


def test_statuses_in_words() -> None:
    assert [exit_words(status) for status in (0, 256, 9, None)] == ["0", "1", "SIGKILL", "?"]


def well(number: int, command: str = "true", kind: Kind = "tool", **more: Any) -> CallRecord:
    return CallRecord(
        number, 200 + number, ("sh", "-c", command), number, kind, command=command, ended_s=number + 1, exit_status=0, **more
    )


def test_what_was_acted_on_failed_or_was_large_comes_first_and_the_rest_is_one_line_each() -> None:
    git = [well(100 + number, "git status", "own", sign="no CODEX_CI") for number in range(250)]
    ps = [well(400 + number, "ps aux | grep x", "own") for number in range(9)]
    weighed = well(1, "weighed", deeds=[Deed(0.1, "limits set (CPU weight 50)", "share")] * 30)
    failed, large = well(2, "failed"), well(3, "large", memory_peak_bytes=700 << 20)
    failed.exit_status = 256
    stopped = well(
        90, "hungry", deeds=[Deed(1, "braked", "memory"), Deed(2, "released", "memory")] * 20 + [Deed(3, "stopped", "memory")]
    )
    text = summary(weighed, failed, large, *[well(number) for number in range(4, 16)], *git, stopped, *ps)
    lines = text.splitlines()
    assert lines[1] == "agentcgroup: session s: 16 tool calls in 5.00 s: 1 stopped, 1 failed, 1 large"
    assert [line.split()[1] for line in lines[3:6]] == ["hungry", "failed", "large"]
    assert "braked (memory) 20 times, released (memory) 20 times, stopped (memory)" in " ".join(text.split())
    assert "+ 13 more calls: all well; agentcgroup history --all --session s shows them" in text
    assert "+ 259 commands of the agent itself: git 250, ps 9" in text
    assert "its own commands by: no CODEX_CI (250)" in text
    assert len(lines) < 20 and "CPU weight" not in text


def test_a_command_of_the_agent_itself_that_was_stopped_is_shown() -> None:
    own = well(1, "rg --files", "own", deeds=[Deed(1, "stopped", "memory")])
    assert "rg --files default (agent)" in " ".join(summary(own).split())


def test_a_hostile_name_stays_in_its_cell() -> None:
    calls = [CallRecord(number, 1, (EVIL, EVIL), 0.0, cwd=EVIL, sign=EVIL, command=command, deeds=[Deed(1, "told", EVIL)])
             for number, command in ((1, ""), (2, EVIL))]  # fmt: skip
    text = summary(*calls, log=(f"could not {EVIL}",))
    assert text.replace("\n", "").isprintable()
    assert len(text) < 10_000
    text.encode()


def test_a_report_is_bounded_whatever_the_arguments_are() -> None:
    agent = AgentProcess(100, (EVIL,) * 50, 1, Verdict("agent", EVIL))
    call = CallRecord(1, 1, (EVIL,) * 50, 0.0, cwd=EVIL, command=EVIL)
    report = build_report("s", [EVIL] * 50, "normal", BUDGET, 0.0, 5.0, 0, None, 0, "t", {}, "c", None, [agent], [call], [], {}, [])  # fmt: skip
    assert len(json.dumps(report)) < 50_000
    assert len(json.dumps(row_of(call))) < 3_000
    json.dumps(report, ensure_ascii=False).encode()


def test_commands_are_counted_by_whose_they_are_and_only_the_models_in_the_rest() -> None:
    assert list(totals_of(row_of(well(1, kind="own")))) == [("commands", "own", 1)]
    assert next(iter(totals_of({**row_of(well(1)), "kind": "\n=evil"}))) == ("commands", "tool", 1)
    assert ("calls", "ok", 1) in totals_of(row_of(well(1)))


def test_a_report_replaces_a_link_and_leaves_what_it_leads_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, place = tmp_path / "shadow", tmp_path / "report.json"
    target.write_text("secret")
    target.chmod(0o600)
    place.symlink_to(target)
    before = os.umask(0o077)
    try:
        write_down({"a": 1}, place)
    finally:
        os.umask(before)
    assert (target.read_text(), stat.S_IMODE(target.stat().st_mode)) == ("secret", 0o600)
    assert json.loads(place.read_text()) == {"a": 1} and not place.is_symlink()
    assert stat.S_IMODE(place.stat().st_mode) == 0o644
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json", "shadow"]


def test_a_report_to_a_device_is_written_to_it() -> None:
    """A terminal, for nothing can be put in its place: a fault here must not cost the machine its /dev/null."""
    ours, theirs = pty.openpty()
    report: dict[str, Any] = {}
    try:
        write_down(report, Path(os.ttyname(theirs)))
        assert report == {}
        assert os.read(ours, 100) == b"{}\r\n"
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_report_to_what_leads_to_a_stream_leaves_the_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a folder that stands in for /dev."""
    monkeypatch.setattr(files, "_THROUGH", (tmp_path / "dev",))
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/stdout").symlink_to(tmp_path / "out")
    write_down({}, tmp_path / "dev/stdout")
    assert (tmp_path / "dev/stdout").is_symlink()
    assert (tmp_path / "out").read_text() == "{}\n"
