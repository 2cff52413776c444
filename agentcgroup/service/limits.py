"""The limits of memory that others set on a cgroup and on those above it, and when one of them is changed.

inotify tells of writes to the kernel's control files, whoever makes them: an engine (``docker update``), systemd, an administrator.
"""

import asyncio
import contextlib
import ctypes
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from agentcgroup import cgroup

_IN_MODIFY = 2
_libc = ctypes.CDLL(None, use_errno=True)


def memory_limit(top: Path) -> int | None:
    """The lowest ``memory.max`` of a cgroup and of those above it, in bytes; None where there is none."""
    found = []
    for file in _files(top):
        with contextlib.suppress(OSError, ValueError):  # the topmost has none; "max"
            found.append(int(file.read_text()))
    return min(found, default=None)


@contextlib.contextmanager
def telling_of_changes(top: Path, changed: Callable[[], None]) -> Iterator[None]:
    """Call ``changed`` in the event loop after one of these limits was written.  Raises OSError where that can't be told."""
    loop = asyncio.get_running_loop()
    descriptor = int(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
    if descriptor < 0:
        raise _error()

    def told() -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(descriptor, 1 << 16)
            changed()

    try:
        for file in _files(top):
            watched = _libc.inotify_add_watch(descriptor, os.fsencode(file), _IN_MODIFY)
            if watched < 0 and ctypes.get_errno() != errno.ENOENT:  # the topmost has no such file
                raise _error()
        loop.add_reader(descriptor, told)
        yield
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def _error() -> OSError:
    return OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _files(top: Path) -> list[Path]:
    mount = cgroup.mount_point()
    return [place / "memory.max" for place in (top, *top.parents) if place.is_relative_to(mount)]
