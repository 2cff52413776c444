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
from agentcgroup.kernel.memory import Memory

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
    program = Memory()
    try:
        with leaves(2) as (low, high):
            braking = InKernel("memcg_bpf", program.calls_id, 2, low.parent, program.ops_id)
            try:
                ratio = slowdown(braking, low)
                if ratio < _SLOWED:
                    raise AgentCgroupError("memcg struct_ops do not act", f"a braked program was {ratio:.1f} times as slow")
                words = f"the delay acts ({ratio:.0f} times as slow)"
                if not program.protects:
                    return f"{words}; this kernel's version can't protect from reclaim"
                protecting = InKernel("memcg_bpf", program.calls_id, 0)
                kept, lost = reclaimed(protecting, high), reclaimed(braking, low)
                protecting.close()
                if kept > lost / 4:
                    raise AgentCgroupError("memcg struct_ops do not protect", f"{kept} of {_CACHED} bytes were reclaimed")
                return f"{words}, the protection acts"
            finally:
                braking.close()
    finally:
        program.close()


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


def reclaimed(enforcer: Enforcer, leaf: Path) -> int:
    """How many bytes of page cache a leaf loses when the kernel is asked to reclaim half of it."""
    with tempfile.NamedTemporaryFile(dir="/var/tmp") as file:
        file.write(os.urandom(_CACHED))
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        with _program(leaf, enforcer, _READ, file.name) as process:
            lost = cgroup.reclaim(leaf.parent, _CACHED // 2)
            process.communicate(b".")
        return lost


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
