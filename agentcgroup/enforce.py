"""What carries a rung of the ladder out.  Every enforcer does the same things to a leaf, and passes the same tests.

``brake`` slows how fast a leaf's memory grows, and keeps what runs in it running; ``freeze`` stops it, and keeps its state;
each is undone by its opposite, can be done twice, and says nothing when the leaf is gone.
"""

import contextlib
import errno
import os
import struct
import time
from functools import lru_cache
from pathlib import Path
from typing import Literal, Protocol

from agentcgroup import cgroup
from agentcgroup.kernel import libbpf, maps
from agentcgroup.kernel.records import CALL, SLOWED, Call, Slowed
from agentcgroup.kernel.scheduler import give
from agentcgroup.model import Limits

Name = Literal["memcg_bpf", "sched_ext", "cgroup"]
Choice = Literal["auto", "memcg_bpf", "sched_ext", "cgroup"]
_BRAKED_CPU = "5000 100000"
"""Runs for 5 ms in 100: what can be allocated in that time fits into the reserve of a small host."""
_LOCK_SAFE = (6, 18)
"""From here on the fair scheduler takes the processor away on the way back to user space, where no kernel lock is held."""
_LONGEST_BRAKE_S = 2.0
"""In the kernel a brake ends by itself; the ladder's own ends sooner (policy ``host: brake``)."""


class Enforcer(Protocol):
    """One way to slow and stop a tool call."""

    name: Name

    def adopt(self, leaf: Path, pid: int) -> None:
        """A process was put into a leaf."""

    def grant(self, leaf: Path, up_to: int | None) -> None:
        """While memory is scarce: slow what grows beyond this many bytes until a higher grant comes; None: memory is not scarce."""

    def change_rank(self, rank: int) -> None:
        """The session's calls have this rank from now on: 0 high, 1 normal, 2 low."""

    def forget(self, leaf: Path) -> None:
        """The leaf is about to go."""

    def close(self) -> None:
        """It is not used any more."""

    def brake(self, leaf: Path) -> None: ...

    def release(self, leaf: Path, limits: Limits | None) -> None:
        """Undo ``brake``; ``limits`` are those the leaf has."""

    def slowed_s(self, leaf: Path) -> float:
        """For how long it made the leaf's tasks sleep so far, where the kernel counts that as waiting for memory."""
        ...

    def freeze(self, leaf: Path) -> None: ...

    def thaw(self, leaf: Path) -> None: ...


class CgroupFiles:
    """The ladder by ``cpu.max`` and ``cgroup.freeze``: on every kernel with cgroup v2."""

    name: Name = "cgroup"

    def adopt(self, leaf: Path, pid: int) -> None:
        pass

    def grant(self, leaf: Path, up_to: int | None) -> None:
        pass

    def change_rank(self, rank: int) -> None:
        pass

    def forget(self, leaf: Path) -> None:
        pass

    def close(self) -> None:
        pass

    def brake(self, leaf: Path) -> None:
        _write(leaf, "cpu.max", _BRAKED_CPU)

    def release(self, leaf: Path, limits: Limits | None) -> None:
        _write(leaf, "cpu.max", cgroup.cpu_max(limits.cpu_cores if limits else None))

    def slowed_s(self, leaf: Path) -> float:
        return 0.0  # who waits for a processor, or is frozen, does not wait for memory

    def freeze(self, leaf: Path) -> None:
        _write(leaf, "cgroup.freeze", "1")

    def thaw(self, leaf: Path) -> None:
        _write(leaf, "cgroup.freeze", "0")


