"""Events from inside the kernel: ``bpf/monitor.bpf.c``, loaded, attached, and read through its ring buffer.

Hints are read from the environment in the kernel, at the exec: reading them from /proc would need an event for
every exec inside a leaf, where only those with a new hint are told.

What a kernel does not allow is left out in this order, and said: the hold of new programs (functions
open to error injection), then everything that is attached to functions.  Without the trace points of
processes there is no monitor, and the process connector takes its place.
"""

import contextlib
import hashlib
import os
import struct
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

from agentcgroup.cgroup import CgroupError, number
from agentcgroup.kernel import libbpf, maps
from agentcgroup.kernel.files import object_path
from agentcgroup.kernel.records import (
    COUNTS,
    GRANT,
    PLACE,
    RECORD,
    SETTINGS,
    STARTED,
    TRACKED,
    Flag,
    Kind,
    Place,
    Record,
    Role,
    Settings,
)
from agentcgroup.kernel.records import Counts as RecordCounts
from agentcgroup.policy import MonitorRule
from agentcgroup.process import words_of
from agentcgroup.sources import (
    Counts,
    Emptied,
    Event,
    Execed,
    Exited,
    Forked,
    Grown,
    HeldOut,
    HintSeen,
    HintUnread,
    Left,
    Lost,
    MemoryNews,
    Source,
    Victim,
    Waited,
)

_NS = 1_000_000_000
_MEMORY = {Kind.GROWTH: "growth", Kind.OVER: "over", Kind.FULL: "full", Kind.OOM: "oom"}
_HOLD, _AGAIN = "hold_", "again_"
_PARTS: tuple[list[str], ...] = ([], ["the hold of new programs"], ["what is attached to functions"])
"""What a kernel may make us leave out."""
_TOLD_TWICE, _SECOND, _TOLD_ONCE = {"on_fork", "on_exec", "on_exit"}, {"again_fork", "again_exec", "again_exit"}, {"on_populated"}
_LOOK_S = 0.4
"""How far apart looks at what was missed are: less than what a governor waits before it drains once more when nothing follows."""
_NEEDED = _TOLD_TWICE | _TOLD_ONCE


def _is_needless(program: str) -> bool:
    """Nothing can come between a trace point and its program before 7.0: a second one is not needed."""
    return program.startswith(_AGAIN) and int(os.uname().release.split(".")[0]) < 7


def _arguments(data: bytes) -> tuple[str, ...]:
    """The arguments of a program, where a record holds them."""
    if len(data) < STARTED.size:
        return ()
    _, length, _, args = STARTED.unpack_from(data)
    return words_of(args[:length])


