"""Feedback onto a call's stderr, through a descriptor taken from one of its processes; the end of a call.

The descriptor is taken when there is something to say and closed at once, so an agent that waits for
end-of-file never waits for us.  Nobody who owns a stream can make us wait longer than ``PATIENCE_S`` for a whole call.
"""

import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

from agentcgroup import cgroup, process, streams
from agentcgroup.control_events import Notice
from agentcgroup.feedback import FORMAT_VARIABLE, render

PATIENCE_S = 0.5
"""For all processes of a call together: the agent may be slow to read, or not read at all."""
_TICK_S = 0.02
"""The kernel tells when a process started in hundredths of a second."""
_MOST_ASKED = 64
"""Processes of a call whose streams are looked at."""


async def tell_call(root: int, leaf: Path | None, began_s: float, notice: Notice) -> bool:
    """Write a notice to a call's stderr: its root's, or that of any process left in its leaf.

    ``began_s``: when the call began (CLOCK_MONOTONIC); where it has no leaf, a younger process that has the root's number is another.
    """
    deadline = time.monotonic() + PATIENCE_S
    waiting = _voices(root, leaf, discarded_too=not notice.stopped or bool(notice.left_by))
    while waiting and (now := time.monotonic()) < deadline:
        one, *waiting = waiting
        with _held(one.pid, leaf, began_s) as pidfd:
            if pidfd is None:
                continue
            text = render(notice, process.variables(one.pid, FORMAT_VARIABLE).get(FORMAT_VARIABLE) == "json")
            # What is as full for another process is tried once; and one that is full leaves some time for the others.
            waiting = [other for other in waiting if other.leads_to != one.leads_to]
            if await streams.write(one, pidfd, text, now + (deadline - now) / 2 if waiting else deadline):
                return True
    return False


async def stop_call(
    root: int, leaf: Path | None, began_s: float, notice: Notice, first: Callable[[], Awaitable[None]] | None = None
) -> bool:
    """Freeze, tell, kill.  Whatever goes wrong in between, the kill comes.  False when nobody could be told.

    ``first``: what is to be done before the call ends, beside telling it.
    Frozen first, so that the feedback is there before the agent can see the call's end.  Raises CgroupError where it could not
    be frozen or killed; a leaf that is gone has nobody in it.
    """
    if leaf is None:
        with _held(root, leaf, began_s) as pidfd:
            told = await tell_call(root, leaf, began_s, notice)
            if pidfd is not None:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        return told
    not_frozen: cgroup.CgroupError | None = None
    try:
        try:
            cgroup.freeze(leaf, True)
        except cgroup.CgroupError as error:
            if error.errno not in cgroup.GONE:
                not_frozen = error  # it is told and killed all the same; the agent may see the end first
        if first is not None:
            await first()
        told = await tell_call(root, leaf, began_s, notice)
    finally:
        cgroup.kill(leaf)
    if not_frozen is not None:
        raise not_frozen
    return told


@contextlib.contextmanager
def _held(pid: int, leaf: Path | None, began_s: float) -> Iterator[int | None]:
    """A pidfd of a process of the call: its number is not another's meanwhile.  None if it is gone, or not of the call.

    Raises OSError where it can't be had for another reason, as without a free descriptor.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield pidfd if _belongs(pid, leaf, began_s) else None
    finally:
        os.close(pidfd)


def _belongs(pid: int, leaf: Path | None, began_s: float) -> bool:
    if leaf is None:
        started_s = process.started_s(pid)
        return started_s is not None and started_s <= began_s + _TICK_S
    try:
        return cgroup.of_process(pid).is_relative_to(leaf)
    except ProcessLookupError:
        return False


def _voices(root: int, leaf: Path | None, discarded_too: bool) -> list[streams.Stream]:
    """The streams to write to, the best one first: stderr before stdout, and what leads out of the call before what a process of it reads.

    A call whose stderr was thrown away (``2>/dev/null``) is told on stdout: its output is cut off
    anyway when it is stopped, and an agent that is told nothing repeats the call.
    """
    members = cgroup.processes(leaf)[:_MOST_ASKED] if leaf else [root]
    found = []
    for pid in sorted(members, key=lambda pid: pid != root):
        for number in (2, 1):
            one = streams.stream(pid, number)
            if one is not None and (discarded_too or one.leads_to != streams.DISCARDED):
                found.append(one)
    inside: set[str] = set()
    if any(one.leads_to.startswith("pipe:") for one in found):
        inside = set().union(*(streams.is_read_by(pid) for pid in members))
    return sorted(found, key=lambda one: one.leads_to in inside)
