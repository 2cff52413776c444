"""cgroup v2 as files: the one module that knows how the kernel spells its control files.

Only version 2 is supported, with controllers on the unified hierarchy.  Every function names the
path and the operation when it fails.  Limits follow the kernel's notation: bytes, ``max`` for none.
"""

import contextlib
import errno
import os
import re
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from agentcgroup.errors import AgentCgroupError, errno_words
from agentcgroup.model import Limits, Usage

CONTROLLERS = ("memory", "cpu", "pids")
"""What a session needs: budget and victims, weights, fork bombs."""
MAX = "max"
GONE = (errno.ENOENT, errno.ENODEV)
"""What a cgroup that is gone, or an open file of it, answers; every other errno means something else."""


class CgroupError(AgentCgroupError):
    """An operation on a cgroup failed; ``errno`` says which way (ENOENT: the cgroup is gone)."""

    def __init__(self, path: Path, operation: str, error: OSError) -> None:
        super().__init__(f"cgroup {path}: {operation} failed", errno_words(error), "agentcgroup doctor tells more")
        self.errno = error.errno


def kernel_lines(file: Path | str) -> list[str]:
    """The lines of a file of the kernel's.  Names in it are bytes that somebody chose: what is no UTF-8 stays what it is (os.fsencode).

    Raises OSError.
    """
    return os.fsdecode(Path(file).read_bytes()).removesuffix("\n").split("\n")


class Mount(NamedTuple):
    """A line of /proc/self/mounts."""

    place: Path
    type: str
    options: str


def mounts() -> list[Mount]:
    """What is mounted where, as this process sees it."""
    found = []
    for line in kernel_lines("/proc/self/mounts"):
        fields = line.split(" ")
        if len(fields) >= 4:
            found.append(Mount(Path(_unescaped(fields[1])), fields[2], fields[3]))
    return found


