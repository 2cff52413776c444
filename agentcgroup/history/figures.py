"""What sessions did, in figures: those of the published characterization (arXiv 2602.09345), of one's own agents.  Pure."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]
"""A session, a call or a sample, as ``store`` returns it."""

_STOPPED = ("stopped", "killed by the kernel")
_WAITED = "waited"


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """The calls of one class.  Times in seconds, sizes in bytes."""

    name: str
    calls: int
    failed: int
    total_s: float
    p50_s: float
    p95_s: float
    peak: int
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Figures:
    """All of some sessions.  Shares from 0 to 1; None where nothing is known."""

    sessions: int
    calls: int
    total_s: float
    in_calls: float | None
    """Share of the sessions' time in which a tool call ran."""
    peak: int | None
    mean: float | None
    """Memory of agent and calls together while calls ran, in bytes."""
    stopped: int
    waits: int
    waited_s: float
    loops: int
    looping_sessions: int
    left_bytes: int
    reclaimed_bytes: int
    classes: tuple[ClassFigures, ...]

    @property
    def peak_to_mean(self) -> float | None:
        """How bursty it was: 1 is flat."""
        return self.peak / self.mean if self.peak and self.mean else None


def figures(parts: Sequence[tuple[Row, Sequence[Row], Sequence[Row]]]) -> Figures:
    """Of sessions, each with its calls and its samples."""
    calls = [call for _, of_session, _ in parts for call in of_session]
    samples = [sample for _, _, of_session in parts for sample in of_session]
    total = sum(length(session, of_session) for session, of_session, _ in parts)
    covered = sum(union(of_session) for _, of_session, _ in parts)
    deeds = [deed for call in calls for deed in call["deeds"]]
    waits = [deed for deed in deeds if deed["what"].startswith(_WAITED)]
    loops = [loop for session, _, _ in parts for loop in session["loops"]]
    peaks = [peak for _, of_session, seen in parts if (peak := session_peak(of_session, seen)) is not None]
    return Figures(
        sessions=len(parts),
        calls=sum(call["kind"] == "tool" for call in calls),
        total_s=total,
        in_calls=covered / total if total else None,
        peak=max(peaks, default=None),
        mean=statistics.fmean(sample["agent_bytes"] + sample["calls_bytes"] for sample in samples) if samples else None,
        stopped=sum(stopped(call) for call in calls),
        waits=len(waits),
        waited_s=sum(deed["lasted_s"] or 0.0 for deed in waits),
        loops=len(loops),
        looping_sessions=sum(bool(session["loops"]) for session, _, _ in parts),
        left_bytes=sum(loop["left_bytes"] for loop in loops),
        reclaimed_bytes=sum(loop["reclaimed_bytes"] for loop in loops),
        classes=tuple(sorted(map(_class, _by_class(calls).items()), key=lambda one: -one.total_s)),
    )


def length(session: Row, calls: Sequence[Row]) -> float:
    """How long a session took; of one that was never seen to end, until the last that is known of it."""
    if session["duration_s"] is not None:
        return float(session["duration_s"])
    return max((call["started_s"] + (call["duration_s"] or 0.0) for call in calls), default=0.0)


def union(calls: Sequence[Row]) -> float:
    """Seconds in which at least one tool call ran."""
    covered, until = 0.0, 0.0
    for call in sorted((call for call in calls if call["kind"] == "tool"), key=lambda call: call["started_s"]):
        end = call["started_s"] + (call["duration_s"] or 0.0)
        covered += max(0.0, end - max(until, call["started_s"]))
        until = max(until, end)
    return float(covered)


def session_peak(calls: Sequence[Row], samples: Sequence[Row]) -> int | None:
    """The highest memory of a session: of its samples, or of a call between two of them beside the agent as it was seen."""
    totals = [sample["agent_bytes"] + sample["calls_bytes"] for sample in samples]
    agent = min((sample["agent_bytes"] for sample in samples), default=0)
    alone = [call["peak_bytes"] + agent for call in calls if call["peak_bytes"] is not None]
    return max([*totals, *alone], default=None)


def stopped(call: Row) -> bool:
    """Whether the call was stopped, by us or by the kernel, for what it used."""
    return any(deed["what"] in _STOPPED for deed in call["deeds"])


def _by_class(calls: Iterable[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for call in calls:
        if call["kind"] == "tool":
            found.setdefault(call["class"], []).append(call)
    return found


def _class(item: tuple[str, list[Row]]) -> ClassFigures:
    name, calls = item
    times = sorted(call["duration_s"] for call in calls if call["duration_s"] is not None) or [0.0]
    return ClassFigures(
        name=name,
        calls=len(calls),
        failed=sum(call["exit_status"] not in (0, None) for call in calls),
        total_s=sum(times),
        p50_s=statistics.median(times),
        p95_s=times[min(len(times) - 1, len(times) * 95 // 100)],
        peak=max((call["peak_bytes"] or 0 for call in calls), default=0),
        cpu_s=sum(call["cpu_s"] or 0.0 for call in calls),
    )
