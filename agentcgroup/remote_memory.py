"""What /proc shows out of a process's own memory, its command line and its environment: it may take for ever to read.

The kernel fetches what is there as if the process touched it.  Where the process has mapped a file of a file system that does not
answer, whoever reads waits with it.  So a thread reads, which is given up after a while: nobody who is looked at makes the governor wait.
"""

import os
import threading
import time
from dataclasses import dataclass
from queue import Empty, SimpleQueue

PATIENCE_S, SHORT_S = 1.0, 0.1
"""How long a read may take; the second is for processes of a user of whose processes one took too long lately."""
MOST_GIVEN_UP = 8
"""Reads of one user's processes that took too long lately or hang: with so many, that user's processes are not read."""
LATELY_S = 60.0


def slurp(path: str, limit: int = 65536) -> bytes | None:
    """A file of /proc, up to a limit; None where there is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        chunks = []
        while limit > 0 and (chunk := os.read(descriptor, min(limit, 65536))):
            chunks.append(chunk)
            limit -= len(chunk)
        return b"".join(chunks)
    except OSError:
        return None
    finally:
        os.close(descriptor)


class _Reader:
    """A thread that reads for another one."""

    def __init__(self) -> None:
        self._asked: SimpleQueue[tuple[str, int] | None] = SimpleQueue()
        self._answers: SimpleQueue[bytes | None] = SimpleQueue()
        self.thread = threading.Thread(target=self._serve, name="reader", daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        while (asked := self._asked.get()) is not None:
            self._answers.put(slurp(*asked))

    def read(self, path: str, limit: int, patience_s: float) -> bytes | None:
        """Raises queue.Empty when it takes too long."""
        self._asked.put((path, limit))
        return self._answers.get(timeout=patience_s)

    def end(self) -> None:
        """It ends when it has read what it was asked for last, if ever."""
        self._asked.put(None)


class _Own(threading.local):
    """Each thread has a reader of its own."""

    reader: _Reader | None = None


@dataclass(frozen=True, slots=True)
class _Late:
    """A read that took too long: of which process, whose that was, who reads, and when it was given up."""

    pid: int
    user: int | None
    thread: threading.Thread
    at_s: float


_own = _Own()
_late: list[_Late] = []


def _forget_readers() -> None:
    """Threads stay behind at a fork."""
    _own.reader = None
    _late.clear()


os.register_at_fork(after_in_child=_forget_readers)


def read(pid: int, name: str, limit: int = 65536) -> bytes | None:
    """``/proc/PID/cmdline`` or ``environ``; None where the process is gone, or it can't be read in time."""
    return read_for(pid, f"/proc/{pid}/{name}", limit)


def read_for(pid: int, path: str, limit: int) -> bytes | None:
    """A file that shows something of a process, as ``read`` does."""
    patience_s = PATIENCE_S
    if _late:
        _late[:] = [one for one in _late if one.thread.is_alive() or time.monotonic() - one.at_s < LATELY_S]
        user = owner(pid)
        late = sum(one.user == user for one in _late)
        if late >= MOST_GIVEN_UP or any(one.pid == pid and one.thread.is_alive() for one in _late):
            return None
        patience_s = SHORT_S if late else PATIENCE_S
    if _own.reader is None:
        _own.reader = _Reader()
    try:
        return _own.reader.read(path, limit, patience_s)
    except Empty:
        _late.append(_Late(pid, owner(pid), _own.reader.thread, time.monotonic()))
        _own.reader.end()
        _own.reader = None
        return None


def owner(pid: int) -> int | None:
    """The user whose process it is (the real one: ``/proc/PID`` is root's where it may not be dumped); None when it is gone."""
    lines = (slurp(f"/proc/{pid}/status") or b"").splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith(b"Uid:")), None)


def given_up() -> int:
    """How many reads hang."""
    return sum(one.thread.is_alive() for one in _late)
