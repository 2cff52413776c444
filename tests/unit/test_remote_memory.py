"""Reading what may hang: FIFOs that nobody writes to stand for a process's memory that can't be fetched."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentcgroup import remote_memory
from agentcgroup.remote_memory import owner


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_memory, "PATIENCE_S", 0.05)
    monkeypatch.setattr(remote_memory, "SHORT_S", 0.05)
    monkeypatch.setattr(remote_memory, "_late", [])
    monkeypatch.setattr(remote_memory, "owner", lambda pid: 1000 if pid < 100 else 1001)


@pytest.fixture
def hangs(tmp_path: Path) -> Iterator[str]:
    """A path whose opening hangs until the test is over."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    yield str(fifo)
    for _ in range(100):
        if not remote_memory.given_up():
            break
        os.close(os.open(fifo, os.O_RDWR))
        for one in remote_memory._late:
            one.thread.join(0.1)


def test_what_hangs_is_given_up_and_others_are_read_as_before(hangs: str, tmp_path: Path) -> None:
    (tmp_path / "line").write_bytes(b"sleep\0")
    assert remote_memory.read_for(7, hangs, 100) is None
    assert remote_memory.given_up() == 1
    assert remote_memory.read_for(7, str(tmp_path / "line"), 100) is None  # not once more
    assert remote_memory.read_for(8, str(tmp_path / "line"), 100) == b"sleep\0"


def test_a_user_whose_processes_hang_is_read_no_more_and_other_users_are(hangs: str, tmp_path: Path) -> None:
    (tmp_path / "line").write_bytes(b"x")
    for pid in range(remote_memory.MOST_GIVEN_UP):
        assert remote_memory.read_for(pid, hangs, 100) is None
    assert remote_memory.read_for(50, str(tmp_path / "line"), 100) is None
    assert remote_memory.read_for(150, str(tmp_path / "line"), 100) == b"x"


def test_after_a_fork_there_is_a_reader_again() -> None:
    assert remote_memory.read(os.getpid(), "cmdline")
    child = os.fork()
    if not child:
        os._exit(0 if remote_memory.read(os.getpid(), "cmdline") else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_whose_a_process_is_shows_where_its_files_in_proc_are_roots() -> None:
    undumpable = "import ctypes; ctypes.CDLL(None).prctl(4, 0); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", undumpable], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert owner(child.pid) == os.getuid()
        child.kill()
    assert owner(2**22 + 5) is None
