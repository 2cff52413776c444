"""What the files of calls' leaves say: read when the kernel says that they changed, or when the controller asks."""

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path

from agentcgroup import cgroup
from agentcgroup import control_events as ctl
from agentcgroup.session.live import Live
from agentcgroup.session.watch import Watcher


class Readings:
    """Turns what is read into events for the controller."""

    def __init__(
        self, live: Mapping[int, Live], watcher: Watcher, step: Callable[[ctl.Event], None], killed: Callable[[Live], None]
    ) -> None:
        """``step`` takes the events; ``killed`` is told of calls that the kernel's out-of-memory killer met."""
        self._live, self._watcher, self._step, self._killed = live, watcher, step, killed

    def watch(self, live: Live, leaf: Path, memory: bool) -> None:
        """Watch a call's leaf for processes that were refused and, where nothing else tells of it, for its memory."""
        call = live.record.call
        live.handles.append(self._watcher.file(leaf / "pids.events", lambda text: self._pids_event(call, text)))
        if memory:
            live.handles.append(self._watcher.file(leaf / "memory.events.local", lambda text: self._memory_event(call, text)))

    def _pids_event(self, call: int, text: str | None) -> None:
        live = self._live.get(call)
        if live is not None and text is not None and _rose(live, "pids", text, "max"):
            self._step(ctl.ProcessesRefused(call))

    def _memory_event(self, call: int, text: str | None) -> None:
        live = self._live.get(call)
        if live is None or text is None:
            return
        if _rose(live, "high", text, "high") | _rose(live, "max", text, "max"):
            self.measure(call)
        if _rose(live, "oom_kill", text, "oom_kill"):
            self._killed(live)

    def budget_event(self, text: str | None) -> None:
        """All calls together reached the session's share (or the file was read for the first time)."""
        if text is not None and any(live.leaf for live in self._live.values()):
            self.measure_all()

    def measure_all(self) -> None:
        """Tell the controller what the memory of all calls is now."""
        usages = {}
        for call, live in self._live.items():
            with contextlib.suppress(cgroup.CgroupError):
                if live.leaf is not None:
                    usages[call] = cgroup.usage(live.leaf)
        self._step(ctl.BudgetCrossed(usages, any(live.wait for live in self._live.values())))

    def measure(self, call: int) -> None:
        """Tell the controller what a call's memory is now."""
        live = self._live.get(call)
        with contextlib.suppress(cgroup.CgroupError):
            if live is not None and live.leaf is not None:
                self._step(ctl.Measured(call, cgroup.usage(live.leaf)))


def _rose(live: Live, key: str, text: str, name: str) -> bool:
    """Whether a counter of an events file is higher than last time."""
    count = next((int(line.split()[1]) for line in text.splitlines() if line.split()[0] == name), 0)
    rose = count > live.counts.get(key, 0)
    live.counts[key] = count
    return rose