class Monitor(Source):
    """The BPF monitor of one daemon.  Closing it, or the death of the process, takes it out of the kernel."""

    name = "BPF monitor"
    sees_inside = True

    def __init__(
        self,
        rule: MonitorRule,
        path: Path | None = None,
        ring_bytes: int = 2 << 20,
        kept: Mapping[str, Mapping[str, list[int]]] | None = None,
    ) -> None:
        """``kept``: what monitors of earlier processes left (``to_keep``), by their names; one that is like this one would be is gone on
        with, and what it saw meanwhile is delivered.  Raises BpfError when the monitor can't be loaded.
        """
        self._rule = rule
        self.without: list[str] = []
        self._path, self._ring_bytes = path or object_path("monitor"), ring_bytes
        self._object = self._left_by_another(kept or {}) or self._load(self._path, ring_bytes)
        try:
            self._places = maps.Map(self._object.map_descriptor("places"), PLACE.size)
            self._tracked = maps.Map(self._object.map_descriptor("tracked"), TRACKED.size)
            self._grants = maps.Map(self._object.map_descriptor("grants"), GRANT.size)
            self._watchful = [self._object.program_descriptors(names) for names in (_TOLD_TWICE, _SECOND, _TOLD_ONCE)]
            self._looks: deque[tuple[int, int]] = deque([(0, 0)] * 2, maxlen=2)
            self._missed, self._look_at = 0, 0.0
            self._ring = maps.RingBuffer(self._object.map_descriptor("records"), self._record)
            self._overtaken = self._ring.overtaken
        except BaseException:
            self._object.close()
            raise
        self.sees_memory = not any("functions" in what for what in self.without)
        self._live_counts = self._object.memory(".bss")
        self._deliver: Callable[[Event], None]
        self._lost = self._received = 0
        self._worst_lag_ns = self._lag_sum_ns = 0

    def _left_by_another(self, kept: Mapping[str, Mapping[str, list[int]]]) -> libbpf.Kept | None:
        """The monitor of an earlier process, if it is what this one would load."""
        for left_out in _PARTS if kept and self._path.exists() else ():
            self.without = left_out
            if (found := kept.get(self.kind)) is not None:
                return libbpf.Kept(found)
        return None

    def _load(self, path: Path, ring_bytes: int) -> libbpf.Object:
        """The object with as many of its programs as this kernel takes."""
        without: list[str] = []
        steps: list[tuple[str, Callable[[str, str], bool]]] = [
            ("the hold of new programs", lambda name, section: name.startswith(_HOLD)),
            ("what is attached to functions", lambda name, section: not section.startswith("tp_btf/")),
        ]
        # Without a hold to do there is nothing to say of it.
        steps[:1] = [("", lambda name, section: False), steps[0]] if self._rule.hold else [("", steps[0][1])]
        for what, left_out in steps:
            opened = libbpf.Object(path)
            try:
                without = [what] if what else []
                programs = opened.programs().items()
                opened.leave_out({name for name, (_, section) in programs if left_out(name, section) or _is_needless(name)})
                opened.leave_out_what_the_kernel_lacks()
                if missing := _NEEDED & opened.left_out.keys():
                    raise libbpf.BpfError(
                        "the BPF monitor can't see processes", f"this kernel lacks {', '.join(sorted(missing))}"
                    )
                opened.set_constants(
                    ".rodata.settings", SETTINGS.pack(*Settings(int(self._rule.step_time * _NS), int(self._rule.hold * _NS)))
                )
                opened.resize("records", ring_bytes)
                opened.load()
                # A function takes 38 programs at most: more monitors than that go without.
                opened.attach()
            except libbpf.BpfError as error:
                opened.close()
                refused = error
                continue
            self.without = without
            return opened
        raise refused

    def fileno(self) -> int:
        return self._ring.fileno()

    def drain(self, deliver: Callable[[Event], None]) -> None:
        self._deliver = deliver
        self._ring.consume()
        lost = self._counted().lost + self._misses()
        if lost != self._lost or self._overtaken:
            self._lost, self._overtaken = lost, False
            deliver(Lost())

    def position(self) -> int:
        return self._ring.position

    def acted(self, position: int) -> None:
        self._ring.acted(position)

    @property
    def kind(self) -> str:
        """A name for what was loaded: the same for the same programs, settings and kernel's leavings."""
        about = repr((self._rule, self._ring_bytes, self.without)).encode()
        return f"monitor-{hashlib.sha256(self._path.read_bytes() + about).hexdigest()[:16]}"

    def to_keep(self) -> dict[str, list[int]]:
        """Descriptors with which the next process can go on (``kept``): as long as somebody holds them, the monitor sees on."""
        assert isinstance(self._object, libbpf.Object)
        return self._object.descriptors(("places", "tracked", "grants", "records", ".bss"), sorted(_NEEDED | _SECOND))

    def _misses(self) -> int:
        """Births, programs and ends that the kernel perhaps showed to none of our programs.

        Where there is a second program, it was left out for them, too: both were since the look before the last.  Looks are
        some time apart, for who is about to run the second program may have to wait for a processor.
        """
        first, second, once = (sum(map(libbpf.misses, programs)) for programs in self._watchful)
        if (now := time.monotonic()) >= self._look_at:
            before = self._looks[0]
            if first > before[0] and (second > before[1] or not self._watchful[1]):
                self._missed += 1
            self._looks.append((first, second))
            self._look_at = now + _LOOK_S
        return self._missed + once

    def _record(self, data: bytes) -> None:
        """One record of the kernel as the events it stands for."""
        record = Record._make(RECORD.unpack_from(data))
        lag = time.monotonic_ns() - record.at_ns
        self._received += 1
        self._lag_sum_ns += lag
        self._worst_lag_ns = max(self._worst_lag_ns, lag)
        kind, deliver = record.kind, self._deliver
        if kind == Kind.FORK:
            deliver(Forked(record.pid, record.amount, record.at_ns, record.cgroup))
        elif kind == Kind.EXEC:
            deliver(Execed(record.pid, record.at_ns, record.cgroup, _arguments(data)))
            if hint := record.hint.split(b"\0", 1)[0]:
                deliver(HintSeen(record.cgroup, record.pid, hint.decode(errors="replace")))
            elif record.flags & Flag.UNREAD:
                deliver(HintUnread(record.cgroup, record.pid))
        elif kind == Kind.EXIT:
            deliver(Exited(record.pid, record.amount, record.at_ns, record.ran_ns, record.cgroup))
        elif kind == Kind.LEFT:
            deliver(Left(record.cgroup, record.pid))
        elif kind == Kind.EMPTY:
            deliver(Emptied(record.cgroup))
        elif kind == Kind.VICTIM:
            deliver(Victim(record.cgroup, record.pid))
        elif kind in (Kind.STALL, Kind.STARVED):
            deliver(Waited(record.cgroup, "memory" if kind == Kind.STALL else "cpu", record.amount / _NS))
        elif kind == Kind.WANTS:
            deliver(Grown(record.cgroup, record.amount, record.at_ns))
        elif kind == Kind.HELD_OUT:
            deliver(HeldOut(record.pid, record.amount / _NS, record.cgroup))
        else:
            deliver(MemoryNews(record.cgroup, _MEMORY[Kind(kind)], record.at_ns))  # type: ignore[arg-type]

    def watch_agent(self, cgroup: Path) -> None:
        self._put(cgroup, Role.AGENT)

    def watch_call(self, cgroup: Path) -> None:
        self._put(cgroup, Role.CALL)

    def _put(self, cgroup: Path, role: Role) -> None:
        rule = self._rule
        place = Place(rule.step, int(rule.stalled * _NS), int(rule.starved * _NS), role)
        try:
            self._places.put(struct.pack("=Q", number(cgroup)), PLACE.pack(*place))
        except OSError as error:
            raise CgroupError(cgroup, "watching", error) from None

    def tell_programs(self, cgroup: Path) -> None:
        key = struct.pack("=Q", number(cgroup))
        if (value := self._places.get(key)) is not None:
            # What the kernel counted meanwhile may be lost by one or two; a leaf is new when this is asked.
            self._places.put(key, PLACE.pack(*Place._make(PLACE.unpack(value))._replace(tell_programs=1)))

    def watch_exit(self, pid: int) -> None:
        self._tracked.put(struct.pack("=I", pid), TRACKED.pack(1, 0, 0))

    def ask_at(self, cgroup_id: int, amount: int) -> None:
        # The entry goes with the cgroup, so a full map is all that can be wrong.
        with contextlib.suppress(OSError):
            self._grants.put(struct.pack("=Q", cgroup_id), GRANT.pack(amount, 0, 0))

    def let_go(self, pid: int) -> None:
        # Not if it has ended: nobody would take the entry away again.
        self._tracked.replace(struct.pack("=I", pid), TRACKED.pack(1, 0, 0))

    def counts(self, cgroup: Path) -> Counts | None:
        try:
            value = self._places.get(struct.pack("=Q", number(cgroup)))
        except CgroupError:
            return None
        if value is None:
            return None
        place = Place._make(PLACE.unpack(value))
        return Counts(place.forks, place.stalled_ns / _NS, place.waited_ns / _NS, place.folded_total)

    def figures(self) -> dict[str, float]:
        made, lost, holds, held_ns = self._counted()
        return {
            "records": made,
            "lost": lost,
            "missed": self._misses(),
            "lag_mean_ms": self._lag_sum_ns / 1e6 / max(1, self._received),
            "lag_worst_ms": self._worst_lag_ns / 1e6,
            "holds": holds,
            "held_mean_ms": held_ns / 1e6 / max(1, holds),
        }

    def _counted(self) -> RecordCounts:
        return RecordCounts._make(COUNTS.unpack_from(self._live_counts))

    def close(self) -> None:
        self._ring.close()
        self._object.close()
