"""Where process events come from, and what they are.

A source delivers fork, exec and exit of processes (threads are left out) in the order in which the
kernel saw them for each process.  All sources share these three events, and ``Lost``.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol


class Forked(NamedTuple):
    """``parent`` made ``child``; reported before the child does anything.  Time: CLOCK_MONOTONIC, nanoseconds."""

    parent: int
    child: int
    at_ns: int


class Execed(NamedTuple):
    """A process started a program."""

    pid: int
    at_ns: int


class Exited(NamedTuple):
    """A process ended; ``status`` as wait(2) encodes it."""

    pid: int
    status: int
    at_ns: int


class Lost(NamedTuple):
    """Events were dropped: what is known of processes has to be read again."""


ProcessEvent = Forked | Execed | Exited | Lost


class Source(Protocol):
    """A stream of process events on a file descriptor."""

    name: str

    def fileno(self) -> int:
        """Readable when events wait."""

    def drain(self, deliver: Callable[[ProcessEvent], None]) -> None:
        """Deliver the events that wait now, without blocking."""

    def close(self) -> None:
        """Stop the stream."""
