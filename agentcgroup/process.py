"""Processes as /proc and a few system calls show them: facts for the boundary rules, hints, stderr.

Everything here may find that the process has gone meanwhile; then the answer is None.
"""

import contextlib
import ctypes
import errno
import os
import signal
import time
from dataclasses import dataclass, replace

from agentcgroup.hints import VARIABLE
from agentcgroup.remote_memory import read, slurp

_KCMP = {"x86_64": 312, "aarch64": 272}
_KCMP_FILE = 0
_libc = ctypes.CDLL(None, use_errno=True)

LARGEST_ENVIRONMENT = 2 << 20
"""Bytes of an environment that are searched: the kernel's own limit for one string is 128 KiB, for all a quarter of the stack."""


MOST_NAMES = 4096
"""Variables of an environment whose names are looked at."""


@dataclass(frozen=True, slots=True)
class Facts:
    """A process at its exec: who it is, whose child, and whether it kept the session's stdout and stderr.

    ``exe`` is the program's file; ``streams`` are what stdin, stdout and stderr are, as /proc names them (``pipe:[17]``,
    ``socket:[18]``, ``/dev/null``; empty: closed); ``names`` are the names of the variables in its environment.
    """

    pid: int
    ppid: int
    sid: int
    argv: tuple[str, ...]
    cwd: str
    keeps_stdio: bool
    exe: str = ""
    streams: tuple[str, str, str] = ("", "", "")
    names: frozenset[str] = frozenset()

    @property
    def has_ended(self) -> bool:
        """Whether nothing was left to look at: only the arguments are known, from the start (``at_start``)."""
        return not self.sid

    @property
    def is_piped(self) -> bool:
        """Whether somebody talks with it: stdin and stdout are pipes or sockets."""
        return all(one.startswith(("pipe:", "socket:")) for one in self.streams[:2])

    @property
    def leads_session(self) -> bool:
        """Whether it was started in a session of its own (setsid)."""
        return self.pid == self.sid


def facts(pid: int, stdio_of: int) -> Facts | None:
    """What the boundary rules want to know; ``stdio_of`` is a process that holds the session's own stdio."""
    status = slurp(f"/proc/{pid}/stat")
    line = read(pid, "cmdline")
    if not status or not line:
        return None
    # The command's name, in parentheses, may hold anything, parentheses and blanks included.
    fields = status[status.rindex(b")") + 2 :].split()
    argv = words_of(line)
    streams = (_link(f"/proc/{pid}/fd/0"), _link(f"/proc/{pid}/fd/1"), _link(f"/proc/{pid}/fd/2"))
    keeps = all(_is_kept(pid, number, stdio_of, streams[number]) for number in (1, 2))
    names = variable_names(read(pid, "environ", LARGEST_ENVIRONMENT) or b"")
    cwd, exe = _link(f"/proc/{pid}/cwd"), _link(f"/proc/{pid}/exe")
    return Facts(pid, int(fields[1]), int(fields[3]), argv, cwd, keeps, exe, streams, names)


def _is_kept(pid: int, number: int, stdio_of: int, stream: str) -> bool:
    """Whether a stream is the session's own: the same open file, or the same terminal, which some programs open anew."""
    if same_file(pid, number, stdio_of, number):
        return True
    return stream.startswith(("/dev/pts/", "/dev/tty")) and stream == _link(f"/proc/{stdio_of}/fd/{number}")


def _link(path: str) -> str:
    """Where a link in /proc leads (no file system is asked for it); empty when it is gone."""
    try:
        return os.readlink(path)
    except OSError:
        return ""


def variable_names(environment: bytes) -> frozenset[str]:
    """The names of the variables in an environment as /proc shows it."""
    words = environment.split(b"\0", MOST_NAMES)[:MOST_NAMES]
    return frozenset(os.fsdecode(word.split(b"=", 1)[0]) for word in words if b"=" in word)


