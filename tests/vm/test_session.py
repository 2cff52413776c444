"""Sessions: exit codes, signals, the terminal, names, and what is left when processes are killed."""

import json
import os
import pty
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agentcgroup import cgroup
from agentcgroup.session.places import SESSIONS
from tests.vm.harness import (
    SLICE,
    TRIES,
    assert_nothing_left,
    command,
    governor,
    kill_all,
    own_processes,
    session,
    until,
    wait_for,
)

pytestmark = pytest.mark.one_kernel


def test_the_exit_code_is_the_commands() -> None:
    expected = [
        (["sh", "-c", "exit 7"], 7, "agentcgroup: session"),
        (["sh", "-c", "kill -TERM $$"], -15, "agentcgroup: session"),
        (["/no/such/program"], 127, "command not found"),
        (["/etc/passwd"], 126, "not executable"),
    ]
    runs = [subprocess.Popen(command(agent=agent), stderr=subprocess.PIPE, text=True) for agent, _, _ in expected]
    for run, (_, code, words) in zip(runs, expected, strict=True):
        _, said = run.communicate(timeout=400)
        assert run.returncode == code
        assert words in said
    assert_nothing_left()


def test_a_user_who_is_not_root_is_told(tmp_path: Path) -> None:
    done = subprocess.run(command(agent=["true"]), capture_output=True, text=True, user="nobody")
    assert done.returncode == 2
    assert "run needs root" in done.stderr


def test_environment_directory_and_streams_are_the_callers(tmp_path: Path) -> None:
    done = session(
        tmp_path,
        agent=["sh", "-c", "pwd; echo $COLOUR; cat; echo err >&2"],
        cwd=tmp_path,
        env={**os.environ, "COLOUR": "red"},
        input="in\n",
    )
    assert done.stdout == f"{tmp_path}\nred\nin\n"
    assert done.stderr.startswith("err\n")


def test_two_sessions_side_by_side_do_not_know_each_other(tmp_path: Path) -> None:
    over = tmp_path / "over"
    agent = ["sh", "-c", f"until [ -e {over} ]; do sleep 0.3; done"]
    first = subprocess.Popen(command("--name", "one", "--memory", "512M", agent=agent), stderr=subprocess.DEVNULL)
    wait_for(SLICE / "agentcgroup-one.scope/agent")
    taken = subprocess.run(command("--name", "one", agent=["true"]), capture_output=True, text=True)
    assert (taken.returncode, "is taken" in taken.stderr) == (2, True)
    second = session(tmp_path, "--name", "two", "--memory", "300M", "--priority", "high", "--cpu-weight", "321",
                     agent=["sh", "-c", "cat /sys/fs/cgroup/agentcgroup.slice/agentcgroup-two.scope/{memory.max,cpu.weight}"])  # fmt: skip
    assert second.report["budget"]["session"] == 300 << 20
    over.touch()
    assert first.wait(240) == 0
    assert_nothing_left()


def test_limits_of_the_session_are_in_force(tmp_path: Path) -> None:
    scope = "/sys/fs/cgroup/agentcgroup.slice/agentcgroup-limits.scope"
    files = f"{scope}/memory.max {scope}/cpu.weight {scope}/agent/memory.max {scope}/agent/memory.low {scope}/tools/memory.high"
    done = session(tmp_path, "--name", "limits", "--memory", "512M", "--cpu-weight", "321", agent=["cat", *files.split()])
    budget = done.report["budget"]
    assert [int(line) for line in done.stdout.split()] == [
        512 << 20,
        321,
        budget["agent_max"],
        budget["agent_low"],
        budget["tools_high"],
    ]
    unit = subprocess.run(["systemctl", "show", "-p", "ActiveState", "agentcgroup-limits.scope"], capture_output=True, text=True)
    assert "inactive" in unit.stdout


@pytest.mark.one_kernel
def test_what_sessions_protect_lasts_when_systemd_reads_its_units_again(tmp_path: Path) -> None:
    look = """for _ in $(seq 100); do systemctl show -p MemoryLow agentcgroup.slice | grep -q '=[1-9]' && break; sleep 0.2; done
    systemctl daemon-reload; cat /sys/fs/cgroup/agentcgroup.slice/memory.low"""
    done = session(tmp_path, "--memory", "512M", agent=["sh", "-c", look])
    assert int(done.stdout) == done.report["budget"]["agent_low"]


