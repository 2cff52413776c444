"""What is written to the streams of other processes: it arrives, or it is given up; who owns them makes nobody wait."""

import asyncio
import contextlib
import os
import pty
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agentcgroup import remote_memory, streams

HOLDER = [sys.executable, "-c", "import time; time.sleep(60)"]


@contextlib.contextmanager
def holder(stderr: int) -> Iterator[tuple[int, int]]:
    """A process that has this stderr: its pid and a pidfd."""
    with subprocess.Popen(HOLDER, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr) as child:
        pidfd = os.pidfd_open(child.pid)
        try:
            yield child.pid, pidfd
        finally:
            os.close(pidfd)
            child.kill()


def told(stderr: int, data: bytes = b"text\n", patience_s: float = 0.3) -> bool:
    with holder(stderr) as (pid, pidfd):
        one = streams.stream(pid, 2)
        assert one is not None
        return asyncio.run(streams.write(one, pidfd, data, time.monotonic() + patience_s))


def fill(descriptor: int) -> None:
    """Fill it up to the last byte that fits; a terminal passes on what it has a moment later, and takes more then."""
    os.set_blocking(descriptor, False)
    refused = 0
    while refused < 20:
        try:
            while os.write(descriptor, b"x" * (4096 if not refused else 1)):
                refused = 0
        except BlockingIOError:
            refused += 1
            time.sleep(0.01)
    os.set_blocking(descriptor, True)


def test_a_file_is_appended_to_where_its_owner_writes(tmp_path: Path) -> None:
    file = tmp_path / "log"
    with open(file, "wb") as opened:
        os.write(opened.fileno(), b"first ")
        assert told(opened.fileno(), b"second ")
        os.write(opened.fileno(), b"third")
    assert file.read_bytes() == b"first second third"


def test_pipes_terminals_sockets_and_fifos_get_it_and_full_ones_are_given_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    fifo = os.open(tmp_path / "fifo", os.O_RDWR)
    pipe_out, pipe_in = os.pipe()
    terminal, slave = pty.openpty()
    one, two = socket.socketpair()
    for ours, theirs in ((pipe_out, pipe_in), (terminal, slave), (two.fileno(), one.fileno()), (fifo, fifo)):
        assert told(theirs)
        assert os.read(ours, 100).replace(b"\r", b"") == b"text\n"
        fill(theirs)
        assert not told(theirs)
        if ours != fifo:
            os.close(ours)
    for descriptor in (pipe_in, slave, fifo):
        os.close(descriptor)
    one.close()
    two.detach()


def test_what_takes_one_byte_only_is_not_waited_for() -> None:
    terminal, slave = pty.openpty()
    fill(slave)
    os.read(terminal, 1)
    assert not told(slave, b"x" * 4096)  # a blocking write would wait for ever
    os.close(terminal)
    os.close(slave)


def test_what_takes_a_little_at_a_time_gets_all_of_it() -> None:
    one, two = socket.socketpair()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    text = b"x" * 100_000
    with ThreadPoolExecutor() as pool:
        reader = pool.submit(lambda: sum(iter(lambda: len(two.recv(4096)), 0)))
        assert told(one.fileno(), text, patience_s=60)
        one.close()
        assert reader.result() == len(text)
    two.close()


def test_an_overlay_is_a_local_file_system_only_where_root_alone_mounts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(streams, "_file_system", lambda one: "overlay")
    with open(tmp_path / "file", "wb") as opened, holder(opened.fileno()) as (pid, _):
        one = streams.stream(pid, 2)
        assert one is not None
        assert streams._kind(one) == "file"
        with subprocess.Popen(["unshare", "--user", "sh", "-c", "echo in; exec sleep 60"], stdout=subprocess.PIPE) as elsewhere:
            assert elsewhere.stdout is not None
            if elsewhere.stdout.readline() != b"in\n":
                pytest.skip("user namespaces are not allowed here")
            assert streams._kind(streams.Stream(elsewhere.pid, 2, one.leads_to)) == "other"
            elsewhere.kill()


def test_one_users_hanging_streams_take_nothing_from_another_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(streams, "_is_local_file", lambda one: False)

    async def tell(user: int) -> bool:
        monkeypatch.setattr(remote_memory, "owner", lambda pid: user)
        with open(tmp_path / "far", "wb") as opened, holder(opened.fileno()) as (pid, pidfd):
            one = streams.stream(pid, 2)
            assert one is not None
            hangs = {asyncio.create_task(asyncio.sleep(0)): 1000 for _ in range(streams.MOST_GIVEN_UP)}
            monkeypatch.setattr(streams, "_given_up", hangs)
            return await streams.write(one, pidfd, b"text", time.monotonic() + 60)

    assert not asyncio.run(tell(1000))
    assert asyncio.run(tell(1001))


@pytest.mark.parametrize("name", ["/dev/null", "/dev/pts/7", "/dev/tty"])
def test_what_is_mounted_over_a_devices_name_is_no_device(name: str) -> None:
    with open("/proc/self/status") as other, holder(other.fileno()) as (pid, _):
        assert streams._kind(streams.Stream(pid, 2, name)) == "other"


def test_null_is_a_device() -> None:
    with open(os.devnull, "wb") as null, holder(null.fileno()) as (pid, _):
        assert streams._kind(streams.Stream(pid, 2, os.devnull)) == "device"
    with open(os.devnull, "wb") as null:
        assert told(null.fileno())


def test_an_eventfd_is_no_stream_for_text() -> None:
    descriptor = os.eventfd(0)
    assert not told(descriptor, b"12345678")
    os.close(descriptor)


def test_what_may_hang_is_written_by_a_process_that_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(streams, "_is_local_file", lambda one: False)
    with open(tmp_path / "far", "wb") as opened:
        assert told(opened.fileno(), b"text", patience_s=30)
    assert (tmp_path / "far").read_bytes() == b"text"
    os.mkfifo(tmp_path / "hangs")
    hangs = os.open(tmp_path / "hangs", os.O_RDWR)
    fill(hangs)

    async def twice() -> None:
        with holder(hangs) as (pid, pidfd):
            one = streams.stream(pid, 2)
            assert one is not None
            assert not await streams.write(one, pidfd, b"x" * 4096, time.monotonic() + 0.5)
            while streams.given_up():
                await asyncio.sleep(0.01)  # it was killed, and is gone

    asyncio.run(twice())
    os.close(hangs)


def test_a_descriptor_that_was_changed_meanwhile_is_left_alone(tmp_path: Path) -> None:
    with open(tmp_path / "now", "wb") as opened, holder(opened.fileno()) as (pid, pidfd):
        before = streams.Stream(pid, 2, "pipe:[1]")
        assert not asyncio.run(streams.write(before, pidfd, b"text", time.monotonic() + 1))
    assert (tmp_path / "now").read_bytes() == b""


def test_the_pipes_that_a_process_reads_are_known() -> None:
    reads, writes = os.pipe()
    with subprocess.Popen(HOLDER, stdin=reads, stdout=writes) as child:
        assert streams.is_read_by(child.pid) == {os.readlink(f"/proc/self/fd/{reads}")}
        child.kill()
    os.close(reads)
    os.close(writes)


def test_a_process_that_is_gone_has_no_streams() -> None:
    assert streams.stream(2**22 + 5, 2) is None
    assert streams.is_read_by(2**22 + 5) == set()
