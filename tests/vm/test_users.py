"""Users without rights and the daemon: what they get, what they do not, and what they can not break."""

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from agentcgroup.history import store
from agentcgroup.session.places import session_cgroup
from tests.vm.daemon import Kept, as_user, daemon, history, status, until
from tests.vm.harness import AGENTS, TRIES, command

pytestmark = pytest.mark.one_kernel

SCHEDULER = Path("/sys/kernel/sched_ext/state")


def ask_as(user: str, session: str, **request: Any) -> str:
    """What a session answers a user, as text."""
    text = f"from agentcgroup.service import status; print(status.ask({session!r}, **{request!r}))"
    words = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", sys.executable, "-c", text]
    return subprocess.run(words, capture_output=True, text=True, check=True, cwd="/").stdout


LIMITED = "version: 1\nusers: {sessions: 2, memory: 1G, priority: normal}\n"


def test_a_user_without_rights_runs_an_agent_through_the_daemon(users: tuple[str, str], tmp_path: Path) -> None:
    alice, mallory = users
    (tmp_path / "policy.yaml").write_text(LIMITED)
    with daemon(tmp_path, "--policy", str(tmp_path / "policy.yaml")):
        go = Path(f"/tmp/go-{tmp_path.name}")
        agent = ["sh", "-c", f"x=$(sh -c 'until [ -e {go} ]; do sleep 0.2; done; id -un'); echo $x; exit 3"]
        words = as_user(alice, "run", "--name", "hers", "--memory", "600M", "--", *agent)
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/") as run:
            until("her call", lambda: status("hers").get("calls"))
            for user, names in ((alice, ["hers"]), (mallory, [])):
                seen = subprocess.run(
                    as_user(user, "status", "--json"), capture_output=True, text=True, check=True, cwd="/"
                ).stdout
                assert [one["session"] for one in json.loads(seen)] == names
            assert "another's" in ask_as(mallory, "hers", op="priority", priority="low")
            assert "users may have normal at most" in ask_as(alice, "hers", op="priority", priority="high")
            assert "done" in ask_as(alice, "hers", op="priority", priority="low")
            until("her new priority", lambda: status("hers")["priority"] == "low")
            until("its weight", lambda: (session_cgroup("hers") / "cpu.weight").read_text() == "25\n")
            go.touch()
            out, err = run.communicate(timeout=240)
        assert (run.returncode, out) == (3, "alice\n")
        assert "session hers: 1 tool call" in err
        assert [call["exit_status"] for call in history("hers")] == [0]
        for user, hers in ((alice, True), (mallory, False)):
            past = subprocess.run(as_user(user, "history", "--json"), capture_output=True, text=True, check=True, cwd="/").stdout
            # Other tests' sessions of alice are in her past too.
            assert ("hers" in {one["session"] for one in json.loads(past)}) == hers
            for what, code in (("hers", 0 if hers else 2), ("hers/999", 2)):
                told = subprocess.run(as_user(user, "explain", what), capture_output=True, text=True, cwd="/")
                assert told.returncode == code, told.stderr
        for options, expected in ((["--memory", "2G"], "is left for user"), (["--priority", "high"], "--priority high refused")):
            refused = subprocess.run(as_user(alice, "run", *options, "--", "true"), capture_output=True, text=True, cwd="/")
            assert refused.returncode == 2
            assert expected in refused.stderr
        refused = subprocess.run(as_user(alice, "run", "--", "/no/such"), capture_output=True, text=True, cwd="/")
        assert refused.returncode == 127
    without = subprocess.run(as_user(alice, "run", "--", "true"), capture_output=True, text=True, cwd="/")
    assert without.returncode == 2
    assert "run needs root, or the daemon" in without.stderr


def test_a_users_session_survives_the_daemon_and_is_taken_up(users: tuple[str, str], tmp_path: Path) -> None:
    go = Path(f"/tmp/go-{tmp_path.name}")
    agent = [
        "sh",
        "-c",
        f"x=$(sh -c 'until [ -e {go} ]; do sleep 0.2; done; echo one'); y=$(sh -c 'sleep 1; echo two'); echo $x $y",
    ]
    with daemon(tmp_path) as first:
        run = subprocess.Popen(
            as_user(users[0], "run", "--name", "long", "--", *agent), stdout=subprocess.PIPE, text=True, cwd="/"
        )
        call = until("the call", lambda: status("long").get("calls"))[0]
        first.send_signal(signal.SIGKILL)
        first.wait()
    with daemon(tmp_path):
        again = until("the call again", lambda: status("long").get("calls"))[0]
        assert (again["call"], again["pid"]) == (call["call"], call["pid"])
        go.touch()
        assert run.communicate(timeout=240)[0] == "one two\n"
        until("the end of both calls", lambda: [row["duration_s"] is not None for row in history("long")] == [True, True])
    assert [(row["call"], row["exit_status"]) for row in history("long")] == [(1, 0), (2, 0)]


