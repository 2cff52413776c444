"""A session's part of the history: itself, each of its calls when it is over, and samples while calls run."""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, get_args

from agentcgroup import cgroup
from agentcgroup.history.store import FILE
from agentcgroup.history.writer import Total, Writer
from agentcgroup.model import LARGEST_STATUS, CallRecord, Kind
from agentcgroup.policy import HistoryRule
from agentcgroup.session.layout import Layout
from agentcgroup.session.live import Live
from agentcgroup.session.marks import mark
from agentcgroup.session.report import command_words

_PUT_AGAIN_S = 30.0
"""How old the figures of a call that still runs may be in the history."""
_KINDS = get_args(Kind)
SECONDS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
BYTES = tuple(float(1 << shift) for shift in range(22, 36, 2))
"""Bounds of the histograms: 100 ms to 17 min, 4 MiB to 16 GiB."""
INTERVENTIONS = {"stopped": "stopped", "killed by the kernel": "killed", "waited": "waited", "braked": "braked", "told": "told",
                 "limits set": "limits_set", "ended": "ended"}  # fmt: skip
"""What was done to a call, by how its words begin, as metrics name it."""


class Recorder:
    """Nothing is looked at while no call runs."""

    def __init__(
        self, rule: HistoryRule, layout: Layout, began: float, identity: int, writer: Writer | None, log: Callable[[str], None]
    ) -> None:
        """``identity``: of a session whose history was begun by another governor; 0: a new one.  ``writer``: one that others use, too."""
        self._rule, self._layout, self._began = rule, layout, began
        self._running: dict[int, Live] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._sums: dict[int, tuple[int, int]] = {}
        self._put_at: dict[int, float] = {}
        loop = asyncio.get_running_loop()

        def complain(text: str) -> None:
            loop.call_soon_threadsafe(log, text)

        self._own = writer is None
        self._writer = (writer or Writer(FILE, rule.keep, rule.size, complain)) if rule.keep else None
        self.id = identity or time.time_ns()
        self._session: dict[str, Any] = {"id": self.id}

    def session_began(self, **row: Any) -> None:
        """The session, with the columns that are known at its start."""
        if self._writer is not None:
            self._session |= row
            self._writer.put("sessions", self._session)

    def call_began(self, live: Live) -> None:
        """A call is looked at from now on; one that takes longer than that is written down then, for its end may never be seen."""
        self._running[live.record.call] = live
        self._look_later()

    def goes_on(self, live: Live) -> None:
        """The root of a call has ended and processes of it have not: if that stays so, it is written down at the next look."""
        self._put_at.pop(live.record.call, None)

    def _put(self, live: Live) -> None:
        """Write down what is known of a call so far."""
        if self._writer is None:
            return
        row = {"session": self.id, **row_of(live.record)}
        if live.leaf is not None:
            with contextlib.suppress(cgroup.CgroupError, KeyError):
                row["peak_bytes"] = int(cgroup.read(live.leaf, "memory.peak"))
                row["cpu_s"] = cgroup.read_table(live.leaf, "cpu.stat")["usage_usec"] / 1e6
        self._put_at[live.record.call] = time.monotonic()
        self._writer.put("calls", row)

    def _look_later(self) -> None:
        if self._timer is None and self._writer is not None and self._rule.sample:
            self._timer = asyncio.get_running_loop().call_later(self._rule.sample, self._look)

    def call_ended(self, record: CallRecord, leaf: Path | None) -> None:
        """A call is over, its record complete, its leaf empty: it is removed, but not before the record is safe.

        Where others write to the same history (in the daemon), the leaf keeps the record until it is written there.
        """
        self._running.pop(record.call, None)
        self._put_at.pop(record.call, None)
        total, count = self._sums.pop(record.call, (0, 0))
        record.memory_mean_bytes = total // count if count else None
        row = row_of(record)
        if leaf is not None and self._own:
            cgroup.remove(leaf)
            leaf = None
        elif leaf is not None:
            mark(leaf, {"ended": row, "pid": record.pid})
        self.recover(row, leaf)

    def recover(self, row: dict[str, Any], leaf: Path | None) -> None:
        """The record of a call that is over; of one that ended under an earlier governor, it is what that left with the leaf."""
        if self._writer is not None:
            totals = totals_of(row)
            loop = asyncio.get_running_loop()
            then = partial(loop.call_soon_threadsafe, self._layout.give_back, leaf) if leaf else None
            self._writer.call_ended(self._session, row, totals, then)
        elif leaf is not None:
            cgroup.remove(leaf)

    def kind_changed(self, record: CallRecord) -> None:
        """It turned out whose command a call was that is over."""
        if self._writer is not None:
            self._writer.change_kind(self.id, record.call, record.kind)

    def session_ended(self, **row: Any) -> None:
        """The session is over; waits until all is written."""
        if self._writer is not None:
            self._writer.change_session(self.id, **row)
            self._writer.forget_old()
        self.close()

    def close(self) -> None:
        """Look no more; with a writer of its own, wait until all is written."""
        if self._timer is not None:
            self._timer.cancel()
        if self._writer is not None and self._own:
            self._writer.close()

    def _look(self) -> None:
        self._timer = None
        if not self._running or self._writer is None:
            return
        now = time.monotonic()
        for call, live in self._running.items():
            if now - self._put_at.get(call, -_PUT_AGAIN_S) >= _PUT_AGAIN_S:
                self._put(live)
            if live.leaf is not None:
                with contextlib.suppress(cgroup.CgroupError):
                    total, count = self._sums.get(call, (0, 0))
                    self._sums[call] = total + int(cgroup.read(live.leaf, "memory.current")), count + 1
        with contextlib.suppress(cgroup.CgroupError):
            sample = {
                "session": self.id,
                "at_s": time.monotonic() - self._began,
                "agent_bytes": int(cgroup.read(self._layout.agent, "memory.current")),
                "calls_bytes": int(cgroup.read(self._layout.tools, "memory.current")),
                "cpu_s": cgroup.read_table(self._layout.top, "cpu.stat")["usage_usec"] / 1e6,
            }
            self._writer.put("samples", sample)
        self._look_later()


