"""Facts about processes, on this machine's own kernel."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from agentcgroup import process


def test_inherited_descriptors_are_told_from_a_second_opening_of_the_same_device() -> None:
    own = subprocess.Popen(["sleep", "5"])
    other = subprocess.Popen(["sleep", "5"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    again = subprocess.Popen(["sleep", "5"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert process.same_file(own.pid, 1, os.getpid(), 1)
        assert not process.same_file(other.pid, 1, again.pid, 1)
        assert not process.same_file(own.pid, 77, os.getpid(), 77)
    finally:
        for one in (own, other, again):
            one.kill()
            one.wait()


def test_facts_survive_a_name_full_of_parentheses(tmp_path: Path) -> None:
    odd = tmp_path / "a) R 1 (b"
    odd.symlink_to("/bin/sleep")
    child = subprocess.Popen([odd, "5"], cwd="/", start_new_session=True)
    try:
        deadline = time.monotonic() + 10
        # The parent goes on while the exec is still under way, and there are no arguments yet.
        while (facts := process.facts(child.pid, os.getpid())) is None and time.monotonic() < deadline:
            pass
        assert facts is not None
        assert (facts.ppid, facts.sid, facts.cwd, facts.argv) == (os.getpid(), child.pid, "/", (str(odd), "5"))
    finally:
        child.kill()
        child.wait()
    assert process.facts(child.pid, os.getpid()) is None
    assert process.parent(child.pid) is None
    assert process.command_line(child.pid) == ()


def test_a_variable_is_read_from_the_environment_a_process_was_started_with() -> None:
    environment = {"XAGENT_RESOURCE_HINT": "no", "AGENT_RESOURCE_HINT": "memory:high", "A": "1"}
    child = subprocess.Popen(["sleep", "5"], env=environment)
    try:
        while process.command_line(child.pid)[:1] != ("sleep",):
            pass
        assert process.hint_text(child.pid) == "memory:high"
        assert process.variables(child.pid, "A", "B") == {"A": "1"}
    finally:
        child.kill()
        child.wait()


@pytest.mark.parametrize("pid", [2**22 + 5])
def test_a_process_that_is_not_there_gives_nothing(pid: int) -> None:
    assert process.variables(pid, "A") == {}
    process.prefer_as_victim(pid, 1000)
    process.signal_all([pid], signal.SIGTERM)


def test_what_is_read_out_of_a_processs_memory_is_read_by_one_that_may_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "read", lambda pid, name, limit=0: None)
    assert process.facts(os.getpid(), os.getpid()) is None
    assert process.command_line(os.getpid()) == ()
    assert process.variables(os.getpid(), "PATH") == {}


def test_what_a_program_was_started_with_counts_and_not_what_it_has_become() -> None:
    shell, git = ("bash", "-c", "git status"), ("git", "status")
    became = process.Facts(7, 1, 7, git, "/w", False, "/usr/bin/git", ("/dev/null", "pipe:[1]", "pipe:[2]"), frozenset({"PATH"}))
    found = process.at_start(7, shell, became)
    assert found is not None
    assert (found.argv, found.exe, found.leads_session, found.names) == (shell, "", True, frozenset({"PATH"}))
    gone = process.at_start(7, shell, None)
    assert gone is not None and gone.argv == shell
    assert process.at_start(7, (), became) is became
    assert process.at_start(7, git, became) is became
    assert process.at_start(7, (), None) is None
