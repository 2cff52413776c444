"""Feedback onto a call's stderr, through a descriptor taken from one of its processes; the end of a call.

The descriptor is taken when there is something to say and closed at once, so an agent that waits for
end-of-file never waits for us.
"""

import asyncio
import contextlib
import os
import signal
from pathlib import Path

from agentcgroup import cgroup, process
from agentcgroup.control_events import Notice
from agentcgroup.feedback import FORMAT_VARIABLE, render

PATIENCE_S = 0.5
"""How long a full pipe is waited for: the agent may be slow to read, or not read at all."""


async def tell_call(root: int, leaf: Path | None, notice: Notice) -> bool:
    """Write a notice to a call's stderr: its root's, or that of any process left in its leaf."""
    return await _tell([root, *(cgroup.processes(leaf) if leaf else [])], notice)


async def stop_call(root: int, leaf: Path | None, notice: Notice) -> bool:
    """Freeze, tell, kill.  Whatever goes wrong in between, the kill comes.  False when nobody could be told.

    Frozen first, so that the feedback is there before the agent can see the call's end.
    """
    if leaf is None:
        told = await tell_call(root, leaf, notice)
        process.signal_all([root], signal.SIGKILL)
        return told
    try:
        cgroup.freeze(leaf, True)
        return await tell_call(root, leaf, notice)
    except cgroup.CgroupError:
        return True  # it ended by itself meanwhile
    finally:
        with contextlib.suppress(cgroup.CgroupError):
            cgroup.kill(leaf)


async def _tell(pids: list[int], notice: Notice) -> bool:
    """Write a notice to the stderr of the first of ``pids`` that has one; False when nobody could be told.

    A call whose stderr was thrown away (``2>/dev/null``) is told on stdout: its output is cut off
    anyway when it is stopped, and an agent that is told nothing repeats the call.
    """
    for pid in pids:
        descriptor = _voice_of(pid, discarded_too=not notice.stopped)
        if descriptor is None:
            continue
        text = render(notice, process.variables(pid, FORMAT_VARIABLE).get(FORMAT_VARIABLE) == "json")
        try:
            if process.write_without_waiting(descriptor, text, 0):
                return True
            if await asyncio.to_thread(process.write_without_waiting, descriptor, text, PATIENCE_S):
                return True
        finally:
            os.close(descriptor)
    return False


def _voice_of(pid: int, discarded_too: bool) -> int | None:
    for number in (2, 1):
        descriptor = process.take_descriptor(pid, number)
        if descriptor is None:
            continue
        if discarded_too or not process.is_discarded(descriptor):
            return descriptor
        os.close(descriptor)
    return None
