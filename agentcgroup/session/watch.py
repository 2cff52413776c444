"""Changes of kernel control files as events in asyncio: cgroup.events, memory.events, pidfds.

The kernel announces a change of such a file as a priority event, which asyncio does not know; an epoll
instance does, and is itself a descriptor that asyncio can wait for.
"""

import asyncio
import contextlib
import os
import select
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path


class Watcher:
    """Calls back when a watched file changed.

    A watch has a number of its own, which is never given out again: the kernel's number of a descriptor is another file's as soon as
    this one is closed, and whoever still holds it must not end that one's watch.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watches: dict[int, _Watch] = {}
        self._by_descriptor: dict[int, int] = {}
        self._next = count(1)
        asyncio.get_running_loop().add_reader(self._epoll.fileno(), self._ready)

    def file(self, path: Path, callback: Callable[[str | None], None]) -> int | None:
        """Call back with the file's content now and at each change, with None when it is gone.

        Returns a number for ``forget``; None (and no call) when the file isn't there.
        """
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        number = self._add(_Watch(descriptor, callback, is_file=True), select.EPOLLPRI)
        self._report(number)
        return number

    def exit_of(self, pidfd: int, callback: Callable[[str | None], None]) -> None:
        """Call back, once, with None when the process of a pidfd has ended.  The pidfd is taken over."""
        self._add(_Watch(pidfd, callback, is_file=False), select.EPOLLIN)

    def _add(self, watch: "_Watch", events: int) -> int:
        number = next(self._next)
        self._watches[number] = watch
        self._by_descriptor[watch.descriptor] = number
        with contextlib.suppress(PermissionError):  # a file that can't tell: it is read once
            self._epoll.register(watch.descriptor, events)
        return number

    def forget(self, number: int | None) -> None:
        """Stop watching; one that has ended is forgotten already."""
        watch = self._watches.pop(number, None) if number is not None else None
        if watch is not None:
            del self._by_descriptor[watch.descriptor]
            os.close(watch.descriptor)  # closing takes it out of the epoll set

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._epoll.fileno())
        for number in list(self._watches):
            self.forget(number)
        self._epoll.close()

    def _ready(self) -> None:
        told = [self._by_descriptor.get(descriptor) for descriptor, _ in self._epoll.poll(0)]
        for number in told:
            if number in self._watches:
                self._report(number)

    def _report(self, number: int) -> None:
        watch = self._watches[number]
        content = None
        if watch.is_file:
            # Reading from the start is also what re-arms the kernel's notification.
            with contextlib.suppress(OSError):
                content = os.fsdecode(os.pread(watch.descriptor, 4096, 0))
        if content is None:
            self.forget(number)
        watch.callback(content)


@dataclass(frozen=True, slots=True)
class _Watch:
    descriptor: int
    callback: Callable[[str | None], None]
    is_file: bool
