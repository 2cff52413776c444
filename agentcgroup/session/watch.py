"""Changes of kernel control files as events in asyncio: cgroup.events, memory.events, pidfds.

The kernel announces a change of such a file as a priority event, which asyncio does not know; an epoll
instance does, and is itself a descriptor that asyncio can wait for.
"""

import asyncio
import os
import select
from collections.abc import Callable
from pathlib import Path


class Watcher:
    """Calls back when a watched file changed."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[str | None], None]] = {}
        self._files: set[int] = set()
        asyncio.get_running_loop().add_reader(self._epoll.fileno(), self._ready)

    def file(self, path: Path, callback: Callable[[str | None], None]) -> int | None:
        """Call back with the file's content now and at each change, with None when it is gone.

        Returns a handle for ``forget``; None (and no call) when the file isn't there.
        """
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        self._callbacks[descriptor] = callback
        self._files.add(descriptor)
        self._epoll.register(descriptor, select.EPOLLPRI)
        self._report(descriptor)
        return descriptor

    def exit_of(self, pidfd: int, callback: Callable[[str | None], None]) -> None:
        """Call back, once, with None when the process of a pidfd has ended.  The pidfd is taken over."""
        self._callbacks[pidfd] = callback
        self._epoll.register(pidfd, select.EPOLLIN)

    def forget(self, handle: int | None) -> None:
        """Stop watching."""
        if handle is not None and handle in self._callbacks:
            del self._callbacks[handle]
            self._files.discard(handle)
            os.close(handle)  # closing takes it out of the epoll set

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._epoll.fileno())
        for handle in list(self._callbacks):
            self.forget(handle)
        self._epoll.close()

    def _ready(self) -> None:
        for descriptor, _ in self._epoll.poll(0):
            if descriptor in self._callbacks:
                self._report(descriptor)

    def _report(self, descriptor: int) -> None:
        callback = self._callbacks[descriptor]
        if descriptor not in self._files:
            self.forget(descriptor)
            callback(None)
            return
        try:
            # Reading from the start is also what re-arms the kernel's notification.
            content = os.pread(descriptor, 4096, 0).decode()
        except OSError:
            self.forget(descriptor)
            content = None
        callback(content)
