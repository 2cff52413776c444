"""What the controller decided, done to a call: limits, words on its stderr, its end; and what was done, written down."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from agentcgroup import cgroup
from agentcgroup import control_events as ctl
from agentcgroup.command import display, key
from agentcgroup.enforce import kernel_release
from agentcgroup.model import CallRecord, Deed, Limits
from agentcgroup.session.live import Live
from agentcgroup.session.share import Share
from agentcgroup.session.voice import stop_call, tell_call
from agentcgroup.sockets import partners
from agentcgroup.text import clean
from agentcgroup.units import format_size

MOST_DEEDS = 64
"""Of one call, as it is kept."""
_MOST_PEAKS = 1000
"""Commands whose memory is remembered; the oldest goes first."""
_WORTH_ANNOUNCING_BYTES = 64 << 20
"""The peak of an earlier call from which the same command is expected to reach it again."""
_LEFT_S = 0.5
"""What lives so much longer than its call's root was left by it."""
_MOST_TOLD = 16
_LONGEST_NAME = 80
_LIMITS_WITHOUT_RECLAIM = (6, 16)
"""From here on a limit written with O_NONBLOCK does not wait until memory above it is reclaimed."""


def add_deed(record: CallRecord, deed: Deed) -> None:
    """Keep what was done to a call: the first things and the last ones, and in the middle how many more there were."""
    deeds, middle = record.deeds, MOST_DEEDS // 2
    deeds.append(deed)
    if len(deeds) > MOST_DEEDS:
        record.deeds_left_out += 1 if record.deeds_left_out else 2
        del deeds[middle]
        deeds[middle] = Deed(deeds[middle].at_s, f"{record.deeds_left_out} more things", "too many to be kept")


