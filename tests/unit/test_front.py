"""The process in front of an agent: a command behind ``run`` behaves as it does alone.  With real processes, and nobody who governs."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import get_type_hints

import pytest

from agentcgroup.session import options
from agentcgroup.session.options import Options
from agentcgroup.session.start import free_name, refuses_to_run, report_path

FRONT = [sys.executable, "-m", "tests.agents.fronted"]


def shell(text: str, **kwargs: object) -> subprocess.CompletedProcess[str]:
    """Run a shell's text in which $RUN stands for what comes before an agent's command."""
    environment = {**os.environ, "RUN": shlex.join(FRONT)}
    return subprocess.run(["bash", "-c", text], capture_output=True, text=True, env=environment, timeout=60, **kwargs)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize("where", ["", "2>&-", "2>/dev/full", ">&- 2>&-", "<&- >&- 2>&-", ">/dev/full", "2>/dev/full >/dev/full"])
def test_the_exit_code_is_the_agents_wherever_our_own_words_go(where: str) -> None:
    assert shell(f"$RUN sh -c 'exit 7' {where}").returncode == 7


def test_a_reader_of_our_words_that_is_gone_changes_nothing() -> None:
    done = shell("$RUN sh -c 'sleep 0.2; exit 7' 2>&1 | true; echo ${PIPESTATUS[0]}; $RUN sh -c 'exit 7' 2> >(true); echo $?")
    assert done.stdout.split() == ["7", "7"]


def test_streams_that_are_closed_are_closed_for_the_agent_too() -> None:
    done = shell(
        "$RUN sh -c 'ls /proc/self/fd | head -3 >&3' 3>&1 <&- 2>&-; sh -c 'ls /proc/self/fd | head -3 >&3' 3>&1 <&- 2>&-"
    )
    one, other = done.stdout[: len(done.stdout) // 2], done.stdout[len(done.stdout) // 2 :]
    assert one == other


SIGNALS = "HUP INT QUIT PIPE TERM USR1 CHLD TSTP TTIN TTOU WINCH XFSZ"


@pytest.mark.parametrize("ignored", ["INT", "PIPE", "XFSZ", "HUP", "CHLD", "TERM TSTP", SIGNALS, ""])
def test_signals_that_were_ignored_are_ignored_by_the_agent_and_no_others(ignored: str) -> None:
    trap = f"trap '' {ignored}; " if ignored else ""
    look = "grep -E '^Sig(Ign|Blk)' /proc/self/status"
    alone, behind = shell(f"{trap}{look}; exit $?"), shell(f"{trap}$RUN {look}; exit $?")
    assert behind.returncode == 0, behind.stderr
    assert behind.stdout == alone.stdout
    assert ("0000000000000000" in alone.stdout.splitlines()[1]) == (not ignored)


def test_signals_that_were_blocked_are_blocked_for_the_agent() -> None:
    def block() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD})

    words = ["grep", "SigBlk", "/proc/self/status"]
    alone, behind = (
        subprocess.run([*before, *words], preexec_fn=block, capture_output=True, text=True) for before in ([], FRONT)
    )
    assert behind.stdout == alone.stdout
    assert alone.stdout.split()[1].strip("0")


def test_a_parent_that_resets_what_it_ignores_itself_gives_the_agent_the_usual_signals() -> None:
    """Python ignores SIGPIPE and, in a child, does not."""
    done = subprocess.run([*FRONT, "grep", "SigIgn", "/proc/self/status"], capture_output=True, text=True)
    assert done.stdout.split()[1] == "0" * 16


def test_the_agents_environment_is_the_one_that_we_got() -> None:
    bare = ["env", "-i", f"PATH={os.environ['PATH']}"]
    alone, behind = (subprocess.run([*bare, *before, "env"], capture_output=True) for before in ([], FRONT))
    assert sorted(behind.stdout.splitlines()) == sorted(alone.stdout.splitlines())


def test_a_signal_is_passed_on_while_the_summary_is_prepared(tmp_path: Path) -> None:
    agent = f"trap 'touch {tmp_path}/told; exit 9' TERM; touch {tmp_path}/ready; while :; do sleep 0.02; done"
    front = subprocess.Popen(
        [*FRONT, "sh", "-c", agent], env={**os.environ, "IMPORTS_WAIT_FOR": str(tmp_path / "go")}, stderr=subprocess.PIPE
    )
    try:
        _until((tmp_path / "ready").exists)
        front.terminate()
        _until((tmp_path / "told").exists)
    finally:
        (tmp_path / "go").touch()
        _, said = front.communicate(timeout=60)
    assert front.returncode == 9
    assert b"agentcgroup: session s" in said


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGPIPE])
def test_an_agent_that_a_signal_ends_ends_its_front_so(number: int) -> None:
    done = subprocess.run([*FRONT, "sh", "-c", f"kill -{number} $$"], capture_output=True)
    assert done.returncode == -number


def test_plain_options_are_read_without_the_big_parser_and_the_rest_is_left_to_it() -> None:
    assert options.parse(["--name", "x", "--memory=2G", "--cpu-weight", "7", "--", "ls", "--", "-l"]) == Options(
        ("ls", "--", "-l"), name="x", memory="2G", cpu_weight=7
    )
    assert options.parse(["ls", "--name", "x"]) == Options(("ls", "--name", "x"))
    for words in (
        [], ["--"], ["--help"], ["-h"], ["--name"], ["--nam", "x", "ls"], ["--cpu-weight", "0", "ls"], ["--cpu_weight", "7", "ls"],
        ["--priority", "urgent", "ls"], ["--argv", "x", "ls"], ["--name", "--", "ls"], ["--events", "bpf"], ["-x", "ls"],
    ):  # fmt: skip
        assert options.parse(words) is None, words


def test_the_plain_options_are_those_of_the_command() -> None:
    from typer.main import get_command

    from agentcgroup.cli import app as app_module
    from agentcgroup.cli.commands import app

    run = get_command(app).commands["run"]  # type: ignore[attr-defined]
    assert {f"--{name.replace('_', '-')}" for name in Options._fields} - {"--argv"} == {
        word for parameter in run.params for word in parameter.opts
    }
    hints = [get_type_hints(one) for one in (app_module.run, Options)]
    for name, choices in options.CHOICES.items():
        for hint in hints:
            assert all(repr(choice) in repr(hint[name]) for choice in choices)


def test_what_cant_be_run_and_what_cant_be_written_is_known_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (refuses_to_run("/no/such"), refuses_to_run("/etc/passwd"), refuses_to_run("/tmp"), refuses_to_run("sh")) == (
        127,
        126,
        126,
        0,
    )
    assert report_path(str(tmp_path / "r.json")) == str(tmp_path / "r.json")
    assert free_name(("/bin/A+b ",)) == f"A-b-{os.getpid()}"
    assert free_name(("...",)) == f"session-{os.getpid()}"
