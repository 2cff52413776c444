"""Which policy the daemon begins with when the one in its file is broken."""

from pathlib import Path

import pytest

from agentcgroup.errors import AgentCgroupError
from agentcgroup.policy import load_policy, shipped_policy_path
from agentcgroup.service import chosen

GOOD, BROKEN = "version: 1\nusers: {sessions: 3}\n", "version: 1\nusers: {sessions: many}\n"


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chosen, "LAST", tmp_path / "state" / "policy.last.yaml")


def test_a_broken_policy_is_replaced_by_the_last_one_that_was_not_and_that_is_said(tmp_path: Path) -> None:
    file, said = tmp_path / "policy.yaml", list[str]()
    file.write_text(GOOD)
    assert chosen.first_policy(file, said.append).users.sessions == 3
    assert said == []
    file.write_text(BROKEN)
    assert chosen.first_policy(file, said.append).users.sessions == 3
    assert f"{file}:2: users.sessions" in said[0]
    assert "the last one that was not holds" in said[0]
    with pytest.raises(AgentCgroupError, match=r"users\.sessions"):
        chosen.read_policy(file)
    file.write_text(GOOD.replace("3", "4"))
    assert chosen.read_policy(file).users.sessions == 4
    assert chosen.LAST.stat().st_mode & 0o777 == 0o600
    assert load_policy(chosen.LAST).users.sessions == 4


def test_where_there_was_none_before_or_that_is_broken_too_the_shipped_policy_holds(tmp_path: Path) -> None:
    file, said = tmp_path / "policy.yaml", list[str]()
    file.write_text(BROKEN)
    for _ in range(2):
        assert chosen.first_policy(file, said.append) == load_policy(shipped_policy_path())
        assert "the one that is shipped holds" in said.pop()
        chosen.LAST.parent.mkdir(exist_ok=True)
        chosen.LAST.write_text(BROKEN)


def test_a_policy_that_is_asked_for_and_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AgentCgroupError, match="can't be read"):
        chosen.first_policy(tmp_path / "none", print)
