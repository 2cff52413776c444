"""What an agent says a call needs, before it runs: ``AGENT_RESOURCE_HINT=memory:high,timeout:5m``.  Pure.

A hint comes out of a model's text, so nothing in it can break the call: what is understood counts,
the rest is reported and ignored.
"""

from dataclasses import dataclass
from typing import Literal

from agentcgroup.units import parse_duration, parse_size

VARIABLE = "AGENT_RESOURCE_HINT"

LONGEST = 256
"""Characters of a hint that are looked at; more is not a hint."""
MEMORY_RANGE = 1 << 20, 1 << 50
TIME_RANGE = 0.1, 7 * 24 * 3600.0

MemoryLevel = Literal["low", "medium", "high"]
CpuLevel = Literal["low", "high"]
_MEMORY_LEVELS: dict[str, MemoryLevel] = {"low": "low", "medium": "medium", "high": "high"}
_CPU_LEVELS: dict[str, CpuLevel] = {"low": "low", "high": "high"}


@dataclass(frozen=True, slots=True)
class Hint:
    """A declared need.  ``memory`` is a level of the policy or bytes; ``timeout_s`` seconds; None = not said."""

    memory: MemoryLevel | int | None = None
    cpu: CpuLevel | None = None
    timeout_s: float | None = None

    def __bool__(self) -> bool:
        return self != NONE

    def __str__(self) -> str:
        """As it may be written: ``memory:high,timeout:300s``."""
        timeout = None if self.timeout_s is None else f"{self.timeout_s:g}s"
        parts = {"memory": self.memory, "cpu": self.cpu, "timeout": timeout}
        return ",".join(f"{key}:{value}" for key, value in parts.items() if value is not None)


NONE = Hint()


def parse_hint(text: str) -> tuple[Hint, tuple[str, ...]]:
    """Read a hint; returns it with one complaint for each part that was ignored.

    Later parts win over earlier ones of the same key.  Never raises.
    """
    if len(text) > LONGEST:
        return NONE, (f"hint of {len(text)} characters ignored: the longest is {LONGEST}",)
    memory: MemoryLevel | int | None = None
    cpu: CpuLevel | None = None
    timeout_s: float | None = None
    complaints = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        key, _, value = (word.strip().lower() for word in part.partition(":"))
        try:
            if key == "memory":
                memory = _memory(value)
            elif key == "cpu":
                cpu = _cpu(value)
            elif key == "timeout":
                timeout_s = _within(parse_duration(value), TIME_RANGE)
            else:
                raise ValueError("known hints are memory:, cpu: and timeout:")
        except ValueError as error:
            complaints.append(f"hint {part!r} ignored: {error}")
    return Hint(memory, cpu, timeout_s), tuple(complaints)


def _memory(value: str) -> MemoryLevel | int:
    if value in _MEMORY_LEVELS:
        return _MEMORY_LEVELS[value]
    return int(_within(parse_size(value), MEMORY_RANGE))


def _cpu(value: str) -> CpuLevel:
    if value in _CPU_LEVELS:
        return _CPU_LEVELS[value]
    raise ValueError("cpu is low or high")


def _within(value: float, bounds: tuple[float, float]) -> float:
    if not bounds[0] <= value <= bounds[1]:
        raise ValueError("out of any sensible range")
    return value
