"""Processes that somebody else moved out of a session's cgroups, and their way back.

A login (``su -`` with pam_systemd) moves whoever logs in to a scope of the login's own, a service manager moves what it is asked to
run in a scope, a container engine its containers; root may write to cgroup files.  What leaves like that has no limits of the
session any more.  It is said where the user looks, and taken back, for it is the session's process wherever it was put; only what
a container engine moved stays, and is only said: its cgroup is how the engine knows its container.
"""

import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from agentcgroup import cgroup, process, systemd
from agentcgroup.text import clean

LEFT = "left its place"
"""What each line about a process that left has in it."""
_ENGINES = re.compile(r"(^|/)(docker|libpod|crio|cri-containerd|containerd|buildkit|kubepods|machine\.slice|lxc)")
"""Taking a process out of these would end the container.  Whoever gives a scope of his own such a name gains nothing that a service
of his own service manager, which was never in the session, would not give.
"""
_MOST_TIMES = 5
"""Whoever moves a process away as often as this means it."""
_MOST_COUNTED = 4096
_SETTLING_S = 0.1
"""How long a family that forks is followed; what is born to those that are back is born at home."""
_MOST_NOTES = 20


class Strays:
    """The processes of one session that left it by another's hand."""

    def __init__(
        self, top: Path, home_of: Callable[[int], Path | None], came_back: Callable[[int], None], log: Callable[[str], None]
    ) -> None:
        """``top`` is the session's cgroup; ``home_of`` says where in it a process belongs, None for one that nobody knows;
        ``came_back`` is told of each process that was taken back.
        """
        self._top, self._home_of, self._came_back, self._log = top, home_of, came_back, log
        self._times: Counter[int] = Counter()
        self.notes: list[str] = []
        """What was said of processes that left: of the first ones."""

    def look(self, pid: int, home: Path) -> bool:
        """Whether a process that belongs into ``home`` is outside the session; then it and its like are taken back, or it is said."""
        try:
            where = cgroup.of_process(pid)
        except ProcessLookupError:
            return False
        place = str(where.relative_to(cgroup.mount_point()))
        if where.is_relative_to(self._top) or place.startswith(systemd.SLICE):
            return False  # deeper in its place, or in a session of its own
        name = clean((process.command_line(pid) or ("?",))[0], 60)
        if len(self._times) > _MOST_COUNTED:
            self._times.clear()
        self._times[pid] += 1
        outcome = "taken back"
        if _ENGINES.search(place):
            outcome = "it runs without this session's limits: a container is its engine's"
        elif self._times[pid] > _MOST_TIMES:
            outcome = f"it runs without this session's limits: it was moved away {self._times[pid]} times"
        else:
            try:
                self._take_back({pid: home}, where)
            except cgroup.CgroupError as error:
                outcome = f"it runs without this session's limits: it could not be taken back: {error}"
        self._note(f"process {pid} ({name}) {LEFT}, moved to {clean(place, 200)} by {_whose(place)}: {outcome}")
        return True

    def _take_back(self, found: dict[int, Path], where: Path) -> None:
        """Move processes home, with all that the session has in the same cgroup: what they started there, too."""
        deadline = time.monotonic() + _SETTLING_S
        away = found
        while away:
            for pid, home in away.items():
                cgroup.add(home, pid)
            for pid in away:
                self._came_back(pid)
            if time.monotonic() > deadline:
                return  # what is left there is noticed with its next event
            there = set(cgroup.processes(where))
            found |= {pid: known for pid in there if (known := self._home_of(pid)) is not None}
            waiting = list(found)
            while waiting:
                parent = waiting.pop()
                born = [child for child in process.children(parent) if child in there and child not in found]
                found |= dict.fromkeys(born, found[parent])
                waiting += born
            away = {pid: home for pid, home in found.items() if pid in there}

    def _note(self, line: str) -> None:
        if len(self.notes) < _MOST_NOTES:
            self.notes.append(line)
            self._log(line)
            if len(self.notes) == _MOST_NOTES:
                self._log(f"of further processes that {LEFT} nothing is said")


def _whose(place: str) -> str:
    if re.search(r"session-\w+\.scope", place):
        return "a login"
    if "user@" in place:
        return "a user's service manager"
    if _ENGINES.search(place):
        return "a container engine"
    return "the service manager" if place.startswith(("system.slice", "user.slice")) else "another program"
