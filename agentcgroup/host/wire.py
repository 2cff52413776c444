"""The scheduler's events and actions as lines of JSON: ``["Wants", {"key": ["demo", 3], "held": 1000}]``.

A governor's first line is a ``Hello``; it is answered by an ``Enforce``, and again whenever another enforcer is in force.
What comes in is checked: a line that is not exactly one of the known messages raises ValueError.
"""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from agentcgroup.enforce import Choice, Name
from agentcgroup.schedule import events as ev


@dataclass(frozen=True, slots=True)
class Hello:
    """A session has begun; this is the enforcer that it asks for, and its cgroup."""

    began: ev.SessionBegan
    enforcer: Choice
    place: str


@dataclass(frozen=True, slots=True)
class Enforce:
    """Calls are slowed by this enforcer from now on, and why; the ids of its BPF maps (0: none)."""

    name: Name
    why: str
    calls: int = 0
    figures: int = 0
    ops: int = 0
    slowed: int = 0


_EVENTS = (Hello, ev.SessionEnded, ev.PriorityChanged, ev.CallBegan, ev.Announced, ev.Wants, ev.Holds, ev.Full, ev.CallEnded)
_ACTIONS = (ev.Grant, ev.Wait, ev.Go, ev.Look, ev.Kill, Enforce)
LONGEST_LINE = 64 << 10
_LONGEST_REASON = 4000
"""Characters; with everything escaped, still far below the longest line."""


def encode(message: ev.Event | ev.Action | Hello | Enforce) -> bytes:
    """A message as one line.  A reason may be anything, the log of the kernel's verifier too: its beginning and its end are told."""
    fields = dataclasses.asdict(message)
    if len(why := fields.get("why", "")) > _LONGEST_REASON:
        fields["why"] = f"{why[: _LONGEST_REASON // 2]} ... {why[-_LONGEST_REASON // 2 :]}"
    return json.dumps([type(message).__name__, fields]).encode() + b"\n"


def _adapters(kinds: tuple[Any, ...]) -> dict[str, TypeAdapter[Any]]:
    return {kind.__name__: TypeAdapter(kind) for kind in kinds}


_ADAPTERS = {"event": _adapters(_EVENTS), "action": _adapters(_ACTIONS)}


def decode_event(line: bytes) -> Any:
    """A line from a governor.  Raises ValueError."""
    return _decode(line, _ADAPTERS["event"])


def decode_action(line: bytes) -> Any:
    """A line from the host process.  Raises ValueError."""
    return _decode(line, _ADAPTERS["action"])


def _decode(line: bytes, adapters: dict[str, TypeAdapter[Any]]) -> Any:
    try:
        said = json.loads(line)
    except RecursionError:
        raise ValueError("not a message: too deep") from None
    match said:
        case [str(name), dict(fields)] if name in adapters:
            try:
                return adapters[name].validate_python(fields)
            except ValidationError as error:
                raise ValueError(f"{name}: {error.errors()[0]['msg']}") from None
        case other:
            raise ValueError(f"not a message: {str(other)[:100]}")
