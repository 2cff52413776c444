"""A standard stream of another process, written to without ever waiting for who owns it.

What a stream is, /proc says without asking a file system.  Pipes, FIFOs and terminals are opened again without waiting, sockets can be
told not to wait, and files on local file systems take what is written (an overlay of a user namespace is none: what is below it
may be anything).  Everything else (FUSE, NFS, devices) may hang in a write, and
even in a close: a process of its own does it, which is given up when the time is over.
"""

import asyncio
import contextlib
import ctypes
import errno
import os
import re
import socket
import stat
import sys
import threading
import time
from dataclasses import dataclass
from itertools import islice

from agentcgroup import remote_memory

DISCARDED = "/dev/null"
MOST_GIVEN_UP = 8
"""Processes that hang in a write at a time, for streams of one user; where there are so many, nothing more is risked for that user."""
_AGAIN_S = 0.02
_PIDFD_GETFD = 438
_LOCAL = frozenset(
    {
        "ext2",
        "ext3",
        "ext4",
        "xfs",
        "btrfs",
        "f2fs",
        "tmpfs",
        "devtmpfs",
        "ramfs",
        "zfs",
        "bcachefs",
        "jfs",
        "reiserfs",
        "vfat",
    }
)
_DEVICES = frozenset({"devtmpfs", "devpts", "tmpfs"})
_TERMINAL = re.compile(r"/dev/(pts/\d+|tty\w*|console)( \(deleted\))?")
_libc = ctypes.CDLL(None, use_errno=True)
_given_up: dict[asyncio.Task[None], int] = {}
"""What waits for the end of each writer, and whose stream that has."""


@dataclass(frozen=True, slots=True)
class Stream:
    """A descriptor of a process, and what it leads to, as /proc names it (``pipe:[17]``, ``/dev/pts/2``)."""

    pid: int
    number: int
    leads_to: str


def stream(pid: int, number: int) -> Stream | None:
    """A process's descriptor; None where it is closed, or the process is gone."""
    try:
        return Stream(pid, number, os.readlink(f"/proc/{pid}/fd/{number}"))
    except OSError:
        return None


def is_read_by(pid: int, most: int = 64) -> set[str]:
    """The pipes that a process reads."""
    found = set()
    with contextlib.suppress(OSError):
        for name in islice((entry.name for entry in os.scandir(f"/proc/{pid}/fd")), most):
            with contextlib.suppress(OSError):
                if (where := os.readlink(f"/proc/{pid}/fd/{name}")).startswith("pipe:") and not _flags(pid, name) & os.O_ACCMODE:
                    found.add(where)
    return found


async def write(one: Stream, pidfd: int, data: bytes, deadline: float) -> bool:
    """Write to the stream of the process that ``pidfd`` is, until ``deadline`` (CLOCK_MONOTONIC, seconds); False when not all went."""
    kind = _kind(one)
    if kind == "other" and one.leads_to.startswith("anon_inode:"):
        return False  # an eventfd or the like: nobody reads text there
    if kind == "other":
        return await _write_elsewhere(one, pidfd, data, deadline)
    taken = _take(pidfd, one.number)
    if taken is None:
        return False
    try:
        if os.readlink(f"/proc/self/fd/{taken}") != one.leads_to:
            return False  # it was changed meanwhile, perhaps to something that hangs
        while True:
            data = data[_write_now(kind, taken, data) :]
            if not data:
                return True
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(_AGAIN_S)
    except OSError:
        return False
    finally:
        if os.readlink(f"/proc/self/fd/{taken}") == one.leads_to:
            os.close(taken)
        else:  # closing may hang
            threading.Thread(target=os.close, args=(taken,), daemon=True).start()


