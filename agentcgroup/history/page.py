"""``agentcgroup report``: one HTML page that needs nothing else, with the pictures drawn as SVG.

What is drawn where is reckoned here; the template only writes it down, and escapes every text: commands are hostile input.
"""

import itertools
import math
import sqlite3
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from agentcgroup.errors import AgentCgroupError, errno_words
from agentcgroup.files import write_anew
from agentcgroup.history import store
from agentcgroup.history.figures import ClassFigures, Figures, Row, figures, length, stopped
from agentcgroup.notable import deed_words, news, own_words
from agentcgroup.session.report import exit_words, kind_words, or_dash
from agentcgroup.text import clean
from agentcgroup.units import format_duration, format_size

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 1000, 260, 64, 14, 24
_COLOURS = ("#3b7dd8", "#e08a1e", "#2c9c69", "#b5489a", "#7b62c9", "#c94f4f", "#4aa3b5", "#8a8f3c", "#777777")
_MOST_CALLS = 1000
"""Rows of a page's table; the pictures have all."""
_MOST_MARKS = 2000
_TICKS = 5


@dataclass(frozen=True, slots=True)
class Axis:
    """From values to positions: ``top`` is the value at the far end, ``ticks`` where it is named."""

    top: float
    start: float
    stop: float
    ticks: tuple[tuple[float, str], ...]

    def at(self, value: float) -> float:
        """Where a value lies, in the picture's units."""
        return round(self.start + (self.stop - self.start) * min(1.0, value / self.top), 2)


def axis(top: float, start: float, stop: float, words: Any, base: float = 10.0) -> Axis:
    """An axis from 0 to at least ``top`` with about five ticks at round numbers; ``base``: what is round."""
    step = base ** math.floor(math.log(max(top, 1e-9) / _TICKS, base))
    while step * _TICKS < top:
        step *= 2
    ticks = [number * step for number in range(1, _TICKS * 4) if number * step <= top * 1.02]
    bare = Axis(top * 1.04 or 1.0, start, stop, ())
    return Axis(bare.top, start, stop, tuple((bare.at(tick), words(tick)) for tick in ticks))


def timeline(session: Row, calls: Sequence[Row], samples: Sequence[Row], colours: dict[str, str]) -> dict[str, Any]:
    """The pictures of one session: memory and processors over time, its calls as bands, what was done to them as marks."""
    ends = [sample["at_s"] for sample in samples] + [call["started_s"] + (call["duration_s"] or 0.0) for call in calls]
    x = axis(max([length(session, calls), *ends]) or 1.0, LEFT, WIDTH - 8, format_duration)
    agent = min((sample["agent_bytes"] for sample in samples), default=0)
    tops = [sample["agent_bytes"] + sample["calls_bytes"] for sample in samples]
    tops += [agent + (call["peak_bytes"] or 0) for call in calls]
    y = axis(max(tops, default=1) or 1, HEIGHT - BOTTOM, TOP, format_size, 2.0)
    cpu = _processors(samples)
    c = axis(max((cores for _, _, cores in cpu), default=1.0) or 1.0, 120 - BOTTOM, TOP, lambda cores: f"{cores:g}")
    return {
        "x": x,
        "y": y,
        "c": c,
        "total": _area([(s["at_s"], s["agent_bytes"] + s["calls_bytes"]) for s in samples], x, y),
        "agent": _area([(s["at_s"], s["agent_bytes"]) for s in samples], x, y),
        "cpu": [(x.at(a), x.at(b), c.at(cores)) for a, b, cores in cpu],
        "bands": [_band(call, x, y, agent, colours) for call in calls if call["kind"] == "tool"],
        "marks": [_mark(call, deed, x) for call in calls for deed in news(call["deeds"])][:_MOST_MARKS],
    }


def _area(points: Sequence[tuple[float, float]], x: Axis, y: Axis) -> str:
    """An SVG path below a curve; empty where there are no points."""
    if not points:
        return ""
    line = " ".join(f"L{x.at(at)} {y.at(value)}" for at, value in points)
    return f"M{x.at(points[0][0])} {y.at(0)} {line} L{x.at(points[-1][0])} {y.at(0)} Z"


def _processors(samples: Sequence[Row]) -> list[tuple[float, float, float]]:
    """From when, until when, how many processors were busy for the session on average."""
    pairs = itertools.pairwise(samples)
    return [(a["at_s"], b["at_s"], max(0.0, b["cpu_s"] - a["cpu_s"]) / (b["at_s"] - a["at_s"])) for a, b in pairs]


