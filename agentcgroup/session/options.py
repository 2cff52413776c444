"""What ``run`` was asked for, as it was typed, and where the daemon is.  On an agent's path: imports hardly anything."""

from typing import Literal, NamedTuple

DAEMON_SOCKET = "/run/agentcgroup/control.sock"


class Options(NamedTuple):
    """The options of ``run``."""

    argv: tuple[str, ...]
    name: str | None = None
    priority: Literal["high", "normal", "low"] | None = None
    memory: str | None = None
    cpu_weight: int | None = None
    policy: str | None = None
    events: Literal["auto", "bpf", "connector"] = "auto"
    enforcer: Literal["auto", "memcg_bpf", "sched_ext", "cgroup"] = "auto"
    report: str | None = None
    docker: str | None = None


CHOICES = {
    "priority": ("high", "normal", "low"),
    "events": ("auto", "bpf", "connector"),
    "enforcer": ("auto", "memcg_bpf", "sched_ext", "cgroup"),
}
"""Options that are one of some words."""


def parse(words: list[str]) -> Options | None:
    """The options of a plain ``run``; None for what needs a closer look: help, mistakes, an unusual spelling."""
    found: dict[str, str | int] = {}
    rest = list(words)
    while rest and rest[0].startswith("-"):
        word = rest.pop(0)
        if word == "--":
            break
        key, given, value = word.partition("=")
        name = key[2:].replace("-", "_")
        if not key.startswith("--") or name == "argv" or name not in Options._fields or key.count("_"):
            return None
        if not given:
            if not rest or rest[0].startswith("-"):
                return None
            value = rest.pop(0)
        if name in CHOICES and value not in CHOICES[name]:
            return None
        found[name] = value
    if not rest:
        return None
    if (weight := found.get("cpu_weight")) is not None:
        if not (str(weight).isascii() and str(weight).isdigit() and 1 <= int(weight) <= 10_000):
            return None
        found["cpu_weight"] = int(weight)
    return Options(argv=tuple(rest), **found)  # type: ignore[arg-type]
