"""To whom of a call's processes something is said."""

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from agentcgroup import cgroup
from agentcgroup.control_events import Notice
from agentcgroup.session import voice
from agentcgroup.session.voice import _voices, stop_call


def leaf_of(folder: Path, *pids: int) -> Path:
    """A folder that stands for a call's leaf."""
    (folder / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))
    return folder


def test_what_leads_out_of_the_call_comes_before_what_one_of_its_own_processes_reads(tmp_path: Path) -> None:
    text = "exec > >(tee /dev/null) 2>&1; echo ready; exec sleep 60"
    with subprocess.Popen(["bash", "-c", text], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as shell:
        assert shell.stdout is not None
        assert shell.stdout.readline() == "ready\n"
        (tee,) = map(int, subprocess.run(["pgrep", "-P", str(shell.pid), "tee"], capture_output=True, text=True).stdout.split())
        outside = os.readlink(f"/proc/self/fd/{shell.stdout.fileno()}")
        found = _voices(shell.pid, leaf_of(tmp_path, shell.pid, tee), discarded_too=False)
        assert found[0].leads_to == outside
        shell.kill()


def test_the_root_comes_first_and_one_that_has_ended_is_not_asked(tmp_path: Path) -> None:
    with (
        subprocess.Popen(["sleep", "60"], stdout=subprocess.PIPE) as one,
        subprocess.Popen(["sleep", "60"], stdout=subprocess.PIPE) as two,
    ):
        leaf = leaf_of(tmp_path, one.pid, two.pid)
        assert _voices(two.pid, leaf, True)[0].pid == two.pid
        assert {stream.pid for stream in _voices(2**22 + 5, leaf, True)} == {one.pid, two.pid}
        one.kill()
        two.kill()


NOTICE = Notice("memory", True, "default", 100 << 20, 50 << 20)


def stop(pid: int, leaf: Path | None, began_s: float) -> bool:
    return asyncio.run(stop_call(pid, leaf, began_s, NOTICE))


def test_a_younger_process_that_has_the_roots_number_is_neither_told_nor_killed() -> None:
    before_s = time.monotonic() - 60
    with subprocess.Popen(["sleep", "60"], stderr=subprocess.PIPE) as other:
        assert not stop(other.pid, None, before_s)
        assert other.poll() is None
        assert stop(other.pid, None, time.monotonic())
        assert other.wait() == -signal.SIGKILL
        assert other.stderr is not None
        assert b"this command was stopped" in other.stderr.read()


def test_a_stream_that_is_full_leaves_time_for_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voice, "PATIENCE_S", 5)
    reads, writes = os.pipe()
    os.set_blocking(writes, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writes, b"x" * 4096)
    with subprocess.Popen(["sleep", "60"], stderr=writes, stdout=subprocess.PIPE) as child:
        assert stop(child.pid, None, time.monotonic())
        assert child.stdout is not None
        assert b"this command was stopped" in child.stdout.read()
    os.close(reads)
    os.close(writes)


def test_a_call_that_cannot_be_frozen_is_killed_and_that_is_said_and_one_that_is_gone_is_not(tmp_path: Path) -> None:
    leaf = leaf_of(tmp_path)
    (leaf / "cgroup.kill").touch()
    (leaf / "cgroup.freeze").mkdir()  # writing to it fails, and not because the leaf is gone
    with pytest.raises(cgroup.CgroupError, match=r"cgroup\.freeze"):
        stop(2**22 + 5, leaf, time.monotonic())
    assert (leaf / "cgroup.kill").read_text() == "1"
    assert not stop(2**22 + 5, tmp_path / "gone", time.monotonic())
