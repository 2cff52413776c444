"""Which of many calls a person wants to see first, and how the rest is put in one line.  Pure.

An agent makes hundreds of calls; worth a line of its own is one that something was done to, that failed, or that was large.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, TypeVar

from agentcgroup.command import external_commands, program
from agentcgroup.text import clean
from agentcgroup.units import format_duration

Row = TypeVar("Row", bound=Mapping[str, Any])
Deed = Mapping[str, Any]
"""What was done to a call, as the report and the history have it."""
Rank = Literal["stopped", "acted on", "failed", "large", "well"]

LARGE_BYTES = 256 << 20
"""From here on a call is large: more than what an agent takes itself, 185 MB (arXiv 2602.09345)."""
LEFT_BYTES = 32 << 20
"""From here on files in memory that a call or a session leaves are worth a word."""
ROUTINE = "limits set (CPU weight"
"""How a deed begins that is no news: weights follow the share of processors that calls have, many times."""
STOPPED = ("stopped", "killed by the kernel")
WAITED = "waited"
ORDER: tuple[Rank, ...] = ("stopped", "acted on", "failed", "large", "well")
_MOST_DEEDS = 6
_MOST_NAMES = 6


def news(deeds: Iterable[Row]) -> list[Row]:
    """What was done, without what is done to many calls all the time."""
    return [deed for deed in deeds if not deed["what"].startswith(ROUTINE)]


def rank(deeds: Sequence[Deed], exit_status: int | None, peak_bytes: int | None) -> Rank:
    """Why a call is worth a line."""
    done = news(deeds)
    if any(deed["what"] in STOPPED for deed in done):
        return "stopped"
    if done:
        return "acted on"
    if exit_status not in (0, None):
        return "failed"
    return "large" if (peak_bytes or 0) >= LARGE_BYTES else "well"


def order(of: Rank) -> int:
    """What comes first: 0 for a call that was stopped."""
    return ORDER.index(of)


def deed_words(deeds: Sequence[Deed], every: bool = False) -> str:
    """What was done, one thing after the other; what was done again and again is said once, with how often and how long in all."""
    alike: dict[str, list[Deed]] = {}
    for deed in deeds if every else news(deeds):
        alike.setdefault(WAITED if deed["what"].startswith(WAITED) else deed["what"], []).append(deed)
    said = [_alike_words(what, group) for what, group in alike.items()]
    if len(said) > _MOST_DEEDS and not every:
        # The last thing that was done is how it ended.
        said[_MOST_DEEDS - 1 : -1] = [f"and {len(said) - _MOST_DEEDS} more"]
    return ", ".join(said)


def _alike_words(what: str, group: Sequence[Deed]) -> str:
    first, last = group[0], group[-1]
    if len(group) == 1:
        return f"{first['what']} ({first['why']})"
    if what == WAITED:
        what = f"{WAITED} {format_duration(sum(deed['lasted_s'] or 0.0 for deed in group))}"
    return f"{what} ({last['why']}) {len(group)} times"


def own_words(commands: Mapping[str, int], total: int | None = None) -> str:
    """Commands of the agent itself in one line, by program, the most frequent first; empty where there are none.

    ``total``: how many there were, where these are only some.
    """
    names: Counter[str] = Counter()
    for command, times in commands.items():
        names[program_of(command)] += times
    total = names.total() if total is None else total
    if not total:
        return ""
    first = names.most_common(_MOST_NAMES)
    rest = total - sum(times for _, times in first)
    said = [*(f"{name} {times}" for name, times in first), *([f"others {rest}"] if rest else [])]
    return f"+ {total} command{'' if total == 1 else 's'} of the agent itself: {', '.join(said)}"


def well_words(calls: int, where: str) -> str:
    """Calls with nothing to say about, in one line; empty where there are none."""
    return f"+ {calls} more call{'' if calls == 1 else 's'}: all well; {where}" if calls else ""


@lru_cache(maxsize=1024)
def program_of(command: str) -> str:
    """The program that a command is known by: its first one that is no builtin of the shell."""
    found = external_commands(command[:500])
    name = program(tuple(found[0])) if found else command.split(" ", 1)[0]
    return clean(name, 30) or "?"
