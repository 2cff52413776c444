"""Command lines as agents really write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentcgroup.command import assignments, display, external_commands, is_waiting_shell, program, shell_text, simple_commands


@pytest.mark.parametrize(
    ("argv", "programs"),
    [
        (["pytest", "-x"], ["pytest"]),
        (["/bin/sh", "-c", "cd app && pip install . && pytest"], ["cd", "pip", "pytest"]),
        (["/bin/bash", "-lc", "git status | head -3"], ["git", "head"]),
        (["/bin/bash", "-c", "source /x/snap.sh && eval 'AGENT_RESOURCE_HINT=memory:high make -j8' \\< /dev/null && pwd -P >| /tmp/c"],
         ["source", "make", "pwd"]),
        (["env", "-u", "HOME", "A=1", "timeout", "-k", "5", "60", "uv", "run", "--quiet", "pytest"], ["pytest"]),
        (["bash", "-c", "for f in *; do gcc -c $f; done; (cd b && ninja)"], ["gcc", "cd", "ninja"]),
        (["sh", "-c", "bash -c 'sh -c \"cargo test\"'"], ["cargo"]),
        (["bash", "-c", "pytest; echo 'unclosed"], ["bash"]),
        (["sudo", "-u", "bob", "make"], ["make"]),
    ],
)  # fmt: skip
def test_the_programs_behind_shells_and_wrappers(argv: list[str], programs: list[str]) -> None:
    assert [program(words) for words in simple_commands(argv)] == programs


@pytest.mark.parametrize(
    ("argv", "waits"),
    [(["bash"], True), (["-bash"], True), (["bash", "--norc", "-i"], True), (["sh", "-s"], True), (["bash", "-c", "ls"], False),
     (["bash", "script.sh"], False), (["bash", "-lc", "ls"], False), (["python3"], False), (["bash", "-o", "pipefail"], True)],
)  # fmt: skip
def test_a_shell_that_waits_for_commands(argv: list[str], waits: bool) -> None:
    assert is_waiting_shell(argv) is waits


def test_the_text_of_a_shell_is_found_behind_its_options() -> None:
    assert shell_text(["bash", "-o", "pipefail", "-ec", "ls -l", "x"]) == "ls -l"
    assert shell_text(["python3", "-c", "print()"]) is None


@pytest.mark.parametrize(
    ("text", "count"), [("cd /x && exec mini -t y", 1), ("export A=1; agent; echo $?", 1), ("make; ./agent", 2), ("cd x", 0)]
)
def test_builtins_are_not_programs(text: str, count: int) -> None:
    assert len(external_commands(text)) == count


def test_assignments_in_the_text_are_found_however_they_are_quoted() -> None:
    text = "A=1 H=x:y,z make && export H='q r'; H=\"d\" ls; XH=no; echo $H=no"
    assert assignments(["bash", "-lc", text], "H") == ["x:y,z", "q r", "d"]
    assert assignments(["make", "H=no"], "H") == []


def test_a_shown_command_carries_no_escape_sequences() -> None:
    assert display(["bash", "-c", "echo \x1b]0;owned\x07\nls"]).isprintable()


@given(st.lists(st.text(max_size=40), min_size=1, max_size=5))
def test_no_command_line_breaks_the_analysis(argv: list[str]) -> None:
    for words in simple_commands(argv):
        assert words
    assert len(display(argv, 20)) <= 20


@given(st.text(alphabet="ab '\"\\$(){};&|<>\n`", max_size=60))
def test_no_shell_text_breaks_the_analysis(text: str) -> None:
    for words in simple_commands(["bash", "-c", text]):
        assert words
