"""A recorded run as what an agent does: its own memory, and tool calls that need some on top of it.  Pure.

Only the container's memory was measured.  While a tool call runs, what is above the level at its start is taken to be
the call's; the agent has the rest.
"""

import bisect
from typing import NamedTuple

from agentcgroup.replay.traces import Run

Points = tuple[tuple[float, int], ...]
"""Memory over time: from each time (seconds) on that many bytes."""


class Part(NamedTuple):
    """One process to play: from when to when (seconds since the start), its memory (times since its own start), and its name.

    ``cpu_s`` is the processor time that it uses.
    """

    from_s: float
    to_s: float
    points: Points
    cpu_s: float
    command: str

    @property
    def peak(self) -> int:
        """The most memory it has, in bytes."""
        return max((size for _, size in self.points), default=0)


def whole(run: Run, base: int = 0) -> Part:
    """The run as one process, with ``base`` bytes more than was measured."""
    start = run.samples[0].at_s
    points = tuple((sample.at_s - start, base + sample.memory) for sample in run.samples)
    return Part(0.0, run.duration_s, points, _cpu(run, start, run.samples[-1].at_s), run.task)


def agent_and_calls(run: Run) -> tuple[Part, list[Part]]:
    """The run as its agent and its tool calls; calls that overlap are taken one after the other."""
    start, times = run.samples[0].at_s, [sample.at_s for sample in run.samples]
    calls: list[Part] = []
    own: list[tuple[float, int]] = []
    at, free_from = 0, start
    for call in run.calls:
        begin, end = max(call.from_s, free_from), min(call.to_s, times[-1])
        if end <= begin:
            continue
        first = bisect.bisect_right(times, begin)
        own += [(sample.at_s - start, sample.memory) for sample in run.samples[at:first]]
        level = run.samples[max(0, first - 1)].memory
        at = bisect.bisect_right(times, end)
        during = run.samples[first:at]
        points = ((0.0, 0), *((sample.at_s - begin, max(0, sample.memory - level)) for sample in during))
        # The agent waits for its call, so what became of its own memory meanwhile is seen when that ends.
        own += [(end - start, min(level, sample.memory)) for sample in during[-1:]]
        calls.append(Part(begin - start, end - start, points, _cpu(run, begin, end), call.command))
        free_from = end
    own += [(sample.at_s - start, sample.memory) for sample in run.samples[at:]]
    own_cpu = max(0.0, _cpu(run, start, times[-1]) - sum(call.cpu_s for call in calls))
    return Part(0.0, times[-1] - start, tuple(own), own_cpu, run.task), calls


def _cpu(run: Run, begin: float, end: float) -> float:
    """Processor time between two times: each sample counts for the time until the next."""
    used = 0.0
    for sample, after in zip(run.samples, run.samples[1:], strict=False):
        used += sample.cpu * max(0.0, min(end, after.at_s) - max(begin, sample.at_s))
    return used
