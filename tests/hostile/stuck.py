"""A command that takes memory until it is stopped, and whose stderr polls as writable but makes whoever writes there wait.

Usage: stuck.py terminal|eventfd
"""

import fcntl
import os
import pty
import select
import sys
import time


def _writable(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(0))


def _nearly_full_terminal() -> int:
    ours, theirs = pty.openpty()
    fcntl.fcntl(theirs, fcntl.F_SETFL, os.O_NONBLOCK)
    for size in (256, 1):
        try:
            while True:
                os.write(theirs, b"x" * size)
        except BlockingIOError:
            continue
    while not _writable(theirs):
        os.read(ours, 64)
        time.sleep(0.01)
    fcntl.fcntl(theirs, fcntl.F_SETFL, 0)
    return theirs


def _full_counter() -> int:
    descriptor = os.eventfd(0)
    os.eventfd_write(descriptor, 2**64 - 3)
    return descriptor


os.dup2(_nearly_full_terminal() if sys.argv[1] == "terminal" else _full_counter(), 2)
held = []
while True:
    held.append(bytes(8 << 20).replace(b"\0", b"x"))
    time.sleep(0.05)