def _write_now(kind: str, taken: int, data: bytes) -> int:
    """Try once; returns how many bytes went.  Raises OSError where it will never be possible."""
    try:
        if kind == "socket":
            with socket.socket(fileno=os.dup(taken)) as duplicate:
                return duplicate.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        if kind == "file" and not stat.S_ISFIFO(mode := os.fstat(taken).st_mode):
            if not stat.S_ISREG(mode):
                raise OSError(errno.EINVAL, "no file any more")
            return os.write(taken, data)
        again = os.open(f"/proc/self/fd/{taken}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            return os.write(again, data)
        finally:
            os.close(again)
    except BlockingIOError:
        return 0


def _kind(one: Stream) -> str:
    if one.leads_to.startswith("pipe:"):
        return "pipe"
    if one.leads_to.startswith("socket:"):
        return "socket"
    # A name alone says little: in a mount namespace of its own, anything can be mounted there.
    if one.leads_to == DISCARDED or _TERMINAL.fullmatch(one.leads_to):
        return "device" if _file_system(one) in _DEVICES else "other"
    return "file" if _is_local_file(one) else "other"


def _is_local_file(one: Stream) -> bool:
    """Whether a descriptor is on a file system that answers by itself."""
    if one.leads_to.startswith("/dev/"):
        return False
    kind = _file_system(one)
    return kind in _LOCAL or (kind == "overlay" and _is_in_our_user_namespace(one.pid))


def _is_in_our_user_namespace(pid: int) -> bool:
    """Where only root mounts what there is to be seen."""
    try:
        return os.readlink(f"/proc/{pid}/ns/user") == os.readlink("/proc/self/ns/user")
    except OSError:
        return False


def _file_system(one: Stream) -> str:
    """The kind of file system that a descriptor is on, as its process's mounts say; empty where they don't."""
    try:
        with open(f"/proc/{one.pid}/fdinfo/{one.number}", "rb") as opened:
            mount = next((line.split()[1] for line in opened if line.startswith(b"mnt_id:")), b"")
        with open(f"/proc/{one.pid}/mountinfo", "rb") as opened:
            words = next((line.split() for line in opened if line.split(None, 1)[0] == mount), [])
        return words[words.index(b"-") + 1].decode(errors="replace")
    except (OSError, ValueError, IndexError):
        return ""


def _flags(pid: int, number: str) -> int:
    """The flags of an open descriptor (open(2))."""
    with open(f"/proc/{pid}/fdinfo/{number}", "rb") as opened:
        return next((int(line.split()[1], 8) for line in opened if line.startswith(b"flags:")), os.O_WRONLY)


def _take(pidfd: int, number: int) -> int | None:
    """A duplicate of another process's descriptor: the same open file, so writes append where it writes."""
    taken = int(_libc.syscall(_PIDFD_GETFD, pidfd, number, 0))
    if taken < 0:
        return None
    os.set_inheritable(taken, False)
    return taken


_WRITER = f"""
import ctypes, os, sys
pidfd, number, expected = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
taken = ctypes.CDLL(None).syscall({_PIDFD_GETFD}, pidfd, number, 0)
if taken < 0 or os.readlink("/proc/self/fd/%d" % taken) != expected:
    sys.exit(1)
text = sys.stdin.buffer.read()
while text:
    text = text[os.write(taken, text):]
os._exit(0)
"""


async def _write_elsewhere(one: Stream, pidfd: int, data: bytes, deadline: float) -> bool:
    """Write in a process that may hang; it is killed at the deadline, and not waited for."""
    owner = remote_memory.owner(one.pid)
    if owner is None or list(_given_up.values()).count(owner) >= MOST_GIVEN_UP:
        return False
    reads, writes = os.pipe()
    try:
        os.write(writes, data)  # a pipe takes far more at once
    finally:
        os.close(writes)
    try:
        words = (sys.executable, "-I", "-S", "-c", _WRITER, str(pidfd), str(one.number), one.leads_to)
        writer = await asyncio.create_subprocess_exec(
            *words, stdin=reads, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL, pass_fds=(pidfd,)
        )
    except OSError:
        return False
    finally:
        os.close(reads)
    ending = asyncio.create_task(_end_of(writer))
    _given_up[ending] = owner
    ending.add_done_callback(_given_up.pop)
    done, _ = await asyncio.wait([ending], timeout=max(0.0, deadline - time.monotonic()))
    if not done:
        with contextlib.suppress(ProcessLookupError):
            writer.kill()
    return bool(done) and writer.returncode == 0


async def _end_of(writer: asyncio.subprocess.Process) -> None:
    await writer.wait()


def given_up() -> int:
    """How many processes are in a write that may hang."""
    return len(_given_up)
