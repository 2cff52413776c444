"""Bounds on who asks at a Unix socket: how many connections each user has, how often one asks, and how long answers wait to be read.

Root is bounded by the deadlines only.  Who asks too often waits, alone; who does not read the answer is cut off.
"""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator

MOST_CONNECTIONS = 64
"""Of one user at a time, at all sockets of a process: an agent may declare many calls at once."""
PER_SECOND, BURST = 50.0, 100.0
"""Requests of one user: so many a second, and so many at once after a pause."""
_SHARE = 0.1
"""Of the event loop's time that all requests of one user may take; beyond it, time costs turns as requests do."""
MOST_WAITING_BYTES = 8 << 20
"""Of answers to one user that were not read yet."""
READ_WITHIN_S = 5.0
"""A request arrives, and an answer is read, within this time."""


class TooMuchError(ValueError):
    """A user asks for more than one may; the text says what to do."""


class Callers:
    """The users that ask at the sockets of one process."""

    def __init__(self) -> None:
        self._connections: Counter[int] = Counter()
        self._waiting: Counter[int] = Counter()
        self._tokens: dict[int, tuple[float, float]] = {}
        self._locks: dict[int, asyncio.Lock] = {}

    @contextlib.contextmanager
    def connection(self, uid: int) -> Iterator[None]:
        """Count a connection as long as it lasts.  Raises TooMuchError."""
        if uid and self._connections[uid] >= MOST_CONNECTIONS:
            raise TooMuchError(f"user {uid} has {MOST_CONNECTIONS} connections open: close some")
        self._connections[uid] += 1
        try:
            yield
        finally:
            self._connections[uid] -= 1
            if not self._connections[uid]:
                del self._connections[uid]
                self._forget(uid)

    async def turn(self, uid: int) -> None:
        """Wait until the user may ask again."""
        if not uid:
            return
        now = time.monotonic()
        left, at = self._tokens.get(uid, (BURST, now))
        left = min(BURST, left + (now - at) * PER_SECOND) - 1
        self._tokens[uid] = left, now
        if left < 0:
            await asyncio.sleep(-left / PER_SECOND)

    @contextlib.contextmanager
    def working(self, uid: int) -> Iterator[None]:
        """What is done for a user meanwhile takes as many turns as it takes time: a session may have 300 calls to tell of."""
        began_s = time.thread_time()
        try:
            yield
        finally:
            if uid:
                left, at = self._tokens.get(uid, (BURST, time.monotonic()))
                self._tokens[uid] = left - (time.thread_time() - began_s) * PER_SECOND / _SHARE, at

    @contextlib.asynccontextmanager
    async def alone(self, uid: int) -> AsyncIterator[None]:
        """Have one expensive request of a user done at a time."""
        async with self._locks.setdefault(uid, asyncio.Lock()):
            yield

    async def answer(self, writer: asyncio.StreamWriter, uid: int, line: bytes) -> None:
        """Write an answer, and wait until it is taken.  Raises TooMuchError, TimeoutError, ConnectionError; the connection is of no use then."""
        if uid and self._waiting[uid] + len(line) > MOST_WAITING_BYTES:
            raise TooMuchError(f"user {uid} does not read the answers")
        self._waiting[uid] += len(line)
        try:
            writer.transport.set_write_buffer_limits(0)
            writer.write(line)
            await asyncio.wait_for(writer.drain(), READ_WITHIN_S)
        except (TimeoutError, ConnectionError):
            writer.transport.abort()
            raise
        finally:
            self._waiting[uid] -= len(line)
            if not self._waiting[uid]:
                del self._waiting[uid]

    def _forget(self, uid: int) -> None:
        """Keep nothing of a user who has gone and whose pause was long enough."""
        for other, (left, at) in list(self._tokens.items()):
            if other not in self._connections and left + (time.monotonic() - at) * PER_SECOND >= BURST:
                del self._tokens[other]
        if (lock := self._locks.get(uid)) is not None and not lock.locked():
            del self._locks[uid]


CALLERS = Callers()
"""Of this process: what a user asks at the sockets of several sessions counts together."""