def parent(pid: int) -> int | None:
    """The parent's pid."""
    status = slurp(f"/proc/{pid}/stat")
    return int(status[status.rindex(b")") + 2 :].split()[1]) if status else None


def children(pid: int) -> list[int]:
    """The processes that a process forked and that live; none where the kernel does not tell (CONFIG_PROC_CHILDREN)."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.scandir(f"/proc/{pid}/task"):
            found += map(int, (slurp(f"{thread.path}/children") or b"").split())
    return found


def started_s(pid: int) -> float | None:
    """When a process was born (CLOCK_MONOTONIC, seconds, to a hundredth); None when it is gone."""
    status = slurp(f"/proc/{pid}/stat")
    if not status:
        return None
    since_boot_s = int(status[status.rindex(b")") + 2 :].split()[19]) / os.sysconf("SC_CLK_TCK")
    return since_boot_s - (time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic())


def at_start(pid: int, argv: tuple[str, ...], now: Facts | None) -> Facts | None:
    """The facts of a process that was started with ``argv``, where that is known; ``now`` is what /proc shows a moment later.

    By then a shell may have become the program that it was to run, or all may be over.
    """
    if not argv:
        return now
    if now is None:
        return Facts(pid, 0, 0, argv, "", keeps_stdio=False)
    is_still = now.exe.rpartition("/")[2] == argv[0].rpartition("/")[2]
    return now if now.argv == argv else replace(now, argv=argv, exe=now.exe if is_still else "")


def words_of(line: bytes) -> tuple[str, ...]:
    """A command line's words, from how the kernel keeps it."""
    return tuple(os.fsdecode(word) for word in line.rstrip(b"\0").split(b"\0")) if line else ()


def command_line(pid: int) -> tuple[str, ...]:
    """The words of a process's command line; empty when it is gone."""
    return words_of(read(pid, "cmdline") or b"")


def variables(pid: int, *names: str) -> dict[str, str]:
    """Values of some variables of the environment a process was started with."""
    environment = read(pid, "environ", LARGEST_ENVIRONMENT)
    found = {}
    for name in names:
        start = b"\0" + os.fsencode(name) + b"="
        _, there, rest = (b"\0" + (environment or b"")).partition(start)
        if there:
            found[name] = rest.split(b"\0", 1)[0].decode(errors="replace")
    return found


def hint_text(pid: int) -> str | None:
    """The hint in a process's environment."""
    return variables(pid, VARIABLE).get(VARIABLE)


def same_file(pid: int, number: int, other: int, other_number: int) -> bool:
    """Whether two processes' descriptors are one open file, so that one was inherited from the other's origin.

    kcmp(2) tells open files apart even when they are the same device, as two opens of /dev/null are.
    Kernels without it (CONFIG_KCMP) compare device and inode.
    """
    call = _KCMP.get(os.uname().machine)
    if call is not None:
        answer = _libc.syscall(call, pid, other, _KCMP_FILE, ctypes.c_ulong(number), ctypes.c_ulong(other_number))
        if answer >= 0:
            return bool(answer == 0)
        if ctypes.get_errno() in (errno.EBADF, errno.ESRCH):
            return False
    try:
        one, two = os.stat(f"/proc/{pid}/fd/{number}"), os.stat(f"/proc/{other}/fd/{other_number}")
    except OSError:
        return False
    return (one.st_dev, one.st_ino, one.st_rdev) == (two.st_dev, two.st_ino, two.st_rdev)


def prefer_as_victim(pid: int, score: int) -> None:
    """Make a process the out-of-memory killer's choice before anything of the agent's; children inherit it.

    ``score``: oom_score_adj, up to 1000; each 10 counts as much as one percent of the memory that is full.
    """
    with contextlib.suppress(OSError):
        descriptor = os.open(f"/proc/{pid}/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, b"%d" % score)
        finally:
            os.close(descriptor)


def signal_all(pids: list[int], number: signal.Signals) -> None:
    """Send a signal to each; the gone are skipped."""
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, number)
