"""Feedback: what an agent reads."""

import json

import pytest

from agentcgroup.control_events import Notice, Reason
from agentcgroup.feedback import LONGEST_BYTES, render
from agentcgroup.hints import parse_hint

MEMORY = Notice("memory", True, "test", 600 << 20, 500 << 20, expected=518 << 20, most=900 << 20)


def test_feedback_says_what_happened_the_figures_and_the_exact_hint_to_set() -> None:
    text = render(MEMORY, as_json=False).decode()
    assert "this command was stopped: it used 600M of memory, its limit is 500M" in text
    assert "AGENT_RESOURCE_HINT=memory:high <command>" in text
    assert "narrower scope" in text
    assert all(line.startswith("agentcgroup: ") for line in text.strip().splitlines())


def test_a_kill_below_the_calls_limit_does_not_claim_to_know_who_was_full() -> None:
    text = render(Notice("session", True, "x", 247 << 20, 400 << 20, most=900 << 20), as_json=False).decode()
    assert "it held 247M, less than its limit" in text
    assert "this session has 400M with its agent, and all sessions share the host" in text
    assert "AGENT_RESOURCE_HINT" not in text


def test_no_hint_is_recommended_where_none_would_help() -> None:
    text = render(Notice("memory", True, "x", 2, 1, most=None), as_json=False).decode()
    assert "AGENT_RESOURCE_HINT" not in text


@pytest.mark.parametrize("reason", ["memory", "budget", "time", "processes", "kernel", "session", "room", "stalled"])
@pytest.mark.parametrize("stopped", [True, False])
def test_json_is_one_line_with_the_same_figures(reason: Reason, stopped: bool) -> None:
    data = render(Notice(reason, stopped, "x", 10.0, 5.0, most=7), as_json=True)
    assert data.count(b"\n") == 1
    body = json.loads(data)["agentcgroup"]
    assert (body["limit"], body["used"], body["allowed"]) == (reason, 10.0, 5.0)
    assert body["what_to_try"]
    assert len(data) <= LONGEST_BYTES


def test_every_hint_that_is_recommended_is_understood() -> None:
    for reason in ("memory", "time"):
        for line in render(Notice(reason, True, "x", 10.0, 90.0, most=7), as_json=False).decode().splitlines():
            if "AGENT_RESOURCE_HINT=" in line:
                hint, complaints = parse_hint(line.split("AGENT_RESOURCE_HINT=")[1].split()[0])
                assert hint
                assert not complaints
