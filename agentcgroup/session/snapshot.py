"""What a session is doing at this moment, as ``status``, ``top`` and the metrics show it."""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from agentcgroup import cgroup
from agentcgroup.notable import news
from agentcgroup.session.calls import Calls
from agentcgroup.session.layout import Layout
from agentcgroup.session.live import Live
from agentcgroup.session.report import command_words
from agentcgroup.text import clean

VERSION = 1
_RECENT = 20


def snapshot(layout: Layout, calls: Calls, figures: dict[str, float], notes: Sequence[str], **known: Any) -> dict[str, Any]:
    """JSON-able: sizes in bytes, times in seconds; None for what could not be read.  ``known`` is what never changes."""
    return {
        "version": VERSION,
        **known,
        "enforcer": calls.share.enforcer_words,
        "source_figures": figures,
        "agent_bytes": _read(layout.agent, "memory.current"),
        "calls_bytes": _read(layout.tools, "memory.current"),
        "pressure": {resource: _pressure(layout, resource) for resource in ("memory", "cpu")},
        "ended_calls": calls.ended["tool"],
        "ended": dict(calls.ended),
        "calls": [_call(live) for live in calls.live()],
        "recent": _recent(calls),
        "notes": list(notes),
    }


def _call(live: Live) -> dict[str, Any]:
    record, leaf = live.record, live.leaf
    usage = None
    with contextlib.suppress(cgroup.CgroupError):
        usage = cgroup.read_table(leaf, "cpu.stat")["usage_usec"] / 1e6 if leaf else None
    return {
        "call": record.call,
        "pid": record.pid,
        "command": command_words(record),
        "class": record.class_name,
        "kind": record.kind,
        "hint": str(record.hint),
        "started_s": record.started_s,
        "bytes": _read(leaf, "memory.current") if leaf else None,
        "limit_bytes": live.limits.memory_high_bytes if live.limits else None,
        "cpu_s": usage,
        "sign": clean(record.sign),
        "rung": live.wait.rung if live.wait else "",
        "held": live.held,
        "why": live.wait.why if live.wait else "",
        "waits_s": time.monotonic() - live.wait.since_s if live.wait else None,
    }


def _recent(calls: Calls) -> list[dict[str, Any]]:
    """The last things that were done and are news, newest first."""
    told = ({"call": record.call, **asdict(deed)} for record in calls.records[-4 * _RECENT :] for deed in record.deeds[-_RECENT:])
    deeds = news(told)
    return sorted(deeds, key=lambda deed: -deed["at_s"])[:_RECENT]


def _read(place: Any, name: str) -> int | None:
    with contextlib.suppress(cgroup.CgroupError):
        return int(cgroup.read(place, name))
    return None


def _pressure(layout: Layout, resource: str) -> float | None:
    """Percent of the last ten seconds in which some task of the calls waited."""
    with contextlib.suppress(cgroup.CgroupError, KeyError):
        return cgroup.read_pressure(layout.tools, resource)["some"]["avg10"]
    return None