def totals_of(row: dict[str, Any]) -> Iterator[Total]:
    """What a call adds to the totals of its class; the parts of histograms are labelled by their upper bound.

    Of a command that is not the model's, only that it ran: the rest would hide what the model's took.
    """
    kind = row["kind"] if row["kind"] in _KINDS else "tool"
    yield "commands", kind, 1
    if kind != "tool":
        return
    status = row["exit_status"]
    known = status is not None and 0 <= status <= LARGEST_STATUS
    ending = "unknown" if not known else "ok" if status == 0 else "signal" if os.WIFSIGNALED(status) else "failed"
    yield "calls", ending, 1
    for name, value, bounds in (("seconds", row["duration_s"], SECONDS), ("peak_bytes", row["peak_bytes"], BYTES)):
        if value is not None:
            yield name, "sum", value
            yield name, _bucket(value, bounds), 1
    yield "cpu_seconds", "", row["cpu_s"] or 0.0
    yield "stalled_seconds", "", row["stalled_s"] or 0.0
    for deed in row["deeds"]:
        if (what := next((short for begin, short in INTERVENTIONS.items() if deed["what"].startswith(begin)), None)) is not None:
            yield "interventions", what, 1
    # Zero as well: a counter is there from the first call on, or its rate would have no value until the second wait.
    yield "waited_seconds", "", sum(deed["lasted_s"] or 0.0 for deed in row["deeds"])


def _bucket(value: float, bounds: Sequence[float]) -> str:
    return f"{next((bound for bound in bounds if value <= bound), float('inf')):g}"


def row_of(record: CallRecord) -> dict[str, Any]:
    """A call as the history has it."""
    return {
        "call": record.call,
        "started_s": record.started_s,
        "duration_s": None if record.ended_s is None else max(0.0, record.ended_s - record.started_s),
        "kind": record.kind,
        "class": record.class_name,
        "command": command_words(record),
        "hint": str(record.hint),
        "exit_status": record.exit_status,
        "limit_bytes": record.limits.memory_high_bytes if record.limits else None,
        "peak_bytes": record.memory_peak_bytes,
        "mean_bytes": record.memory_mean_bytes,
        "cpu_s": record.cpu_s,
        "stalled_s": record.stalled_s,
        "waited_s": record.waited_s,
        "processes": record.processes,
        "deeds": [asdict(deed) for deed in record.deeds],
    }
