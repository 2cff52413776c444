"""The scheduler of tool calls: ``bpf/scheduler.bpf.c``, loaded, in force, and watched.

It is in force as long as the process that loaded it lives and keeps it open; then, and whenever the kernel puts
it out (an error, the watchdog, SysRq-S), all tasks are with the kernel's own scheduler again, within moments.
"""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from agentcgroup.kernel import libbpf, maps
from agentcgroup.kernel.files import object_path
from agentcgroup.kernel.records import BUCKETS, FAREWELL, FIGURES, RATES, Farewell, HoldReason, Rates

STATE = Path("/sys/kernel/sched_ext")
SCHED_EXT = 7
"""The policy of tasks that a scheduler loaded with SCX_OPS_SWITCH_PARTIAL gets."""
_MS = 1_000_000
RATES_IN_FORCE = Rates(slice_ns=5 * _MS, credit_ns=30 * _MS, hold_ns=20 * _MS, stop_ns=2 * _MS, protect_ns=50 * _MS)
"""A slice is short enough for four programs on one processor to take turns within a person's patience; recorded quick calls
(``ls``, ``git status``) use less than the credit; holds of 20 ms let 13 MB/s through (one charge is 256 KiB)."""
_NEEDED = ("scx_bpf_dsq_insert_vtime", "scx_bpf_task_set_slice", "scx_bpf_dsq_peek", "bpf_task_work_schedule_resume")
"""Kernel functions, by the release that brought them: 6.13, 6.19, 6.19, 7.0."""
_OPS = "agentcgroup"
_MOST_LISTS = 8


@dataclass(frozen=True, slots=True)
class Ejected:
    """The kernel took the scheduler out; ``aside``: it stepped aside itself, because other programs need the processors."""

    why: str
    aside: bool


class Figures(NamedTuple):
    """What the scheduler counted; histograms by powers of two of microseconds."""

    ran_ns: int
    held_ns: int
    holds: dict[str, int]
    protections: int
    waits: tuple[int, ...]
    delays: tuple[int, ...]
    held: tuple[int, ...]
    reactions: tuple[int, ...]


def lacking() -> str:
    """Why this kernel can't have the scheduler, in words; empty when it can."""
    if not STATE.exists():
        return "this kernel has no sched_ext (6.12, CONFIG_SCHED_CLASS_EXT)"
    with libbpf.KernelTypes() as types:
        missing = [name for name in _NEEDED if not types.has_function(name)]
    return f"this kernel's sched_ext can't hold a task safely: it lacks {', '.join(missing)} (7.0)" if missing else ""


class Scheduler:
    """The scheduler in force.  Closing it, or the death of this process, puts the kernel's own back."""

    def __init__(self, path: Path | None = None) -> None:
        """Raises BpfError when it can't be had here, with the reason."""
        if why := lacking():
            raise libbpf.BpfError("no sched_ext scheduler", why, "cgroup files do its work")
        if other := running():
            raise libbpf.BpfError("no sched_ext scheduler", f"another one is loaded: {other}", "unload it, or do without ours")
        self._object = libbpf.Object(path or object_path("scheduler"))
        self._farewell: Ejected | None = None
        try:
            self._object.set_constants(".rodata.rates", RATES.pack(*RATES_IN_FORCE))
            self._object.load()
            self._object.attach()
            self._ring = maps.RingBuffer(self._object.map_descriptor("farewells"), self._said_farewell)
            self._object.attach_struct_ops(_OPS)
        except BaseException:
            self._object.close()
            raise
        self.calls = self._object.map_descriptor("calls")
        self.calls_id = maps.map_id(self.calls)
        self.figures_id = maps.map_id(self._object.map_descriptor(".bss"))

    def fileno(self) -> int:
        """Readable when the kernel has taken it out."""
        return self._ring.fileno()

    def ejected(self) -> Ejected | None:
        """Why it is not in force any more; None while it is."""
        self._ring.consume()
        return self._farewell

    def _said_farewell(self, data: bytes) -> None:
        said = Farewell._make(FAREWELL.unpack(data))
        words = [text.split(b"\0", 1)[0].decode(errors="replace") for text in (said.reason, said.message)]
        self._farewell = Ejected(": ".join(filter(None, words)) or f"exit {said.kind}", aside=said.code != 0)

    def close(self) -> None:
        self._ring.close()
        self._object.close()


def try_load(path: Path | None = None) -> None:
    """Have the kernel check the programs without putting them into force.  Raises BpfError."""
    opened = libbpf.Object(path or object_path("scheduler"))
    try:
        opened.set_constants(".rodata.rates", RATES.pack(*RATES_IN_FORCE))
        opened.load()
    finally:
        opened.close()


def running() -> str:
    """The name of the scheduler that is loaded; empty when there is none."""
    try:
        return _text(STATE / "root/ops") if _text(STATE / "state") != "disabled" else ""
    except OSError:
        return ""


def _text(file: Path) -> str:
    return os.fsdecode(file.read_bytes()).strip()


def read_figures(figures_id: int) -> Figures:
    """What a scheduler has counted so far.  Raises BpfError when it is gone."""
    counted = maps.Map.by_id(figures_id, FIGURES.size)
    try:
        values = FIGURES.unpack(counted.get(bytes(4)) or bytes(FIGURES.size))
    finally:
        counted.close()
    after = 2 + len(HoldReason) + 1
    holds = {reason.name.lower(): values[2 + reason] for reason in HoldReason}
    histograms = [values[after + number * BUCKETS : after + (number + 1) * BUCKETS] for number in range(4)]
    return Figures(values[0], values[1], holds, values[after - 1], *histograms)


def give(pid: int) -> None:
    """Hand a process to the scheduler, all its threads; what they start follows them.  One that is gone is no error.

    A thread may end while the others are looked at, and one that was not given yet may start another meanwhile: they are listed again
    until there are no new ones.
    """
    given: set[int] = set()
    for _ in range(_MOST_LISTS):
        with contextlib.suppress(OSError):
            threads = {int(thread.name) for thread in Path(f"/proc/{pid}/task").iterdir()} - given
            for thread in threads:
                with contextlib.suppress(ProcessLookupError):
                    os.sched_setscheduler(thread, SCHED_EXT, os.sched_param(0))
            given |= threads
            if threads:
                continue
        return
