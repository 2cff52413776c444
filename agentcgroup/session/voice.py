"""Feedback onto a call's stderr, through a descriptor taken from one of its processes; the end of a call.

The descriptor is taken when there is something to say and closed at once, so an agent that waits for
end-of-file never waits for us.  Nobody who owns a stream can make us wait longer than ``PATIENCE_S`` for a whole call.
"""

import contextlib
import errno
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from agentcgroup import cgroup, process, streams
from agentcgroup.control_events import Notice
from agentcgroup.feedback import FORMAT_VARIABLE, render

PATIENCE_S = 0.5
"""For all processes of a call together: the agent may be slow to read, or not read at all."""
_MOST_ASKED = 64
"""Processes of a call whose streams are looked at."""


async def tell_call(root: int, leaf: Path | None, notice: Notice) -> bool:
    """Write a notice to a call's stderr: its root's, or that of any process left in its leaf."""
    deadline = time.monotonic() + PATIENCE_S
    for one in _voices(root, leaf, discarded_too=not notice.stopped):
        if time.monotonic() > deadline:
            break
        with _held(one.pid, leaf) as pidfd:
            if pidfd is None:
                continue
            text = render(notice, process.variables(one.pid, FORMAT_VARIABLE).get(FORMAT_VARIABLE) == "json")
            if await streams.write(one, pidfd, text, deadline):
                return True
    return False


async def stop_call(root: int, leaf: Path | None, notice: Notice) -> bool:
    """Freeze, tell, kill.  Whatever goes wrong in between, the kill comes.  False when nobody could be told.

    Frozen first, so that the feedback is there before the agent can see the call's end.  Raises CgroupError where it could not
    be killed.
    """
    if leaf is None:
        with _held(root, leaf) as pidfd:
            told = await tell_call(root, leaf, notice)
            if pidfd is not None:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        return told
    try:
        # A leaf that can't be frozen is told and killed all the same; the agent may then see the end first.
        with contextlib.suppress(cgroup.CgroupError):
            cgroup.freeze(leaf, True)
        return await tell_call(root, leaf, notice)
    finally:
        try:
            cgroup.kill(leaf)
        except cgroup.CgroupError as error:
            if error.errno not in (errno.ENOENT, errno.ENODEV):  # else it ended by itself
                raise


@contextlib.contextmanager
def _held(pid: int, leaf: Path | None) -> Iterator[int | None]:
    """A pidfd of a process that is in the leaf (where there is one): its number is not another's meanwhile.  None if it is gone."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        yield None
        return
    try:
        yield pidfd if _belongs(pid, leaf) else None
    finally:
        os.close(pidfd)


def _belongs(pid: int, leaf: Path | None) -> bool:
    try:
        return leaf is None or cgroup.of_process(pid).is_relative_to(leaf)
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
