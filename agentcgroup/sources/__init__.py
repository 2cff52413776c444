"""Where process events come from, and what they are.

A source delivers fork, exec and exit of processes (threads are left out) in the order in which the
kernel saw them for each process.  Every source tells these three, and ``Lost``; the BPF monitor tells
more, and leaves out the births and ends of processes that nobody waits for.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple


class Forked(NamedTuple):
    """``parent`` made ``child``; reported before the child does anything.  Time: CLOCK_MONOTONIC, nanoseconds.

    ``cgroup``: where it happened, for sources that know; 0 for others.
    """

    parent: int
    child: int
    at_ns: int
    cgroup: int = 0


class Execed(NamedTuple):
    """A process started a program; ``argv``: its arguments, empty where the source does not know them."""

    pid: int
    at_ns: int
    cgroup: int = 0
    argv: tuple[str, ...] = ()


class Exited(NamedTuple):
    """A process ended; ``status`` as wait(2) encodes it; ``ran_ns``: its time on processors, where the source knows."""

    pid: int
    status: int
    at_ns: int
    ran_ns: int | None = None
    cgroup: int = 0


class Lost(NamedTuple):
    """Events were dropped: what is known of processes has to be read again."""


class HintSeen(NamedTuple):
    """A program was started with this hint in its environment, in this cgroup."""

    cgroup: int
    pid: int
    text: str


class HintUnread(NamedTuple):
    """The environment of a new program is longer than the kernel looks at it: a hint may be in the rest."""

    cgroup: int
    pid: int


class Emptied(NamedTuple):
    """The last process of a cgroup ended.  Cgroups are named by their id: the inode number of their folder."""

    cgroup: int


class MemoryNews(NamedTuple):
    """A cgroup's memory is worth a look: it grew fast, or met one of its limits."""

    cgroup: int
    what: Literal["growth", "over", "full", "oom"]
    at_ns: int


class Grown(NamedTuple):
    """A call's memory has grown to where it is to ask for more (``Source.ask_at``); ``amount``: bytes now."""

    cgroup: int
    amount: int
    at_ns: int


class Victim(NamedTuple):
    """The kernel chose a process of the cgroup to die of a lack of memory."""

    cgroup: int
    pid: int


class Waited(NamedTuple):
    """Processes of a cgroup waited this long, since the last such event, for memory or for a processor."""

    cgroup: int
    resource: Literal["memory", "cpu"]
    time_s: float


class HeldOut(NamedTuple):
    """A program was not placed within the time it may be held, and started anyway."""

    pid: int
    held_s: float
    cgroup: int = 0


class Left(NamedTuple):
    """A process was moved out of a cgroup of ours by another's hand."""

    cgroup: int
    pid: int


Event = Left | Forked | Execed | Exited | Lost | HintSeen | HintUnread | Emptied | MemoryNews | Grown | Victim | Waited | HeldOut


@dataclass(frozen=True, slots=True)
class Counts:
    """What the kernel counted in a cgroup: processes born, time waited for memory and for a processor, events left out.

    Since 7.0 a hook that is preempted is left out for what comes in between, so these are lower bounds there.
    """

    forks: int
    stalled_s: float
    waited_s: float
    folded: int


class Source:
    """A stream of events on a file descriptor.

    The defaults are those of a source that tells of every process of the machine and of nothing else.
    """

    name: str
    sees_inside = False
    """Whether it tells hints and the end of a leaf, instead of every process that is born and ends in it."""
    sees_memory = False
    """Whether it tells of a leaf's memory; else the leaf's files have to be watched."""

    def fileno(self) -> int:
        """Readable when events wait."""
        raise NotImplementedError

    def on_ready(self, callback: Callable[[], None] | None) -> None:
        """Call back in the running event loop whenever events wait; None: no more."""
        if callback is None:
            asyncio.get_running_loop().remove_reader(self.fileno())
        else:
            asyncio.get_running_loop().add_reader(self.fileno(), callback)

    def drain(self, deliver: Callable[[Event], None]) -> None:
        """Deliver the events that wait now, without blocking."""
        raise NotImplementedError

    def close(self) -> None:
        """Stop the stream."""
        raise NotImplementedError

    async def begun(self) -> None:
        """Wait until the stream begins; a session that is taken up knows by then which cgroups are its calls'."""

    def position(self) -> int:
        """How far the stream was drained; only a source that outlives its reader has to know."""
        return 0

    def acted(self, position: int) -> None:
        """What was drained before ``position`` has had its effect: a reader that comes after this one need not have it again."""

    def unfinished(self, is_so: bool) -> None:
        """Whether something is still to be done that what was drained calls for: until it is, that has not had its effect."""

    def when_acted(self, do: Callable[[], object]) -> None:
        """Do something when no reader that comes after this one will have again what was drained until now."""
        do()

    def watch_agent(self, cgroup: Path) -> None:
        """The programs that start in this cgroup are tool calls, or the agent's own."""

    def watch_call(self, cgroup: Path) -> None:
        """This cgroup is a tool call's leaf."""

    def tell_programs(self, cgroup: Path) -> None:
        """Each program that starts in this call's leaf is of interest, not only those with a hint."""

    def forget(self, cgroup_id: int) -> None:
        """A leaf that was watched is gone."""

    def watch_exit(self, pid: int) -> None:
        """The end of this process is of interest, too."""

    def let_go(self, pid: int) -> None:
        """The program that this process started is the agent's own: don't hold it."""

    def ask_at(self, cgroup_id: int, amount: int) -> None:
        """Tell (``Grown``), once, when the memory of this leaf reaches ``amount`` bytes; only a source that sees memory can."""

    def counts(self, cgroup: Path) -> Counts | None:
        """What was counted in a watched cgroup; None where nothing is counted."""

    def figures(self) -> dict[str, float]:
        """How well the stream does: for the report."""
        return {}
