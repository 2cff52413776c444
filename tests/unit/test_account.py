"""What a session writes down of itself while it runs and after, and who is told of it."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from agentcgroup.errors import AgentCgroupError
from agentcgroup.model import CallRecord, Deed
from agentcgroup.service import explain, status
from agentcgroup.session import account

ALICE, MALLORY = 1000, 1001


@pytest.fixture
def sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where running sessions have their folders; root asks, unless a test says otherwise."""
    monkeypatch.setattr(account, "SESSIONS", tmp_path / "sessions")
    monkeypatch.setattr(account, "ENDED", tmp_path / "ended")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    (tmp_path / "sessions").mkdir()
    return tmp_path / "sessions"


def running(sessions: Path, name: str, owner: int | None, calls: int) -> None:
    folder = sessions / name
    folder.mkdir()
    if owner is not None:
        (folder / "plan.json").write_text(json.dumps({"uid": owner}))
    for number in range(1, calls + 1):
        account.note(folder, CallRecord(number, 1, ("make",), 0.0), Deed(number, "told", "because"))


def ended(name: str, owner: int) -> None:
    calls = [
        {
            "call": 2,
            "command": "make",
            "class_name": "build",
            "rule": "r",
            "deeds": [{"at_s": 1.0, "what": "stopped", "why": "memory"}],
        }
    ]
    account.keep(name, {"calls": calls}, owner, 3)


def test_of_a_long_session_the_newest_deeds_are_kept_and_its_files_stay_small(
    sessions: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(account, "_LARGEST_BYTES", 2000)
    running(sessions, "long", None, 100)
    files = list((sessions / "long").iterdir())
    assert len(files) == 2
    assert sum(file.stat().st_size for file in files) < 4300
    assert explain.explain("long", as_json=True) == 0
    calls = [deed["call"] for deed in json.loads(capsys.readouterr().out)]
    assert len(calls) > 10
    assert calls == list(range(101 - len(calls), 101))


def test_what_can_not_be_written_is_no_failure(tmp_path: Path) -> None:
    account.append(tmp_path / "gone" / "log", "line")
    assert list(tmp_path.iterdir()) == []


def test_what_a_session_writes_down_is_for_root_alone_to_read(tmp_path: Path) -> None:
    account.append(tmp_path / "log", "line")
    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == 0o600


@pytest.mark.parametrize("call", [0, 4, 999])
def test_a_call_that_never_was_is_no_call_that_nothing_was_done_to(
    call: int, sessions: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended("over", 0)
    running(sessions, "live", None, 1)
    monkeypatch.setattr(status, "ask", lambda name: {"last_call": 3})
    for name in ("over", "live"):
        with pytest.raises(AgentCgroupError, match=f"{name}/{call}: there was no such call: its calls are 1 to 3") as refused:
            explain.explain(f"{name}/{call}", as_json=False)
        assert refused.value.exit_code != 0
        assert explain.explain(f"{name}/3", as_json=False) == 0
        assert "nothing was done to this call" in capsys.readouterr().out


def test_of_a_session_whose_governor_does_not_answer_nothing_is_claimed(sessions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running(sessions, "live", None, 1)
    monkeypatch.setattr(status, "ask", lambda name: {"error": "no answer"})
    assert explain.explain("live/7", as_json=False) == 0


@pytest.mark.parametrize("number", ["x", "-1", "\u0661", "\u00b2", "1" * 30, ""])
def test_what_is_no_number_is_said(number: str, sessions: Path) -> None:
    with pytest.raises(AgentCgroupError, match="not the number of a call"):
        explain.explain(f"live/{number}", as_json=False)


def test_a_user_is_shown_sessions_of_its_own_and_no_others(
    sessions: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked_by = ALICE

    def daemon(**request: Any) -> dict[str, Any]:
        assert request.pop("op") == "explain"
        return explain.answer(request["session"], request.get("call"), asked_by) or {"error": "no session"}

    monkeypatch.setattr("os.geteuid", lambda: asked_by)
    monkeypatch.setattr(status, "ask_daemon", daemon)
    monkeypatch.setattr(status, "ask", lambda name: {"last_call": 2})
    running(sessions, "hers", ALICE, 2)
    running(sessions, "roots", None, 1)
    ended("past", ALICE)
    for what, words in (("hers/2", "hers/2: make"), ("past", "stopped: memory")):
        assert explain.explain(what, as_json=False) == 0
        assert words in capsys.readouterr().out
    with pytest.raises(AgentCgroupError, match="no session"):
        explain.explain("roots", as_json=False)
    asked_by = MALLORY
    for name in ("hers", "past", "nobody"):
        with pytest.raises(AgentCgroupError, match="no session"):
            explain.explain(name, as_json=False)


def test_an_answer_to_a_user_is_bounded(sessions: Path) -> None:
    running(sessions, "hers", ALICE, explain.MOST + 10)
    found = explain.answer("hers", None, ALICE)
    assert found is not None
    assert len(found["deeds"]) == explain.MOST
    assert found["deeds"][-1]["call"] == explain.MOST + 10