class InKernel(CgroupFiles):
    """The brake by a BPF program that another process has loaded, told through its map of calls; the freezer as ever."""

    def __init__(
        self, name: Name, calls_id: int, rank: int, tools: Path | None = None, ops_id: int = 0, slowed_id: int = 0
    ) -> None:
        """``rank`` is the session's: 0 high, 1 normal, 2 low.  With ``ops_id``, a struct_ops map is attached to ``tools``.

        ``slowed_id``: the map where the program counts by how much it slows each call.  Raises BpfError when the program is gone, or
        can't be attached.
        """
        self.name = name
        with contextlib.ExitStack() as opened:
            self._calls = opened.enter_context(contextlib.closing(maps.Map.by_id(calls_id, CALL.size)))
            self._slowed = opened.enter_context(contextlib.closing(maps.Map.by_id(slowed_id, SLOWED.size))) if slowed_id else None
            if ops_id and tools:
                opened.callback(os.close, _attach(ops_id, tools))
            self._opened = opened.pop_all()
        self._rank = rank
        self._known: dict[Path, tuple[bytes, Call]] = {}

    def adopt(self, leaf: Path, pid: int) -> None:
        if leaf not in self._known:
            with contextlib.suppress(cgroup.CgroupError):
                self._put(leaf, struct.pack("=Q", cgroup.number(leaf)), Call(0, 0, self._rank))
        if self.name == "sched_ext":
            give(pid)

    def grant(self, leaf: Path, up_to: int | None) -> None:
        self._change(leaf, stop_at_bytes=up_to or 0)

    def brake(self, leaf: Path) -> None:
        self._change(leaf, brake_until_ns=time.monotonic_ns() + int(_LONGEST_BRAKE_S * 1e9))

    def release(self, leaf: Path, limits: Limits | None) -> None:
        self._change(leaf, brake_until_ns=0)

    def change_rank(self, rank: int) -> None:
        self._rank = rank
        for leaf in list(self._known):
            self._change(leaf, rank=rank)

    def forget(self, leaf: Path) -> None:
        # The kernel drops its entry with the leaf.
        self._known.pop(leaf, None)

    def slowed_s(self, leaf: Path) -> float:
        if self._slowed is None or leaf not in self._known:
            return 0.0
        value = self._slowed.get(self._known[leaf][0])
        return Slowed._make(SLOWED.unpack(value)).total_ns / 1e9 if value else 0.0

    def close(self) -> None:
        self._opened.close()  # before the cgroup goes: the series leaves a dangling pointer otherwise

    def _change(self, leaf: Path, **values: int) -> None:
        if leaf in self._known:
            key, call = self._known[leaf]
            self._put(leaf, key, call._replace(**values))

    def _put(self, leaf: Path, key: bytes, call: Call) -> None:
        self._known[leaf] = key, call
        # The program may be gone, or its map full: the freezer and the limits do without.
        with contextlib.suppress(OSError):
            self._calls.put(key, CALL.pack(*call))


def _attach(ops_id: int, tools: Path) -> int:
    """Attach a struct_ops map to the cgroup of a session's calls; it holds for those below it."""
    # Where the memory controller is not enabled, the kernel would silently take the nearest ancestor.
    if "memory" not in cgroup.read(tools, "cgroup.controllers").split():
        raise libbpf.BpfError("memcg struct_ops can't be attached", f"{tools} has no memory controller")
    ops = maps.Map.by_id(ops_id, 0)
    folder = os.open(tools, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return libbpf.attach_to_cgroup(ops.fileno(), folder)
    finally:
        os.close(folder)
        ops.close()


def can_brake() -> bool:
    """Whether ``cpu.max`` can be a brake here: where it takes the processor away from tasks that hold kernel locks, it can't."""
    return kernel_release() >= _LOCK_SAFE


def _write(leaf: Path, name: str, value: str) -> None:
    try:
        cgroup.write(leaf, name, value)
    except cgroup.CgroupError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV):
            raise


@lru_cache(maxsize=1)
def kernel_release() -> tuple[int, int]:
    """The running kernel's version, the first two numbers."""
    major, minor = os.uname().release.split(".")[:2]
    with contextlib.suppress(ValueError):
        return int(major), int("".join(letter for letter in minor if letter.isdigit()))
    return 0, 0
