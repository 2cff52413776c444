"""``policy explain``: each step from a process's arguments to its class."""

import pytest

from agentcgroup.errors import AgentCgroupError
from agentcgroup.model import CallRecord
from agentcgroup.policy_words import explain
from agentcgroup.session.report import command_words

WRAPPED = ("bash", "-c", "source /x/snapshot-bash-1.sh || true && eval 'cd a && pytest' < /dev/null && pwd >| /tmp/c")


def test_each_step_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert explain(WRAPPED, None, "2G", "", "claude code", ["CLAUDE_CODE_CHILD_SESSION"]) == 0
    shown = capsys.readouterr().out
    assert "cd a && pytest (the text of bash -c, then eval)" in shown
    assert "pytest: test" in shown
    assert "the model's call (has CLAUDE_CODE_CHILD_SESSION)" in shown


@pytest.mark.parametrize(("argv", "whose"), [(("git", "status"), "the agent's own command"), (WRAPPED, "the model's call")])
def test_the_model_s_call_is_told_from_the_agent_s_own(
    argv: tuple[str, ...], whose: str, capsys: pytest.CaptureFixture[str]
) -> None:
    explain(argv, None, "2G", "", "claude code")
    assert whose in capsys.readouterr().out


def test_an_agent_that_the_policy_lacks_is_refused_with_those_it_has() -> None:
    with pytest.raises(AgentCgroupError, match="known agents: claude code"):
        explain(("ls",), None, "2G", "", "nobody")


def test_a_row_shows_the_command_that_the_model_wrote() -> None:
    assert command_words(CallRecord(1, 2, WRAPPED, 0.0, command="cd a && pytest")) == "cd a && pytest"