def test_a_session_that_ends_while_no_daemon_is_there_is_written_down_by_the_next(users: tuple[str, str], tmp_path: Path) -> None:
    go, kept = Path(f"/tmp/go-{tmp_path.name}"), Kept()
    agent = [
        "sh",
        "-c",
        f"x=$(sh -c 'until [ -e {go} ]; do sleep 0.2; done'); y=$(sh -c 'sleep 1; exit 2'); sh -c 'exit 3'; exit 4",
    ]
    with daemon(tmp_path, kept=kept) as first:
        words = as_user(users[0], "run", "--name", "alone", "--", *agent)
        run = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, cwd="/")
        until("the call", lambda: status("alone").get("calls"))
        first.send_signal(signal.SIGKILL)
        first.wait()
    go.touch()
    _, err = run.communicate(timeout=240)
    assert run.returncode == 4
    assert "the daemon ended while session alone ran" in err
    # Whoever looks after stale sessions meanwhile leaves it to the next daemon.
    subprocess.run([sys.executable, "-m", "agentcgroup", "cleanup"], check=True)
    with daemon(tmp_path, kept=kept):
        until("the session's end", lambda: not session_cgroup("alone").exists())
        until("its calls", lambda: len(history("alone")) == 3)
    assert [(row["exit_status"], row["duration_s"] is not None) for row in history("alone")] == [
        (0, True), (2 << 8, True), (3 << 8, True)
    ]  # fmt: skip
    with store.reading(store.FILE) as past:
        assert [one["exit_status"] for one in store.sessions(past, "alone")] == [4 << 8]
    kept.close()


def test_what_a_call_does_to_its_streams_its_environment_and_its_hints_stops_nobody(
    users: tuple[str, str], tmp_path: Path
) -> None:
    """Of an unprivileged user, through the daemon: it answers all the while, and every call is known."""
    big = "import os; os.environ.update({f'V{n}': 'x' * 100_000 for n in range(60)}); os.execvp('sleep', ['sleep', '1'])"
    calls = [
        "exec 2>&-; sleep 1; exit 1",
        "exec 2>/dev/null; exec 1>&2; sleep 1; exit 2",
        f'exec {sys.executable} -c "{big}"',
        "AGENT_RESOURCE_HINT=memory:999999T,cpu:-1,time:never sh -c 'sleep 1; exit 4'",
        "for f in /sys/fs/cgroup/agentcgroup.slice/*/tools/*/memory.max; do echo max >$f; done; sleep 1; exit 5",
        "mkfifo /tmp/full$$; exec 3<>/tmp/full$$; exec 2>&3; yes >&3 & sleep 1; kill $!; rm /tmp/full$$; exit 6",
        "(sleep 30 & sleep 30 &) ; sleep 1; exit 7",
    ]
    agent = "".join(f"x=$(sh -c {shlex.quote(call)} 2>&1 | tail -c 100); " for call in calls)
    with daemon(tmp_path):
        words = as_user(users[0], "run", "--name", "rude", "--memory", "400M", "--", "sh", "-c", agent)
        with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, cwd="/") as run:
            until("its session", lambda: status("rude"))
            answered = 0
            while run.poll() is None:
                answered += bool(status("rude"))
                time.sleep(0.1)
            assert run.returncode == 0
        assert answered > 10
        known = {row["exit_status"] for row in until("its calls", lambda: history("rude"))}
        assert {number << 8 for number in (1, 2, 4, 5, 6, 7)} <= known


def test_nothing_that_is_said_to_the_socket_harms_the_daemon(users: tuple[str, str], tmp_path: Path) -> None:
    with daemon(tmp_path) as one:
        until("its enforcer", lambda: SCHEDULER.read_text().strip() == "enabled")
        before = len(list(Path(f"/proc/{one.pid}/fd").iterdir()))
        words = [
            "setpriv",
            f"--reuid={users[1]}",
            f"--regid={users[1]}",
            "--clear-groups",
            sys.executable,
            str(AGENTS / "liar.py"),
            str(100 * TRIES or 500),
        ]
        subprocess.run(words, check=True, cwd="/")
        assert one.poll() is None
        assert len(list(Path(f"/proc/{one.pid}/fd").iterdir())) < before + 5
        done = subprocess.run(command("--name", "after", agent=["true"]), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_files_that_a_users_ended_sessions_left_in_memory_count_against_it(users: tuple[str, str], tmp_path: Path) -> None:
    alice = users[0]
    (tmp_path / "policy.yaml").write_text(LIMITED)
    file = Path(f"/dev/shm/left-{tmp_path.name}")

    def run(*options: str, agent: str) -> subprocess.CompletedProcess[str]:
        words = as_user(alice, "run", *options, "--", "sh", "-c", agent)
        return subprocess.run(words, capture_output=True, text=True, cwd="/")

    with daemon(tmp_path, "--policy", str(tmp_path / "policy.yaml")):
        try:
            writes = f"x=$(sh -c 'head -c 300M /dev/zero >{file}; true')"
            done = run("--name", "left", "--memory", "900M", agent=writes)
            assert f"stay until they are removed: {file} 300M" in " ".join(done.stderr.split())
            (left,) = (deed["what"] for call in history("left") for deed in call["deeds"])
            # What was written before the call was in its leaf is its agent's.
            assert int(re.findall(r"left (\d+)M in memory", left)[0]) > 100
            refused = run("--memory", "900M", agent="true")
            assert refused.returncode == 2
            assert "300M is taken by files in memory" in refused.stderr
        finally:
            file.unlink(missing_ok=True)
        assert run("--memory", "900M", agent="true").returncode == 0
