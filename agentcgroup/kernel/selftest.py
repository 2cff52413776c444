"""Does what a kernel offers really act?  Small experiments in cgroups of their own, for ``agentcgroup doctor``."""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from agentcgroup import cgroup
from agentcgroup.enforce import Enforcer, InKernel
from agentcgroup.errors import AgentCgroupError
from agentcgroup.kernel import memory

_MIB = 1 << 20
_TOUCHED = 8 * _MIB
_CACHED = 16 * _MIB
_SLOWED = 2.0
"""A brake that acts makes 8 MiB take 0.6 s instead of some milliseconds, or 0.2 s where the processor is emulated."""
_TRIES = 3
_ALLOCATE = f"""
import mmap, sys
memory = mmap.mmap(-1, {_TOUCHED})
memory.madvise(mmap.MADV_NOHUGEPAGE)
sys.stdout.write('.'), sys.stdout.flush(), sys.stdin.read(1)
for at in range(0, {_TOUCHED}, 4096): memory[at] = 1
sys.stdout.write('.'), sys.stdout.flush()
"""
_READ = "import sys; open(sys.argv[1], 'rb').read(); sys.stdout.write('.'), sys.stdout.flush(), sys.stdin.read(1)"


def memcg() -> str:
    """Whether memcg struct_ops act, in words.  Raises AgentCgroupError when they do not."""
    no_delay = memory.lacking()
    program = memory.Memory(slows=not no_delay)
    try:
        with leaves(2) as (low, high):
            low_ranked = InKernel("memcg_bpf", program.calls_id, 2, low.parent, program.ops_id)
            high_ranked = InKernel("memcg_bpf", program.calls_id, 0)
            try:
                delay = no_delay or _delay(low_ranked, low)
                return f"{delay}; {program.without or _protection((low_ranked, low), (high_ranked, high))}"
            finally:
                high_ranked.close()
                low_ranked.close()
    finally:
        program.close()


def _delay(enforcer: Enforcer, leaf: Path) -> str:
    ratio = slowdown(enforcer, leaf)
    if ratio < _SLOWED:
        raise AgentCgroupError("memcg struct_ops do not act", f"a braked program was {ratio:.1f} times as slow")
    return f"the delay acts ({ratio:.0f} times as slow)"


def _protection(low: tuple[Enforcer, Path], high: tuple[Enforcer, Path]) -> str:
    lost, kept = reclaimed(low, high)
    if not lost or kept > lost / 4:
        raise AgentCgroupError(
            "memcg struct_ops do not protect", f"{kept} bytes were reclaimed, and {lost} of one without protection"
        )
    return "the protection acts"


def slowdown(enforcer: Enforcer, leaf: Path) -> float:
    """How many times as long a program takes to allocate memory when its leaf is braked.

    Whatever else goes on can only make it slower: the fastest of some tries is what it takes without a brake.
    """
    enforcer.release(leaf, None)
    free = min(_allocation_s(leaf, enforcer) for _ in range(_TRIES))
    with _program(leaf, enforcer, _ALLOCATE) as process:
        enforcer.brake(leaf)
        braked = _go_on_s(process)
    enforcer.release(leaf, None)
    return braked / free


def _allocation_s(leaf: Path, enforcer: Enforcer) -> float:
    with _program(leaf, enforcer, _ALLOCATE) as process:
        return _go_on_s(process)


def _go_on_s(process: "subprocess.Popen[bytes]") -> float:
    """Let a program go on; how long it takes until it says something."""
    assert process.stdin is not None
    assert process.stdout is not None
    began = time.monotonic()
    process.stdin.write(b".")
    process.stdin.flush()
    process.stdout.read(1)
    return time.monotonic() - began


def reclaimed(*found: tuple[Enforcer, Path]) -> list[int]:
    """How many bytes of page cache each leaf loses when the kernel is asked to reclaim, from all of them, half of what one has.

    Protection is relative: where there is nothing else to be had, the kernel takes what is protected.
    """
    with contextlib.ExitStack() as running:
        for enforcer, leaf in found:
            file = running.enter_context(tempfile.NamedTemporaryFile(dir="/var/tmp"))
            file.write(os.urandom(_CACHED))
            file.flush()
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            running.enter_context(_program(leaf, enforcer, _READ, file.name))
        before = [int(cgroup.read(leaf, "memory.current")) for _, leaf in found]
        cgroup.reclaim(found[0][1].parent, _CACHED // 2)
        return [held - int(cgroup.read(leaf, "memory.current")) for held, (_, leaf) in zip(before, found, strict=True)]


@contextlib.contextmanager
def _program(leaf: Path, enforcer: Enforcer, code: str, *arguments: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A program that was put into a leaf, and goes on when it is told."""
    words = [sys.executable, "-c", code, *arguments]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        cgroup.add(leaf, process.pid)
        enforcer.adopt(leaf, process.pid)
        assert process.stdout is not None
        process.stdout.read(1)
        yield process


@contextlib.contextmanager
def leaves(number: int) -> Iterator[list[Path]]:
    """Some empty leaves side by side, with all controllers."""
    mount = cgroup.mount_point()
    top = mount / f"agentcgroup-selftest-{os.getpid()}"
    found = [top / f"leaf-{place}" for place in range(number)]
    cgroup.create(top)
    try:
        cgroup.enable_controllers(top, mount)
        for leaf in found:
            cgroup.create(leaf)
        yield found
    finally:
        cgroup.drain(top, 5.0)