def _band(call: Row, x: Axis, y: Axis, agent: int, colours: dict[str, str]) -> dict[str, Any]:
    left = x.at(call["started_s"])
    peak = call["peak_bytes"]
    facts = [or_dash(call["duration_s"], format_duration), f"peak {or_dash(peak, format_size)}",
             f"exit {exit_words(call['exit_status'])}"]  # fmt: skip
    return {
        "x": left,
        "width": max(1.0, round(x.at(call["started_s"] + (call["duration_s"] or 0.0)) - left, 2)),
        "peak": None if peak is None else y.at(agent + peak),
        "colour": colours.get(call["class"], _COLOURS[-1]),
        "title": f"{call['call']}: {call['command']}\n{call['class']}, {', '.join(facts)}",
    }


def _mark(call: Row, deed: Row, x: Axis) -> dict[str, Any]:
    harsh = deed["what"] in ("stopped", "killed by the kernel")
    lasted = deed["lasted_s"] or 0.0
    return {
        "x": x.at(deed["at_s"] - lasted),
        "to": x.at(deed["at_s"]),
        "harsh": harsh,
        "title": f"call {call['call']}: {deed['what']} ({deed['why']})",
    }


def saved(found: Figures) -> list[str]:
    """What was done for the agents, in sentences."""
    said = []
    if found.stopped:
        many = "1 command was" if found.stopped == 1 else f"{found.stopped} commands were"
        said.append(f"{many} stopped alone for what it used; no agent was, and each was told why.")
    if found.waits:
        many = "Once a command" if found.waits == 1 else f"{found.waits} times a command"
        said.append(f"{many} waited for memory that others needed, {format_duration(found.waited_s)} in all; it went on.")
    if found.reclaimed_bytes:
        said.append(f"{format_size(found.reclaimed_bytes)} that retry loops left behind were given back.")
    return said or ["No command had to be stopped or to wait."]


def bars(classes: Sequence[ClassFigures], colours: dict[str, str]) -> list[dict[str, Any]]:
    """A bar for each class, as long as the time that its calls took."""
    longest = max((one.total_s for one in classes), default=0.0) or 1.0
    return [{"of": one, "width": round(100 * one.total_s / longest, 1), "colour": colours[one.name]} for one in classes]


def page(parts: Sequence[tuple[Row, list[Row], list[Row]]], name: str | None) -> str:
    """The whole page; of one session (with its timeline) where ``name`` is given."""
    found = figures(parts)
    colours = {one.name: _COLOURS[min(number, len(_COLOURS) - 1)] for number, one in enumerate(found.classes)}
    of_all = [call for _, of_session, _ in parts for call in of_session]
    calls, own = listed(of_all), Counter(call["command"] for call in of_all if call["kind"] == "own")
    text: str = _template().render(
        name=name,
        found=found,
        saved=saved(found),
        bars=bars(found.classes, colours),
        colours=colours,
        made=time.time(),
        session=parts[0][0] if name else None,
        chart=timeline(*parts[0], colours) if name else None,
        calls=calls[:_MOST_CALLS] if name else [],
        own=own_words(own),
        more=max(0, len(calls) - _MOST_CALLS) if name else 0,
        sessions=[] if name else [(session, figures([(session, own, seen)])) for session, own, seen in reversed(parts)],
        size={"width": WIDTH, "height": HEIGHT, "left": LEFT, "top": TOP, "bottom": BOTTOM},
        stopped=stopped,
    )
    return text


def listed(calls: Sequence[Row]) -> list[Row]:
    """The calls that get a row each: the model's, helpers, and what of the agent's own was acted on."""
    return [call for call in calls if call["kind"] != "own" or news(call["deeds"])]


@cache
def _template() -> Any:
    from jinja2 import Environment

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(size=lambda value: or_dash(value, format_size), time=lambda value: or_dash(value, format_duration),
                               at=_clock, exit=exit_words, deeds=lambda call: deed_words(call["deeds"]), kind=kind_words)  # fmt: skip
    return environment.from_string(resources.files("agentcgroup.history").joinpath("page.html.j2").read_text())


def _clock(epoch: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(epoch))


def write(name: str | None, out: Path | None) -> int:
    """Make the page of the newest session of a name, or of all sessions, and say where it is; exit code 0."""
    with store.reading(store.FILE) as history:
        text = page(_parts(history, name), name)
    file = out or Path(f"agentcgroup-{name or 'all'}.html")
    try:
        write_anew(file, text.encode(errors="replace"))
    except OSError as error:
        raise AgentCgroupError(f"{file} can't be written", errno_words(error), "give another file with --out") from None
    print(clean(str(file)))
    return 0


def _parts(history: sqlite3.Connection, name: str | None) -> list[tuple[Row, list[Row], list[Row]]]:
    chosen = store.sessions(history, name)
    if not chosen and name:
        known = sorted({session["name"] for session in store.sessions(history)})
        raise AgentCgroupError(f"no session {name!r} in the history", f"there are: {', '.join(known) or 'none'}")
    return [
        (session, store.calls_of(history, session["id"]), store.samples_of(history, session["id"]))
        for session in (chosen[-1:] if name else chosen)
    ]
