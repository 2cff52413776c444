"""Facts about processes, on this machine's own kernel."""

import os
import pty
import signal
import socket
import subprocess
import sys
import tempfile
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


def test_a_taken_descriptor_appends_where_its_owner_writes() -> None:
    with tempfile.TemporaryFile("w+") as file:
        child = subprocess.Popen([sys.executable, "-c", "import sys, time; sys.stderr.write('first '); sys.stderr.flush(); print('x', flush=True); time.sleep(5)"],
                                 stdout=subprocess.PIPE, stderr=file)  # fmt: skip
        assert child.stdout is not None
        child.stdout.readline()
        taken = process.take_descriptor(child.pid, 2)
        assert taken is not None
        assert process.write_without_waiting(taken, b"second", 0)
        os.close(taken)
        child.kill()
        child.wait()
        child.stdout.close()
        file.seek(0)
        assert file.read() == "first second"


def test_a_full_pipe_and_a_full_socket_are_not_waited_for() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        while True:
            os.write(writing, b"x" * 65536)
    except BlockingIOError:
        pass
    os.set_blocking(writing, True)
    assert not process.write_without_waiting(writing, b"text", 0.01)
    os.read(reading, 65536)
    assert process.write_without_waiting(writing, b"text", 0.01)
    one, two = socket.socketpair()
    assert process.write_without_waiting(one.fileno(), b"text", 0.01)
    assert two.recv(10) == b"text"
    two.close()
    assert not process.write_without_waiting(one.fileno(), b"text", 0.01)
    one.close()


def test_discarded_output_is_recognised() -> None:
    with open(os.devnull, "w") as null:
        assert process.is_discarded(null.fileno())
    ours, theirs = pty.openpty()
    assert not process.is_discarded(theirs)
    os.close(ours)
    os.close(theirs)


@pytest.mark.parametrize("pid", [2**22 + 5])
def test_a_process_that_is_not_there_gives_nothing(pid: int) -> None:
    assert process.take_descriptor(pid, 2) is None
    assert process.variables(pid, "A") == {}
    process.prefer_as_victim(pid, 1000)
    process.signal_all([pid], signal.SIGTERM)