def _unescaped(field: str) -> str:
    """Blanks and such in a mount point, which the kernel writes as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)


@lru_cache(maxsize=1)
def mount_point() -> Path:
    """Where the cgroup v2 hierarchy is mounted.  Raises AgentCgroupError when it is nowhere."""
    for mount in mounts():
        if mount.type == "cgroup2":
            return mount.place
    raise AgentCgroupError("no cgroup v2 hierarchy", "cgroup2 is not mounted", "boot with systemd.unified_cgroup_hierarchy=1")


def of_process(pid: int | str = "self") -> Path:
    """The cgroup a process is in.  Raises ProcessLookupError when it is gone."""
    try:
        lines = kernel_lines(f"/proc/{pid}/cgroup")
    except (FileNotFoundError, ProcessLookupError):
        raise ProcessLookupError(pid) from None
    inside = next((line[3:] for line in lines if line.startswith("0::")), "/")
    return mount_point() / inside.removesuffix(" (deleted)").lstrip("/")


def read(cgroup: Path, name: str) -> str:
    """A control file's content without the last newline."""
    try:
        # os instead of pathlib, which costs three times as much: this is done for every event.
        descriptor = os.open(f"{cgroup}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.fsdecode(os.read(descriptor, 65536)).rstrip("\n")
        finally:
            os.close(descriptor)
    except OSError as error:
        raise CgroupError(cgroup, f"reading {name}", error) from None


def write(cgroup: Path, name: str, value: str | int) -> None:
    """Write one value to a control file, in one system call as the kernel wants it; without waiting, where the kernel knows how."""
    try:
        descriptor = os.open(f"{cgroup}/{name}", os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            os.write(descriptor, str(value).encode())
        finally:
            os.close(descriptor)
    except OSError as error:
        raise CgroupError(cgroup, f"writing {value!r} to {name}", error) from None


def read_table(cgroup: Path, name: str) -> dict[str, int]:
    """A control file of ``key number`` lines, such as memory.events or cpu.stat."""
    return {key: int(value) for key, _, value in (line.partition(" ") for line in read(cgroup, name).splitlines())}


def read_pressure(cgroup: Path, resource: str) -> dict[str, dict[str, float]]:
    """PSI of a cgroup: ``{"some": {"avg10": 1.5, ..., "total": 12345.0}, "full": ...}``; total in microseconds."""
    lines = (line.split() for line in read(cgroup, f"{resource}.pressure").splitlines())
    return {kind: {key: float(value) for key, _, value in (pair.partition("=") for pair in pairs)} for kind, *pairs in lines}


def create(cgroup: Path) -> None:
    """Make a cgroup, whose limits all may read; its parent must exist.  Raises CgroupError (EEXIST when it is there)."""
    try:
        cgroup.mkdir()
        cgroup.chmod(0o755)  # the daemon's umask leaves nothing to others
    except OSError as error:
        raise CgroupError(cgroup, "creating", error) from None


def enable_controllers(cgroup: Path, top: Path) -> None:
    """Make the controllers available to the children of ``cgroup``, from ``top`` down.

    The leaf rule: a cgroup other than the root that holds processes can't hand controllers on
    (EBUSY), so its processes have to be moved to a child first.
    """
    chain = [cgroup, *cgroup.parents]
    for step in reversed(chain[: chain.index(top) + 1]):
        wanted = set(CONTROLLERS) - set(read(step, "cgroup.subtree_control").split())
        lacking = wanted - set(read(step, "cgroup.controllers").split())
        if lacking:
            raise AgentCgroupError(
                f"cgroup {step}: the controllers {', '.join(sorted(lacking))} are not available",
                "the parent has not delegated them, or they are bound to cgroup v1",
                "run as root on a host with cgroup v2 only; agentcgroup doctor says what is missing",
            )
        if wanted:
            write(step, "cgroup.subtree_control", " ".join(f"+{name}" for name in sorted(wanted)))


def limit(cgroup: Path, limits: Limits, before: Limits | None = None, new: bool = True) -> None:
    """Give a leaf its limits; ``before`` is what it has, so that only changes are written.

    ``before`` is None for one that has none, as a new cgroup has; where it is not ``new`` nobody knows, and all are written.

    When limits rise, the kernel's backstop rises first: the other order would have a moment in which
    the call is allowed more than what kills it.
    """
    old = _spelled(before) if before else _NEW_LEAF if new else {}
    wanted = _spelled(limits)
    rising = before is not None and limits.memory_max_bytes > before.memory_max_bytes
    for name in sorted(wanted, key=lambda name: (name == "memory.max") != rising):
        if wanted[name] != old.get(name):
            # No swap files where the kernel was built or booted without swap.
            with contextlib.suppress(CgroupError) if name == "memory.swap.max" else contextlib.nullcontext():
                write(cgroup, name, wanted[name])


_NEW_LEAF = {"memory.swap.max": MAX, "pids.max": MAX, "cpu.weight": "100", "cpu.max": MAX}


def _spelled(limits: Limits) -> dict[str, str]:
    """Limits as the kernel's files and values."""
    return {
        "memory.high": str(limits.memory_high_bytes),
        "memory.max": str(limits.memory_max_bytes),
        "memory.swap.max": MAX if limits.swap_max_bytes is None else str(limits.swap_max_bytes),
        "pids.max": MAX if limits.processes is None else str(limits.processes),
        "cpu.weight": str(limits.cpu_weight),
        "cpu.max": cpu_max(limits.cpu_cores),
    }


def cpu_max(cores: float | None) -> str:
    """A limit on processors as the kernel spells it."""
    return MAX if cores is None else f"{int(cores * 100_000)} 100000"


def usage(cgroup: Path) -> Usage:
    """Memory of a cgroup now; ``firm`` leaves out what reclaim can drop: page cache and slab caches."""
    current = int(read(cgroup, "memory.current"))
    stat = read_table(cgroup, "memory.stat")
    loose = stat["inactive_file"] + stat["active_file"] + stat.get("slab_reclaimable", 0)
    return Usage(current, max(0, current - loose))


def working_set(cgroup: Path) -> int:
    """Memory of a cgroup that it would miss, in bytes: all but the page cache that was not used lately."""
    return max(0, int(read(cgroup, "memory.current")) - read_table(cgroup, "memory.stat")["inactive_file"])


def tmpfs(cgroup: Path) -> int:
    """Memory of a cgroup that is shared or files in tmpfs, in bytes: what stays when its processes have ended is files."""
    return read_table(cgroup, "memory.stat").get("shmem", 0)


def processes(cgroup: Path) -> list[int]:
    """Processes directly in a cgroup; empty when the cgroup is gone.  (0 stands for one outside our pid namespace.)

    Raises CgroupError where it can't be known, as without a free descriptor.
    """
    try:
        with open(cgroup / "cgroup.procs") as file:
            return [int(line) for line in file]
    except OSError as error:
        if error.errno in (*GONE, errno.EOPNOTSUPP):  # of a threaded cgroup, its domain tells
            return []
        raise CgroupError(cgroup, "reading cgroup.procs", error) from None


def all_processes(cgroup: Path) -> list[int]:
    """Processes in a cgroup and everything below it."""
    return [pid for part in subtree(cgroup) for pid in processes(part)]


def number(cgroup: Path) -> int:
    """The kernel's id of a cgroup: the inode number of its folder (on 64-bit machines)."""
    try:
        return cgroup.stat().st_ino
    except OSError as error:
        raise CgroupError(cgroup, "looking at it", error) from None


def subtree(cgroup: Path) -> Iterator[Path]:
    """The cgroup and its descendants, children before parents; none when it is gone."""
    for folder, _, _ in os.walk(cgroup, topdown=False):
        yield Path(folder)


def add(cgroup: Path, pid: int) -> bool:
    """Move a process with all its threads into a cgroup; False when the process is gone or going."""
    try:
        write(cgroup, "cgroup.procs", pid)
    except CgroupError as error:
        if error.errno == errno.ESRCH:
            return False
        raise
    return True


def populated(cgroup: Path) -> bool:
    """Whether any live process is in the cgroup or below; False when the cgroup is gone.  Raises CgroupError where it can't be known."""
    try:
        return read_table(cgroup, "cgroup.events")["populated"] == 1
    except CgroupError as error:
        if error.errno in GONE:
            return False
        raise


def reclaim(cgroup: Path, amount: int) -> int:
    """Ask the kernel to take back this many bytes of a cgroup; returns how many it took.  Blocks while it does."""
    before = int(read(cgroup, "memory.current"))
    try:
        write(cgroup, "memory.reclaim", amount)
    except CgroupError as error:
        if error.errno != errno.EAGAIN:  # it got less than it was asked for
            raise
    return max(0, before - int(read(cgroup, "memory.current")))


def freeze(cgroup: Path, frozen: bool) -> None:
    """Ask the kernel to stop (or go on with) all processes below; they stop at a safe point, within moments."""
    write(cgroup, "cgroup.freeze", int(frozen))


def kill(cgroup: Path) -> None:
    """SIGKILL to every process in the cgroup and below, children that are being forked included.

    A cgroup that is gone has nobody left to kill.
    """
    try:
        write(cgroup, "cgroup.kill", 1)
    except CgroupError as error:
        if error.errno not in GONE:
            raise


def remove(cgroup: Path) -> bool:
    """Remove a cgroup and its empty descendants; False when something in it still lives."""
    for part in subtree(cgroup):
        try:
            part.rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            return False
    return True


def drain(cgroup: Path, seconds: float) -> bool:
    """Kill what is left in a cgroup and remove it, waiting at most ``seconds`` for the dead to go.

    Blocks; meant for the end of a session, where nobody waits for anything else.
    """
    deadline = time.monotonic() + seconds
    while not remove(cgroup):
        kill(cgroup)
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True
