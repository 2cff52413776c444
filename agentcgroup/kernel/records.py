"""The monitor's records and map values as bytes: what ``bpf/events.h`` declares.

A test compares the layouts below with the BTF of the compiled object, so they can't drift apart.
"""

import struct
from enum import IntEnum
from typing import NamedTuple


class Kind(IntEnum):
    """``enum event_kind``."""

    FORK = 1
    EXEC = 2
    EXIT = 3
    EMPTY = 4
    GROWTH = 5
    OVER = 6
    FULL = 7
    OOM = 8
    VICTIM = 9
    STALL = 10
    STARVED = 11
    HELD_OUT = 12
    WANTS = 13
    LEFT = 14


class Role(IntEnum):
    """``enum place_role``."""

    AGENT = 1
    CALL = 2


class Flag(IntEnum):
    """``enum event_flag``."""

    UNREAD = 1


class Record(NamedTuple):
    """``struct event``."""

    at_ns: int
    cgroup: int
    amount: int
    ran_ns: int
    kind: int
    pid: int
    folded: int
    flags: int
    hint: bytes


class Place(NamedTuple):
    """``struct place``: thresholds and role are ours to write, the counters the kernel's."""

    step_bytes: int
    stall_ns: int
    wait_ns: int
    role: int
    tell_programs: int = 0
    window_records: int = 0
    padding: int = 0
    forks: int = 0
    waited_ns: int = 0
    stalled_ns: int = 0
    folded_total: int = 0
    window: int = 0
    folded: int = 0
    step_from_bytes: int = 0
    step_from_ns: int = 0
    told_stalled_ns: int = 0
    told_waited_ns: int = 0
    hint_hash: int = 0


class Settings(NamedTuple):
    """``struct settings``."""

    step_time_ns: int
    hold_cap_ns: int


class Counts(NamedTuple):
    """``struct counts``."""

    made: int
    lost: int
    holds: int
    held_ns: int


class Call(NamedTuple):
    """``struct call``."""

    brake_until_ns: int
    stop_at_bytes: int
    rank: int
    padding: int = 0


class Slowed(NamedTuple):
    """``struct slowed``: the kernel's to write."""

    total_ns: int
    until_ns: int
    usage_bytes: int
    owed_ns: int


class Rates(NamedTuple):
    """``struct rates``, nanoseconds."""

    slice_ns: int
    credit_ns: int
    hold_ns: int
    stop_ns: int
    protect_ns: int


class HoldReason(IntEnum):
    """``enum hold_reason``."""

    BRAKE = 0
    GRANT = 1
    PROTECT = 2
    QUOTA = 3


class Farewell(NamedTuple):
    """``struct farewell``."""

    kind: int
    padding: int
    code: int
    reason: bytes
    message: bytes


BUCKETS = 32
"""Of each of the histograms in ``struct figures``, by powers of two of microseconds."""
SETTINGS = struct.Struct("=2Q")
COUNTS = struct.Struct("=4Q")
RECORD = struct.Struct("=4Q4I128s")
STARTED = struct.Struct(f"={RECORD.size}s2I2048s")
PLACE = struct.Struct("=3Q4I11Q")
TRACKED = struct.Struct("=2IQ")
GRANT = struct.Struct("=Q2I")
CALL = struct.Struct("=2Q2I")
SLOWED = struct.Struct("=4Q")
RATES = struct.Struct("=5Q")
FIGURES = struct.Struct("=135Q")
FAREWELL = struct.Struct("=2IQ64s192s")
