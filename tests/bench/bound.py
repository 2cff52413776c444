"""What no order of the isolation experiment's three runs can beat, though everything were known before: a figure to compare with."""

from agentcgroup.model import MIB
from agentcgroup.replay.traces import Run

SLOT_S = 0.05


def profile(run: Run, speed: float, base: int) -> list[int]:
    """The most MiB that a played run holds in each slot of ``SLOT_S``."""
    start = run.samples[0].at_s
    found = [0] * (int(run.duration_s / speed / SLOT_S) + 1)
    for sample, after in zip(run.samples, [*run.samples[1:], run.samples[-1]], strict=True):
        first, last = (int((one.at_s - start) / speed / SLOT_S) for one in (sample, after))
        for slot in range(first, last + 1):
            found[slot] = max(found[slot], (sample.memory + base) // MIB)
    return found


def earliest(high: list[int], low: list[int], capacity: int) -> int | None:
    """Slots until all have ended, if ``high`` never waits and two of ``low`` may each stop at any point, holding what they have.

    Breadth first over how far the two are: (further, less far).  None: they can't all end.
    """
    ended = (len(low), len(low))
    reached, slots = {(0, 0)}, 0
    while ended not in reached:
        if slots > len(high) + 2 * len(low):  # one after the other is the most that it may take
            return None
        needed = high[slots] if slots < len(high) else 0
        slots += 1
        reached = {
            (max(places), min(places))
            for one, other in reached
            for first in _moves(one, low)
            for second in _moves(other, low)
            if needed + first[1] + second[1] <= capacity
            for places in [(first[0], second[0])]
        }
    return max(slots, len(high))


def _moves(place: int, run: list[int]) -> list[tuple[int, int]]:
    """Where a run at ``place`` may be a slot later, and what it holds for that: it stays, or goes on."""
    if place == len(run):
        return [(place, 0)]
    return [(place, run[place - 1] if place else 0), (place + 1, run[place])]
