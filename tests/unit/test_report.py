"""The summary: what a person reads when a session has ended."""

import io
import json

from agentcgroup.boundary import AgentProcess, Verdict
from agentcgroup.classify import split_budget
from agentcgroup.loops import Loop
from agentcgroup.model import CallRecord, Deed, Limits
from agentcgroup.policy import load_policy
from agentcgroup.session.report import build_report, exit_words, print_summary

BUDGET = split_budget(load_policy(), 1 << 30)
STOPPED = CallRecord(
    1, 200, ("/bin/sh", "-c", "pytest -x\ntests/"), 0.5, class_name="test", leaf="tool-1", ended_s=2.0, exit_status=9,
    memory_peak_bytes=600 << 20, cpu_s=1.25, limits=Limits(500 << 20, 560 << 20), deeds=[Deed(1.5, "stopped", "memory: classes: test")],
)  # fmt: skip
LOOP = Loop("pytest -x", [4, 5, 6], 120 << 20, 100 << 20)
UNSEEN = CallRecord(2, 201, (), 3.0)
SERVER = CallRecord(3, 202, ("gopls",), 3.0, kind="helper")


def summary(*, kills: int = 0, log: tuple[str, ...] = ()) -> str:
    agent = AgentProcess(100, ("python3", "agent.py"), 1, Verdict("agent", "started by run"))
    report = build_report("s", ["python3", "agent.py"], "normal", BUDGET, 0.0, 5.0, 0, 30 << 20, kills, "test", {}, "cgroup", None, [agent],
                          [STOPPED, UNSEEN, SERVER], [LOOP], log)  # fmt: skip
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
    assert "the agent itself reached its memory cap of 512M" in text
    assert "note: 1.0 call 1: hint 'x' ignored" in text
    assert "reached its memory cap" not in summary()


def test_statuses_in_words() -> None:
    assert [exit_words(status) for status in (0, 256, 9, None)] == ["0", "1", "SIGKILL", "?"]