def test_without_systemd_sessions_are_plain_cgroups(tmp_path: Path) -> None:
    """The same, in a mount namespace where systemd's mark is hidden."""
    hidden = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs none /run/systemd && exec "$@"', "sh"]
    report = tmp_path / "report.json"
    agent = [
        sys.executable,
        "-c",
        "import subprocess; subprocess.run('sleep 1', shell=True, capture_output=True, start_new_session=True)",
    ]
    done = subprocess.run([*hidden, *command("--report", str(report), agent=agent)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [call] = json.loads(report.read_text())["calls"]
    assert call["leaf"] == "tool-1"
    assert_nothing_left()


def test_a_signal_to_run_reaches_the_agent_once() -> None:
    numbers = [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGINT]
    agent = f"""
import signal, sys, time
def seen(number, _):
    print(number, flush=True)
for number in {[int(number) for number in numbers]}:
    signal.signal(number, seen)
print("ready", flush=True)
sys.stdin.read()
time.sleep(0.2)
sys.exit(41)
"""
    run = subprocess.Popen(
        command(agent=[sys.executable, "-c", agent]),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert run.stdout is not None
    assert run.stdout.readline() == "ready\n"
    for number in numbers:
        run.send_signal(number)
        assert run.stdout.readline() == f"{int(number)}\n"
    out, _ = run.communicate(timeout=240)
    assert (out, run.returncode) == ("", 41)


class Terminal:
    """A terminal with a shell in it, as a person has; it does not show control characters, which would get between the words."""

    def __init__(self) -> None:
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            os.execvp("bash", ["bash", "--norc", "--noprofile", "-i"])
        self.text = ""
        self.type("PS1='PROMPT> '; stty -echoctl\n")

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def expect(self, words: str, seconds: float = 240) -> None:
        os.set_blocking(self.master, False)
        deadline = time.monotonic() + seconds
        while words not in self.text:
            assert time.monotonic() < deadline, f"{words!r} not in {self.text!r}"
            try:
                self.text += os.read(self.master, 4096).decode(errors="replace")
            except BlockingIOError:
                time.sleep(0.02)
        self.text = self.text.split(words, 1)[1]

    def expect_job(self, seconds: float = 240) -> None:
        """The shell gives the terminal to a job."""
        deadline = time.monotonic() + seconds
        while os.tcgetpgrp(self.master) == self.pid:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_terminals_keys_reach_the_agent_as_if_run_were_not_there() -> None:
    agent = ("import signal, time, sys, os\\nseen = []\\nsignal.signal(2, lambda *_: (seen.append(1), print(chr(105)+chr(110)+chr(116), len(seen), flush=True)))\\n"
             "signal.signal(28, lambda *_: print(chr(119), os.get_terminal_size().columns, flush=True))\\nprint(chr(117)+chr(112), flush=True)\\n"
             "while len(seen) < 2: time.sleep(0.05)\\nsys.exit(5)")  # fmt: skip
    terminal = Terminal()
    terminal.type(f"{sys.executable} -m agentcgroup run -- {sys.executable} -c $'{agent}'\n")
    terminal.expect("up\r\n")
    terminal.type("\x03")
    terminal.expect("int 1\r\n")
    subprocess.run(
        ["python3", "-c", "import fcntl,struct,termios; fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack('HHHH', 30, 77, 0, 0))"],
        stdin=terminal.master,
    )
    terminal.expect("w 77\r\n")
    terminal.type("\x1a")
    terminal.expect("Stopped")
    terminal.type("echo still-$((40+2))\n")
    terminal.expect("still-42")
    terminal.type("fg\n")
    terminal.expect_job()
    terminal.type("\x03")
    terminal.expect("int 2\r\n")
    terminal.expect("agentcgroup: session")
    terminal.type("echo code-$?\n")
    terminal.expect("code-5")
    os.close(terminal.master)
    assert_nothing_left()


def test_ctrl_c_ends_an_agent_that_does_not_catch_it() -> None:
    terminal = Terminal()
    terminal.type(f"{sys.executable} -m agentcgroup run -- sh -c 'echo u''p; exec sleep 60'\n")
    terminal.expect("up\r\n")
    terminal.type("\x03")
    terminal.expect("agentcgroup: session")
    terminal.type("echo code-$?\n")
    terminal.expect("code-130")
    os.close(terminal.master)


def test_kill_9_of_run_leaves_nothing_frozen_and_nothing_leaked(tmp_path: Path, hog: str) -> None:
    chosen = random.Random(os.environ.get("AGENTCGROUP_SEED", "1"))
    agent = f"""
import subprocess
for number in range(4):
    subprocess.run("{hog} 300; sleep 0.1; setsid sleep 3 &", shell=True, capture_output=False, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
"""
    for number in range(TRIES or 4):
        # One in four times the governing process dies with it.
        both = number % 4 == 3
        run = subprocess.Popen(
            command("--memory", "256M", agent=[sys.executable, "-c", agent]), stderr=subprocess.DEVNULL, start_new_session=True
        )
        time.sleep(chosen.uniform(0.2, 9))
        if both:
            kill_all(own_processes(run.pid))
        run.kill()
        run.wait()
        deadline = time.monotonic() + 60
        while (frozen := _frozen()) and time.monotonic() < deadline:
            time.sleep(0.05)
        if not both:
            assert frozen == []
        subprocess.run([sys.executable, "-m", "agentcgroup", "cleanup", "--end"], check=True, capture_output=True)
        if both:
            assert _frozen() == []
            assert_nothing_left()
    deadline = time.monotonic() + 240
    while list(SLICE.glob("agentcgroup-*")) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert_nothing_left()


def test_the_session_outlives_a_killed_run_and_cleans_up_after_itself(tmp_path: Path) -> None:
    mark, report = tmp_path / "mark", tmp_path / "report.json"
    agent = f"import subprocess, time\ntime.sleep(3)\nsubprocess.run('sleep 1; cat /proc/self/cgroup > {mark}', shell=True, stdout=subprocess.PIPE, start_new_session=True)"
    run = subprocess.Popen(
        command("--name", "orphan", "--report", str(report), agent=[sys.executable, "-c", agent]), stderr=subprocess.DEVNULL
    )
    wait_for(SLICE / "agentcgroup-orphan.scope/tools")
    time.sleep(1)
    run.kill()
    run.wait()
    wait_for(report)
    assert "/tools/tool-1" in mark.read_text()
    assert json.loads(report.read_text())["calls"][0]["leaf"] == "tool-1"
    assert_nothing_left()


def test_when_the_governor_dies_the_agent_goes_on_unbraked_and_run_says_so(tmp_path: Path) -> None:
    over = tmp_path / "over"
    agent = ["sh", "-c", f"until [ -e {over} ]; do sleep 0.3; done; echo done"]
    run = subprocess.Popen(command("--name", "headless", agent=agent), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    place = SLICE / "agentcgroup-headless.scope"
    wait_for(place / "tools/tool-1")
    time.sleep(1)
    os.kill(governor(run.pid), signal.SIGKILL)
    # The kernel says that it has died when its BPF programs are gone, which takes a while under emulation.
    until(lambda: cgroup.read(place / "agent", "memory.max") == "max", "the agent is braked still")
    over.touch()
    out, err = run.communicate(timeout=240)
    assert (run.returncode, out) == (0, "done\n")
    assert "the governing process of this session died" in err
    assert "Traceback" not in err
    assert_nothing_left()


def test_cleanup_leaves_a_live_session_and_an_orphaned_agent_alone() -> None:
    run = subprocess.Popen(command("--name", "alive", agent=["sleep", "600"]), stderr=subprocess.DEVNULL)
    place = SLICE / "agentcgroup-alive.scope"
    wait_for(place / "tools/tool-1")
    quiet = subprocess.run([sys.executable, "-m", "agentcgroup", "cleanup"], capture_output=True, text=True, check=True)
    assert "nothing to clean up" in quiet.stderr
    kill_all(own_processes(run.pid))
    run.kill()
    run.wait()
    said = subprocess.run([sys.executable, "-m", "agentcgroup", "cleanup"], capture_output=True, text=True, check=True)
    assert "its agent still runs" in said.stderr
    assert cgroup.processes(place / "agent")
    assert cgroup.read(place / "agent", "memory.max") == "max"
    subprocess.run([sys.executable, "-m", "agentcgroup", "cleanup", "--end"], check=True, capture_output=True)
    assert_nothing_left()


def test_the_control_socket_serves_only_members_of_the_session(tmp_path: Path) -> None:
    import socket

    over = tmp_path / "over"
    agent = ["sh", "-c", f"until [ -e {over} ]; do sleep 0.3; done"]
    run = subprocess.Popen(command("--name", "guarded", agent=agent), stderr=subprocess.DEVNULL)
    place = SESSIONS / "guarded/control.sock"
    wait_for(place)
    for request, words in (
        (b'{"op": "call"}\n', "does not belong"),
        (b"{}\n", "not understood"),
        (b"\xff\n", ""),
        (b"x" * 9000, ""),
    ):
        with socket.socket(socket.AF_UNIX) as channel:
            channel.connect(str(place))
            channel.sendall(request)
            answer = channel.makefile().read()
        assert "error" in answer
        assert words in answer
    over.touch()
    assert run.wait(240) == 0


def test_doctor_finds_this_host_fit_and_names_what_is_missing() -> None:
    done = subprocess.run([sys.executable, "-m", "agentcgroup", "doctor", "--json"], capture_output=True, text=True)
    found = {one["feature"]: one for one in json.loads(done.stdout)["findings"]}
    assert done.returncode == 0
    assert found["systemd delegation"]["ok"]
    assert found["sched_ext"]["ok"] == Path("/sys/kernel/sched_ext").exists()
    assert all(one["do"] for one in found.values() if not one["ok"])


def _frozen() -> list[Path]:
    frozen = []
    for part in SLICE.rglob("cgroup.freeze"):
        try:
            if part.read_text().strip() == "1" and cgroup.populated(part.parent):
                frozen.append(part.parent)
        except OSError:
            continue
    return frozen
