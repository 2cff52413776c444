"""What is read when the kernel says that a call waits, for memory or for a processor: at most so often, and only then."""

import contextlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from agentcgroup import cgroup
from agentcgroup import control_events as ctl
from agentcgroup.session.live import Live
from agentcgroup.sources import Waited

_EVERY_S = 0.5


class Pressure:
    """Turns the kernel's word that a call waited into what the controller wants to know."""

    def __init__(self, live: Mapping[int, Live], slowed_s: Callable[[Path], float]) -> None:
        """``slowed_s``: for how long the enforcer made a leaf's processes sleep."""
        self._live, self._slowed_s = live, slowed_s
        self._computed_at = float("-inf")

    def heard(self, call: int, event: Waited) -> ctl.Event | None:
        """The controller's event; None where there is nothing new, or the leaf is gone."""
        live = self._live[call]
        if event.resource == "cpu":
            return self._computed()
        if live.leaf is None:
            return None
        try:
            stalled_us = cgroup.read_pressure(live.leaf, "memory")["full"]["total"]
        except (cgroup.CgroupError, KeyError):  # no PSI here: not known
            return None
        # What we slow is no lack of memory.  An enforcer that comes after another one counts from 0.
        before_s, live.slowed_by_it_s = live.slowed_by_it_s, self._slowed_s(live.leaf)
        live.slowed_s += max(0.0, live.slowed_by_it_s - before_s)
        return ctl.Stalled(call, stalled_us / 1e6 - live.slowed_s)

    def _computed(self) -> ctl.Computed | None:
        now = time.monotonic()
        if now < self._computed_at + _EVERY_S:
            return None
        self._computed_at = now
        used = {}
        for call, live in self._live.items():
            with contextlib.suppress(cgroup.CgroupError):
                if live.leaf is not None:
                    used[call] = cgroup.read_table(live.leaf, "cpu.stat")["usage_usec"] / 1e6
        return ctl.Computed(used)