class Acts:
    """Carries actions out on the live calls of a session, which are in ``live``; ``share`` is set when there is one."""

    share: Share
    live: Mapping[int, Live]

    def __init__(
        self, log: Callable[[str], None], note: Callable[[CallRecord, Deed], None], began: float,
        explain: Callable[[Live, ctl.Notice], ctl.Notice],
    ) -> None:  # fmt: skip
        """``explain`` adds to what a call is told what only its cgroup knows."""
        self._log, self._note, self._began, self._explain = log, note, began, explain
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping: set[int] = set()
        self._peaks: dict[str, int] = {}

    def do(self, live: Live, action: ctl.SetLimits | ctl.Brake | ctl.Release | ctl.Tell | ctl.Stop) -> None:
        """Carry one action out."""
        if isinstance(action, ctl.SetLimits):
            live.record.limits = action.limits
            if live.limits is not None:
                same = action.limits.memory_high_bytes == live.limits.memory_high_bytes
                memory = f"{format_size(action.limits.memory_high_bytes)} of memory"
                self.deed(live, f"limits set ({f'CPU weight {action.limits.cpu_weight}' if same else memory})", action.why)
            self.apply_limits(live, action.limits)
        elif isinstance(action, ctl.Brake):
            self.deed(live, "braked", action.why)
        elif isinstance(action, ctl.Release):
            self.deed(live, "released", action.why)
        elif isinstance(action, ctl.Tell):
            self.deed(live, "told", action.notice.reason)
            notice = self._explain(live, action.notice)
            self.spawn(self._deliver(tell_call, live, notice))
            if notice.stopped and self._was_left(live):  # the kernel was faster
                self.spawn(self._tell_who_waits(live, notice))
        else:
            if not live.stopped:
                live.stopped = True
                self.deed(live, "stopped", action.why)
            if live.record.call not in self._stopping:  # else the one that was begun kills it
                self._stopping.add(live.record.call)
                self.spawn(self._stop(live, self._explain(live, action.notice)))

    def apply_limits(self, live: Live, limits: Limits) -> None:
        """Give a call's leaf its limits, and tell the host process of it."""
        if live.leaf is None:
            return
        before = live.limits
        lower = before is not None and limits.memory_high_bytes < before.memory_high_bytes
        try:
            if lower and kernel_release() < _LIMITS_WITHOUT_RECLAIM:
                self.spawn(_limit_beside(live.leaf, limits, before))
            else:
                cgroup.limit(live.leaf, limits, before or live.given, live.new)
            live.limits = limits
            (self.share.announced if before else self.share.began)(live, self._announced(live))
        except cgroup.CgroupError as error:
            if error.errno not in cgroup.GONE:
                self._log(f"call {live.record.call}: limits not set: {error}")

    def _announced(self, live: Live) -> int:
        """How much the call is known to need: by its hint, else by what the same command took before, else nothing."""
        record, said = live.record, live.record.hint.memory
        if isinstance(said, int):
            return said
        return self._peaks.get(key(record.command), record.expected_bytes or 0 if said else 0)

    def remember(self, record: CallRecord) -> None:
        """A call has ended: what it took is what the same command is expected to take again."""
        if (record.memory_peak_bytes or 0) >= _WORTH_ANNOUNCING_BYTES:
            if len(self._peaks) >= _MOST_PEAKS:
                del self._peaks[next(iter(self._peaks))]
            self._peaks[key(record.command)] = record.memory_peak_bytes or 0

    async def _deliver(
        self, way: Callable[[int, Path | None, float, ctl.Notice], Awaitable[bool]], live: Live, notice: ctl.Notice
    ) -> None:
        """Tell or stop a call; say so in the log where nobody could be told."""
        if not await way(live.record.pid, live.leaf, self._began + live.record.started_s, notice):
            self._log(f"call {live.record.call}: nobody could be told: {notice.reason}")

    async def _stop(self, live: Live, notice: ctl.Notice) -> None:
        try:
            first = partial(self._tell_who_waits, live, notice) if self._was_left(live) else None
            await self._deliver(partial(stop_call, first=first), live, notice)
        finally:
            self._stopping.discard(live.record.call)

    def _was_left(self, live: Live) -> bool:
        """Whether a call is only what it left running: its agent has its answer, and does not listen any more."""
        ended_s = live.record.ended_s
        return ended_s is not None and self.now() - ended_s > _LEFT_S

    async def _tell_who_waits(self, left: Live, notice: ctl.Notice) -> None:
        """What a call left running (a build daemon) ends: tell the calls that talk with it or, where none is seen to, all that run."""
        may_wait = {
            call: live
            for call, live in self.live.items()
            if live is not left and live.record.kind == "tool" and live.record.ended_s is None and not live.stopped
        }
        talking = partners(_members(left), {call: _members(live) for call, live in may_wait.items()})
        said = replace(notice, left_by=clean(left.record.command, _LONGEST_NAME) or display(left.record.argv, _LONGEST_NAME))
        told = [may_wait[call] for call in sorted(talking or may_wait)[:_MOST_TOLD]]
        for live in told:
            self.deed(live, "told", f"what call {left.record.call} left running was stopped")
        await asyncio.gather(*(self._deliver(tell_call, live, said) for live in told))

    def deed(self, live: Live, what: str, why: str, lasted_s: float | None = None) -> None:
        """Write down what was done to a call."""
        deed = Deed(self.now(), clean(what, 200), clean(why), lasted_s)
        add_deed(live.record, deed)
        self._note(live.record, deed)
        self._log(f"call {live.record.call}: {what} ({why})")

    def now(self) -> float:
        """Seconds since the session began."""
        return time.monotonic() - self._began

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something beside everything else; ``finish`` waits for it."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log(f"not done: {error}")

    async def finish(self) -> None:
        """Wait for what was begun."""
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)


def _members(live: Live) -> list[int]:
    """A call's processes; none where they can't be known now."""
    with contextlib.suppress(cgroup.CgroupError):
        return cgroup.processes(live.leaf) if live.leaf is not None else []
    return []


async def _limit_beside(leaf: Path, limits: Limits, before: Limits | None) -> None:
    """Lower a limit in a thread of its own, for as long as the kernel needs to reclaim what is above it."""
    with contextlib.suppress(cgroup.CgroupError):
        await asyncio.to_thread(cgroup.limit, leaf, limits, before)
